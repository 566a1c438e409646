"""pyeal's tools beside a running dpdk-testpmd in a tree of its own: found, and read whole."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from conformance import modes, needs
from conformance.child import environment

pytestmark = needs(pages={"2M": 32})


def pyeal(*args):
    argv = [sys.executable, "-P", "-m", "pyeal", *map(str, args), "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=environment())
    if done.returncode > 1:
        pytest.fail(done.stderr)
    return json.loads(done.stdout)


@modes("dynmem", "single-file", "legacy")
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
    assert {f["verdict"] for f in left if f["kind"] == "page"} == {"stale"}
    assert sum(f["bytes"] for f in left if f["kind"] == "page") == ps["bytes"]
