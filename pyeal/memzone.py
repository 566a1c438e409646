"""Named memory that every process of the prefix finds. common/eal_common_memzone.c"""

from __future__ import annotations

from ctypes import addressof
from errno import EEXIST, EINVAL, ENAMETOOLONG, ENOENT, ENOMEM, ENOSPC

from .errors import EalError
from .fbarray import Fbarray
from .heap import HEADER
from .layout import LINE, Memzone

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .heap import Heaps

NAME = 32


class Memzones:
    """The zones of one prefix, in the array that `config` describes."""

    def __init__(self, arr: Fbarray, heaps: Heaps, iova: Callable[[int], int]) -> None:
        self.arr, self.heaps, self.iova = arr, heaps, iova
        self.lock = heaps.lists.rwlock("mlock")

    def __iter__(self) -> Any:
        for start, n in self.arr.runs():
            for i in range(start, start + n):
                yield self.arr.view(Memzone, i)

    def _find(self, name: str) -> Memzone | None:
        wanted = name.encode()
        return next((z for z in self if z.addr and z.name == wanted), None)

    def lookup(self, name: str) -> Memzone | None:
        """Return the zone of that name, in place, or None. rte_memzone_lookup"""
        self.lock.read()
        try:
            return self._find(name)
        finally:
            self.lock.read_done()

    def reserve(self, name: str, size: int, socket: int = -1, align: int = LINE) -> Memzone:
        """Allocate size bytes, rounded up to a cache line, from a heap and name them.

        Raises EalError: EEXIST, ENAMETOOLONG, EINVAL, ENOSPC, ENOMEM. rte_memzone_reserve_aligned
        """
        if len(name) >= NAME:
            raise _no(ENAMETOOLONG, name, f"a name of at most {NAME - 1} characters", len(name))
        if not name or size <= 0 or align & (align - 1):
            raise _no(EINVAL, name, "a name, a size, a power of two", f"{size} and {align}")
        size = -(-size // LINE) * LINE
        with self.lock:
            if self._find(name):
                raise _no(EEXIST, name, found="a zone of that name")
            slot = self.arr.find(0, used=False)
            if slot < 0:
                raise _no(ENOSPC, name, "a free zone", f"all {self.arr.len} in use")
            self.arr.allocate(slot)
            va = self.heaps.malloc(size, max(align, LINE), socket)
            if not va:
                raise _no(ENOMEM, name, f"{size} bytes on node {socket}", "no heap that has them")
            zone: Memzone = self.arr.view(Memzone, slot)
            msl = self.heaps.page_of(va - HEADER)[0]
            zone.name, zone.iova, zone.addr, zone.len = name.encode(), self.iova(va), va, size
            zone.hugepage_sz, zone.socket_id, zone.flags = msl.page_sz, msl.socket, 0
            self.arr.mark(slot)
        return zone

    def free(self, name: str) -> None:
        """Free a zone and its memory. EalError(ENOENT). rte_memzone_free"""
        with self.lock:
            zone = self._find(name)
            if zone is None:
                raise _no(ENOENT, name, "a zone of that name", "none")
            va = zone.addr
            zone.name, zone.addr, zone.iova, zone.len = b"", 0, 0, 0
            zone.hugepage_sz, zone.socket_id = 0, 0
            self.arr.mark(self.arr.index(addressof(zone)), used=False)
        self.heaps.free(va)


def _no(errno: int, name: str, expected: str = "", found: object = "") -> EalError:
    what, found = f"memzone {name!r}", str(found)
    return EalError(errno, "memzone", what, expected=expected, found=found, reason="memzone")
