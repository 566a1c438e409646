"""`pyeal explain`: which of the 46 problems a line of EAL's log shows, and whether it is here."""

from __future__ import annotations

import sys

from pyeal.look.process_view import ProcessView
from pyeal.tools import (
    BOLD,
    DIM,
    GREEN,
    RED,
    YELLOW,
    Progress,
    UsageError,
    check_release,
    columns,
    document,
    ink,
    printable_facts,
)
from pyeal.tools.doctor.chain import LINKS, examine
from pyeal.tools.doctor.model import FAIL, OK, WARN, Finding
from pyeal.tools.explain.judge import last_word
from pyeal.tools.explain.log import lines as log_lines
from pyeal.tools.explain.verdict import Reading, read

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from pyeal.tools.explain.facts import Facts
    from pyeal.tools.explain.problems import Problem

__all__ = ["last_word", "read"]

TEXT = "Explain a line of EAL's log, and check this machine for the problem that it shows."
EXAMPLES = """\
  pyeal explain "EAL: FATAL: Cannot get hugepage information."
  testpmd -l 0-1 2>&1 | pyeal explain -- -l 0-1      a whole log; the arguments to look with

exit code: 0 at least one line is known, 1 none is, 2 there is nothing to explain"""
TAKES_EAL_ARGS = True
HARMLESS = "harmless"
MARK = {FAIL: (RED, BOLD), WARN: (YELLOW,)}


def confirm(p: Problem, found: dict[str, list[Finding]]) -> list[tuple[str, Finding]]:
    """Doctor's findings that are this problem; (link, finding). All that is wrong for none."""
    if p.id is None and p.reach:
        return []
    if p.id is None:
        return [(link, f) for link, fs in found.items() for f in fs if f.state in (FAIL, WARN)]
    return [
        (link, f)
        for link, fs in found.items()
        for f in fs
        if p.id in f.problems and (f.state != OK or f.harmless)
    ]


def arguments(p: argparse.ArgumentParser) -> None:
    p.usage = 'pyeal explain [options] ["LOG LINE" ...] [-- EAL-ARGS]'
    p.add_argument(
        "lines", nargs="*", metavar="LINE", help="of the log; without one, stdin is read"
    )
    p.add_argument("--as", dest="release", metavar="RELEASE", help="look as that release (22.11)")
    p.add_argument("--pid", type=int, help="look as that process")
    p.add_argument("--json", action="store_true", help="everything, as pyeal.explain/1")


def run(args: argparse.Namespace) -> int:
    check_release(args.release)
    if not args.lines and sys.stdin.isatty():
        raise UsageError("a log line as an argument, or a log on stdin")
    reading = Reading()
    reading.read(log_lines(args.lines or sys.stdin.buffer))
    told = reading.told()
    with Progress("looking at this machine"):
        found = examine(ProcessView(args.pid), args.eal_args, args.release) if told else {}
    facts = reading.start.facts
    rows = [_row(p, line, certain, found, facts) for p, line, certain in told]
    rows.sort(key=lambda r: (r["verdict"] == HARMLESS, not r["certain"], _elsewhere(r)))
    if args.json:
        print(document("explain", {"problems": rows}))
    else:
        print("\n\n".join(map(shown, printable_facts(rows))) or _nothing(reading.n))
    return 0 if rows else 1 if reading.n else 2


def _elsewhere(r: dict[str, Any]) -> bool:
    """Whether this machine does not show the problem."""
    return not any(h["state"] == FAIL for h in r["here"])


def _row(
    p: Problem, line: str, certain: bool, found: dict[str, list[Finding]], facts: Facts
) -> dict[str, Any]:
    """Return a problem, the line that shows it and doctor's findings, as plain data."""
    return {
        "problem": p.id,
        "title": p.title,
        "line": line,
        "certain": certain,
        "verdict": HARMLESS if p.harmless else "cause" if certain else "possible",
        "means": p.means,
        "do": facts.fill(p.fix, line),
        "links": LINKS if p.id is None and not p.reach and not p.links else p.links,
        "reach": p.reach,
        "here": [{"link": link, **f.facts()} for link, f in confirm(p, found)],
    }


def _nothing(lines: int) -> str:
    if not lines:
        return "the log is empty: pyeal doctor looks without one"
    return "no line of it is known to say why; EAL's --log-level=lib.eal:debug says more"


def shown(r: dict[str, Any]) -> str:
    import textwrap

    def wrapped(name: str, text: str, *look: object) -> list[str]:
        head = ink(name.rjust(8), DIM) + "  "
        body = textwrap.wrap(text, columns(110) - 10)
        return [(head if i == 0 else " " * 10) + ink(part, *look) for i, part in enumerate(body)]

    title = ink(r["title"], BOLD) + ("" if r["certain"] else ink(" - perhaps", DIM))
    number = "" if r["problem"] is None else str(r["problem"])
    out = [f"{ink(number.rjust(8), BOLD)}  {title}"]
    out += wrapped("log", r["line"], DIM)
    out += wrapped("means", r["means"])
    out += wrapped("do", r["do"])
    for h in r["here"]:
        state = ink("harmless" if h["harmless"] else h["state"], *MARK.get(h["state"], (GREEN,)))
        text = h["text"] + (f" ({h['found']})" if h["found"] else "")
        out.append(f"{ink('here'.rjust(8), DIM)}  {state} {h['link']}: {text}")
        if h["do"]:
            out.append(f"{'':10}{ink(h['do'], BOLD)}")
    if not r["here"]:
        if r["reach"]:
            out += wrapped("here", f"not to be seen beforehand: {r['reach']}")
        elif r["links"]:
            looked = ", ".join(r["links"])
            out += wrapped("here", f"nothing agrees now; looked at {looked}")
    return "\n".join(out)
