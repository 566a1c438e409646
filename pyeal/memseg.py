"""Memseg lists: plan them, create or attach them, walk over them.

A memory type is a (page size, node) pair. A list holds the pages of one type, its segment i at
base_va + i * page_sz. The 128 slots of `config` hold the lists in order.
"""

from __future__ import annotations

from ctypes import addressof, memset, sizeof
from errno import EINVAL, ENOMEM
from struct import Struct, pack

from . import layout, libc
from .errors import CLOSED, EalError
from .fbarray import Arrays, Fbarray, all_set, bits, n_words, runs, set_bits
from .layout import MAX_MEMSEG_LISTS, Memseg
from .pauses import signals_allowed, signals_deferred
from .peers import RwLock, SharedLock
from .vaspace import VaSpace, align

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from .peers import Alone
    from .releases import Release

GB = 1 << 30
MAX_MEM = 512 * GB  # of all types together, before 26.07
MAX_MEM_PER_TYPE = 64 * GB
MAX_SEGS_PER_TYPE = 32768
MAX_SEGS_PER_LIST = 8192
MAX_MEM_PER_LIST = 32 * GB


class ListPlan:
    """A list to create. number: the last one of its name; offset: in the reserved space (26.07)."""

    def __init__(self, page_sz: int, socket: int, n_segs: int, number: int, offset: int) -> None:
        self.page_sz, self.socket, self.n_segs = page_sz, socket, n_segs
        self.number, self.offset = number, offset

    @property
    def name(self) -> str:
        return f"memseg-{self.page_sz >> 10}k-{self.socket}-{self.number}"


def plan(
    page_sizes: list[int],
    sockets: list[int],
    release: Release,
    limits: dict[int, int] | None = None,
) -> list[ListPlan]:
    """Return the lists for page sizes (descending) on nodes (ascending), in slot order.

    limits: bytes by page size (--pagesz-mem). Raises EalError(ENOMEM) if there are more types than
    slots. common/eal_common_dynmem.c: eal_dynmem_memseg_lists_init
    """
    types = [(size, socket) for size in page_sizes for socket in sockets]
    if len(types) > MAX_MEMSEG_LISTS:
        what = "Cannot accommodate all memory types, please increase RTE_MAX_MEMSEG_LISTS"
        most, n = f"at most {MAX_MEMSEG_LISTS} types", f"{len(types)}"
        raise EalError(ENOMEM, "memseg", what, expected=most, found=n, reason="lists-full")
    lists: list[ListPlan] = []
    if release.lists != "per-type":
        for size, socket in types:
            lists += _many_lists(size, socket, len(types))
        return lists
    end = 0
    for size, socket in types:
        limit = (limits or {}).get(size, min(MAX_MEM_PER_TYPE, MAX_SEGS_PER_TYPE * size))
        if segs := limit // size:
            lists.append(ListPlan(size, socket, segs, len(lists), align(end, size)))
            end = lists[-1].offset + segs * size
    return lists


def _many_lists(size: int, socket: int, types: int) -> list[ListPlan]:
    mem = min(MAX_MEM_PER_TYPE, MAX_MEM // types)
    segs_of_type = min(mem // size, MAX_SEGS_PER_TYPE)
    segs = min(segs_of_type, MAX_SEGS_PER_LIST)
    mem_of_list = min(segs * size, MAX_MEM_PER_LIST)
    segs = min(segs, mem_of_list // size)
    n = min(segs_of_type // segs, mem // mem_of_list, MAX_MEMSEG_LISTS // types) if segs else 0
    return [ListPlan(size, socket, segs, i, 0) for i in range(n)]


class MemsegList:
    """A list in its slot: `c` is the structure in `config`, `arr` the array of its pages."""

    def __init__(self, index: int, c: layout.MemsegList, arr: Fbarray) -> None:
        self.index, self.c, self.arr = index, c, arr
        # copies: any process of the prefix can write to the structure
        self.base_va, self.len, self.external = c.base_va, c.len, bool(c.external)
        self.page_sz, self.socket, self.n_segs = c.page_sz, c.socket_id, arr.len
        self._mapped = bytearray(8 * n_words(arr.len))  # bit i: this process has segment i mapped

    @property
    def name(self) -> str:
        return str(self.c.memseg_arr.name, "ascii", "replace")

    @property
    def count(self) -> int:
        return self.c.memseg_arr.count

    def note(self, start: int, n: int, mapped: bool = True) -> None:
        """Record that this process has mapped segments, or not any more.

        The array says which ones are used, and any process of the prefix can write to it.
        """
        set_bits(self._mapped, start, n, mapped)

    def maps(self, start: int, n: int = 1) -> bool:
        """Return whether this process has mapped n segments from start on."""
        if n == 1:
            return bool(self._mapped[start >> 3] >> (start & 7) & 1)
        return 0 < n <= self.n_segs - start and all_set(self._mapped, start, n)

    def va(self, seg: int) -> int:
        return self.base_va + seg * self.page_sz

    def seg(self, i: int) -> Memseg:
        """Return the record of segment i, in place."""
        return self.arr.view(Memseg, i)  # type: ignore[no-any-return]

    def fill(
        self, start: int, iovas: list[int], nchannel: int, nrank: int, flags: list[int]
    ) -> None:
        """Write the records of consecutive pages, then mark them used."""
        n, at, size = len(iovas), self.arr.address(start), self.page_sz
        self.arr.allocate(start, n)
        one = pack("=QQQQiIII", 0, 0, size, size, self.socket, nchannel, nrank, 0)
        records = libc.memory(at, n * sizeof(Memseg))
        records[:] = one * n
        records.cast("Q")[0::6] = libc.packed("Q", iovas)
        libc.store_sequence(at + 8, n, self.va(start), size, sizeof(Memseg))
        records.cast("I")[11::12] = libc.packed("I", flags)
        self.note(start, n)
        self.arr.mark(start, n)

    def fill_some(self, iovas: dict[int, int], nchannel: int, nrank: int) -> None:
        """Write the records of scattered pages, {segment: IOVA} ascending, then mark them used.

        The segments between them are unused.
        """
        first, last = next(iter(iovas)), next(reversed(iovas))
        rest, gap = (self.page_sz, self.page_sz, self.socket, nchannel, nrank, 0), bytes(48)
        make, base, size = Struct("=QQQQiIII").pack, self.base_va, self.page_sz
        records = [
            make(iovas[i], base + i * size, *rest) if i in iovas else gap
            for i in range(first, last + 1)
        ]
        self.arr.allocate(first, len(records))
        libc.memory(self.arr.address(first), len(records) * 48)[:] = b"".join(records)
        for start, n in runs(bits(iovas)):
            self.note(start, n)
        self.arr.mark_all(bits(iovas))

    def clear(self, start: int, n: int) -> None:
        """Mark n pages free, then clear their records."""
        self.arr.mark(start, n, used=False)
        self.note(start, n, False)
        memset(self.arr.address(start), 0, n * sizeof(Memseg))


class MemsegLists:
    """The lists of one EAL, in the slots of its config.

    config: the `rte_mem_config` structure. peers: the other processes that map the memory.
    Walks hold memory_hotplug_lock for reading unless unlocked; they end with the first value of
    the callback that is neither 0 nor None, and return it.
    """

    def __init__(
        self, config: Any, arrays: Arrays, space: VaSpace, release: Release, peers: Alone
    ) -> None:
        self.config, self.arrays, self.space, self.release = config, arrays, space, release
        self.peers = peers
        self.slots: dict[int, MemsegList] = {}  # those that exist, by slot
        self._locks: dict[int, RwLock] = {}  # those taken here, by address
        self.lock = self.rwlock("memory_hotplug_lock")

    def rwlock(self, name: str) -> RwLock:
        """Return the lock of that name in config, one object for all who ask."""
        va = addressof(self.config) + getattr(type(self.config), name).offset
        if va not in self._locks:
            self._locks[va] = self.peers.rwlock(va, self.release.rwlock)
        return self._locks[va]

    def config_locks(self) -> list[SharedLock]:
        """Return every lock of config, also those that only DPDK's libraries take."""
        kind, at = type(self.config), addressof(self.config)
        vas = [at + getattr(kind, name).offset for name, *_ in kind._fields_ if name[-4:] == "lock"]
        return [self._locks.get(va) or self.peers.lock(va) for va in vas]

    def __iter__(self) -> Iterator[MemsegList]:
        return iter([self.slots[i] for i in sorted(self.slots)])

    def create(self, plans: list[ListPlan]) -> None:
        """Create the planned lists: array, then address space, from one rising cursor."""
        whole = length = 0
        if self.release.lists == "per-type" and plans:
            last, biggest = plans[-1], max(p.page_sz for p in plans)
            length = last.offset + last.n_segs * last.page_sz
            try:
                whole = self.space.reserve(length, biggest)
            except EalError as e:
                text = "Cannot reserve VA space for memseg lists"
                raise e.within(text, stage="memseg") from None
            c = self.config
            c.mem_va_addr, c.mem_va_len, c.mem_va_page_sz = whole, length, biggest
        for i, p in enumerate(plans):
            try:
                self.add(p.name, p.page_sz, p.n_segs, p.socket, whole + p.offset if whole else 0, i)
            except EalError:
                if whole:
                    libc.munmap(whole + p.offset, length - p.offset)
                raise

    def attach(self) -> None:
        """Map the arrays of a primary's lists, and reserve the address space of its pages.

        Raises EalError(ENOMEM) that names what this process has at such an address.
        linux/eal_memory.c: memseg_secondary_init
        """
        c = self.config
        try:
            if self.release.lists == "per-type" and not c.legacy_mem:
                self._reserve_at(c.mem_va_addr, c.mem_va_len, c.mem_va_page_sz)
            for slot, shared in enumerate(c.memsegs):
                m = layout.MemsegList.from_buffer_copy(shared)  # which no process changes meanwhile
                if not m.memseg_arr.len or m.external:
                    continue
                self._must_fit(slot, m)
                arr = self.arrays.attach(shared.memseg_arr, sizeof(Memseg))
                if arr.len != m.memseg_arr.len:
                    m.memseg_arr.len = arr.len
                    self._must_fit(slot, m)
                if self.release.lists != "per-type" or c.legacy_mem:
                    self._reserve_at(m.base_va, m.len, m.page_sz)
                self.slots[slot] = msl = MemsegList(slot, m, arr)
                msl.c = shared
            if self.release.lists != "per-type" and not c.legacy_mem:
                self._must_be_planned()
        except EalError as e:
            text = "Cannot attach to primary process memseg lists"
            raise e.within(text, ENOMEM, "memseg") from None

    def _must_be_planned(self) -> None:
        """Raise EalError(EINVAL) for lists of another length than this build gives them.

        Up to 26.03 the name of a page's file is a number that depends on that length.
        """
        lists = list(self.slots.values())
        types = len({(m.page_sz, m.socket) for m in lists})
        for page_sz in {m.page_sz for m in lists}:
            lengths = {m.n_segs for m in lists if m.page_sz == page_sz}
            wanted = {p.n_segs for p in _many_lists(page_sz, 0, types)}
            if lengths != wanted:
                what = f"built with other limits: lists of {page_sz >> 10} kB pages"
                found = {"expected": f"{max(wanted, default=0)} pages", "found": f"{max(lengths)}"}
                fix = "attach with the build of the primary"
                raise EalError(EINVAL, "memseg", what, fix=fix, reason="build", **found)

    def _must_fit(self, slot: int, m: layout.MemsegList) -> None:
        """Raise EalError(EINVAL) if the words of a list contradict each other."""
        c, va, size, end = self.config, m.base_va, m.page_sz, m.base_va + m.len
        fits = va and size >= layout.PGSIZE_4K and not size & size - 1 and not va % size
        if self.release.lists == "per-type" and not c.legacy_mem:
            fits = fits and c.mem_va_addr <= va and end <= c.mem_va_addr + c.mem_va_len
        if not fits or m.len != m.memseg_arr.len * size:
            sides = {
                "expected": "pages of a power of two that fill its bytes, aligned",
                "found": f"{m.memseg_arr.len} pages of {size} bytes, {m.len:#x} bytes at {va:#x}",
            }
            what, fix = f"list {slot} of the primary's config is damaged", "start the primary again"
            raise EalError(EINVAL, "memseg", what, fix=fix, reason="damaged", **sides)

    def _reserve_at(self, va: int, size: int, page_sz: int) -> None:
        if not (va and size and page_sz):
            what = "the primary's config names no address space for its lists"
            raise EalError(ENOMEM, "memseg", what, reason="damaged")
        try:
            self.space.reserve(size, page_sz, va)
        except EalError as e:
            fix = "please use '--base-virtaddr' option in the primary"
            what = f"Cannot reserve {size} bytes at [{va:#x}] - {fix}"
            raise e.within(what, ENOMEM, "memseg") from None

    def add(
        self, name: str, page_sz: int, n_segs: int, socket: int, va: int = 0, slot: int = 0
    ) -> MemsegList:
        """Create one list; va 0 reserves address space for it.

        common/eal_common_memory.c: eal_memseg_list_init_named, eal_memseg_list_alloc
        """
        c = self.config.memsegs[slot]
        arr = self.arrays.create(c.memseg_arr, name, n_segs, sizeof(Memseg))
        c.page_sz, c.socket_id, c.heap = page_sz, socket, 1
        try:
            c.base_va = va or self.space.reserve(page_sz * n_segs, page_sz)
        except EalError as e:
            text = f"Cannot allocate VA space for memseg list {name}"
            raise e.within(text, stage="memseg") from None
        c.len = page_sz * n_segs
        msl = self.slots[slot] = MemsegList(slot, c, arr)
        return msl

    def release_unused(self) -> None:
        """Remove the lists without a page. linux/eal_memory.c: eal_legacy_hugepage_init"""
        for msl in self:
            if not msl.count:
                libc.munmap(msl.base_va, msl.len)
                self.arrays.release(msl.arr)
                del self.slots[msl.index]  # also if destroy fails: nothing of it is mapped
                c = msl.c
                c.base_va = c.heap = 0
                if self.release.zeroes_released:
                    c.len = 0
                self.arrays.destroy(c.memseg_arr)

    def unmap(self) -> None:
        """Unmap the lists' address space; Arrays unmaps their arrays.

        rte_eal_memory_detach
        """
        for msl in self:
            if not msl.external:
                libc.munmap(msl.base_va, msl.len)
            self.arrays.release(msl.arr)
            msl.c = CLOSED
        self.slots.clear()

    # the walks: common/eal_common_memory.c: rte_memseg_list_walk, rte_memseg_walk, ...

    def walk_lists(
        self, fn: Callable[[MemsegList], int | None], unlocked: bool = False, heap: bool = False
    ) -> int:
        """Call fn(list) for each list, also empty and external ones; heap: only those of a heap."""
        return self._walk(((m,) for m in self if m.c.heap or not heap), fn, unlocked)

    def walk_segments(
        self, fn: Callable[[MemsegList, Memseg], int | None], unlocked: bool = False
    ) -> int:
        """Call fn(list, record) for each used segment."""
        runs = ((m, start, n) for m in self for start, n in m.arr.runs())
        segs = ((m, m.seg(i)) for m, start, n in runs for i in range(start, start + n))
        return self._walk(segs, fn, unlocked)

    def walk_contig(
        self, fn: Callable[[MemsegList, Memseg, int], int | None], unlocked: bool = False
    ) -> int:
        """Call fn(list, first record, bytes) for each run of used segments."""
        runs = ((m, m.seg(start), n * m.page_sz) for m in self for start, n in m.arr.runs())
        return self._walk(runs, fn, unlocked)

    def _walk(self, items: Any, fn: Callable[..., int | None], unlocked: bool) -> int:
        with signals_deferred() as block:
            if not unlocked:
                self.lock.read()
            try:
                with signals_allowed(block):
                    for args in items:
                        if answer := fn(*args):
                            return answer
                return 0
            finally:
                if not unlocked:
                    self.lock.read_done()

    def of(self, va: int) -> tuple[MemsegList, int] | None:
        """Return the list that an address belongs to, and the segment, used or not; or None."""
        for msl in self.slots.values():
            if msl.base_va <= va < msl.base_va + msl.len:
                return msl, (va - msl.base_va) // msl.page_sz
        return None
