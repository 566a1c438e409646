"""DPDK's programs as secondaries of a pyeal primary."""

from __future__ import annotations

import pytest

from conformance import modes, needs

MODES = "dynmem", "single-file", "legacy"
# what takes memory; some want more than there is, or what only a primary may do
OTHERS = (
    "external_mem", "mempool", "ring", "stack", "hash", "thash", "efd", "lpm", "lpm6", "rib", "fib",
    "mbuf", "event_ring", "func_reentrancy", "multiprocess", "tailq", "service",
)  # fmt: skip


@needs(pages={"2M": 32})
@modes(*MODES)
@pytest.mark.parametrize("autotest", ["memory", "memzone", "malloc", "fbarray"])
def test_dpdk_test(host, program, autotest, mode, evidence):
    """An autotest passes in pyeal's memory, and gives back what it took."""
    eal = host()
    before = eal.segments()
    said = program(eal, "dpdk-test", "--proc-type=secondary", "-l", "0",
                   env={"DPDK_TEST": f"{autotest}_autotest"})  # fmt: skip
    after = eal.segments()
    evidence(f"{said.split('Test OK')[0].count(chr(10))} lines, {len(before)} segments before, "
             f"{len(after)} after")  # fmt: skip

    assert "Test OK" in said
    assert after == before


@needs(pages={"2M": 32})
@modes(*MODES)
def test_proc_info_shows_memory(host, memory, mode, evidence):
    """dpdk-proc-info -m lists the segments and zones that pyeal made, where pyeal has them."""
    eal = host()
    zone = eal.memzone("reserve", "of pyeal", 5000)
    segments, zones = memory(eal)
    evidence(f"{len(segments)} segments, zones {zones}")

    assert segments == [(s.addr, s.len, s.iova) for s in eal.segments()]
    assert zones == {"of pyeal": (zone.addr, zone.len)}


@needs(pages={"2M": 64})
def test_other_autotests_end_alike(host, program, dpdk_test, evidence):
    """Seventeen autotests pass and fail in pyeal's memory as they do in a real primary's."""

    def verdicts(eal):
        for name in OTHERS:
            argv = "dpdk-test", "--proc-type=secondary", "-l", "0-1"
            env = {"DPDK_TEST": f"{name}_autotest"}
            said = program(eal, *argv, env=env, good=(0, 1, 255))
            yield name, next((w for w in ("Test OK", "Test Failed") if w in said), said[-100:])

    ours, real = dict(verdicts(host())), dict(verdicts(dpdk_test()))
    evidence(", ".join(f"{n} {ours[n].removeprefix('Test ')}" for n in OTHERS))

    assert ours == real
    assert list(ours.values()).count("Test OK") >= 9
