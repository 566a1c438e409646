"""Remove what `pyeal stale` found: the file that was examined, and only while no process holds it.

Every name is resolved relative to the descriptor of its directory, and every inode is compared with
the one that was examined. A directory or file that was exchanged in between stays.
"""

from __future__ import annotations

import fcntl
import os
import stat
from contextlib import ExitStack
from errno import EPERM, ESTALE

from pyeal import builds, files
from pyeal.attached import LIMIT
from pyeal.fbarray import file_size
from pyeal.hugepage_data import RECORD
from pyeal.look.arrays import KERNEL_PAGES, shape
from pyeal.look.config import config_of
from pyeal.look.hugedir import MOST_BYTES
from pyeal.look.runtime_dir import is_of_eal
from pyeal.look.sources import Unreadable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Dict = dict[str, Any]
    Id = tuple[int, int]

NS_GET_USERNS = 0xB701  # linux/nsfs.h
ELEMENT_SIZES = (48, 72, 1, 2, 4, 8, 16, 32, 64, 128)  # of arrays that a config does not name


def delete(f: Dict) -> tuple[bool, str]:
    """Remove an item if it is still the same and no process holds it; return (whether, why).

    The directory is locked for it, as EAL does while it allocates, and the file across the unlink.
    """
    path = f["path"]
    try:
        check_namespace(path)
        if f["kind"] == "directory":
            return _delete_directory(path, (f["dev"], f["inode"]), f["looked_at"])
        folder, _, name = path.rpartition("/")
        with ExitStack() as opened:
            dir_fd, _ = _lock_directory(folder, opened)
            was = f["dev"], f["inode"]
            _lock_file(name, dir_fd, was, opened)
            _unlink(name, dir_fd, was)
    except BlockingIOError:
        return False, "held meanwhile"
    except Unreadable as e:
        return False, f"it is no EAL's: {e}"
    except OSError as e:
        return False, e.strerror or str(e)
    return True, "deleted"


def check_namespace(path: str) -> None:
    """Raise OSError(EPERM) for a path in a mount namespace that another user namespace owns.

    Any user can make one, and bind any file of the machine to any name in it.
    """
    if not path.startswith("/proc/"):
        return
    process = "/".join(path.split("/")[:3])
    fd = os.open(f"{process}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    try:
        owner = fcntl.ioctl(fd, NS_GET_USERNS)
    except PermissionError:  # it belongs to a namespace that is not below this process's
        owner = -1
    finally:
        os.close(fd)
    if owner >= 0:
        st = os.fstat(owner)
        os.close(owner)
        own = os.stat("/proc/self/ns/user")
        if (st.st_dev, st.st_ino) == (own.st_dev, own.st_ino):
            return
    text = f"it is in the mount namespace of another user. Fix: nsenter -t {process[6:]} -U -m"
    raise OSError(EPERM, f"{text} pyeal stale --delete", path)


def _lock_directory(path: str, opened: ExitStack) -> tuple[int, int]:
    """Lock a directory; return its descriptor and its parent's.

    A link on the way is followed only if root made it.
    """
    root, _, rest = path.partition("/root/") if path.startswith("/proc/") else ("", "", path)
    kind = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    fd = os.open(f"{root}/root/" if root else "/", kind)
    opened.callback(os.close, fd)
    *parts, last = filter(None, rest.split("/"))
    for part in parts:
        st = os.stat(part, dir_fd=fd, follow_symlinks=False)
        follow = stat.S_ISLNK(st.st_mode) and st.st_uid == 0
        fd = os.open(part, kind | (0 if follow else os.O_NOFOLLOW), dir_fd=fd)
        opened.callback(os.close, fd)
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
    folder = os.open(last, flags, dir_fd=fd)
    opened.callback(os.close, folder)
    fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return folder, fd


def _id(st: os.stat_result) -> Id:
    return st.st_dev, st.st_ino


def _check_same(st: os.stat_result, was: Id, name: str) -> None:
    if _id(st) != was:
        raise OSError(ESTALE, "it is another file by now", name)


def _lock_file(name: str, dir_fd: int, was: Id, opened: ExitStack, write: bool = False) -> int:
    """Lock a regular file as EAL locks it; return its descriptor. A socket cannot be locked: -1."""
    st = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    _check_same(st, was, name)
    if stat.S_ISSOCK(st.st_mode):
        return -1
    fd = files.open_untrusted(name, MOST_BYTES, dir_fd, os.O_RDWR if write else os.O_RDONLY)
    opened.callback(os.close, fd)
    _check_same(os.fstat(fd), was, name)
    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return fd


def _unlink(name: str, dir_fd: int, was: Id) -> None:
    _check_same(os.stat(name, dir_fd=dir_fd, follow_symlinks=False), was, name)
    os.unlink(name, dir_fd=dir_fd)


def _delete_directory(path: str, was: Id, names: dict[str, Id]) -> tuple[bool, str]:
    """Remove the files of a dead EAL, config last, once all of them are locked and decoded."""
    with ExitStack() as opened:
        dir_fd, parent = _lock_directory(path, opened)
        _check_same(os.fstat(dir_fd), was, path)
        if "config" not in names:
            raise OSError(ESTALE, "it has no config", path)
        config = _lock_file("config", dir_fd, names["config"], opened, write=True)
        if config < 0:
            raise OSError(ESTALE, "its config is a socket", path)
        fcntl.lockf(config, fcntl.LOCK_EX | fcntl.LOCK_NB)  # as a primary does
        c = config_of(os.pread(config, LIMIT, 0))[0]
        others = sorted(set(names) - {"config"})
        locked = {n: _lock_file(n, dir_fd, names[n], opened) for n in others}
        gone = [n for n in others if locked[n] < 0 or is_eals(n, locked[n], c)]
        for name in gone:
            _unlink(name, dir_fd, names[name])
        if len(gone) < len(others):
            kept = ", ".join(sorted(set(others) - set(gone)))
            return False, f"it has files that no EAL makes: {kept}"
        _unlink("config", dir_fd, names["config"])
        try:
            last = path.rpartition("/")[2]
            _check_same(os.stat(last, dir_fd=parent, follow_symlinks=False), was, path)
            os.rmdir(last, dir_fd=parent)
        except OSError:
            return True, "deleted; files of others keep the directory"
    return True, "deleted"


def is_eals(name: str, fd: int, c: Any) -> bool:
    """Return whether a file of a runtime directory is what its name says, beside that config."""
    size = os.fstat(fd).st_size
    if name == "hugepage_info":
        try:
            return bool(builds.hugepage_shape(size))
        except builds.OtherLimits:
            return False
    if name == "hugepage_data":
        return size % RECORD == 0
    if not name.startswith("fbarray_"):
        return is_of_eal(name) and size == 0
    for desc in (c.memzones, *(m.memseg_arr for m in c.memsegs)):
        called = f"fbarray_{desc.name.decode(errors='replace')}"
        # a secondary's own copy has its pid behind the name
        if desc.len and (name == called or name.startswith(called + "_")):
            return size in [file_size(desc.len, desc.elt_sz, page) for page in KERNEL_PAGES]
    try:
        shape(os.pread(fd, min(size, 1 << 26), 0), ELEMENT_SIZES)
    except ValueError:
        return False
    return True
