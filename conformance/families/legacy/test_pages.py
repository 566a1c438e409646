"""LEG: the pages that legacy mode keeps, and where it puts them."""

import os
from itertools import pairwise

import pytest

from conformance import GB, MB, modes, needs, requirement, sizes
from conformance.harness import host, proc
from conformance.harness.catalogue import holds

PAGE = 2 * MB


@requirement("LEG-012")
@needs(pages={"2M": 6})
@modes("legacy")
@pytest.mark.parametrize(
    "iova",
    [pytest.param("pa", marks=needs(phys=True), id="pa"), pytest.param("va", id="va")],
)
def test_pages_are_known_by_frame_or_numbered(start, iova, evidence):
    """PA: the iova is the page's frame. VA: in mapping order, as if all were neighbours."""
    eal = start(f"--iova-mode={iova}")
    segs, ids = eal.segments(), [r.file_id for r in eal.hugepage_data()]
    evidence(f"{[(s.seg, hex(s.iova)) for s in segs]}, files {ids}")

    assert len(segs) == 6
    if iova == "pa":
        assert [s.iova for s in segs] == [proc.frame(eal.pid, s.addr) for s in segs]
    else:
        assert ids == [0, 1, 2, 3, 4, 5]
        assert len(eal.walk("contig").visits) == 1


@requirement("LEG-014")
@needs(pages={"2M": 16, "1G": 1}, phys=True)
@modes("legacy")
def test_pages_are_sorted_by_size_then_by_frame(start, fake_host, evidence):
    """The 1 GB page first, then those of 2 MB from the lowest frame up."""
    eal = start("--iova-mode=pa", box=fake_host({"2M": 16, "1G": 1}))
    pages = [(r.size, r.physaddr) for r in eal.hugepage_data()]
    evidence([f"{p:#x}" for _, p in pages])

    assert [size for size, _ in pages] == [GB, *[PAGE] * 16]
    assert pages[1:] == sorted(pages[1:])


@requirement("LEG-015")
@modes("legacy")
@sizes({"2M": 8, "1G": 1})
def test_without_a_request_every_page_is_kept(start, fake_host, page, evidence):
    """No -m, no --socket-mem: all memory of the mount."""
    n = {PAGE: 8, GB: 1}[page]
    eal = start(box=fake_host({host.name(page): n}))
    evidence(f"{eal.info().physmem_size >> 20} MB in {len(eal.segments())} pages")

    assert eal.info().physmem_size == n * page
    assert [s.hugepage_sz for s in eal.segments()] == [page] * n


@requirement("LEG-016")
@needs(pages={"2M": 8})
@modes("legacy")
@pytest.mark.parametrize(
    "iova",
    [
        pytest.param("pa", marks=needs(phys=True, release=">=22.03"), id="pa"),
        pytest.param("va", id="va"),
    ],
)
def test_the_lowest_pages_are_kept_and_the_others_given_back(start, filled, iova, evidence):
    """-m 4 of 8 pages keeps the two of the lowest addresses; six are free again.

    The frames of the files are known in PA mode, because an earlier run left all eight there.
    """
    args, lowest = [f"--iova-mode={iova}"], [0, 1]
    if iova == "pa":
        args.append("--huge-unlink=never")
        first = start(*args)
        frames = {r.physaddr: r.file_id for r in first.hugepage_data()}
        lowest = [frames[p] for p in sorted(frames)[:2]]
        first.close()
    eal = start("-m", "4", *args)
    st = os.statvfs(eal.hugedir())
    evidence(f"{filled(eal)} stay, {st.f_bavail} of {st.f_blocks} pages free")

    assert [r.file_id for r in eal.hugepage_data() if r.size] == lowest
    assert filled(eal) == [f"{eal.prefix}map_{i}" for i in sorted(lowest)]
    assert st.f_bavail == 6


@requirement("LEG-017")
@modes("legacy")
@sizes({"2M": 4, "1G": 1})
def test_kept_pages_lie_in_their_list_locked_and_open(start, fake_host, page, evidence):
    """One mapping a page, at its list address, shared; a shared lock and a descriptor each."""
    box = fake_host({host.name(page): {PAGE: 4, GB: 1}[page]})
    eal = start("-m", str(page // MB), box=box)
    (seg,), (msl,) = eal.segments(), eal.lists()
    (record,) = [r for r in eal.hugepage_data() if r.size]
    mapped = [m for m in eal.smaps() if m.path == record.filepath]
    fd = eal.fd(seg.addr)
    (lock,) = eal.locks(eal.box.path(record.filepath))
    evidence(f"{mapped}, {lock}")

    assert seg.addr == msl.base_va + seg.seg * page
    assert [(m.start, m.len, m.perms) for m in mapped] == [(seg.addr, page, "rw-s")]
    assert mapped[0].huge == page
    assert (lock.kind, lock.mode) == ("FLOCK", "READ")
    assert eal.fds()[fd.ret].path == record.filepath


@requirement("LEG-018")
@needs(pages={"2M": 32}, phys=True)
@modes("legacy")
def test_one_segment_stays_free_between_runs_of_neighbours(start, fake_host, evidence):
    """Frames that follow each other do so in the list; where they do not, one segment is left.

    frames    8 9 | 12 | 20 21
    segments  0 1 .  3  .  5 6
    """
    eal = start("--iova-mode=pa", box=fake_host({"2M": 32}))
    segs = eal.segments()
    expected = [0]
    for a, b in pairwise(segs):
        expected.append(expected[-1] + (1 if b.iova == a.iova + PAGE else 2))
    evidence(f"{len(eal.walk('contig').visits)} runs: segments {[s.seg for s in segs]}")

    assert len(segs) == 32
    assert [s.iova for s in segs] == sorted(s.iova for s in segs)
    assert [s.seg for s in segs] == expected


@requirement("LEG-019")
@needs(pages={"2M": 6})
@modes("legacy")
def test_virtual_addresses_make_one_run(start, evidence):
    """VA mode: segments 0 to n-1, iova = address, file ids ascending."""
    eal = start("-m", "8", "--iova-mode=va")
    segs = eal.segments()
    files = [eal.map_at(s.addr).path.rpartition("map_")[2] for s in segs]
    evidence(f"segments {[s.seg for s in segs]}, files {files}")

    assert [s.seg for s in segs] == [0, 1, 2, 3]
    assert [s.iova for s in segs] == [s.addr for s in segs]
    assert files == ["0", "1", "2", "3"]


@requirement("LEG-021")
@needs(pages={"2M": 4, "1G": 1})
@modes("legacy")
def test_lists_without_a_page_are_released(start, fake_host, evidence):
    """-m 2 keeps one 2 MB page: of its lists one stays, of those for 1 GB none.

    slot   0 .. released, 1G    k .. in use, 2M    k+1 .. released, 2M
    """
    eal = start("-m", "2", box=fake_host({"2M": 4, "1G": 1}))
    slots = [m for m in eal.config().memsegs if m.page_sz]
    (used,) = [m for m in slots if m.memseg_arr.count]
    rest = [m for m in slots if m is not used]
    files = eal.run_files("fbarray_memseg-*")
    evidence(f"{len(rest)} of {len(slots)} slots released; {files}")

    assert {m.page_sz for m in rest} >= {GB}
    assert [(m.base_va, m.heap, m.memseg_arr.count) for m in rest] == [(0, 0, 0)] * len(rest)
    assert all(bool(m.len) != holds("zeroes_released", eal.release) for m in rest)
    assert {m.socket_id for m in rest} == {0}
    assert files == [f"fbarray_{used.memseg_arr.name}"]
    assert [m.name for m in eal.lists()] == [used.memseg_arr.name]
