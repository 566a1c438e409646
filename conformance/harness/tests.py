"""Run pytest on a part of the suite."""

import os
import signal
import subprocess
import sys

from conformance import SUITE


def command(part, *args):
    """Return the command line for a folder or file of the suite, by the nearest pytest.toml."""
    path = SUITE / part.partition("::")[0]
    ini = next(d / "pytest.toml" for d in (path, *path.parents) if (d / "pytest.toml").exists())
    argv = [sys.executable, "-P", "-m", "pytest", "-c", ini, SUITE / part]
    return [*map(str, argv), "-p", "no:cacheprovider", *args]


def run(part, *args, **env):
    """Return pytest's exit code. Ctrl-C is left to pytest, which tears its tests down."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    reset = lambda: signal.signal(signal.SIGINT, signal.default_int_handler)  # noqa: E731
    try:
        with subprocess.Popen(command(part, *args), env=os.environ | env, preexec_fn=reset) as p:
            return p.wait()
    finally:
        signal.signal(signal.SIGINT, before)


def main(argv):
    if not argv or argv[0].startswith("-"):
        print("usage: python -m conformance pytest FOLDER|FILE [ARGUMENTS OF pytest]")
        return 0 if argv and argv[0] in ("-h", "--help") else 2
    argv = command(*argv)
    os.execv(argv[0], argv)
