"""LEG: legacy mode maps every page that it can get before it chooses."""

import errno

import pytest

from conformance import GB, MB, modes, needs, requirement, sizes
from conformance.harness import host


@requirement("LEG-006")
@needs(pages={"2M": 8})
@modes("legacy")
def test_lists_are_those_of_dynamic_memory_and_all_pages_counted_are_mapped(
    start, fake_host, evidence
):
    """The kept list is the first of dynmem; 5 pages of 8 counted: 5 mapped."""
    box = fake_host({"2M": 8}, free={"2M": 5})
    legacy = start("-m", "2", box=box)
    (kept,), mapped = legacy.lists(), len(legacy.hugepage_data())
    slots = [(m.page_sz, m.socket_id) for m in legacy.config().memsegs]
    dynmem = start("-m", "2", mode="dynmem", prefix=f"{legacy.prefix}d", box=box)
    planned = dynmem.config().memsegs
    evidence(f"{mapped} mapped, list {kept.name} of {kept.n_segs} segments")

    assert mapped == 5
    assert slots == [(m.page_sz, m.socket_id) for m in planned]
    assert (kept.base_va, kept.n_segs) == (planned[0].base_va, planned[0].memseg_arr.len)


@requirement("LEG-007")
@needs(pages={"2M": 3, "1G": 1})
@modes("legacy")
def test_one_file_a_page_numbered_from_0_for_each_size(start, fake_host, filled, evidence):
    """3 pages of 2 MB are map_0 to map_2, and the one of 1 GB is map_0 again."""
    eal = start(box=fake_host({"2M": 3, "1G": 1}))
    ids = [(r.size, r.file_id) for r in eal.hugepage_data()]
    names = filled(eal, "1G") + filled(eal, "2M")
    evidence(f"{names}, records {ids}")

    assert names == [f"{eal.prefix}map_{i}" for i in (0, 0, 1, 2)]
    assert sorted(ids) == [(2 * MB, 0), (2 * MB, 1), (2 * MB, 2), (GB, 0)]


@requirement("LEG-008")
@modes("legacy")
@sizes({"2M": 6, "1G": 1})
def test_mapping_stops_at_the_first_failure_and_init_goes_on(start, fake_host, page, evidence):
    """Three pages more are counted than the mount has: those that it has are used."""
    size, n = host.name(page), {"2M": 6, "1G": 1}[host.name(page)]
    eal = start(box=fake_host({size: n}, free={size: n + 3}))
    said = eal.logged("hugepages of size")
    evidence(said)

    assert any(f"{n} not {n + 3} hugepages of size {page >> 20} MB allocated" in x for x in said)
    assert len(eal.segments()) == n
    assert eal.info().physmem_size == n * page


@requirement("LEG-009")
@needs(pages={"2M": 4}, cgroup="hugetlb")
@modes("legacy")
@pytest.mark.parametrize("stop", ["mmap", "touch"])
def test_a_failed_mmap_leaves_an_empty_file(start, fake_host, cgroup, stop, evidence):
    """A file that could not be mapped remains, empty; one without a touched page is removed."""
    if stop == "mmap":
        eal = start(box=fake_host({"2M": 4}, free={"2M": 9}))
    else:
        eal = start(cgroup=cgroup("2M", 6 * MB))
    sizes = [(eal.hugedir() / f).stat().st_size for f in eal.page_files()]
    evidence(f"sizes of the files: {sizes}")

    assert sizes == {"mmap": [2 * MB] * 4 + [0], "touch": [2 * MB] * 3}[stop]


@requirement("LEG-010")
@needs(pages={"2M": 64})
@modes("legacy")
def test_descriptors_and_locks_are_only_those_of_kept_pages(start, filled, box, evidence):
    """64 pages with 48 descriptors allowed: the first mapping holds none of them."""
    if (beside := host.pools()["2M"].available) < 64:  # EAL does not count what a mount keeps
        pytest.skip(f"wanted 64 free 2M pages beside those of the test, found {beside}")
    eal = start("-m", "4", rlimits={"nofile": 48})
    names = filled(eal)
    held = sorted(f.path for f in eal.fds().values() if "map_" in f.path)
    locks = [len(eal.locks(eal.hugedir() / f)) for f in names]
    evidence(f"{len(eal.hugepage_data())} pages mapped, descriptors {held}, locks {locks}")

    assert len(eal.hugepage_data()) == 64
    assert held == sorted(f"{eal.box.hugedir('2M')}/{f}" for f in names)
    assert locks == [1, 1]


@requirement("LEG-011")
@needs(pages={"2M": 8}, strace=True)
@modes("legacy")
@pytest.mark.parametrize(
    ("args", "turns"),
    [
        pytest.param(["-m", "4"], [], id="m"),
        pytest.param(["--socket-mem", "4"], [0], id="one-node"),
        pytest.param(["--socket-mem", "4,4"], [0, 1, 0, 1, 0, 1], id="two-nodes"),
    ],
)
def test_pages_are_preferred_from_nodes_in_turn(start, fake_host, args, turns, evidence):
    """Two pages outstanding from each node first, then the other four in turn.

    page   0 1 2 3 4 5 6 7
    node   0 0 1 1 0 1 0 1
    """
    eal = start(*args, box=fake_host({"2M": 8}, free={"2M": 8}, nodes=[0, 1]), init=False)
    trace = eal.trace("set_mempolicy")
    if len(args[1]) > 1:
        eal.refused()  # all pages are of node 0, whatever was asked for
    else:
        eal.init()
    calls = [c for c in trace.stop("set_mempolicy") if c.args[0] == "MPOL_PREFERRED"]
    nodes = [int(c.args[1].strip("[]").split(",")[0], 16).bit_length() - 1 for c in calls]
    evidence(f"preferred nodes: {nodes}")

    assert [n for i, n in enumerate(nodes) if nodes[i - 1 : i] != [n]] == turns


@requirement("LEG-013")
@needs(pages={"2M": 3}, strace=True)
@modes("legacy")
def test_without_numa_maps_all_pages_are_of_node_0(start, evidence):
    """/proc/self/numa_maps cannot be opened: a NOTICE, and init continues."""
    eal = start("-m", "4", init=False)
    inject = "openat:error=ENOENT"
    trace = eal.trace("openat", inject=inject, path="/proc/self/numa_maps")
    eal.init()
    evidence(eal.logged("NUMA support not available"))

    assert any(c.injected for c in trace.stop())
    assert eal.logged("NUMA support not available")
    assert {s.socket_id for s in eal.segments()} == {0}


@requirement("LEG-027")
@needs(pages={"2M": 8}, cgroup="hugetlb")
@modes("legacy")
def test_more_than_there_is_is_refused_and_the_files_stay(start, cgroup, evidence):
    """A cgroup allows 3 pages and 8 are wanted: ENOMEM, and the 3 files remain."""
    eal = start("-m", "16", cgroup=cgroup("2M", 6 * MB), init=False)
    refused = eal.refused()
    evidence(f"{refused}; left: {eal.page_files()}")

    assert refused.errno == errno.ENOMEM
    assert "Not enough memory available! Requested: 16MB, available: 6MB" in (
        refused.log + refused.text
    )
    assert eal.page_files() == [f"{eal.prefix}map_{i}" for i in range(3)]
