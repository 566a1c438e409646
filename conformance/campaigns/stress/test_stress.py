"""Growth, shrinkage, arrivals, ends and deaths at random: what the processes share stays whole.

pytest conformance/campaigns/stress --target=pyeal --secondary=librte_eal [--stress-seconds=3600]
"""

import time

import pytest

from conformance import MB, modes, needs
from conformance.campaigns.stress.shared import Shared
from conformance.campaigns.stress.world import CANNOT


@needs(pages={"2M": 48})
@modes("dynmem", "single-file")
def test_all_agree_whatever_happens_between_requests(stress):
    """Secondaries of both kinds come, go and are killed at rest; each byte and word is checked."""
    stress(deadly=False)


@needs(pages={"2M": 48})
@modes("dynmem", "single-file")
def test_a_death_inside_of_a_malloc_is_survived(stress, request):
    """Each survivor continues, or learns in a bounded time which lock the dead process held."""
    survives(request)
    stress(deadly=True)


@needs(pages={"2M": 12})
def test_a_torn_heap_is_mended(start, join, request, evidence):
    """A dead process held the lock, the links are broken: a primary left alone continues."""
    survives(request)
    eal = start("-m", "4")

    def areas():
        with Shared(eal.decode, eal.run, eal.hugedir(), eal.prefix) as now:
            return now.check_heap(*now.heaps[0])

    own, other = areas(), join()
    held = [other.malloc(size).va for size in (100, 5000, 3 * MB, 64, 700000, 300)]
    for va in held[1::2]:
        eal.free(va)
    for va in held[::2]:
        other.poke(va, b"stays")
    other.kill()
    before = areas()
    at = eal.decode.offsetof("rte_mem_config", "malloc_heaps")
    with open(eal.run / "config", "r+b") as f:
        for field in ("lock", "alloc_count", "last", "free_head"):
            f.seek(at + eal.decode.offsetof("malloc_heap", field))
            f.write((1).to_bytes(4, "little"))
    for field in ("next", "prev"):  # of an element in the middle
        eal.poke(held[2] - 128 + eal.decode.offsetof("malloc_elem", field), bytes(8))
    begun = time.monotonic()
    va = eal.malloc(64).va
    evidence(f"{len(before)} areas in use, after {time.monotonic() - begun:.1f} s again")

    assert va
    assert [eal.peek(a, 5) for a in held[::2]] == [b"stays"] * 3
    assert areas() == before | {va: 64}
    for a in (va, *(set(before) - set(own))):
        eal.free(a)
    eal.close()
    assert eal.page_files() == []


def survives(request):
    target = request.config.getoption("target").partition(":")[0]
    if why := CANNOT.get(target, {}).get("die"):
        pytest.skip(f"wanted a primary that survives it, found {target}: {why}")
