"""WALK: what the walks over memseg lists and segments visit, in which order, under which lock."""

import pytest

from conformance import ALL, DYNAMIC, MB, modes, needs, requirement
from conformance.harness.catalogue import holds

PAGE = 4096


def external(eal, n, page_sz=PAGE):
    """Register n pages of the target's own memory: (va, bytes)."""
    done = eal.extmem_register(n * page_sz, page_sz)
    assert done.ret == 0
    return done.va, n * page_sz


def mapped(eal, msl):
    """Segments of a list that the kernel has writable memory for, ascending."""
    found, end = set(), msl.base_va + msl.len
    for m in eal.maps():
        if "w" in m.perms and m.start < end and m.end > msl.base_va:
            first = (max(m.start, msl.base_va) - msl.base_va) // msl.page_sz
            found |= set(range(first, (min(m.end, end) - msl.base_va) // msl.page_sz))
    return sorted(found)


def runs(segs):
    """Maximal runs as [first, n]."""
    found = []
    for i in segs:
        if found and sum(found[-1]) == i:
            found[-1][1] += 1
        else:
            found.append([i, 1])
    return found


def with_a_hole(start):
    """An EAL whose list has a hole, where memory can change, and an external list of 3 pages.

    heap pages [0 ...] | freed again | [.. still used]
    """
    eal = start("-m", "2")
    first, second = (eal.malloc(5 * MB // 2).va for _ in range(2))
    if first and second:
        eal.free(min(first, second))
    external(eal, 3)
    return eal


@requirement("WALK-001")
@needs(pages={"2M": 2})
@modes(*ALL)
def test_list_walk_visits_slots_that_have_an_address(start, mode, evidence):
    """In slot order, empty lists too; slots without base_va, here the one made free, are not.

    slot 0 ... EAL's own | a: unregistered | b: 2 pages | ... 127, then c: 3 pages in a's slot
    """
    eal = start("-m", "2")
    own = eal.walk("list").visits
    a, b = external(eal, 1), external(eal, 2)
    eal.extmem_unregister(*a)
    visits, counts = eal.walk("list").visits, [m.count for m in eal.lists()]
    slots, n = [v.list for v in visits], len(own)
    c = external(eal, 3)
    refilled = eal.walk("list").visits
    evidence(f"slots {slots} with {counts} pages, then {[v.list for v in refilled]}")

    assert slots == [*range(n), n + 1]
    assert visits[:n] == own
    assert (visits[n].addr, visits[n].len) == b
    assert [(v.list, v.addr, v.len) for v in refilled[n:]] == [(n, *c), (n + 1, *b)]
    if mode in DYNAMIC and holds("<26.07", eal.release):
        assert 0 in counts[:n] and any(counts[:n])
    if mode != "in-memory":
        table = [m.base_va for m in eal.config().memsegs]
        assert [(i, va) for i, va in enumerate(table) if va] == [(v.list, v.addr) for v in refilled]


@requirement("WALK-002")
@pytest.mark.parametrize("kind", ["list", "seg", "contig"])
def test_answer_other_than_0_ends_the_walk(eal, evidence, kind):
    """The second callback answers 1, 5, -1, -7: the walk ends there and answers the same."""
    external(eal, 2)
    external(eal, 1)
    whole = eal.walk(kind)
    ended = {x: eal.walk(kind, answers=[0, x]) for x in (1, 5, -1, -7)}
    first = eal.walk(kind, answers=[3], unlocked=True)
    evidence(f"{len(whole.visits)} visits; 2nd callback: {[(x, e.ret) for x, e in ended.items()]}")

    assert whole.ret == 0 and len(whole.visits) > 2
    for x, e in ended.items():
        assert (e.ret, e.visits) == (x, whole.visits[:2])
    assert (first.ret, len(first.visits)) == (3, 1)


@requirement("WALK-003")
@needs(pages={"2M": 2})
@modes(*ALL)
def test_external_lists_are_walked_but_not_counted(start, evidence):
    """Registered pages are visited by all three walks; memory size and descriptors skip them."""
    eal = start("-m", "2")
    size = eal.info().physmem_size
    va, length = external(eal, 3)
    slot = eal.lists()[-1].index
    seen = {k: [v for v in eal.walk(k).visits if v.list == slot] for k in ("list", "seg", "contig")}
    fd = eal.fd(va)
    evidence(f"{[(k, len(v)) for k, v in seen.items()]}; size {size}, fd errno {fd.errno}")

    assert [(v.addr, v.len) for v in seen["list"]] == [(va, length)]
    assert [(v.addr, v.len) for v in seen["seg"]] == [(va + i * PAGE, PAGE) for i in range(3)]
    assert [(v.addr, v.len) for v in seen["contig"]] == [(va, length)]
    assert [(m.external, m.heap) for m in eal.lists()][-1] == (1, 0)
    assert eal.info().physmem_size == size
    assert fd.ret < 0


@requirement("WALK-004")
@needs(pages={"2M": 8})
@modes(*ALL)
def test_segment_walk_visits_used_entries_in_order(start, mode, evidence):
    """By list, then by index, holes left out; what it visits is what the kernel has mapped."""
    eal = with_a_hole(start)
    visits = eal.walk("seg").visits
    lists = {m.index: m for m in eal.lists()}
    want = [(i, seg) for i, m in lists.items() for seg in mapped(eal, m)]
    evidence(str({i: runs([v.seg for v in visits if v.list == i]) for i in lists}))

    assert [(v.list, v.seg) for v in visits] == want
    assert {(v.list, v.len) for v in visits} == {
        (i, m.page_sz) for i, m in lists.items() if m.count
    }
    assert all(v.addr == lists[v.list].base_va + v.seg * v.len for v in visits)
    if mode not in ("legacy", "no-huge"):
        assert len(runs([v.seg for v in visits if v.list == visits[0].list])) > 1


@requirement("WALK-005")
@needs(pages={"2M": 8})
@modes(*ALL)
def test_contiguous_walk_reports_each_run_of_addresses_once(start, mode, evidence):
    """Maximal runs with their first segment and bytes, whatever their IO addresses are.

    The external list has no IO address at all: 3 pages, one run.
    """
    eal = with_a_hole(start)
    visits = eal.walk("contig").visits
    iovas = [s.iova for s in eal.segments() if s.list == visits[-1].list]
    want = [
        (m.index, first, m.base_va + first * m.page_sz, n * m.page_sz)
        for m in eal.lists()
        for first, n in runs(mapped(eal, m))
    ]
    evidence(f"{[(v.list, v.seg, f'{v.addr:#x}', v.len) for v in visits]}")

    assert [(v.list, v.seg, v.addr, v.len) for v in visits] == want
    assert iovas == [(1 << 64) - 1] * 3 and visits[-1].len == 3 * PAGE
    if mode not in ("legacy", "no-huge"):
        assert len(visits) > 2


@requirement("WALK-006")
@pytest.mark.parametrize("kind", ["list", "seg", "contig"])
def test_callbacks_run_under_the_shared_lock(eal, evidence, kind):
    """Every callback sees one reader (4 since 22.11, 1 before); the unlocked walks take nothing."""
    external(eal, 2)
    locked, unlocked = eal.walk(kind), eal.walk(kind, unlocked=True)
    stopped = eal.walk(kind, answers=[-1])
    after = eal.config().memory_hotplug_lock.cnt
    words = {v.lock for v in locked.visits}, {v.lock for v in unlocked.visits}
    evidence(f"{len(locked.visits)} callbacks: {words[0]}, unlocked {words[1]}, after {after}")

    assert words == ({4 if holds(">=22.11", eal.release) else 1}, {0})
    assert stopped.ret == -1
    assert after == 0
