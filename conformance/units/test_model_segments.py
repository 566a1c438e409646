"""Pages driven at random, on real hugepages: what is used, where, and what is in it.

Pages: pyeal's allocator against a dictionary of pages, with a second process that comes and goes.
Areas: malloc of pyeal and of librte_eal, whose addresses and pages must be the same.
"""

from __future__ import annotations

import itertools
import os
from errno import ENOMEM
from typing import Any

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from conformance import MB, needs
from conformance.harness.child import TargetError
from conformance.units import models
from conformance.units.test_fbarray import biggest, contig, find_n

PAGE = 2 * MB
POOL = 12  # pages of a box
SEGS = 40  # more than can be used: what the model knows of a list
NUMBERS = itertools.count(1)
WORDS = 8


class Pages(RuleBasedStateMachine):
    """alloc and free_segs: {segment: what was written there}"""

    world: models.World

    def __init__(self) -> None:
        super().__init__()
        eals = self.world.enter()
        self.eal, self.join = eals["pyeal"], self.world.join
        self.other: Any = None
        first = self.eal.segments()
        self.base = first[0].addr - first[0].seg * PAGE
        self.own = {s.seg for s in first}  # the heap's
        self.held: list[list[int]] = []
        self.content: dict[int, bytes] = {}

    @property
    def used(self) -> list[bool]:
        mine = self.own | self.content.keys()
        return [i in mine for i in range(SEGS)]

    def va(self, seg: int) -> int:
        return int(self.base + seg * PAGE)

    def teardown(self) -> None:
        if self.other:
            self.leave()
        while self.held:
            self._free(0)
        self.is_as_the_model_says()
        self.world.leave()

    @rule(n=st.integers(1, POOL + 1), exact=st.booleans())
    def alloc(self, n: int, exact: bool) -> None:
        """Exact: the lowest run that has room, or nothing. Else what there is in the longest."""
        left = POOL - sum(self.used)
        if exact:
            start, want = find_n(self.used, 0, n, False, False), n if n <= left else 0
        else:
            # behind what the model knows all is free: that run is the longest
            start = biggest(self.used, 0, False, False)
            want = min(n, left, contig(self.used, start, False, False))
        try:
            got = [s.seg for s in self.eal.alloc(PAGE, 0, n, exact)]
        except TargetError as e:
            assert (want, e.errno) == (0, ENOMEM), e.text
            return
        assert got == list(range(start, start + want)) and want
        for seg in got:
            assert self.eal.peek(self.va(seg), WORDS) == bytes(WORDS), "a page that is not fresh"
            self.content[seg] = next(NUMBERS).to_bytes(WORDS, "little")
            self.eal.poke(self.va(seg), self.content[seg])
        self.held.append(got)

    def _free(self, i: int) -> None:
        segs = self.held.pop(i)
        done = self.eal.ask("free_segs", segs=[{"list": 0, "seg": s} for s in segs])
        assert done["ret"] == 0
        for seg in segs:
            del self.content[seg]

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        self._free(data.draw(st.integers(0, len(self.held) - 1), "which"))

    @precondition(lambda self: not self.other)
    @rule(kind=st.sampled_from(["pyeal", "librte_eal"]))
    def attach(self, kind: str) -> None:
        self.other = self.join(kind if kind in self.world.kinds else "pyeal")
        self._own_again()

    def _own_again(self) -> None:
        """A secondary that has services takes heap memory, maybe from a new page."""
        self.own = {s.seg for s in self.eal.segments()} - self.content.keys()

    @precondition(lambda self: self.other)
    @rule()
    def leave(self) -> None:
        other, self.other = self.other, None
        other.close()
        self._own_again()

    @precondition(lambda self: self.other and self.content)
    @rule(data=st.data())
    def other_writes(self, data: st.DataObject) -> None:
        seg = data.draw(st.sampled_from(sorted(self.content)), "segment")
        self.content[seg] = next(NUMBERS).to_bytes(WORDS, "little")
        self.other.poke(self.va(seg), self.content[seg])

    @invariant()
    def is_as_the_model_says(self) -> None:
        segs = self.eal.segments()
        files = {f"{self.eal.prefix}map_{s.seg}" for s in segs}
        pool = os.statvfs(self.eal.hugedir())
        assert [(s.list, s.seg, s.addr, s.len) for s in segs] == [
            (0, i, self.va(i), PAGE) for i, used in enumerate(self.used) if used
        ]
        assert set(self.eal.page_files()) == files
        assert pool.f_bfree == POOL - len(segs)
        for eal in filter(None, (self.eal, self.other)):
            assert {s: eal.peek(self.va(s), WORDS) for s in self.content} == self.content
        if self.other:
            assert self.other.segments() == segs


class Areas(RuleBasedStateMachine):
    """malloc and free: both targets take the same addresses and pages, and keep what is written."""

    world: models.World

    def __init__(self) -> None:
        super().__init__()
        self.eals = self.world.enter()
        self.first = self.pages()
        self.areas: dict[int, tuple[int, bytes]] = {}

    def pages(self) -> dict[str, list[tuple[int, int, int]]]:
        return {
            who: [(s.list, s.seg, s.addr) for s in eal.segments()] for who, eal in self.eals.items()
        }

    def teardown(self) -> None:
        for va in list(self.areas):
            self._free(va)
        self.all_agree()
        assert self.pages() == self.first
        self.world.leave()

    @rule(
        size=st.one_of(
            st.integers(1, 3 * MB), st.sampled_from([PAGE, PAGE - 128, 5 * MB, POOL * PAGE])
        ),
        align=st.sampled_from([0, 64, 4096, PAGE]),
    )
    def malloc(self, size: int, align: int) -> None:
        got = {who: eal.malloc(size, align).va for who, eal in self.eals.items()}
        assert len(set(got.values())) == 1, got
        va = got["pyeal"]
        if not va:
            assert size > (POOL - len(self.pages()["pyeal"])) * PAGE - PAGE - align - 256
            return
        assert va % (align or 64) == 0
        assert all(va >= at + n or va + size <= at for at, (n, _) in self.areas.items())
        word = next(NUMBERS).to_bytes(WORDS, "little")
        self.areas[va] = max(size, WORDS), word
        for eal in self.eals.values():
            if size >= WORDS:
                eal.poke(va + size - WORDS, word)

    def _free(self, va: int) -> None:
        size, word = self.areas.pop(va)
        for who, eal in self.eals.items():
            if size > WORDS:
                assert eal.peek(va + size - WORDS, WORDS) == word, who
            eal.free(va)

    @precondition(lambda self: self.areas)
    @rule(data=st.data())
    def free(self, data: st.DataObject) -> None:
        self._free(data.draw(st.sampled_from(sorted(self.areas)), "area"))

    @invariant()
    def all_agree(self) -> None:
        pages = self.pages()
        used = {(0, seg) for _, seg, _ in pages["pyeal"]}
        base = self.first["pyeal"][0][2] - self.first["pyeal"][0][1] * PAGE
        wanted = {
            (0, (x - base) // PAGE) for va, (n, _) in self.areas.items() for x in (va, va + n - 1)
        }
        assert len({tuple(p) for p in pages.values()}) == 1, pages
        assert wanted <= used


@needs(pages={"2M": POOL})
def test_pages_are_where_the_model_says(start: Any, join: Any, evidence: Any) -> None:
    made: list[Any] = []

    def make() -> dict[str, Any]:
        made.append(start("-m", "2", target="pyeal", prefix=f"model_{os.getpid()}_{next(NUMBERS)}"))
        return {"pyeal": made[-1]}

    world = Pages.world = models.World(make)
    world.kinds = [k for k in ("pyeal", "librte_eal") if models.installed(k)]
    world.join = lambda kind: join(target=kind, prefix=made[-1].prefix)
    run_state_machine_as_test(Pages, settings=models.bounds(5, 14))
    evidence(f"{world.n} examples, second processes of {', '.join(world.kinds)}")


@needs(pages={"2M": POOL})
def test_areas_are_the_same_in_both(start: Any, make_box: Any, evidence: Any) -> None:
    def make() -> dict[str, Any]:
        boxes = [make_box({"2M": POOL}) for _ in range(2)]
        prefix = f"model_{os.getpid()}_{next(NUMBERS)}"
        return models.both(start, "-m", "2", box=boxes, prefix=[prefix] * 2)

    Areas.world = models.World(make)
    run_state_machine_as_test(Areas, settings=models.bounds(5, 16))
    evidence(f"{', '.join(Areas.world.eals)}: {Areas.world.n} examples")
