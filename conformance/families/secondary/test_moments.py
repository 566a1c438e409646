"""SEC: bad moments: joining while memory changes, and deaths in the middle of something."""

import re
import time
from contextlib import contextmanager

import pytest

from conformance import MB, modes, needs, requirement
from conformance.harness.catalogue import holds
from conformance.harness.child import TargetDied

BIG = 5 * MB  # needs three new pages
STAMP = b"stamp"
DIRTY = 2  # of a page's flags
SOON = 3  # seconds in which a dead one's lock is found out
LIMIT = 6  # seconds for all else
OTHERS = "20.11", "22.11", "24.11", "25.11"  # releases of which there are peers


def pages(eal):
    return [(s.list, s.seg, s.addr, s.iova) for s in eal.segments()]


def agree(*eals):
    """The same pages, and lists of the same versions."""
    first, *others = ([(m.index, m.version, m.count) for m in e.lists()] for e in eals)
    assert [pages(e) for e in eals[1:]] == [pages(eals[0])] * len(others)
    assert others == [first] * len(others)


def stamped(eal, size=BIG):
    """Memory with a stamp at each end."""
    va = eal.malloc(size).va
    assert va
    for at in ends(va, size):
        eal.poke(at, STAMP)
    return va


def ends(va, size=BIG):
    return va, va + size - len(STAMP)


@requirement("SEC-040")
@needs(pages={"2M": 12}, strace=True)
@modes("dynmem", "single-file")
def test_memory_may_change_while_a_secondary_joins(start, join, evidence):
    """The primary grows and shrinks until it has joined; then both have the same pages.

    The attach takes its time: each lock and each length of a file costs it 10 ms more.
    """
    eal = start("-m", "2")
    kept = stamped(eal, BIG)
    rounds, longest = [], 0.0
    for _ in range(2):
        other = join(init=False)
        slow = other.trace("flock,ftruncate", inject="flock,ftruncate:delay_enter=10000")
        other.begin("init", args=other.args)
        n = 0
        while not other.answered():
            begun = time.monotonic()
            eal.free(eal.malloc(BIG).va)
            longest = max(longest, time.monotonic() - begun)
            n += 1
        other.answer()
        slow.stop()
        rounds.append(n)
        agree(eal, other)
        va = stamped(eal, BIG)
        agree(eal, other)
        assert [other.peek(at, len(STAMP)) for at in (*ends(kept), *ends(va))] == [STAMP] * 4
        eal.free(va)
        agree(eal, other)
        other.close()
    evidence(f"{rounds} times grown and shrunk meanwhile, in {longest * 1000:.0f} ms at most")

    assert all(rounds)
    assert longest < SOON


# What a secondary does in its attach, before the hotplug lock is taken for reading, while it is
# held, and after: (call, file, which of them).
MOMENTS = {
    "early": {
        "socket": ("bind", None, 1),
        "info": ("openat", "{run}/hugepage_info", 1),
    },
    "zones": {"array": ("mmap", "{run}/fbarray_memzone", 1)},  # librte_eal holds mlock
    "locked": {
        "shadow": ("ftruncate", None, 0),  # the first of a file of its own
        "page": ("mmap", "{page}", 1),
    },
    "late": {"sweep": ("getdents64", "{run}", 1)},
}


def waits_for(eal, moment):
    """A kill -9 waits for that call."""
    call, path, nth = moment
    eal.trace(call, inject=f"{call}:signal=KILL:when={nth}", path=path)


def dies(eal, moment, verb, **params):
    """Asks for something in the middle of which a kill -9 waits."""
    waits_for(eal, moment)
    eal.begin(verb, **params)
    with pytest.raises(TargetDied, match="SIGKILL"):
        eal.answer(verb)


@contextmanager
def or_killed(eals):
    """Kill a process that waits indefinitely for a dead process's lock: it cannot exit."""
    try:
        yield
    except BaseException:
        for e in eals:
            e.kill()
        raise


def own(pid, file):
    """Whether a file of RUN is that process's: a socket or a shadow array."""
    return bool(re.search(rf"_{pid}(_|>|$)", file))


def first_of_its_own(other, call):
    """Which of its attach's calls is the first to a file of its own; it leaves again."""
    t = other.trace(call)
    other.init()
    calls = t.stop(call)
    other.close()
    return 1 + next(i for i, c in enumerate(calls) if own(other.pid, c.args[0]))


CASES = ["early-single-file", "early-legacy", "zones-dynmem", "locked-dynmem",
         "locked-single-file", "locked-legacy", "late-dynmem", "late-legacy"]  # fmt: skip


@requirement("SEC-041")
@needs(pages={"2M": 24}, strace=True)
@pytest.mark.parametrize(
    ("when", "mode"), [c.split("-", 1) for c in CASES], ids=CASES, indirect=["mode"]
)
def test_a_death_in_the_attach_costs_the_primary_one_wait(
    start, join, prefix, box, mode, when, evidence
):
    """Killed by each of these calls: the primary grows, the next one joins, nothing stays."""
    fixed = mode == "legacy"
    size = 64 if fixed else BIG
    worlds, took = {}, {}
    for what, (call, path, nth) in MOMENTS[when].items():
        name = f"{prefix}_{what}"
        eal = start("-m", "2", prefix=name, limit=LIMIT)
        at = stamped(eal, 64)
        places = {"run": eal.runtime_dir, "page": f"{box.hugedir('2M')}/{eal.page_files()[0]}"}
        n = nth or first_of_its_own(join(prefix=name, init=False), call)
        dead = join(prefix=name, init=False)
        dies(dead, (call, path and path.format(**places), n), "init", args=dead.args)
        assert when == "locked" or eal.config().memory_hotplug_lock.cnt == 0
        worlds[what] = eal, at, dead.pid
    eals = [eal.give_way() for eal, *_ in worlds.values()]
    with or_killed(eals):
        begun = time.monotonic()
        for eal in eals:  # all at once: each may have to wait
            eal.begin("malloc", size=size, align=0, socket=-1)
        for what, (eal, *_) in worlds.items():
            va = eal.answer("malloc", within=SOON).va
            took[what] = time.monotonic() - begun
            assert va
            eal.free(va)
        for eal, at, pid in worlds.values():
            late = join(prefix=eal.prefix, limit=LIMIT, init=False).give_way().init()
            assert late.peek(at, len(STAMP)) == STAMP
            va = stamped(late, size)
            assert [eal.peek(a, len(STAMP)) for a in ends(va, size)] == [STAMP] * 2
            agree(eal, late)
            late.free(va)
            late.close()
            assert fixed or not [f for f in eal.run_files() if own(pid, f)]
            eal.free(at)
            eal.close()
            again = start("-m", "2", prefix=eal.prefix)
            again.close()
            assert fixed or again.page_files() == []
    evidence(", ".join(f"{what}: goes on after {t:.3f} s" for what, t in took.items()))


# What a primary does in a growth, and in which modes.
BOTH = "dynmem", "single-file"
GROWTH = {
    "page": (("mmap", "{page}", 1), BOTH),
    "own": (("mmap", "{page}", 1), BOTH),  # as "page", but without a request
    "tell": (("sendmsg,sendto", None, 1), BOTH[:1]),  # the secondaries of the new pages
    "answer": (("sendmsg,sendto", None, 2), BOTH[:1]),  # the one who asked
}


def couple(start, join, name, mode="dynmem"):
    """A primary, a secondary, memory with a stamp, a file of the next pages."""
    eal = start("-m", "2", prefix=name, mode=mode)
    at = stamped(eal, 64)
    before = eal.page_files()
    va = eal.malloc(BIG).va
    page = ([f for f in eal.page_files() if f not in before] or before)[-1]
    eal.free(va)
    return eal, join(prefix=name), at, f"{eal.box.hugedir('2M')}/{page}"


@requirement("SEC-042")
@needs(pages={"2M": 40}, strace=True)
@pytest.mark.long
def test_a_primarys_death_in_a_growth_leaves_what_was_there(start, join, prefix, evidence):
    """Asked by a secondary, or for itself: survivors read and write, and all memory is freed.

    All at once, since each may wait; a start would remove the pages of dead processes.
    """
    worlds = {(what, mode): couple(start, join, f"{prefix}_{what}_{mode}", mode)
              for what, (_, among) in GROWTH.items() for mode in among}  # fmt: skip
    begun = time.monotonic()
    for (what, _), (eal, other, _, page) in worlds.items():
        (call, path, nth), _ = GROWTH[what]
        moment = call, path and path.format(page=page), nth
        if what == "own":
            dies(eal, moment, "malloc", size=BIG, align=0, socket=-1)
        else:
            waits_for(eal, moment)
            other.begin("malloc", size=BIG, align=0, socket=-1)
    for (what, _), (eal, other, *_) in worlds.items():
        got = what != "own" and other.answer("malloc", within=LIMIT).va
        assert not got
        assert not eal.child.alive
    evidence(f"{len(worlds)} deaths; refused within {time.monotonic() - begun:.1f} s")
    for _, other, at, _ in worlds.values():
        assert other.peek(at, len(STAMP)) == STAMP
        other.poke(at, STAMP[::-1])
        assert other.peek(at, len(STAMP)) == STAMP[::-1]
        other.kill()
    for (_, mode), (eal, *_) in worlds.items():
        again = start("-m", "2", prefix=eal.prefix, mode=mode)
        assert len(again.page_files()) == len(again.segments()) == 1
        again.free(stamped(again))
        again.close()
        assert again.page_files() == []


@requirement("SEC-043")
@needs(pages={"2M": 8}, strace=True)
def test_who_asked_a_dead_primary_can_use_the_heap(start, join, prefix, evidence):
    """The new pages are linked into the heap, and no process was told: malloc returns them."""
    eal, other, at, _ = couple(start, join, prefix)
    waits_for(eal, GROWTH["tell"][0])
    other.begin("malloc", size=BIG, align=0, socket=-1)
    assert not other.answer("malloc", within=LIMIT).va
    va = stamped(other, 3 * MB)
    evidence(f"malloc answers {va:#x}")

    assert [other.peek(a, len(STAMP)) for a in ends(va, 3 * MB)] == [STAMP] * 2
    assert other.peek(at, len(STAMP)) == STAMP


@requirement("SEC-044")
@needs(pages={"2M": 10}, release=">=22.11")
@modes("dynmem", "single-file")
def test_kept_pages_are_joined_with_what_is_in_them(start, join, mode, evidence):
    """--huge-unlink=never: a secondary reads the last run's bytes, also where it makes the heap
    grow, and its exit leaves the files."""
    first = start("-m", "4", "--huge-unlink=never", init=False)
    if mode == "single-file" and holds(">=25.11", first.release):
        pytest.skip(f"{first.release} refuses --huge-unlink with --single-file-segments")
    first.init()
    at, files = first.segments()[0].addr + MB, first.page_files()
    grown = first.malloc(BIG).va + 3 * MB  # never freed
    for a in at, grown:
        first.poke(a, STAMP)
    first.close()
    eal = start("-m", "4", "--huge-unlink=never")
    other = join()
    flags = [[s.flags for s in e.segments()] for e in (eal, other)]
    seen = [other.peek(at, len(STAMP))]
    agree(eal, other)
    for a, b in (other, eal), (eal, other):
        va = a.malloc(BIG).va
        assert va
        seen += [b.peek(grown, len(STAMP))]
        agree(eal, other)
        b.poke(va, b"reply")
        assert a.peek(va, 5) == b"reply"
        a.free(va)
        agree(eal, other)
    other.close()
    left = [eal.page_files()]
    eal.close()
    left += [eal.page_files()]
    evidence(f"flags {flags[1]}, read {seen[:2]}, new pages {seen[2]}; files {left[1]}")

    assert seen == [STAMP, STAMP, bytes(len(STAMP))]
    assert flags[0] == flags[1]
    assert flags[1][0] & DIRTY
    assert left == [files] * 2


@requirement("SEC-045")
@needs(pages={"2M": 2})
def test_another_release_is_refused_in_its_own_words(start, join, evidence):
    """Pyeal as another release, or Debian's librte_eal of it: it says so, and leaves no trace."""
    eal = start("-m", "2")
    at = stamped(eal, 64)
    before = [(f, (eal.run / f).stat().st_size) for f in eal.run_files()]
    config = (eal.run / "config").read_bytes()
    kind, said = join.kind.partition(":")[0], {}
    for other in OTHERS:
        if not eal.release.startswith(other):
            e = join(target=f"{kind}:{other}", init=False).refused()
            assert e.errno == 0
            said[other] = [line for line in e.log.splitlines() if "DPDK version mismatch" in line]
    evidence(f"{eal.release} joined by {', '.join(said)}: {said[max(said)][-1]}")

    assert all("Primary and secondary process DPDK version mismatch" in lines[0]
               for lines in said.values())  # fmt: skip
    assert [(f, (eal.run / f).stat().st_size) for f in eal.run_files()] == before
    assert (eal.run / "config").read_bytes() == config
    assert eal.peek(at, len(STAMP)) == STAMP
    join()
