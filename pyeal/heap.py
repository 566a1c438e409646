"""The malloc heap: elements in hugepages, linked in address order and in 13 free lists.

    run of pages: [header | data .......][header | data]...   header: layout.MallocElem, 128 bytes

The same requests leave the same elements as in the C library, so that processes of both share a
heap. common/malloc_heap.c, common/malloc_elem.c
"""

from __future__ import annotations

from ctypes import addressof, c_uint64, sizeof
from errno import EINVAL, ENOMEM

from . import layout, libc
from .errors import EalError
from .layout import BUSY, FLAG_DIRTY, FLAG_DO_NOT_FREE, FREE, FREELISTS, LINE, PAD, MallocElem
from .memseg import MemsegList, MemsegLists
from .segments import Pages, Segments
from .vaspace import align as up

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .options import Options

    Repair = Callable[["Heap"], object]

HEADER = sizeof(MallocElem)
MIN_SPLIT = HEADER + LINE  # a smaller part does not become an element
FREE_HEAD: int = layout.MallocHeap.free_head.offset
FREE_NEXT: int = MallocElem.free_next.offset  # type: ignore[attr-defined]
DIRTY = 8  # a bit of the state word
MAX_REQUEST = 1 << 40  # bytes that a secondary may request at once


class Heap:
    """One node's heap, in its slot of `config`; as a context it is locked against all processes.

    repair: called with the heap if its lock was taken from a dead process.
    """

    def __init__(
        self, c: layout.MallocHeap, socket: int, lists: MemsegLists, repair: Repair
    ) -> None:
        self.c, self.socket, self.va, self.lists = c, socket, addressof(c), lists
        self.rule = lists.release.free_list_rule
        self.lock = lists.peers.lock(self.va, lambda: repair(self))

    def __enter__(self) -> None:
        self.lock.acquire(lambda value: value == 0, 1)

    def __exit__(self, *_: object) -> None:
        self.lock.release(1)

    def at(self, va: int) -> MallocElem:
        """Return the element at va; EalError(EINVAL) if it is not within the heap's pages.

        Any process of the prefix can have written the pointer and the element.
        """
        found = None if va % LINE else self.lists.of(va)
        if found and found[0].maps(found[1]):
            msl, seg = found
            e = elem(va)
            n = (va + e.size - 1 - msl.base_va) // msl.page_sz - seg + 1
            fits = HEADER + e.pad <= e.size and not e.size % LINE and e.heap == self.va
            if fits and (n == 1 or msl.maps(seg, n)):
                return e
        raise self.damaged(va)

    def damaged(self, va: int) -> EalError:
        what = f"the heap of node {self.socket} is damaged at {va:#x}: another process wrote to it"
        fix = "end all processes of the prefix and start the primary again"
        return error(what, fix=fix, reason="heap-damaged")

    def free_list(self, size: int) -> int:
        """Return the index of the free list for data of that size. malloc_elem_free_list_index"""
        if size < 256 or (size == 256 and self.rule != "open"):
            return 0
        bits = size - 1 if self.rule == "closed" else size
        return min(FREELISTS - 1, (bits.bit_length() - 7) // 2)

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
        """Check the address of a pointer to a free element: in a list's head, or in an element."""
        if at not in range(self._head(0), self._head(FREELISTS), 8):
            self.at(at - FREE_NEXT)
        return at

    def fill(self, runs: list[tuple[int, int, int, int]]) -> None:
        """Make an element of each run of pages; the heap has none, and the runs do not touch.

        (address, bytes, list, DIRTY or 0), in the order of malloc_heap_add_memory.
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
        """Link an element into the address order. malloc_elem_insert"""
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
        self.join(before, va)
        self.join(va, after)

    def join(self, a: int, b: int) -> None:
        """Make a and b neighbours; 0 stands for the end of the heap."""
        if a:
            self.at(a).next = b
        else:
            self.c.first = b
        if b:
            self.at(b).prev = a
        else:
            self.c.last = a

    def split(self, va: int, at: int) -> None:
        """Make an element of what an element has from `at` on. split_elem"""
        e = elem(va)
        new = write_elem(
            at, self.va, e.msl, va + e.size - at, e.orig_elem, e.orig_size, e.state & DIRTY
        )
        after = e.next
        self.join(va, at)
        self.join(at, after)
        e.size -= new.size

    def find(self, size: int, align: int) -> tuple[int, int]:
        """Return a free element for size bytes, and where in it to begin; (0, 0) without one."""
        for i in range(self.free_list(size), FREELISTS):
            va, link = self.c.free_head[i], self._head(i)
            while va:
                e = self.at(va)
                if e.free_prev != link or e.state & 7 != FREE:  # a ring would be endless
                    raise self.damaged(va)
                start = (va + e.size - size & -align) - HEADER
                if e.size >= size and start >= va:
                    return va, start
                va, link = e.free_next, va + FREE_NEXT
        return 0, 0

    def carve(self, va: int, start: int, size: int) -> int:
        """Allocate size bytes of a free element; return the data's address. malloc_elem_alloc"""
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
        """Join an element with its free neighbours; return where it starts then.

        matched: only with those of the same growth. malloc_elem_join_adjacent_free
        """
        e = elem(va)
        after, before = e.next, e.prev
        if va + e.size == after and self.joins(e, self.at(after), matched):
            self._absorb(va, after)
        if before and before + (x := self.at(before)).size == va and self.joins(e, x, matched):
            self._absorb(before, va, back=True)
            return before
        return va

    @staticmethod
    def joins(e: MallocElem, other: MallocElem, matched: bool) -> bool:
        """Return whether a free element can be joined with a neighbour that it touches."""
        same = e.msl == other.msl and (not matched or e.orig_elem == other.orig_elem)
        return other.state & 7 == FREE and same

    def _absorb(self, a: int, b: int, back: bool = False) -> None:
        x, y = elem(a), elem(b)
        self.unlink_free(a if back else b)
        x.size += y.size
        x.state |= y.state & DIRTY
        self.join(a, y.next)
        libc.zero(b, HEADER + y.pad)

    def hide(self, va: int, start: int, length: int, matched: bool) -> None:
        """Remove a range from a free, unlinked element; what is around it stays in the heap.

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
        self.join(e.prev, e.next)
        e.prev = e.next = 0


def error(what: str, errno: int = EINVAL, fix: str = "", reason: str = "") -> EalError:
    return EalError(errno, "malloc", what, fix=fix, reason=reason)


def elem(va: int) -> MallocElem:
    """Return the element at va, unchecked."""
    return MallocElem.from_address(va)


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

    repair: called with a heap whose lock was taken from a dead process.
    on_event: each is called with ("alloc" | "free", va, bytes) after pages were added and before
    they are removed.
    """

    def __init__(
        self,
        segments: Segments,
        opts: Options,
        sockets: list[int],
        main_socket: int,
        repair: Repair,
        on_event: list[Callable[[str, int, int], object]],
    ) -> None:
        self.segments, self.lists, self.log = segments, segments.lists, segments.log
        self.opts, self.main_socket, self.on_event = opts, main_socket, on_event
        self.limits = {} if opts.legacy_mem or opts.no_huge else dict(opts.socket_limit or {})
        slots = zip(self.lists.config.malloc_heaps, sockets, strict=False)
        self.heaps = [Heap(c, socket, self.lists, repair) for c, socket in slots]

    def create(self) -> None:
        """Name the heaps and add all pages to them. rte_eal_malloc_heap_init"""
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
        """Allocate size bytes and return their address, 0 on failure. rte_malloc_socket

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
            return heap.carve(va, start, size) if va else 0

    def _grow(self, heap: Heap, size: int, align: int) -> bool:
        """Add pages of the smallest size that has them. alloc_more_mem_on_socket"""
        sizes = {m.page_sz for m in self.lists if m.socket == heap.socket}
        return any(self._grow_by(heap, page_sz, size, align) for page_sz in sorted(sizes))

    def _grow_by(self, heap: Heap, page_sz: int, size: int, align: int) -> bool:
        """try_expand_heap"""
        with self.lists.lock:
            try:
                request = self.heaps.index(heap), heap.socket, page_sz, size, align, heap.va
                expand = self.expand
                return self.lists.peers.grow(lambda: expand(heap, page_sz, size, align), *request)
            except EalError as e:
                self.log("DEBUG", str(e))
                return False

    def expand(
        self, heap: Heap, page_sz: int, size: int, align: int, contig: bool = False, id: int = 0
    ) -> None:
        """Add pages for size bytes to a heap and have every process map them: all, or none.

        The process that requests the memory holds the heap's lock and the hotplug lock. Raises
        EalError(ENOMEM). try_expand_heap_primary
        """
        length = up(up(size, align) + HEADER, page_sz)
        limit = self.limits.get(heap.socket, 0)
        if limit and heap.c.total_size + length >= limit:
            raise error(f"User has disallowed allocation: limit {limit}", ENOMEM)
        pages = self.segments.alloc(page_sz, heap.socket, length // page_sz)
        if contig and not self.segments.contiguous(pages):
            self.segments.free(pages)
            raise error("couldn't allocate physically contiguous space", ENOMEM)
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
            raise error("not every secondary could map the new pages", ENOMEM)
        heap.c.total_size += pages.len
        self.log("DEBUG", f"Heap on socket {heap.socket} was expanded by {length >> 20}MB")

    def serve_growth(
        self, socket: int, page_sz: int, size: int, align: int, contig: bool, id: int
    ) -> None:
        """Grow a heap on request of a secondary, which holds the locks. handle_alloc_request"""
        heap = self._of(socket)
        if heap is None or not 0 < size <= MAX_REQUEST:
            raise error(f"Cannot allocate {size} bytes on node {socket}")
        self.expand(heap, page_sz, size, align, contig, id)

    def serve_release(self, va: int, length: int, id: int) -> None:
        """Free pages that a secondary removed from a heap. handle_free_request"""
        found = self.lists.of(va)
        if found is None or found[0].external:
            raise error(f"Requested to free unknown memory: {va:#x}")
        msl, start = found
        n = length // msl.page_sz
        if va != msl.va(start) or n * msl.page_sz != length or not 0 < n <= msl.n_segs - start:
            raise error(f"{length:#x} bytes at {va:#x} are not whole pages")
        self._free_pages(Pages(msl, start, n), id)

    def _free_pages(self, pages: Pages, id: int = 0) -> None:
        """Free pages that no heap contains any more, and have every process unmap them."""
        self._tell("free", pages.va, pages.len)
        self.segments.free(pages)
        self.lists.peers.announce(False, id)

    def _leave(self, heap: Heap, va: int, pages: Pages) -> None:
        """Remove pages from a heap; va: the free element that contains them."""
        heap.unlink_free(va)
        heap.hide(va, pages.va, pages.len, self.opts.match_allocations)
        self.segments.free(pages)

    def _enter(self, heap: Heap, pages: Pages, size: int, align: int) -> int:
        """Make new pages a free element, or free them again. alloc_pages_on_heap"""
        bits = self.lists.config.dma_maskbits
        if bits and self.beyond(bits):
            self.segments.free(pages)
            what = "couldn't allocate memory due to IOVA exceeding limits of current DMA mask"
            raise error(f"{what}: {bits} bits", ENOMEM, reason="dma-mask")
        dirty = any(pages.msl.seg(pages.start + i).flags & FLAG_DIRTY for i in range(pages.n))
        try:
            va = self._add(heap, pages.msl, pages.va, pages.len, dirty)
        except EalError:
            self.segments.free(pages)
            raise
        if not heap.find(size, align)[0]:
            self._leave(heap, va, pages)
            raise error(f"{size} bytes aligned to {align} do not fit new pages", ENOMEM)
        self._tell("alloc", pages.va, pages.len)
        return va

    def beyond(self, bits: int) -> bool:
        """Return whether a used segment needs more than that many address bits."""

        def check(msl: MemsegList, ms: layout.Memseg) -> int:
            return (ms.iova + ms.len - 1 & 2**64 - 1) >> bits

        return bool(self.lists.walk_segments(check, unlocked=True))

    def _tell(self, what: str, va: int, length: int) -> None:
        for fn in self.on_event:
            fn(what, va, length)

    # release

    def free(self, va: int) -> None:
        """Free an area, and the pages that contain nothing else. rte_free

        Raises EalError(EINVAL) for an address that malloc did not return.
        """
        if not va:
            return
        at = va - HEADER
        found = self.page_of(at)
        if elem(at).state & 7 == PAD:
            at -= elem(at).pad
            found = self.page_of(at)
        heap = next((h for h in self.heaps if h.va == elem(at).heap), None)
        if heap is None:
            raise error(f"{va:#x} is not an area of a heap")
        with heap:
            self._free(heap, at, found[0])

    def page_of(self, va: int) -> tuple[MemsegList, int]:
        """Return list and segment of an element's address. EalError(EINVAL)."""
        found = None if va % LINE else self.lists.of(va)
        if found is None or not found[0].maps(found[1]):
            raise error(f"{va + HEADER:#x} is not heap memory")
        return found

    def _free(self, heap: Heap, at: int, msl: MemsegList) -> None:
        """Free the element at `at`. malloc_heap_free"""
        e = heap.at(at)
        if e.state & 7 != BUSY:
            raise error(f"{at + HEADER:#x} is not the start of an area in use")
        data = e.size - HEADER
        e.state = FREE  # clean for joining: the whole is dirty only if a neighbour is
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
        """Free the pages that a free element covers completely. malloc_heap_free"""
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
        # the rests before and behind must be large enough for an element
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
        """Allocate what rte_service_init does; return the addresses. EalError(ENOMEM)."""
        sizes = self.lists.release.service_tables
        taken = [self.malloc(size) for size in sizes]
        if not all(taken):
            for va in taken:
                self.free(va)
            what, wanted = "rte_service_init() failed", f"{sum(sizes)} bytes of heap"
            raise EalError(ENOMEM, "service", what, expected=wanted, found=self.segments.why)
        for va, size in zip(taken, sizes, strict=True):
            libc.zero(va, size)
        return taken

    def worker_stacks(self, size: int, nodes: list[int]) -> None:
        """Allocate a stack for each worker lcore, on its node. eal_worker_thread_create

        pyeal has no worker threads, but its heap is that of an EAL with these options. EAL panics
        where this raises EalError(ENOMEM).
        """
        for node in nodes if size else ():
            if not self.malloc(size, 0, node):
                what, wanted = "Cannot allocate worker lcore stack memory", f"{size} bytes of heap"
                raise EalError(ENOMEM, "service", what, expected=wanted, found=self.segments.why)

    def free_unused(self) -> None:
        """Free the pages of every free element, at the end; those in use stay."""
        for heap in self.heaps:
            with heap:
                va = heap.c.first
                while va:
                    e = heap.at(va)
                    after = e.next
                    if e.state & 7 == FREE:
                        self._shrink(heap, va, self.page_of(va)[0])
                    if after and after <= va:
                        raise heap.damaged(after)
                    va = after
