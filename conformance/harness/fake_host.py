"""Fake hosts: a /sys and a /proc out of one readable file of fixtures/hosts (keys: its README).

host = load("two-nodes-2M")
root = host.expand(tmp_path)    # root/sys, root/proc
host.binds(root)                # {"/proc": ..., "/sys/...": ...} for the Box
build(tmp_path, {"2M": [4, 4]}) # a host that has no file: {"/sys/...": ...} for the Box
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NamedTuple

from conformance import FIXTURES
from conformance.harness import catalogue

DIR = FIXTURES / "hosts"
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
HUGETLBFS = 0x958458F6
GLOBAL, NODES, CPUS = "sys/kernel/mm/hugepages", "sys/devices/system/node", "sys/devices/system/cpu"
COUNTERS = {
    "nr": "nr_hugepages",
    "free": "free_hugepages",
    "resv": "resv_hugepages",
    "over": "nr_overcommit_hugepages",
    "surplus": "surplus_hugepages",
}


def names() -> list[str]:
    return sorted(p.stem for p in DIR.glob("*.toml"))


def size(name: str) -> int:
    """Bytes of "2M"."""
    return int(name[:-1]) * UNITS[name[-1]]


def numbers(text: str) -> list[int]:
    """ "0-2,5" -> [0, 1, 2, 5]"""
    ends = [part.split("-") for part in text.split(",") if part]
    return [n for e in ends for n in range(int(e[0]), int(e[-1]) + 1)]


def unescaped(path: str) -> str:
    return path.replace("\\040", " ")


class Expect(NamedTuple):
    """What discovery finds with these arguments."""

    args: list[str]
    releases: str
    counts: dict[int, list[Any]]  # page size -> [directory, pages of node 0, 1, ...], descending
    fails: str  # part of the refusal instead
    says: list[str]
    max_sizes: int | None
    locks: bool  # false: a directory cannot be locked, which reading alone does not notice
    hangs: bool  # librte_eal waits for its own lock


class Detected(NamedTuple):
    releases: str
    lcores: list[int]
    nodes: list[int]
    enabled: list[tuple[int, int]] | None


class HostTree:
    def __init__(self, name: str, facts: dict[str, Any]) -> None:
        self.name, self.facts = name, facts
        self.about: str = facts["about"]
        self.mounts = [line.split(" ", 1) for line in facts.get("mounts", ())]
        self.affinity = set(numbers(facts["affinity"])) if "affinity" in facts else None
        self.detected = [
            Detected(
                d.get("releases", ""),
                numbers(d["lcores"]),
                d["nodes"],
                [(n, k) for n, k in d["enabled"]] if "enabled" in d else None,
            )
            for d in facts["detected"]
        ]
        self.expects = [
            Expect(
                e["args"].split(),
                e.get("releases", ""),
                {size(k): e["counts"][k] for k in sorted(e.get("counts", ()), key=size)[::-1]},
                e.get("fails", ""),
                e.get("says", []),
                e.get("max_sizes"),
                e.get("locks", True),
                e.get("hangs", False),
            )
            for e in facts["expect"]
        ]

    def files(self) -> dict[str, str]:
        """Path below the root -> content."""
        f = self.facts
        out: dict[str, str] = {}
        cpus = {int(k): numbers(v) for k, v in f["cpus"].items()}
        online = sorted(n for on in cpus.values() for n in on)
        for n in online:
            out[f"{CPUS}/cpu{n}/topology/core_id"] = f"{n}\n"
        for n in numbers(f.get("offline", "")):
            out[f"{CPUS}/cpu{n}/online"] = "0\n"
        out[f"{CPUS}/online"] = ",".join(map(str, online)) + "\n"
        numa = f.get("numa", True)
        for k, on in cpus.items() if numa else ():
            out[f"{NODES}/node{k}/cpulist"] = ",".join(map(str, on)) + "\n"
            out |= {f"{NODES}/node{k}/cpu{n}/online": "1\n" for n in on}
        for name, pool in f.get("pools", {}).items():
            kernel = f"hugepages-{size(name) >> 10}kB"
            for key, file in COUNTERS.items():
                count = pool.get(key, pool["free"] if key == "nr" else 0)
                out[f"{GLOBAL}/{kernel}/{file}"] = f"{count}\n"
            nodes = pool.get("nodes", {0: pool["free"]})
            for k, free in nodes.items() if numa else ():
                for key, n in (("nr", free), ("free", free), ("surplus", 0)):
                    out[f"{NODES}/node{k}/hugepages/{kernel}/{COUNTERS[key]}"] = f"{n}\n"
        lines = [f"nodev {at} hugetlbfs rw,relatime,{o} 0 0\n" for at, o in self.mounts]
        first = "sysfs /sys sysfs rw,nosuid 0 0\nproc /proc proc rw 0 0\n"
        out["proc/mounts"] = first + "".join(lines)
        default = size(f.get("default", "2M")) >> 10
        out["proc/meminfo"] = f"MemTotal: 8000000 kB\nHugepagesize:    {default:>8} kB\n"
        changed: dict[str, str | bool] = f.get("files", {})
        out |= {path: text for path, text in changed.items() if isinstance(text, str)}
        return {path: text for path, text in out.items() if changed.get(path) is not False}

    def expand(self, root: Path) -> Path:
        """Writes the trees to root/sys and root/proc."""
        numa = self.facts.get("numa", True)
        files = self.files()
        paths = *files, f"{CPUS}/", *([f"{NODES}/"] if numa else [])
        for at in dict.fromkeys(map(os.path.dirname, paths)):  # in order: a tmpfs lists by it
            os.makedirs(root / at, exist_ok=True)
        for path, text in files.items():
            with open(f"{root}/{path}", "w") as f:
                f.write(text)
        return root

    def binds(self, root: Path) -> dict[str, Path]:
        """What the Box binds over what. A tree that this host lacks is bound empty.

        /sys/kernel/mm/hugepages itself cannot be hidden: its parent is, where it is missing.
        """
        (root / NODES).mkdir(parents=True, exist_ok=True)
        (root / GLOBAL).parent.mkdir(parents=True, exist_ok=True)
        pools = GLOBAL if (root / GLOBAL).is_dir() else "sys/kernel/mm"
        return {f"/{path}": root / path for path in (CPUS, NODES, pools, "proc")}

    def dirs(self) -> list[str]:
        """Directories that exist where the mounts are."""
        gone: list[str] = self.facts.get("gone", [])
        beside: list[str] = self.facts.get("dirs", [])
        return [unescaped(at) for at, _ in self.mounts if at not in gone] + beside

    def statfs(self, path: str) -> tuple[int, int]:
        """(type, block size) as statfs(2) would say here; the upper one of stacked mounts."""
        at = path.rstrip("/")
        if at not in self.dirs() and at not in ("", "/mnt"):
            raise FileNotFoundError(path)
        found = (0, 4096)
        longest = ""
        for point, options in self.mounts:
            if f"{at}/".startswith(f"{unescaped(point)}/") and len(point) >= len(longest):
                named = options.partition("pagesize=")[2].partition(",")[0]
                found = (HUGETLBFS, size(named or self.facts.get("default", "2M")))
                longest = point
        return found


def load(name: str) -> HostTree:
    return HostTree(name, tomllib.loads((DIR / f"{name}.toml").read_text()))


def build(
    root: Path,
    pools: dict[str, Any] | None = None,
    cpus: dict[int, str] | None = None,
    files: dict[str, Any] | None = None,
    show: Iterable[str] = (NODES, GLOBAL),
) -> dict[str, Path]:
    """Write a host to root; return {path: tree}, what a box binds to show it to an EAL.

    pools: {"2M": 8} free pages, {"2M": [4, 4]} of nodes 0 and 1, or tables as in fixtures/hosts.
    cpus: {0: "0", 1: "1"} by node; if left out, the pools' nodes share this process's CPUs.
    files: contents by path, False removes one. Real pages keep their node: an allocation on a node
    that only root shows ends on the wrong one.
    """
    tables = {size: _pool(n) for size, n in (pools or {}).items()}
    if cpus is None:
        nodes = sorted({n for t in tables.values() for n in t.get("nodes", {0: 0})})
        own = sorted(os.sched_getaffinity(0))
        cpus = {n: ",".join(map(str, own[i :: len(nodes)])) for i, n in enumerate(nodes)}
    facts = {"about": "", "cpus": cpus, "pools": tables, "files": files or {}}
    HostTree(root.name, facts | {"detected": [], "expect": []}).expand(root)
    return {f"/{path}": root / path for path in show}


def _pool(pages: Any) -> dict[str, Any]:
    if isinstance(pages, int):
        return {"free": pages}
    if isinstance(pages, dict):
        return pages
    return {"free": sum(pages), "nodes": dict(enumerate(pages))}


def expand(name: str, dest: Path) -> Path:
    return load(name).expand(dest)


def holds(releases: str, release: str) -> bool:
    return bool(catalogue.holds(releases, release))  # type: ignore[no-untyped-call]
