"""DYN: how many pages of which size on which node, before the first is allocated."""

import errno
import re

from conformance import DYNAMIC, HUGE, MB, modes, needs, requirement
from conformance.harness import catalogue, fake_host

KEPT = 1  # flags bit 0: not to be freed
PLANNED = re.compile(r"Allocating (\d+) pages of size (\d+)M on socket (\d+)")


def planned(eal):
    """(pages, MB, node) as the log says them, in order."""
    return [tuple(map(int, m.groups())) for m in PLANNED.finditer(eal.log)]


def kept(eal):
    return [s for s in eal.segments() if s.flags & KEPT]


@requirement("DYN-001")
@needs(pages={"2M": 4})
@modes(*DYNAMIC)
def test_nothing_is_preallocated_unless_asked_for(start, evidence):
    """No -m, -m 0 and --socket-mem 0: no page carries the do-not-free flag, no size is planned."""
    for args in [], ["-m", "0"], ["--socket-mem", "0"]:
        eal = start(*args)
        flags = [s.flags for s in eal.segments()]
        evidence(f"{' '.join(args) or 'no -m'}: flags {flags}, planned {planned(eal)}")
        eal.close()

        assert not [f for f in flags if f & KEPT]
        assert planned(eal) == []


@requirement("DYN-003")
@needs(pages={"2M": 8}, cpus=2)
@modes(*DYNAMIC)
def test_m_is_shared_by_lcores_then_in_node_order(start, make_box, mode, tmp_path, evidence):
    """-m goes to nodes by their lcores, capped by their pages; the rest to the first with room.

    lcores     -m   free on 0, 1      pages on 0, 1
    0 1         8        8, 8           2, 2          half each
    0           8        8, 8           4, 0          all lcores on node 0
    0 1        12        1, 8           1, 5          node 0 is full, node 1 has room
    1           8        8, 3           1, 3          node 1 is full, node 0 has room
    """
    for lcores, mb, free, want in [
        ("0,1", 8, [8, 8], [2, 2]),
        ("0", 8, [8, 8], [4, 0]),
        ("0,1", 12, [1, 8], [1, 5]),
        ("1", 8, [8, 3], [1, 3]),
    ]:
        root = tmp_path / f"{lcores}-{mb}"
        binds = fake_host.build(root, {"2M": free}, {0: "0", 1: "1"})
        pages = {"2M": 8}
        lease = {"lease": pages} if mode == "in-memory" else {"pages": pages}
        eal = start("-l", lcores, "-m", str(mb), box=make_box(binds=binds, **lease), init=False)
        if want[1]:
            eal.refused()  # no real page lies on node 1: what counts was said before
        else:
            eal.init()
        evidence(f"lcores {lcores}, {mb} MB, {free} pages free: {planned(eal)}")
        eal.close()

        assert planned(eal) == [(n, 2, node) for node, n in enumerate(want) if n]


@requirement("DYN-004")
@needs(pages={"2M": 6}, cpus=2)
@modes(*HUGE)
def test_socket_mem_names_megabytes_node_by_node(start, make_box, mode, tmp_path, evidence):
    """`4`: 4 MB on node 0 and none on node 1; `0,4`: none on node 0, node 1 must have 4."""
    binds = fake_host.build(tmp_path / "two", {"2M": [6, 6]}, {0: "0", 1: "1"})
    pages = {"2M": 6}
    lease = {"lease": pages} if mode == "in-memory" else {"pages": pages}
    box = make_box(binds=binds, **lease)
    new = catalogue.holds(">=25.11", start("-m", "2", box=box, init=False).release)
    for option in ("--socket-mem", "--numa-mem") if new else ("--socket-mem",):
        first = start("-l", "0,1", option, "4", box=box)
        found = [(s.socket_id, s.len) for s in first.segments()]
        planned_first = planned(first)
        first.close()
        second = start("-l", "0,1", option, "0,4", box=box, init=False)
        refusal = second.refused()
        second.close()  # 25.11 keeps the prefix after a failure
        evidence(f"{option} 4: (node, bytes) {found}; 0,4: {planned(second) or refusal.text}")

        if mode == "legacy":
            assert found == [(0, 2 * MB)] * 2
            assert second.logged("Not enough memory available on socket 1! Requested: 4MB")
        else:
            assert (planned_first, planned(second)) == ([(2, 2, 0)], [(2, 2, 1)])
            assert found[:2] == [(0, 2 * MB)] * 2
        assert refusal.errno == errno.ENOMEM


@requirement("DYN-005")
@needs(pages={"2M": 4, "1G": 1})
@modes(*DYNAMIC)
def test_bigger_pages_are_taken_first(start, make_box, mode, tmp_path, evidence):
    """1026 MB are one page of 1 GB and one of 2 MB; with a single 1 GB page 2 GB need 512 more.

    The counts are faked: what the second start plans is said before it finds too few.
    """
    binds = fake_host.build(tmp_path / "tree", {"1G": [1], "2M": [600]}, {0: "0,1"})
    pages = {"2M": 4, "1G": 1}
    lease = {"lease": pages} if mode == "in-memory" else {"pages": pages}
    box = make_box(binds=binds, **lease)
    first = start("-m", "1026", box=box)
    first.close()
    evidence(f"1026 MB: {planned(first)}")

    assert planned(first) == [(1, 1024, 0), (1, 2, 0)]
    if mode != "in-memory":  # there the machine's own pool might hold as many
        second = start("-m", "2048", box=box, init=False)
        second.refused()
        evidence(f"2048 MB: {planned(second)}")
        assert planned(second) == [(1, 1024, 0), (512, 2, 0)]


@requirement("DYN-006")
@needs(pages={"2M": 4})
@modes(*HUGE)
def test_a_rest_smaller_than_a_page_takes_one_more(start, evidence):
    """1, 3 and 5 MB in pages of 2 MB: 1, 2 and 3 pages."""
    found = []
    for mb in "1", "3", "5":
        eal = start("-m", mb)
        found.append(len(eal.segments()))
        eal.close()
    evidence(f"1, 3, 5 MB: {found} pages")

    assert found == [1, 2, 3]


@requirement("DYN-007")
@needs(pages={"2M": 4})
@modes(*HUGE)
def test_too_much_memory_is_refused_with_both_numbers(start, make_box, mode, tmp_path, evidence):
    """-m 200000 with four pages: ENOMEM, what was requested and what is available are named."""
    binds = fake_host.build(tmp_path, {"2M": [4]}, {0: "0,1"})
    box = make_box(lease={"2M": 4}) if mode == "in-memory" else make_box({"2M": 4}, binds=binds)
    eal = start("-m", "200000", box=box, init=False)
    refusal = eal.refused()
    said = re.search(
        r"Not enough memory available! Requested: (\d+)MB, available: (\d+)MB", refusal.log
    )
    evidence(said and said[0])

    assert refusal.errno == errno.ENOMEM
    assert said and int(said[1]) == 200000
    if mode == "in-memory":
        assert int(said[2]) < 200000
    else:
        assert int(said[2]) == 8
    if mode in ("dynmem", "single-file"):
        assert eal.page_files() == []  # no page was touched


@requirement("DYN-008")
@needs(pages={"2M": 4})
@modes(*HUGE)
def test_a_node_that_lacks_memory_is_named(start, make_box, mode, tmp_path, evidence):
    """4 pages on the only node: 64 MB are refused for socket 0, 4 MB on a second one for socket 1.

    --socket-mem 64    "... on socket 0! Requested: 64MB, available: 8MB"
    --socket-mem 4,4   "... on socket 1! Requested: 4MB, available: 0MB"
    """
    binds = fake_host.build(tmp_path, {"2M": [4]}, {0: "0,1"})
    lease = {"lease": {"2M": 4}} if mode == "in-memory" else {"pages": {"2M": 4}}
    box = make_box(binds=binds, **lease)
    for args, node, want, have in ("64", 0, 64, 8), ("4,4", 1, 4, 0):
        eal = start("--socket-mem", args, box=box, init=False)
        refusal = eal.refused()
        said = eal.logged("Not enough memory available on socket")
        evidence(f"--socket-mem {args}: {said}")
        eal.close()

        assert refusal.errno == errno.ENOMEM
        assert len(said) == 1
        assert f"socket {node}! Requested: {want}MB, available: {have}MB" in said[0]


@requirement("DYN-009")
@needs(pages={"2M": 4, "1G": 1}, cpus=2)
@modes(*DYNAMIC)
def test_bigger_sizes_and_lower_nodes_come_first(start, make_box, mode, tmp_path, evidence):
    """One page of 1 GB and one of 2 MB on node 0, then one of 2 MB on node 1."""
    binds = fake_host.build(tmp_path, {"1G": [1, 1], "2M": [4, 4]}, {0: "0", 1: "1"})
    pages = {"2M": 4, "1G": 1}
    lease = {"lease": pages} if mode == "in-memory" else {"pages": pages}
    eal = start(
        "-l", "0,1", "--socket-mem", "1026,2", box=make_box(binds=binds, **lease), init=False
    )
    eal.refused()  # no real page lies on node 1
    evidence(planned(eal))

    assert planned(eal) == [(1, 1024, 0), (1, 2, 0), (1, 2, 1)]
