"""HPD: RUN/hugepage_data, by which secondaries find the pages of a legacy primary.

record  | first VA | final VA | physical | size   | node   | file id | path ...  |
byte    0          8          16         24       32       36        40       4136
"""

import os
import struct

import pytest

from conformance import ALL, GB, MB, modes, needs, requirement
from conformance.harness import proc

RECORD, PAGE = 4136, 2 * MB


def records(eal):
    """(first VA, final VA, physical, size, node, id, path) of each: read as documented above."""
    data = (eal.run / "hugepage_data").read_bytes()
    return [struct.unpack_from("<4Q2i4096s", data, at) for at in range(0, len(data), RECORD)]


iova_modes = pytest.mark.parametrize(
    "iova",
    [pytest.param("pa", marks=needs(phys=True), id="pa"), pytest.param("va", id="va")],
)


@requirement("HPD-001")
@needs(pages={"2M": 4})
@modes(*ALL)
def test_only_legacy_mode_writes_it(start, mode, evidence):
    """There in legacy mode alone, and not there either without shared configuration."""
    eal = start("-m", "4")
    there = "hugepage_data" in eal.run_files()
    eal.close()
    if mode != "in-memory":
        alone = start("-m", "4", "--no-shconf", prefix=f"{eal.prefix}n")
        assert alone.run_files() == []
        assert sum(s.len for s in alone.segments()) == 4 * MB
    evidence(f"hugepage_data: {there}")

    assert there == (mode == "legacy")


@requirement("HPD-002")
@needs(pages={"2M": 3})
@modes("legacy")
def test_a_record_is_4136_bytes(start, evidence):
    """Every field at its offset: that of the second page is found by the segment's facts."""
    eal = start("--iova-mode=va")
    data, seg = (eal.run / "hugepage_data").read_bytes(), eal.segments()[1]
    record = data[RECORD : 2 * RECORD]
    path = eal.map_at(seg.addr).path.encode()
    evidence(f"{len(data)} bytes; {record[:40].hex(' ', 8)}")

    assert len(data) == 3 * RECORD
    assert record[:40] == struct.pack("<4Q2i", 0, seg.addr, seg.iova, PAGE, seg.socket_id, 1)
    assert record[40:] == path.ljust(4096, b"\0")


@requirement("HPD-003")
@needs(pages={"2M": 8})
@modes("legacy")
def test_it_has_a_record_for_each_page_mapped(start, evidence):
    """8 pages in the pool and 2 kept: 8 records."""
    eal = start("-m", "4")
    size, kept = (eal.run / "hugepage_data").stat().st_size, len(eal.segments())
    evidence(f"{size} bytes, {kept} pages kept")

    assert (size, kept) == (8 * RECORD, 2)


@requirement("HPD-004")
@needs(pages={"2M": 4, "1G": 1}, phys=True)
@modes("legacy")
def test_kept_pages_come_first_and_the_rest_is_zero(start, fake_host, evidence):
    """One of 1 GB, then two of 2 MB by address; the two freed pages left nothing."""
    eal = start("-m", "1028", "--iova-mode=pa", box=fake_host({"2M": 4, "1G": 1}))
    data, found = (eal.run / "hugepage_data").read_bytes(), records(eal)
    evidence([(r[3] >> 20, hex(r[2])) for r in found])

    assert [r[3] for r in found] == [GB, PAGE, PAGE, 0, 0]
    assert found[1][2] < found[2][2]
    assert not any(data[3 * RECORD :])


@requirement("HPD-005")
@needs(pages={"2M": 6})
@modes("legacy")
def test_the_first_address_is_gone_and_the_final_one_in_the_list(start, evidence):
    """First VA 0; final VAs are the segments' addresses."""
    eal = start("-m", "6")
    found = [r[:2] for r in records(eal) if r[3]]
    evidence([(a, hex(b)) for a, b in found])

    assert found == [(0, s.addr) for s in eal.segments()]
    assert len(found) == 3


@requirement("HPD-006")
@needs(pages={"2M": 6})
@modes("legacy")
@iova_modes
def test_the_physical_address_is_the_frame_or_the_final_address(start, iova, evidence):
    """PA: what pagemap says of the page. VA: the final VA."""
    eal = start("-m", "6", f"--iova-mode={iova}")
    found = [(r[1], r[2]) for r in records(eal) if r[3]]
    evidence([(hex(va), hex(pa)) for va, pa in found])

    assert len(found) == 3
    for va, pa in found:
        assert pa == (proc.frame(eal.pid, va) if iova == "pa" else va)


@requirement("HPD-007")
@needs(pages={"2M": 6})
@modes("legacy")
def test_the_path_is_absolute_and_ends_in_the_file_id(start, evidence):
    """The file that is mapped at the final VA, padded with zeros to 4096 bytes."""
    eal = start("-m", "6")
    kept = [r for r in records(eal) if r[3]]
    evidence([(r[5], r[6].rstrip(b"\0")) for r in kept])

    assert len(kept) == 3
    for r in kept:
        path = f"{eal.box.hugedir('2M')}/{eal.prefix}map_{r[5]}"
        assert r[6] == path.encode().ljust(4096, b"\0")
        assert eal.map_at(r[1]).path == path


@requirement("HPD-008")
@needs(pages={"2M": 4})
@modes("legacy")
def test_a_stale_file_is_cut_and_zeroed(start, evidence):
    """Mode 0600; a larger one of other bytes becomes 4 records, zero behind the kept one."""
    first = start("-m", "2")
    path = first.run / "hugepage_data"
    mode = path.stat().st_mode & 0o7777
    first.close()
    path.write_bytes(b"\xff" * (9 * RECORD))
    eal = start("-m", "2")
    data = (eal.run / "hugepage_data").read_bytes()
    mapped = [m for m in eal.maps() if m.path.endswith("hugepage_data")]
    evidence(f"mode {mode:o}, {len(data)} bytes, mapped {mapped}")

    assert mode == 0o600
    assert len(data) == 4 * RECORD
    assert not any(data[RECORD:])
    assert mapped == []


@requirement("HPD-009")
@needs(pages={"2M": 4})
@modes("legacy")
def test_it_survives_exit_and_other_modes(start, evidence):
    """Its bytes are the same after the exit, and after runs with dynamic memory and without."""
    eal = start("-m", "4")
    path = eal.run / "hugepage_data"
    written = path.read_bytes()
    eal.close()
    after = [path.read_bytes()]
    for mode in ("dynmem", "no-huge"):
        start("-m", "4", mode=mode).close()
        after.append(path.read_bytes())
    evidence(f"{len(written)} bytes; inode {os.stat(path).st_ino}")

    assert after == [written] * 3


@requirement("HPD-010")
@needs(pages={"2M": 3})
@modes("legacy")
def test_a_reader_stops_at_the_first_record_of_no_size(start, join, evidence):
    """Pages of records after it are reserved at their addresses and not mapped.

    [page 0] [page 2] [size 0] [page 1]   a heap of one run is used at both of its ends
    """
    eal = start("-m", "6", "--iova-mode=va")
    first, middle, last = (r for r in records(eal) if r[3])
    order = [first, last, (*middle[:3], 0, *middle[4:]), middle]
    (eal.run / "hugepage_data").write_bytes(b"".join(struct.pack("<4Q2i4096s", *r) for r in order))
    other = join()
    found = {va: other.map_at(va).path for _, va, *_ in (first, middle, last)}
    evidence(f"{found}")

    assert list(found.values()) == [
        first[6].rstrip(b"\0").decode(),
        "",
        last[6].rstrip(b"\0").decode(),
    ]


@requirement("HPD-011")
@needs(pages={"2M": 4, "1G": 1})
@modes("legacy")
@iova_modes
def test_it_agrees_with_the_lists(start, fake_host, iova, evidence):
    """Each record is a used segment of a list: same iova, node and size, and there are no more."""
    eal = start(f"--iova-mode={iova}", box=fake_host({"2M": 4, "1G": 1}))
    lists = {m.index: m for m in eal.lists()}
    segs = {s.addr: s for s in eal.segments()}
    found = [r for r in records(eal) if r[3]]
    evidence(f"{len(found)} records, {len(segs)} segments")

    assert sorted(r[1] for r in found) == sorted(segs)
    for _, va, physical, size, node, *_ in found:
        s = segs[va]
        assert (va - lists[s.list].base_va) == s.seg * size
        assert (s.iova, s.hugepage_sz, s.socket_id) == (physical, size, node)
