"""Page files that were there before, or that another process uses: what stays of them."""

import fcntl
import mmap
import os
import time
from contextlib import contextmanager

import pytest

from conformance import MB, WAIT, needs
from conformance.harness.child import TargetError
from conformance.units.segments.rollback import PAGE, N, refuse, state
from pyeal.files import DirectoryLock


@contextmanager
def content(path):
    """Map a page file meanwhile."""
    with open(path, "r+b") as f, mmap.mmap(f.fileno(), PAGE) as data:
        yield data


def start_of(path):
    with content(path) as data:
        return data[:4]


@needs(pages={"2M": N + 1}, root=True, strace=True)
def test_kept_files_survive_a_failure(eal_of):
    """--huge-unlink=never: files with data from before stay as they were, new ones go.

    segment  0 | 1 2 [3 kept] 4 | 5 6 [7 kept] 8 | 9 10     the lock of 3 fails, then that of 5
    """
    eal = eal_of("dynmem", "--huge-unlink=never")
    old = [eal.hugedir() / f"{eal.prefix}map_{seg}" for seg in (3, 7)]
    for path in old:
        path.touch()
        os.truncate(path, PAGE)
        with content(path) as data:
            data[:4] = b"kept"
    before, names = state(eal), eal.page_files()

    for seg in 3, 5:
        path = f"{eal.box.hugedir('2M')}/{eal.prefix}map_{seg}"
        with eal.failing("flock", "ENOLCK", path=path):
            refuse(eal, N)
        assert eal.page_files() == names
        assert [start_of(path) for path in old] == [b"kept"] * 2
        assert state(eal) == before


@needs(pages={"2M": 4}, root=True, strace=True)
@pytest.mark.parametrize("when", ["once", "for good"])
@pytest.mark.parametrize(
    ("call", "error", "first"), [("mmap", "ENOMEM", 1), ("flock", "ENOLCK", 2)]
)
def test_a_restart_whose_page_fails(start, call, error, first, when):
    """Page 1 of four kept files, which discovery has open: had at the next attempt, or refused.

    All files stay, with what is in them.
    """
    args = "-m", "8", "--huge-unlink=never"
    eal = start(*args)
    at = [s.addr + MB for s in eal.segments()]
    for va in at:
        eal.poke(va, b"%x" % va)
    eal.close()

    again = start(*args, init=False)
    name = f"{again.prefix}map_1"
    path = [f"{again.box.hugedir('2M')}/{name}", name]
    nth = f"{first}+" if when == "for good" else f"{first}"
    with again.failing(call, error, when=nth, path=path):
        if when == "once":
            again.init()
            assert [s.flags for s in again.segments()] == [3] * 4
        else:
            again.refused()
    again.close()

    third = start(*args)
    assert [third.peek(va, 9) for va in at] == [b"%x" % va for va in at]
    assert [s.flags for s in third.segments()] == [3] * 4


@needs(pages={"2M": N + 1}, root=True, cgroup="hugetlb")
def test_a_kept_lists_file_does_not_grow(eal_of, make_box, cgroup):
    """--huge-unlink=never with one file: what a failed start added to it goes, its data stays.

    The page from before counts for the cgroup that it was made in.
    """
    box = make_box({"2M": N + 1})
    first = eal_of("single-file", "--huge-unlink=never", box=box)
    at = first.segments()[0].addr + MB
    first.poke(at, b"kept")
    first.close()
    path = first.hugedir() / f"{first.prefix}map_0"
    before = path.stat().st_blocks
    with pytest.raises(TargetError):
        limit = cgroup("2M", 2 * PAGE)
        eal_of("single-file", "--huge-unlink=never", "-m", "8", box=box, cgroup=limit)

    assert path.stat().st_blocks == before
    assert eal_of("single-file", "--huge-unlink=never", box=box).peek(at, 4) == b"kept"


@needs(pages={"2M": 2}, root=True)
@pytest.mark.parametrize("mode", ["dynmem", "single-file"])
def test_an_old_empty_file_is_dirty(eal_of, make_box, mode):
    """--huge-unlink=never: that a file was there decides, as in get_seg_fd, not what it holds."""
    box = make_box({"2M": 2})
    first = eal_of(mode, "--huge-unlink=never", box=box)
    path = first.hugedir() / f"{first.prefix}map_0"
    first.close()
    path.unlink()
    path.touch()
    again = eal_of(mode, "--huge-unlink=never", box=box)
    assert again.segments()[0].flags == 3  # FLAG_DO_NOT_FREE, FLAG_DIRTY


@needs(pages={"2M": N + 1}, root=True)
def test_a_page_file_in_use_elsewhere_stays(eal_of):
    """Freed while another process has its lock: the file stays, its data is gone."""
    eal = eal_of("dynmem")
    segs = eal.alloc(PAGE, 0, 2)
    eal.poke(segs[1]["addr"], b"secret")
    path = eal.hugedir() / eal.page_files()[2]
    with open(path, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        eal.free_segs(segs)

    assert eal.page_files() == [f"{eal.prefix}map_0", path.name]
    assert start_of(path) == bytes(4)


@needs(pages={"2M": 8}, root=True)
def test_pages_freed_without_the_lock_of_their_directory(start, peer):
    """A stopped process may hold it: nothing is allocated, and files remain for a while.

    A first growth finds out that the peer does not answer, so that the second one need not.
    """
    eal = start("-m", "2", target="pyeal")
    at = eal.malloc(5 * MB).va
    files = eal.page_files()
    unresponsive = peer(eal)
    assert not eal.malloc(7 * MB).va
    with DirectoryLock(str(eal.hugedir())):
        begun = time.monotonic()
        refused = not eal.malloc(7 * MB).va
        took = time.monotonic() - begun
        eal.free(at)
    left = eal.page_files()
    zeros = {start_of(eal.hugedir() / name) for name in left[1:]}
    unresponsive.kill()
    eal.free(eal.malloc(5 * MB).va)

    assert refused and took < WAIT  # a second
    assert (left, zeros) == (files, {bytes(4)})
    assert eal.page_files() == files[:1]
