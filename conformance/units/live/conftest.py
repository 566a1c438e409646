"""pyeal's tools beside living processes of each release, real ones and pyeal's.

tool(name, *args, code=0)   one run of `pyeal NAME ...`: what it prints
facts(name, *args)          the same with --json, decoded
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from conformance.harness import peers
from conformance.harness.child import environment
from pyeal import cli

KINDS = [*(f"librte_eal:{r}" for r in peers.releases()), "pyeal:26.07"]


@pytest.fixture(params=KINDS)
def kind(request):
    """A target; skipped where the release is not fetched."""
    return request.param


@pytest.fixture
def tool(capsys):
    def tool(name, *args, code=0, prefix=()):
        """In this process, which is quicker; behind a prefix of commands in one of its own."""
        words = [name, *map(str, args)]
        if prefix:
            argv = [*prefix, sys.executable, "-P", "-m", "pyeal", *words]
            done = subprocess.run(
                argv, capture_output=True, text=True, timeout=60, env=environment()
            )
            got, said, err = done.returncode, done.stdout, done.stderr
        else:
            capsys.readouterr()
            got = cli.main(words)
            said, err = capsys.readouterr()
        assert (got, "Traceback" in err) == (code, False), f"{words}\n{said}{err}"
        return said

    return tool


@pytest.fixture
def facts(tool):
    def facts(name, *args, **more):
        got = json.loads(tool(name, "--json", *args, **more))
        assert got["schema"].startswith(f"pyeal.{name}/")
        return got

    return facts
