"""MSL: which memseg lists there are, and how many segments they have."""

import os
from collections import Counter

import pytest

from conformance import DYNAMIC, GB, HUGE, HUGE_FILES, MB, modes, needs, requirement
from conformance.harness.catalogue import holds
from conformance.harness.proc import PAGE, rounded

BOTH = {"root": True, "path": "/sys/kernel/mm/hugepages/hugepages-1048576kB"}


def planned(sizes, nodes):
    """(page size, node, segments) of each list by MSL-002, slot by slot."""
    types = [(size, node) for size in sizes for node in range(nodes)]
    t, lists = len(types), []
    for size, node in types:
        memory = min(64 * GB, 512 * GB // t)
        per_type = min(memory // size, 32768)
        per_list = min(per_type, 8192)
        length = min(per_list * size, 32 * GB)
        segs = min(per_list, length // size)
        n = min(per_type // segs, memory // length, 128 // t)
        lists += [(size, node, segs)] * n
    return dict(enumerate(lists))


def found(eal):
    return {m.index: (m.page_sz, m.socket_id, m.n_segs) for m in eal.lists()}


def kept(plan, lists, mode):
    """What is left of a plan: legacy mode gives lists without a page back."""
    return {i: plan[i] for i in lists if i in plan} if mode == "legacy" else plan


def said(lists):
    runs = Counter(lists.values())
    return ", ".join(
        f"{n} x {segs} of {size >> 20}M on {node}" for (size, node, segs), n in runs.items()
    )


@requirement("MSL-001")
@needs(pages={"2M": 2}, **BOTH)
@modes(*HUGE)
def test_types_fill_the_slots_by_size_and_node(on, mode, evidence):
    """Big pages first, low nodes first, no slot left out.

    slot 0: 1G node 0 | ... 1G node 1 | ... 2M node 0 | ... 2M node 1
    """
    eal = on(2, "2M", "1G")
    lists = eal.lists()
    types = list(dict.fromkeys((m.page_sz, m.socket_id) for m in lists))
    evidence(said(found(eal)))

    if mode == "legacy":
        per_type = 1 if holds(">=26.07", eal.release) else 2
        assert [(m.index, *types[0]) for m in lists] == [(2 * per_type, 2 * MB, 0)]
    else:
        assert types == [(GB, 0), (GB, 1), (2 * MB, 0), (2 * MB, 1)]
        assert [m.index for m in lists] == list(range(len(lists)))


@requirement("MSL-002")
@needs(pages={"2M": 2}, **BOTH)
@modes(*HUGE)
@pytest.mark.parametrize("nodes", [1, 2, 12], ids=["1-node", "2-nodes", "12-nodes"])
def test_lists_share_512_gigabytes(on, nodes, mode, evidence):
    """64 GB a type, less with more than 8 types; at most 8192 segments and 32 GB a list."""
    eal = on(nodes, "2M", "1G")
    most = eal.decode.constants["RTE_MAX_NUMA_NODES"]
    if nodes > most:
        pytest.skip(f"wanted {nodes} nodes, found a release that knows {most}")
    plan, lists = planned([GB, 2 * MB], nodes), found(eal)
    evidence(said(lists))

    assert lists
    assert lists == kept(plan, lists, mode)


@requirement("MSL-003")
@needs(pages={"2M": 2}, **BOTH)
@modes(*HUGE_FILES)
@pytest.mark.parametrize(
    ("nodes", "sizes", "plan"),
    [
        (1, ["2M"], [(2 * MB, 0, 8192)] * 4),
        (1, ["2M", "1G"], [(GB, 0, 32)] * 2 + [(2 * MB, 0, 8192)] * 4),
        (2, ["2M"], [(2 * MB, 0, 8192)] * 4 + [(2 * MB, 1, 8192)] * 4),
    ],
    ids=["1-node-2M", "1-node-2M-1G", "2-nodes-2M"],
)
def test_worked_values(on, nodes, sizes, plan, mode, evidence):
    """Four lists of 16 GB for 2 MB pages, two of 32 GB for 1 GB pages, on each node."""
    lists = found(on(nodes, *sizes))
    evidence(said(lists))

    assert lists
    assert lists == kept(dict(enumerate(plan)), lists, mode)


@requirement("MSL-004")
@needs(pages={"2M": 2}, **BOTH)
@modes(*DYNAMIC)
@pytest.mark.parametrize(
    ("args", "segs"),
    [([], [64, 32768]), (["--pagesz-mem", "2M:64M", "--pagesz-mem", "1G:8G"], [8, 32])],
    ids=["default", "pagesz-mem"],
)
def test_one_list_a_type_in_one_reservation(on, args, segs, mode, evidence):
    """64 GB or 32768 segments, or what --pagesz-mem says; lists follow each other without a gap."""
    eal = on(2, "2M", "1G", args=args)
    lists = eal.lists()
    evidence(said(found(eal)))

    types = [(GB, 0, segs[0]), (GB, 1, segs[0]), (2 * MB, 0, segs[1]), (2 * MB, 1, segs[1])]
    assert list(found(eal).values()) == types
    assert [m.base_va for m in lists[1:]] == [m.base_va + m.len for m in lists[:-1]]
    if mode != "in-memory":
        c = eal.config()
        end = lists[-1].base_va + lists[-1].len
        assert (c.mem_va_addr, c.mem_va_addr + c.mem_va_len) == (lists[0].base_va, end)
        assert c.mem_va_page_sz == GB


@requirement("MSL-005")
@needs(pages={"2M": 2}, **BOTH)
@modes(*HUGE)
@pytest.mark.parametrize("mounted", [True, False], ids=["mounted", "not-mounted"])
def test_size_that_is_counted_has_lists(on, mounted, mode, evidence):
    """1 GB pages, none free: lists where they are mounted, and always in memory."""
    eal = on(1, "2M", *["1G"] * mounted)
    lists, counted = found(eal), mounted or mode == "in-memory"
    evidence(said(lists))

    ahead = planned([GB], 1) if holds("<26.07", eal.release) else {0: GB}
    if mode == "legacy":
        assert list(lists) == [len(ahead) if counted else 0]
    else:
        assert (GB in {size for size, _, _ in lists.values()}) == counted


@requirement("MSL-006")
@needs(pages={"2M": 2}, **BOTH)
@modes(*HUGE)
def test_names_tell_page_size_node_and_number(on, mode, evidence):
    """memseg-2048k-1-0: the number counts within the type, in 26.07 over all slots."""
    eal = on(2, "2M", "1G")
    lists = eal.lists()
    names = [m.name for m in lists]
    evidence(" ".join(names))

    seen, want = Counter(), []
    for m in lists:
        n = m.index if holds(">=26.07", eal.release) else seen[m.page_sz, m.socket_id]
        want.append(f"memseg-{m.page_sz >> 10}k-{m.socket_id}-{n}")
        seen[m.page_sz, m.socket_id] += 1
    assert names == want
    if mode != "in-memory":
        assert eal.run_files("fbarray_memseg*") == sorted(f"fbarray_{n}" for n in names)


@requirement("MSL-007")
@needs(pages={"2M": 2}, **BOTH)
@modes(*HUGE_FILES)
def test_array_of_a_list_has_an_element_of_48_bytes_a_segment(on, mode, evidence):
    """File: elements, 8 bytes, a bit each in whole words, up to a page: 397312 for 8192."""
    eal = on(1, "2M", "1G")
    arrays = [m.memseg_arr for m in eal.config().memsegs if m.memseg_arr.len]
    sizes = {a.name: os.stat(eal.run / f"fbarray_{a.name}").st_size for a in arrays}
    evidence(f"{sizes}")

    one = holds(">=26.07", eal.release)
    want = (
        {2 * MB: (32768, rounded(1581056)), GB: (64, PAGE)}
        if one
        else {2 * MB: (8192, rounded(397312)), GB: (32, PAGE)}
    )
    assert {a.elt_sz for a in arrays} == {48}
    for m in eal.lists():
        assert (m.n_segs, sizes[m.name]) == want[m.page_sz]
