"""The fake hosts are right: a real librte_eal, put on each of them, counts what the files say.

As root in the box, the trees bound over /sys and /proc, plain directories in place of the mounts.
"""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.harness import fake_host
from conformance.harness.box import Box
from conformance.harness.host import RUN
from conformance.units import oracle

RECORD = struct.Struct("=Q4096s32Ii4x")  # linux: struct hugepage_info, 32 nodes; HPI-021
CASES = [
    pytest.param(host, e, id=f"{name}-{i}")
    for name in fake_host.names()
    for host in [fake_host.load(name)]
    for i, e in enumerate(host.expects)
]


@pytest.fixture(scope="module")
def release() -> str:
    """That of the librte_eal here, which has the layout of RECORD since 21.11."""
    if os.geteuid() or not shutil.which("unshare"):
        pytest.skip("root is wanted for the box")
    done = subprocess.run(
        [sys.executable, oracle.__file__], input="", text=True, capture_output=True
    )
    if done.returncode:
        pytest.skip("no librte_eal on this machine")
    return str(json.loads(done.stdout)["version"].removeprefix("DPDK "))


@pytest.fixture
def box(host: fake_host.HostTree, tmp_path: Path, release: str) -> Iterator[Box]:
    root = host.expand(tmp_path)
    box = Box(binds=host.binds(root), mounts=[("tmpfs", "/mnt", "")])
    for path in host.dirs():
        box.path("/mnt").joinpath(path.removeprefix("/mnt/")).mkdir(parents=True, exist_ok=True)
    yield box
    box.close()


@pytest.mark.parametrize(("host", "e"), CASES)
def test_a_real_eal_counts_what_the_host_file_says(
    host: fake_host.HostTree, e: fake_host.Expect, box: Box, release: str
) -> None:
    if not fake_host.holds(e.releases, release) or e.max_sizes == 4:
        pytest.skip(f"for releases {e.releases or 'of Arm'}, this is {release}")
    run = [*box.enter, sys.executable, oracle.__file__, "discover", *e.args]
    env = os.environ | {"RUNTIME_DIRECTORY": RUN, "LC_ALL": "C"}
    try:
        done = subprocess.run(
            run,
            env=env,
            text=True,
            timeout=2 if e.hangs else 20,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
    except subprocess.TimeoutExpired:
        assert e.hangs
        return

    said = done.stdout
    assert done.returncode == 0, said
    file = box.path(RUN) / "dpdk/rte/hugepage_info"
    found = {}
    for raw in RECORD.iter_unpack(file.read_bytes()) if file.exists() else ():
        sz, hugedir, *pages, lock_fd = raw
        if hugedir.rstrip(b"\0"):
            assert lock_fd == -1
            found[sz] = [hugedir.rstrip(b"\0").decode(), *pages]
    assert not e.hangs
    assert ("Cannot get hugepage information" in said) == (bool(e.fails) or not e.locks), said
    assert ("Failed to lock hugepage directory!" in said) == (not e.locks)
    assert [s for s in e.says if s not in said] == []
    if "--in-memory" not in e.args and e.locks:  # which writes no file
        want = {sz: [d, *pages, *[0] * (32 - len(pages))] for sz, (d, *pages) in e.counts.items()}
        assert list(found.items()) == list(want.items())
    d = next(d for d in host.detected if fake_host.holds(d.releases, release))
    types = {(sz, node) for sz in e.counts for node in d.nodes if e.locks}
    assert types == {
        (sz, node)
        for sz in e.counts
        for node in range(32)
        if f"Detected memory type: socket_id:{node} hugepage_sz:{sz}" in said
    }
    assert f"Detected CPU lcores: {len(d.lcores)}\n" in said
    assert f"Detected NUMA nodes: {len(d.nodes)}\n" in said
