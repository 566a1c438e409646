"""HPI: the directory of page files: its lock, what is cleared from it, what is kept in it."""

import fcntl
import os
import threading

import pytest

from conformance import HUGE, HUGE_FILES, MB, modes, needs, requirement, until
from conformance.harness.catalogue import holds

M2 = 2 * MB


@pytest.fixture
def kept(start, mode):
    """start() with --huge-unlink=never, which 25.11 refuses with --single-file-segments."""

    def kept(*args, **more):
        eal = start(*args, "--huge-unlink=never", init=False, **more)
        if mode == "single-file" and holds(">=25.11", eal.release):
            pytest.skip(f"not in this release with single-file segments: <25.11, {eal.release}")
        return eal.init()

    return kept


@requirement("HPI-017")
@needs(pages={"2M": 2}, strace=True)
@modes(*HUGE)
def test_directory_is_locked_from_counting_to_the_last_page(start, mode, machine, evidence):
    """A start waits for the lock, then holds it: count, pages, and only then it is released."""
    box = machine({"2M": {"free": 2}}, {"2M": 2})
    at = box.path(box.hugedir("2M"))
    eal = start("-m", "4", box=box, init=False)
    trace = eal.trace("openat,flock,close,memfd_create")
    mine = os.open(at, os.O_RDONLY)
    fcntl.flock(mine, fcntl.LOCK_EX)
    starting = threading.Thread(target=eal.init)
    starting.start()
    waits = until(lambda: [x for x in eal.locks(at) if x.waits])
    still = starting.is_alive()
    os.close(mine)
    starting.join(20)
    calls = trace.stop()
    after = eal.locks(at)

    took = next(
        i for i, c in enumerate(calls) if c.name == "flock" and box.hugedir("2M") + ">" in c.args[0]
    )
    fd = calls[took].args[0]
    opened = next(
        c for c in calls[took::-1] if c.name == "openat" and c.ret == int(fd.split("<")[0])
    )
    page = '"seg_' if mode == "in-memory" else f"{eal.prefix}map_"
    counted = [i for i, c in enumerate(calls) if "free_hugepages" in c.text]
    made = [
        i
        for i, c in enumerate(calls)
        if c.name in ("openat", "memfd_create") and any(page in a for a in c.args)
    ]
    gave = next(
        i
        for i, c in enumerate(calls)
        if i > took and c.args[0] == fd and (c.name == "close" or "LOCK_UN" in c.args[1])
    )
    evidence(f"waited: {waits}; lock {took}, counters {counted[0]}, pages {made}, unlock {gave}")

    assert [(x.kind, x.mode) for x in waits] == [("FLOCK", "WRITE")] and still
    assert (calls[took].args[1], calls[took].ret) == ("LOCK_EX", 0)
    assert opened.args[2].split("|")[0] == "O_RDONLY"
    assert made and took < min(counted) and max(made) < gave
    assert after == []


@requirement("HPI-018")
@needs(pages={"2M": 1})
@modes(*HUGE)
def test_stale_files_of_any_prefix_are_removed(start, machine, evidence):
    """What has `map_` in its name and no lock goes before pages are counted; the others stay."""
    box = machine({"2M": {"free": 1}}, {"2M": 1})
    at = box.path(box.hugedir("2M"))
    for name in ("foo_1", "map", "remap-1", "map_", "xmap_yy", "othermap_0"):
        (at / name).touch()
    (at / "dirmap_0").mkdir()
    eal = start("-m", "2", box=box)
    left = sorted(f for f in os.listdir(at) if not f.startswith(eal.prefix))
    evidence(left)

    assert left == ["dirmap_0", "foo_1", "map", "remap-1"]


@requirement("HPI-019")
@needs(pages={"2M": 1})
@modes(*HUGE)
def test_locked_files_are_left_alone(start, machine, evidence):
    """A shared lock protects a file as an exclusive one does."""
    box = machine({"2M": {"free": 1}}, {"2M": 1})
    at = box.path(box.hugedir("2M"))
    locks = {"amap_0": fcntl.LOCK_SH, "bmap_0": fcntl.LOCK_EX, "cmap_0": fcntl.LOCK_UN}
    held = [os.open(at / name, os.O_RDONLY | os.O_CREAT) for name in locks]
    for fd, lock in zip(held, locks.values(), strict=True):
        fcntl.flock(fd, lock)
    eal = start("-m", "2", box=box)
    left = sorted(f for f in os.listdir(at) if not f.startswith(eal.prefix))
    evidence(f"{left} of {list(locks)}")
    for fd in held:
        os.close(fd)

    assert left == ["amap_0", "bmap_0"]


@requirement("HPI-020")
@needs(pages={"2M": 2})
@modes(*HUGE_FILES)
def test_kept_files_count_as_pages_of_node_0(kept, machine, evidence):
    """--huge-unlink=never: 5 free - 1 reserved + 3 pages in files that no process locks.

    amap_0 two pages | bmap_0 one | cmap_0 four, locked | foo_0 four, no page file
    """
    box = machine({"2M": {"free": 5, "resv": 1, "nodes": {0: 2, 1: 3}}}, {"2M": 2})
    at = box.path(box.hugedir("2M"))
    sizes = {"amap_0": 2, "bmap_0": 1, "cmap_0": 4, "foo_0": 4}
    for name, n in sizes.items():
        (at / name).touch()
        os.truncate(at / name, n * M2)
    with open(at / "cmap_0") as used:
        fcntl.flock(used, fcntl.LOCK_SH)
        eal = kept("-m", "2", box=box)
    (record,) = eal.hugepage_info()
    left = [f for f in sizes if (at / f).exists()]
    evidence(f"{record.num_pages[:2]} counted, {left} left")

    assert record.num_pages[:2] == [7, 0]
    assert left == list(sizes)


@requirement("HPI-027")
@needs(pages={"2M": 1})
@modes("dynmem", "legacy")
@pytest.mark.parametrize(
    ("word", "meant"),
    [
        (None, "existing"),
        ("=existing", "existing"),
        ("", "always"),
        ("=always", "always"),
        ("=never", "never"),
    ],
    ids=["none", "existing", "bare", "always", "never"],
)
def test_huge_unlink_says_which_files_stay(start, mode, machine, word, meant, evidence):
    """Stale files, page files while EAL runs, and after it; any other word is refused.

                  stale   running   after
    existing      -       x         x in legacy mode
    always, ""    -       -         -
    never         x       x         x
    """
    box = machine({"2M": {"free": 1}}, {"2M": 1})
    at = box.path(box.hugedir("2M"))
    (at / "othermap_0").touch()
    bad = start("-m", "2", "--huge-unlink=sometimes", box=box, init=False).refused()
    eal = start("-m", "2", *([] if word is None else [f"--huge-unlink{word}"]), box=box)
    seen = [(at / "othermap_0").exists(), bool(eal.page_files())]
    eal.close()
    seen.append(bool(eal.page_files()))
    evidence(f"--huge-unlink{word}: stale, running, after: {seen}")

    assert (
        seen
        == {
            "existing": [False, True, mode == "legacy"],
            "always": [False, False, False],
            "never": [True, True, True],
        }[meant]
    )
    parameter = holds(">=25.11", eal.release)
    assert f"invalid {'huge-unlink parameter' if parameter else '--huge-unlink option'}" in bad.log


@requirement("HPI-028")
@needs(pages={"2M": 1})
@modes(*HUGE_FILES)
def test_never_warns_of_leaks(start, kept, machine, evidence):
    """A WARNING with --huge-unlink=never, none without it."""
    box = machine({"2M": {"free": 1}}, {"2M": 1})
    told = []
    for begin in (kept, start):
        eal = begin("-m", "2", box=box)
        told.append(eal.logged("may create data leaks"))
        eal.close()
    evidence(told[0])

    assert [len(t) for t in told] == [1, 0]
