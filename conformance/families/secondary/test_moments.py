"""SEC: attaching at bad moments: while memory changes, to kept pages, to another release."""

import time

import pytest

from conformance import BIG, MB, WAIT, modes, needs, requirement
from conformance.families.secondary.pairs import STAMP, STAMPS, agree, stamped, stamps
from conformance.harness.catalogue import holds

SOON = 2 * WAIT
DIRTY = 2  # of a page's flags
OTHERS = "20.11", "22.11", "24.11", "25.11"  # releases of which there are peers


@requirement("SEC-040")
@needs(pages={"2M": 12}, strace=True)
@modes("dynmem", "single-file")
def test_memory_may_change_while_a_secondary_joins(start, join, evidence):
    """The primary grows and shrinks until it has joined; then both have the same pages.

    The attach takes its time: each lock and each length of a file costs it 10 ms more.
    """
    eal = start("-m", "2")
    kept = stamped(eal)
    rounds, longest = [], 0.0
    for _ in range(2):
        other = join(init=False)
        slow = other.trace("flock,ftruncate", inject="flock,ftruncate:delay_enter=10000")
        other.begin("init", args=other.args)
        took = []
        while not other.answered():
            begun = time.monotonic()
            eal.free(eal.malloc(BIG).va)
            took.append(time.monotonic() - begun)
        other.answer()
        slow.stop()
        rounds.append(len(took))
        longest = max(longest, *took)
        agree(eal, other)

        va = stamped(eal)
        agree(eal, other)
        assert stamps(other, kept) == stamps(other, va) == STAMPS
        eal.free(va)
        agree(eal, other)
        other.close()
    evidence(f"{rounds} times grown and shrunk meanwhile, in {longest * 1000:.0f} ms at most")

    assert all(rounds)
    assert longest < SOON


@requirement("SEC-044")
@needs(pages={"2M": 10}, release=">=22.03")
@modes("dynmem", "single-file")
def test_kept_pages_are_joined_with_what_is_in_them(start, join, mode, evidence):
    """--huge-unlink=never: a secondary reads the last run's bytes, also where it makes the heap
    grow, and its exit leaves the files.

    | page 0      | page 1 | pages 2 to 4      |    kept files of the last run
    | start: stamp         | growth: .. stamp  |    the next run zeroes what growth brings back
    """
    last = start("-m", "4", "--huge-unlink=never", init=False)
    if mode == "single-file" and holds(">=25.11", last.release):
        pytest.skip(f"{last.release} refuses --huge-unlink with --single-file-segments")
    last.init()
    at, files = last.segments()[0].addr + MB, last.page_files()
    grown = last.malloc(BIG).va + 3 * MB  # never freed
    for va in at, grown:
        last.poke(va, STAMP)
    last.close()

    eal = start("-m", "4", "--huge-unlink=never")
    other = join()
    flags = [s.flags for s in eal.segments()]
    seen = [s.flags for s in other.segments()]
    agree(eal, other)
    assert other.peek(at, len(STAMP)) == STAMP

    assert growth_is_shared(other, eal, grown) == STAMP
    assert growth_is_shared(eal, other, grown) == bytes(len(STAMP))
    other.close()
    left = [eal.page_files()]
    eal.close()
    left += [eal.page_files()]
    evidence(f"flags {seen}, files {left[1]}")

    assert seen == flags
    assert seen[0] & DIRTY
    assert left == [files] * 2


def growth_is_shared(eal, other, at):
    """Grow and shrink by one process; return what the other reads of the new pages at an address.

    The other then writes to the new pages, and the first process reads its bytes.
    """
    va = eal.malloc(BIG).va
    assert va
    read = other.peek(at, len(STAMP))
    agree(eal, other)
    other.poke(va, b"reply")
    assert eal.peek(va, 5) == b"reply"
    eal.free(va)
    agree(eal, other)
    return read


@requirement("SEC-045")
@needs(pages={"2M": 2})
def test_another_release_is_refused_in_its_own_words(start, join, evidence):
    """Pyeal as another release, or Debian's librte_eal of it: it says so, and leaves no trace."""
    eal = start("-m", "2")
    at = stamped(eal, 64)
    sizes = {f: (eal.run / f).stat().st_size for f in eal.run_files()}
    config = (eal.run / "config").read_bytes()
    kind, said = join.kind.partition(":")[0], {}
    for release in OTHERS:
        if not eal.release.startswith(release):
            e = join(target=f"{kind}:{release}", init=False).refused()
            assert e.errno == 0
            said[release] = [x for x in e.log.splitlines() if "DPDK version mismatch" in x]
    evidence(f"{eal.release} joined by {', '.join(said)}: {said[max(said)][-1]}")

    for lines in said.values():
        assert "Primary and secondary process DPDK version mismatch" in lines[0]
    assert {f: (eal.run / f).stat().st_size for f in eal.run_files()} == sizes
    assert (eal.run / "config").read_bytes() == config
    assert stamps(eal, at, 64) == STAMPS
    join()
