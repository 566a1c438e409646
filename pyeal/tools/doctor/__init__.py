"""`pyeal doctor`: why EAL does not start here, checked link by link without leaving a trace."""

from __future__ import annotations

import os

from pyeal import releases
from pyeal.look.process_view import ProcessView
from pyeal.tools import (
    BOLD,
    DIM,
    GREEN,
    RED,
    YELLOW,
    Progress,
    UsageError,
    answers,
    check_release,
    document,
    ink,
)
from pyeal.tools.doctor.chain import EARLY, LINKS, link_of, look_at
from pyeal.tools.doctor.model import FAIL, OK, UNKNOWN, WARN, Case, Finding, finding, state_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

TEXT = """Check every step of a start of EAL, and print the first obstacle and its fix. Nothing is
changed."""
EXAMPLES = """\
  pyeal doctor -- -l 0-3 -m 1024       would this start; if not, the first obstacle
  pyeal doctor --pid 4711              in that process's container, with its user and limits

exit code: 0 nothing stands in the way, 1 something does, 2 the arguments make no sense"""
TAKES_EAL_ARGS = True
COLOURS = {OK: (GREEN,), WARN: (YELLOW,), FAIL: (RED, BOLD), UNKNOWN: (DIM,)}


def arguments(p: argparse.ArgumentParser) -> None:
    p.usage = "pyeal doctor [options] [-- EAL-ARGS]"
    p.add_argument("--pid", type=int, help="as that process: its mounts, user, groups and limits")
    p.add_argument("--as", dest="release", metavar="RELEASE", help=f"{releases.SPAN} (22.11)")
    p.add_argument(
        "--touch",
        action="store_true",
        help="take one page for a moment, and name EAL's call that fails",
    )
    answers.argument(p)
    p.add_argument("-v", "--verbose", action="store_true", help="also what only looks harmful")
    p.add_argument("--json", action="store_true", help="everything, as pyeal.doctor/1")


def run(args: argparse.Namespace) -> int:
    check_release(args.release)
    if args.archive:
        return _recorded(args)
    if args.pid and not os.path.isdir(f"/proc/{args.pid}"):
        raise UsageError(f"no process {args.pid}")
    if args.pid and args.touch:
        raise UsageError("--touch is of this process: nsenter -t PID -a pyeal doctor")
    view = ProcessView(args.pid)
    with Progress("looking at this machine"):
        case = Case(view, args.eal_args, args.release)
        found = look_at(case)
    states = {link: state_of(fs) for link, fs in found.items()}
    failed = [link for link in LINKS if states[link] == FAIL]
    first = failed[0] if failed else None
    if case.error and (link := link_of(case)) in failed and case.error.stage in EARLY:
        first = link  # EAL fails there before it looks at the others
    steps = []
    if args.touch:
        from pyeal.tools.touch import touch

        steps = touch(args.eal_args, args.release)
    broken = any(error for _, error in steps)
    if args.json:
        links = [
            {"link": k, "state": states[k], "findings": [f.facts() for f in fs]}
            for k, fs in found.items()
        ]
        facts: dict[str, object] = {
            "release": args.release or releases.DEFAULT,
            "args": case.args,
            "pid": view.pid,
            "verdict": FAIL if first or broken else OK,
            "first": first,
            "stage": case.stage,
            "links": links,
            "touch": [{"step": s, "error": e} for s, e in steps],
            "build": view.primary_build,
        }
        print(document("doctor", facts))
    else:
        print(shown(found, states, first, args.verbose))
        if steps:
            print("\n" + touched(steps))
    if first == "arguments":
        return 2
    return 1 if first or broken else 0


def _recorded(args: argparse.Namespace) -> int:
    """Show what doctor said on the machine of an archive."""
    code, said = answers.recorded(args.archive, "doctor")
    with answers.of_others(args.archive):
        if args.pid or args.touch or (args.eal_args and args.eal_args != said["args"]):
            was = " ".join(map(str, said["args"])) or "no arguments"
            raise UsageError(f"the archive has doctor's answer for {was}: collect takes them, too")
        if args.json:
            print(document("doctor", {k: v for k, v in said.items() if k != "schema"}))
            return code
        found = {x["link"]: [finding(f) for f in x["findings"]] for x in said["links"]}
        states = {link: state_of(fs) for link, fs in found.items()}
        print(shown(found, states, said["first"], args.verbose))
    return code


def shown(
    found: dict[str, list[Finding]], states: dict[str, str], first: str | None, verbose: bool
) -> str:
    """A line for each link, more only where something is to be done."""
    lines = []
    for link, findings in found.items():
        state = states[link]
        loud = [f for f in findings if f.state == state]
        rest = [f for f in findings if f.state != state and f.state in (WARN, FAIL)]
        main, *more = sorted(loud, key=lambda f: f.harmless)
        quiet = [f for f in findings if f.harmless and (verbose or 35 in f.problems)]
        quiet = [f for f in quiet if f is not main]

        more = [f for f in more if f.state in (WARN, FAIL) or (f not in quiet and not f.harmless)]
        look = (BOLD,) if link == first else ()
        head = ink(f"{link:<16}", *look) if look else f"{link:<16}"
        text = ink(main.text, *look) if look else main.text
        lines.append(f"  {ink(f'{state:<8}', *COLOURS[state])}{head}{text}")
        if state == FAIL:
            for name in ("wanted", "found", "do"):
                if value := getattr(main, name):
                    shown_ = ink(value, BOLD) if name == "do" and link == first else value
                    lines.append(f"{'':10}{ink(f'{name:>14}', DIM)}  {shown_}")
        elif state == WARN and main.do:
            lines.append(f"{'':10}{ink('do'.rjust(14), DIM)}  {main.do}")
        for f in (*more, *rest):
            lines.append(f"{'':26}{ink(f'{f.state}: ' if f.state != OK else '', DIM)}{f.text}")
        for f in quiet:
            lines.append(f"{'':26}{ink(f.text + (f': {f.do}' if f.do else ''), DIM)}")
    if first:
        do = next(f.do for f in found[first] if f.state == FAIL)
        end = ink("would not start", BOLD, RED) + f": {first}. Do: {ink(do, BOLD)}"
    elif WARN in states.values():
        end = ink("would start", BOLD, GREEN) + ", with a word of warning"
    else:
        end = ink("would start", BOLD, GREEN)
    return "\n".join([*lines, "", f"  {end}"])


def touched(steps: list[tuple[str, str]]) -> str:
    lines = ["  one page, by EAL's own calls:"]
    for step, error in steps:
        mark = ink("FAIL    ", RED, BOLD) if error else ink("OK      ", GREEN)
        lines.append(
            f"  {mark}{ink(step, BOLD) if error else step}" + (f": {error}" if error else "")
        )
    return "\n".join(lines)
