"""Detected lcores, their NUMA nodes, and which of them EAL would use.

EAL tests each possible node<k>/cpu<n>; three directory listings and one test of each CPU that
exists give the same result. linux/eal_lcore.c, common/eal_common_lcore.c: rte_eal_cpu_init
"""

from __future__ import annotations

import os
from errno import EINVAL

from .cparse import MAX_LCORE
from .errors import EalError, Log
from .host import LOCAL, Host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .options import Options
    from .releases import Release


class Cpus:
    """The CPUs in /sys: node_of has every online one, nodes are those that EAL counts."""

    def __init__(self, node_of: dict[int, int], nodes: list[int]) -> None:
        self.node_of, self.nodes = node_of, nodes

    @property
    def lcores(self) -> list[tuple[int, int]]:
        """(lcore id, node) of each, ascending."""
        return [(n, k) for n, k in self.node_of.items() if n < MAX_LCORE]


def _numbered(path: str, word: str) -> list[int]:
    """Returns the n of every entry <word><n> of a directory, ascending; [] if it is missing."""
    try:
        names = os.listdir(path)
    except OSError:
        return []
    numbers = (name.removeprefix(word) for name in names if name.startswith(word))
    return sorted(int(n) for n in numbers if n.isdecimal())


def discover(release: Release, host: Host = LOCAL, log: Log | None = None) -> Cpus:
    """Returns the CPUs that have a core id; a CPU that no node<k> lists belongs to node 0.

    A node counts if it lists a CPU, online or not, below RTE_MAX_LCORE, or an online one beyond.
    Node 0 counts even without any: EAL books every CPU number that it does not find there.
    """
    system, last = f"{host.sys}/devices/system", release.cpus_looked_at
    listed: dict[int, int] = {}
    for k in _numbered(f"{system}/node", "node"):
        if k < release.numa_nodes_max:
            for n in _numbered(f"{system}/node/node{k}", "cpu"):
                listed.setdefault(n, k)
    node_of = {
        n: listed.get(n, 0)
        for n in _numbered(f"{system}/cpu", "cpu")
        if os.access(f"{system}/cpu/cpu{n}/topology/core_id", os.F_OK)
    }
    booked = [listed.get(n, 0) for n in range(MAX_LCORE)]
    booked += [node_of.get(n, 0) for n in range(MAX_LCORE, last)]
    found = Cpus(node_of, sorted(set(booked))[: release.numa_nodes_max])
    if log:
        lcores, nodes = release.detected
        log("INFO", lcores.format(len(found.lcores)))
        log("INFO", nodes.format(len(found.nodes)))
    return found


def enabled(o: Options, cpus: Cpus, host: Host = LOCAL) -> list[tuple[int, int]]:
    """Returns (lcore, node) of the lcores that run, the main one first. EalError(EINVAL)

    Without -l, -c and --lcores these are the CPUs of the calling thread's affinity.
    """

    def bad(what: str, expected: str, found: object, fix: str = "") -> EalError:
        fields = {"expected": expected, "found": str(found), "fix": fix, "reason": "lcores"}
        return EalError(EINVAL, "options", what, **fields)

    there = ",".join(map(str, cpus.node_of))
    ids, run_on = o.lcores, o.cpus
    if ids is None or run_on is None:
        try:
            allowed = sorted(host.affinity())
            found = f"an affinity for {allowed}"
        except OSError as e:  # EAL counts no CPU then
            allowed, found = [], f"no affinity: {e.strerror}"
        run_on = [n for n in allowed if n in cpus.node_of]
        if o.release.arguments == "getopt":  # later ones refuse what is too high
            run_on = [n for n in run_on if n < MAX_LCORE]
        ids = run_on = run_on[:MAX_LCORE]
        if o.remap is not None:
            ids = [o.remap + i for i in range(len(run_on))]
        if not ids:
            what = "No detected lcore is enabled, please check the core list"
            expected = f"one of the CPUs in /sys/devices/system/cpu ({there or 'none'})"
            raise bad(what, expected, found)
        if ids[-1] >= MAX_LCORE:
            what = f"lcore {ids[-1]} >= RTE_MAX_LCORE ({MAX_LCORE})"
            raise bad(what, f"lcores below {MAX_LCORE}", ids[-1], "choose lcores with -l")
    elif missing := [n for n in run_on if n not in cpus.node_of]:
        what = f"lcore {missing[0]} unavailable"
        raise bad(what, f"CPUs of {there}", run_on, "choose lcores on these CPUs")
    main = ids[0] if o.main_lcore is None else o.main_lcore
    if main not in ids:
        raise bad("Main lcore is not enabled for DPDK", f"one of {ids}", main)
    return [(n, cpus.node_of.get(n, 0)) for n in [main, *(n for n in ids if n != main)]]
