"""What the processes share, judged from their files alone: lists, heaps, locks, shadow arrays.

Offsets come from fixtures/abi; nothing is asked of a process, so nothing waits for a lock.
"""

from __future__ import annotations

import itertools
import os
import re

from conformance.harness.decode import Fbarray

FREE, BUSY, PAD = range(3)
LINE = 64
WORDS = "mlock", "memory_hotplug_lock"  # of the config; a heap has its own


class Inconsistent(AssertionError):
    """The shared state contradicts itself, or the model."""


def must_be(what, found, wanted):
    if found != wanted:
        raise Inconsistent(f"{what}: {wanted} wanted, {found} found")


class Shared:
    """One look at the files of a prefix: `with Shared(eal) as now`. Pages are read by pread.

    run, hugedir: as this process can open them, also when the EAL is dead.
    """

    def __init__(self, decode, run, hugedir, prefix):
        self.d, self.run, self.hugedir, self.prefix = decode, run, hugedir, prefix
        self.config = (run / "config").read_bytes()
        self.single = bool(self._word("single_file_segments"))
        self.at = self._word("mem_cfg_addr", 8)  # where every process has the config
        self.header = decode.constants["MALLOC_ELEM_HEADER_LEN"]
        self._fds: dict[str, int] = {}
        lists = self._many("memsegs", "rte_memseg_list", "RTE_MAX_MEMSEG_LISTS")
        self.lists = [(i, m) for i, m in lists if m.base_va and not m.external]
        self.arrays = {i: self._array(m.memseg_arr.name, m.memseg_arr.len) for i, m in self.lists}
        self.used = {i: set(a.used) for i, a in self.arrays.items()}
        heaps = self._many("malloc_heaps", "malloc_heap", "RTE_MAX_HEAPS")
        self.heaps = [(i, h) for i, h in heaps if h.name.startswith("socket_")]

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for fd in self._fds.values():
            os.close(fd)

    def _word(self, field, size=4):
        at = self.d.offsetof("rte_mem_config", field)
        return int.from_bytes(self.config[at : at + size], "little")

    def _place(self, field, struct, i):
        return self.d.offsetof("rte_mem_config", field) + i * self.d.sizeof(struct)

    def _many(self, field, struct, n):
        for i in range(self.d.constants[n]):
            yield i, self.d.struct(struct, self.config, self._place(field, struct, i))

    def _array(self, name, length):
        return Fbarray(self.d, (self.run / f"fbarray_{name}").read_bytes(), 48, length)

    @property
    def locks(self):
        """Lock words that are taken."""
        found = {w: self._word(w) for w in WORDS}
        found |= {f"lock of {h.name}": h.lock.locked for _, h in self.heaps}
        return {name: value for name, value in found.items() if value}

    @property
    def n_pages(self):
        return sum(map(len, self.used.values()))

    # pages

    def page_file(self, lst, seg):
        """(name, offset) of what backs a segment."""
        if self.single:
            m = dict(self.lists)[lst]
            return f"{self.prefix}map_{lst}", seg * m.page_sz
        if self.d.constants["HUGEFILE_FMT"].count("%d") > 1:
            return f"{self.prefix}map_{lst}_{seg}", 0
        return f"{self.prefix}map_{self.d.constants['RTE_MAX_MEMSEG_PER_LIST'] * lst + seg}", 0

    def files(self):
        """{name: pages} of this prefix's files in the hugepage directory."""
        found = {}
        for f in os.scandir(self.hugedir):
            if f.name.startswith(f"{self.prefix}map_"):
                found[f.name] = f.stat().st_blocks * 512 // self.lists[0][1].page_sz
        return found

    def page_files(self):
        """Names of the files of used pages."""
        return {self.page_file(i, seg)[0] for i, segs in self.used.items() for seg in segs}

    def where(self, va):
        """(list, segment) of an address of a used page."""
        for i, m in self.lists:
            if m.base_va <= va < m.base_va + m.len:
                seg = (va - m.base_va) // m.page_sz
                if seg in self.used[i]:
                    return i, seg
        raise Inconsistent(f"{va:#x} lies in no used page")

    def read(self, va, n):
        i, seg = self.where(va)
        m = dict(self.lists)[i]
        name, at = self.page_file(i, seg)
        if name not in self._fds:
            self._fds[name] = os.open(self.hugedir / name, os.O_RDONLY)
        return os.pread(self._fds[name], n, at + (va - m.base_va) % m.page_sz)

    # checks

    def check_lists(self):
        """Counts, masks and records say the same."""
        for i, m in self.lists:
            arr, name = self.arrays[i], m.memseg_arr.name
            must_be(f"count of {name}", m.memseg_arr.count, len(arr.used))
            for seg in arr.used:
                record = arr[seg]
                facts = record.addr, record.len, record.hugepage_sz, record.socket_id
                wanted = m.base_va + seg * m.page_sz, m.page_sz, m.page_sz, m.socket_id
                must_be(f"record {seg} of {name}", facts, wanted)

    def shadows(self):
        """{pid: {list: array}} of the shadow arrays that lie in the runtime directory."""
        found: dict[int, dict[int, Fbarray]] = {}
        for i, m in self.lists:
            name = re.escape(m.memseg_arr.name)
            for f in os.listdir(self.run):
                if found_pid := re.fullmatch(rf"fbarray_{name}_(\d+)(_[0-9a-f]+)?", f):
                    arr = self._array(f.removeprefix("fbarray_"), m.memseg_arr.len)
                    found.setdefault(int(found_pid[1]), {})[i] = arr
        return found

    def check_shadow(self, who, arrays):
        """What a secondary has mapped is what is used."""
        for i, m in self.lists:
            what = f"{who}'s shadow of {m.memseg_arr.name}"
            mine, theirs = arrays[i], self.arrays[i]
            must_be(what, mine.used, theirs.used)
            for seg in theirs.used:
                must_be(f"{what}, record {seg}", mine[seg].addr, theirs[seg].addr)

    def check_heap(self, i, heap, outside=()):
        """Elements of a heap in the order of addresses, their free lists and the heap's numbers.

        outside: (list, segment) of pages that are no heap's. Answers {address: size} of the areas
        in use.
        """
        at = self.at + self._place("malloc_heaps", "malloc_heap", i)
        elems, order = {}, []
        before, va = 0, heap.first
        while va:
            if va <= before:
                raise Inconsistent(f"{heap.name}: element {va:#x} follows {before:#x}")
            e = elems[va] = self.d.struct("malloc_elem", self.read(va, self.header))
            order.append(va)
            what = f"element {va:#x}"
            must_be(f"{what}: heap", hex(e.heap), hex(at))
            must_be(f"{what}: prev", hex(e.prev), hex(before))
            lst, _ = self.where(va)
            must_be(
                f"{what}: list",
                hex(e.msl),
                hex(self.at + self._place("memsegs", "rte_memseg_list", lst)),
            )
            if e.size < self.header + LINE or e.size % LINE:
                raise Inconsistent(f"{what}: size {e.size}")
            if e.state & 7 not in (FREE, BUSY):
                raise Inconsistent(f"{what}: state {e.state}")
            before, va = va, e.next
        must_be(f"last of {heap.name}", hex(heap.last), hex(before))

        covered, end = set(), 0
        for va in order:
            e = elems[va]
            if va < end:
                raise Inconsistent(f"element {va:#x} begins before {end:#x}, the last one's end")
            lst, first = self.where(va)
            page_sz = dict(self.lists)[lst].page_sz
            last = first + (va % page_sz + e.size - 1) // page_sz
            covered |= {(lst, seg) for seg in range(first, last + 1)}
            end = va + e.size
        of_node = {j for j, m in self.lists if m.socket_id == heap.socket_id}
        pages = {(j, seg) for j in of_node for seg in self.used[j]} - set(outside)
        must_be(f"pages of {heap.name}", sorted(covered), sorted(pages))
        size = sum(dict(self.lists)[j].page_sz for j, _ in pages)
        must_be(f"sum of {heap.name}'s elements", sum(e.size for e in elems.values()), size)
        must_be(f"total_size of {heap.name}", heap.total_size, size)
        self._check_free(at, heap, elems, order)
        busy = {va: e for va, e in elems.items() if e.state & 7 == BUSY}
        must_be(f"alloc_count of {heap.name}", heap.alloc_count, len(busy))
        return {va + e.pad + self.header: e.size - e.pad - self.header for va, e in busy.items()}

    def _check_free(self, at, heap, elems, order):
        """Free elements stand in the free lists, each once, and none beside another."""
        free = {va for va, e in elems.items() if e.state & 7 == FREE}
        for a, b in itertools.pairwise(order):
            same = elems[a].msl == elems[b].msl and a + elems[a].size == b
            if {a, b} <= free and same:
                raise Inconsistent(f"free elements {a:#x} and {b:#x} are not joined")
        heads = at + self.d.offsetof("malloc_heap", "free_head")
        le_next = self.d.offsetof("malloc_elem", "free_list", "le_next")
        listed = []
        for n, head in enumerate(heap.free_head):
            back, va = heads + 8 * n, head.lh_first
            while va:
                if va not in free or va in listed:
                    raise Inconsistent(f"free list {n} holds {va:#x}")
                listed.append(va)
                must_be(f"back link of {va:#x}", hex(elems[va].free_list.le_prev), hex(back))
                back, va = va + le_next, elems[va].free_list.le_next
        must_be(f"free elements of {heap.name}", sorted(listed), sorted(free))
