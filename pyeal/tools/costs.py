"""What a start costs here: time, and addresses that are free in several processes."""

from __future__ import annotations

import os
import time

from pyeal import layout, libc
from pyeal.libc import MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED, PROT_RW
from pyeal.look.process_view import ProcessView
from pyeal.vaspace import align

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

MADV_HUGEPAGE = 14
GAP = 1 << 24  # --base-virtaddr is a multiple of it


def zeroing() -> float:
    """Bytes a second that this machine zeroes new pages with: the best of 8 MB of own memory."""
    sz, n = 2 << 20, 4
    va = libc.mmap(0, (n + 2) * sz, PROT_RW, MAP_PRIVATE | MAP_ANONYMOUS)
    try:
        at = align(va, sz)
        try:
            libc.madvise(at, n * sz, MADV_HUGEPAGE)
        except OSError:
            pass
        took = [_timed(libc.madvise, at + i * sz, sz, libc.MADV_POPULATE_WRITE) for i in range(n)]
    except OSError:  # a kernel from before 5.14
        took = [_timed(libc.zero, at + i * sz, sz) for i in range(n)]
    finally:
        libc.munmap(va, (n + 2) * sz)
    return sz / min(took)


def _timed(fn: Callable[..., object], *args: object) -> float:
    began = time.perf_counter()
    fn(*args)
    return time.perf_counter() - began


def per_file() -> float:
    """Seconds that making, locking and mapping a file costs here, without its memory; 0: unknown"""
    import fcntl

    began, n = time.perf_counter(), 16
    try:
        for _ in range(n):
            fd = os.memfd_create("plan")
            os.ftruncate(fd, libc.PAGE)
            fcntl.flock(fd, fcntl.LOCK_SH)
            libc.munmap(libc.mmap(0, libc.PAGE, PROT_RW, MAP_SHARED, fd), libc.PAGE)
            os.close(fd)
    except OSError:  # forbidden here
        return 0.0
    return (time.perf_counter() - began) / n


def free_base(length: int, views: list[ProcessView], bits: int = 47) -> int:
    """The lowest --base-virtaddr with length bytes free behind it in all processes; 0 if none."""
    taken = sorted((start, end) for v in views for start, end, _ in v.maps())
    at = align(layout.BASE, GAP) + GAP  # config lies right before the base
    for start, end in taken:
        if start - at >= length:
            break
        at = max(at, align(end, GAP) + GAP)
    return at if at + length <= 1 << bits else 0
