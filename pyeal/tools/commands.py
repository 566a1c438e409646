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
    from types import ModuleType

SUMMARY = "DPDK's EAL memory initialisation, and a conformance suite for any EAL."
COMMANDS = {  # name: its line in --help
    "init": "initialise memory as EAL does, show it, hold it",
    "attach": "join a primary's memory, show it, hold it",
    "demo": "an EAL of one page to look at, without hugepages if there are none",
    "doctor": "why EAL does not start here, and the command that fixes it",
    "explain": "what a line of EAL's log means, and what on this machine agrees with it",
    "plan": "what EAL would do with these arguments: pages, files, addresses, limits",
    "ps": "every EAL of this machine: prefix, process, release, pages, health",
    "inspect": "what is in an EAL's memory: lists, zones, heaps, holders",
    "map": "the picture of an EAL's memory: terminal, SVG, HTML",
    "stale": "what dead processes left behind, with proof; --delete removes it",
    "warm": "page files ahead of a start, so that it need not wait for zeroed pages",
    "dump": "decode one of EAL's shared files, with offsets",
    "diff": "what differs between two shared files, or two releases' layouts",
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
