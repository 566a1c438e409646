"""Tells which files are created in a directory, by the kernel's inotify."""

from __future__ import annotations

import os
from ctypes import c_char_p, c_int, c_uint32

from . import libc

IN_CREATE = 0x100

_init1 = libc.bind(libc.short, "inotify_init1", c_int, c_int)
_add_watch = libc.bind(libc.short, "inotify_add_watch", c_int, c_int, c_char_p, c_uint32)


def init() -> int:
    """Returns a descriptor that is readable after a file was created in a watched directory."""
    fd = int(_init1(os.O_NONBLOCK | os.O_CLOEXEC))
    if fd < 0:
        raise libc.os_error("inotify_init1")
    return fd


def watch(fd: int, path: str) -> None:
    """Adds a directory to those that are watched."""
    if _add_watch(fd, os.fsencode(path), IN_CREATE) < 0:
        raise libc.os_error(f"inotify_add_watch of {path}")


def created(fd: int) -> list[str]:
    """Returns the names of the files that were created since the last call."""
    data, at, names = os.read(fd, 1 << 16), 0, []
    while at < len(data):  # int wd, uint32_t mask, cookie, len; char name[len]
        end = at + 16 + int.from_bytes(data[at + 12 : at + 16], "little")
        names.append(os.fsdecode(data[at + 16 : end].rstrip(b"\0")))
        at = end
    return names
