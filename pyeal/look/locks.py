"""Locks of other processes: /proc/locks, and the primary that holds a config. None is taken."""

from __future__ import annotations

import ctypes
import fcntl
import functools
import os
import re
import struct

from pyeal import layout

INITIAL_PID_NS = "pid:[4026531836]"  # PROC_PID_INIT_INO of the kernel
MEMSEG_LIST = ctypes.sizeof(layout.MemsegList)
LOCK = re.compile(r"^\d+: (\D+ )(-?\d+) (\S+) (.+)$", re.M)
# the bytes of `memsegs`, which a primary keeps locked: (first, last) of each layout family
LOCKED = {
    (m.offset, m.offset + m.size - 1): family
    for family in "AB"
    for m in [layout.config(family).memsegs]
}


def in_initial_pid_ns() -> bool:
    """Return whether all processes of this machine can be seen.

    Elsewhere a file may be held by a process that cannot be seen.
    """
    try:
        return os.readlink("/proc/self/ns/pid") == INITIAL_PID_NS
    except OSError:
        return False


def of_primary(lock: Lock) -> bool:
    """Return whether it is the lock of a primary, with any number of memseg lists."""
    first, length = lock.start, lock.end + 1 - lock.start
    return first in {a for a, _ in LOCKED} and length > 0 and not length % MEMSEG_LIST


class Lock:
    """One line of /proc/locks. end: -1 for the end of the file."""

    __slots__ = ("file", "kind", "mode", "pid", "span", "waits")

    def __init__(self, how: str, pid: str, file: str, span: str) -> None:
        self.kind, self.mode, self.waits = _how(how)
        self.pid, self.file, self.span = int(pid), file, span

    @property
    def start(self) -> int:
        return int(self.span.split()[0])

    @property
    def end(self) -> int:
        word = self.span.split()[1]
        return -1 if word == "EOF" else int(word)


@functools.cache
def _how(text: str) -> tuple[str, str, bool]:
    """(kind, mode, whether it waits)."""
    *waits, kind, _, mode = text.split()
    return kind, mode, bool(waits)


def file_id(st: os.stat_result) -> str:
    """Return the name of a file in /proc/locks and in maps: major:minor:inode."""
    return f"{device_id(st.st_dev)}:{st.st_ino}"


@functools.cache
def device_id(dev: int) -> str:
    return f"{os.major(dev):02x}:{os.minor(dev):02x}"


def locks(kind: str = "", readings: int = 2) -> list[Lock]:
    """Return all locks, or those of one kind: FLOCK, POSIX.

    The kernel omits lines where it continues its list: two readings together have all of them.
    """
    rows: dict[tuple[str, ...], None] = {}
    for _ in range(readings):
        rows |= dict.fromkeys(LOCK.findall(read_text("/proc/locks")))
    return [Lock(*row) for row in rows if kind in row[0]]


def read_text(path: str) -> str:
    """Return the text of a file of /proc, "" if it is gone or this user may not read it."""
    try:
        with open(path) as f:
            return f.read()
    except OSError:
        return ""


def lock_holder(fd: int) -> tuple[bool, int]:
    """Return (whether a primary holds that config, its pid). No lock is taken.

    The pid is 0 if the holder is in a PID namespace that cannot be seen from here.
    """
    flock = struct.Struct("hhqqi4x")  # fcntl.h: struct flock
    asked = flock.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = flock.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    return kind != fcntl.F_UNLCK, max(pid, 0) if kind != fcntl.F_UNLCK else 0
