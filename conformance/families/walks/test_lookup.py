"""WALK: from addresses to segments and back, the size of all memory, and its dump."""

import re
from concurrent.futures import ThreadPoolExecutor

from conformance import ALL, MB, modes, needs, requirement, until
from conformance.harness.catalogue import holds

PAGE, BAD_IOVA = 4096, (1 << 64) - 1
LINE = re.compile(
    r"Segment (\d+)-(\d+): IOVA:0x([0-9a-f]+), len:(\d+), virt:0x([0-9a-f]+), socket_id:(-?\d+), "
    r"hugepage_sz:(\d+), nchannel:([0-9a-f]+), nrank:([0-9a-f]+) fd:(-?\d+)"
)


@requirement("WALK-007")
@needs(root=True, strace=True)
def test_read_lock_is_held_while_memory_is_made(start, evidence):
    """memfd_create is held up for half a second: the config shows one reader, then none."""
    eal = start("-m", "4", mode="no-huge", init=False)
    trace = eal.trace("memfd_create", inject="memfd_create:delay_enter=500000:when=1")
    run, seen = eal.box.path(f"/run/dpdk/{eal.prefix}"), []

    def has_started():
        if (run / "fbarray_nohugemem").exists():
            config = eal.decode.config((run / "config").read_bytes())
            seen.append(config.memory_hotplug_lock.cnt)
        return done.done()

    with ThreadPoolExecutor() as pool:
        done = pool.submit(eal.init)
        until(has_started)
        done.result()
    after = eal.config().memory_hotplug_lock.cnt
    evidence(f"{len(seen)} looks: {sorted(set(seen))}; afterwards {after}")

    assert len(trace.stop("memfd_create")) == 1
    assert (4 if holds(">=22.11", eal.release) else 1) in seen
    assert after == 0


@requirement("WALK-008")
@needs(pages={"2M": 2})
@modes(*ALL)
def test_address_of_a_list_leads_to_its_entry(start, evidence):
    """By division, in used and unused segments; outside of all lists there is nothing.

    base_va - 1 | [0 used .... | n_segs - 1 unused .... ] base_va + len
    """
    eal = start("-m", "2")
    lists = {m.index: m for m in eal.lists()}
    for i, m in lists.items():
        ends = eal.virt2memseg(m.base_va), eal.virt2memseg(m.base_va + m.len - 1)
        evidence(f"list {i}: {[(e.seg, f'{e.addr:#x}') for e in ends]}")
        assert [(e.list, e.seg) for e in ends] == [(i, 0), (i, m.n_segs - 1)]
        if not m.count:
            assert [e.addr for e in ends] == [0, 0]
    for s in eal.segments()[:4]:
        found = eal.virt2memseg(s.addr + s.len // 2 + 5)
        assert (found.list, found.seg, found.addr) == (s.list, s.seg, s.addr)
    edges = {va for m in lists.values() for va in (m.base_va - 1, m.base_va + m.len)}
    foreign = {0, PAGE, next(m.start for m in eal.maps() if m.path == "[stack]")} | {
        va for va in edges if not any(0 <= va - m.base_va < m.len for m in lists.values())
    }
    assert [va for va in foreign if eal.virt2memseg(va) is not None] == []


@requirement("WALK-009")
@needs(pages={"2M": 8})
@modes(*ALL)
def test_memory_size_is_all_used_pages_of_own_lists(start, evidence):
    """Before and after 5 MB of the heap, external pages never: pages times page size."""
    eal = start("-m", "4")
    eal.extmem_register(64 * PAGE, PAGE)

    def sizes():
        used = sum(m.count * m.page_sz for m in eal.lists() if not m.external)
        return eal.info().physmem_size, used

    before = sizes()
    grown = eal.malloc(5 * MB).va
    after = sizes()
    evidence(f"size and sum: {before}, then {after}")

    assert before[0] == before[1] > 0
    assert after[0] == after[1]
    assert (after > before) == bool(grown)


@requirement("WALK-010")
@needs(pages={"2M": 4})
@modes(*ALL)
def test_io_address_of_a_used_segment_leads_back(start, evidence):
    """First byte, last byte, another one of every page; other IO addresses lead nowhere."""
    eal = start("-m", "6")
    segs = eal.segments()
    some = segs if len(segs) < 8 else [segs[0], segs[7], segs[-1]]
    known = {s.iova + x: s.addr + x for s in some for x in (0, 5, s.len - 1)}
    back = {iova: eal.iova2virt(iova) for iova in known}
    beyond = max(s.iova + s.len for s in segs)
    evidence(f"{eal.iova_mode}: " + ", ".join(f"{s.iova:#x} {s.addr:#x}" for s in some))

    assert BAD_IOVA not in {s.iova for s in segs}
    assert back == known
    assert [eal.iova2virt(iova) for iova in (beyond, 0, BAD_IOVA)] == [0, 0, 0]


@requirement("WALK-011")
@needs(pages={"2M": 4})
@modes(*ALL)
def test_dump_has_a_line_for_each_segment(start, mode, evidence):
    """The words and their order, channels and ranks in hexadecimal, the total since 24.11.

    Those given with -n and -r show in pages that come after init, here an external one; never
    without a shared config. What stands for its descriptor is no number to rely on.
    """
    eal = start("-m", "4", "-n", "12", "-r", "11")
    eal.malloc(3 * MB)
    eal.extmem_register(PAGE, PAGE)
    lines = eal.dump().splitlines()
    total = [lines.pop()] if holds(">=24.11", eal.release) else []
    evidence("; ".join([lines[0], lines[-1], *total]))

    bases = 10, 10, 16, 10, 16, 10, 10, 16, 16, 10
    found = [
        [int(x, b) for x, b in zip(LINE.fullmatch(x).groups(), bases, strict=True)] for x in lines
    ]
    fields = "list seg iova len addr socket_id hugepage_sz nchannel nrank".split()
    assert [f[:-1] for f in found] == [[s[f] for f in fields] for s in eal.segments()]
    assert found[-1][-3:-1] == ([0, 0] if mode == "in-memory" else [12, 11])
    assert [f[-1] for f in found[:2]] == [eal.fd(f[4]).ret for f in found[:2]]
    if total:
        assert total == [f"Total Memory Segments size = {eal.info().physmem_size >> 20}M"]
