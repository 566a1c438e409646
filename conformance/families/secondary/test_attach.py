"""SEC: what a secondary attaches: hugepage_info, arrays, lists, pages, and shadows of its own."""

import errno
import fcntl
import os
import re

import pytest

from conformance import GB, HUGE_FILES, MB, modes, needs, requirement, sizes, until
from conformance.harness import host
from conformance.harness.catalogue import fact


def lists(eal):
    """The used list slots of the config."""
    return [m for m in eal.config().memsegs if m.base_va]


def pages(eal):
    """(list, segment, address) of each used page."""
    return [(s.list, s.seg, s.addr) for s in eal.segments()]


def backing(eal, va):
    """Return the mapping at an address: file, offset, whether it is shared, whether writable."""
    m = next(m for m in eal.maps() if m.start <= va < m.end)
    return m.inode, m.offset + va - m.start, m.perms


@requirement("SEC-006")
@needs(pages={"2M": 2})
def test_hugepage_info_must_be_there(start, join, evidence):
    """Without the file: EACCES, and both lines."""
    eal = start("-m", "2")
    (eal.run / "hugepage_info").unlink()
    e = join(init=False).refused()
    evidence(e.text)

    assert e.errno == errno.EACCES
    assert "Failed to open shared memory!" in e.log
    assert "Cannot get hugepage information" in e.log


@requirement("SEC-007")
@needs(pages={"2M": 2})
def test_arrays_lie_where_the_primary_has_them(start, join, evidence):
    """Each array's file, shared, at the descriptor's address; a missing one is refused."""
    eal = start("-m", "2")
    other = join()
    arrays = [eal.config().memzones, *(m.memseg_arr for m in lists(eal))]
    found = {a.name: other.map_at(a.data) for a in arrays}
    refusals = []
    for a in arrays[1], arrays[0]:
        (eal.run / f"fbarray_{a.name}").unlink()
        refusals.append(join(init=False).refused())
    evidence(f"{len(arrays)} arrays; {[e.text for e in refusals]}")

    for a in arrays:
        m = found[a.name]
        assert (m.path.rpartition("/")[2], m.start) == (f"fbarray_{a.name}", a.data)
        assert m.perms == "rw-s"
    assert [e.errno for e in refusals] == [errno.ENOMEM, errno.ENODEV]
    assert "Cannot attach to primary process memseg lists" in refusals[0].log
    assert "Cannot attach to memzone list" in refusals[1].log


@requirement("SEC-008")
@needs(pages={"2M": 2})
def test_a_list_whose_addresses_are_taken_is_refused(start, join, evidence):
    """One page taken in the middle of the second list: its length and address are named."""
    eal = start("-m", "2")
    msl = lists(eal)[1]
    other = join(init=False)
    other.block(msl.base_va + GB)
    e = other.refused()
    said = next(line for line in e.log.splitlines() if "Cannot reserve" in line)
    evidence(said)

    assert e.errno == errno.ENOMEM
    assert f"Cannot reserve {msl.len} bytes at [{msl.base_va:#x}]" in said
    assert "please use '--base-virtaddr' option" in said


@requirement("SEC-009")
@needs(pages={"2M": 2})
def test_the_whole_range_is_reserved_in_one_piece(start, join, evidence):
    """From mem_va_addr on, as long as the config says; without those numbers it fails."""
    eal = start("-m", "2")
    c = eal.config()
    other = join()
    covered, at = 0, c.mem_va_addr
    for m in other.maps():
        if m.start == at + covered and covered < c.mem_va_len:
            covered += m.len
    eal.patch("mem_va_addr", 0, 8)
    e = join(init=False).refused()
    evidence(f"{covered:#x} of {c.mem_va_len:#x} bytes; {e.text}")

    assert covered >= c.mem_va_len
    assert e.errno == errno.ENOMEM


@requirement("SEC-010")
@needs(pages={"2M": 2})
@modes("dynmem", "legacy")
def test_shadow_arrays_stand_beside_the_lists(start, join, evidence):
    """<list>_<pid>, later with the time stamp, as long as the list's, somewhere else."""
    eal = start("-m", "4")
    other = join()
    stamp = r"_[0-9a-f]+" if fact("shadow_suffix", eal.release) != "{pid}" else ""
    maps = {m.path.rpartition("/")[2]: m for m in other.maps()}
    found = []
    for m in lists(eal):
        name = m.memseg_arr.name
        (shadow,) = [
            f
            for f in eal.run_files(f"fbarray_{name}_*")
            if re.fullmatch(rf"fbarray_{name}_{other.pid}{stamp}", f)
        ]
        assert (eal.run / shadow).stat().st_size == (eal.run / f"fbarray_{name}").stat().st_size
        assert maps[shadow].start != m.memseg_arr.data
        found.append(shadow)
    evidence(found[0])

    assert sorted(found) == eal.run_files(f"fbarray_*_{other.pid}*")


@requirement("SEC-011")
@needs(pages={"2M": 4})
def test_lists_that_never_changed_are_not_looked_at(start, join, make_box, evidence):
    """A directory's lock matters only when a list of its page size has a version."""
    box = make_box({"2M": 4}, mounts=[("1G", "/run/hugepages/1G")])
    eal = start("-m", "2", box=box)
    versions = {
        host.name(size): {m.version for m in lists(eal) if m.page_sz == size}
        for size in {m.page_sz for m in lists(eal)}
    }
    blocked = {}
    for size in "1G", "2M":
        fd = os.open(eal.hugedir(size), os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_EX)
        other = join(init=False, box=box)
        other.begin("init", args=other.args)
        blocked[size] = not other.answered(1 if size == "2M" else 5)
        os.close(fd)
        other.answer()
        shadows = [
            eal.array(f.removeprefix("fbarray_"), length=m.memseg_arr.len).used
            for m in lists(eal)
            for f in eal.run_files(f"fbarray_{m.memseg_arr.name}_{other.pid}*")
        ]
        assert shadows == [eal.array(m.memseg_arr.name).used for m in lists(eal)]
    evidence(f"versions {versions}; blocked {blocked}")

    assert versions["1G"] == {0}
    assert blocked == {"1G": False, "2M": True}


@requirement("SEC-012")
@sizes({"2M": 4, "1G": 1})
@modes("dynmem", "single-file")
def test_the_primarys_files_are_mapped_at_the_primarys_addresses(
    start, join, page, mode, box, evidence
):
    """Same file and offset at the same address, shared, with a shared lock, not made longer."""
    size = host.name(page)
    eal = start("-m", str(box.pages[size] * (page >> 20)))
    files = {p.name: p.stat().st_size for p in eal.hugedir(size).iterdir()}
    other = join()
    at = [va for *_, va in pages(eal)]
    evidence(f"{len(at)} pages in {len(files)} file(s)")

    assert pages(other) == pages(eal)
    assert [backing(other, va) for va in at] == [backing(eal, va) for va in at]
    assert {backing(other, va)[2] for va in at} == {"rw-s"}
    assert {p.name: p.stat().st_size for p in eal.hugedir(size).iterdir()} == files
    for name in files:
        locks = eal.locks(eal.hugedir(size) / name)
        if mode == "dynmem":
            assert [(x.kind, x.mode) for x in locks] == [("FLOCK", "READ")] * 2
    eal.poke(at[-1] + page - 8, b"primary!")
    other.poke(at[0] + page - 8, b"another!")
    assert other.peek(at[-1] + page - 8) == eal.peek(at[-1] + page - 8)
    assert eal.peek(at[0] + page - 8) == b"another!"


@requirement("SEC-013")
@needs(pages={"2M": 3})
def test_a_missing_page_file_is_made_again_and_empty(start, join, evidence):
    """Zeros where the primary has data, without a word."""
    eal = start("-m", "4")
    at = eal.segments()[1].addr
    eal.poke(at + MB, b"data")
    name = eal.page_files()[1]
    (eal.hugedir() / name).unlink()
    other = join()
    evidence(f"{other.peek(at + MB, 4)} instead of {eal.peek(at + MB, 4)}")

    assert (eal.peek(at + MB, 4), other.peek(at + MB, 4)) == (b"data", bytes(4))
    assert name in eal.page_files()


@requirement("SEC-029")
@needs(pages={"2M": 3})
@pytest.mark.parametrize("gone", ["removed", "always"])
def test_a_missing_page_file_is_named(start, join, gone, evidence):
    """Refused by its name, and not made again; also where the primary keeps no files at all."""
    eal = start("-m", "4", *(["--huge-unlink"] if gone == "always" else []))
    if gone == "removed":
        (eal.hugedir() / eal.page_files()[1]).unlink()
    files = eal.page_files()
    e = join(init=False).refused()
    segs = [s.seg for s in eal.segments()]
    evidence(e.text)

    wanted = segs[1] if gone == "removed" else segs[0]
    assert e.errno == errno.ENOMEM
    assert re.search(rf"{eal.prefix}map_(0_)?{wanted}\b", e.text)
    assert eal.page_files() == files
    assert eal.malloc(64).va


@requirement("SEC-014")
@needs(pages={"2M": 4}, release=">=22.03")
def test_always_cannot_be_joined(start, join, evidence):
    """Files come back, empty, and then the service tables find no memory."""
    eal = start("-m", "2", "--huge-unlink=always")
    before = eal.page_files()
    e = join(init=False).refused()
    evidence(f"{before} -> {eal.page_files()}; {e.text}")

    assert before == []
    assert e.errno == errno.ENOMEM
    assert "rte_service_init() failed" in e.log
    assert eal.page_files()


@requirement("SEC-015")
@needs(pages={"2M": 3})
@modes("dynmem", "single-file")
def test_pages_are_mapped_under_the_directorys_lock(start, join, evidence):
    """A process that holds the lock keeps each secondary waiting."""
    eal = start("-m", "2")
    fd = os.open(eal.hugedir(), os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    other = join(init=False)
    other.begin("init", args=other.args)
    asked = until(lambda: [x for x in eal.locks(eal.hugedir()) if x.waits])
    waits = not other.answered(0.1)
    os.close(fd)
    evidence(f"waits: {[(x.kind, x.mode) for x in asked]}")

    assert other.answer()["ret"] == 0
    assert waits
    assert [(x.kind, x.mode) for x in asked] == [("FLOCK", "WRITE")]
    assert pages(other) == pages(eal)


@requirement("SEC-016")
@needs(pages={"2M": 3})
def test_a_page_that_cannot_be_had_ends_the_attach(start, join, evidence):
    """A directory in the place of a page file: ENOMEM."""
    eal = start("-m", "4")
    name = eal.page_files()[0]
    (eal.hugedir() / name).unlink()
    (eal.hugedir() / name).mkdir()
    e = join(init=False).refused()
    evidence(e.text)

    assert e.errno == errno.ENOMEM
    assert "Could not map memory from primary process" in e.log


@requirement("SEC-018")
@needs(pages={"2M": 3})
@modes("legacy")
@pytest.mark.parametrize("gone", ["hugepage_data", "page", "always"])
def test_legacy_needs_the_data_file_and_every_page_file(start, join, gone, evidence):
    """Whichever is missing is named; so `always` cannot be joined."""
    eal = start("-m", "4", *(["--huge-unlink"] if gone == "always" else []))
    if gone == "hugepage_data":
        lost = eal.run / "hugepage_data"
        lost.unlink()
    elif gone == "page":
        lost = eal.hugedir() / eal.page_files()[0]
        lost.unlink()
    e = join(init=False).refused()
    evidence(e.text)

    assert e.errno == errno.ENOMEM
    assert "Could not open " in e.log
    assert gone == "always" or lost.name in e.log


@requirement("SEC-019")
@modes("no-huge")
def test_no_huge_cannot_be_joined(start, join, mode, evidence):
    """hugepage_info is missing (EACCES), and with --no-huge hugepage_data (ENOMEM)."""
    eal = start("-m", "16")
    plain, same = join(init=False).refused(), join("--no-huge", init=False).refused()
    evidence(f"{plain.text}; {same.text}")

    assert (plain.errno, same.errno) == (errno.EACCES, errno.ENOMEM)
    assert "Failed to open shared memory!" in plain.log
    assert re.search(r"Could not open .*/hugepage_data", same.log)
    assert eal.malloc(64).va


@requirement("SEC-020")
@needs(pages={"2M": 2})
@pytest.mark.parametrize("args", [["--in-memory"], ["--no-shconf"]], ids=["in-memory", "no-shconf"])
def test_without_shared_files_nothing_can_be_joined(start, join, args, evidence):
    """There is no config."""
    start("-m", "2", *args)
    e = join(init=False).refused()
    evidence(e.text)

    assert e.errno == 0
    assert "Cannot open '" in e.log


@requirement("SEC-021")
@needs(pages={"2M": 4})
@modes(*HUGE_FILES)
def test_its_own_memory_options_change_nothing(start, join, mode, evidence):
    """-m, --base-virtaddr and each of the modes' options: the same lists and pages."""
    eal = start("-m", "4")
    for own in (
        ["-m", "64"],
        ["--base-virtaddr=0x200000000"],
        ["--legacy-mem"],
        ["--single-file-segments"],
    ):
        if own == ["--legacy-mem"] and mode == "single-file":
            continue  # no: 26.07 refuses both, and it is the flags that count: CFG-012
        other = join(*own)
        assert pages(other) == pages(eal)
        assert [(m.index, m.base_va, m.len) for m in other.lists()] == [
            (m.index, m.base_va, m.len) for m in eal.lists()
        ]
        other.close()
    evidence(f"{len(pages(eal))} pages")

    assert len(eal.segments()) == (2 if mode != "legacy" else len(eal.segments()))


@requirement("SEC-022")
@needs(pages={"2M": 3}, root=True, phys=True)
def test_records_keep_the_primarys_iova(start, join, evidence):
    """The secondary works with virtual addresses, and still shows the primary's physical ones."""
    eal = start("-m", "4", "--iova-mode=pa")
    other = join("--iova-mode=va")
    mine, theirs = ({s.addr: s.iova for s in e.segments()} for e in (eal, other))
    evidence(f"{other.iova_mode}: {[f'{a:#x}' for a in theirs.values()]}")

    assert (eal.iova_mode, other.iova_mode) == ("PA", "VA")
    assert mine == theirs
    assert not set(theirs.values()) & set(theirs)
    assert all(f"IOVA:{a:#x}," in other.dump() for a in theirs.values())
