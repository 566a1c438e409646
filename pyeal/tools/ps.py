"""`pyeal ps`: every EAL of this machine."""

from __future__ import annotations

import os

from pyeal.look.machine import MOST_PREFIXES, Machine
from pyeal.tools import (
    BOLD,
    DIM,
    GREEN,
    RED,
    YELLOW,
    Progress,
    age,
    answers,
    coloured_word,
    count,
    document,
    ink,
    printable,
    printable_facts,
    size,
    table,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from pyeal.look.foreign import ForeignEal

    Dict = dict[str, Any]

TEXT = """List every EAL of this machine: its process, release, memory and health. Read-only: it
never attaches to, locks or modifies anything. Root sees the processes of all users.
Exit code: 0, also if there is no EAL; 2 for wrong arguments."""
EXAMPLES = """  pyeal ps                 what runs, and what died and left pages behind
  pyeal ps -a --json       also directories that a clean exit left, as JSON (docs/json.md)
  pyeal ps --prometheus    all EALs, pools and stale bytes, as metrics"""

COLOURS = {
    "running": GREEN,
    "warm": GREEN,
    "initialising": YELLOW,
    "stopped": YELLOW,
    "unknown": YELLOW,
    "stuck": RED,
    "dead primary": RED,
    "stale": RED,
    "ended": DIM,
    "core": YELLOW,
}
HEAD = (
    "PREFIX",
    "PID",
    "RELEASE",
    "MODE",
    "PAGES",
    "USED",
    "SECONDARIES",
    "AGE",
    "COMMAND",
    "HEALTH",
)


def arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("-a", "--all", action="store_true", help="also what has ended and left no page")
    answers.argument(p)
    p.add_argument("--json", action="store_true", help="as JSON, schema pyeal.ps/1")
    p.add_argument(
        "--prometheus",
        action="store_true",
        help="as Prometheus text, with pools and stale bytes: for node exporter's text files",
    )


def facts(e: ForeignEal) -> Dict:
    """Return what `ps` shows of one EAL, as plain data."""
    health, why = e.health
    p = e.primary
    return {
        "file_prefix": e.prefix or None,
        "runtime_dir": e.directory.shown if e.directory and e.directory.path else None,
        "path": e.directory.path or None if e.directory else None,
        "pid": e.primary_pid or None,
        "command": p.comm if p else None,
        "age_s": round(p.age if p else e.age, 1),
        "release": e.release or None,
        "build": e.snapshot.build() if e.snapshot else None,
        "mode": e.mode or None,
        "pages": e.pages,
        "bytes": sum(x["page_sz"] * x["count"] for x in e.pages),
        "secondaries": [p.pid for p in e.secondaries],
        "observers": [p.pid for p in e.observers],
        "health": health,
        "why": why or None,
        "other_namespace": bool((e.directory and e.directory.root) or (p and p.root)),
    }


def pages_text(pages: list[Dict]) -> str:
    """32×2M@0 1×1G@1: so many of that size on that node."""
    return " ".join(f"{x['count']}×{size(x['page_sz'])}@{x['socket_id']}" for x in pages) or "-"


def _row(f: Dict) -> tuple[str, ...]:
    return (
        f["file_prefix"] or ("(no files)" if f["mode"] else "?"),
        str(f["pid"] or "-"),
        f["release"] or "?",
        f["mode"] or "?",
        pages_text(f["pages"]),
        size(f["bytes"]) if f["pages"] else "-",
        " ".join(map(str, f["secondaries"])) or "-",
        age(f["age_s"]),
        f["command"] or "-",
        f["health"] + (f": {f['why']}" if f["why"] else ""),
    )


def run(args: argparse.Namespace) -> int:
    if args.prometheus:
        return _prometheus(args.all)
    if args.archive:
        _, said = answers.recorded(args.archive, "ps")
        with answers.of_others(args.archive):
            found, sight = said.pop("eals"), said
            said.pop("schema")
            return _print(found, sight, [], args)
    with Progress("looking at processes"):
        machine = Machine()
        found = [facts(e) for e in machine.eals()]
    return _print(found, seen(machine), not_seen(machine), args)


def _print(found: list[Dict], sight: Dict, lines: list[str], args: argparse.Namespace) -> int:
    shown = [f for f in found if args.all or f["health"] != "ended"]
    if args.json:
        print(document("ps", {"eals": shown, **sight}))
        return 0
    if shown:
        _show(printable_facts(shown))
    else:
        print("no EAL" + (" is running" if len(found) else ""))
    ended = len(found) - len(shown)
    if ended:
        print(ink(f"{count(ended, 'directory', 'directories')} of ended ones: pyeal ps -a", DIM))
    for line in lines:
        print(ink(printable(line), DIM))
    return 0


def _prometheus(every: bool) -> int:
    from pyeal.errors import EalError
    from pyeal.look.leftovers import Leftovers
    from pyeal.look.pools import all_pools
    from pyeal.tools import prometheus

    with Progress("looking at files and processes"):
        found = Leftovers()
        eals = [facts(e) for e in found.eals]
    try:
        pools = all_pools()
    except (EalError, OSError):  # a kernel without hugetlb
        pools = {}
    shown = [f for f in eals if every or f["health"] != "ended"]
    print(prometheus.machine(shown, pools, found.items), end="")
    return 0


def _show(shown: list[Dict]) -> None:
    head, *lines = table([HEAD, *map(_row, shown)], right="PID USED AGE", fit=True).splitlines()
    print(ink(head, BOLD))
    for line in lines:
        print(coloured_word(line, COLOURS))


def seen(machine: Machine) -> Dict:
    """Return what this user may not see, as plain data."""
    return {
        "all_processes_in_sight": machine.sees_all,
        "unreadable_processes": len(machine.unreadable_processes),
        "unreadable_directories": sorted(machine.unreadable_directories),
        "crowded_directories": sorted(machine.crowded),
    }


def not_seen(machine: Machine) -> list[str]:
    """Return the same as lines of text, none if everything can be seen."""
    lines = []
    if n := len(machine.unreadable()):
        lines.append(
            f"{count(n, 'process', 'processes')} with hugepages could not be looked into"
            + (": run as root" if os.getuid() else "")
        )
    lines += [f"{d} could not be listed" for d in sorted(machine.unreadable_directories)]
    lines += [
        f"{d} has {count(n, 'entry', 'entries')}, of which {MOST_PREFIXES:,} were examined"
        for d, n in sorted(machine.crowded.items())
    ]
    if not machine.sees_all:
        lines.append("this is a PID namespace of its own: processes outside are not visible")
    return lines
