"""Find the conformance suite, and run its commands: python -m pyeal.suite COMMAND ...

The suite imports pyeal and pyeal does not import the suite, so a command of the suite is another
process. In a wheel the suite is below pyeal/suite/; in a checkout it is beside pyeal/.
"""

from __future__ import annotations

import os
import sys


def folder() -> str | None:
    """Return the folder that holds conformance/ and fixtures/, None if it is not installed."""
    here = os.path.dirname(os.path.abspath(__file__))
    for d in (os.path.join(here, "suite"), os.path.dirname(here)):
        if os.path.exists(os.path.join(d, "conformance", "__main__.py")):
            return d
    return None


def environment() -> dict[str, str]:
    """Return an environment in which this pyeal and its suite can be imported.

    Raises FileNotFoundError if the suite is not installed.
    """
    suite = folder()
    if suite is None:
        raise FileNotFoundError("the suite is not part of this installation")
    pyeal = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    path = [pyeal, suite, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(dict.fromkeys(path))}


def command(*argv: str) -> list[str]:
    """Return the command line that runs a command of the suite in `environment`."""
    return [sys.executable, "-P", "-m", "conformance", *argv]


def become(*argv: str) -> int:
    """Replace this process by a command of the suite; return 2 if the suite is not installed."""
    try:
        env = environment()
    except FileNotFoundError as e:
        print(f"pyeal: {e}", file=sys.stderr)
        return 2
    sys.stdout.flush()
    os.execve(sys.executable, command(*argv), env)


if __name__ == "__main__":
    sys.exit(become(*sys.argv[1:]))
