"""MSL: what a list and its records say, and how that changes."""

import struct

from conformance import ALL, HUGE, MB, SHARED, modes, needs, requirement
from conformance.harness.catalogue import holds
from conformance.harness.proc import rounded

MEMSEG, LIST = 48, 136
NO_IOVA = (1 << 64) - 1


def at(data, offset, form):
    return struct.unpack_from("<" + form, data, offset)[0]


def slots(eal):
    """The 128 list records of RUN/config, as bytes."""
    data, first = (
        (eal.run / "config").read_bytes(),
        eal.decode.offsetof("rte_mem_config", "memsegs"),
    )
    return [data[first + LIST * i : first + LIST * (i + 1)] for i in range(128)]


@requirement("MSL-008")
@needs(pages={"2M": 2})
@modes(*HUGE)
def test_fresh_list(start, mode, evidence):
    """Page size, node, space and a heap that it belongs to; no version, no page, not external."""
    eal = start("-m", "2")
    lists = eal.lists()
    fresh = [m for m in lists if not m.count]
    evidence(f"{len(fresh)} of {len(lists)} lists without a page")

    assert fresh or mode == "legacy" or holds(">=26.07", eal.release)
    for m in lists:
        assert (m.socket_id, m.external, m.heap) == (eal.info().socket_ids[0], 0, 1)
        assert m.base_va and m.len == m.n_segs * m.page_sz
        assert m.name.startswith(f"memseg-{m.page_sz >> 10}k-{m.socket_id}-")
    assert [m.version for m in fresh] == [0] * len(fresh)
    if mode != "in-memory":
        for m in fresh:
            assert eal.array(m.name).used == []
        c = {m.memseg_arr.name: m for m in eal.config().memsegs}
        assert all(c[m.name].base_va == m.base_va and c[m.name].len == m.len for m in lists)


@requirement("MSL-020")
@modes("no-huge")
def test_no_huge_is_one_list_of_4k_pages(start, evidence):
    """Slot 0 alone: nohugemem, every entry used, on node 0 and in the heap."""
    eal = start()
    m, *others = eal.lists()
    array = eal.array("nohugemem")
    size = (eal.run / "fbarray_nohugemem").stat().st_size
    evidence(f"{m.name}: {m.n_segs} segments, {m.count} used, {size} bytes at {m.base_va:#x}")

    assert others == []
    assert (m.index, m.name, m.page_sz, m.socket_id, m.heap) == (0, "nohugemem", 4096, 0, 1)
    assert (m.n_segs, m.count, size) == (16384, 16384, rounded(790528))
    assert array.used == list(range(16384))
    assert m.base_va % 4096 == 0
    assert [eal.segments()[i].addr for i in (0, -1)] == [m.base_va, m.base_va + m.len - 4096]


@requirement("MSL-021")
@needs(pages={"2M": 4}, phys=True)
@modes(*SHARED)
def test_memseg_record_is_48_bytes(start, mode, evidence):
    """0 iova | 8 addr | 16 len | 24 page size | 32 node | 36 channels | 40 ranks | 44 flags."""
    grows = mode in ("dynmem", "single-file")
    eal = start("-m", "2", "-n", "4", "-r", "2", init=False)
    dirty = 2 if mode == "dynmem" and holds(">=22.03", eal.release) else 0
    if dirty:  # the next start takes its page over, dirty
        eal.init("--huge-unlink=never").close()
        eal = start("-m", "2", "-n", "4", "-r", "2", "--huge-unlink=never", init=False)
    eal.init()
    if grows:
        eal.malloc(2 * MB)
    m = next(m for m in eal.lists() if m.count)
    array = eal.array(m.name)
    seen = [struct.unpack("<QQQQiIII", array.raw(i)) for i in array.used]
    first, last = seen[0], seen[-1]
    evidence(f"first {array.raw(array.used[0]).hex(' ', 8)}")

    assert [s[1] for s in seen] == [m.base_va + i * m.page_sz for i in array.used]
    assert {s[2:5] for s in seen} == {(m.page_sz, m.page_sz, m.socket_id)}
    if mode == "no-huge":
        assert first[0] in (NO_IOVA, first[1])
    else:
        assert first[0] == eal.virt2iova(first[1]) > 0
    if grows:
        assert (first[7], last[7]) == (1 | dirty, 0)
        assert (first[5:7], last[5:7]) == ((0, 0), (4, 2))
    else:
        assert {s[5:] for s in seen} == {(0, 0, 0)}


@requirement("MSL-022")
@needs(pages={"2M": 4})
@modes(*SHARED)
def test_list_record_is_136_bytes(start, mode, evidence):
    """0 base | 8 page size | 16 node | 20 version | 24 bytes | 32 external | 36 heap | 40 array.

    array: 40 name | 104 used | 108 entries | 112 entry size | 120 address
    """
    eal = start("-m", "2")
    if mode in ("dynmem", "single-file"):
        eal.malloc(3 * MB)
    lists, records = eal.lists(), slots(eal)
    mapped = {m.path.rpartition("_")[2]: m.start for m in eal.maps() if "/fbarray_" in m.path}
    evidence(records[lists[0].index].hex(" ", 8))

    for m in lists:
        r = records[m.index]
        assert (at(r, 0, "Q"), at(r, 8, "Q"), at(r, 24, "Q")) == (m.base_va, m.page_sz, m.len)
        assert (at(r, 16, "i"), at(r, 20, "I")) == (m.socket_id, m.version)
        assert (at(r, 32, "I"), at(r, 36, "I")) == (0, 1)
        assert r[40:104].rstrip(b"\0").decode() == m.name
        assert (at(r, 104, "I"), at(r, 108, "I"), at(r, 112, "I")) == (m.count, m.n_segs, MEMSEG)
        assert at(r, 120, "Q") == mapped[m.name]
    assert {m.version for m in lists if m.count} == {2 if mode in ("dynmem", "single-file") else 0}


@requirement("MSL-023")
@needs(pages={"2M": 8})
@modes(*ALL)
def test_version_counts_allocations_and_freed_segments(start, mode, evidence):
    """+1 for a batch however big, +1 for each segment that goes: 1, 2, 7; fixed memory keeps 0."""
    eal = start("-m", "2")
    i = next(m.index for m in eal.lists() if m.count)

    def version():
        return next(m.version for m in eal.lists() if m.index == i)

    seen, size = [version()], (9 if mode not in ("legacy", "no-huge") else 1) << 20
    va = eal.malloc(size).va
    seen.append(version())
    eal.free(va)
    seen.append(version())
    evidence(f"versions {seen}")

    assert va
    assert seen == ([0, 0, 0] if mode in ("legacy", "no-huge") else [1, 2, 7])


@requirement("MSL-024")
@needs(pages={"2M": 2})
@modes(*SHARED)
def test_unused_slots_are_zero_and_no_walk_sees_them(start, mode, evidence):
    """Two external lists, the first of them gone again: its slot is as if it never was.

    Legacy mode's own lists without a page leave what they were for in the slot, and no more.
    """
    eal = start("-m", "2")
    before = {m.index for m in eal.lists()}
    gone, stays = (eal.extmem_register(64 << 10, 4096).va for _ in range(2))
    assert eal.extmem_unregister(gone, 64 << 10).ret == 0
    records, lists = slots(eal), {m.index: m for m in eal.lists()}
    walked = {kind: {v.list for v in eal.walk(kind).visits} for kind in ("list", "seg", "contig")}
    evidence(f"slots {sorted(before)}, then {sorted(lists)}")

    a, b = (8, 32) if mode == "legacy" else (0, 0)  # page size and node, in 20.11 the length too
    zero = {i for i, r in enumerate(records) if not any(r[:a] + r[b:])}
    assert zero == set(range(128)) - set(lists)
    assert len(set(lists) - before) == 1 and max(lists) not in before
    assert min(set(range(128)) - before) in zero
    assert lists[max(lists)].base_va == stays
    assert walked["list"] == set(lists)
    assert walked["seg"] == walked["contig"] == {i for i, m in lists.items() if m.count}


@requirement("MSL-025")
@needs(pages={"2M": 2})
@modes(*SHARED)
def test_external_memory_is_a_list_of_its_own(start, evidence):
    """In the first free slot, under its address, on a node of its own: 256, 257, ..."""
    eal = start("-m", "2")
    taken, nodes = {m.index for m in eal.lists()}, []
    for _ in range(2):
        va = eal.extmem_register(8 << 10, 4096).va
        slot = min(set(range(128)) - taken)
        m = next(m for m in eal.lists() if m.index == slot)
        taken.add(slot)
        nodes.append(m.socket_id)
        evidence(f"slot {slot}: {m.name}, node {m.socket_id}")

        assert (m.name, m.base_va, m.len) == (f"extmem_{va:#x}", va, 8 << 10)
        assert (m.external, m.heap, m.n_segs, m.count) == (1, 0, 2, 2)
    assert nodes == [256, 257]
    assert eal.config().next_socket_id == 258


@requirement("MSL-026")
@needs(pages={"2M": 4})
@modes("dynmem", "single-file")
def test_channels_and_ranks_are_those_of_later_pages(start, evidence):
    """-n 4 -r 2: 0 and 0 for pages of the start, 4 and 2 for those that come after it."""
    eal = start("-m", "2", "-n", "4", "-r", "2")
    old = eal.segments()
    eal.malloc(2 * MB)
    new = eal.segments()[len(old) :]
    evidence(f"{[(s.nchannel, s.nrank) for s in eal.segments()]}")

    assert {(s.nchannel, s.nrank) for s in old} == {(0, 0)}
    assert [(s.nchannel, s.nrank) for s in new] == [(4, 2)] * 2
