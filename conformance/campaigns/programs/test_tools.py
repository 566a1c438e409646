"""pyeal's tools beside dpdk-testpmd and Open vSwitch, each in a tree of its own: read whole."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import pytest

from conformance import HUGE_FILES, modes, needs
from conformance.harness import proc
from conformance.harness.child import environment
from conformance.harness.passive import calls

pytestmark = needs(pages={"2M": 32})


def pyeal(*args):
    argv = [sys.executable, "-P", "-m", "pyeal", *map(str, args), "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=environment())
    if done.returncode > 1:
        pytest.fail(done.stderr)
    return json.loads(done.stdout)


@modes(*HUGE_FILES)
def test_tools_see_testpmd(testpmd, memory, release, mode, evidence):
    """Mode, pages, the pool's zone and queue, its own name in memory; after kill -9 its files."""
    pmd = testpmd()
    (ps,) = [e for e in pyeal("ps")["eals"] if e["pid"] == pmd.pid]
    got = pyeal("inspect", pmd.pid, "--elements")
    segments, theirs = memory(pmd)  # by dpdk-proc-info
    zones = {z["Name"]: (int(z["Address"], 0), z["Length"]) for z in got["memzones"]}
    pages = [r for ml in got["lists"] for r in ml["runs"]]
    queues = {q["name"] for q in got["tailqs"] if not q["empty"]}
    named = [x["memzone"] for h in got["heaps"] for x in h["elements"] if x["memzone"]]
    evidence(f"{ps['pages']}, zones {', '.join(zones)}, queues {', '.join(queues)}")

    assert (ps["release"], ps["mode"], ps["health"]) == (release, mode, "running")
    assert ps["command"] == "dpdk-testpmd" and ps["file_prefix"] == pmd.prefix
    assert zones == theirs and "MP_mb_pool_0" in zones
    assert pages[0]["va"] == segments[0][0]
    assert sum(r["n"] for r in pages) == len(segments)
    assert {"RTE_MEMPOOL", "RTE_RING"} <= queues
    assert sorted(named) == sorted(zones) and not got["problems"]
    heap = got["heaps"][0]
    assert sum(x["size"] for x in heap["elements"]) == heap["Heap_size"] == ps["bytes"]

    pmd.popen.kill()
    pmd.popen.wait()
    left = pyeal("stale", pmd.prefix)["items"]
    # legacy memory: also the empty file of the page that was one too many
    assert {f["verdict"] for f in left if f["kind"] == "page"} == {"stale"}
    assert sum(f["bytes"] for f in left if f["kind"] == "page") == ps["bytes"]


@needs(pages={"2M": 48}, strace=True)
def test_tools_see_open_vswitch_in_memory(switch, release, tmp_path, evidence):
    """Not a file tells of it: its pages are the kernel's count, its heaps and pool are its own."""
    ovs = switch()
    (ps,) = [e for e in pyeal("ps")["eals"] if e["pid"] == ovs.pid]
    got = pyeal("inspect", ovs.pid, "--elements")
    drawn = pyeal("map", ovs.pid)
    said = {
        name: bad
        for name in ("ps", "inspect", "map")
        if (bad := calls([name, *[ovs.pid] * (name != "ps"), "--json"], tmp_path)[1])
    }
    bytes_ = sum(m.huge for m in proc.smaps(ovs.pid))
    runs = [r for ml in got["lists"] for r in ml["runs"]]
    zones = {z["Name"] for z in got["memzones"]}
    queues = {q["name"] for q in got["tailqs"] if not q["empty"]}
    heap = got["heaps"][0]
    evidence(f"{ps['pages']}, zones {', '.join(zones)}, queues {', '.join(queues)}")

    assert (ps["release"], ps["mode"], ps["health"]) == (release, "in-memory", "running")
    assert (ps["file_prefix"], ps["runtime_dir"]) == (None, None)
    assert ps["bytes"] == bytes_ == sum(r["len"] for r in runs) == heap["Heap_size"]
    assert sum(x["size"] for x in heap["elements"]) == heap["Heap_size"]
    assert {"RTE_MEMPOOL", "RTE_RING"} <= queues and any(z.startswith("MP_ovs") for z in zones)
    assert [r for ml in drawn["lists"] for r in ml["runs"]] == runs
    assert not got["problems"] and said == {}
    if not release.startswith("20.11"):  # its vSwitch does not tell
        first = ovs("dpdk/get-malloc-stats").split("Heap id:1")[0]
        theirs = dict(re.findall(r"\t(\w+):(\d+)", first))
        assert len(theirs) == 6
        assert {k: heap[k] for k in theirs} == {k: int(v) for k, v in theirs.items()}

    ovs.popen.kill()
    ovs.popen.wait()
    run = os.stat(ovs.box.path("/run")).st_dev
    assert [f for f in pyeal("stale", "-a")["items"] if f["dev"] == run] == []
    assert ovs.pid not in [e["pid"] for e in pyeal("ps", "-a")["eals"]]
