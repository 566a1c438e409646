"""Start an EAL, show its memory and hold it: what init, attach and demo have in common."""

from __future__ import annotations

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from pyeal.eal import Eal

SHOWN = ("WARNING", "ERR", "CRIT", "ALERT", "EMERG")  # without --verbose


def arguments(p: argparse.ArgumentParser) -> None:
    """Add the options that the three commands share."""
    import argparse

    p.add_argument(
        "--json", action="store_true", help="the layout as JSON instead of table and map"
    )
    p.add_argument("--svg", metavar="FILE", help="draw the memory map into FILE")
    p.add_argument(
        "--hold",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="keep the memory until Ctrl-C or end of input (default), or end at once",
    )
    p.add_argument("-v", "--verbose", action="store_true", help="EAL's log, all of it")
    p.add_argument("--traceback", action="store_true", help="of an error, for developers")


def run(
    args: argparse.Namespace, eal_args: list[str], role: str | None, release: str | None = None
) -> int:
    """Start an EAL, show it, hold it until the end of input; return the exit code.

    role: "secondary" or "observer"; None leaves it to --proc-type.
    Raises EalError or OSError if the start fails.
    """
    import pyeal

    def log(level: str, text: str) -> None:
        if args.verbose or level in SHOWN:
            print(f"EAL: {text}", file=sys.stderr)

    with _Signals():
        try:
            with pyeal.init(eal_args, release, log, role=role, tailqs=pyeal.TAILQS) as eal:
                _show(eal, args)
                if args.hold:
                    _hold(eal)
        except KeyboardInterrupt:
            return 0  # the block has released the memory
        except (pyeal.EalError, OSError):
            if args.traceback:
                import traceback

                traceback.print_exc()
            raise
    return 0


def _show(eal: Eal, args: argparse.Namespace) -> None:
    layout: dict[str, Any] = eal.layout()
    from pyeal.tools import picture, picture_svg

    if args.svg:
        with open(args.svg, "w", encoding="utf-8") as f:
            f.write(picture_svg.svg(layout))
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
    """Wait for the end of input; report each process that joins or leaves meanwhile."""
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


class _Signals:
    """Make TERM and HUP end the command as Ctrl-C does, so that it cleans up."""

    def __enter__(self) -> None:
        import signal

        self.before = {
            s: signal.signal(s, signal.default_int_handler) for s in (signal.SIGTERM, signal.SIGHUP)
        }

    def __exit__(self, *_: object) -> None:
        import signal

        for s, handler in self.before.items():
            signal.signal(s, handler)
