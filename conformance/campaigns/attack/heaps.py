"""One wrong word at a time in a healthy heap: inspect names it, with its element.

`damaged`: a word that carries meaning is replaced. `healthy`: heaps after random requests, and none
is called damaged.
"""

from __future__ import annotations

import random
from ctypes import string_at
from typing import Any

from conformance.campaigns.attack import worlds
from conformance.campaigns.fuzz import small
from conformance.campaigns.fuzz.engine import Case, Wrong
from pyeal.fbarray import file_size
from pyeal.heap import HEADER, elem
from pyeal.layout import BUSY, FREE, MallocElem
from pyeal.look.snapshot import Snapshot

FIELDS = "heap", "prev", "next", "msl", "state", "size"  # of every element
OF_FREE = "pad", "free_next", "free_prev"
OF_HEAP = "first", "last", "alloc_count", "total_size"
NAMED = 0.95  # of the wrong words
BLOCK = 20  # damages of one heap in a trial


class Memory:
    """A small EAL's config, array and pages as bytes: a source of a Snapshot."""

    def __init__(self, eal: small.Small) -> None:
        (msl,) = eal.lists
        eal.config.magic, eal.config.version = 19820526, eal.release.word
        eal.config.mem_cfg_addr = eal.va
        self.config = bytearray(eal.config)
        self._array = string_at(msl.arr.desc.data, file_size(msl.n_segs, 48))
        self.base, pages = msl.base_va, []
        for i in range(msl.n_segs):
            used = msl.arr.is_used(i)
            pages.append(string_at(msl.va(i), small.PAGE) if used else bytes(small.PAGE))
        self.pages = bytearray(b"".join(pages))

    def read(self, name: str) -> bytes:
        if name == "config":
            return bytes(self.config)
        raise FileNotFoundError(2, "none", name)

    def array(self, desc: Any) -> bytes:
        return self._array

    def array_bytes(self, desc: Any) -> int:
        return len(self._array)

    def at(self, va: int, n: int) -> bytes:
        at = va - self.base
        if not 0 <= at <= len(self.pages) - n:
            raise OSError(14, "no memory", hex(va))
        return bytes(self.pages[at : at + n])


def problems(memory: Memory) -> list[str]:
    """What inspect reports of the only heap."""
    s = Snapshot(memory, memory.at)  # type: ignore[arg-type]
    (heap,) = s.heaps()
    return [*([heap["unread"]] if "unread" in heap else []), *s.problems]


class Heaps(small.OnSmall):
    """A heap after random requests, of a release of each layout."""

    allowed = ()

    def case(self, seed: int, i: int) -> Case:
        release = worlds.HEAPS[i % len(worlds.HEAPS)]
        return Case(self.name, release, f"{seed} {i}", ())

    def used(self, case: Case) -> tuple[Memory, list[int], random.Random]:
        """Return a heap as it is after some requests, its elements, and the numbers to go on."""
        rng, eal = random.Random(case.how), self.small(case.seed)
        try:
            areas: list[int] = []
            for _ in range(rng.choice((3, 10, 40))):
                size, align = (
                    rng.choice((64, 500, 4000, 30000, 150000)),
                    rng.choice((0, 0, 64, 4096)),
                )
                if areas and rng.random() < 0.35:
                    eal.heaps.free(areas.pop(rng.randrange(len(areas))))
                elif va := eal.heaps.malloc(rng.randint(1, size), align):
                    areas.append(va)
            if not areas:
                areas.append(eal.heaps.malloc(64))
            found, va = [], eal.heaps.heaps[0].c.first
            while va:
                found.append(va)
                va = elem(va).next
            return Memory(eal), found, rng
        finally:
            eal.close()


class Healthy(Heaps):
    name = "healthy heaps"

    def read(self, case: Case) -> None:
        memory, _, _ = self.used(case)
        if said := problems(memory):
            raise Wrong(f"a healthy heap is called damaged: {said}")


class Damaged(Heaps):
    name = "damaged heaps"

    def read(self, case: Case) -> None:
        memory, elements, rng = self.used(case)
        missed = []
        for _ in range(BLOCK):
            config, pages = bytes(memory.config), bytes(memory.pages)
            what = self._damage(memory, elements, rng)
            said = problems(memory)
            if not any(what[0] in text and "damaged" in text for text in said):
                missed.append((*what, said[:2]))
            memory.config[:], memory.pages[:] = config, pages
        if len(missed) > BLOCK * (1 - NAMED):
            raise Wrong(f"{len(missed)} of {BLOCK} not named: {missed[:6]}")

    def _damage(self, memory: Memory, elements: list[int], rng: random.Random) -> tuple[str, ...]:
        """Replace one word; return what the report must contain, and what was done."""
        va = rng.choice(elements)
        e = MallocElem.from_buffer(memory.pages, va - memory.base)
        fields = [*FIELDS, *(OF_FREE if e.state & 7 == FREE else ("pad",) * bool(e.pad))]
        if rng.random() < 0.1:
            s = Snapshot(memory)  # type: ignore[arg-type]
            kind = type(s.c)
            field = rng.choice((*OF_HEAP, *(f"free_head[{i}]" for i in range(13))))
            target: Any = kind.from_buffer(memory.config).malloc_heaps[0]
            name, _, index = field.partition("[")
            old = target.free_head[int(index[:-1])] if index else getattr(target, name)
            new = self._other(old, 8 if index or name != "alloc_count" else 4, rng, elements)
            if index:
                target.free_head[int(index[:-1])] = new
            else:
                setattr(target, name, new)
            return (f"heap 0: {field}:", f"{old:#x} -> {new:#x}")
        field = rng.choice(fields)
        old = getattr(e, field)
        new = self._other(old, 4 if field in ("state", "pad") else 8, rng, elements)
        while field == "pad" and not new:  # no other word decides that it became 0
            new = self._other(old, 4, rng, elements)
        if field == "state":  # of which only three bits mean something, four in later releases
            new = old ^ rng.choice((1, 2, 4, 3))
        setattr(e, field, new)
        busy = "Busy" if old == BUSY else ""
        return (f"{va:#x}", field, f"{old:#x} -> {new:#x} {busy}")

    @staticmethod
    def _other(old: int, size: int, rng: random.Random, elements: list[int]) -> int:
        """Return another value for a word: a bit, a neighbour's, a step, anything."""
        while True:
            new = (
                rng.choice(
                    (
                        old ^ 1 << rng.randrange(size * 8),
                        0,
                        old + rng.choice((-64, 64, 4096, -4096)),
                        rng.choice(elements),
                        old * 2,
                        rng.getrandbits(size * 8),
                        old + HEADER,
                    )
                )
                & (1 << size * 8) - 1
            )
            if new != old:
                return new


FAMILIES = [Healthy(), Damaged()]
