"""What EAL would do: its own stages on pretended pages. No file, page or lock is touched.

Lists, addresses, heap and errors come from eal.py as it is; only what backs a page is replaced, by
memory of no cost, and given out as far as the machine's limits would let the kernel.
"""

from __future__ import annotations

import os
import sys

from pyeal import builds, layout, releases
from pyeal.look.process import NO_LIMIT
from pyeal.look.process_view import ProcessView
from pyeal.tools import (
    BOLD,
    CYAN,
    DIM,
    GREEN,
    RED,
    YELLOW,
    Progress,
    check_release,
    count,
    document,
    ink,
    printable,
    printable_facts,
    size,
)
from pyeal.tools.costs import GAP, free_base, per_file, zeroing
from pyeal.tools.doctor.chain import advice
from pyeal.tools.dryrun import DryRun
from pyeal.tools.warm import why_not

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from pyeal.errors import EalError

TEXT = "What EAL would do with these arguments: pages, files, addresses, limits. Nothing is taken."
EXAMPLES = """\
  pyeal plan -- -l 0-3 --socket-mem 1024,0     would it start, and which limit is nearest
  pyeal plan --as 26.07 --json -- -m 64        the lists of another release, as JSON

exit code: 0 it would start, 1 it would not, 2 the request makes no sense"""
TAKES_EAL_ARGS = True
TOP = 1 << 47
# pyeal, without the folder it is called in: -P exists since Python 3.11 only
ITSELF = """if True:
    import sys
    sys.path[:] = filter(None, sys.path)
    from pyeal.cli import program
    raise SystemExit(program())"""


# --- the answer -----------------------------------------------------------------------------------


def facts(r: DryRun) -> dict[str, Any]:
    """All of it as plain data; without lists where it would fail before they are made."""
    e, o, own = r.error, getattr(r, "options", None), r.own_error
    out: dict[str, Any] = {
        "release": r.release.name,
        "build": {
            **builds.facts(layout.ABI),
            "nodes": r.release.numa_nodes_max,
            "hugepage_sizes": layout.MAX_HUGEPAGE_SIZES,
        },
        "ok": e is None,
        "error": e
        and {"stage": e.stage, "errno": e.errno, "text": e.text, "limit": r.binding_link},
        "pyeal": own and {"stage": own.stage, "errno": own.errno, "text": own.text},
        "says": [text for level, text in r.said if level not in ("DEBUG", "INFO")] + _misread(r),
    }
    if o is None or e:
        return out
    runtime_files = r.runtime_files()
    files, spans, fds = r.page_files(), r.addresses(), r.descriptors()
    pages = r.pages()
    rate, each = zeroing(), per_file()
    bytes_ = sum(sz * n for (sz, _), n in pages.items()) if not o.no_huge else 0
    mapped = r.legacy.mapped if r.legacy else sum(pages.values())
    if r.legacy:
        bytes_ = sum(p.size for p in r.legacy.pages)
    hard = r.view.limit("Max open files")[1]
    why, fix = why_not(r)
    return out | {
        "mode": r.mode,
        "iova_mode": r.iova_mode,
        "file_prefix": o.file_prefix,
        "runtime_dir": r.runtime_dir,
        "ignored": o.ignored,
        "lists": [
            {
                "name": m.name,
                "page_sz": m.page_sz,
                "socket_id": m.socket,
                "n_segs": m.n_segs,
                "count": m.count,
                "base_va": m.base_va,
                "len": m.len,
                "runs": [{"seg": i, "n": n, "va": m.va(i)} for i, n in m.arr.runs()],
            }
            for m in r.lists
        ],
        "pages": [{"page_sz": sz, "node": node, "n": n} for (sz, node), n in pages.items()],
        "bytes": sum(sz * n for (sz, _), n in pages.items()),
        "cleared": [{"page_sz": sz, "pages": n} for sz, n in r.cleared.items() if n],
        "files": {"n": len(files), "first": files[:1], "last": files[-1:]},
        "runtime": {
            "files": [{"name": n, "bytes": b} for n, b in runtime_files],
            "bytes": sum(b for _, b in runtime_files),
        },
        "descriptors": fds | {"total": sum(fds.values()), "limit": hard % NO_LIMIT or None},
        "addresses": {
            "start": spans[0][0],
            "end": spans[-1][1],
            "reserved": sum(b - a for a, b, _ in spans),
        }
        if spans
        else None,
        "dma_entries": r.dma_entries(),
        "limits": r.limits(),
        "seconds": round(bytes_ / rate + (0 if o.no_huge else mapped * each), 4),
        "warm": {"saves": round(bytes_ / rate, 4), "why_not": why or None, "fix": fix or None},
        "measured": {"bytes_per_second": round(rate), "seconds_per_file": round(each, 7)},
    }


def _misread(r: DryRun) -> list[str]:
    """Return warnings of values that EAL takes for others, or whose memory is not counted."""
    from pyeal.tools import steps, traces

    if r.error:
        return []
    said = [f"{text}: {do}" for text, do in steps.misread(r.args, r.options, r.sockets)]
    return said + traces.uncounted(r.options.ignored, r.release)


def arguments(p: argparse.ArgumentParser) -> None:
    p.usage = "pyeal plan [options] -- EAL-ARGS"
    p.add_argument("--as", dest="release", metavar="RELEASE", help=f"{releases.SPAN} (22.11)")
    p.add_argument("--build", choices=layout.BUILDS, help="of EAL (that of this machine)")
    p.add_argument("--pid", type=int, help="with that process's limits, mounts and groups")
    p.add_argument(
        "--for-peer",
        type=int,
        action="append",
        default=[],
        metavar="PID",
        help="name a --base-virtaddr that is free here and there; may be given more than once",
    )
    p.add_argument("--json", action="store_true", help="everything, as pyeal.plan/1")


def run(args: argparse.Namespace) -> int:
    check_release(args.release)
    if args.build not in (None, layout.BUILD):
        return _with_build(args)
    view = ProcessView(args.pid)
    with Progress("starting on fake pages"), DryRun(args.eal_args, args.release, view) as r:
        found = facts(r)
        if r.error and r.error.stage != "options":
            found["error"]["fix"] = advice(r, args.eal_args)
        if args.for_peer and r.error is None:
            length = found["addresses"]["end"] - found["addresses"]["start"]
            found["base_virtaddr"] = length and free_base_for(r, length, args.for_peer)
    if args.json:
        print(document("plan", found))
    else:
        print(shown(printable_facts(found), r.error))
    if found["ok"]:
        return 0
    return 2 if found["error"]["stage"] == "options" else 1


def _with_build(args: argparse.Namespace) -> int:
    """Plan in a process that has been told the build, on which every structure depends."""
    import subprocess

    argv = [sys.executable, "-c", ITSELF, "plan"]
    argv += ["--as", args.release] * bool(args.release) + ["--json"] * args.json
    argv += [f"--pid={args.pid}"] * bool(args.pid) + [f"--for-peer={p}" for p in args.for_peer]
    place = os.path.dirname(os.path.dirname(layout.__file__))
    environ = os.environ | {"PYEAL_BUILD": args.build, "PYTHONPATH": place}
    sys.stdout.flush()
    return subprocess.run([*argv, "--", *args.eal_args], env=environ).returncode


def free_base_for(r: DryRun, length: int, peers: list[int]) -> int:
    r.close()  # its own addresses are free, then
    return free_base(length + GAP, [ProcessView(), *map(ProcessView, peers)])


def shown(f: dict[str, Any], e: EalError | None) -> str:
    """Return the plan as text, or the fields of the error that prevents the start."""
    if e:
        head = ink("would fail", BOLD, RED) + f" in stage {e.stage}, as {f['release']}"
        fix = f["error"].get("fix") or e.fix
        sides = ("expected", e.expected), ("found", e.found), ("fix", fix)
        lines = [f"  {ink(name.rjust(8), DIM)}  {printable(side)}" for name, side in sides if side]
        return "\n".join([head, "", f"  {printable(e.what)}", *lines, *_said(f)])
    rows: list[tuple[str, str]] = []
    rows.append(("release", f"{f['release']}, {f['mode']}, IOVA as {f['iova_mode']}"))
    for p in f["pages"]:
        if p["n"]:
            free = [
                x["allows"]
                for x in f["limits"]
                if x["link"] == "pool" and (x["page_sz"], x["node"]) == (p["page_sz"], p["node"])
            ]
            of = f" of {free[0]:,} free" if free else ""
            rows.append(("pages", f"node {p['node']}  {p['n']:>6,} x {size(p['page_sz'])}{of}"))
    for c in f["cleared"]:
        what = f"{count(c['pages'], 'page')} of dead processes are cleared away first"
        rows.append(("", f"{what} ({size(c['page_sz'])})"))
    for m in _folded(f["lists"]):
        rows.append(("lists", m))
    if a := f["addresses"]:
        span = f"{a['start']:#x} - {a['end']:#x}"
        rows.append(("addresses", f"{span}, {size(a['reserved'])} reserved"))
    if base := f.get("base_virtaddr"):
        rows.append(("", ink(f"--base-virtaddr={base:#x}", BOLD) + " is free in all processes"))
    elif base == 0:
        rows.append(("", ink("no base address is free in all processes", YELLOW)))
    files = f["files"]
    if files["n"]:
        names = files["first"][0]
        if files["n"] > 1:
            names += " .. " + files["last"][0].rpartition("/")[2]
        rows.append(("files", f"{files['n']:,}: {names}"))
    if n := len(f["runtime"]["files"]):
        rows.append(
            (
                "" if files["n"] else "files",
                f"{n} of {size(f['runtime']['bytes'])} in {f['runtime_dir']}",
            )
        )
    d = f["descriptors"]
    of = f" of {d['limit']:,}" if d["limit"] else ""
    rows.append(("descriptors", f"{d['total']:,}{of}: {d['pages']:,} of pages"))
    rows.append(("DMA entries", f"{f['dma_entries']:,}, for devices behind VFIO"))
    rate = size(f["measured"]["bytes_per_second"])
    rows.append(("time", f"{_time(f['seconds'])} for memory: this machine zeroes {rate} a second"))
    if f["bytes"] and f["mode"] != "no-huge":
        rows.append(("warm", _warm(**f["warm"])))
    near = [x for x in f["limits"] if x["needs"]]
    for i, x in enumerate(near[:4]):
        left = f"{x['allows'] - x['needs']:>9,} left of {x['allows']:,}  {x['link']}: {x['what']}"
        rows.append(("" if i else "limits", left + ink("  <- nearest", CYAN) * (i == 0)))
    total = size(f["bytes"])
    head = ink("would start", BOLD, GREEN) + f" with {total} in {_pages(f)}"
    body = [f"  {ink(name.ljust(12), DIM)}{text}" for name, text in rows]
    return "\n".join([head, "", *body, *_said(f)])


def _warm(saves: float, why_not: str | None, fix: str | None) -> str:
    if why_not and not fix:
        return f"pyeal warm cannot help: {why_not}"
    return f"pyeal warm before the start saves {_time(saves)} of it" + f", with: {fix}" * bool(fix)


def _pages(f: dict[str, Any]) -> str:
    by_size: dict[int, int] = {}
    for p in f["pages"]:
        by_size[p["page_sz"]] = by_size.get(p["page_sz"], 0) + p["n"]
    named = [f"{n:,} x {size(sz)}" for sz, n in by_size.items() if n]
    return ", ".join(named) + " pages" if named else "no page"


def _folded(lists: list[dict[str, Any]]) -> list[str]:
    """A line for all lists of a page size, node and length."""
    alike: dict[tuple[int, int, int], list[dict[str, Any]]] = {}
    for m in lists:
        alike.setdefault((m["page_sz"], m["socket_id"], m["n_segs"]), []).append(m)
    out = []
    for (sz, _, n), group in alike.items():
        names = group[0]["name"] + (f" .. {group[-1]['name']}" if len(group) > 1 else "")
        out.append(f"{names}: {len(group)} of {n:,} segments, {size(sz * n * len(group))} in all")
    return out


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def _said(f: dict[str, Any]) -> list[str]:
    """EAL's own warnings, and what pyeal alone refuses."""
    lines = [f"  {ink('EAL:', DIM)} {text}" for text in f["says"]]
    if f["pyeal"] and f["ok"]:
        lines.append(f"  {ink('pyeal init:', DIM)} {f['pyeal']['text']}")
    return ["", *lines] if lines else []
