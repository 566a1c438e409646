"""Memory with a name, which every process of the prefix finds. common/eal_common_memzone.c"""

from __future__ import annotations

from ctypes import addressof
from errno import EEXIST, EINVAL, ENAMETOOLONG, ENOENT, ENOMEM, ENOSPC

from .errors import EalError
from .fbarray import Fbarray
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
                yield Memzone.from_address(self.arr.address(i))

    def _find(self, name: str) -> Memzone | None:
        wanted = name.encode()
        return next((z for z in self if z.addr and z.name == wanted), None)

    def lookup(self, name: str) -> Memzone | None:
        """The zone of that name, in place. rte_memzone_lookup"""
        self.lock.read()
        try:
            return self._find(name)
        finally:
            self.lock.read_done()

    def reserve(self, name: str, size: int, socket: int = -1, align: int = LINE) -> Memzone:
        """Takes size bytes (rounded up to a cache line) of a heap and names them.

        rte_memzone_reserve_aligned. EalError: EEXIST, ENAMETOOLONG, EINVAL, ENOSPC, ENOMEM.
        """
        if len(name) >= NAME:
            raise _no(ENAMETOOLONG, name, f"at most {NAME - 1} characters wanted")
        if not name or size <= 0 or align & (align - 1):
            raise _no(EINVAL, name, f"a name, a size, a power of two wanted; {size}, {align} found")
        size = -(-size // LINE) * LINE
        with self.lock:
            if self._find(name):
                raise _no(EEXIST, name, "it exists already")
            slot = self.arr.find(0, used=False)
            if slot < 0:
                raise _no(ENOSPC, name, f"all {self.arr.desc.len} zones are in use")
            va = self.heaps.malloc(size, max(align, LINE), socket)
            if not va:
                raise _no(ENOMEM, name, f"no {size} bytes to be had on node {socket}")
            zone = Memzone.from_address(self.arr.address(slot))
            msl = self.heaps.list_of(va)
            zone.name, zone.iova, zone.addr, zone.len = name.encode(), self.iova(va), va, size
            zone.hugepage_sz, zone.socket_id, zone.flags = msl.page_sz, msl.socket, 0
            self.arr.mark(slot)
        return zone

    def free(self, name: str) -> None:
        """Gives a zone and its memory back. rte_memzone_free. EalError(ENOENT)."""
        with self.lock:
            zone = self._find(name)
            if zone is None:
                raise _no(ENOENT, name, "there is none")
            va = zone.addr
            zone.name, zone.addr, zone.iova, zone.len = b"", 0, 0, 0
            zone.hugepage_sz, zone.socket_id = 0, 0
            self.arr.mark(self.arr.index(addressof(zone)), used=False)
        self.heaps.free(va)


def _no(errno: int, name: str, why: str) -> EalError:
    return EalError(errno, "memzone", f"memzone {name!r}: {why}")
