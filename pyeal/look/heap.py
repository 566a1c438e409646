"""Check a heap's elements against each other: which words contradict the others, and where.

The pages say where elements must be: elements fill each run of pages without a gap, and each names
its neighbours, its heap and its list. A word that disagrees with two others is the wrong one.
common/malloc_elem.c
"""

from __future__ import annotations

from ctypes import sizeof

from pyeal.heap import FREE_HEAD, FREE_NEXT, HEADER, Heap
from pyeal.layout import BUSY, FREE, FREELISTS, PAD, MallocElem, MemsegList, malloc_heap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from pyeal.layout import Abi, MallocHeap
    from pyeal.releases import Release

    Run = tuple[int, int, int, int]

MOST_ELEMENTS = 100_000  # of one heap
MOST_PROBLEMS = 20
STATES = {FREE: "Free", BUSY: "Busy", PAD: "Pad"}


class HeapCheck:
    """One look at a heap: its elements by address, and what is wrong with them.

    pages: (list, address, bytes, page size) of each run of used pages, ascending.
    at: the address of rte_mem_config in the EAL's processes.
    read: reads their memory. Raises OSError if that is not possible.
    """

    free_list: Any = Heap.free_list

    def __init__(
        self,
        c: Any,
        index: int,
        abi: Abi,
        release: Release,
        at: int,
        pages: list[Run],
        read: Callable[[int, int], bytes],
    ) -> None:
        self.h: MallocHeap = c.malloc_heaps[index]
        self.name, self.rule, self.line, self.at = index, release.free_list_rule, abi.line, at
        self.states = (*STATES, *(s | 8 for s in STATES)) if release.dirty_flag else (*STATES,)
        self.reserved = 0xF if release.dirty_flag else 0xFFFFFFFF  # bits of a state that count
        self.va = at + type(c).malloc_heaps.offset + index * sizeof(malloc_heap(abi))
        self.lists = at + type(c).memsegs.offset
        self.pages, self.read = pages, read
        self.problems: list[str] = []
        self.elements: dict[int, MallocElem] = {}
        self.free: list[int] = []  # sizes of those in the free lists
        self.gaps: dict[int, int] = {}  # element -> bytes of pages behind it that are in no heap
        self._seen: dict[int, MallocElem | None] = {}
        self.complete = self._walk()
        if self.complete:
            self._compare()

    def wrong(self, va: int, field: str, expected: object, found: object) -> None:
        """Note a problem; va 0 stands for the heap's own words."""
        if len(self.problems) < MOST_PROBLEMS:
            what = f"element at {va:#x}: {field}" if va else field
            what = f"damaged: heap {self.name}: {what}"
            self.problems.append(f"{what}: expected {_text(expected)}, found {_text(found)}")

    # single elements

    def run_of(self, va: int) -> Run | None:
        """Return the run of used pages that an address is in."""
        return next((r for r in self.pages if r[1] <= va < r[1] + r[2]), None)

    def elem(self, va: int) -> MallocElem | None:
        """Return the element at va, None if there is none: no other data names its heap there."""
        if va not in self._seen:
            run = None if va % self.line else self.run_of(va)
            fits = run and va + HEADER <= run[1] + run[2]
            e = MallocElem.from_buffer_copy(self.read(va, HEADER)) if fits else None
            marks = 0
            if e and run:
                list_ = self.lists + run[0] * sizeof(MemsegList)
                marks = (e.heap == self.va) + (e.msl == list_) + self._has_size(va, e)
                marks += e.state & self.reserved in self.states
            self._seen[va] = e if marks >= 3 else None
        return self._seen[va]

    def _has_size(self, va: int, e: MallocElem) -> bool:
        run = self.run_of(va)
        return bool(
            run and e.size >= HEADER and not e.size % self.line and va + e.size <= run[1] + run[2]
        )

    def _after(self, va: int, e: MallocElem) -> int:
        """Return the element behind e, 0 at the end; note which word is wrong, if one is."""
        run = self.run_of(va)
        assert run
        end, edge, link = va + e.size, run[1] + run[2], e.next
        linked = self.elem(link) if link > va else None
        mutual = linked is not None and linked.prev == va
        if self._has_size(va, e):
            if link == end:
                return link
            touching = self.elem(end) if end < edge else None
            if touching and not (mutual and touching.prev != va):
                self.wrong(va, "next", end, link)
                return end
            # the run ends here, or pages follow that are in no heap
            if end % run[3] == 0 and (mutual or (not link and not touching)):
                if end != edge:
                    self.gaps[va] = (link if 0 < link < edge else edge) - end
                return link
        if mutual:
            most = (link if link <= edge else edge) - va
            self.wrong(va, "size", most, e.size)
            return link
        if linked:
            return link  # its prev is told there
        if self._has_size(va, e) and (end == edge or not link):
            later = next((start for _, start, _, _ in self.pages if start >= end), 0)
            if link and later and self.elem(later):
                self.wrong(va, "next", later, link)
                return later
            if link:
                self.wrong(va, "next", 0 if self.h.last == va else "an element behind it", link)
            elif end % run[3]:
                self.wrong(va, "size", edge - va, e.size)
            return 0
        if not link and self.h.last == va:
            self.wrong(va, "size", edge - va, e.size)
            return 0
        self.wrong(va, "next" if self._has_size(va, e) else "size", "an element behind it", link)
        return -1

    # all elements

    def _walk(self) -> bool:
        """Follow the elements; return whether the walk came to the end."""
        h, before = self.h, 0
        if not (h.first or h.total_size):
            return True
        va = self._first()
        while va > 0:
            if len(self.elements) == MOST_ELEMENTS:
                return False
            e = self.elem(va)
            if e is None or va <= before:
                self.wrong(before, "next", "an element behind it", va)
                return False
            self.elements[va] = e
            if e.prev != before:
                self.wrong(va, "prev", before, e.prev)
            self._check(va, e)
            before, va = va, self._after(va, e)
        if va < 0:
            return False
        if h.last != before:
            self.wrong(0, "last", before, h.last)
        return True

    def _first(self) -> int:
        first = self.elem(self.h.first)
        before = self.elem(first.prev) if first and first.prev else None
        if first and not (before and before.next == self.h.first):
            return self.h.first
        lowest = next((va for _, va, _, _ in self.pages if self.elem(va)), 0)
        self.wrong(0, "first", lowest or "an element", self.h.first)
        return lowest or -1

    def _check(self, va: int, e: MallocElem) -> None:
        run = self.run_of(va)
        assert run
        list_ = self.lists + run[0] * sizeof(MemsegList)
        if e.heap != self.va:
            self.wrong(va, "heap", self.va, e.heap)
        if e.msl != list_:
            self.wrong(va, "msl", list_, e.msl)
        state = e.state & self.reserved
        if state & ~8 not in (FREE, BUSY) or state not in self.states:
            self.wrong(va, "state", "Free or Busy", STATES.get(state, state))
        if state & 7 == BUSY and e.pad:
            inner = None
            if not e.pad % self.line and e.pad + HEADER <= e.size and e.pad < HEADER + self.line:
                inner = MallocElem.from_buffer_copy(self.read(va + e.pad, HEADER))
            if inner is None or (inner.state & 7, inner.pad) != (PAD, e.pad):
                self.wrong(va, "pad", "that of the inner header, which its data follow", e.pad)
            elif self._has_size(va, e) and inner.size != e.size - e.pad:
                self.wrong(va, "pad: size of the inner header", e.size - e.pad, inner.size)
        elif state & 7 == FREE and e.pad:
            self.wrong(va, "pad", 0, e.pad)

    def _compare(self) -> None:
        """Compare the free lists and totals with the elements."""
        h, busy, free = self.h, 0, {}
        for va, e in self.elements.items():
            busy += e.state & 7 == BUSY
            if e.state & 7 == FREE:
                free[va] = e
        listed = self._free_lists()
        for va in free.keys() - listed:
            link = free[va].free_prev
            holder, head = link - FREE_NEXT, link - self.va - FREE_HEAD
            if holder in listed:
                self.wrong(holder, "free_next", va, self.elements[holder].free_next)
            elif 0 <= head < 8 * FREELISTS and not head % 8:
                self.wrong(0, f"free_head[{head // 8}]", va, h.free_head[head // 8])
            self.wrong(va, "state or free_prev", "an element of a free list", "none that has it")
        if h.alloc_count != busy:
            self.wrong(0, "alloc_count", busy, h.alloc_count)
        total = sum(e.size for e in self.elements.values())
        if h.total_size != total:
            for va, gap in self.gaps.items():
                if total + gap == h.total_size:
                    self.wrong(va, "size", self.elements[va].size + gap, self.elements[va].size)
                    return
            self.wrong(0, "total_size", total, h.total_size)

    def _free_lists(self) -> set[int]:
        listed: set[int] = set()
        for i, head in enumerate(self.h.free_head[:FREELISTS]):
            link, before, va = self.va + FREE_HEAD + 8 * i, 0, head
            while va:
                e = self.elements.get(va)
                where = (before, "free_next") if before else (0, f"free_head[{i}]")
                if e is None or (e.state & 7 != FREE and e.free_prev != link):
                    self.wrong(*where, "a free element or 0", va)
                    break
                if va in listed:
                    self.wrong(*where, "an element once: this forms a loop", va)
                    break
                if e.state & 7 != FREE:
                    found = STATES.get(e.state & 7, e.state)
                    self.wrong(va, "state", "Free, as it is in a free list", found)
                listed.add(va)
                self.free.append(e.size)
                if e.free_prev != link:
                    self.wrong(va, "free_prev", link, e.free_prev)
                if (right := self.free_list(e.size - HEADER)) != i:
                    self.wrong(va, f"free_head[{i}]: size", f"one of list {right}", e.size)
                before, va, link = va, e.free_next, va + FREE_NEXT
        return listed


def _text(value: object) -> str:
    return f"{value:#x}" if isinstance(value, int) and value > 9 else str(value)
