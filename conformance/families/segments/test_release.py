"""SEG: pages that the heap allocates and frees while the process runs."""

import fcntl
import mmap

from conformance import DYNAMIC, MB, modes, needs, requirement

PAGE = 2 * MB
ONE, TWO = PAGE - 192, 2 * PAGE - 192  # areas that need so many new pages: 128 are the header's


@requirement("SEG-019")
@needs(pages={"2M": 4}, strace=True)
@modes(*DYNAMIC)
def test_changes_lock_the_hugepage_directory(start, mode, box, evidence):
    """One exclusive, waiting lock for all of a start, one for a page's growth, one for its release;
    none in memory. Page files are opened and removed while it is held."""
    eal = start("-m", "2", init=False)
    trace = eal.trace("flock,openat,close,unlink,unlinkat,getpid")
    eal.init()
    va = eal.malloc(ONE).va
    eal.free(va)
    where = f"<{box.hugedir('2M')}>" if mode != "in-memory" else "<>"
    held, seen, outside = None, [], []
    for c in trace.stop():
        if c.name == "flock" and c.args[0].endswith(where) and c.args[1] != "LOCK_UN":
            seen.append(c.args[1])
            held = c.args[0]
        elif c.name in ("close", "flock") and c.args[0] == held:
            held = None
        elif c.name in ("openat", "unlink", "unlinkat") and f"{eal.prefix}map_" in c.text:
            outside += [c.text] * (held is None)
    evidence(f"{seen}")

    assert seen == ([] if mode == "in-memory" else ["LOCK_EX"] * 3)
    assert outside == []


@requirement("SEG-021")
@needs(pages={"2M": 4})
def test_a_released_page_is_erased(start, evidence):
    """Zeroed, unmapped, its file gone unless another process holds it, its record empty.

    seg   0 start   1 growth, its file locked by this test   2 growth
    file  stays     stays, zeros: no heap header either      gone
    """
    eal = start("-m", "2")
    msl = eal.lists()[0]
    va = eal.malloc(TWO).va
    segs, files, fds = eal.segments(), eal.page_files(), eal.fds()
    grown = eal.lists()[0]
    eal.poke(segs[1].addr + 256, b"secret")
    with open(eal.hugedir() / files[1], "r+b") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        with mmap.mmap(held.fileno(), PAGE) as data:
            secret = data.find(b"secret")
            eal.free(va)
            nonzero = len(data[:].strip(b"\0"))
    after, array = eal.lists()[0], eal.array("memseg-2048k-0-0")
    there = eal.map_at(segs[1].addr)
    evidence(f"versions {[m.version for m in (msl, grown, after)]}, files {eal.page_files()}")

    assert (secret, nonzero) == (256, 0)
    assert eal.page_files() == files[:2]
    assert (there.start, there.perms) == (segs[1].addr, "---p")
    assert there.end >= msl.base_va + msl.len
    assert "dd" in there.flags
    assert array.used == [0]
    assert array.raw(1) == array.raw(2) == bytes(48)
    assert len(eal.fds()) == len(fds) - 2
    assert (grown.version, after.version) == (msl.version + 1, msl.version + 3)


@requirement("SEG-022")
@needs(pages={"2M": 4})
@modes("single-file")
def test_a_lists_file_keeps_its_length(start, evidence):
    """Released pages leave holes: the length stays, the blocks go. With its last page the file
    is removed and closed."""
    eal = start("-m", "2")
    (name,) = eal.page_files()
    found = []
    va = 0
    for step in "start", "growth", "release":
        if step == "growth":
            va = eal.malloc(TWO).va
        elif step == "release":
            eal.free(va)
        st = (eal.hugedir() / name).stat()
        found.append((st.st_size // PAGE, st.st_blocks * 512 // PAGE))
    evidence(f"(length, blocks) in pages: {found}")
    eal.cleanup()

    assert found == [(1, 1), (3, 3), (3, 1)]
    assert eal.page_files() == []
    assert [fd for fd in eal.fds().values() if name in fd.path] == []


@requirement("SEG-027")
@needs(pages={"2M": 4})
@modes(*DYNAMIC)
def test_growth_and_release_are_told(start, evidence):
    """One ALLOC for a growth, one FREE for its release, with address and bytes; none before."""
    eal = start("-m", "2")
    assert eal.events_register().ret == 0
    before = list(eal.events())
    va = eal.malloc(TWO).va
    new = [s for s in eal.segments() if s.hugepage_sz == PAGE][1:]
    eal.free(va)
    events = [(e.type, e.va, e.len) for e in eal.events()]
    evidence(events)

    assert before == []
    assert events == [("ALLOC", new[0].addr, 2 * PAGE), ("FREE", new[0].addr, 2 * PAGE)]
