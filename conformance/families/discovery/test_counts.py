"""HPI: how many pages are counted, and on which node they are booked."""

import errno

import pytest

from conformance import DYNAMIC, MB, modes, needs, requirement
from conformance.harness import fake_host
from conformance.harness.catalogue import holds

M2 = 2 * MB
KERNEL = f"{fake_host.GLOBAL}/hugepages-2048kB"


def pages(eal, nodes=2):
    """Pages of 2 MB that were found, by node."""
    (record,) = [r for r in eal.hugepage_info() if r.hugepage_sz == M2]
    assert not any(record.num_pages[nodes:])
    return record.num_pages[:nodes]


@requirement("HPI-011")
@needs(pages={"2M": 3})
@modes(*DYNAMIC)
def test_pages_of_a_node_are_its_free_ones(start, mode, machine, evidence):
    """Two free pages are two, though the kernel says two are reserved, and a third is there."""
    box = machine({"2M": {"free": 2, "resv": 2, "nodes": {0: 2}}}, {"2M": 3})
    eal = start("-m", "4", box=box)
    n = len(eal.segments())
    counted = [] if mode == "in-memory" else pages(eal)
    eal.close()
    refused = start("-m", "6", box=box, init=False).refused()
    evidence(f"counted {counted}, {n} taken; 3 wanted: errno {refused.errno}")

    assert n == 2
    assert mode == "in-memory" or counted == [2, 0]
    assert refused.errno == errno.ENOMEM
    assert "Requested: 6MB, available: 4MB" in refused.log


@requirement("HPI-012")
@needs(pages={"2M": 1})
@modes(*DYNAMIC)
def test_a_node_without_a_free_page_is_told(start, machine, evidence):
    """WARNING for node 1, none for node 0; 20.11 does not say which node it is."""
    eal = start(box=machine({"2M": {"free": 1, "nodes": {0: 1, 1: 0}}}, {"2M": 1}))
    told = eal.logged("No free ")
    evidence(told)

    early = holds("==20.11", eal.release)
    says = "in hugepages-2048kB" if early else "on node 1"
    assert [t.partition(" reported ")[2] for t in told] == [says]


@requirement("HPI-013")
@needs(pages={"2M": 3})
@modes(*DYNAMIC)
def test_pages_that_no_node_has_are_booked_on_node_0(start, mode, machine, evidence):
    """Nodes 0 and 1 say 0, the pool says 4 of which one is reserved: three on node 0."""
    box = machine({"2M": {"free": 4, "resv": 1, "nodes": {0: 0, 1: 0}}}, {"2M": 3})
    eal = start("--socket-mem=6,0", box=box)
    counted = [] if mode == "in-memory" else pages(eal)
    evidence(f"counted {counted}, {len(eal.segments())} taken on node 0")

    assert [s.socket_id for s in eal.segments()] == [0, 0, 0]
    assert mode == "in-memory" or counted == [3, 0]


@requirement("HPI-014")
@needs(pages={"2M": 1})
@modes("dynmem", "legacy")
@pytest.mark.parametrize(
    ("free", "resv", "over", "surplus", "n"),
    [(10, 3, 5, 2, 10), (4, 6, 5, 0, 5), (4, 0, 1, 3, 4), (1 << 32, 0, 5, 0, 0xFFFFFFFF)],
    ids=["all four", "more reserved than free", "more surplus than allowed", "32 bits"],
)
def test_pool_counts_free_and_what_it_may_grow_by(
    start, mode, machine, free, resv, over, surplus, n, evidence
):
    """max(free - resv, 0) + max(overcommit - surplus, 0), at most 32 bits."""
    pool = {"free": free, "resv": resv, "over": over, "surplus": surplus, "nodes": {0: 0}}
    if n >> 31 and mode == "legacy":
        pytest.skip("legacy mode makes a table of that many pages")
    eal = start("-m", "2", box=machine({"2M": pool}, {"2M": 1}))
    evidence(f"free {free}, resv {resv}, overcommit {over}, surplus {surplus}: {pages(eal)[0]}")

    assert pages(eal) == [n, 0]


@requirement("HPI-015")
@needs(pages={"2M": 2})
@modes("legacy")
def test_legacy_books_the_pool_on_node_0(start, machine, evidence):
    """Nodes say 5 and 3, the pool 9: [9, 0]."""
    box = machine({"2M": {"free": 9, "nodes": {0: 5, 1: 3}}}, {"2M": 2})
    eal = start("-m", "2", box=box)
    evidence(f"{pages(eal)}")

    assert pages(eal) == [9, 0]


@requirement("HPI-016")
@needs(pages={"2M": 1})
@modes("legacy")
def test_unreadable_counters_count_nothing(start, machine, evidence):
    """free or resv: the size has no pages. overcommit and surplus: 0 each. One ERR line a file."""

    def broken(text, *files):
        changed = {f"{KERNEL}/{f}_hugepages": text for f in files}
        box = machine({"2M": {"free": 4, "over": 3}}, {"2M": 1}, changed)
        return start("-m", "2", box=box, init=False)

    for file, text in (("free", False), ("resv", False), ("free", "many\n"), ("resv", "many\n")):
        refused = broken(text, file).refused()
        assert refused.errno == errno.EACCES
        assert f"{file}_hugepages" in refused.log
    eal = broken(False, "nr_overcommit", "surplus").init()
    told = eal.logged("cannot open sysfs value")
    evidence(f"{pages(eal)[0]} of 4 + 3 counted; {told}")

    assert pages(eal) == [4, 0]
    assert [sum(f in t for t in told) for f in ("nr_overcommit", "surplus")] == [1, 1]
