"""The runtime directory and the `config` file in it: place, modes, size, lock, last word."""

from __future__ import annotations

import fcntl
import os
import stat
from errno import EACCES, EAGAIN, EINVAL, ENODEV, EPERM

from . import files, layout, libc
from .errors import EalError
from .host import LOCAL, Host
from .libc import MAP_FIXED, MAP_SHARED, PAGE, PROT_RW
from .vaspace import VaSpace, align

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any as CField

    from .options import Options
    from .releases import Release


def make_directory(
    opts: Options, release: Release, host: Host, log: Callable[[str, str], object]
) -> str:
    """Makes both levels with mode 0700, where they are not there yet; the path.

    EalError(EINVAL), only a warning where no file will go into it.
    """
    path = host.runtime_dir(opts.file_prefix, release)
    if opts.no_shconf and not release.runtime_dir_without_shconf:
        return path
    try:
        for level in (os.path.dirname(path), path):
            try:
                os.mkdir(level, 0o700)
            except FileExistsError:
                check_directory(level)
    except OSError as e:
        text = f"Cannot create runtime directory {e.filename}: {e.strerror}"
        if not opts.no_shconf:
            raise EalError(
                EINVAL, "runtime", f"{text}; set RUNTIME_DIRECTORY or XDG_RUNTIME_DIR"
            ) from None
        log("WARNING", f"No DPDK runtime directory created: {e.filename}: {e.strerror}")
    return path


def check_directory(path: str) -> None:
    """OSError(EPERM) unless it is a directory of this user or of root, and no link to one.

    Whoever owns it can put any file there for others to write to.
    """
    if why := files.why_untrusted(os.lstat(path), stat.S_IFDIR):
        raise OSError(EPERM, why, path)


# POSIX locks do not hold within a process, and closing any descriptor drops them: so a second EAL
# of this process must not even open a config that one of its own holds.
_mine: set[tuple[int, int]] = set()


def has_primary(path: str, release: Release) -> bool:
    """Whether a live primary holds that config. linux/eal.c: eal_proc_type_detect"""
    if is_mine(path):
        return True
    memsegs = layout.config(release.family).memsegs
    try:
        fd = files.open_shared(path, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, memsegs.size, memsegs.offset)
    except OSError:
        return True
    finally:
        os.close(fd)
    return False


def processes(directory: str, host: Host = LOCAL) -> dict[int, str]:
    """The living processes of a prefix, {pid: "primary" | "secondary"}; nothing is touched.

    A secondary is known by its socket, the primary by its lock on the config.
    """
    found: dict[int, str] = {}
    try:
        names = os.listdir(directory)
        st = os.stat(f"{directory}/config")
    except OSError:
        return found
    for name in names:
        pid = name.removeprefix("mp_socket_").partition("_")[0]
        if (
            name.startswith("mp_socket_")
            and pid.isdecimal()
            and os.path.exists(f"{host.proc}/{pid}")
        ):
            found[int(pid)] = "secondary"
    file = f"{os.major(st.st_dev):02x}:{os.minor(st.st_dev):02x}:{st.st_ino}"
    with open(f"{host.proc}/locks", errors="replace") as f:
        for words in map(str.split, f):
            if len(words) > 5 and (words[1], words[5]) == ("POSIX", file) and words[4].isdecimal():
                found[int(words[4])] = "primary"
    return found


def is_mine(path: str) -> bool:
    """Whether a primary of this process holds that config."""
    try:
        st = os.stat(path)
    except FileNotFoundError:
        return False
    return (st.st_dev, st.st_ino) in _mine


class Config:
    """`rte_mem_config` of a primary, in its file or (--no-shconf) in private memory.

    linux/eal.c: rte_eal_config_create; common/eal_common_mcfg.c
    """

    def __init__(self, path: str | None, release: Release, space: VaSpace, base: int = 0) -> None:
        kind = layout.config(release.family)
        self.path, self.fd, self.va = path, -1, 0
        if path is None:
            self.c = kind()
        else:
            self._map(path, space, base, kind.memsegs)
            self.c = kind.from_address(self.va)
            self.c.mem_cfg_addr = self.va

    def _map(self, path: str, space: VaSpace, base: int, memsegs: CField) -> None:
        size = align(layout.CONFIG_SIZE, PAGE)
        mine = False
        try:
            self._open(path, memsegs)
            _spare_survivors(f"{os.path.dirname(path)}/fbarray_memzone")
            mine = True
            os.ftruncate(self.fd, layout.CONFIG_SIZE)
            files.write_all(self.fd, bytes(layout.CONFIG_SIZE), 0)
            self.va = reserve_config(space, base)
            libc.mmap(self.va, size, PROT_RW, MAP_SHARED | MAP_FIXED, self.fd)
        except (OSError, EalError) as e:
            if mine:  # locked, and nobody lives on it
                files.discard(path)
            self.close()
            if isinstance(e, EalError):
                raise
            raise EalError(0, "config", f"Cannot open '{path}' for rte_mem_config: {e}") from None

    def _open(self, path: str, memsegs: CField) -> None:
        if not is_mine(path):
            fd = files.open_shared(path, os.O_RDWR | os.O_CREAT)
            try:
                # these bytes, locked, are what marks a live primary
                fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, memsegs.size, memsegs.offset)
                st = os.fstat(fd)
            except OSError as e:
                os.close(fd)
                if e.errno not in (EACCES, EAGAIN):  # somebody has it
                    raise
            else:
                self.fd, self._inode = fd, (st.st_dev, st.st_ino)
                _mine.add(self._inode)
                return
        raise EalError(
            0, "config",
            f"Cannot create lock on '{path}'. Is another primary process running? "
            "Choose another --file-prefix, or --proc-type=secondary to join it",
        )  # fmt: skip

    def close(self) -> None:
        """Unmaps it and drops the lock; the file stays."""
        if self.va:
            libc.munmap(self.va, align(layout.CONFIG_SIZE, PAGE))
        if self.fd >= 0:
            _mine.discard(self._inode)
            os.close(self.fd)
        self.va, self.fd = 0, -1

    def complete(self) -> None:
        """The last word: others may attach from now on. eal_mcfg_complete"""
        self.c.magic = layout.MAGIC


def reserve_config(space: VaSpace, base: int) -> int:
    """Where config lies: right before --base-virtaddr, else at the cursor."""
    size = align(layout.CONFIG_SIZE, PAGE)
    return space.reserve(size, addr=(base - layout.CONFIG_SIZE & -PAGE) if base else 0)


def _spare_survivors(path: str) -> None:
    """Refuses to overwrite what a dead primary's secondaries live on; EAL does it, and fails then.

    They keep its arrays locked. EalError(ENODEV), as EAL says when it comes to them.
    """
    try:
        fd = files.open_shared(path, os.O_RDONLY)
    except OSError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise EalError(
            ENODEV, "memzone",
            f"Cannot init memzone: couldn't lock {path}: secondaries of a primary that is gone "
            "still live on it; end them first, or choose another --file-prefix",
        ) from None  # fmt: skip
    finally:
        os.close(fd)


def tsc_hz(host: Host = LOCAL) -> int:
    """Cycles of the time stamp counter a second, rounded to 10 MHz as EAL does.

    The kernel measured it at boot (bogomips is twice that); linux/eal_timer.c: get_tsc_freq
    sleeps 100 ms to measure it again.
    """
    fd = os.open(f"{host.proc}/cpuinfo", os.O_RDONLY)
    try:
        text = os.read(fd, PAGE).decode("ascii", "replace")
    finally:
        os.close(fd)
    for line in text.splitlines():
        if line.startswith("bogomips"):
            try:
                hz = round(float(line.partition(":")[2]) / 2 / 10) * 10_000_000
            except (ValueError, OverflowError):
                break
            if 0 <= hz < 1 << 64:  # what has a place in the config
                return hz
    return 1_000_000_000


def sweep(path: str) -> None:
    """Removes arrays and sockets that nobody holds. linux/eal.c: eal_clean_runtime_dir"""
    with files.DirectoryLock(path) as dir_fd:
        for name in os.listdir(dir_fd):
            if not name.startswith(("fbarray_", "mp_socket_")):
                continue
            try:
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=dir_fd)
            except OSError:
                continue  # a socket cannot be opened, so EAL never removes one here
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(name, dir_fd=dir_fd)
            except OSError:
                pass
            finally:
                os.close(fd)
