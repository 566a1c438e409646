"""SEG: a page that cannot be allocated fails alone, and leaves nothing behind."""

import errno
import re
import signal
from pathlib import Path

import pytest

from conformance import DYNAMIC, MB, modes, needs, requirement
from conformance.harness import fake_host, host

PAGE = 2 * MB


def caught(eal):
    """Signals that the target handles. /proc/PID/status"""
    mask = int(re.search(r"SigCgt:\s+(\w+)", Path(f"/proc/{eal.pid}/status").read_text())[1], 16)
    return {n for n in range(1, 65) if mask >> n - 1 & 1}


def state(eal):
    """What a failed growth must leave as it was."""
    return {
        "pages": [s.addr for s in eal.segments()],
        "free list ends": [(m.name, m.count) for m in eal.lists()],
        "mappings": [
            (m.start, m.end, m.perms, m.path, "dd" in m.flags)
            for m in eal.smaps()
            if any(x.base_va <= m.start < x.base_va + x.len for x in eal.lists())
        ],
        "page descriptors": sorted(
            n for n, fd in eal.fds().items() if "map_" in fd.path or "/memfd:seg_" in fd.path
        ),
    }


@requirement("SEG-011")
@needs(pages={"2M": 8}, cgroup="hugetlb")
@modes("dynmem", "in-memory")
def test_a_cgroup_limit_ends_a_start_not_the_process(start, cgroup, mode, box, evidence):
    """A limit of three pages: -m 6 has them; eight are refused after three, the process lives.

    The signal's disposition is afterwards what it was.
    """
    limit = cgroup("2M", 3 * PAGE)
    few = start("-m", "6", cgroup=limit)
    n = len(few.segments())
    few.close()
    many = start("-m", "16", cgroup=limit, init=False)
    before = caught(many)
    refusal = many.refused()
    said = many.logged("attempted to allocate")
    evidence(f"-m 6: {n} pages; -m 16: errno {refusal.errno}, {said[0]}")
    after = caught(many)
    many.kill()
    for f in box.path(box.hugedir("2M")).iterdir() if mode == "dynmem" else ():
        f.unlink()

    assert (n, refusal.errno) == (3, errno.ENOMEM)
    assert said[0].endswith("attempted to allocate 8 segments, but only 3 were allocated")
    assert f"SIGBUS: Cannot mmap more hugepages of size {PAGE >> 20}MB" in refusal.log
    assert (signal.SIGBUS in before) == (signal.SIGBUS in after)


@requirement("SEG-013")
@needs(pages={"2M": 4}, cpus=2)
@modes(*DYNAMIC)
def test_a_page_on_the_wrong_node_is_not_used(start, make_box, mode, tmp_path, evidence):
    """Node 1 is faked: what is allocated for it lies on node 0, so the start fails."""
    binds = fake_host.build(tmp_path / "tree", {"2M": [4, 4]}, {0: "0", 1: "1"})
    lease = {"lease": {"2M": 4}} if mode == "in-memory" else {"pages": {"2M": 4}}
    eal = start("-l", "0,1", "--socket-mem", "0,4", box=make_box(binds=binds, **lease), init=False)
    refusal = eal.refused()
    said = eal.logged("allocation happened on wrong socket")
    evidence(said[:1])

    assert refusal.errno == errno.ENOMEM
    assert said and "(wanted 1, got 0)" in said[0]


@requirement("SEG-014")
@needs(pages={"2M": 4}, cpus=2)
@modes("dynmem", "single-file")
def test_a_failed_page_leaves_a_reservation(start, make_box, tmp_path, evidence):
    """Growth on a faked node fails after the page was mapped: its addresses are a reservation
    again, its file is gone, and so is its descriptor.

    list of node 1  [ ---p, not in dumps ............................. ]
    """
    binds = fake_host.build(tmp_path / "tree", {"2M": [4, 4]}, {0: "0", 1: "1"})
    eal = start("-l", "0", "-m", "2", box=make_box({"2M": 4}, binds=binds))
    files, before = eal.page_files(), state(eal)
    refused = eal.malloc(PAGE - 192, socket=1)
    msl = next(m for m in eal.lists() if m.socket_id == 1)
    there = eal.map_at(msl.base_va)
    evidence(
        f"{eal.logged('wrong socket')[:1]}; {there.start:#x}-{there.end:#x} {there.perms}, "
        f"files {eal.page_files()}"
    )

    assert refused.va == 0 and eal.logged("allocation happened on wrong socket")
    assert there.perms == "---p"  # 26.07 reserves all lists at once
    assert there.start <= msl.base_va and there.end >= msl.base_va + msl.len
    assert "dd" in there.flags
    assert eal.page_files() == files
    assert state(eal) == before


@requirement("SEG-020")
@needs(pages={"2M": 4})
@modes(*DYNAMIC)
def test_growth_is_all_or_nothing(start, cgroup, make_box, mode, tmp_path, evidence):
    """Four more pages where two are left: none is taken, and what was there works on."""
    limit, box = None, make_box({"2M": 4})
    if mode == "in-memory":
        if why := host.lacks(cgroup="hugetlb"):
            pytest.skip(why)
        limit = cgroup("2M", 4 * PAGE)
        # bigger pages are out of sight, or the heap takes one of them
        binds = fake_host.build(tmp_path / "tree", {"2M": [8]}, {0: "0,1"})
        box = make_box(lease={"2M": 4}, binds=binds)
    eal = start("-m", "4", box=box, cgroup=limit)
    before, files = state(eal), None if mode == "in-memory" else eal.page_files()
    refused = eal.malloc(4 * PAGE - 192)
    evidence(eal.logged("attempted to allocate"))

    assert refused.va == 0
    assert eal.logged("attempted to allocate 4 segments, but only 2 were allocated")
    assert state(eal) == before
    assert mode == "in-memory" or eal.page_files() == files
    assert eal.malloc(2 * PAGE - 192).va and len(eal.segments()) == 4
