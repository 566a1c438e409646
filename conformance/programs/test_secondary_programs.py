"""DPDK's programs as secondaries of a pyeal primary."""

from __future__ import annotations

import pytest

from conformance import modes, needs

MODES = "dynmem", "single-file", "legacy"


@needs(pages={"2M": 48})
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


@needs(pages={"2M": 48})
@modes(*MODES)
def test_proc_info_shows_memory(host, memory, mode, evidence):
    """dpdk-proc-info -m lists the segments and zones that pyeal made, where pyeal has them."""
    eal = host()
    zone = eal.memzone("reserve", "of pyeal", 5000)
    segments, zones = memory(eal)
    evidence(f"{len(segments)} segments, zones {zones}")

    assert segments == [(s.addr, s.len, s.iova) for s in eal.segments()]
    assert zones == {"of pyeal": (zone.addr, zone.len)}
