"""`pyeal inspect` beside living processes: its numbers are those of their own telemetry."""

from __future__ import annotations

import json
import os
import shlex
import socket
from pathlib import Path

import pytest

from conformance import MB, needs
from conformance.harness import peers


class Telemetry:
    """The socket of a process: ask("heap_info", 0), of what its release knows."""

    def __init__(self, eal):
        self.said = {}  # request -> answer
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(10)
        # the socket's path through the box is too long; a descriptor's is not
        self.fd = os.open(eal.run, os.O_PATH)

    def __enter__(self):
        self.sock.connect(f"/proc/self/fd/{self.fd}/dpdk_telemetry.v2")
        self.sock.recv(16384)  # its greeting
        self.known = self._answer("/")["/"]
        return self

    def __exit__(self, *_):
        self.sock.close()
        os.close(self.fd)

    def _answer(self, request):
        self.sock.send(request.encode())
        return json.loads(self.sock.recv(MB))

    def ask(self, name, *params):
        if f"/eal/{name}" not in self.known:
            return []
        request = ",".join([f"/eal/{name}", *map(str, params)])
        self.said[request] = self._answer(request)
        return self.said[request][f"/eal/{name}"]


def test_numbers_are_those_of_telemetry(start, make_box, kind, tool, evidence):
    """Every request that the release has: the same keys, the same values, while it is up."""
    if kind.startswith("pyeal"):
        pytest.skip("wanted telemetry, found pyeal, which has none")
    try:
        peer = peers.find(kind.partition(":")[2])
    except peers.Unobtainable as e:
        pytest.skip(f"wanted {kind}, found none: {e}")
    program = Path(__file__).with_name("telemetry_target.py")
    target = "cmd:" + shlex.join(peer.command(program, peer.lib, peer.release))
    eal = start("-m", "8", target=target, box=make_box({"2M": 6}))
    blocks = [eal.malloc(n).va for n in (64, 5000, 300_000, 64, MB)]
    eal.memzone("reserve", "two pages of it", 3 * MB)
    eal.free(blocks[1])
    eal.free(blocks[3])
    with Telemetry(eal) as t:
        for heap in t.ask("heap_list"):
            t.ask("heap_info", heap)
        for zone in t.ask("memzone_list"):
            t.ask("memzone_info", zone)
        for i in t.ask("memseg_lists"):
            segs = t.ask("memseg_list_info", i)
            for seg in segs:
                t.ask("memseg_info", i, seg)
                t.ask("mem_element_list", 0, i, seg)
                t.ask("mem_element_info", 0, i, seg, 1, 9)
    said = tool("inspect", eal.pid, "--json", *t.said).splitlines() if t.said else []
    for theirs in t.said.values():
        if heap := theirs.get("/eal/heap_info"):  # 22.11 misspells it
            theirs["/eal/heap_info"] = {"Heap_id": heap.pop("Head_id", 0)} | heap
    evidence(f"{len(t.said)} requests: {' '.join(t.said)}")

    assert dict(zip(t.said, map(json.loads, said), strict=True)) == t.said
    assert len(t.said) >= (0 if eal.release.startswith("20.11") else 3)


@needs(pages={"2M": 4})
def test_a_dead_process_by_its_files(start, kind, facts):
    """Config, arrays and pages are still there: all is as it was, element for element."""
    eal = start("-m", "6", target=kind)
    for n in (64, 70_000, MB):
        eal.malloc(n)
    alive = facts("inspect", eal.prefix, "--elements")
    eal.kill()
    dead = facts("inspect", eal.prefix, "--elements")
    same = ("lists", "heaps", "memzones", "config", "pages", "release", "mode", "hugepage_info")
    elements = alive["heaps"][0]["elements"]

    assert {k: dead[k] for k in same} == {k: alive[k] for k in same}
    assert (alive["health"], dead["health"], dead["holders"]) == ("running", "stale", [])
    assert sum(e["size"] for e in elements) == 6 * MB
    assert sum(e["state"] == "Busy" for e in elements) == alive["heaps"][0]["Alloc_count"]
