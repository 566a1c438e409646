"""SEG: the files that pages come from: names, locks, who made them, how long they stay."""

import fcntl
import mmap
import os

import pytest

from conformance import MB, modes, needs, requirement, sizes
from conformance.harness import catalogue, host

NO_FD = "Couldn't get fd on hugepage file"
TWO_PAGES = 4 * MB - 192  # an area that needs two new pages of 2 MB: 128 are its header's


def size_of(page):
    """The box's name of a page size in bytes: 2M."""
    return host.name(page)


def descriptors(eal, page=2 * MB):
    """The target's descriptors of files in its hugetlbfs."""
    return [fd for fd in eal.fds().values() if fd.path.startswith(eal.box.hugedir(size_of(page)))]


def page_name(eal, seg):
    """The file of a segment of list 0: SEG-001, SEG-002."""
    return f"{eal.prefix}map_{'0_' * catalogue.holds('>=26.07', eal.release)}{seg}"


def places(eal):
    """(list, segment) of each page."""
    return [(s.list, s.seg) for s in eal.segments()]


def first_lock(trace):
    """The first call that takes a shared flock."""
    shared = [c for c in trace.stop("flock") if "LOCK_SH" in c.args[1]]
    assert shared, trace.stop()
    return shared[0]


def name_at(eal, va):
    return eal.map_at(va).path.rpartition("/")[2].removesuffix(" (deleted)")


@requirement("SEG-001")
@needs(strace=True)
@sizes({"2M": 3, "1G": 1})
def test_a_page_file_is_named_by_list_and_segment(start, page, box, evidence):
    """Segment s of list l is file map_(8192 * l + s), also in the second list.

    The second start's pages come from list 1: the file of list 0 segment 0 cannot be locked.
    """
    amount = str(box.pages[size_of(page)] * (page >> 20))

    def names(eal):
        """(list, name, the name it must have) of each page."""
        return [
            (s.list, name_at(eal, s.addr), f"{eal.prefix}map_{8192 * s.list + s.seg}")
            for s in eal.segments()
        ]

    eal = start("-m", amount)
    found = names(eal)
    eal.close()
    eal = start("-m", amount, init=False)
    with eal.failing("flock", "ENOLCK", path=f"{box.hugedir(size_of(page))}/{eal.prefix}map_0"):
        eal.init()
    found += names(eal)
    evidence(" ".join(name for _, name, _ in found))

    assert [name for _, name, _ in found] == [want for _, _, want in found]
    assert {n for n, _, _ in found} == {0, 1}


@requirement("SEG-002")
@sizes({"2M": 3, "1G": 1})
def test_a_page_file_is_named_by_both_numbers(start, page, box, evidence):
    """Segment s of list l is file map_l_s."""
    eal = start("-m", str(box.pages[size_of(page)] * (page >> 20)))
    segs, files = eal.segments(), eal.page_files(size_of(page))
    evidence(" ".join(files))

    assert files == [f"{eal.prefix}map_{s.list}_{s.seg}" for s in segs]
    assert files == [name_at(eal, s.addr) for s in segs]


@requirement("SEG-003")
@sizes({"2M": 3, "1G": 1})
@modes("single-file")
def test_single_file_pages_lie_at_their_offsets(start, page, box, evidence):
    """One file map_<list> for all pages of a list, segment s at offset s * page size."""
    eal = start("-m", str(box.pages[size_of(page)] * (page >> 20)))
    segs, files = eal.segments(), eal.page_files(size_of(page))
    maps = [eal.map_at(s.addr) for s in segs]
    offsets = [m.offset + s.addr - m.start for m, s in zip(maps, segs, strict=True)]
    evidence(f"{files}: offsets {[f'{o:#x}' for o in offsets]}")

    assert files == [f"{eal.prefix}map_{segs[0].list}"]
    assert {m.path.rpartition("/")[2] for m in maps} == set(files)
    assert offsets == [s.seg * page for s in segs]


@requirement("SEG-004")
@sizes({"2M": 3, "1G": 1})
@modes("dynmem", "single-file")
def test_page_files_are_private_and_stay_open(start, page, mode, box, evidence):
    """Mode 0600; one descriptor a page, or one a list, open for reading and writing."""
    n = box.pages[size_of(page)]
    eal = start("-m", str(n * (page >> 20)))
    fds = descriptors(eal, page)
    modes = {p.stat().st_mode & 0o7777 for p in eal.hugedir(size_of(page)).iterdir()}
    evidence(f"{len(fds)} descriptors, modes {[oct(m) for m in modes]}")

    assert len(fds) == (n if mode == "dynmem" else 1)
    assert {fd.flags & os.O_ACCMODE for fd in fds} == {os.O_RDWR}
    assert modes == {0o600}
    assert len({fd.inode for fd in fds}) == len(fds)


@requirement("SEG-005")
@needs(pages={"2M": 4}, strace=True)
@modes("dynmem", "single-file")
def test_page_files_are_locked_for_sharing(start, mode, evidence):
    """Each file carries a shared flock. "Would block" is ignored, another error fails the page.

    error of the flock on one file     EAGAIN: as if nothing was
                                       ENOLCK: said, and the page is tried again, or had elsewhere

    With one file a list, elsewhere is another list; 26.07 has one alone, and its start is refused.
    """
    eal = start("-m", "4")
    locks = [(x.kind, x.mode) for f in eal.page_files() for x in eal.locks(eal.hugedir() / f)]
    name = page_name(eal, 1) if mode == "dynmem" else f"{eal.prefix}map_0"
    path = f"{eal.box.hugedir('2M')}/{name}"
    elsewhere = mode == "dynmem" or catalogue.holds("<=25.11", eal.release)
    pages = {"no error": places(eal)}
    eal.close()

    eal = start("-m", "4", init=False)
    with eal.failing("flock", "EAGAIN", when="1", path=path) as trace:
        eal.init()
    asked = [first_lock(trace)]
    ignored = not eal.logged(NO_FD)
    pages["EAGAIN"] = places(eal)
    eal.close()

    eal = start("-m", "4", init=False)
    with eal.failing("flock", "ENOLCK", when="1", path=path) as trace:
        if elsewhere:
            eal.init()
        else:
            eal.refused()
    asked += [first_lock(trace)]
    pages["ENOLCK"] = places(eal) if elsewhere else []
    evidence(f"locks {locks}; (list, segment) {pages}")

    assert locks == [("FLOCK", "READ")] * (2 if mode == "dynmem" else 1)
    assert all(call.injected and "LOCK_NB" in call.args[1] for call in asked)
    assert ignored and eal.logged(NO_FD)
    assert pages["EAGAIN"] == pages["no error"] == [(0, 0), (0, 1)]
    assert len(pages["ENOLCK"]) == (2 if elsewhere else 0)


@requirement("SEG-007")
@needs(pages={"2M": 2})
@modes("dynmem", "single-file")
def test_an_existing_file_is_made_anew(start, mode, evidence):
    """A file that another process holds locked is unlinked and created again: its inode has no
    name then. Not in single-file mode, and not with --huge-unlink=never."""
    first = start("-m", "2", init=False)
    name = page_name(first, 0) if mode == "dynmem" else f"{first.prefix}map_0"
    path = first.hugedir() / name
    want = {"existing": 0 if mode == "dynmem" else 1}
    if catalogue.holds(">=22.03", first.release) and mode == "dynmem":
        want["never"] = 1
    links = {}
    for word in want:
        with open(path, "wb") as held:
            fcntl.flock(held, fcntl.LOCK_SH)
            eal = start("-m", "2", *(["--huge-unlink=never"] if word == "never" else []))
            old = os.fstat(held.fileno())
            links[word] = old.st_nlink
            assert (old.st_ino == eal.map_at(eal.segments()[0].addr).inode) == bool(old.st_nlink)
        eal.close()
        path.unlink(missing_ok=True)
    evidence(f"links of the old inode: {links}")

    assert links == want


@requirement("SEG-016")
@sizes({"2M": 2, "1G": 1})
def test_always_unlinks_before_use(start, page, box, evidence):
    """No name in the directory; the mapping says (deleted), the descriptor works, size a page."""
    n = box.pages[size_of(page)]
    eal = start("-m", str(n * (page >> 20)), "--huge-unlink")
    paths = [eal.map_at(s.addr).path for s in eal.segments()]
    fds = [fd for fd, x in eal.fds().items() if "map_" in x.path]
    stats = [os.stat(f"/proc/{eal.pid}/fd/{fd}") for fd in fds]
    evidence(f"{paths[0]}: {[(st.st_nlink, st.st_size) for st in stats]}")

    assert list(eal.hugedir(size_of(page)).iterdir()) == []
    assert all(p.endswith(" (deleted)") for p in paths)
    assert [(st.st_nlink, st.st_size) for st in stats] == [(0, page)] * n
    assert [eal.fd(s.addr).ret >= 0 for s in eal.segments()] == [True] * n


@requirement("SEG-017")
@needs(pages={"2M": 4})
def test_existing_keeps_files_in_sight(start, evidence):
    """A file for every page in use, through growth and release."""
    eal = start("-m", "4")
    seen = []
    va = 0
    for step in "start", "growth", "release":
        if step == "growth":
            va = eal.malloc(TWO_PAGES).va
        elif step == "release":
            eal.free(va)
        seen.append((step, len(eal.segments()), len(eal.page_files())))
    evidence(seen)

    assert [n for _, n, _ in seen] == [2, 4, 2]
    assert [files for *_, files in seen] == [2, 4, 2]


@requirement("SEG-018")
@needs(pages={"2M": 2})
@pytest.mark.parametrize("n", [1, 2])
def test_never_keeps_pages_and_flags_them_dirty(start, n, evidence):
    """Files and content outlive the process; the next one of the prefix has flags 3, and locks."""
    first = start("-m", str(2 * n), "--huge-unlink=never")
    at = first.segments()[0].addr + MB  # the start of a page is the heap's
    clean = [s.flags for s in first.segments()]
    first.poke(at, b"pyeal")
    first.close()
    left = first.page_files()
    again = start("-m", str(2 * n), "--huge-unlink=never")
    dirty = [s.flags for s in again.segments()]
    held = [(x.kind, x.mode) for f in left for x in again.locks(again.hugedir() / f)]
    found = again.peek(at, 5)
    evidence(f"files {left}, flags {clean} then {dirty}, found {found}, locks {held}")

    assert len(left) == n
    assert found == b"pyeal"
    assert (clean, dirty) == ([1] * n, [3] * n)
    assert held == [("FLOCK", "READ")] * n


@requirement("SEG-010")
@needs(pages={"2M": 3}, release=">=22.03")
@modes("dynmem", "single-file")
def test_a_page_is_touched_without_a_change(start, mode, box, evidence):
    """What a kept file holds is found in the page, from its first byte on.

    It was an EAL that wrote there: the pages lie on its node, where the next start needs them.
    """
    first = start("-m", "6", "--huge-unlink=never", init=False)
    if mode == "single-file" and catalogue.holds(">=25.11", first.release):
        pytest.skip(
            "not in this release: --huge-unlink and --single-file-segments exclude each other"
        )
    for s in first.init().segments()[1:]:  # the heap writes to the start of a run
        first.poke(s.addr, b"first")
    first.close()
    eal = start("-m", "6", "--huge-unlink=never")
    segs = eal.segments()
    found = [eal.peek(s.addr, 5) for s in segs[1:]]
    evidence(f"{found}, flags {[s.flags for s in segs]}")

    assert found == [b"first"] * 2


@requirement("SEG-024")
@needs(pages={"2M": 4})
def test_only_existing_unlinks_at_release(start, evidence):
    """never: a released page's file stays, empty of data. always: there never was one."""
    files, held = {}, {}
    for word in "never", "always":
        eal = start("-m", "4", f"--huge-unlink={word}")
        va = eal.malloc(TWO_PAGES).va
        eal.poke(va, b"secret")
        eal.free(va)
        files[word], held[word] = len(eal.page_files()), len(descriptors(eal))
        for f in eal.page_files()[2:]:
            with open(eal.hugedir() / f, "r+b") as file, mmap.mmap(file.fileno(), 0) as data:
                assert data.find(b"secret") < 0
        assert len(eal.segments()) == 2
        eal.close()
    evidence(f"files after the release: {files}; descriptors {held}")

    assert files == {"never": 4, "always": 0}
    assert held == {"never": 2, "always": 2}


@requirement("SEG-006")
@needs(pages={"2M": 3}, strace=True, release=">=22.03")
def test_a_file_that_cannot_be_looked_at_fails_its_page(start, box, evidence):
    """EACCES for the second page's file: it is reported, and the next start gets the page."""
    eal = start("-m", "6", init=False)
    name = page_name(eal, 1)
    path = [f"{box.hugedir('2M')}/{name}", name]
    with eal.failing("newfstatat", "EACCES", when="1", path=path) as trace:
        eal.init()
    calls = trace.stop()
    evidence(f"{len(calls)} looks at {name}: {calls[0].errno}; (list, segment) {places(eal)}")

    assert calls[0].injected and calls[0].errno == "EACCES"
    assert eal.logged("attempted to allocate 3 segments, but only 1 were allocated")
    assert len(eal.segments()) == 3
