"""MEMFD: the descriptors of in-memory and no-huge memory."""

import fcntl
import os

import pytest

from conformance import GB, MB, modes, needs, requirement, sizes
from conformance.harness import proc

F_GET_SEALS, F_SEAL_SEAL = 1034, 1


def memfds(eal):
    """Descriptor -> name, without what the kernel puts around it."""
    return {
        n: f.path[len("/memfd:") : -len(" (deleted)")]
        for n, f in eal.fds().items()
        if f.path.startswith("/memfd:")
    }


def stat(eal, fd):
    return os.stat(f"/proc/{eal.pid}/fd/{fd}")


@requirement("MEMFD-007")
@modes("in-memory")
@sizes({"2M": 3, "1G": 1})
def test_each_page_is_a_memfd_of_its_own(start, page, evidence):
    """seg_<list>-<segment>: one page long, of that page size, mapped shared and populated."""
    eal = start("-m", str(max(page, 6 * MB) >> 20))
    segs, fds = eal.segments(), memfds(eal)
    maps = [eal.map_at(s.addr) for s in segs]
    evidence(" ".join(f"{m.start:#x}:{m.path}" for m in maps))

    names = [f"seg_{s.list}-{s.seg}" for s in segs]
    assert len(segs) == max(page, 6 * MB) // page
    assert sorted(fds.values()) == sorted(names)
    assert [m.path for m in maps] == [f"/memfd:{name} (deleted)" for name in names]
    assert [(m.start, m.len, m.offset) for m in maps] == [(s.addr, page, 0) for s in segs]
    assert {(m.perms, m.page_sz, m.huge) for m in maps} == {("rw-s", page, page)}
    assert {(st.st_size, st.st_blksize) for st in (stat(eal, fd) for fd in fds)} == {(page, page)}
    assert len({stat(eal, fd).st_ino for fd in fds}) == len(segs)


@requirement("MEMFD-008")
@modes("in-memory")
@sizes({"2M": 5, "1G": 1})
def test_single_file_is_one_memfd_for_each_list(start, page, fake_host, evidence):
    """seg_<list>: grows and shrinks page by page, and is closed with the list's last page.

    2M:  the list that has a page grows by three and frees them as a hole; its length stays
    1G:  the heap's one page is full, so a list of 2M pages begins, and ends with what it began
    """
    pages = {"2M": 5} | ({"1G": 1} if page == GB else {})
    box = fake_host({}, free=pages, lease=pages)
    eal = start("--single-file-segments", "-m", str(page >> 20), box=box)
    first = eal.segments()[0].list
    ((fd, name),) = memfds(eal).items()
    full = eal.malloc(page - 4 * MB) if page == GB else None

    got = eal.malloc(5 * MB)
    segs = [s for s in eal.segments() if s.hugepage_sz == 2 * MB]
    grown = {n: stat(eal, n) for n in memfds(eal)}
    maps = [eal.map_at(s.addr) for s in segs]
    eal.free(got.va)
    left = {n: stat(eal, n) for n in memfds(eal)}
    evidence(
        " -> ".join(str([(s.st_size, s.st_blocks) for s in x.values()]) for x in (grown, left))
    )

    assert name == f"seg_{first}"
    assert full is None or full.va
    lists = {s.list for s in segs}
    assert len(lists) == 1 and {m.path for m in maps} == {f"/memfd:seg_{segs[0].list} (deleted)"}
    assert [m.offset + s.addr - m.start for m, s in zip(maps, segs, strict=True)] == [
        s.seg * 2 * MB for s in segs
    ]
    if segs[0].list == first:
        assert list(grown) == list(left) == [fd]
        assert (grown[fd].st_size, grown[fd].st_blocks * 512) == (8 * MB, 8 * MB)
        assert (left[fd].st_size, left[fd].st_blocks * 512) == (8 * MB, 2 * MB)
    else:
        assert len(grown) == 2
        assert list(left) == [fd]


@requirement("MEMFD-009")
@modes("no-huge")
def test_no_huge_memory_is_one_untouched_memfd(start, evidence):
    """memfd "nohuge", as long as the memory, of ordinary pages, mapped shared and not populated."""
    eal = start("-m", "64")
    ((fd, name),) = memfds(eal).items()
    m, seg = eal.map_at(eal.segments()[0].addr), eal.segments()[0]
    evidence(f"{name}: {stat(eal, fd).st_size >> 20} MB, {m.perms}, {m.rss >> 10} kB resident")

    assert name == "nohuge"
    assert stat(eal, fd).st_size == 64 * MB
    assert (m.start, m.len, m.offset, m.path) == (seg.addr, 64 * MB, 0, "/memfd:nohuge (deleted)")
    assert (m.perms, m.page_sz) == ("rw-s", proc.PAGE)
    assert m.rss < 2 * MB


@requirement("MEMFD-010")
@needs(strace=True)
@modes("no-huge")
@pytest.mark.parametrize("fails", ["memfd_create", "ftruncate"])
def test_no_huge_does_without_memfd(start, fails, evidence):
    """No memfd, or none of that size: private anonymous memory, and init succeeds.

    ftruncate fails by itself: no file of this process may be longer than 8 MB.
    """
    limits = {"fsize": 8 * MB} if fails == "ftruncate" else {}
    eal = start("-m", "16", init=False, rlimits=limits)
    trace = None if limits else eal.trace("memfd_create", inject="memfd_create:error=EPERM")
    eal.init()
    if trace:
        assert [c.injected for c in trace.stop()] == [True]
    m, said = eal.map_at(eal.segments()[0].addr), eal.logged("memfd")
    evidence(f"{said}; memory is {m.perms} {m.path or 'anonymous'}")

    what = "create" if trace else "resize"
    assert [f"Cannot {what} memfd: " in line for line in said] == [True]
    assert eal.logged("Falling back to anonymous map")
    assert (m.perms, m.inode, m.path) == ("rw-p", 0, "")
    assert not memfds(eal)
    eal.poke(m.start + 8 * MB, b"pyeal")
    assert eal.peek(m.start + 8 * MB, 5) == b"pyeal"


@requirement("MEMFD-011")
@needs(pages={"2M": 2})
@modes("in-memory", "no-huge")
def test_memfds_are_inherited_and_cannot_be_sealed(start, mode, evidence):
    """No MFD_ALLOW_SEALING, no MFD_CLOEXEC: seals are F_SEAL_SEAL alone, flags O_RDWR alone."""
    starts = [["-m", "4"]] + [["-m", "2", "--single-file-segments"]] * (mode == "in-memory")
    for args in starts:
        eal = start(*args, prefix=f"eal_{mode}_{len(args)}")
        for n, name in memfds(eal).items():
            fd = os.open(f"/proc/{eal.pid}/fd/{n}", os.O_RDWR)
            seals = fcntl.fcntl(fd, F_GET_SEALS)
            os.close(fd)
            flags = eal.fds()[n].flags
            evidence(f"{name}: seals {seals}, flags {flags:o}")

            assert seals == F_SEAL_SEAL
            assert not flags & os.O_CLOEXEC
            assert flags & os.O_ACCMODE == os.O_RDWR
        assert memfds(eal)
        eal.close()


@requirement("MEMFD-013")
@needs(pages={"2M": 2})
@modes("in-memory")
def test_memfds_are_not_locked(start, evidence):
    """No flock on a memfd, and none of this process at all."""
    eal = start("-m", "4")
    inodes = {eal.fds()[n].inode for n in memfds(eal)}
    locks = [k for k in proc.locks() if k.kind == "FLOCK"]
    evidence(
        f"{len(inodes)} memfds; flocks of the process: {[k for k in locks if k.pid == eal.pid]}"
    )

    assert len(inodes) == 2
    assert not [k for k in locks if k.pid == eal.pid]


@requirement("MEMFD-014")
@needs(pages={"2M": 4}, strace=True)
@modes("in-memory")
def test_a_failure_for_one_page_is_that_page_s(start, evidence):
    """One page's memfd fails: it is tried again, and init has its three pages."""
    eal = start("-m", "6", init=False)
    trace = eal.trace("memfd_create", inject="memfd_create:error=ENFILE:when=3")
    eal.init()
    calls = trace.stop()
    tried = [c.args[0].strip('"') for c in calls if "seg_" in c.args[0]]
    (failed,) = (c.args[0].strip('"') for c in calls if c.injected)
    segs = eal.segments()
    evidence(f"{failed} fails; tried: {tried}")

    assert eal.logged("Couldn't get fd on hugepage file")
    assert tried.count(failed) == 2
    assert [s.seg for s in segs] == [0, 1, 2] and len({s.list for s in segs}) == 1
    assert sorted(memfds(eal).values()) == [f"seg_{s.list}-{s.seg}" for s in segs]
