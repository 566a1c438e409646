"""Print to a terminal: at once, in colour if it is one."""

import os
import sys


def say(text="", end="\n"):
    print(text, end=end, flush=True)


def ink(text, *sgr):
    """Return text in these colours, or as it is if stdout is no terminal or NO_COLOR is set."""
    plain = not sys.stdout.isatty() or "NO_COLOR" in os.environ
    return str(text) if plain else f"\x1b[{';'.join(map(str, sgr))}m{text}\x1b[0m"
