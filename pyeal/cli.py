"""The command line. Only this file knows its looks."""

from __future__ import annotations

import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing costs more to import than all of this
    import argparse
    from collections.abc import Callable
    from types import ModuleType
    from typing import Any

    from pyeal.eal import Eal

OK, FAILED, USAGE, INTERRUPTED = 0, 1, 2, 130
TEXT = "DPDK's EAL memory initialisation, and a conformance suite for any EAL."


def program() -> int:
    """`main` as a whole process: most are over before there is garbage to look for, and at the end,
    where Python looks once more, all of it goes anyway. A seventh of a short command's time."""
    import atexit
    import gc

    gc.set_threshold(100_000)
    atexit.register(gc.freeze)
    return main()


def main(argv: list[str] | None = None) -> int:
    import argparse

    argv = sys.argv[1:] if argv is None else argv
    if argv and argv[0] in PASSED_ON:  # they have parsers of their own
        return PASSED_ON[argv[0]][1](argv[1:])
    # what follows -- is EAL's and not looked at here
    cut = argv.index("--") if "--" in argv else len(argv)
    argv, eal_args = argv[:cut], argv[cut + 1 :]
    if argv and (argv[0] in COMMANDS or argv[0] in TOOLS):
        return _command(argv[0], argv[1:], eal_args)

    top = argparse.ArgumentParser(prog="pyeal", description=TEXT)
    top.add_argument("--version", action="version", version=f"pyeal {_version()}")
    sub = top.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for name, text in summaries():
        sub.add_parser(name, help=text, add_help=False)
    try:
        top.parse_args(argv)
    except SystemExit as e:  # argparse has said what was wrong
        return int(e.code or 0)
    return OK


def summaries() -> list[tuple[str, str]]:
    """(command, its one line), in the order of --help."""
    own = [(name, text) for name, (text, *_) in COMMANDS.items()]
    return [*own, *TOOLS.items(), *((name, text) for name, (text, _) in PASSED_ON.items())]


def parser(name: str) -> argparse.ArgumentParser:
    """Of `pyeal NAME`: one of COMMANDS or TOOLS. completion and the man page are made of it."""
    import argparse

    if name in COMMANDS:
        text, examples, arguments, _ = COMMANDS[name]
    else:
        module = tool(name)
        text, examples, arguments = module.TEXT, module.EXAMPLES, module.arguments
    p = argparse.ArgumentParser(
        prog=f"pyeal {name}",
        description=text,
        epilog=f"examples:\n{examples}",
        formatter_class=_formatter,
    )
    arguments(p)
    return p


def _formatter(prog: str) -> argparse.HelpFormatter:
    """argparse makes one for each argument, and would import shutil for its width."""
    import argparse

    from pyeal.tools import columns

    return argparse.RawDescriptionHelpFormatter(prog, width=columns(none=80) - 2)


def tool(name: str) -> ModuleType:
    """pyeal/tools/NAME.py, which has TEXT, EXAMPLES, arguments(parser), run(args) -> code.

    TAKES_EAL_ARGS there: it wants args.eal_args, what follows --.
    """
    from importlib import import_module

    return import_module(f"pyeal.tools.{name}")


def takes_eal_args(name: str) -> bool:
    """Whether something may follow --."""
    return name in COMMANDS or getattr(tool(name), "TAKES_EAL_ARGS", False)


def _command(name: str, argv: list[str], eal_args: list[str]) -> int:
    p = parser(name)
    try:
        args = p.parse_intermixed_args(argv)
        args.eal_args = eal_args
        if eal_args and not takes_eal_args(name):
            p.error("takes nothing after --")
    except SystemExit as e:  # argparse has said what was wrong
        return int(e.code or 0)
    return _end(COMMANDS[name][3] if name in COMMANDS else tool(name).run, args)


def _end(run: Callable[[argparse.Namespace], int], args: argparse.Namespace) -> int:
    """The exit code, also of what cannot go on: one line, no traceback."""
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
    except (EalError, OSError) as e:
        return _failed(e, getattr(args, "json", False))


def _say(text: str, code: int) -> int:
    print(f"pyeal: {text}", file=sys.stderr)
    return code


def _version() -> str:
    from pyeal import __version__

    return __version__


# --- init


def _init_arguments(p: argparse.ArgumentParser) -> None:
    from pyeal.releases import SPAN

    p.usage = "pyeal init [options] [-- EAL-ARGS]"
    p.add_argument("--as", dest="release", metavar="RELEASE", help=f"be this release: {SPAN}")
    _looks(p)


def _looks(p: argparse.ArgumentParser) -> None:
    """What init and attach have in common."""
    p.add_argument(
        "--json", action="store_true", help="the layout as JSON instead of table and map"
    )
    p.add_argument("--svg", metavar="FILE", help="draw the memory map into FILE")
    p.add_argument(
        "--hold",
        action=_boolean(),
        default=True,
        help="keep the memory until Ctrl-C or end of input (default), or end at once",
    )
    p.add_argument("-v", "--verbose", action="store_true", help="EAL's log, all of it")
    p.add_argument("--traceback", action="store_true", help="of an error, for developers")


def _boolean() -> type[argparse.Action]:
    import argparse

    return argparse.BooleanOptionalAction


def _init(args: argparse.Namespace) -> int:
    import pyeal.releases

    if args.release:
        try:
            pyeal.releases.get(args.release)
        except ValueError as e:
            return _say(f"--as: {e}", USAGE)
    return _be(args, args.eal_args, "primary")


def _be(args: argparse.Namespace, eal_args: list[str], role: str) -> int:
    """Has an EAL of that role for as long as it is wanted, and shows it."""
    import pyeal

    def log(level: str, text: str) -> None:
        if args.verbose or level in ("WARNING", "ERR", "CRIT", "ALERT", "EMERG"):
            print(f"EAL: {text}", file=sys.stderr)

    # init leaves --proc-type to decide
    asked = None if role == "primary" else role
    with _Signals():
        try:
            with pyeal.init(eal_args, args.release, log, role=asked, tailqs=pyeal.TAILQS) as eal:
                _show(eal, args)
                if args.hold:
                    _hold(eal)
        except KeyboardInterrupt:
            return OK  # the memory has gone with the block
        except (pyeal.EalError, OSError) as e:
            if isinstance(e, BrokenPipeError):
                raise
            if args.traceback:
                import traceback

                traceback.print_exc()
            return _failed(e, args.json)
    return OK


def _failed(e: Exception, as_json: bool) -> int:
    """What was wanted, what was found, what to do: the error's own words."""
    no = getattr(e, "errno", None) or 0
    stage, text = getattr(e, "stage", "system"), getattr(e, "text", str(e))
    if isinstance(e, OSError) and e.filename:
        text = f"{e.filename}: {e.strerror}"
    if as_json:
        import json

        print(json.dumps({"error": {"stage": stage, "errno": no, "text": text}}), flush=True)
    import errno

    name = errno.errorcode.get(no, str(no))
    return _say(f"{stage}: {text} [{name}]", FAILED)


def _show(eal: Eal, args: argparse.Namespace) -> None:
    layout: dict[str, Any] = eal.layout()
    from pyeal.tools import picture

    if args.svg:
        with open(args.svg, "w", encoding="utf-8") as f:
            f.write(picture.svg(layout))
    if args.json:
        import json

        print(json.dumps(layout), flush=True)
        return
    from pyeal.tools import coloured, columns

    print(picture.table(layout), end="\n\n")
    print(picture.terminal(layout, columns(), coloured()), flush=True)
    if layout["ignored"]:
        print(f"without meaning here: {' '.join(layout['ignored'])}", file=sys.stderr)


def _hold(eal: Eal) -> None:
    """Until end of input; who comes and goes meanwhile is told."""
    import select

    if sys.stdin is None:
        return
    if sys.stdin.isatty():
        print("held; Ctrl-C or Ctrl-D ends it", file=sys.stderr, flush=True)
    known: dict[int, str] = {}
    while True:
        now = eal.others()
        for pid, role in now.items():
            if pid not in known:
                print(f"{role} {pid} is here", file=sys.stderr, flush=True)
        for pid, role in known.items():
            if pid not in now:
                print(f"{role} {pid} has left", file=sys.stderr, flush=True)
        known = now
        if select.select([sys.stdin], [], [], 0.5)[0] and not sys.stdin.readline():
            return


# --- attach


def _attach_arguments(p: argparse.ArgumentParser) -> None:
    p.usage = "pyeal attach [options] [PREFIX] [-- EAL-ARGS]"
    p.add_argument("prefix", nargs="?", metavar="PREFIX", help="--file-prefix of the primary (rte)")
    p.add_argument(
        "--observe", action="store_true", help="only look: no socket, no lock, nothing written"
    )
    _looks(p)


def _attach(args: argparse.Namespace) -> int:
    prefix = ["--file-prefix", args.prefix] if args.prefix else []
    args.release = None  # the primary's
    return _be(args, [*args.eal_args, *prefix], "observer" if args.observe else "secondary")


# --- demo


def _demo_arguments(p: argparse.ArgumentParser) -> None:
    p.usage = "pyeal demo [options] [-- EAL-ARGS]"
    _looks(p)


def _demo(args: argparse.Namespace) -> int:
    import pyeal

    eal_args = ["--file-prefix", "demo", "-m", "2", *args.eal_args]
    try:
        with pyeal.init(eal_args):
            pass
    except (pyeal.EalError, OSError):
        print("demo: with ordinary pages; pyeal doctor says why", file=sys.stderr)
        eal_args.append("--no-huge")
    print("demo: elsewhere try pyeal ps, pyeal inspect demo, pyeal map demo", file=sys.stderr)
    args.release = None
    return _be(args, eal_args, "primary")


class _Signals:
    """TERM and HUP end the command as Ctrl-C does: nothing is left behind."""

    def __enter__(self) -> None:
        import signal

        self.before = {
            s: signal.signal(s, signal.default_int_handler) for s in (signal.SIGTERM, signal.SIGHUP)
        }

    def __exit__(self, *_: object) -> None:
        import signal

        for s, h in self.before.items():
            signal.signal(s, h)


# --- commands with parsers of their own


def suite() -> str | None:
    """The folder that holds conformance/ and fixtures/: in the wheel, else of the checkout."""
    here = os.path.dirname(os.path.abspath(__file__))
    for d in (os.path.join(here, "suite"), os.path.dirname(here)):
        if os.path.exists(os.path.join(d, "conformance", "run.py")):
            return d
    return None


def _conform(argv: list[str]) -> int:
    d = suite()
    if d is None:
        return _say("the suite is not part of this installation", USAGE)
    sys.path.insert(0, d)
    from importlib import import_module

    try:
        run = import_module("conformance.run").main
    except ModuleNotFoundError as e:
        if (e.name or "").startswith("conformance"):
            raise
        return _say(f"no module {e.name}: pip install 'pyeal[conformance]'", USAGE)
    return int(run(argv))


def _agent(argv: list[str]) -> int:
    import runpy

    sys.argv[1:] = argv
    runpy.run_module("pyeal.agent", run_name="__main__", alter_sys=True)
    return OK


# name: (one line, examples and exit code, its arguments, what it does)
COMMANDS = {
    "init": (
        "initialise memory as EAL does, show it, hold it",
        """\
  pyeal init -- -m 64                                      until Ctrl-C
  pyeal init --as 26.07 --json --no-hold -- --no-huge      as another release, at once

exit code: 0 it ended when it was told to, 1 it could not start, 2 wrong arguments""",
        _init_arguments,
        _init,
    ),
    "attach": (
        "join a primary's memory, show it, hold it",
        """\
  pyeal attach demo                     as a secondary; tells who comes and goes
  pyeal attach --observe --json demo    only look, leave no trace

exit code: 0 it ended when it was told to, 1 it could not join, 2 wrong arguments""",
        _attach_arguments,
        _attach,
    ),
    "demo": (
        "an EAL of one page to look at, without hugepages if there are none",
        """\
  pyeal demo                    hold it; then `pyeal ps` and `pyeal inspect demo` elsewhere
  pyeal demo --svg demo.svg     its picture, too

exit code: 0 it ended when it was told to, 1 it could not start, 2 wrong arguments""",
        _demo_arguments,
        _demo,
    ),
}
# pyeal/tools/NAME.py: one line. They only look; a module is imported when it is asked for.
TOOLS = {
    "doctor": "why EAL does not start here, and the command that mends it",
    "explain": "what a line of EAL's log means, and what on this machine agrees with it",
    "plan": "what EAL would do with these arguments: pages, files, addresses, limits",
    "ps": "every EAL of this machine: prefix, process, release, pages, health",
    "inspect": "what is in an EAL's memory: lists, zones, heaps, holders",
    "map": "the picture of an EAL's memory: terminal, SVG, HTML",
    "stale": "what dead processes left behind, with proof; --delete removes it",
    "dump": "decode one of EAL's shared files, with offsets",
    "diff": "what differs between two shared files, or two releases' layouts",
    "bench": "time an EAL beside another, keep it, compare it with a revision",
    "lease": "hugepages for a command or a shell, given back exactly",
    "ci": "a CI job with hugepages, checks and a leak gate, to copy",
    "completion": "what a shell wants to complete these commands",
    "man": "the manual, a page for man(1)",
}
PASSED_ON = {
    "conform": ("run the conformance suite and print the matrix", _conform),
    "agent": ("be a target of the suite: JSON lines on stdin and stdout", _agent),
}
