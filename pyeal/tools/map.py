"""`pyeal map`: the picture of one EAL's memory."""

from __future__ import annotations

import sys
from errno import ENOENT

from pyeal.errors import EalError
from pyeal.layout import BAD_IOVA
from pyeal.look.find import find
from pyeal.look.process import Process
from pyeal.tools import (
    YELLOW,
    Progress,
    coloured,
    columns,
    ink,
    mapped,
    picture,
    picture_svg,
    printable,
    printable_facts,
    size,
    telemetry,
    text_beside,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from pyeal.look.foreign import ForeignEal

    Dict = dict[str, Any]

TEXT = """Draw an EAL's memory: address space by list, node and page size; pages that are used,
never freed, dirty; runs of IO addresses; and what other processes map at the same addresses: the
pages of its secondaries, and mappings that would prevent a process from attaching.
Exit code: 0; 1 if the EAL cannot be found or read; 2 for wrong arguments."""
EXAMPLES = """  pyeal map demo                        in the terminal
  pyeal map demo --html demo.html       a page with zoom, all in one file
  pyeal map demo --beside 4711          would process 4711 have room to attach?
  pyeal map ./core.4711.zst             of the core file of a process"""


def arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "what",
        nargs="?",
        metavar="PREFIX|PID|DIRECTORY|ARCHIVE|CORE",
        help="which EAL; optional if there is only one",
    )
    p.add_argument("--svg", metavar="FILE", help="into FILE, as SVG (- is standard output)")
    p.add_argument("--html", metavar="FILE", help="into FILE, as one page with zoom and tooltips")
    p.add_argument("--json", action="store_true", help="what is drawn, schema pyeal.map/1")
    p.add_argument(
        "--beside",
        metavar="PID",
        type=int,
        action="append",
        default=[],
        help="also draw what this process maps there",
    )


def run(args: argparse.Namespace) -> int:
    with Progress("looking at processes"):
        e = find(args.what)
    if e.snapshot is None:
        return mapped.show(e, "map", args.json)
    layout = layout_of(e, args.beside)
    if args.json:
        from pyeal.tools import document

        print(document("map", layout))
    if args.svg:
        write(args.svg, picture_svg.svg(layout))
    if args.html:
        write(args.html, html(layout))
    if not (args.json or args.svg or args.html):
        print(picture.terminal(printable_facts(layout), columns(), coloured()))
        for why in (h.get("unread", "") for h in layout["heap_info"]):
            if why.startswith("damaged"):
                print(ink(f"! {printable(why)}", YELLOW))
    return 0


def write(path: str, text: str) -> None:
    if path == "-":
        sys.stdout.write(text)
        return
    with open(path, "w", encoding="utf-8") as f:
        f.write(text)


def layout_of(e: ForeignEal, beside: list[int] | None = None) -> Dict:
    """Return what picture.py draws: `Eal.layout()` and what other processes map there."""
    s = e.snapshot
    assert s
    over = [p for p in e.holders if p is not e.primary]
    over += [_process(pid) for pid in beside or () if pid not in {p.pid for p in over}]
    role = {p.pid: "observer" for p in e.observers} | {p.pid: "secondary" for p in e.secondaries}
    return {
        **s.layout(),
        "build": s.build(),
        "file_prefix": e.prefix or "(no files)",
        "runtime_dir": e.directory.shown if e.directory else None,
        "pid": e.primary_pid or None,
        "health": e.health[0],
        "note": s.release.note,
        "ignored": [],
        "overlays": [
            {
                "pid": p.pid,
                "label": f"{role.get(p.pid, 'process')} {p.pid} {p.comm}",
                **p.overlay(s.lists, e.prefix, p.pid in role),
            }
            for p in over
        ],
        "heap_info": s.heaps(),
        "memzones": [telemetry.memzone_info(s, i) for i in s.memzone_ids()],
    }


def _process(pid: int) -> Process:
    try:
        with open(f"/proc/{pid}/maps", "rb") as f:
            return Process(pid, f.read())
    except FileNotFoundError:
        raise EalError(ENOENT, "map", f"process {pid}: there is none") from None


def html(layout: Dict) -> str:
    """One self-contained page: every page of memory a square, to be zoomed, with tooltips."""
    import json

    pages, used, reserved = picture.totals(layout)
    runs = sum(len(r["iova_runs"]) for ml in layout["lists"] for r in ml["runs"])
    heaps = {h["Name"]: h for h in layout.get("heap_info", ())}
    data = {
        "title": layout["file_prefix"],
        "sub": [t for t in picture.title(layout) if not t.startswith("prefix ")],
        "tiles": [
            ("in use", size(used)),
            ("reserved", size(reserved)),
            ("pages", f"{pages:,}"),
            ("IOVA runs", f"{runs:,}"),
        ],
        "nodes": len({ml["socket_id"] for ml in layout["lists"]}),
        "flags": [picture.FLAGS[i] for i in range(4)],
        "lists": [_list(ml) for ml in layout["lists"]],
        "over": layout.get("overlays", []),
        "heaps": [_heap(h, heaps.get(h["name"], {})) for h in layout["heaps"]],
        "zones": [
            (z["Name"], z["Address"], z["Length"], z["Socket"]) for z in layout.get("memzones", ())
        ],
    }
    # ASCII, in which no text can end the script: < is the only sign that HTML reads there
    data = printable_facts(data)
    text = json.dumps(data, separators=(",", ":")).replace("<", "\\u003c")
    template = text_beside(__file__, "map.html")
    title = picture_svg.esc(f"Memory map of {layout['file_prefix']}")
    for key, value in (("TITLE", title), ("SVG", picture_svg.svg(layout)), ("DATA", text)):
        template = template.replace(f"%{key}%", value, 1)
    return template


def _list(ml: Dict) -> Dict:
    return {
        "index": ml["index"],
        "name": ml["name"],
        "node": ml["socket_id"],
        "page": ml["page_sz"],
        "base": ml["base_va"],
        "len": ml["len"],
        "n": ml["n_segs"],
        "count": ml["count"],
        "external": ml["external"],
        "colours": picture.NODES[picture.node(ml)],
        "runs": [
            (
                r["seg"],
                r["n"],
                [(None if i["iova"] == BAD_IOVA else i["iova"], i["n"]) for i in r["iova_runs"]],
                [(f["flags"], f["n"]) for f in picture.flag_runs(r)],
            )
            for r in ml["runs"]
        ],
    }


def _heap(h: Dict, info: Dict) -> Dict:
    return {
        "name": h["name"],
        "node": h["socket_id"],
        "size": h["total_size"],
        "count": h["alloc_count"],
        "alloc": info.get("Alloc_size"),
        "free": info.get("Free_size"),
        "most": info.get("Greatest_free_size"),
        "why": info.get("unread"),
    }
