"""Python's garbage collector: imports and starts do without it, and leave it as it was."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

START = """
import gc, json
import pyeal

seen = []
gc.collect()
{before}
gc.callbacks.append(lambda phase, info: seen.append(info["generation"]))
eal = pyeal.init("--no-huge -m 16 --no-shconf --no-pci".split())
gc.callbacks.clear()
print(json.dumps([len(seen), gc.isenabled(), gc.get_freeze_count(), len(gc.get_objects(0))]))
eal.cleanup()
"""


@pytest.fixture
def start(tmp_path, monkeypatch):
    """Counts of a start that makes its runtime directory in a place of the test's."""
    for name in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"):
        monkeypatch.setenv(name, str(tmp_path))

    def run(before=""):
        argv = [sys.executable, "-P", "-c", START.format(before=before)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
        assert done.stderr == ""
        return json.loads(done.stdout)

    return run


def test_a_start_is_not_interrupted_and_old_when_it_is_done(start):
    collections, enabled, frozen, young = start()

    assert (collections, enabled, frozen) == (0, True, 0)
    assert young < 100  # a collection would begin by looking at all that was imported, thousands


def test_a_collector_that_is_off_stays_off(start):
    assert start("gc.disable()")[:2] == [0, False]


def test_what_a_program_froze_stays_frozen(start):
    _, enabled, frozen, _ = start("gc.freeze()")

    assert enabled and frozen > 1000


@pytest.mark.parametrize(("words", "code"), [(["--version"], 0), (["no-such"], 2)])
def test_a_command_ends_without_it(words, code):
    """What is written is there all the same, and so is the code."""
    script = """
import atexit, gc, sys
def last():
    print(gc.get_freeze_count(), gc.get_threshold()[0], flush=True)
atexit.register(last)  # runs after what is registered later
from pyeal.cli import program
sys.exit(program())
"""
    argv = [sys.executable, "-P", "-c", script, *words]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60)
    *said, counts = done.stdout.splitlines()
    frozen, threshold = map(int, counts.split())

    assert done.returncode == code and (said or done.stderr)
    assert frozen > 1000 and threshold >= 100_000
