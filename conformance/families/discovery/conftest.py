"""Machines to discover: /sys as a test says it is, over pages that are really there."""

import itertools
import os

import pytest

from conformance.harness import fake_host


@pytest.fixture
def machine(request, make_box, tmp_path):
    """machine({"2M": {"free": 9, "nodes": {0: 4, 1: 5}}}, {"2M": 2}, files={...}, mounts=[...])

    A box whose /sys counts what the first says, and whose hugetlbfs has the pages of the second;
    nodes share this machine's CPUs. In-memory mode, which takes its pages from the pool, has the
    mount all the same. None: the real /sys.
    """
    params = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    numbers = itertools.count()

    def make(pools, pages, files=None, lease=None, **more):
        lease = lease or (pages if params.get("mode") == "in-memory" else None)
        binds, root = {}, tmp_path / f"machine-{next(numbers)}"
        if pools is not None:
            binds = fake_host.build(root, pools, files=files)
        box = make_box(pages, lease=lease, binds=binds, **more)
        box.tree = root
        return box

    return make


@pytest.fixture
def ordered():
    """ordered(box, ["1G", "2M"]): a machine's /sys lists its sizes in this order.

    A tmpfs lists its directories by age; which end comes first depends on the kernel.
    """
    at, new = f"/{fake_host.GLOBAL}", "/run/sizes"

    def order(box, names):
        want = [f"hugepages-{fake_host.size(n) >> 10}kB" for n in names]
        for ages in (want, want[::-1]):
            copies = "; ".join(f"cp -r {box.tree}{at}/{d} {new}" for d in ages)
            box.sh(f"mkdir -p {new}; mount -t tmpfs none {new}; {copies}")
            if os.listdir(box.path(new)) == want:
                break
        box.sh(f"mount --bind {new} {at}")
        assert os.listdir(box.path(at)) == want

    return order
