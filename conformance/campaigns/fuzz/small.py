"""A primary's memory on a common file system: 64 pages of 64 kB, a heap that grows and shrinks.

Page files lie there whole, as --huge-unlink=never finds them, so that neither hugepages nor root
are wanted. What it has in `config` and in the pages is fuzzed, and so is what a peer says to it.
"""

from __future__ import annotations

import ctypes
import os
import random
from collections.abc import Callable
from pathlib import Path

from conformance.campaigns.fuzz import attach
from conformance.campaigns.fuzz.engine import Case, Wrong
from pyeal import EalError, backing, heap_repair, layout, libc, malloc_mp, mp, options, releases
from pyeal.fbarray import Arrays
from pyeal.heap import Heap, Heaps, elem
from pyeal.hugepages import HugepageInfo
from pyeal.memseg import MemsegLists
from pyeal.peers import Alone
from pyeal.populate import Pagemap, Population
from pyeal.segments import Segments
from pyeal.vaspace import VaSpace, align

PAGE, N = 1 << 16, 64
CONFIG = align(layout.CONFIG_SIZE, libc.PAGE)
ANONYMOUS = libc.MAP_FIXED | libc.MAP_PRIVATE | libc.MAP_ANONYMOUS
PEER = "mp_socket_1_1"
LAID = 12  # areas in the heap before anything is changed
HEAD = ctypes.sizeof(layout.malloc_heap())
ELEM = ctypes.sizeof(layout.MallocElem)


class Small:
    def __init__(self, hugedir: Path, release: releases.Release) -> None:
        attach.any_file_system()
        self.release = release
        self.opts = options.parse(
            ["--huge-unlink=never", "--file-prefix", attach.PREFIX], releases.get("25.11.2")
        )
        self.space = VaSpace()
        self.va = self.space.reserve(CONFIG)
        libc.mmap(self.va, CONFIG, libc.PROT_RW, ANONYMOUS)
        self.config = layout.config(release.family).from_address(self.va)
        self.arrays = Arrays(self.space, None)
        self.lists = MemsegLists(self.config, self.arrays, self.space, release, Alone())
        self.lists.add(f"memseg-{PAGE >> 10}k-0-0", PAGE, N, 0)
        info = HugepageInfo(PAGE, str(hugedir), release.numa_nodes_max)

        def log(level: str, text: str) -> object:
            return None

        population = Population(Pagemap(), False, log)
        held = backing.for_primary(self.lists, self.opts, [info], population)
        self.segments = Segments(self.lists, held)
        self.heaps = Heaps(self.segments, self.opts, [0], 0, self.repair, [])
        self.heaps.create()

    def repair(self, heap: Heap) -> None:
        heap_repair.repair(heap, [], self.opts.match_allocations)

    def close(self) -> None:
        self.segments.close()
        self.lists.unmap()
        self.arrays.close()
        libc.munmap(self.va, CONFIG)

    def whole(self) -> None:
        """Wrong unless every list of the heap says the same."""
        (msl,), (heap,) = self.lists, self.heaps.heaps
        pages = sum(n for _, n in msl.arr.runs()) * PAGE
        va, before, size, busy, free = heap.c.first, 0, 0, 0, set()
        while va:
            e = elem(va)
            if e.prev != before or e.heap != heap.va:
                raise Wrong(f"element {va:#x} has other neighbours")
            size, busy = size + e.size, busy + (e.state & 7 == 1)
            if e.state & 7 == 0:
                free.add(va)
            va, before = e.next, va
        listed = set()
        for i in range(layout.FREELISTS):
            va = heap.c.free_head[i]
            while va:
                listed.add(va)
                va = elem(va).free_next
        said = (heap.c.total_size, heap.c.alloc_count, heap.c.lock, msl.count * PAGE)
        if (size, busy, 0, pages) != said or size != pages or free != listed:
            raise Wrong(f"heap of {size}, {busy} busy, {pages} in pages; it says {said}")


class OnSmall:
    """What the families here share: where the page files lie, and the releases."""

    name = ""
    allowed = (EalError,)

    def __init__(self) -> None:
        self.tmp, self.made = attach.WorkFolder(), set[Path]()

    def small(self, release: str) -> Small:
        attach.quick_locks()
        hugedir, r = Path(self.tmp.name) / f"huge-{os.getppid()}", releases.get(release)
        head = r.page_file[0].format(prefix=attach.PREFIX, list=0)
        if (hugedir / head) not in self.made:  # of the children of one parent, which share them
            self.made.add(hugedir / head)
            hugedir.mkdir(0o700, exist_ok=True)
            for i in range(N):
                with open(hugedir / f"{head}{i}", "wb") as f:
                    f.truncate(PAGE)
        return Small(hugedir, r)

    def ways(self, seed: str) -> list[str]:
        return [""]

    def fields(self, seed: str) -> list[tuple[int, int]]:
        return []


class Words(OnSmall):
    """The heap's words in `config` and the headers of its elements, which any peer may write to."""

    name = "heap"

    def __init__(self) -> None:
        super().__init__()
        self._data: dict[str, bytes] = {}

    def seeds(self) -> list[str]:
        return ["20.11.10", "22.11.11", "26.07"]

    def lay(self, small: Small) -> tuple[list[int], list[int]]:
        """Areas of several sizes, every other one freed: all elements by address, and those
        that stay."""
        rng = random.Random(7)
        areas = [small.heaps.malloc(rng.choice((64, 500, 4000, 30000))) for _ in range(LAID)]
        if not all(areas):
            raise AssertionError(f"no heap to damage: {small.segments.why}")
        for va in areas[::2]:
            small.heaps.free(va)
        found, va = [], small.heaps.heaps[0].c.first
        while va:
            found.append(va)
            va = elem(va).next
        return found, areas[1::2]

    @staticmethod
    def _views(small: Small, elems: list[int]) -> list[memoryview]:
        heads = [(small.heaps.heaps[0].va, HEAD), *((va, ELEM) for va in elems)]
        return [memoryview((ctypes.c_char * n).from_address(va)).cast("B") for va, n in heads]

    def data(self, seed: str) -> bytes:
        if seed not in self._data:
            small = self.small(seed)
            self._data[seed] = b"".join(self._views(small, self.lay(small)[0]))
            small.close()
        return self._data[seed]

    def fields(self, seed: str) -> list[tuple[int, int]]:
        n = (len(self.data(seed)) - HEAD) // ELEM
        words = [x for i in range(n) for x in attach.leaves(layout.MallocElem, HEAD + i * ELEM)]
        used = [w for w in words if (w[0] - HEAD) % ELEM < 80]
        return attach.leaves(layout.malloc_heap())[:18] + used

    def ways(self, seed: str) -> list[str]:
        return ["use", "use", "repair"]

    def read(self, case: Case) -> None:
        content = case.apply(self.data(case.seed))
        small = self.small(case.seed)
        try:
            elems, areas = self.lay(small)
            views = self._views(small, elems)
            for view in views:
                view[:] = content[: len(view)].ljust(len(view), b"\0")
                content = content[len(view) :]
            self._use(small, areas, case.how)
            if not case.edits and case.size is None:
                small.whole()
        finally:
            small.close()

    def _use(self, small: Small, areas: list[int], how: str) -> None:
        refused: list[EalError] = []

        def attempt(fn: Callable[[], object]) -> None:
            try:
                fn()
            except EalError as e:
                refused.append(e)

        heap = small.heaps.heaps[0]
        if how == "repair":
            attempt(lambda: small.repair(heap))
        got: list[int] = []
        for size in (64, 1 << 10, 1 << 14, 5 * PAGE, 30):
            attempt(lambda size=size: got.append(small.heaps.malloc(size)))  # type: ignore[misc]
        for va in (*got, *areas):
            attempt(lambda va=va: small.heaps.free(va))  # type: ignore[misc]
        attempt(small.heaps.free_unused)
        if refused:
            raise refused[0]


class Datagrams(OnSmall):
    """What a peer may send: to a primary whose memory it would change, and to a secondary."""

    name = "message"
    allowed = (EalError, ValueError)

    def __init__(self) -> None:
        super().__init__()
        self._seeds: dict[str, bytes] = {}
        base = 0x100008000
        asks = {
            "grow": malloc_mp._ALLOC.pack(0, 0, PAGE, 100000, 0, 0, 64, 0, False, 9, 0),
            "release": malloc_mp._FREE.pack(1, base, 2 * PAGE, 9, 0),
            "sync": malloc_mp.head(2, 9),
        }
        for release in ("20.11.10", "22.11.11", "25.11.2"):
            wire = mp.Wire(releases.get(release))
            for what, param in asks.items():
                for name in (
                    "mp_malloc_request",
                    "mp_malloc_sync",
                    "mp_malloc_response",
                    "mp_malloc_rollback",
                    "eal_dev_mp_request",
                    "bus_vdev_mp",
                    "eal_vfio_mp_sync",
                )[: 7 if what == "sync" else 1]:
                    m = mp.Message(mp.REQ, name, param)
                    self._seeds[f"{release}:{name}-{what}"] = wire.encode(m)
        self._list = sorted(self._seeds)

    def seeds(self) -> list[str]:
        return self._list

    def data(self, seed: str) -> bytes:
        return self._seeds[seed]

    def ways(self, seed: str) -> list[str]:
        return ["primary", "primary", "secondary"]

    def fields(self, seed: str) -> list[tuple[int, int]]:
        size = len(self._seeds[seed])
        pad = 4 * (size == 340)
        param = 4 + pad + 64 + 8
        head = [(0, 4), (4 + pad, 8), (68 + pad, 4), (72 + pad, 4)]
        return (
            head
            + [
                (param + at, n)
                for at, n in (
                    (0, 4),
                    (8, 8),
                    (16, 8),
                    (24, 8),
                    (32, 4),
                    (36, 4),
                    (40, 8),
                    (48, 8),
                    (56, 1),
                    (64, 8),
                    (72, 4),
                )
            ]
            * 2
        )

    def read(self, case: Case) -> None:
        small = self.small(case.seed.partition(":")[0])
        folder = Path(self.tmp.name) / "run"
        folder.mkdir(exist_ok=True)
        name = "mp_socket" if case.how == "primary" else PEER
        channel = mp.Channel(str(folder), small.release, name, lambda level, text: None)
        try:
            small.heaps.malloc(3 * PAGE)
            before = small.lists.config.malloc_heaps[0].total_size
            if case.how == "primary":
                malloc_mp.GrowthServer(channel, small.heaps, lambda level, text: None)
            else:
                malloc_mp.GrowthClient(
                    channel, small.release, lambda: None, lambda level, text: None
                )
            data = case.apply(self.data(case.seed))
            m = channel.wire.decode(data, "mp_socket_2_2")
            if len(m.param) > mp.PARAM:
                raise Wrong(f"{len(m.param)} bytes of parameters")
            channel._deliver(m) if m.kind in (mp.REP, mp.IGN) else None
            answer = (action := channel.actions.get(m.name)) and action(m.param)
            if answer is not None:
                if len(answer) > mp.PARAM:
                    raise Wrong(f"an answer of {len(answer)} bytes")
                channel.wire.encode(mp.Message(mp.REP, m.name, answer))
            if (
                small.lists.config.malloc_heaps[0].total_size >= before
                and "release" not in case.seed
            ):
                small.whole()
        finally:
            channel.close()
            small.close()


FAMILIES = [Words(), Datagrams()]
