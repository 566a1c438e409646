"""pyeal beside a running dpdk-testpmd that forwards packets: its memory seen, shared and grown."""

from __future__ import annotations

import pytest

from conformance import HUGE_FILES, MB, modes, needs

PAGE = 2 * MB
ROLES = "secondary", "observer"
REFUSED, DONE = "Failed to attach device on secondary process", "Now total ports is 2"
pytestmark = needs(pages={"2M": 32})


def seen(eal):
    return [(s.addr, s.len, s.iova) for s in eal.segments()]


@modes(*HUGE_FILES)
@pytest.mark.parametrize("role", ROLES)
def test_pyeal_sees_testpmds_memory(testpmd, beside, memory, role, mode, evidence):
    """Segments and zones are where DPDK finds them, and the pool's own name is read there."""
    pmd = testpmd()
    eal = beside(pmd, role)
    segments, zones = memory(pmd)
    pool, size = zones["MP_mb_pool_0"]
    name = eal.peek(pool, 9)
    evidence(f"{len(segments)} segments, zones {', '.join(zones)}, read {name}")

    assert seen(eal) == segments
    assert name == b"mb_pool_0"
    assert {n: eal.memzone("lookup", n).addr for n in zones} == {n: z[0] for n, z in zones.items()}
    assert eal.memzone("lookup", "MP_mb_pool_0").len == size


def test_pyeal_has_testpmd_grow(testpmd, beside, memory, evidence):
    """It makes 20 MB for a secondary while it forwards; an observer sees them come and go."""
    pmd = testpmd()
    watcher, eal = beside(pmd, "observer"), beside(pmd)
    before = seen(watcher)
    pmd("start")
    va = eal.malloc(20 * MB).va
    assert va
    eal.poke(va + 15 * MB, b"shared")
    watcher.ask("refresh")
    grown, read = seen(watcher), watcher.peek(va + 15 * MB, 6)
    files = len(eal.page_files())
    assert eal.free(va).ret == 0
    watcher.ask("refresh")
    evidence(f"{len(before)} pages, {len(grown)} with 20 MB more, read {read}")
    pmd("stop")
    left, _ = memory(pmd)  # not before: 20.11's dpdk-proc-info never frees what it allocated

    assert read == b"shared"
    assert len(grown) - len(before) in (10, 11)
    assert files == len(grown)
    assert before == seen(watcher) == seen(eal) == left


def test_testpmd_outlives_pyeal(testpmd, beside, evidence):
    """One pyeal leaves, one is killed: testpmd continues, hosts the next, and ends as usual."""
    pmd = testpmd()
    first, second = beside(pmd), beside(pmd)
    pmd("start")
    first.close()
    second.kill()
    third = beside(pmd)
    assert third.malloc(20 * MB).va
    said = pmd("stop")
    third.close()
    took = pmd.quit()
    evidence(f"ended in {took:.1f} s")

    assert "Forward statistics for port 0" in said
    assert took < 2


@pytest.mark.parametrize(("role", "limit"), [("secondary", 7), ("observer", 2)], ids=ROLES)
def test_testpmd_quits_beside_pyeal(testpmd, beside, role, limit, evidence):
    """It ends well. Any secondary but another testpmd leaves its "stop" unanswered, for 5 s."""
    pmd = testpmd()
    eal = beside(pmd, role)
    took = pmd.quit()
    evidence(f"ended in {took:.1f} s; pyeal said {eal.logged('action')}")

    assert took < limit
    assert "Bye" in pmd.text


@pytest.mark.parametrize(("role", "says"), [("secondary", REFUSED), ("observer", DONE)], ids=ROLES)
def test_testpmd_attaches_ports_beside_pyeal(testpmd, beside, role, says, evidence):
    """A port that is added needs every secondary's consent, which EAL without drivers refuses."""
    pmd = testpmd()
    beside(pmd, role)
    said = pmd("port attach net_null1")
    evidence(said.strip().splitlines()[-1])

    assert says in said
    assert "net_null0" in pmd("show port summary all")
