"""Roll-back: whichever page of a batch fails, and however, nothing of the failed part is left.

A batch of ten pages in chunks of four, populated by two threads; page 0 of the list is there.

    segment  0 | 1 2 3 4 | 5 6 7 8 | 9 10       page k of the batch is segment 1 + k
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conformance import MODES, needs, until
from conformance.harness import fake_host
from conformance.harness.child import TargetError
from conformance.harness.eal import Eal
from pyeal.files import DirectoryLock
from pyeal.populate import PopulateThreads, PreferredNode, local_cpus

PAGE = 2 << 20
N = 10
TARGET = Path(__file__).with_name("segments_target.py")
Start = Callable[..., Any]


@pytest.fixture
def eal_of(make_box: Start, cgroup: Start, tmp_path: Path, prefix: str) -> Iterator[Start]:
    """eal_of(mode, *args, how="", box=None, cgroup=None): one page, room for ten more.

    how: words of segments_target.py.
    """
    started = []

    def start(mode: str, *args: str, how: str = "", box: Any = None, **more: Any) -> Any:
        pages = {"2M": N + 1}
        box = box or (make_box(lease=pages) if mode == "in-memory" else make_box(pages))
        args = (*MODES[mode], "-m", "2", *args, "--file-prefix", f"{prefix}_seg")
        target = f"cmd:{sys.executable} {TARGET} {how}"
        eal = Eal(target, args, box, tmp_path, f"{prefix}_seg", **more)
        started.append(eal)
        eal.init()
        eal.threads = len(os.listdir(f"/proc/{eal.pid}/task"))
        return eal

    yield start
    for eal in started:
        eal.close()


def state(eal: Any) -> dict[str, object]:
    """All that an allocation changes. Threads end a moment after their work."""
    tasks = Path(f"/proc/{eal.pid}/task")
    until(lambda: len(list(tasks.iterdir())) <= eal.threads, 2)
    threads = len(list(tasks.iterdir()))
    lists = eal.lists()
    found = {
        "pages": [s.addr for s in eal.segments()],
        "lists": [(m.name, m.count, m.version) for m in lists],
        "maps": [(m.start, m.end, m.perms, m.path, m.offset, "dd" in m.flags) for m in eal.smaps()
                 if any(x.base_va <= m.start < x.base_va + x.len for x in lists)],
        "descriptors": sorted((n, fd.path) for n, fd in eal.fds().items()),
        "threads": threads,
        "policy": eal.ask("policy"),
    }  # fmt: skip
    if "2M" in eal.box.pages:
        free = os.statvfs(eal.hugedir())
        found |= {"files": eal.page_files(), "free": free.f_bfree, "size": free.f_blocks}
    return found


def both(eal: Any, want: range, fault: Callable[[], Callable[[], object]], socket: int = 0) -> int:
    """Exactly ten pages are refused and nothing changed; as many as there are: the first ones.

    fault: makes the fault, answers what takes it away. How many the second request got.
    """
    before = state(eal)
    heal = fault()
    with pytest.raises(TargetError) as refused:
        eal.alloc(PAGE, socket, N, True)
    heal()
    assert refused.value.errno == errno.ENOMEM
    assert state(eal) == before

    heal = fault()
    try:
        segs = eal.alloc(PAGE, socket, N, False)
    except TargetError as e:
        assert e.errno == errno.ENOMEM
        segs = []
    heal()
    after = state(eal)
    assert len(segs) in want
    assert [s["seg"] for s in segs] == [segs[0]["seg"] + i for i in range(len(segs))]
    assert after["pages"] == before["pages"] + [s["addr"] for s in segs]
    if segs:
        assert eal.free_segs(segs)["ret"] == 0
    after = state(eal)
    versions = [m.pop() for m in map(list, after["lists"])]  # type: ignore[call-overload]
    assert versions != [] and without_versions(after) == without_versions(before)
    return len(segs)


def without_versions(state: dict[str, Any]) -> dict[str, Any]:
    return state | {"lists": [m[:2] for m in state["lists"]]}


def injected(eal: Any, call: str, error: str, path: object = None, when: str = "") -> Start:
    """strace fails a call: `fault` for both()."""

    def fault() -> Callable[[], object]:
        trace = eal.trace(call, inject=f"{call}:error={error}{when}", path=path)

        def heal() -> None:
            assert any(c.injected for c in trace.stop())

        return heal

    return fault


CALLS = [("flock", "ENOLCK", 0), ("flock", "ENOLCK", 3), ("flock", "ENOLCK", 4),
         ("flock", "ENOLCK", 9), ("openat", "EMFILE", 9), ("mmap", "ENOMEM", 0),
         ("mmap", "ENOMEM", 4), ("newfstatat", "EACCES", 4)]  # fmt: skip


@needs(pages={"2M": N + 1}, root=True, strace=True)
@pytest.mark.parametrize("how", ["", "plain"])
@pytest.mark.parametrize(("call", "error", "k"), CALLS)
def test_a_call_that_fails_for_one_page(
    eal_of: Start, call: str, error: str, k: int, how: str
) -> None:
    """The pages before it are allocated if any number will do; then the next list is not needed.

    Page 0 of the batch failing leaves list 0 without any: list 1 serves all ten.
    """
    eal = eal_of("dynmem", how=how)
    name = f"{eal.prefix}map_{1 + k}"
    path = [f"{eal.box.hugedir('2M')}/{name}", name]
    got = both(eal, range(N + 1), injected(eal, call, error, path))

    assert got == (k or N)


@needs(pages={"2M": N + 1}, root=True, strace=True)
def test_an_unlinked_page_file(eal_of: Start) -> None:
    """--huge-unlink=always: no name to remove, all else the same."""
    eal = eal_of("dynmem", "--huge-unlink")
    path = f"{eal.box.hugedir('2M')}/{eal.prefix}map_5"

    assert both(eal, range(N + 1), injected(eal, "flock", "ENOLCK", path)) == 4


@needs(pages={"2M": N + 1}, root=True, strace=True)
@pytest.mark.parametrize(("k", "when"), [(0, "1+1"), (3, "1+4")])
def test_one_file_is_mapped_as_far_as_it_goes(eal_of: Start, k: int, when: str) -> None:
    """The mapping of all ten fails, then that of page k."""
    eal = eal_of("single-file")
    path = f"{eal.box.hugedir('2M')}/{eal.prefix}map_0"
    got = both(eal, range(N + 1), injected(eal, "mmap", "ENOMEM", path, f":when={when}"))

    assert got == (k or N)  # list 1 has a file of its own


@needs(pages={"2M": N + 1}, strace=True)
@pytest.mark.parametrize("k", [0, 9])
def test_a_memfd_that_is_not_to_be_had(eal_of: Start, k: int) -> None:
    eal = eal_of("in-memory")
    got = both(eal, range(N + 1), injected(eal, "memfd_create", "EMFILE", when=f":when={k + 1}"))

    assert got == (k or N)


LIMITS = [("dynmem", 0, False), ("dynmem", 3, False), ("dynmem", 4, False), ("dynmem", 9, False),
          ("single-file", 4, False), ("in-memory", 4, False),
          ("dynmem", 4, True), ("single-file", 9, True), ("in-memory", 0, True)]  # fmt: skip


@needs(pages={"2M": N + 1}, root=True, cgroup="hugetlb", cpus=2)
@pytest.mark.parametrize(("mode", "k", "helper"), LIMITS)
def test_a_cgroup_limit_at_page_k(
    eal_of: Start, cgroup: Start, mode: str, k: int, helper: bool
) -> None:
    """Populating stops in the middle of a chunk, in this thread or the other. With two at work
    the pages that are there need not be the first, and then fewer are allocated, or none."""
    eal = eal_of(mode, how="helper" * helper, cgroup=cgroup("2M", (1 + k) * PAGE))
    got = both(eal, range(k + 1), lambda: lambda: None)

    assert got == k or not helper


@needs(pages={"2M": N + 1}, root=True, strace=True, cgroup="hugetlb")
def test_a_limit_on_reservations(eal_of: Start, cgroup: Start) -> None:
    """mmap itself fails at page 4."""
    eal = eal_of("dynmem", cgroup=cgroup("2M", 5 * PAGE, reserve=True))

    assert both(eal, range(5), lambda: lambda: None) == 4


@needs(pages={"2M": N + 1}, root=True, cpus=2)
@pytest.mark.parametrize("mode", ["dynmem", "single-file", "in-memory"])
def test_pages_on_the_wrong_node(eal_of: Start, make_box: Start, mode: str, tmp_path: Path) -> None:
    """All ten are mapped and populated before it shows."""
    pages = {"2M": N + 1}
    binds = fake_host.build(tmp_path / "tree", {"2M": [N + 1, N + 1]}, {0: "0", 1: "1"})
    box = make_box(binds=binds, **{"lease" if mode == "in-memory" else "pages": pages})
    eal = eal_of(mode, "-l", "0", box=box)
    got = both(eal, range(1), lambda: lambda: None, socket=1)

    assert got == 0 and eal.logged("(wanted 1, got 0)")


@needs(pages={"2M": N + 1}, root=True, strace=True)
@pytest.mark.parametrize(("call", "error"), [("move_pages", "EPERM"), ("pread64", "EIO"),
                                             ("madvise", "EHWPOISON")])  # fmt: skip
def test_a_call_for_all_pages(eal_of: Start, call: str, error: str) -> None:
    """The node query, pagemap, or every madvise: also the one that keeps pages out of dumps."""
    eal = eal_of("dynmem", "--iova-mode", "pa" if os.geteuid() == 0 else "va")
    if call == "madvise":  # each thread's first: later ones make the reservation again
        fault = injected(eal, call, error, when=":when=1")
    else:
        fault = injected(eal, call, error)
    got = both(eal, range(N + 1), fault)

    assert got == 0 or call == "madvise"


@needs(pages={"2M": N + 1}, root=True, strace=True, cpus=2)
def test_no_thread_to_be_had(eal_of: Start) -> None:
    """One thread does it all."""
    eal = eal_of("dynmem")
    before = state(eal)
    trace = eal.trace("clone3", inject="clone3:error=EAGAIN")
    segs = eal.alloc(PAGE, 0, N)
    assert any(c.injected for c in trace.stop())
    assert eal.free_segs(segs)["ret"] == 0

    assert len(segs) == N
    assert without_versions(state(eal)) == without_versions(before)


@needs(pages={"2M": N + 1}, root=True)
def test_a_locked_directory_that_is_gone(eal_of: Start) -> None:
    eal = eal_of("dynmem")
    before = state(eal)
    eal.box.sh(f"umount -l {eal.box.hugedir('2M')}; rmdir {eal.box.hugedir('2M')}")
    with pytest.raises(TargetError) as refused:
        eal.alloc(PAGE, 0, 1)
    eal.box.sh(f"mkdir {eal.box.hugedir('2M')}")

    assert refused.value.errno == errno.ENOMEM and "Cannot lock" in refused.value.text
    assert [s.addr for s in eal.segments()] == before["pages"]


@needs(pages={"2M": N + 1}, root=True, strace=True)
def test_kept_files_survive_a_failure(eal_of: Start) -> None:
    """--huge-unlink=never: files with data from before stay as they were, new ones go."""
    eal = eal_of("dynmem", "--huge-unlink=never")
    old = [f"{eal.prefix}map_{k + 1}" for k in (2, 6)]
    for name in old:
        write(eal.hugedir() / name, b"kept")
    before, names = state(eal), eal.page_files()
    for k in 2, 4:  # an old file's lock fails, a new one's
        path = f"{eal.box.hugedir('2M')}/{eal.prefix}map_{1 + k}"
        heal = injected(eal, "flock", "ENOLCK", path)()
        with pytest.raises(TargetError):
            eal.alloc(PAGE, 0, N)
        heal()

        assert eal.page_files() == names
        assert [read(eal.hugedir() / name) for name in old] == [b"kept"] * 2
        assert state(eal) == before


@needs(pages={"2M": 4}, root=True, strace=True)
@pytest.mark.parametrize("when", ["once", "for good"])
@pytest.mark.parametrize(
    ("call", "error", "first"), [("mmap", "ENOMEM", 1), ("flock", "ENOLCK", 2)]
)
def test_a_restart_whose_page_fails(
    start: Start, call: str, error: str, first: int, when: str
) -> None:
    """Page 1 of four kept files, which discovery has open: had at the next attempt, or refused.

    All files stay, with what is in them.
    """
    args = "-m", "8", "--huge-unlink=never"
    eal = start(*args)
    at = [s.addr + PAGE // 2 for s in eal.segments()]
    for va in at:
        eal.poke(va, b"%x" % va)
    eal.close()
    again = start(*args, init=False)
    name = f"{again.prefix}map_1"
    inject = f"{call}:error={error}:when={first}" + "+" * (when == "for good")
    trace = again.trace(call, inject=inject, path=[f"{again.box.hugedir('2M')}/{name}", name])
    if when == "once":
        again.init()
        assert [s.flags for s in again.segments()] == [3] * 4
    else:
        again.refused()
    assert any(c.injected for c in trace.stop())
    again.close()
    third = start(*args)

    assert [third.peek(va, 9) for va in at] == [b"%x" % va for va in at]
    assert [s.flags for s in third.segments()] == [3] * 4


@needs(pages={"2M": N + 1}, root=True, cgroup="hugetlb")
def test_a_kept_lists_file_does_not_grow(eal_of: Start, make_box: Start, cgroup: Start) -> None:
    """--huge-unlink=never with one file: what a failed start added to it goes, its data stays."""
    box = make_box({"2M": N + 1})
    first = eal_of("single-file", "--huge-unlink=never", box=box)
    at = first.segments()[0].addr + PAGE // 2
    first.poke(at, b"kept")
    first.close()
    path = first.hugedir() / f"{first.prefix}map_0"
    before = path.stat().st_blocks
    with pytest.raises(TargetError):  # the page from before counts for whom it was made
        eal_of("single-file", "--huge-unlink=never", "-m", "8", box=box,
               cgroup=cgroup("2M", 2 * PAGE))  # fmt: skip

    assert path.stat().st_blocks == before
    assert eal_of("single-file", "--huge-unlink=never", box=box).peek(at, 4) == b"kept"


@needs(pages={"2M": N + 1}, root=True)
def test_a_page_file_in_use_elsewhere_stays(eal_of: Start, cgroup: Start) -> None:
    """Freed while another process has its lock: the file stays, its data is gone."""
    eal = eal_of("dynmem")
    segs = eal.alloc(PAGE, 0, 2)
    eal.poke(segs[1]["addr"], b"secret")
    path = eal.hugedir() / eal.page_files()[2]
    with open(path, "rb") as held:
        fcntl.flock(held, fcntl.LOCK_SH)
        eal.free_segs(segs)

    assert eal.page_files() == [f"{eal.prefix}map_0", path.name]
    assert read(path) == bytes(4)


@needs(pages={"2M": 8}, root=True)
def test_pages_freed_without_the_lock_of_their_directory(start: Start, peer: Start) -> None:
    """A stopped process may hold it: nothing is allocated, and files remain for a while."""
    eal = start("-m", "2", target="pyeal")
    at = eal.malloc(5 << 20).va
    files = eal.page_files()
    mute = peer(eal)
    assert not eal.malloc(7 << 20).va  # so that it counts as unresponsive
    with DirectoryLock(str(eal.hugedir())):
        begun = time.monotonic()
        refused = not eal.malloc(7 << 20).va
        took = time.monotonic() - begun
        eal.free(at)
    left = eal.page_files()
    zeros = {read(eal.hugedir() / name) for name in left[1:]}
    mute.kill()
    eal.free(eal.malloc(5 << 20).va)

    assert refused and took < 2
    assert (left, zeros) == (files, {bytes(4)})
    assert eal.page_files() == files[:1]


def write(path: Path, data: bytes) -> None:
    with open(path, "w+b") as f:
        os.truncate(f.fileno(), PAGE)
        with mmap.mmap(f.fileno(), PAGE) as m:
            m[: len(data)] = data


def read(path: Path) -> bytes:
    with open(path, "r+b") as f, mmap.mmap(f.fileno(), PAGE) as m:
        return m[:4]


@pytest.mark.parametrize(
    ("node_of", "usable", "found"),
    [
        ({0: 0, 1: 0}, {0, 1}, {}),
        ({0: 0, 1: 0, 2: 1, 3: 1}, {0, 1, 2, 3}, {0: {0, 1}, 1: {2, 3}}),
        ({0: 0, 1: 0, 2: 1, 3: 1}, {0, 1, 2}, {0: {0, 1}}),  # one is less than half of three
        ({0: 0, 1: 1}, {1}, {}),
        ({}, {0, 1}, {}),
    ],
)
def test_a_nodes_memory_is_filled_by_its_own_cpus(
    node_of: dict[int, int], usable: set[int], found: dict[int, set[int]]
) -> None:
    assert local_cpus(node_of, usable) == found


def test_threads_run_near_the_memory_and_the_caller_only_meanwhile() -> None:
    before, ran = os.sched_getaffinity(0), list[set[int]]()
    cpu = max(before)
    with PreferredNode(0, print, {cpu}) as policy:
        if not policy.works:
            pytest.skip("wanted memory policies, found none")
        threads = PopulateThreads(2, policy.prefer)
        threads.together(lambda: ran.append(os.sched_getaffinity(0)))

    assert ran == [{cpu}] * 3
    assert os.sched_getaffinity(0) == before


def test_cpus_that_went_are_said_and_the_memory_is_had_all_the_same() -> None:
    said, before = list[str](), os.sched_getaffinity(0)
    with PreferredNode(0, lambda level, text: said.append(text), {1023}) as policy:
        if not policy.works:
            pytest.skip("wanted memory policies, found none")
        assert os.sched_getaffinity(0) == before

    assert said[0] == "sched_setaffinity failed: Invalid argument"
