"""`pyeal init`: an EAL, held until it is told to end."""

from __future__ import annotations

from pyeal.tools import check_release, hold

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

TEXT = "initialise memory as EAL does, show it, hold it"
EXAMPLES = """\
  pyeal init -- -m 64                                      until Ctrl-C
  pyeal init --as 26.07 --json --no-hold -- --no-huge      as another release, at once

exit code: 0 it ended when it was told to, 1 it could not start, 2 wrong arguments"""
TAKES_EAL_ARGS = True


def arguments(p: argparse.ArgumentParser) -> None:
    from pyeal.releases import SPAN

    p.usage = "pyeal init [options] [-- EAL-ARGS]"
    p.add_argument("--as", dest="release", metavar="RELEASE", help=f"be this release: {SPAN}")
    hold.arguments(p)


def run(args: argparse.Namespace) -> int:
    check_release(args.release)
    return hold.run(args, args.eal_args, None, args.release)
