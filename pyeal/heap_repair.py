"""Makes a heap consistent again whose lock a dead process held.

The process may have died between any two stores. Sizes and states decide which elements there are:
they change last when an element is split, and first when two are joined. All links are made again.
"""

from __future__ import annotations

from . import libc
from .fbarray import runs
from .heap import HEADER, Heap, elem, error
from .layout import BUSY, FREE, FREELISTS, LINE
from .segments import Pages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def repair(heap: Heap, outside: list[Pages], matched: bool) -> None:
    """Link the elements of a heap again. Raises EalError(EINVAL) before it changes anything.

    outside: pages of the lists that are in no heap; matched: see Heap.merge.
    """
    spans = sorted(_spans(heap, outside))
    found = [va for span in spans for va in _elements(heap, *span)]
    heap.c.free_head[:] = [0] * FREELISTS
    heap.c.first = heap.c.last = before = 0
    heap.c.alloc_count = sum(elem(va).state & 7 == BUSY for va in found)
    heap.c.total_size = sum(length for _, length in spans)
    for va in found:
        e = elem(va)
        if e.state & 7 == FREE:
            e.state = FREE
            libc.zero(va + HEADER, e.size - HEADER)
            x = elem(before) if before else None
            if x and before + x.size == va and heap.joins(e, x, matched):
                x.size += e.size
                libc.zero(va, HEADER)
                continue
        heap.join(before, va)
        before = va
    heap.join(before, 0)
    for va in found:
        if elem(va).heap and elem(va).state == FREE:
            heap.link_free(va)


def _spans(heap: Heap, outside: list[Pages]) -> Iterator[tuple[int, int]]:
    """Yield (address, bytes) of each run of the heap's pages."""
    for msl in heap.lists:
        if (msl.socket, msl.external) != (heap.socket, False):
            continue
        taken = sum((1 << p.n) - 1 << p.start for p in outside if p.msl is msl)
        for start, n in runs(msl.arr.used() & ~taken):
            if msl.maps(start, n):
                yield msl.va(start), n * msl.page_sz


def _elements(heap: Heap, va: int, length: int) -> Iterator[int]:
    """Yield the addresses of the elements that fill a run of pages. EalError(EINVAL)."""
    end = va + length
    while va < end:
        e = elem(va)
        fits = HEADER + LINE <= e.size <= end - va and not e.size % LINE
        if e.heap != heap.va or e.state & 7 not in (FREE, BUSY) or not fits:
            what = f"Cannot repair the heap of node {heap.socket}: it is damaged at {va:#x}"
            raise error(what, fix="restart the primary", reason="heap-damaged")
        yield va
        va += e.size
