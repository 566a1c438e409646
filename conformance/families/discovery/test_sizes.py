"""HPI: which page sizes there are, and in which order."""

import errno

import pytest

from conformance import GB, HUGE, MB, modes, needs, requirement
from conformance.harness import fake_host

M2 = 2 * MB
NO_PAGE_1G = ("1G", "/run/hugepages/1G", "size=0")


@requirement("HPI-001")
@needs(pages={"2M": 1})
@modes(*HUGE)
def test_sizes_are_the_entries_of_sysfs(start, mode, machine, evidence):
    """Directories `hugepages-<n>kB` alone count; without the directory above them nothing starts.

    /sys/kernel/mm/hugepages: hugepages-2048kB  other-1048576kB  README
    """
    others = {"README": "1\n", "other-1048576kB/free_hugepages": "1\n"}
    files = {f"{fake_host.GLOBAL}/{name}": text for name, text in others.items()}
    box = machine({"2M": {"free": 1}}, {"2M": 1}, files, mounts=[NO_PAGE_1G])
    eal = start("-m", "2", box=box)
    sizes = {m.page_sz for m in eal.lists()}
    records = [] if mode == "in-memory" else [r.hugepage_sz for r in eal.hugepage_info()]
    eal.close()
    box.sh("mount -t tmpfs none /sys/kernel/mm")
    refused = start("-m", "2", box=box, init=False).refused()
    evidence(f"lists of {sizes}, records {records}; {refused.text}")

    assert sizes == {M2}
    assert mode == "in-memory" or records == [M2]
    assert refused.errno == errno.EACCES
    assert "Cannot open directory /sys/kernel/mm/hugepages" in refused.log


@requirement("HPI-002")
@needs(pages={"2M": 1}, root=True, strace=True)
@modes("no-huge")
def test_without_hugepages_nothing_is_discovered(start, make_box, evidence):
    """--no-huge reads no pool, opens no hugetlbfs, clears nothing and writes no hugepage_info."""
    box = make_box({"2M": 1})
    stale = box.path(box.hugedir("2M")) / "othermap_0"
    stale.touch()
    eal = start("-m", "4", box=box, init=False)
    trace = eal.trace("openat,flock")
    eal.init()
    opened = [c.args[1] for c in trace.stop("openat")]
    seen = [path for path in opened if "hugepages" in path or "/proc/mounts" in path]
    evidence(f"{len(opened)} files opened, {seen} of hugepages; files {eal.run_files('h*')}")

    assert len(opened) > 0 and seen == []
    assert [c.text for c in trace.stop("flock") if "hugepages" in c.text] == []
    assert stale.exists()
    assert eal.run_files("hugepage_info") == []


@requirement("HPI-003")
@needs(pages={"2M": 1}, root=True)
@modes("in-memory")
def test_one_size_more_than_the_table_has_is_refused(start, machine, evidence):
    """Three sizes (four on Arm) can be counted, mounted or not; one more ends init."""
    most = start(init=False, box=machine(None, {})).decode.constants["MAX_HUGEPAGE_SIZES"]
    names = ["2M", "1G", "32M", "512M", "16G"][: most + 1]
    pools = {sz: {"free": 1 if sz == "2M" else 0} for sz in names}
    box = machine(pools, {"2M": 1})
    first = start(box=box, init=False)
    refused = first.refused()
    first.close()  # librte_eal keeps the lock of a directory that it saw before it refuses
    box.sh(f"rm -r /sys/kernel/mm/hugepages/hugepages-{fake_host.size(names[most]) >> 10}kB")
    sizes = sorted({m.page_sz for m in start(box=box).lists()})
    evidence(f"{len(names)} sizes: errno {refused.errno}; {most}: lists of {sizes}")

    assert refused.errno == errno.EACCES
    assert sizes == sorted(fake_host.size(sz) for sz in names[:most])


@requirement("HPI-004")
@needs(pages={"2M": 2, "1G": 1})
@modes(*HUGE)
@pytest.mark.parametrize("order", ["1G first", "2M first"])
def test_sizes_are_sorted_descending(start, mode, machine, ordered, order, evidence):
    """1G before 2M in hugepage_info and among lists, whichever sysfs lists first."""
    pools = {sz: {"free": 1} for sz in ("2M", "1G")}
    box = machine(pools, {"2M": 1}, mounts=[NO_PAGE_1G])
    ordered(box, ["1G", "2M"] if order == "1G first" else ["2M", "1G"])
    eal = start("-m", "2", box=box)
    lists = list(dict.fromkeys(m.page_sz for m in eal.lists()))
    records = [] if mode == "in-memory" else [r.hugepage_sz for r in eal.hugepage_info()]
    evidence(f"sysfs: {order}; records {records}, lists {lists}")

    assert mode == "in-memory" or records == [GB, M2]
    assert lists == ([M2] if mode == "legacy" else [GB, M2])  # legacy releases lists without pages
