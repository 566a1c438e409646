"""DPDK's programs as secondaries of a pyeal primary."""

from __future__ import annotations

import statistics
import time

import pytest

from conformance import HUGE_FILES, modes, needs

# tests that allocate; some need more than there is, or what only a primary may do
OTHERS = (
    "external_mem mempool ring stack hash thash efd lpm lpm6 rib fib mbuf event_ring "
    "func_reentrancy multiprocess tailq service"
).split()


@needs(pages={"2M": 32})
@modes(*HUGE_FILES)
@pytest.mark.parametrize("autotest", ["memory", "memzone", "malloc", "fbarray"])
def test_dpdk_test(host, program, autotest, mode, evidence):
    """An autotest passes in pyeal's memory and frees what it allocated."""
    eal = host()
    before = eal.segments()
    begun = time.monotonic()
    said = program(
        eal,
        "dpdk-test",
        "--proc-type=secondary",
        "-l",
        "0",
        env={"DPDK_TEST": f"{autotest}_autotest"},
    )
    took, after = time.monotonic() - begun, eal.segments()
    evidence(
        f"{said.split('Test OK')[0].count(chr(10))} lines, {len(before)} segments before, "
        f"{len(after)} after, {took:.2f} s"
    )

    assert "Test OK" in said
    assert after == before
    assert took < 4  # nothing that it asked pyeal was left without an answer, which takes 5 s


@needs(pages={"2M": 32})
@modes(*HUGE_FILES)
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

    # the primary allocates for them, except for two pages
    ours, real = dict(verdicts(host(mb=4))), dict(verdicts(dpdk_test(mb=4)))
    evidence(", ".join(f"{n} {ours[n].removeprefix('Test ')}" for n in OTHERS))

    assert ours == real
    assert list(ours.values()).count("Test OK") >= 9


@needs(pages={"2M": 32})
@modes(*HUGE_FILES)
def test_twenty_attach_in_a_row(host, program, mode, evidence):
    """Each finds its addresses free, wherever the kernel put its libraries; nothing is left."""
    eal, took = host(), []
    files, before = eal.run_files(), eal.config().malloc_heaps[0].alloc_count
    for _ in range(20):
        begun = time.monotonic()
        program(
            eal,
            "dpdk-test",
            "--proc-type=secondary",
            "-l",
            "0",
            env={"DPDK_TEST": "version_autotest"},
        )
        took.append(time.monotonic() - begun)
    left = set(eal.run_files()) - set(files)
    evidence(f"{statistics.median(took):.3f} s each, {max(took):.3f} s at most, {len(left)} files")

    # 20.11 leaves its shadow arrays to be swept by the next
    assert len(left) == (len(eal.lists()) if eal.release.startswith("20.11") else 0)
    assert eal.config().malloc_heaps[0].alloc_count == before


@needs(pages={"2M": 64})
def test_testpmd_wants_its_primarys_pool(host, program, dpdk_test, release, evidence):
    """As a secondary it gets through rte_eal_init, then misses a pool; so with DPDK's."""
    says = "Get mbuf pool for socket 0 failed"
    if release.startswith("20.11"):
        says = "Secondary process type not supported"

    argv = "-l", "0-1", "--", "--num-procs=2", "--proc-id=1"
    ours, real = (
        program(eal, "dpdk-testpmd", "--proc-type=secondary", *argv, good=(1,))
        for eal in (host(), dpdk_test())
    )
    evidence(ours.strip().splitlines()[-1])

    assert says in ours
    assert says in real
