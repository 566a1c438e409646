"""The commands of `pyeal`: names, summaries, parsers.

A command is a module of this package with TEXT, EXAMPLES, `arguments(parser)` and `run(args)`,
which returns the exit code. If it has TAKES_EAL_ARGS, arguments may follow `--`; they
are in `args.eal_args`. Options and positional arguments may be mixed, so no command uses
argparse.REMAINDER.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:  # argparse is imported when a command's parser is made
    import argparse
    from collections.abc import Iterable
    from types import ModuleType

SUMMARY = "DPDK's EAL memory initialisation, and a conformance suite for any EAL."
COMMANDS = {  # name: its line in --help
    "init": "initialise memory as EAL does, show it, hold it",
    "attach": "join a primary's memory, show it, hold it",
    "demo": "an EAL of one page to look at, without hugepages if there are none",
    "doctor": "why EAL does not start here, and the command that fixes it",
    "explain": "what a line of EAL's log means, and whether it is so here",
    "plan": "what EAL would do with arguments: pages, files, addresses, limits",
    "ps": "every EAL of this machine: prefix, process, release, pages, health",
    "inspect": "what is in an EAL's memory: lists, zones, heaps, holders",
    "map": "the picture of an EAL's memory: terminal, SVG, HTML",
    "stale": "what dead processes left behind, with proof; --delete removes it",
    "warm": "page files ahead of a start, which then waits for no zeroed page",
    "dump": "decode one of EAL's shared files, with offsets",
    "diff": "what differs between two shared files, or two releases' layouts",
    "collect": "one archive of what the tools read here, without page contents",
    "setup": "files and kernel arguments that reserve hugepages at each boot",
    "bench": "time an EAL beside another, keep it, compare it with a revision",
    "lease": "hugepages for a command or a shell, returned at its end",
    "ci": "a CI job with hugepages, checks and a leak gate, to copy",
    "completion": "shell completion of these commands, for bash, zsh and fish",
    "man": "the manual, a page for man(1)",
}
FORWARDED = {  # cli.py hands their arguments on to a parser of their own
    "conform": "run the conformance suite and print the matrix",
    "agent": "be a target of the suite: JSON lines on stdin and stdout",
}


GROUPS = {  # headings of --help: the commands below them
    "why a start fails": ("doctor", "explain", "plan"),
    "what is there": ("ps", "stale", "inspect", "map", "mapped", "dump", "diff"),
    "an EAL of your own": ("init", "attach", "demo", "lease", "warm"),
    "tests and measurements": ("conform", "agent", "bench", "ci"),
}
OTHERS = "the shell's"
FIRST_STEPS = """\
first steps:
  pyeal doctor                    why EAL would not start here, and the command that fixes it
  pyeal ps                        every EAL of this machine, and what dead ones left
  pyeal demo                      an EAL to look at, without hugepages if there are none

All commands: pyeal --help. One of them: pyeal help doctor"""


def overview() -> str:
    """Return the text of `pyeal --help`."""
    texts = dict(summaries())
    grouped = {name for names in GROUPS.values() for name in names}
    groups = {**GROUPS, OTHERS: tuple(name for name in texts if name not in grouped)}
    lines = ["usage: pyeal COMMAND [options] [-- EAL-ARGS]", "", SUMMARY]
    for heading, names in groups.items():
        lines += ["", f"{heading}:"]
        lines += [f"  {name:<12}{texts[name]}" for name in names if name in texts]
    return "\n".join(
        [
            *lines,
            "",
            "pyeal help COMMAND has its options and examples.",
            "exit code: 0 good, 1 a finding or a failure, 2 wrong arguments, 130 interrupted",
        ]
    )


def close_to(word: str, known: Iterable[str]) -> str:
    """Return ", did you mean X?" for a word that is nearly one of the known ones, else nothing."""
    from difflib import get_close_matches

    near = get_close_matches(word, list(known), 1)
    return f"; did you mean {near[0]}?" if near else ""


def summaries() -> list[tuple[str, str]]:
    """Return (command, its line in --help), in the order of --help."""
    return [*COMMANDS.items(), *FORWARDED.items()]


def load(name: str) -> ModuleType:
    """Return the module of a command.

    The only import by name in pyeal: a short command must not pay for importing the others.
    """
    from importlib import import_module

    return import_module(f"pyeal.tools.{name}")


def takes_eal_args(name: str) -> bool:
    """Return whether arguments may follow `--`."""
    return getattr(load(name), "TAKES_EAL_ARGS", False)


def parser(name: str) -> argparse.ArgumentParser:
    """Return the parser of `pyeal NAME`; completion and the manual page are made of it."""
    import argparse

    command = load(name)
    p = argparse.ArgumentParser(
        prog=f"pyeal {name}",
        description=command.TEXT,
        epilog=f"examples:\n{command.EXAMPLES}",
        formatter_class=_formatter,
    )
    command.arguments(p)
    return p


def _formatter(prog: str) -> argparse.HelpFormatter:
    """Return a formatter of the terminal's width.

    argparse makes one for each argument, and would import shutil for the width.
    """
    import argparse

    from pyeal.tools import columns

    return argparse.RawDescriptionHelpFormatter(prog, width=columns(none=80) - 2)
