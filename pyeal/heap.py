"""The malloc heap: elements in hugepages, linked in address order and in 13 free lists.

    run of pages: [header | data .......][header | data]...   header: layout.MallocElem, 128 bytes

Element for element what the C library would make of the same requests, so that the words in
`config` agree. common/malloc_heap.c, common/malloc_elem.c
"""

from __future__ import annotations

from ctypes import addressof, c_uint64, sizeof
from errno import EINVAL, ENOMEM

from . import layout, libc
from .errors import EalError
from .fbarray import runs
from .layout import FLAG_DIRTY, FLAG_DO_NOT_FREE, FREELISTS, LINE, MallocElem
from .memseg import MemsegList, MemsegLists
from .segments import Pages, Segments
from .vaspace import align as up

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .options import Options

HEADER = sizeof(MallocElem)
MIN_SPLIT = HEADER + LINE  # a part smaller than that is not worth an element
FREE, BUSY, PAD = 0, 1, 2
FREE_HEAD: int = layout.MallocHeap.free_head.offset
FREE_NEXT: int = MallocElem.free_next.offset  # type: ignore[attr-defined]
DIRTY = 8  # beside the state
MAX_REQUEST = 1 << 40  # bytes that a secondary may ask for at once


class Heap:
    """One node's heap, in its slot of `config`; as a context it is locked for all processes."""

    __slots__ = ("c", "lists", "lock", "rule", "socket", "va")

    def __init__(
        self,
        c: layout.MallocHeap,
        socket: int,
        lists: MemsegLists,
        repair: Callable[[Heap], object],
    ) -> None:
        self.c, self.socket, self.va, self.lists = c, socket, addressof(c), lists
        self.rule = lists.release.free_list_rule
        # a process that died with the lock may have changed the heap by half
        self.lock = lists.peers.lock(self.va, lambda: repair(self))

    def __enter__(self) -> None:
        self.lock.acquire(lambda value: value == 0, 1)

    def __exit__(self, *_: object) -> None:
        self.lock.release(1)

    def at(self, va: int) -> MallocElem:
        """The element there. EalError(EINVAL) when that or its size leads out of the heap's pages.

        Any process of the prefix writes to what points here.
        """
        found = None if va % LINE else self.lists.of(va)
        if found and found[0].arr.is_used(found[1]):
            msl, seg = found
            e = elem(va)
            n = (va + e.size - 1 - msl.base_va) // msl.page_sz - seg + 1
            fits = HEADER + e.pad <= e.size and not e.size % LINE and e.heap == self.va
            if fits and (n == 1 or msl.arr.all_used(seg, n)):
                return e
        raise self.damaged(va)

    def damaged(self, va: int) -> EalError:
        return EalError(
            EINVAL, "malloc", f"the heap of node {self.socket} is damaged at {va:#x}: another "
            "process wrote to it; end them all, and start the primary anew",
        )  # fmt: skip

    def free_list(self, size: int) -> int:
        """Index of the free list for data of that size. malloc_elem_free_list_index"""
        small, bits = (size <= 256, size - 1) if self.rule == "closed" else (size < 256, size)
        return 0 if small else min(FREELISTS - 1, (bits.bit_length() - 7) // 2)

    def _head(self, i: int) -> int:
        return self.va + FREE_HEAD + 8 * i

    def link_free(self, va: int) -> None:
        """malloc_elem_free_list_insert"""
        e = elem(va)
        e.state = e.state & ~7 | FREE
        head = self._head(self.free_list(e.size - HEADER))
        first = c_uint64.from_address(head)
        if then := first.value:
            self.at(then).free_prev = va + FREE_NEXT
        e.free_next, e.free_prev = then, head
        first.value = va

    def unlink_free(self, va: int) -> None:
        e = self.at(va)
        link = c_uint64.from_address(self._link(e.free_prev))
        if link.value != va:
            raise self.damaged(va)
        if e.free_next:
            self.at(e.free_next).free_prev = e.free_prev
        link.value = e.free_next

    def _link(self, at: int) -> int:
        """The address of a pointer to a free element: in a list's head, or in an element."""
        if at not in range(self._head(0), self._head(FREELISTS), 8):
            self.at(at - FREE_NEXT)
        return at

    def fill(self, runs: list[tuple[int, int, int, int]]) -> None:
        """Makes an element of each run of pages, of a heap that has none: they do not touch.

        (address, bytes, list, DIRTY or 0), in the order in which malloc_heap_add_memory has them.
        """
        heads: dict[int, MallocElem] = {}
        made = {}
        for va, length, msl, dirty in runs:
            made[va] = e = write_elem(va, self.va, msl, length, va, length, dirty)
            i = self.free_list(length - HEADER)
            if i in heads:
                heads[i].free_prev = va + FREE_NEXT
                e.free_next = addressof(heads[i])
            heads[i] = e
        before, last = 0, None
        for va in sorted(made):
            e = made[va]
            e.prev = before
            if last:
                last.next = va
            else:
                self.c.first = va
            before, last = va, e
        self.c.last = before
        for i, e in heads.items():
            self.c.free_head[i], e.free_prev = addressof(e), self._head(i)
        self.c.total_size += sum(length for _, length, _, _ in runs)

    def insert(self, va: int) -> None:
        """Links an element into the address order. malloc_elem_insert"""
        before, after = 0, self.c.first
        if after and 0 < (last := self.c.last) < va:  # growth is mostly upwards
            if self.at(last).next:
                raise self.damaged(last)
            before, after = last, 0
        while after and after < va:
            e = self.at(after)
            if after <= before or e.prev != before:
                raise self.damaged(after)
            before, after = after, e.next
        e = elem(va)
        e.prev, e.next = before, after
        self._join(before, va)
        self._join(va, after)

    def _join(self, a: int, b: int) -> None:
        """Makes a and b neighbours; 0 stands for the end of the heap."""
        if a:
            self.at(a).next = b
        else:
            self.c.first = b
        if b:
            self.at(b).prev = a
        else:
            self.c.last = a

    def split(self, va: int, at: int) -> None:
        """Makes an element of its own from `at` on. split_elem"""
        e = elem(va)
        new = write_elem(
            at, self.va, e.msl, va + e.size - at, e.orig_elem, e.orig_size, e.state & DIRTY
        )
        after = e.next
        self._join(va, at)
        self._join(at, after)
        e.size -= new.size

    def find(self, size: int, align: int) -> tuple[int, int]:
        """A free element for that much, and where in it the new one starts; (0, 0) if none."""
        for i in range(self.free_list(size), FREELISTS):
            va, link = self.c.free_head[i], self._head(i)
            while va:
                e = self.at(va)
                if e.free_prev != link or e.state & 7 != FREE:  # else a ring would have no end
                    raise self.damaged(va)
                start = (va + e.size - size & -align) - HEADER
                if e.size >= size and start >= va:
                    return va, start
                va, link = e.free_next, va + FREE_NEXT
        return 0, 0

    def take(self, va: int, start: int, size: int) -> int:
        """Cuts the data area out of a free element; its address. malloc_elem_alloc"""
        e = elem(va)
        before = start - va
        self.unlink_free(va)
        if e.size - before - size - HEADER > MIN_SPLIT:
            rest = start + HEADER + size
            self.split(va, rest)
            self.link_free(rest)
        if before < MIN_SPLIT:
            e.state = e.state & ~7 | BUSY
            e.pad = before
            if before:
                inner = elem(start)
                inner.pad, inner.state, inner.size = before, PAD, e.size - before
        else:
            self.split(va, start)
            taken = elem(start)
            taken.state = taken.state & ~7 | BUSY
            self.link_free(va)
        self.c.alloc_count += 1
        return start + HEADER

    def merge(self, va: int, matched: bool) -> int:
        """Joins an element with its free neighbours; where it starts then.

        malloc_elem_join_adjacent_free; matched: only with those of the same growth.
        """
        e = elem(va)
        after, before = e.next, e.prev
        if va + e.size == after and joins(e, self.at(after), matched):
            self._absorb(va, after)
        if before and before + (x := self.at(before)).size == va and joins(e, x, matched):
            self._absorb(before, va, back=True)
            return before
        return va

    def _absorb(self, a: int, b: int, back: bool = False) -> None:
        x, y = elem(a), elem(b)
        self.unlink_free(a if back else b)
        x.size += y.size
        x.state |= y.state & DIRTY
        self._join(a, y.next)
        libc.zero(b, HEADER + y.pad)

    def rebuild(self, spans: list[tuple[int, int]], matched: bool) -> None:
        """Links all elements anew, which lie one behind the other in spans of (address, bytes).

        Only sizes and states are believed: they change last when an element is split, and first
        when two are joined. EalError(EINVAL), and nothing is changed, when they do not fit a span.
        """
        found = [va for span in spans for va in self._tiles(*span)]
        self.c.free_head[:] = [0] * FREELISTS
        self.c.first = self.c.last = before = 0
        self.c.alloc_count = sum(elem(va).state & 7 == BUSY for va in found)
        self.c.total_size = sum(length for _, length in spans)
        for va in found:
            e = elem(va)
            if e.state & 7 == FREE:
                e.state = FREE
                libc.zero(va + HEADER, e.size - HEADER)
                x = elem(before) if before else None
                if x and before + x.size == va and joins(e, x, matched):
                    x.size += e.size
                    libc.zero(va, HEADER)
                    continue
            self._join(before, va)
            before = va
        self._join(before, 0)
        for va in found:
            if elem(va).heap and elem(va).state == FREE:
                self.link_free(va)

    def _tiles(self, va: int, length: int) -> Iterator[int]:
        """Addresses of the elements that fill a span."""
        end = va + length
        while va < end:
            e = elem(va)
            fits = MIN_SPLIT <= e.size <= end - va and not e.size % LINE
            if e.heap != self.va or e.state & 7 not in (FREE, BUSY) or not fits:
                raise EalError(
                    EINVAL, "malloc", f"the heap of node {self.socket} cannot be mended at {va:#x}:"
                    " who died left it half-changed; start the primary anew",
                )  # fmt: skip
            yield va
            va += e.size

    def hide(self, va: int, start: int, length: int, matched: bool) -> None:
        """Takes a range out of a free, unlinked element; the parts around stay.

        malloc_elem_hide_region
        """
        end = start + length
        e = elem(va)
        if end < va + e.size:
            self.split(va, end)
            self.link_free(end)
        if start > va:
            self.split(va, start)
            self.link_free(va)
        e = self.at(start)
        self._join(e.prev, e.next)
        e.prev = e.next = 0


def elem(va: int) -> MallocElem:
    return MallocElem.from_address(va)


def joins(e: MallocElem, other: MallocElem, matched: bool) -> bool:
    """Whether a free element becomes one with a neighbour that it touches."""
    return (
        other.state & 7 == FREE
        and e.msl == other.msl
        and (not matched or e.orig_elem == other.orig_elem)
    )


def write_elem(
    va: int, heap: int, msl: int, size: int, orig: int, orig_size: int, dirty: int
) -> MallocElem:
    """malloc_elem_init"""
    e = elem(va)
    e.heap, e.msl, e.size, e.orig_elem, e.orig_size = heap, msl, size, orig, orig_size
    e.prev = e.next = e.free_next = e.free_prev = e.pad = 0
    e.state = FREE | dirty
    return e


class Heaps:
    """All heaps of one EAL, and how they grow and shrink.

    outside: the pages of the lists that are in no heap.
    on_event: each is called with ("alloc" | "free", va, bytes) after pages were added and before
    they are removed.
    """

    def __init__(
        self,
        lists: MemsegLists,
        segments: Segments,
        opts: Options,
        sockets: list[int],
        main_socket: int,
        log: Callable[[str, str], object],
        outside: list[Pages],
        on_event: list[Callable[[str, int, int], object]],
    ) -> None:
        self.lists, self.segments, self.opts, self.log = lists, segments, opts, log
        self.main_socket, self.on_event = main_socket, on_event
        self.limits = {} if opts.legacy_mem or opts.no_huge else dict(opts.socket_limit or {})
        self.outside = outside
        slots = lists.config.malloc_heaps
        self.heaps = [
            Heap(slots[i], socket, lists, self.repair) for i, socket in enumerate(sockets)
        ]

    def create(self) -> None:
        """Names the heaps and gives them all pages. rte_eal_malloc_heap_init"""
        self.lists.config.next_socket_id = layout.EXTERNAL_HEAP_MIN_SOCKET_ID
        for heap in self.heaps:
            heap.c.name, heap.c.socket_id = f"socket_{heap.socket}".encode(), heap.socket
        found: dict[int, list[tuple[int, int, int, int]]] = {h.socket: [] for h in self.heaps}

        def note(msl: MemsegList, first: layout.Memseg, length: int) -> None:
            if not msl.external and msl.socket in found:
                dirty = DIRTY if self.lists.release.dirty_flag and first.flags & FLAG_DIRTY else 0
                found[msl.socket].append((first.addr, length, addressof(msl.c), dirty))
                self.log("DEBUG", f"Added {length >> 20}M to heap on socket {msl.socket}")

        self.lists.walk_contig(note)
        for heap in self.heaps:
            heap.fill(found[heap.socket])

    @property
    def fixed(self) -> bool:
        return self.opts.legacy_mem or self.opts.no_huge

    def _of(self, socket: int) -> Heap | None:
        return next((h for h in self.heaps if h.socket == socket), None)

    def finish_frees(self) -> None:
        self.segments.finish_frees()

    def repair(self, heap: Heap) -> None:
        """Rebuild the links of a heap whose lock a dead process held. EalError(EINVAL)."""
        spans = []
        for msl in self.lists:
            if (msl.socket, msl.external) != (heap.socket, False):
                continue
            bits = msl.arr.used()
            for p in self.outside:
                if p.msl is msl:
                    bits &= ~((1 << p.n) - 1 << p.start)
            spans += [(msl.va(start), n * msl.page_sz) for start, n in runs(bits)]
        heap.rebuild(sorted(spans), self.opts.match_allocations)
        self.log("WARNING", f"a dead process had the heap of node {heap.socket}: its links are new")

    def _add(self, heap: Heap, msl: MemsegList, va: int, length: int, dirty: bool) -> int:
        """malloc_heap_add_memory"""
        dirty = dirty and self.lists.release.dirty_flag
        write_elem(va, heap.va, addressof(msl.c), length, va, length, DIRTY if dirty else 0)
        heap.insert(va)
        va = heap.merge(va, self.opts.match_allocations)
        heap.link_free(va)
        return va

    # allocation

    def malloc(self, size: int, align: int = 0, socket: int = -1) -> int:
        """Address of size bytes, 0 when they cannot be had. rte_malloc_socket

        align: a power of two, 0 for a cache line; socket -1: the main lcore's, then any other.
        """
        if size <= 0 or align & (align - 1):
            return 0
        if self.opts.no_huge:
            socket = -1
        first = self._of(self.main_socket if socket < 0 else socket)
        if first is None:
            return 0
        others = [h for h in self.heaps if h is not first] if socket < 0 else []
        for heap in (first, *others):
            if va := self._malloc_on(heap, up(size, LINE), up(max(align, 1), LINE)):
                return va
        return 0

    def _malloc_on(self, heap: Heap, size: int, align: int) -> int:
        with heap:
            va, start = heap.find(size, align)
            if not va and not self.fixed and self._grow(heap, size, align):
                va, start = heap.find(size, align)
            return heap.take(va, start, size) if va else 0

    def list_of(self, va: int) -> MemsegList:
        """The list that an address of a heap lies in. EalError(EINVAL)."""
        found = self.lists.of(va)
        if found is None:
            raise EalError(EINVAL, "malloc", f"{va:#x} is not heap memory")
        return found[0]

    def zmalloc(self, size: int) -> int:
        """The same, zeroed: pages come zeroed, and what is freed is zeroed then, unless dirty."""
        va = self.malloc(size)
        if va:
            libc.zero(va, size)
        return va

    def _grow(self, heap: Heap, size: int, align: int) -> bool:
        """More pages, the smallest size that has them. alloc_more_mem_on_socket"""
        sizes = {m.page_sz for m in self.lists if m.socket == heap.socket}
        return any(self._grow_by(heap, page_sz, size, align) for page_sz in sorted(sizes))

    def _grow_by(self, heap: Heap, page_sz: int, size: int, align: int) -> bool:
        """try_expand_heap"""
        with self.lists.lock:
            try:
                return self.lists.peers.grow(
                    lambda: self.expand(heap, page_sz, size, align),
                    self.heaps.index(heap),
                    heap.socket,
                    page_sz,
                    size,
                    align,
                    heap.va,
                )
            except EalError as e:
                self.log("DEBUG", str(e))
                return False

    def expand(
        self, heap: Heap, page_sz: int, size: int, align: int, contig: bool = False, id: int = 0
    ) -> None:
        """Adds pages for size bytes to a heap and has every process map them: all, or none.

        The heap's lock and the hotplug lock are held, by the process that wants the memory.
        try_expand_heap_primary. EalError(ENOMEM).
        """
        length = up(up(size, align) + HEADER, page_sz)
        limit = self.limits.get(heap.socket, 0)
        if limit and heap.c.total_size + length >= limit:
            raise EalError(ENOMEM, "malloc", f"User has disallowed allocation: limit {limit}")
        pages = self.segments.alloc(page_sz, heap.socket, length // page_sz)
        if contig and not self.segments.contiguous(pages):
            self.segments.free(pages)
            raise EalError(ENOMEM, "malloc", "couldn't allocate physically contiguous space")
        va = self._enter(heap, pages, size, align)
        everywhere = False
        try:
            everywhere = self.lists.peers.announce(False, id)
        finally:
            if not everywhere:
                self._tell("free", pages.va, pages.len)
                self._leave(heap, va, pages)
                self.lists.peers.announce(True, id)
        if not everywhere:
            raise EalError(ENOMEM, "malloc", "not every secondary could map the new pages")
        heap.c.total_size += pages.len
        self.log("DEBUG", f"Heap on socket {heap.socket} was expanded by {length >> 20}MB")

    def serve_growth(
        self, socket: int, page_sz: int, size: int, align: int, contig: bool, id: int
    ) -> None:
        """What a secondary asks for; it holds the locks. handle_alloc_request"""
        heap = self._of(socket)
        if heap is None or not 0 < size <= MAX_REQUEST:
            raise EalError(EINVAL, "malloc", f"{size} bytes on node {socket} cannot be had")
        self.expand(heap, page_sz, size, align, contig, id)

    def serve_release(self, va: int, length: int, id: int) -> None:
        """Frees pages that a secondary took out of the heap. handle_free_request"""
        found = self.lists.of(va)
        if found is None or found[0].external:
            raise EalError(EINVAL, "malloc", f"Requested to free unknown memory: {va:#x}")
        msl, start = found
        n = length // msl.page_sz
        if va != msl.va(start) or n * msl.page_sz != length or not 0 < n <= msl.n_segs - start:
            raise EalError(EINVAL, "malloc", f"{length:#x} bytes at {va:#x} are not whole pages")
        self._free_pages(Pages(msl, start, n), id)

    def _free_pages(self, pages: Pages, id: int = 0) -> None:
        """Give pages that are in no heap any more to the system, and have every process follow."""
        self._tell("free", pages.va, pages.len)
        self.segments.free(pages)
        self.lists.peers.announce(False, id)

    def _leave(self, heap: Heap, va: int, pages: Pages) -> None:
        """Takes pages out of a heap again; va: the free element that they lie in."""
        heap.unlink_free(va)
        heap.hide(va, pages.va, pages.len, self.opts.match_allocations)
        self.segments.free(pages)

    def _enter(self, heap: Heap, pages: Pages, size: int, align: int) -> int:
        """Makes new pages a free element, or gives them back. alloc_pages_on_heap"""
        bits = self.lists.config.dma_maskbits
        if bits and self.beyond(bits):
            self.segments.free(pages)
            raise EalError(
                ENOMEM, "malloc",
                "couldn't allocate memory due to IOVA exceeding limits of current DMA mask: "
                f"{bits} bits",
            )  # fmt: skip
        dirty = any(pages.msl.seg(pages.start + i).flags & FLAG_DIRTY for i in range(pages.n))
        try:
            va = self._add(heap, pages.msl, pages.va, pages.len, dirty)
        except EalError:
            self.segments.free(pages)
            raise
        if not heap.find(size, align)[0]:
            self._leave(heap, va, pages)
            raise EalError(
                ENOMEM, "malloc", f"{size} bytes aligned to {align} do not fit new pages"
            )
        self._tell("alloc", pages.va, pages.len)
        return va

    def beyond(self, bits: int) -> bool:
        """Whether a used segment reaches beyond that many address bits."""

        def check(msl: MemsegList, ms: layout.Memseg) -> int:
            return (ms.iova + ms.len - 1 & 2**64 - 1) >> bits

        return bool(self.lists.walk_segments(check, unlocked=True))

    def _tell(self, what: str, va: int, length: int) -> None:
        for fn in self.on_event:
            fn(what, va, length)

    # release

    def free(self, va: int) -> None:
        """Gives an area back, and pages that nothing is in to the system. rte_free

        EalError(EINVAL) for an address that malloc did not give.
        """
        if not va:
            return
        at = va - HEADER
        found = self._must_hold(at)
        if elem(at).state & 7 == PAD:
            at -= elem(at).pad
            found = self._must_hold(at)
        heap = next((h for h in self.heaps if h.va == elem(at).heap), None)
        if heap is None:
            raise EalError(EINVAL, "malloc", f"{va:#x} is not an area of a heap")
        with heap:
            self._free(heap, at, found[0])

    def _must_hold(self, va: int) -> tuple[MemsegList, int]:
        found = None if va % LINE else self.lists.of(va)
        if found is None or not found[0].arr.is_used(found[1]):
            raise EalError(EINVAL, "malloc", f"{va + HEADER:#x} is not heap memory")
        return found

    def _free(self, heap: Heap, at: int, msl: MemsegList) -> None:
        """Frees the element at `at`. malloc_heap_free"""
        e = heap.at(at)
        if e.state & 7 != BUSY:
            raise EalError(EINVAL, "malloc", f"{at + HEADER:#x} is not the start of an area in use")
        data = e.size - HEADER
        e.state = FREE  # clean, for joining: only a dirty neighbour leaves the whole dirty
        whole = heap.merge(at, self.opts.match_allocations)
        heap.link_free(whole)
        e = elem(whole)
        e.pad = 0
        heap.c.alloc_count -= 1
        if not e.state & DIRTY:
            libc.zero(at + HEADER, data)
        if not self.fixed and not msl.external:
            self._shrink(heap, whole, msl)

    def _shrink(self, heap: Heap, va: int, msl: MemsegList) -> None:
        """Frees the pages that a free element covers whole. malloc_heap_free"""
        e, size = elem(va), msl.page_sz
        matched = self.opts.match_allocations
        if e.size < size or (matched and e.size != e.orig_size):
            return
        first, last = -(-(va - msl.base_va) // size), (va + e.size - msl.base_va) // size
        while first < last and msl.seg(first).flags & FLAG_DO_NOT_FREE:
            first += 1
        end = first
        while end < last and not msl.seg(end).flags & FLAG_DO_NOT_FREE:
            end += 1
        # what stays before and behind must have room for an element
        if 0 < msl.va(first) - va < MIN_SPLIT:
            first += 1
        if 0 < va + e.size - msl.va(end) < MIN_SPLIT:
            end -= 1
        if first >= end:
            return
        pages = Pages(msl, first, end - first)
        with self.lists.lock:
            heap.unlink_free(va)
            heap.hide(va, pages.va, pages.len, matched)
            heap.c.total_size -= pages.len
            self.lists.peers.shrink(lambda: self._free_pages(pages), pages.va, pages.len)
        self.log("DEBUG", f"Heap on socket {msl.socket} was shrunk by {pages.len >> 20}MB")

    def service_tables(self) -> list[int]:
        """What rte_service_init takes; EalError(ENOMEM) when it is not to be had."""
        taken: list[int] = []
        for size in self.lists.release.service_tables:
            va = self.zmalloc(size)
            if not va:
                for other in taken:
                    self.free(other)
                raise EalError(
                    ENOMEM, "service",
                    f"rte_service_init() failed: {size} bytes of heap wanted, none found: "
                    f"{self.segments.why or 'memory is full'}",
                )  # fmt: skip
            taken.append(va)
        return taken

    def give_back(self) -> None:
        """Frees the pages of every free element, for the end; those in use stay."""
        for heap in self.heaps:
            with heap:
                va = heap.c.first
                while va:
                    e = heap.at(va)
                    after = e.next
                    if e.state & 7 == FREE:
                        self._shrink(heap, va, self.list_of(va))
                    if after and after <= va:
                        raise heap.damaged(after)
                    va = after
