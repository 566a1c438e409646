"""NUMA: memory policy around an allocation, and pages on the node that was asked for."""

import ctypes
import errno
import os
import platform
import re
from contextlib import contextmanager

import pytest

from conformance import DYNAMIC, HUGE, MB, modes, needs, requirement
from conformance.harness import host, proc

CALLS = "get_mempolicy,set_mempolicy"
NUMBER = {"x86_64": 238, "ppc64le": 261}.get(platform.machine(), 237)  # of set_mempolicy
POLICIES = {"default": 0, "preferred": 1, "bind": 2, "interleave": 3, "local": 4}


@contextmanager
def policy(name):
    """This thread's, which children inherit; on node 0 if it needs one."""
    call = ctypes.CDLL(None, use_errno=True).syscall

    def put(name):
        mask = ctypes.c_ulong(1)
        nodes = (None, 0) if name in ("default", "local") else (ctypes.byref(mask), 64)
        if call(NUMBER, POLICIES[name], *nodes):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))

    put(name)
    try:
        yield
    finally:
        put("default")


def preferred(call, node):
    words = [int(w, 16) for w in call.args[1].strip("[]").split(", ")]
    return call.args[0] == "MPOL_PREFERRED" and words[0] == 1 << node and not any(words[1:])


def lacking(fake_host, mode):
    """A box with 3 pages and a node that the kernel lacks, and what asks for 2 MB of that."""
    pages, k = {"2M": 3}, 3 if 3 not in host.nodes() else 7
    counts = {} if mode == "in-memory" else pages
    lease = {"lease": pages} if mode == "in-memory" else {}
    box = fake_host(counts, free=pages, nodes=[0, k], **lease)
    return box, k, ["-l", "0", "--socket-mem", "0," * k + "2"]


@requirement("NUMA-003")
@needs(pages={"2M": 3}, strace=True)
@modes(*DYNAMIC)
@pytest.mark.parametrize("before", ["default", "bind"])
def test_the_policy_is_the_node_then_what_it_was(start, before, evidence):
    """preferred(0) before the pages are mapped, then bind as it was.

    Default is put back by libnuma: as local, by Debian 11's as default.
    """
    with policy(before):
        eal = start("-m", "2", init=False, fresh=True)
    trace = eal.trace(f"{CALLS},mmap")
    eal.init()
    calls = trace.stop()
    sets = [c for c in calls if c.name == "set_mempolicy"]
    first, last = calls.index(sets[0]), calls.index(sets[-1])
    mapped = [c for c in calls[first:last] if c.name == "mmap" and "MAP_FIXED" in c.args[3]]
    evidence("; ".join(c.text[:60] for c in sets))

    assert preferred(sets[0], 0)
    assert mapped
    after = {"MPOL_LOCAL", "MPOL_DEFAULT"} if before == "default" else {"MPOL_BIND"}
    assert {c.args[0] for c in sets[1::2]} <= after
    assert all(preferred(c, 0) for c in sets[::2])
    assert len(sets) % 2 == 0


@requirement("NUMA-004")
@needs(pages={"2M": 3}, strace=True)
@modes(*DYNAMIC)
def test_without_numa_calls_no_node_is_checked(start, fake_host, mode, evidence):
    """get_mempolicy is ENOSYS: a page for a node that is not there is taken as it comes."""
    box, k, args = lacking(fake_host, mode)
    eal = start(*args, box=box, init=False)
    trace = eal.trace(CALLS, inject="get_mempolicy:error=ENOSYS")
    eal.init()
    sets = trace.stop("set_mempolicy")
    nodes = [s.socket_id for s in eal.segments()]
    evidence(f"{eal.logged('NUMA is not')[0]}; segments of nodes {nodes}, policies set: {sets}")

    assert eal.logged("NUMA is not supported.")
    assert sets == []
    assert k in nodes


@requirement("NUMA-005")
@needs(pages={"2M": 3})
@modes(*DYNAMIC)
def test_a_node_that_the_kernel_lacks_is_told_and_has_no_page(start, fake_host, mode, evidence):
    """A faked node: its policy cannot be set, the page that comes lies elsewhere, init fails."""
    box, k, args = lacking(fake_host, mode)
    eal = start(*args, box=box, init=False)
    refusal = eal.refused()
    said = [*eal.logged("set_mempolicy")[:1], *eal.logged("on wrong socket")[:1]]
    evidence("; ".join(said))

    assert refusal.errno == errno.ENOMEM
    assert re.search(r"set_mempolicy( failed)?: Invalid argument", said[0])
    assert f"wrong socket (wanted {k}, got " in said[1]


@requirement("NUMA-010")
@needs(pages={"2M": 12}, nodes=2)
@modes(*HUGE)
def test_pages_lie_on_the_nodes_that_were_named(start, evidence):
    """--socket-mem 5,3: 3 pages of node 0 and 2 of node 1, each where its list says."""
    nodes = host.full_nodes()[:2]
    eal = start("-l", "0", "--socket-mem", "5,3")
    kept = [s for s in eal.segments() if s.flags & 1] or eal.segments()
    found = [(s.socket_id, node_of(eal, s)) for s in kept]
    evidence(f"(list's node, kernel's node) {found}")

    assert found == [(nodes[0], nodes[0])] * 3 + [(nodes[1], nodes[1])] * 2


@requirement("NUMA-011")
@needs(pages={"2M": 12}, nodes=2)
@modes(*DYNAMIC)
def test_a_heap_grows_on_its_own_node(start, evidence):
    """Main lcore on node 0, 3 MB from nodes 1, 0 and any: two pages each, of 1, 0 and 0.

    Then 3 MB of a node that does not exist: none.
    """
    first, second = host.full_nodes()[:2]
    eal = start("-l", "0")
    before = {s.addr for s in eal.segments()}
    grown = []
    for socket in second, first, -1:
        block = eal.malloc(3 * MB, 0, socket)
        new = [s for s in eal.segments() if s.addr not in before]
        before |= {s.addr for s in new}
        grown.append([(s.socket_id, node_of(eal, s)) for s in new])
        eal.peek(block.va, 1)
    none = eal.malloc(3 * MB, 0, max(host.nodes()) + 1)
    evidence(f"nodes of pages for nodes {second}, {first}, any: {grown}; lacking: {none.errno}")

    assert {n for page in grown[0] for n in page} == {second}
    assert {n for page in grown[1] + grown[2] for n in page} == {first}
    assert none.va == 0


def node_of(eal, seg):
    """Node of a page by numa_maps: of the mapping that it lies in."""
    return proc.node(eal.pid, next(m.start for m in eal.maps() if m.start <= seg.addr < m.end))
