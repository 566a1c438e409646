"""FD: the descriptor of a segment, by which others can map the same memory."""

import errno
import os

from conformance import ALL, HUGE, HUGE_FILES, MB, modes, needs, requirement, sizes
from conformance.harness import host, proc

MEMSEG, ADDR = 48, 8  # bytes of struct rte_memseg, and where its address stands


def backing(eal, seg):
    """Of the mapping that a segment lies in: (device, inode, path)."""
    m = eal.map_at(seg.addr)
    return tuple(int(x, 16) for x in m.dev.split(":")), m.inode, m.path


def described(eal, fd):
    """The same of a descriptor."""
    f = eal.fds()[fd]
    return (os.major(f.dev), os.minor(f.dev)), f.inode, f.path


def page_fds(eal):
    """Descriptors of page files and of memfds of pages."""
    return [
        n
        for n, f in eal.fds().items()
        if f.path.startswith("/memfd:") or f"{eal.prefix}map_" in f.path
    ]


@requirement("FD-001")
@needs(pages={"2M": 3})
@modes(*HUGE)
def test_a_page_has_one_descriptor_or_its_list_has(start, mode, evidence):
    """Three pages are three open descriptors; with --single-file-segments they are one."""
    eal = start("-m", "6")
    kept = page_fds(eal)
    evidence(f"{len(eal.segments())} segments, {len(kept)} descriptors")

    assert len(eal.segments()) == 3
    assert len(kept) == (1 if mode == "single-file" else 3)
    assert {eal.fd(s.addr).ret for s in eal.segments()} == set(kept)


@requirement("FD-003")
@modes("dynmem", "in-memory", "legacy")
@sizes({"2M": 3, "1G": 1})
def test_each_page_has_a_descriptor_of_its_own(start, page, mode, fake_host, evidence):
    """Distinct descriptors, offset 0, of the very file that maps shows at the address."""
    n = max(page, 6 * MB) // page
    box = fake_host({host.name(page): n}) if mode == "legacy" else None
    eal = start("-m", str(n * page >> 20), box=box)
    segs = eal.segments()
    answers = [eal.fd(s.addr) for s in segs]
    evidence(" ".join(f"{s.list}-{s.seg}: {a.ret}" for s, a in zip(segs, answers, strict=True)))

    assert len(segs) == n
    assert len({a.ret for a in answers}) == len(segs)
    assert {a.offset for a in answers} == {0}
    assert [described(eal, a.ret) for a in answers] == [backing(eal, s) for s in segs]
    assert len({backing(eal, s)[1] for s in segs}) == len(segs)


@requirement("FD-004")
@needs(pages={"2M": 3})
@modes("single-file", "in-memory")
def test_pages_of_a_list_share_a_descriptor(start, mode, evidence):
    """One descriptor for all pages of a list, each at segment * page size in its file."""
    eal = start("-m", "6", *["--single-file-segments"] * (mode == "in-memory"))
    segs = eal.segments()
    answers = [eal.fd(s.addr) for s in segs]
    evidence(
        " ".join(f"{s.seg}: {a.ret}+{a.offset:#x}" for s, a in zip(segs, answers, strict=True))
    )

    assert [s.seg for s in segs] == [0, 1, 2] and len({s.list for s in segs}) == 1
    assert len({a.ret for a in answers}) == 1
    assert [a.offset for a in answers] == [0, 2 * MB, 4 * MB]
    assert described(eal, answers[0].ret) == backing(eal, segs[0])


@requirement("FD-005")
@modes("no-huge")
def test_no_huge_pages_share_the_memfd(start, evidence):
    """The one memfd, each segment at segment * 4096."""
    eal = start("-m", "16")
    segs = eal.segments()
    picked = [segs[i] for i in (0, 1, 2, 1000, len(segs) - 1)]
    answers = [eal.fd(s.addr) for s in picked]
    evidence(f"{len(segs)} segments; offsets {[hex(a.offset) for a in answers]}")

    assert {described(eal, a.ret) for a in answers} == {backing(eal, segs[0])}
    assert described(eal, answers[0].ret)[2] == "/memfd:nohuge (deleted)"
    assert [a.offset for a in answers] == [s.seg * 4096 for s in picked]


@requirement("FD-006")
@needs(pages={"2M": 3})
@modes(*ALL)
def test_what_has_no_descriptor_is_refused(start, mode, evidence):
    """NULL and foreign: EINVAL; unused: ENOENT; external: ENOTSUP; legacy single-file: ENODEV.

    ENOENT needs a record that names its address, and an unused one is all zeros: it is written
    if the record can be read from outside, in the shared array of the list.
    """
    eal = start("-m", "4")
    segs = eal.segments()
    mine = next(m for m in eal.lists() if m.index == segs[0].list)
    external = eal.extmem_register(2 * MB, 2 * MB)
    seen = {
        "NULL": eal.fd(0),
        "foreign": eal.fd(segs[0].addr, foreign=True),
        "external": eal.fd(external.va),
    }
    wanted = {"NULL": "EINVAL", "foreign": "EINVAL", "external": "ENOTSUP"}

    if mode in HUGE_FILES:
        used = {s.seg for s in segs if s.list == mine.index}
        unused = next(i for i in range(mine.n_segs) if i not in used)
        va = mine.base_va + unused * mine.page_sz
        array = next(m for m in eal.maps() if m.path.endswith(f"/fbarray_{mine.name}"))
        record = array.start + unused * MEMSEG + ADDR
        seen["zeroed"] = eal.fd(va)
        eal.poke(record, va.to_bytes(8, "little"))
        seen["unused"] = eal.fd(va)
        eal.poke(record, bytes(8))
        assert seen.pop("zeroed").ret == -1
        wanted["unused"] = "ENOENT"

    if mode == "legacy":
        eal.close()
        again = start("-m", "4", "--single-file-segments")
        seen["none kept"] = again.fd(again.segments()[0].addr)
        wanted["none kept"] = "ENODEV"

    said = {what: errno.errorcode[a.errno] for what, a in seen.items()}
    evidence(" ".join(f"{what}: {e}" for what, e in said.items()))

    assert {a.ret for a in seen.values()} == {-1}
    assert said == wanted


@requirement("FD-007")
@needs(pages={"2M": 5})
@modes("dynmem", "in-memory")
def test_a_freed_page_loses_its_descriptor(start, evidence):
    """Grown by three, shrunk, grown again: the pages' files are others than before."""
    eal = start("-m", "4")
    kept = {described(eal, n) for n in page_fds(eal)}
    inodes = []
    for _ in range(2):
        got = eal.malloc(5 * MB)
        more = [s for s in eal.segments() if s.seg >= 2]
        assert got.va and len(more) == 3
        inodes.append([described(eal, eal.fd(s.addr).ret) for s in more])
        eal.free(got.va)
        assert {described(eal, n) for n in page_fds(eal)} == kept
        assert {eal.fd(s.addr).ret for s in more} == {-1}
    evidence(f"inodes {[i for _, i, _ in inodes[0]]}, then {[i for _, i, _ in inodes[1]]}")

    assert not set(inodes[0]) & set(inodes[1])


@requirement("FD-008")
@needs(pages={"2M": 2})
@modes("legacy")
def test_legacy_single_file_has_no_place_for_page_descriptors(start, evidence):
    """Storing a page's descriptor is refused, for each page, and the query finds none."""
    eal = start("-m", "4", "--single-file-segments")
    lines = eal.logged("Could not store segment fd")
    evidence(f"{len(lines)} lines: {lines[0]}")

    assert len(lines) == 2
    assert [eal.fd(s.addr).ret for s in eal.segments()] == [-1, -1]


@requirement("FD-010")
@needs(pages={"2M": 2})
@modes(*ALL)
def test_open_files_are_raised_to_the_hard_limit(start, mode, evidence):
    """Soft 64, hard 3000: 3000 and 3000 after init, which says so; a secondary does the same."""
    limits = {"nofile": "64:3000"}
    eal = start("-m", "4", init=False, rlimits=limits)
    before = proc.limit(eal.pid, "Max open files")
    eal.init()
    after = proc.limit(eal.pid, "Max open files")
    evidence(f"{before} -> {after}")

    assert (before, after) == ([64, 3000], [3000, 3000])
    assert len(eal.logged("Setting maximum number of open files to 3000")) == 1
    if mode == "dynmem":
        other = start("--proc-type=secondary", rlimits=limits)
        assert proc.limit(other.pid, "Max open files") == [3000, 3000]


@requirement("FD-009")
@needs(pages={"2M": 2})
@modes("dynmem", "single-file")
def test_a_secondary_has_descriptors_of_its_own(start, evidence):
    """The same files, opened by each process for itself."""
    eal = start("-m", "4")
    other = start("--proc-type=secondary")
    segs = eal.segments()
    pairs = [(eal.fd(s.addr).ret, other.fd(s.addr).ret) for s in segs]
    evidence(f"primary and secondary: {pairs}")

    assert len(segs) == 2
    for seg, (mine, theirs) in zip(segs, pairs, strict=True):
        assert described(eal, mine) == described(other, theirs) == backing(other, seg)
    assert {theirs for _, theirs in pairs} == set(page_fds(other))
