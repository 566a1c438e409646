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
PLAIN = {"×": "x", "…": "...", "·": ".", "–": "-", "→": ">", "─": "-", "│": "|", "░": ":"}


def program() -> int:
    """Run `main` as a whole process.

    Most commands end before there is garbage to collect, and Python would collect once more at
    exit: without both, a short command takes a seventh less time.
    """
    import atexit
    import gc

    gc.set_threshold(100_000)
    atexit.register(gc.freeze)
    _tame_stdout()
    return main()


def _tame_stdout() -> None:
    """Make stdout take any text, and let a command end as usual if its reader has gone.

    What a terminal's encoding lacks is printed as ASCII; into a closed pipe nothing more is
    written, and the exit code is that of the command.
    """
    import io

    class Reader(io.FileIO):
        def write(self, data: object) -> int:
            try:
                return super().write(data) or 0  # type: ignore[arg-type]
            except BrokenPipeError:
                os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
                return len(data)  # type: ignore[arg-type]

    out = sys.stdout
    encoding = out.encoding
    if encoding.lower().replace("-", "") != "utf8":
        import codecs

        codecs.register_error("pyeal", _ascii)
    errors = "pyeal" if encoding.lower().replace("-", "") != "utf8" else out.errors
    raw = io.BufferedWriter(Reader(1, "w", closefd=False))
    sys.stdout = io.TextIOWrapper(raw, encoding, errors, line_buffering=out.isatty())


def _ascii(e: UnicodeError) -> tuple[str, int]:
    """Return ASCII for the characters that an encoding lacks, and where to go on."""
    assert isinstance(e, UnicodeEncodeError)
    text = e.object[e.start : e.end]
    return "".join(PLAIN.get(c, "#" if "\u2580" <= c <= "\u259f" else "?") for c in text), e.end


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
    return _other(argv)


def _other(argv: list[str]) -> int:
    """Do what is no command: help, the version, first steps; name what was perhaps meant."""
    if argv[:1] == ["help"] and len(argv) > 1:
        return main([argv[1], "--help"])
    if not argv:
        print(commands.FIRST_STEPS)
    elif argv[0] in ("-h", "--help", "help"):
        print(commands.overview())
    elif argv[0] == "--version":
        print(f"pyeal {_version()}")
    else:
        meant = commands.close_to(argv[0], dict(commands.summaries()))
        return _say(f"no command {argv[0]!r}{meant or '; pyeal --help lists them'}", USAGE)
    return OK


def _command(name: str, argv: list[str], eal_args: list[str]) -> int:
    p = commands.parser(name)
    try:
        args, unknown = p.parse_known_intermixed_args(argv)
        if unknown:
            p.error(_unrecognized(p, name, unknown))
        args.eal_args = eal_args
        if eal_args and not commands.takes_eal_args(name):
            p.error("takes nothing after --")
    except SystemExit as e:  # argparse has printed the reason
        return int(e.code or 0)
    return _run(commands.load(name).run, args)


def _unrecognized(p: argparse.ArgumentParser, name: str, unknown: list[str]) -> str:
    """Return what is wrong with arguments that the parser does not know, and what was meant."""
    own = [o for o in p._option_string_actions if o.startswith("--")]
    text = f"unrecognized arguments: {' '.join(unknown)}"
    if meant := commands.close_to(unknown[0].partition("=")[0], own):
        return text + meant
    if commands.takes_eal_args(name) and unknown[0].startswith("-"):
        text += f"; EAL's own arguments follow --: pyeal {name} -- {' '.join(unknown)}"
    return text


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
