"""The command line: parse the command's arguments, run it, turn its end into an exit code."""

from __future__ import annotations

import os
import sys

from pyeal.tools import UsageError, commands

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing costs more to import than all of this
    import argparse
    from collections.abc import Callable

    from pyeal.errors import EalError

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130


def program() -> int:
    """Run `main` as a whole process.

    Most commands end before there is garbage to collect, and Python would collect once more at
    exit: without both, a short command takes a seventh less time.
    """
    import atexit
    import gc

    gc.set_threshold(100_000)
    atexit.register(gc.freeze)
    return main()


def main(argv: list[str] | None = None) -> int:
    """Run one command and return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in FORWARDED:
        return FORWARDED[argv[0]](argv[1:])
    # arguments after -- are EAL's
    cut = argv.index("--") if "--" in argv else len(argv)
    argv, eal_args = argv[:cut], argv[cut + 1 :]
    if argv and argv[0] in commands.COMMANDS:
        return _command(argv[0], argv[1:], eal_args)
    import argparse

    top = argparse.ArgumentParser(prog="pyeal", description=commands.SUMMARY)
    top.add_argument("--version", action="version", version=f"pyeal {_version()}")
    sub = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in commands.summaries():
        sub.add_parser(name, help=text, add_help=False)
    try:
        top.parse_args(argv)
    except SystemExit as e:  # argparse has printed the reason
        return int(e.code or 0)
    return OK


def _command(name: str, argv: list[str], eal_args: list[str]) -> int:
    p = commands.parser(name)
    try:
        args = p.parse_intermixed_args(argv)
        args.eal_args = eal_args
        if eal_args and not commands.takes_eal_args(name):
            p.error("takes nothing after --")
    except SystemExit as e:  # argparse has printed the reason
        return int(e.code or 0)
    return _run(commands.load(name).run, args)


def _run(run: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """Return the exit code of a command; an error is one line, not a traceback."""
    from pyeal.errors import EalError

    try:
        code = run(args)
        sys.stdout.flush()
        return code
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # else Python complains once more at exit
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    except UsageError as e:
        return _say(str(e), USAGE)
    except (EalError, OSError) as e:
        return _failed(e, getattr(args, "json", False))


def _failed(e: EalError | OSError, as_json: bool) -> int:
    """Print an error: its own text, and as JSON if the command was asked for JSON."""
    import errno

    no = e.errno or 0
    stage, text = getattr(e, "stage", "system"), getattr(e, "text", str(e))
    if isinstance(e, OSError) and e.filename:
        text = f"{e.filename}: {e.strerror}"
    if as_json:
        import json

        print(json.dumps({"error": {"stage": stage, "errno": no, "text": text}}), flush=True)
    return _say(f"{stage}: {text} [{errno.errorcode.get(no, no)}]", FAILED)


def _say(text: str, code: int) -> int:
    from pyeal.tools import printable

    print(f"pyeal: {printable(text)}", file=sys.stderr)
    return code


def _version() -> str:
    from pyeal import __version__

    return __version__


# --- commands with parsers of their own


def suite() -> str | None:
    """Return `pyeal.suite.folder()`; the old name, until 0.3."""
    from pyeal.suite import folder

    return folder()


def _conform(argv: list[str]) -> int:
    from pyeal.suite import become

    return become("run", *argv)


def _agent(argv: list[str]) -> int:
    from pyeal.agent import main

    return main(argv)


FORWARDED = {"conform": _conform, "agent": _agent}
