"""`pyeal diff`: two shared files, or the layouts of two releases."""

from __future__ import annotations

import ctypes
import os
import re
from errno import EINVAL

from pyeal import builds, releases
from pyeal.errors import EalError
from pyeal.look.sources import Unreadable
from pyeal.tools import (
    BOLD,
    CYAN,
    DIM,
    GREEN,
    RED,
    Progress,
    count,
    document,
    dump,
    ink,
    printable,
    table,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    Dict = dict[str, Any]

TEXT = """Show what differs between two shared files of EAL, field by field; or, for two releases,
between their structures and all else on which two processes that share memory must agree.
Exit code: 0 nothing differs; 1 something does, or a file cannot be read; 2 for wrong arguments."""
EXAMPLES = """  pyeal diff 22.11 24.11              offsets, sizes, file names, message lengths
  pyeal diff 22.11 22.11:aarch64      of two builds: what cache lines of 128 bytes move
  pyeal diff before/config after/config
  pyeal diff core.4711:config core.4712:config"""

RELEASE = re.compile(r"\d\d\.\d\d(\.\d+)?(:[\w-]+)?$")
FACTS = {  # of releases.py: in words
    "word": "version word, which must be equal to attach",
    "family": "layout of rte_mem_config",
    "numa_nodes_max": "nodes in hugepage_info",
    "lists": "how memseg lists are planned",
    "page_file": "name of a page's file",
    "rwlock": "a reader's and a writer's lock word",
    "dirty_flag": "pages know that they are dirty",
    "free_list_rule": "which free list an element belongs to",
    "shadow_suffix": "name of a secondary's shadow arrays",
    "message_size": "bytes of a message",
    "message_fds": "descriptors in a message",
    "alloc_names_heap_by_address": "a request to grow names the heap by address",
    "arguments": "the parser of the arguments",
    "probes_memfd": "--in-memory tries a memfd first",
    "huge_dir_rule": "what --huge-dir must name",
    "runtime_directory_env": "$RUNTIME_DIRECTORY counts",
    "service_tables": "bytes that the service tables take",
}


def arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("a", metavar="A", help="a file (as for pyeal dump) or a release")
    p.add_argument("b", metavar="B", help="another of the same kind")
    p.add_argument("--json", action="store_true", help="as JSON, schema pyeal.diff/1")


def run(args: argparse.Namespace) -> int:
    both = args.a, args.b
    if all(RELEASE.match(x) and not os.path.exists(x) for x in both):
        try:
            (a, of_a), (b, of_b) = map(_build_of, both)
            found = of_releases(a, b, of_a, of_b)
        except ValueError as e:
            raise EalError(EINVAL, "diff", str(e)) from None
    else:
        try:
            with Progress(f"reading {args.a} and {args.b}"):
                found = of_files(*both)
        except Unreadable as e:
            raise EalError(EINVAL, "diff", str(e)) from None
    rows = found["differences"]
    if args.json:
        print(document("diff", {"a": args.a, "b": args.b, **found}))
        return 1 if rows else 0
    if not rows:
        print("nothing differs")
        return 0
    heads = (x if len(x) < 40 else "…" + x[-38:] for x in both)
    lines = table([("WHAT", *heads, ""), *map(_row, rows)]).splitlines()
    print(ink(lines[0], BOLD))
    last = ""
    for line, d in zip(lines[1:], rows, strict=True):
        if d["of"] != last:
            print(ink(printable(d["of"]), CYAN))
            last = d["of"]
        print(ink(line, GREEN if d["a"] is None else RED if d["b"] is None else 0))
    if verdict := found.get("attach"):
        print(ink(printable(verdict), DIM))
    return 1


def _row(d: Dict) -> tuple[str, str, str, str]:
    def said(value: object) -> str:
        if value is None:
            return "-"
        if isinstance(value, dict):
            return f"{value['offset']:#x} ({count(value['size'], 'byte')})"
        return dump.text_of(d["name"], value)

    return "  " + d["name"], said(d["a"]), said(d["b"]), d.get("note", "")


def _differences(of: str, a: dict[str, Any], b: dict[str, Any]) -> list[Dict]:
    names = [*a, *(n for n in b if n not in a)]
    return [
        {"of": of, "name": n, "a": a.get(n), "b": b.get(n)} for n in names if a.get(n) != b.get(n)
    ]


def _build_of(name: str) -> tuple[releases.Release, builds.Build]:
    """Return the release and the build of "22.11" or "22.11:aarch64". ValueError"""
    release, _, build = name.partition(":")
    if build and build not in builds.BUILDS:
        raise ValueError(f"build {build!r} is not known; known: {', '.join(builds.BUILDS)}")
    return releases.get(release), builds.BUILDS[build or "x86_64"]


BUILD = {  # of builds.py: in words
    "line": "bytes of a cache line, on which heaps begin",
    "nodes": "nodes that it is built for",
    "lcores": "lcores that it is built for",
    "hugepage_sizes": "records of hugepage_info",
    "base": "address at which memory begins",
}


def of_releases(
    a: releases.Release,
    b: releases.Release,
    of_a: builds.Build = builds.BUILDS["x86_64"],
    of_b: builds.Build = builds.BUILDS["x86_64"],
) -> Dict:
    """Structures' members, sizes, and facts that are not the same; of_a, of_b: the builds."""
    found = []
    for name, kind in dump.STRUCTS.items():
        one, two = (kind(r.family, x.nodes_of(r), x.abi) for r, x in ((a, of_a), (b, of_b)))
        sizes = ({"size": ctypes.sizeof(k)} for k in (one, two))
        found += _differences(name, *sizes)
        members = (
            {n: {"offset": o, "size": s} for n, (o, s) in dump.members(k).items()}
            for k in (one, two)
        )
        found += _top(_differences(name, *members))
    facts = ({k: getattr(r, k) for k in FACTS} for r in (a, b))
    for d in _differences("between processes", *facts):
        d["note"] = FACTS[d["name"]]
        if d["name"] == "word":
            d["a"], d["b"] = hex(d["a"]), hex(d["b"])
        found.append(d)
    for d in _differences("build", *({k: getattr(x, k) for k in BUILD} for x in (of_a, of_b))):
        found.append(d | {"note": BUILD[d["name"]]})
    verdict = "a secondary of one can join a primary of the other"
    if a.word != b.word:
        verdict = "a secondary of one cannot join a primary of the other: the version words differ"
    elif of_a.line != of_b.line:
        verdict = "a secondary of one cannot join a primary of the other: the cache lines differ"
    return {"differences": found, "attach": verdict}


def _top(rows: list[Dict]) -> list[Dict]:
    """Without members of what has moved as a whole: they moved by as much."""
    moved = {d["name"]: d for d in rows if d["a"] and d["b"]}

    def inner(d: Dict) -> bool:
        up = moved.get(d["name"].rpartition(".")[0])
        if not up or not d["a"] or not d["b"]:
            return False
        by = [x["b"]["offset"] - x["a"]["offset"] for x in (up, d)]
        return bool(by[0] == by[1] and d["a"]["size"] == d["b"]["size"])

    return [d for d in rows if not inner(d)]


def of_files(a: str, b: str) -> Dict:
    """Fields that are not the same in two files of one kind. Unreadable."""
    values = []
    for path in (a, b):
        found = dump.load(path)
        if isinstance(found, list):
            raise Unreadable(path, "one file", "a directory, archive or core")
        name, data = found
        facts, fields = dump.decode(dump.kind_of(name), data, name)
        facts |= {f"build.{k}": v for k, v in facts.pop("build", {}).items()}
        values.append((facts, {n: v for _, _, n, v in fields}, {n: o for o, _, n, _ in fields}))
    (facts_a, one, at), (facts_b, two, _) = values
    if facts_a["kind"] != facts_b["kind"]:
        raise Unreadable(f"{a} is {facts_a['kind']}, {b} {facts_b['kind']}")
    rows = _differences(facts_a["kind"], facts_a, facts_b)
    for d in _differences(facts_a["kind"], one, two):
        d["note"] = f"at {at[d['name']]:#x}" if d["name"] in at else ""
        rows.append(d)
    return {"differences": rows}
