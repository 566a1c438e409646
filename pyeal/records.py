"""Keep files that say what a process holds, each locked for as long as it does.

A record is alive while a lock on it is held: the kernel drops the lock when its holder ends, in any
PID namespace and without /proc. It is written in place, since the lock belongs to the file. Other
users may read a record; their locks count for nothing. pyeal/loans.py keeps leases of hugepages so,
and the suite what its tests take.
"""

from __future__ import annotations

import fcntl
import json
import os
import stat
import struct
import time
from contextlib import contextmanager
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Say = Callable[[str], object]
    Content = dict[str, Any]

PATIENCE = 120.0  # seconds for a folder's lock: collecting pages of 1 GB can take a minute
BIGGEST = 1 << 16  # bytes of a record
FLOCK = "hhqqi"  # struct flock on machines of 64 bits
WRITE_LOCK = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
READ_LOCK = struct.pack(FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
held: dict[Path, tuple[int, Content]] = {}  # of this process: descriptor, what was written last


class Refused(Exception):
    """What was asked for was not done; the text is the reason."""


@contextmanager
def locked(folder: Path, say: Say) -> Iterator[None]:
    """Hold the lock of a folder, which exists meanwhile, and afterwards if it has records.

    The lock is a file beside it that only its owner can open. A wait for another holder is told,
    and bounded: Refused.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    path = folder.with_name(f"{folder.name}.lock")
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        _lock(fd, path, say)
        folder.mkdir(exist_ok=True)
        st = folder.lstat()
        if not stat.S_ISDIR(st.st_mode) or st.st_uid not in (0, os.getuid()):
            raise Refused(f"{folder} is not a directory of this user")
        yield
    finally:
        try:
            folder.rmdir()
        except OSError:
            pass
        os.close(fd)


def _lock(fd: int, path: Path, say: Say) -> None:
    begun, told = time.monotonic(), False
    while True:
        try:
            return fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waited = time.monotonic() - begun
        if waited > PATIENCE:
            raise Refused(f"{path} has been locked by {_holder(fd)} for {waited:.0f} s")
        if waited > 0.5 and not told:
            told = True
            say(f"waiting for the lock on {path}, held by {_holder(fd)}")
        time.sleep(0.01)


def _holder(fd: int) -> str:
    """Return the process that holds a lock on this file, as far as /proc shows it."""
    st = os.fstat(fd)
    name = f"{os.major(st.st_dev):02x}:{os.minor(st.st_dev):02x}:{st.st_ino}"
    try:
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if words[1] == "FLOCK" and words[5] == name:
                return f"process {words[4]}"
    except OSError:
        pass
    return "another process"


def _open(path: Path) -> int:
    """Open a record if it is one: a regular file of root or this user, of bounded size."""
    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    st = os.fstat(fd)
    if stat.S_ISREG(st.st_mode) and st.st_uid in (0, os.getuid()) and st.st_size <= BIGGEST:
        return fd
    os.close(fd)
    raise OSError(f"{path} is not a record")


def load(path: Path) -> Content | None:
    """Return what a record says; None if it was emptied, cut, or is another file."""
    try:
        with open(_open(path)) as f:
            said, _ = json.JSONDecoder().raw_decode(f.read())  # behind it: of a longer one before
    except (OSError, ValueError, RecursionError):
        return None
    return said if isinstance(said, dict) else None


def create(path: Path, content: Content) -> int:
    """Make a record that this process holds; return its descriptor."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    held[path] = fd, content
    try:
        fcntl.fcntl(fd, fcntl.F_OFD_SETLK, WRITE_LOCK)
        os.fchmod(fd, 0o644)  # others could not open it before, to lock it first
        write(path, content)
    except BaseException:
        remove(path)
        raise
    return fd


def write(path: Path, content: Content) -> None:
    """Write a record in place; of a longer one before, the end is cut last."""
    text = json.dumps(content).encode()
    mine = held.get(path)
    fd = mine[0] if mine else os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        os.pwrite(fd, text, 0)
        os.ftruncate(fd, len(text))
    finally:
        if mine:
            held[path] = fd, content
        else:
            os.close(fd)


def alive(path: Path) -> bool | None:
    """Whether a process holds a record; None if it cannot be opened, or is no file."""
    if path in held:
        return True
    try:
        fd = _open(path)
    except OSError:
        return None
    try:
        got = fcntl.fcntl(fd, fcntl.F_OFD_GETLK, READ_LOCK)
    finally:
        os.close(fd)
    return bool(struct.unpack(FLOCK, got)[0] != fcntl.F_UNLCK)


def forget(path: Path) -> None:
    """Let go of a record, and of its lock unless another process has this descriptor."""
    if path in held:
        os.close(held.pop(path)[0])


def remove(path: Path) -> None:
    """Remove a record: what it says is over."""
    path.unlink(missing_ok=True)
    forget(path)


def process(pid: int | str) -> list[str]:
    """Return the fields of /proc/PID/stat behind the name: state, parent, ... Raises OSError."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def started(pid: int | str) -> int | None:
    """Return when a process began, None if it is dead. Pid and start are never reused together."""
    try:
        fields = process(pid)
    except OSError:
        return None
    return None if fields[0] in "ZX" else int(fields[19])


def pid_namespace() -> int:
    """Return the number of this process's PID namespace, 0 without /proc."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0
