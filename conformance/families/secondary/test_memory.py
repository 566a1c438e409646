"""SEC: memory that processes share: seen by all, grown and shrunk by any, in any order of exit."""

import errno
import time
from itertools import permutations

import pytest

from conformance import BIG, HUGE_FILES, MB, WAIT, modes, needs, requirement, sizes
from conformance.families.secondary.pairs import agree, pages, versions
from conformance.harness import host
from conformance.harness.catalogue import holds


def present(eal, va):
    """Whether a page file is mapped there."""
    return any(m.start <= va < m.end and "/hugepages/" in m.path for m in eal.maps())


def heap(eal):
    h = eal.config().malloc_heaps[0]
    return h.total_size, h.alloc_count


@requirement("SEC-023")
@needs(pages={"2M": 4})
def test_service_tables_come_from_the_shared_heap(start, join, evidence):
    """An attach takes one or two areas; a full heap grows for it, and if it may not, init fails."""
    eal = start("-m", "2")
    before = heap(eal)
    other = join()
    joined = heap(eal)
    other.close()
    for size in 64 << 10, 4 << 10:  # until what is left is smaller than the tables
        while (va := eal.malloc(size).va) and len(eal.segments()) == 1:
            pass
        eal.free(va)
    full = len(eal.segments())
    other = join()
    grown = len(eal.segments())
    other.close()
    eal.limit_register(0, 2 * MB)
    e = join(init=False).refused()
    evidence(f"total and areas {before} -> {joined}; {full} -> {grown} pages; {e.text}")

    assert joined[0] == before[0]
    assert joined[1] - before[1] in (1, 2)
    assert (full, grown) == (1, 2)
    assert e.errno == errno.ENOMEM
    assert "rte_service_init() failed" in e.log


@requirement("SEC-025")
@needs(pages={"2M": 8})
@modes("dynmem", "single-file")
@pytest.mark.parametrize("who", ["primary", "secondary"])
def test_growth_and_shrinkage_are_seen_by_the_other(start, join, who, evidence):
    """Data is there, at the same address, when malloc has answered, and no page after free."""
    eal = start("-m", "2")
    other = join()
    a, b = (eal, other) if who == "primary" else (other, eal)
    before = pages(eal)
    va = a.malloc(BIG).va
    a.poke(va, b"stamp")
    a.poke(va + BIG - 5, b"stamp")
    grown = pages(b)
    seen = b.peek(va, 5), b.peek(va + BIG - 5, 5)
    b.poke(va + MB, b"reply")
    same = pages(a) == grown
    at = [p[2] for p in grown if p not in before]
    mapped = [present(b, x) for x in at]
    reply = a.peek(va + MB, 5)
    a.free(va)
    evidence(f"{len(before)} -> {len(grown)} -> {len(pages(b))} pages")

    assert len(at) == 3
    assert same
    assert all(mapped)
    assert (*seen, reply) == (b"stamp", b"stamp", b"reply")
    assert pages(a) == pages(b) == before
    assert not any(present(e, x) for e in (a, b) for x in at)
    assert versions(a) == versions(b)


@requirement("SEC-026")
@needs(pages={"2M": 8})
def test_a_dead_primarys_memory_can_be_joined(start, join, evidence):
    """Intact files: small areas come from its heap; growth fails at once."""
    eal = start("-m", "4")
    at = eal.malloc(64).va
    eal.poke(at, b"legacy")
    eal.kill()
    other = join()
    small = other.malloc(1024).va
    begun = time.monotonic()
    big = other.malloc(BIG)
    took = time.monotonic() - begun
    evidence(f"growth refused after {took:.3f} s")

    assert other.peek(at, 6) == b"legacy"
    assert small
    assert not big.va
    assert took < WAIT
    assert other.logged("Connection refused")
    assert other.logged("Cannot send message to primary")


@requirement("SEC-028")
@needs(pages={"2M": 3})
@modes(*HUGE_FILES)
def test_a_clean_exit_leaves_nothing(start, join, evidence):
    """Its socket and its shadow arrays are gone; the primary's files are as before."""
    eal = start("-m", "4")
    files = eal.run_files()
    other = join()
    more = sorted(set(eal.run_files()) - set(files))
    other.close()
    evidence(f"{len(more)} files came and went")

    assert len(more) == 1 + len([m for m in eal.config().memsegs if m.base_va])
    left = set(eal.run_files()) - set(files)
    if eal.release.startswith("20.11") and other.target != "pyeal":
        left = {f for f in left if not f.startswith("fbarray_")}
    assert left == set()
    assert set(files) <= set(eal.run_files())


def kinds(start, join, *args, **more):
    """A primary and two secondaries: one as --secondary says, one of the primary's kind."""
    eal = start(*args, **more)
    return [eal, join(**more), join(target=eal.spec, **more)]


@requirement("SEC-031")
@sizes({"2M": 12, "1G": 1})
@modes(*HUGE_FILES)
def test_all_see_the_same_memory(start, join, page, mode, fake_host, evidence):
    """What one process writes the other two read; if one grows or frees, all follow."""
    many = host.name(page) == "2M"
    box = fake_host({host.name(page): 12 if many else 1})  # legacy counts what the kernel says
    three = kinds(start, join, "-m", str(4 if many else 1024), box=box)
    eal = three[0]
    at = eal.malloc(4096).va

    agree(*three)
    base = pages(eal)
    for i, e in enumerate(three):
        e.poke(at, bytes([i + 1]) * 16)
        assert [x.peek(at, 16) for x in three] == [bytes([i + 1]) * 16] * 3
    held = []
    for i, e in enumerate(three if many and mode != "legacy" else []):
        va = e.malloc(BIG).va
        assert va
        e.poke(va + MB * i, bytes([0xA0 + i]) * 8)
        held.append(va)
        agree(*three)
    for i, va in enumerate(held):
        assert [x.peek(va + MB * i, 8) for x in three] == [bytes([0xA0 + i]) * 8] * 3
    most = len(eal.segments())
    for i, va in enumerate(held):
        three[i - 1].free(va)  # by another than who asked for it
        agree(*three)
    evidence(f"{len(base)} pages, {most} at most, {len(pages(eal))} in the end")

    assert pages(eal) == base
    assert most >= len(base) + 2 * len(held)


@requirement("SEC-033")
@needs(pages={"2M": 8})
@modes("dynmem", "single-file")
@pytest.mark.parametrize(
    "order", list(permutations("PAB")), ids=["".join(o) for o in permutations("PAB")]
)
def test_they_may_end_in_any_order(start, join, order, evidence):
    """P the primary, A and B secondaries: who stays keeps reading what it had."""
    three = dict(zip("PAB", kinds(start, join, "-m", "4"), strict=True))
    eal = three["P"]
    at = eal.malloc(64).va
    eal.poke(at, b"stays")
    for who in order:
        if list(three) == ["P"]:
            eal.free(at)  # nothing of the heap is in use: all pages can go
        three.pop(who).close()
        assert [e.peek(at, 5) for e in three.values()] == [b"stays"] * len(three)
    evidence(f"left in RUN: {eal.run_files()}, pages: {eal.page_files()}")

    assert order[-1] != "P" or eal.page_files() == []
    assert eal.run_files("mp_socket*") == []
    if holds(">=21.11", eal.release):  # what 20.11 leaves there: CLEAN-014
        assert not [f for f in eal.run_files("fbarray_memseg*") if f.count("_") > 1]


@requirement("SEC-034")
@needs(pages={"2M": 10})
@modes("dynmem", "single-file")
@pytest.mark.parametrize("who", [1, 2], ids=["secondary", "primarys-kind"])
def test_a_killed_secondary_costs_the_others_nothing(start, join, who, evidence):
    """The others read what it wrote, grow and shrink at once, and the next one joins."""
    three = kinds(start, join, "-m", "2")
    eal, dead = three[0], three.pop(who)
    va = dead.malloc(BIG).va
    dead.poke(va, b"last words")
    dead.kill()
    kept = len(eal.segments())
    took = []
    for e in three:
        begun = time.monotonic()
        more = e.malloc(BIG).va
        took.append(time.monotonic() - begun)
        assert more
        e.poke(more + MB, b"alive")
        assert [x.peek(more + MB, 5) for x in three] == [b"alive"] * 2
        e.free(more)
        assert len(eal.segments()) == kept
    late = join()
    evidence(f"growth took {max(took):.3f} s")

    assert [e.peek(va, 10) for e in (*three, late)] == [b"last words"] * 3
    assert max(took) < WAIT
    eal.free(va)
    assert pages(late) == pages(eal)
    assert len(eal.segments()) < kept
