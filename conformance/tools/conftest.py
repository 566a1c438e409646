"""pyeal's tools beside living processes of each release, real ones and pyeal's.

tool(name, *args, code=0)   one run of `pyeal NAME ...`: what it prints
facts(name, *args)          the same with --json, decoded
"""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from conformance import peers
from conformance.child import environment

KINDS = [*(f"librte_eal:{r}" for r in peers.releases()), "pyeal:26.07"]


@pytest.fixture(params=KINDS)
def kind(request):
    """A target; skipped where the release is not fetched."""
    return request.param


@pytest.fixture
def tool():
    def tool(name, *args, code=0, prefix=(), stdin="", both=False):
        argv = [*prefix, sys.executable, "-P", "-m", "pyeal", name, *map(str, args)]
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=60, env=environment(), input=stdin
        )
        assert done.returncode == code, f"{' '.join(argv)}\n{done.stdout}{done.stderr}"
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr if both else done.stdout

    return tool


@pytest.fixture
def facts(tool):
    def facts(name, *args, **more):
        got = json.loads(tool(name, "--json", *args, **more))
        assert got["schema"].startswith(f"pyeal.{name}/")
        return got

    return facts
