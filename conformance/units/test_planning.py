"""Which lists each described host gets: discovery and plan by reading alone, without root."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance import GB, MB
from conformance.harness import fake_host
from pyeal import hugepages, lcores, memseg, options, releases
from pyeal.errors import EalError
from pyeal.look.fake_host import FakeHost

Lists = tuple[int, int, str, str]  # how many, segments of all, name of the first and of the last

# In 22.11 a type has lists of 32 1G or 8192 2M pages, 64 GB together (512 GB shared by all types
# where these are more than eight); in 26.07 it has one list of 64 GB, numbered by its slot.
PLANS: dict[str, tuple[Lists | None, Lists | None]] = {  # 22.11.11, 26.07
    "arm-sizes": ((6, 34816, "32768k-0-0", "64k-0-3"), (2, 34816, "32768k-0-0", "64k-0-1")),
    "cgroup-limit": ((4, 32768, "2048k-0-0", "2048k-0-3"), (1, 32768, "2048k-0-0", "2048k-0-0")),
    "cpuless-node-0": ((8, 65536, "2048k-0-0", "2048k-1-3"), (2, 65536, "2048k-0-0", "2048k-1-1")),
    "cpuset": ((8, 65536, "2048k-0-0", "2048k-1-3"), (2, 65536, "2048k-0-0", "2048k-1-1")),
    "eight-nodes-2M-1G": (
        (24, 131328, "1048576k-0-0", "2048k-7-1"), (16, 262656, "1048576k-0-0", "2048k-7-15"),
    ),
    "empty-pool": (None, None),
    "four-nodes-2M-1G": (
        (24, 131328, "1048576k-0-0", "2048k-3-3"), (8, 131328, "1048576k-0-0", "2048k-3-7"),
    ),
    "garbled-counters": (
        (12, 65664, "1048576k-0-0", "2048k-1-3"), (4, 65664, "1048576k-0-0", "2048k-1-3"),
    ),
    "many-cpus": ((12, 98304, "2048k-0-0", "2048k-2-3"), (3, 98304, "2048k-0-0", "2048k-2-2")),
    "memory-only-node": (
        (8, 65536, "2048k-0-0", "2048k-1-3"), (2, 65536, "2048k-0-0", "2048k-1-1"),
    ),
    "missing-files": (
        (12, 65664, "1048576k-0-0", "2048k-1-3"), (4, 65664, "1048576k-0-0", "2048k-1-3"),
    ),
    "mount-options": (
        (6, 32832, "1048576k-0-0", "2048k-0-3"), (2, 32832, "1048576k-0-0", "2048k-0-1"),
    ),
    "nested-mounts": (
        (6, 32832, "1048576k-0-0", "2048k-0-3"), (2, 32832, "1048576k-0-0", "2048k-0-1"),
    ),
    "no-hugetlb": (None, None),
    "no-mounts": (
        (12, 65664, "1048576k-0-0", "2048k-1-3"), (4, 65664, "1048576k-0-0", "2048k-1-3"),
    ),
    "no-numa": ((4, 32768, "2048k-0-0", "2048k-0-3"), (1, 32768, "2048k-0-0", "2048k-0-0")),
    "odd-mount-points": (
        (6, 32832, "1048576k-0-0", "2048k-0-3"), (2, 32832, "1048576k-0-0", "2048k-0-1"),
    ),
    "one-gig-only": (
        (2, 64, "1048576k-0-0", "1048576k-0-1"), (1, 64, "1048576k-0-0", "1048576k-0-0"),
    ),
    "one-node-2M-1G": (
        (6, 32832, "1048576k-0-0", "2048k-0-3"), (2, 32832, "1048576k-0-0", "2048k-0-1"),
    ),
    "reserved-beyond-free": (
        (4, 32768, "2048k-0-0", "2048k-0-3"), (1, 32768, "2048k-0-0", "2048k-0-0"),
    ),
    "six-nodes": ((24, 196608, "2048k-0-0", "2048k-5-3"), (6, 196608, "2048k-0-0", "2048k-5-5")),
    "stacked-mounts": (None, (1, 64, "1048576k-0-0", "1048576k-0-0")),
    "surplus-and-overcommit": (
        (6, 32832, "1048576k-0-0", "2048k-0-3"), (2, 32832, "1048576k-0-0", "2048k-0-1"),
    ),
    "two-mounts-of-a-size": (
        (4, 32768, "2048k-0-0", "2048k-0-3"), (1, 32768, "2048k-0-0", "2048k-0-0"),
    ),
    "two-nodes-2M": ((8, 65536, "2048k-0-0", "2048k-1-3"), (2, 65536, "2048k-0-0", "2048k-1-1")),
}


def plan(name: str, release: str, root: Path) -> list[memseg.ListPlan]:
    """The lists for the first arguments with which this release finds pages on that host."""
    host, r = fake_host.load(name), releases.get(release)
    expects = [e for e in host.expects if fake_host.holds(e.releases, release)]
    e = next((e for e in expects if e.counts), expects[0])
    fake_host.expand(name, root)
    fake = FakeHost(root, host.statfs)
    nodes = lcores.discover(r, fake).nodes
    infos = hugepages.Survey(options.parse(e.args, r), nodes, fake).run()
    return memseg.plan([info.page_sz for info in infos], nodes, r)


@pytest.mark.parametrize(("at", "release"), [(0, "22.11.11"), (1, "26.07")], ids=["22.11", "26.07"])
@pytest.mark.parametrize("name", fake_host.names())
def test_each_host_gets_its_lists(name: str, at: int, release: str, tmp_path: Path) -> None:
    """Number, segments and names; page sizes descending, then nodes ascending."""
    want = PLANS[name][at]
    if want is None:
        with pytest.raises(EalError):
            plan(name, release, tmp_path)
        return
    lists = plan(name, release, tmp_path)
    names = [p.name.removeprefix("memseg-") for p in lists]

    assert (len(lists), sum(p.n_segs for p in lists), names[0], names[-1]) == want
    assert len(set(names)) == len(names)
    assert lists == sorted(lists, key=lambda p: (-p.page_sz, p.socket))


def test_lists_of_one_reservation_lie_side_by_side(tmp_path: Path) -> None:
    """26.07 cuts them from one: each begins where the one before ends, at a multiple of its size.

    | 1G, node 0 | 1G, node 1 | ... | 2M, node 0 | ...
    """
    lists = plan("four-nodes-2M-1G", "26.07", tmp_path)
    ends = [p.offset + p.n_segs * p.page_sz for p in lists]

    assert [p.offset for p in lists] == [0, *ends[:-1]]
    assert [p.offset % p.page_sz for p in lists] == [0] * 8


def test_many_types_share_what_there_is(tmp_path: Path) -> None:
    """512 GB for 16 types are 32 GB each: one list of 1 GB pages a node, and two of 2 MB pages."""
    lists = plan("eight-nodes-2M-1G", "22.11.11", tmp_path)

    assert [(p.page_sz, p.n_segs) for p in lists] == [(GB, 32)] * 8 + [(2 * MB, 8192)] * 16
    assert [p.number for p in lists] == [0] * 8 + [0, 1] * 8
