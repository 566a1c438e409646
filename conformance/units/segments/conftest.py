"""pyeal with one page in use and room for ten more, populated in chunks of four pages."""

import os
import sys
from pathlib import Path

import pytest

from conformance import MODES
from conformance.harness.eal import Eal
from conformance.units.segments.rollback import N

TARGET = Path(__file__).with_name("target.py")


@pytest.fixture
def eal_of(make_box, cgroup, tmp_path, prefix):
    """eal_of(mode, *args, how="", box=None, **more): an initialised pyeal; how: words of target.py.

    eal.threads: how many threads it has when no allocation is going on. It ends before its cgroup.
    """
    started = []

    def eal_of(mode, *args, how="", box=None, **more):
        pages = {"2M": N + 1}
        box = box or (make_box(lease=pages) if mode == "in-memory" else make_box(pages))
        args = [*MODES[mode], "-m", "2", *args, "--file-prefix", f"{prefix}_seg"]
        target = f"cmd:{sys.executable} {TARGET} {how}"
        eal = Eal(target, args, box, tmp_path, f"{prefix}_seg", **more)
        started.append(eal)
        eal.init()
        eal.threads = len(os.listdir(f"/proc/{eal.pid}/task"))
        return eal

    yield eal_of
    for eal in started:
        eal.close()
