"""`pyeal inspect`: what is in the memory of one EAL, read without attaching."""

from __future__ import annotations

import ctypes
import sys
import time

from pyeal import layout
from pyeal.look.find import find
from pyeal.look.snapshot import Snapshot, text
from pyeal.look.sources import Unreadable
from pyeal.tools import (
    BOLD,
    CYAN,
    DIM,
    GREEN,
    RED,
    YELLOW,
    Progress,
    age,
    columns,
    count,
    document,
    ink,
    mapped,
    picture,
    printable_facts,
    size,
    table,
    telemetry,
)
from pyeal.tools.prometheus import metric
from pyeal.tools.ps import COLOURS, facts

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Any

    from pyeal.look.foreign import ForeignEal
    from pyeal.look.process import Process

    Dict = dict[str, Any]
    Sample = Callable[[Dict], list[tuple[Dict, Any]]]

TEXT = """Show what is in an EAL's memory: lists, occupancy, zones, heaps, queues, holders. Works on
a living process, on the files of a dead one, on a copy of its runtime directory, or on a core file,
compressed or not; read-only and without attaching. /eal/COMMAND prints what the telemetry of that
process would reply. Of a core without EAL's data it shows the mapped pages.
Exit code: 0; 1 if the EAL cannot be found or read; 2 for wrong arguments."""
EXAMPLES = """  pyeal inspect demo                        the EAL with --file-prefix=demo
  pyeal inspect 4711 --elements --json      by pid; with every element of its heaps
  pyeal inspect demo /eal/heap_info,0       one answer of telemetry, also after a crash
  pyeal inspect --prometheus demo           numbers for a scraper
  pyeal inspect ./sosreport.tar.xz          a copy of a runtime directory in an archive
  pyeal inspect ./core.4711.zst             the core file of a primary or secondary"""

ELEMENT = ctypes.sizeof(layout.MallocElem)  # bytes before an element's data
LOCKS = ("mlock", "qlock", "mplock", "tlock", "ethdev_lock", "memory_hotplug_lock")
WORDS = (
    "magic",
    "version",
    "nchannel",
    "nrank",
    "mp_status",
    "next_socket_id",
    "mem_cfg_addr",
    "legacy_mem",
    "single_file_segments",
    "tsc_hz",
    "dma_maskbits",
    "max_memzone",
    "mem_va_addr",
    "mem_va_len",
    "mem_va_page_sz",
)


def arguments(p: argparse.ArgumentParser) -> None:
    p.usage = "pyeal inspect [options] [PREFIX|PID|DIRECTORY|ARCHIVE|CORE] [/eal/COMMAND[,N...]]"
    p.add_argument(
        "what",
        nargs="?",
        metavar="PREFIX|PID|DIRECTORY|ARCHIVE|CORE",
        help="which EAL; optional if there is only one",
    )
    p.add_argument(
        "commands",
        nargs="*",
        metavar="/eal/COMMAND",
        help="a request of telemetry: " + ", ".join(telemetry.REQUESTS),
    )
    p.add_argument("--elements", action="store_true", help="also every element of the heaps")
    p.add_argument(
        "--watch",
        nargs="?",
        type=float,
        const=1.0,
        metavar="S",
        help="repeat every S seconds (1), until Ctrl-C",
    )
    form = p.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="as JSON, schema pyeal.inspect/1")
    form.add_argument("--prometheus", action="store_true", help="as Prometheus text")
    form.add_argument("--html", metavar="FILE", help="as a page with the map, in FILE")


# --- all of it


def describe(e: ForeignEal, elements: bool = False) -> Dict:
    """Everything that is known of an EAL, as plain data: the schema pyeal.inspect/1."""
    s = e.snapshot
    assert s
    heaps = s.heaps()
    zones = {z.addr: text(z.name) for i in s.memzone_ids() if (z := s.memzone(i))}
    for h in heaps if elements else ():
        h["elements"] = _elements(s, h)
        for x in h["elements"]:
            x["memzone"] = zones.get(x["addr"] + x["pad"] + ELEMENT)
    return {
        **facts(e),
        "build": {**s.build(), "kernel_page": s.kernel_page},
        "iova_mode": s.iova_mode or None,
        "config": {w: getattr(s.c, w) for w in WORDS if hasattr(s.c, w)},
        "locks": {w: getattr(s.c, w) for w in LOCKS if hasattr(s.c, w)},
        "lists": s.lists,
        "memzones": [telemetry.memzone_info(s, i) for i in s.memzone_ids()],
        "heaps": heaps,
        "tailqs": s.tailqs(),
        "hugepage_info": s.hugepage_info(),
        "holders": [_holder(e, p, s.lists) for p in e.holders],
        "problems": [
            *s.problems,
            *(f"heap {h['Name']}: {h['unread']}" for h in heaps if "unread" in h and not e.copy),
        ],
    }


def _elements(s: Snapshot, heap: Dict) -> list[Dict]:
    try:
        return list(s.elements(heap["Heap_id"]))
    except (OSError, Unreadable) as e:
        heap["unread"] = str(e)
        return []


def _holder(e: ForeignEal, p: Process, lists: list[Dict]) -> Dict:
    role = "primary" if p is e.primary else "observer" if p in e.observers else "secondary"
    over = p.overlay(lists, e.prefix)
    return {
        "pid": p.pid,
        "role": role,
        "command": p.comm,
        "cmdline": p.cmdline,
        "age_s": round(p.age, 1),
        "state": p.state,
        "mapped_bytes": sum(b - a for a, b in over["pages"]),
        "foreign": over["foreign"],
        "descriptors": p.descriptors(),
    }


def run(args: argparse.Namespace) -> int:
    if args.what and args.what.startswith("/eal/"):  # the only EAL there is
        args.commands.insert(0, args.what)
        args.what = None
    first = True
    while True:
        with Progress("looking at processes"):
            e = find(args.what)
        if e.snapshot is None:
            return mapped.show(e, "inspect", args.json)
        if args.commands:
            _answer(e, args)
        elif args.html:
            _page(e, args.html)
        elif args.json:
            print(document("inspect", describe(e, args.elements), indent=None if args.watch else 2))
        elif args.prometheus:
            print(prometheus(e), end="")
        else:
            shown = "\n".join(_lines(e, args.elements))
            clear = "\x1b[H\x1b[J" if args.watch and sys.stdout.isatty() else ""
            print(clear + ("" if first or clear else "\n") + shown, flush=True)
        if not args.watch:
            return 0
        first = False
        sys.stdout.flush()
        time.sleep(args.watch)


def _answer(e: ForeignEal, args: argparse.Namespace) -> None:
    import json

    assert e.snapshot
    for c in args.commands:
        print(json.dumps(telemetry.answer(e.snapshot, c), indent=None if args.json else 2))


def _page(e: ForeignEal, path: str) -> None:
    from pyeal.tools import map as maps

    maps.write(path, maps.html(maps.layout_of(e)))


# --- for people


def _lines(e: ForeignEal, elements: bool) -> list[str]:
    d = printable_facts(describe(e, elements))
    health = d["health"] + (f": {d['why']}" if d["why"] else "")
    title = [
        ink(d["file_prefix"] or "(no files)", BOLD, CYAN),
        f"DPDK {d['release']}{_of_build(d['build'])}",
        d["mode"],
        f"IOVA as {d['iova_mode']}" if d["iova_mode"] else "no IOVA",
        f"pid {d['pid']}" if d["pid"] else "no process",
        ink(health, COLOURS.get(d["health"], DIM)),
    ]
    used, kept = d["bytes"], sum(ml["len"] for ml in d["lists"])
    out = [
        " · ".join(title),
        ink(f"{d['runtime_dir'] or 'in memory'}: read without attaching", DIM),
    ]
    out += ["", _head("MEMORY", f"{size(used)} used, {size(kept)} of address space"), *_lists(d)]
    out += ["", _head("HEAPS"), *_heaps(d)]
    if d["memzones"]:
        out += ["", _head("MEMZONES", count(len(d["memzones"]), "zone")), *_zones(d)]
    in_use = [q["name"] for q in d["tailqs"] if not q["empty"]]
    if d["tailqs"]:
        words = f"{len(in_use)} of {count(len(d['tailqs']), 'queue')} in use"
        out += ["", _head("TAILQS", words + (": " + ", ".join(in_use) if in_use else ""))]
    if d["holders"]:
        out += ["", _head("HOLDERS"), *_holders(d)]
    held = [f"{k} {v:#x}" for k, v in d["locks"].items() if v]
    held += [f"heap {h['Name']}" for h in d["heaps"] if h["locked"]]
    if held:
        out += ["", _head("LOCKED", ", ".join(held))]
    out += [ink(f"! {p}", YELLOW) for p in d["problems"]]
    return out


def _of_build(build: Dict) -> str:
    """Return " for aarch64" if it is for other machines, " for 8 nodes" with other limits."""
    limits = []
    if build["lists"] != layout.MAX_MEMSEG_LISTS:
        limits.append(f"{build['lists']} lists")
    if not build["like"]:
        limits.append(f"{build['line']}-byte cache lines and {build['nodes']} nodes")
    elif build["line"] != layout.ABI.line or "x86_64" not in build["like"]:
        limits.append(" or ".join(build["like"]))
    return f" for {', '.join(limits)}" if limits else ""


def _head(name: str, words: str = "") -> str:
    return ink(name, BOLD) + (f"  {words}" if words else "")


def _lists(d: Dict) -> list[str]:
    some = [ml for ml in d["lists"] if ml["count"]]
    out = picture.table({"lists": some}).splitlines() if some else []
    empty = [ml for ml in d["lists"] if not ml["count"]]
    if empty:
        kept = size(sum(ml["len"] for ml in empty))
        out.append(ink(f"{count(len(empty), 'empty list')}, {kept} reserved", DIM))
    return out


def _heaps(d: Dict) -> list[str]:
    def text_of(n: int | None) -> str:
        return "?" if n is None else size(n)

    rows = [
        ("NAME", "NODE", "SIZE", "ALLOC", "FREE", "GREATEST_FREE", "ALLOC_COUNT", "FREE_COUNT", "")
    ]
    for h in d["heaps"]:
        share = 1 - h["Free_size"] / h["Heap_size"] if h["Heap_size"] and h["Free_size"] else 0
        if h["Free_size"] == 0:
            share = 1
        bar = "" if h["Free_size"] is None or not h["Heap_size"] else _bar(share)
        rows.append(
            (
                h["Name"],
                str(h["Socket_id"]),
                size(h["Heap_size"]),
                text_of(h["Alloc_size"]),
                text_of(h["Free_size"]),
                text_of(h["Greatest_free_size"]),
                f"{h['Alloc_count']:,}",
                "?" if h["Free_count"] is None else f"{h['Free_count']:,}",
                bar or h.get("unread", ""),
            )
        )
    out = table(rows, right=" ".join(rows[0][1:8])).splitlines()
    for h in d["heaps"]:
        for x in h.get("elements", ()):
            look = {"Busy": GREEN, "Free": DIM}.get(x["state"], RED)
            line = f"  {x['addr']:#x}  {size(x['size']):>7}  {x['state']}"
            said = " dirty" * x["dirty"] + (f"  memzone {x['memzone']}" if x["memzone"] else "")
            out.append(ink(line + said, look))
    return out


def _bar(share: float, width: int = 20) -> str:
    share = min(max(share, 0.0), 1.0)
    full = min(round(share * width), width) or bool(share)
    said = f"{share:.0%}" if not 0 < share < 0.01 else "<1%"
    return "█" * full + "░" * (width - full) + f" {said}"


def _zones(d: Dict) -> list[str]:
    rows = [("NAME", "NODE", "ADDRESS", "LENGTH", "PAGE", "PAGES")]
    rows += [
        (
            z["Name"],
            str(z["Socket"]),
            z["Address"],
            size(z["Length"]),
            size(z.get("Hugepage_size", 0)),
            str(z.get("Hugepage_used", "-")),
        )
        for z in d["memzones"]
    ]
    return table(rows, right="NODE LENGTH PAGE PAGES").splitlines()


def _holders(d: Dict) -> list[str]:
    rows = [("PID", "ROLE", "MAPPED", "DESCRIPTORS", "AGE", "COMMAND")]
    for h in d["holders"]:
        fds = h["descriptors"]
        said = f"{fds['open']:,} of {fds['soft_limit']:,}" if fds else "?"
        program, *rest = h["cmdline"] or [h["command"]]
        words = " ".join([program.rpartition("/")[2], *rest])
        rows.append(
            (str(h["pid"]), h["role"], size(h["mapped_bytes"]), said, age(h["age_s"]), words)
        )
    lines = table(rows, right="PID MAPPED DESCRIPTORS AGE").splitlines()
    return [line if len(line) <= columns() else line[: columns() - 1] + "…" for line in lines]


# --- for scrapers


def _of_lists(value: Callable[[Dict], int]) -> Sample:
    labels = ("name", "list"), ("socket_id", "node"), ("page_sz", "page_bytes")
    return lambda d: [({to: m[k] for k, to in labels}, value(m)) for m in d["lists"]]


def _of_heaps(key: str) -> Sample:
    return lambda d: [({"heap": h["Name"], "node": h["Socket_id"]}, h[key]) for h in d["heaps"]]


METRICS: tuple[tuple[str, str, Sample], ...] = (  # name, help, [(labels, value)] of a description
    (
        "up",
        "Whether its primary lives and has finished its start.",
        lambda d: [({}, int(d["health"] == "running"))],
    ),
    ("pages", "Pages in use.", _of_lists(lambda m: m["count"])),
    ("reserved_bytes", "Address space of a list.", _of_lists(lambda m: m["len"])),
    (
        "iova_runs",
        "Runs of pages that follow each other in IO addresses.",
        _of_lists(lambda m: sum(len(r["iova_runs"]) for r in m["runs"])),
    ),
    ("heap_size_bytes", "Heap_size of /eal/heap_info.", _of_heaps("Heap_size")),
    ("heap_free_bytes", "Free_size of it.", _of_heaps("Free_size")),
    ("heap_alloc_bytes", "Alloc_size of it.", _of_heaps("Alloc_size")),
    ("heap_greatest_free_bytes", "Greatest_free_size of it.", _of_heaps("Greatest_free_size")),
    ("heap_alloc_count", "Alloc_count of it.", _of_heaps("Alloc_count")),
    ("heap_free_count", "Free_count of it.", _of_heaps("Free_count")),
    ("memzones", "Memory zones.", lambda d: [({}, len(d["memzones"]))]),
    (
        "memzone_bytes",
        "Length of all of them.",
        lambda d: [({}, sum(z["Length"] for z in d["memzones"]))],
    ),
    (
        "open_descriptors",
        "Descriptors that a process has open.",
        lambda d: [
            ({"holder": h["pid"], "role": h["role"]}, h["descriptors"].get("open"))
            for h in d["holders"]
        ],
    ),
)


def prometheus(e: ForeignEal) -> str:
    """Prometheus' text format; what is not known has no sample."""
    d = describe(e)
    common = {"file_prefix": d["file_prefix"] or "", "release": d["release"], "mode": d["mode"]}
    out = []
    for name, words, samples in METRICS:
        out += metric(name, words, [(common | labels, value) for labels, value in samples(d)])
    return "".join(line + "\n" for line in out)
