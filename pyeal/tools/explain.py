"""`pyeal explain`: which of the 46 problems a line of EAL's log shows, and whether it is here."""

from __future__ import annotations

import re
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
    messages,
)
from pyeal.tools.doctor.chain import LINKS, examine
from pyeal.tools.doctor.model import FAIL, OK, WARN, Finding
from pyeal.tools.problems import CERTAIN, GAVE_UP, HINT, WRAPPER, Problem, of_line

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

TEXT = "Explain a line of EAL's log, and check this machine for the problem that it shows."
EXAMPLES = """\
  pyeal explain "EAL: FATAL: Cannot get hugepage information."
  testpmd -l 0-1 2>&1 | pyeal explain -- -l 0-1      a whole log; the arguments to look with

exit code: 0 at least one line is known, 1 none is, 2 there is nothing to explain"""
TAKES_EAL_ARGS = True
ANSI = re.compile(r"\x1b\[[0-9;]*m")
EALS = re.compile(r"\b(?:EAL|ARGPARSE|PANIC|Cause)\b")
LAST = 20_000  # lines at the end of a log in which its last word is looked for
ENDS, ERRORS = ("FATAL", "PANIC", "EXIT", "CRITICAL"), ("ERR", "stderr")
HARMLESS = 35
MARK = {FAIL: (RED, BOLD), WARN: (YELLOW,)}


def read(lines: list[str]) -> list[tuple[Problem, str, bool]]:
    """(problem, the line that shows it, whether that is certain), each problem once.

    Hints and wrappers count where nothing else says why.
    """
    told: dict[int | None, tuple[Problem, str, int]] = {}
    wrapped: set[int | None] = set()
    for line in lines:
        line = ANSI.sub("", line).strip()
        hits = of_line(line)
        wrapped.update(p.id for p, level in hits if level == WRAPPER)
        for p, level in hits[:1] if hits and hits[0][1] == CERTAIN else hits:
            if p.id not in told or level < told[p.id][2]:
                told[p.id] = p, line, level
    sure = [
        (p, line, True)
        for p, line, level in told.values()
        if level == CERTAIN or (level == HINT and p.id in wrapped)
    ]
    if any(p.id != HARMLESS for p, _, _ in sure):
        return sorted(sure, key=lambda t: t[0].id == HARMLESS)
    found = [*((p, line, False) for p, line, level in told.values() if level != CERTAIN), *sure]
    if all(p.id == HARMLESS for p, _, _ in found):
        last = next((line for line in lines for _, s in GAVE_UP.patterns if s.search(line)), None)
        if last:
            found.insert(0, (GAVE_UP, ANSI.sub("", last).strip(), True))
        elif word := last_word(lines, quiet=not found):
            found.insert(0, word)
    return found


def last_word(lines: list[str], quiet: bool = False) -> tuple[Problem, str, bool] | None:
    """Return the last line that is fatal, else the last error, with where it is in EAL's source.

    quiet: whether a warning, or a quieter line about a failure, counts if there is no error. What
    is known of the line is which part of EAL it is about: table of pyeal/tools/messages.txt.
    """
    error = warning = None
    for line in reversed(lines[-LAST:]):
        if not EALS.search(line):
            continue
        line = ANSI.sub("", line).strip()
        m = messages.find(line)
        if "FATAL" in line or (m and m.level in ENDS):
            return _word(m, line), line, True
        if m and m.level in ERRORS:
            error = error or (_word(m, line), line, False)
        elif m and quiet:
            warning = warning or (_word(m, line), line, False)
    return error or warning


def _word(m: messages.Message | None, line: str) -> Problem:
    """Return a line of EAL's log that no problem explains, as a problem without a number."""
    if m is None:
        means = "No release of EAL since 16.11 prints this line."
        return Problem(None, "EAL gave up; its last line is not known", "", (), means, GAVE_UP.fix)
    ends = m.level in ENDS or "FATAL" in line
    what = "EAL gave up" if ends else f"a{'n error' if m.level in ERRORS else ' warning'} of EAL"
    if m.about in messages.OURS:
        title, fix, reach = f"{what}, about its {m.about}", GAVE_UP.fix, ""
    else:
        title, reach = f"{what}, not about memory: {m.about}", "doctor checks EAL's memory"
        fix = "look at the lines before it, and at that part's own documentation"
    return Problem(None, title, "", (), f"It is {m.text()}.", fix, reach)


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
    lines = args.lines or sys.stdin.read().splitlines()
    told = read(lines)
    with Progress("looking at this machine"):
        found = examine(ProcessView(args.pid), args.eal_args, args.release) if told else {}
    rows = [_row(p, line, certain, found) for p, line, certain in told]
    rows.sort(
        key=lambda r: (not any(h["state"] == FAIL for h in r["here"]), r["problem"] == HARMLESS)
    )
    if args.json:
        print(document("explain", {"problems": rows}))
    else:
        print("\n\n".join(map(shown, rows)) or _nothing(lines))
    return 0 if rows else 1


def _row(p: Problem, line: str, certain: bool, found: dict[str, list[Finding]]) -> dict[str, Any]:
    """Return a problem, the line that shows it and doctor's findings, as plain data."""
    return {
        "problem": p.id,
        "title": p.title,
        "line": line,
        "certain": certain,
        "means": p.means,
        "do": p.fix,
        "links": LINKS if p.id is None and not p.reach else p.links,
        "reach": p.reach,
        "here": [{"link": link, **f.facts()} for link, f in confirm(p, found)],
    }


def _nothing(lines: list[str]) -> str:
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
