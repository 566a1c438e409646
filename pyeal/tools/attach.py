"""`pyeal attach`: a secondary or an observer of a running primary."""

from __future__ import annotations

from pyeal.tools import hold

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

TEXT = "join a primary's memory, show it, hold it"
EXAMPLES = """\
  pyeal attach demo                     as a secondary; reports processes that join and leave
  pyeal attach --observe --json demo    read-only, without leaving a trace

exit code: 0 it ended when it was told to, 1 it could not join, 2 wrong arguments"""
TAKES_EAL_ARGS = True


def arguments(p: argparse.ArgumentParser) -> None:
    p.usage = "pyeal attach [options] [PREFIX] [-- EAL-ARGS]"
    p.add_argument("prefix", nargs="?", metavar="PREFIX", help="--file-prefix of the primary (rte)")
    p.add_argument(
        "--observe", action="store_true", help="read-only: no socket, no lock, no file written"
    )
    hold.arguments(p)


def run(args: argparse.Namespace) -> int:
    prefix = ["--file-prefix", args.prefix] if args.prefix else []
    role = "observer" if args.observe else "secondary"
    return hold.run(args, [*args.eal_args, *prefix], role)
