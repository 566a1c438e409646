"""Detected lcores, their NUMA nodes, and which of them EAL would use.

linux/eal_lcore.c, common/eal_common_lcore.c: rte_eal_cpu_init. EAL asks for every node<k>/cpu<n>
one by one; three directory listings and one look at each CPU that is there say the same.
"""

from __future__ import annotations

import os
from errno import EINVAL

from .cparse import MAX_LCORE
from .errors import EalError
from .host import LOCAL, Host

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from .options import Options
    from .releases import Release


class Cpus:
    """What /sys tells of CPUs: node_of (all that are online), nodes as EAL counts them."""

    __slots__ = ("node_of", "nodes")

    def __init__(self, node_of: dict[int, int], nodes: list[int]) -> None:
        self.node_of, self.nodes = node_of, nodes

    @property
    def lcores(self) -> list[tuple[int, int]]:
        """(lcore id, node), ascending."""
        return [(n, k) for n, k in self.node_of.items() if n < MAX_LCORE]


def _numbered(path: str, word: str) -> list[int]:
    """The n of every entry <word><n> of a directory, ascending; none if it is missing."""
    try:
        names = os.listdir(path)
    except OSError:
        return []
    return sorted(int(n[len(word):]) for n in names
                  if n.startswith(word) and n[len(word):].isdecimal())  # fmt: skip


def discover(
    release: Release, host: Host = LOCAL, log: Callable[[str, str], object] | None = None
) -> Cpus:
    """CPUs with a core id are there; a CPU that no node<k> lists belongs to node 0.

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


def enabled(
    o: Options, cpus: Cpus, affinity: Collection[int] | None = None
) -> list[tuple[int, int]]:
    """The lcores that run, with their nodes, the main one first. EalError(EINVAL)

    Without -l, -c, --lcores the CPUs of the calling thread's affinity are taken.
    """

    def bad(text: str) -> EalError:
        return EalError(EINVAL, "options", text)

    there = ",".join(map(str, cpus.node_of))
    ids, run_on = o.lcores, o.cpus
    if ids is None or run_on is None:
        allowed = sorted(LOCAL.affinity() if affinity is None else affinity)
        run_on = [n for n in allowed if n in cpus.node_of]
        if o.release.arguments == "getopt":  # later ones refuse what is too high
            run_on = [n for n in run_on if n < MAX_LCORE]
        ids = run_on = run_on[:MAX_LCORE]
        if o.remap is not None:
            ids = [o.remap + i for i in range(len(run_on))]
        if not ids:
            raise bad(
                "No detected lcore is enabled, please check the core list:"
                f" CPUs {there or 'none'} were found in /sys/devices/system/cpu,"
                f" affinity allows {allowed}"
            )
        if ids[-1] >= MAX_LCORE:
            raise bad(f"lcore {ids[-1]} >= RTE_MAX_LCORE ({MAX_LCORE}): choose with -l")
    elif missing := [n for n in run_on if n not in cpus.node_of]:
        raise bad(
            f"lcore {missing[0]} unavailable:"
            f" please check specified cores are part of {there}, found {run_on}"
        )
    main = ids[0] if o.main_lcore is None else o.main_lcore
    if main not in ids:
        raise bad(f"Main lcore is not enabled for DPDK: {main} is not in {ids}")
    return [(n, cpus.node_of.get(n, 0)) for n in [main, *(n for n in ids if n != main)]]
