"""`pyeal demo`: a small EAL to try the other commands on."""

from __future__ import annotations

import sys

from pyeal.tools import hold

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

TEXT = "an EAL of one page to look at, without hugepages if there are none"
EXAMPLES = """\
  pyeal demo                    hold it; then `pyeal ps` and `pyeal inspect demo` elsewhere
  pyeal demo --svg demo.svg     also its picture

exit code: 0 it ended when it was told to, 1 it could not start, 2 wrong arguments"""
TAKES_EAL_ARGS = True


def arguments(p: argparse.ArgumentParser) -> None:
    p.usage = "pyeal demo [options] [-- EAL-ARGS]"
    hold.arguments(p)


def run(args: argparse.Namespace) -> int:
    import pyeal

    eal_args = ["--file-prefix", "demo", "-m", "2", *args.eal_args]
    try:
        with pyeal.init(eal_args):
            pass
    except (pyeal.EalError, OSError):
        print("demo: with ordinary pages; pyeal doctor says why", file=sys.stderr)
        eal_args.append("--no-huge")
    print("demo: elsewhere try pyeal ps, pyeal inspect demo, pyeal map demo", file=sys.stderr)
    return hold.run(args, eal_args, None)
