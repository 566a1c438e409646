"""DPDK's programs as secondaries of a pyeal primary."""

from __future__ import annotations

import re

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
def test_proc_info_shows_memory(host, program, mode, evidence):
    """dpdk-proc-info -m lists the segments and zones that pyeal made, where pyeal has them."""
    eal = host()
    zone = eal.memzone("reserve", "of pyeal", 5000)
    said = program(eal, "dpdk-proc-info", "--", "-m")
    shown = re.findall(r"IOVA:(0x\w+), len:(\d+), virt:(0x\w+)", said)
    zones = re.findall(r"name:<(.*?)>, len:(0x\w+), virt:(0x\w+)", said)
    evidence(f"{len(shown)} segments, zones {zones}")

    assert [tuple(int(x, 0) for x in s) for s in shown] == [
        (s.iova, s.len, s.addr) for s in eal.segments()
    ]
    assert ("of pyeal", hex(zone.len), hex(zone.addr)) in zones
