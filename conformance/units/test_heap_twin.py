"""The malloc heap beside the C library's: the same requests, the same addresses, the same words."""

from __future__ import annotations

import random
from contextlib import ExitStack

import pytest

from conformance import MB
from conformance.harness import host
from conformance.harness.box import Box, Open
from conformance.harness.child import installed
from conformance.harness.eal import Eal

STEPS, LIVE = 200, 24
PAGES, PAGE, LINE = 64, 2 * MB, 64
ALIGNS = 0, 0, 0, 64, 128, 4096, 1 << 21
MODES = {  # pages of a box, arguments
    "no-huge": (0, ["--no-huge", "-m", "64"]),
    "dynmem": (PAGES, ["-m", "4"]),
    "match": (PAGES, ["-m", "4", "--match-allocations"]),
}
PEERS = ["librte_eal", "librte_eal:20.11", "librte_eal:24.11", "librte_eal:25.11"]


def requests(seed: str):
    """What to ask both heaps for: ("malloc", size, align) or ("free", which of those).

    Half of the sizes are a few lines short of an area that was freed, or of whole pages: what
    is left over is or is not worth an element.
    """
    r = random.Random(seed)
    live: list[int] = []
    gone = 1000
    for _ in range(STEPS):
        if live and (len(live) == LIVE or r.random() < 0.4):
            i = r.randrange(len(live))
            gone = live.pop(i)
            yield "free", i
            continue
        edge = r.choice([gone, r.randint(1, 3) * PAGE]) - LINE * r.randrange(9)
        live.append(max(edge, 1) if r.random() < 0.5 else int(2 ** r.uniform(0, 23)))
        yield "malloc", live[-1], r.choice(ALIGNS)


def words(eal: Eal) -> bytes:
    """The heaps of the config."""
    at = eal.decode.offsetof("rte_mem_config", "malloc_heaps")
    n = eal.decode.sizeof("malloc_heap") * eal.decode.constants["RTE_MAX_HEAPS"]
    return (eal.run / "config").read_bytes()[at : at + n]


def told(eal: Eal, seed: str):
    """(request, answer, words of the heaps) of each step, and after the last area is freed."""
    live: list[int] = []
    for verb, *what in requests(seed):
        if verb == "malloc":
            va = eal.malloc(*what).va
            live.append(va)
            yield (verb, *what), va, words(eal)
        else:
            va = live.pop(what[0])
            yield (verb, va), eal.free(va).ret, words(eal)
    for va in live:
        yield ("free", va), eal.free(va).ret, words(eal)


@pytest.fixture
def run(tmp_path):
    """run(target, mode): an EAL alone in a box, which the next one finds as this one did."""
    with ExitStack() as ends:

        def run(target: str, mode: str) -> Eal:
            pages, args = MODES[mode]
            if pages and not host.is_root():
                pytest.skip(f"wanted root for {pages} 2M pages, found an ordinary user")
            try:
                box = Box({"2M": pages} if pages else None) if host.is_root() else Open()
            except host.NotEnough as e:
                pytest.skip(str(e))
            ends.callback(box.close)
            with installed(target):
                eal = Eal(target, [*args, "--file-prefix", "twin"], box, tmp_path, "twin")
            ends.callback(eal.close)
            return eal.init()

        yield run


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("peer", PEERS)
def test_the_same_requests_make_the_same_heap(run, peer: str, mode: str) -> None:
    """Sizes up to 8 MB, alignments up to 2 MB, 24 areas at once; all freed in the end.

    Each step's address and every word of every heap: sums, counts, heads of free lists.
    """
    seed = f"{peer} {mode}"
    theirs = run(peer, mode)
    expected = list(told(theirs, seed))
    theirs.close()
    mine = run(f"pyeal:{theirs.release}", mode)

    for step, (got, want) in enumerate(zip(told(mine, seed), expected, strict=True)):
        assert got == want, f"step {step}"
    assert len({heaps for *_, heaps in expected}) > STEPS / 2
