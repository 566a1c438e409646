"""Hosts for memseg lists: nodes and page sizes as a test needs them, real pages behind them."""

import pytest

from conformance.harness.fake_host import CPUS, GLOBAL, NODES, build

FREE = 4  # 2M pages of node 0; none elsewhere, and none of 1 GB


@pytest.fixture
def on(start, make_box, tmp_path, mode):
    """on(nodes, "2M", "1G", args=): an EAL with 2 pages of 2 MB, and 1 GB mounted or not."""

    def on(nodes, *mounted, args=()):
        pools = {
            "2M": {"free": FREE, "nodes": {n: 0 if n else FREE for n in range(nodes)}},
            "1G": {"free": 0, "nodes": dict.fromkeys(range(nodes), 0)},
        }
        cpus = {n: f"{n}" for n in range(nodes - 1)} | {nodes - 1: f"{nodes - 1}-63"}
        binds = build(tmp_path, pools, cpus, show=(CPUS, GLOBAL, NODES))
        if mode == "in-memory":
            box = make_box(lease={"2M": 2}, binds=binds)
        else:
            none = [("1G", "/run/hugepages/1G", "size=0")] if "1G" in mounted else []
            box = make_box({"2M": 2}, binds=binds, mounts=none)
        return start("-m", "2", *args, box=box)

    return on
