"""SEC: deaths in the middle of an attach or of a growth, and what they cost the others."""

import re
import time
from typing import NamedTuple

import pytest

from conformance import BIG, MB, needs, requirement
from conformance.families.secondary.pairs import (
    STAMP,
    STAMPS,
    agree,
    or_killed,
    stamped,
    stamps,
)
from conformance.harness.child import TargetDied
from conformance.harness.eal import Eal

SMALL = 64  # bytes, which no new page is needed for
SOON = 8  # seconds in which the lock of a dead process is found out
LIMIT = 8  # seconds for all else


class Moment(NamedTuple):
    """A system call at which a process is killed: the nth of that name, of one path if given."""

    call: str
    path: str | None = None
    nth: int = 1


def kill_at(eal, moment, **places):
    """Let a kill -9 wait for a system call."""
    path = moment.path and moment.path.format(**places)
    eal.trace(moment.call, inject=f"{moment.call}:signal=KILL:when={moment.nth}", path=path)


def dies(eal, verb, **params):
    """Ask for something in the middle of which a kill -9 waits."""
    eal.begin(verb, **params)
    with pytest.raises(TargetDied, match="SIGKILL"):
        eal.answer(verb)


def begin_malloc(eal, size=BIG):
    """Ask for memory, and let the answer take its time."""
    eal.begin("malloc", size=size, align=0, socket=-1)


# SEC-041: a secondary in its attach


OWN = Moment("ftruncate", nth=0)  # the first of a file of its own: see first_of_its_own
ATTACH = {  # before the hotplug lock is taken for reading, while it is held, and after
    "early": {
        "socket": Moment("bind"),
        "info": Moment("openat", "{run}/hugepage_info"),
    },
    "zones": {"array": Moment("mmap", "{run}/fbarray_memzone")},  # librte_eal holds mlock
    "locked": {
        "shadow": OWN,
        "page": Moment("mmap", "{page}"),
    },
    "late": {"sweep": Moment("getdents64", "{run}")},
}
CASES = [
    "early-single-file",
    "early-legacy",
    "zones-dynmem",
    "locked-dynmem",
    "locked-single-file",
    "locked-legacy",
    "late-dynmem",
    "late-legacy",
]


class Widow(NamedTuple):
    """A primary with a stamped area, whose secondary was killed."""

    eal: Eal
    va: int
    dead: int


@requirement("SEC-041")
@needs(pages={"2M": 24}, strace=True)
@pytest.mark.parametrize(
    ("when", "mode"), [c.split("-", 1) for c in CASES], ids=CASES, indirect=["mode"]
)
def test_a_death_in_the_attach_costs_the_primary_one_wait(
    start, join, prefix, mode, when, evidence
):
    """Killed by each of these calls: the primary grows, the next one joins, nothing stays.

    bind  openat info | mmap zones | [hotplug lock  ftruncate, mmap page] | getdents
    early             | zones      | locked                               | late

    All primaries ask for memory at once: each may have to wait. Legacy memory does not grow.
    """
    size = SMALL if mode == "legacy" else BIG
    widows = [
        killed_in_attach(start, join, f"{prefix}_{name}", moment)
        for name, moment in ATTACH[when].items()
    ]
    primaries = [w.eal.give_way() for w in widows]
    if when != "locked":
        assert {e.config().memory_hotplug_lock.cnt for e in primaries} == {0}

    with or_killed(*primaries):
        took = malloc_and_free(primaries, size)
        for w in widows:
            next_one_attaches(join, w, size)
            own = [f for f in w.eal.run_files() if is_own(w.dead, f)]
            w.eal.free(w.va)
            w.eal.close()
            again = start("-m", "2", prefix=w.eal.prefix)
            again.close()
            assert mode == "legacy" or (own, again.page_files()) == ([], [])
    goes_on = zip(ATTACH[when], took, strict=True)
    evidence(", ".join(f"{name}: goes on after {t:.3f} s" for name, t in goes_on))


def killed_in_attach(start, join, prefix, moment):
    """Return a primary whose secondary was killed at that moment of its attach."""
    eal = start("-m", "2", prefix=prefix, limit=LIMIT)
    va = stamped(eal, SMALL)
    if moment is OWN:
        moment = OWN._replace(nth=first_of_its_own(join(prefix=prefix, init=False)))
    dead = join(prefix=prefix, init=False)
    kill_at(dead, moment, run=eal.runtime_dir, page=page_path(eal, eal.page_files()[0]))
    dies(dead, "init", args=dead.args)
    return Widow(eal, va, dead.pid)


def first_of_its_own(other):
    """Attach once, to count which ftruncate is the first of a file of its own; it leaves again."""
    t = other.trace(OWN.call)
    other.init()
    calls = t.stop(OWN.call)
    other.close()
    return 1 + next(i for i, c in enumerate(calls) if is_own(other.pid, c.args[0]))


def is_own(pid, file):
    """Whether a file of RUN is that process's: a socket or a shadow array."""
    return bool(re.search(rf"_{pid}(_|>|$)", file))


def page_path(eal, file):
    return f"{eal.box.hugedir('2M')}/{file}"


def malloc_and_free(eals, size):
    """Let all ask for memory at once; return the seconds until each had it."""
    begun, took = time.monotonic(), []
    for eal in eals:
        begin_malloc(eal, size)
    for eal in eals:
        va = eal.answer("malloc", within=SOON).va
        took.append(time.monotonic() - begun)
        assert va
        eal.free(va)
    return took


def next_one_attaches(join, widow, size):
    """It reads what was there, allocates what the primary reads, and leaves."""
    late = join(prefix=widow.eal.prefix, limit=LIMIT, init=False).give_way().init()
    assert stamps(late, widow.va, SMALL) == STAMPS
    va = stamped(late, size)
    assert stamps(widow.eal, va, size) == STAMPS
    agree(widow.eal, late)
    late.free(va)
    late.close()


# SEC-042, SEC-043: a primary in a growth


GROWTH = {
    "page": Moment("mmap", "{page}"),
    "own": Moment("mmap", "{page}"),  # as "page", but for itself, without a request
    "tell": Moment("sendmsg,sendto"),  # the secondaries of the new pages
    "answer": Moment("sendmsg,sendto", nth=2),  # the one that asked
}
DEATHS = [
    ("page", "dynmem"),
    ("page", "single-file"),
    ("own", "dynmem"),
    ("own", "single-file"),
    ("tell", "dynmem"),
    ("answer", "dynmem"),
]


class Pair(NamedTuple):
    """A primary with a stamped area, its secondary, and a file of the next pages."""

    eal: Eal
    other: Eal
    va: int
    page: str


def pair(start, join, prefix, mode="dynmem"):
    """Start both; the primary has grown and shrunk once, which tells the file."""
    eal = start("-m", "2", prefix=prefix, mode=mode)
    va = stamped(eal, SMALL)
    before = eal.page_files()
    grown = eal.malloc(BIG).va
    page = ([f for f in eal.page_files() if f not in before] or before)[-1]
    eal.free(grown)
    return Pair(eal, join(prefix=prefix), va, page_path(eal, page))


@requirement("SEC-042")
@needs(pages={"2M": 40}, strace=True)
@pytest.mark.long
def test_a_primarys_death_in_a_growth_leaves_what_was_there(start, join, prefix, evidence):
    """Asked by a secondary, or for itself: survivors read and write, and all memory is freed.

    secondary  request ->                                     -> refused in a bounded time
    primary               mmap page X   tell X   answer X        the next one has all pages
                          (own X)

    All at once, since each may wait; a start would remove the pages of dead processes.
    """
    pairs = {
        (what, mode): pair(start, join, f"{prefix}_{what}_{mode}", mode) for what, mode in DEATHS
    }
    begun = time.monotonic()
    for (what, _), (eal, other, _, page) in pairs.items():
        kill_at(eal, GROWTH[what], page=page)
        if what == "own":
            dies(eal, "malloc", size=BIG, align=0, socket=-1)
        else:
            begin_malloc(other)
    for (what, _), (eal, other, *_) in pairs.items():
        assert what == "own" or not other.answer("malloc", within=LIMIT).va
        assert not eal.child.alive
    evidence(f"{len(pairs)} deaths; refused within {time.monotonic() - begun:.1f} s")

    for _, other, va, _ in pairs.values():
        assert stamps(other, va, SMALL) == STAMPS
        other.poke(va, STAMP[::-1])
        assert other.peek(va, len(STAMP)) == STAMP[::-1]
        other.kill()
    for (_, mode), (eal, *_) in pairs.items():
        again = start("-m", "2", prefix=eal.prefix, mode=mode)
        assert len(again.page_files()) == len(again.segments()) == 1
        again.free(stamped(again))
        again.close()
        assert again.page_files() == []


@requirement("SEC-043")
@needs(pages={"2M": 8}, strace=True)
def test_who_asked_a_dead_primary_can_use_the_heap(start, join, prefix, evidence):
    """The new pages are linked into the heap, and no process was told: malloc returns them."""
    eal, other, va, _ = pair(start, join, prefix)
    kill_at(eal, GROWTH["tell"])
    begin_malloc(other)
    assert not other.answer("malloc", within=LIMIT).va

    new = stamped(other, 3 * MB)
    evidence(f"malloc returns {new:#x}")
    assert stamps(other, new, 3 * MB) == STAMPS
    assert stamps(other, va, SMALL) == STAMPS
