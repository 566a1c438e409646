"""NUMA: which nodes there are, and what they mean before a page is allocated. Nodes are faked."""

import errno
import re

from conformance import modes, needs, requirement
from conformance.harness import fake_host
from conformance.harness.catalogue import holds

PLANNED = re.compile(r"Allocating (\d+) pages of size (\d+)M on socket (\d+)")
COUNTED = re.compile(r"Detected (?:NUMA nodes: )?(\d+)(?: NUMA nodes)?$", re.M)
WARNING = "Main core has no memory on local socket!"


def binds(root, cpus, counts=()):
    """Nodes with these CPUs, and with that many pages of 2 MB each."""
    return fake_host.build(root, {"2M": list(counts) or [0] * len(cpus)}, cpus)


@requirement("NUMA-001")
@needs(root=True)
def test_a_node_is_there_when_it_has_a_cpu(start, make_box, tmp_path, evidence):
    """CPUs by node; a CPU that this machine lacks, such as 100, counts as well; 0 always counts.

    node 0    node 1    node 2        found
    0, 1      -         -             0            nodes of memory alone are not seen
    0         1         -             0, 1
    -         0         1             0, 1, 2      node 0 for all numbers that no node has
    0, 1      -         100           0, 2
    0, 1      -         RTE_MAX_LCORE 0            128 on x86-64, 256 on arm64
    """
    beyond = start(init=False, mode="no-huge").decode.constants["RTE_MAX_LCORE"]
    for k, (cpus, want) in enumerate(
        [
            (["0,1", "", ""], [0]),
            (["0", "1", ""], [0, 1]),
            (["", "0", "1"], [0, 1, 2]),
            (["0,1", "", "100"], [0, 2]),
            (["0,1", "", str(beyond)], [0]),
        ]
    ):
        box = make_box(binds=binds(tmp_path / str(k), dict(enumerate(cpus))))
        eal = start("-m", "4", mode="no-huge", box=box)
        found = eal.info().socket_ids
        evidence(f"CPUs {cpus}: nodes {found}")
        eal.close()

        assert found == want


@requirement("NUMA-002")
@needs(root=True)
def test_the_log_counts_the_nodes(start, make_box, tmp_path, evidence):
    """One node, two, and two with a hole between: as many are logged as there are ids."""
    for k, cpus in enumerate([{0: "0,1"}, {0: "0", 1: "1"}, {0: "0", 3: "1"}]):
        tree = fake_host.build(tmp_path / str(k), {"2M": [0] * len(cpus)}, cpus)
        eal = start("-m", "4", mode="no-huge", box=make_box(binds=tree))
        said = [line for line in eal.logged("NUMA nodes") if COUNTED.search(line)]
        evidence(f"{said}, ids {eal.info().socket_ids}")
        n = len(eal.info().socket_ids)
        eal.close()

        word = (
            f"Detected {n} NUMA nodes"
            if holds("==20.11", eal.release)
            else f"Detected NUMA nodes: {n}"
        )
        assert n == len(cpus)
        assert len(said) == 1
        assert said[0].endswith(word)


@requirement("NUMA-006")
@needs(pages={"2M": 2}, cpus=2)
@modes("dynmem", "single-file")
def test_memory_comes_from_where_the_lcores_are(start, make_box, tmp_path, evidence):
    """CPU 1 is on node 1: -l 1 -m 4 plans both pages there, -l 0 on node 0."""
    box = make_box({"2M": 2}, binds=binds(tmp_path, {0: "0", 1: "1"}, [2, 2]))
    for lcore in 0, 1:
        eal = start("-l", str(lcore), "-m", "4", box=box, init=False)
        try:
            eal.init()
        except Exception:  # node 1 may have no real page: the plan was printed before
            assert lcore == 1
        planned = [tuple(map(int, m.groups())) for m in PLANNED.finditer(eal.log)]
        evidence(f"-l {lcore}: (pages, MB, node) {planned}")
        eal.close()

        assert planned == [(2, 2, lcore)]


@requirement("NUMA-007")
@needs(pages={"2M": 2}, cpus=2)
@modes("dynmem", "legacy", "no-huge")
def test_a_main_lcore_without_a_list_is_warned_of(start, make_box, mode, tmp_path, evidence):
    """All pages are on node 0. Legacy keeps no list of node 1: the main lcore there is told so."""
    pages, args = {"2M": 2}, ["--socket-mem", "4"]
    if mode == "no-huge":
        pages, args = None, ["-m", "4"]
    box = make_box(pages, binds=binds(tmp_path, {0: "0", 1: "1"}, [2, 0]))
    for lcore in 0, 1:
        eal = start("-l", str(lcore), *args, box=box)
        lists = sorted({x.socket_id for x in eal.lists()})
        said = eal.logged(WARNING)
        evidence(f"main lcore on node {lcore}, lists of nodes {lists}: {said}")
        eal.close()

        assert lists == ([0, 1] if mode == "dynmem" else [0])
        assert len(said) == (lcore not in lists)


@requirement("NUMA-008")
@needs(pages={"2M": 2})
@modes("dynmem", "legacy", "no-huge")
def test_each_node_has_a_heap(start, make_box, mode, tmp_path, evidence):
    """Nodes 0, 1, 3 with CPUs, 1 and 3 without pages: heaps socket_0, socket_1, socket_3."""
    tree = fake_host.build(tmp_path, {"2M": [2, 0, 0, 0]}, {0: "0", 1: "1", 2: "", 3: "100"})
    pages = None if mode == "no-huge" else {"2M": 2}
    eal = start("-l", "0", "-m", "4", box=make_box(pages, binds=tree))
    heaps = [h.name for h in eal.config().malloc_heaps if h.name]
    lists = sorted({x.socket_id for x in eal.lists()})
    evidence(f"heaps {heaps}, lists of nodes {lists}")

    assert heaps == ["socket_0", "socket_1", "socket_3"]


@requirement("NUMA-009")
@needs(pages={"2M": 2})
def test_as_many_nodes_as_the_library_was_built_for(start, make_box, tmp_path, evidence):
    """32 numbers of --socket-mem on x86-64, 4 in 20.11; one more is refused. Nodes beyond are not
    seen.
    """
    limit = start("-m", "4", init=False).decode.constants["RTE_MAX_NUMA_NODES"]
    cpus = {k: str(k) for k in range(limit + 1)}
    box = make_box({"2M": 2}, binds=binds(tmp_path, cpus, [2] + limit * [0]))
    numbers = ["2", *"0" * (limit - 1)]
    eal = start("-l", "0", "--socket-mem", ",".join(numbers), box=box)
    found = eal.info().socket_ids
    eal.close()
    more = start("-l", "0", "--socket-mem", ",".join([*numbers, "0"]), box=box, init=False)
    refusal = more.refused()
    evidence(f"{len(found)} of {len(cpus)} nodes; {limit + 1} numbers: {refusal.text}")

    assert found == list(range(limit))
    assert refusal.errno == errno.EINVAL
