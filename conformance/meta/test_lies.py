"""Each test can fail: pyeal with one wrong number is caught by the test that is about it."""

import os
import sys
from pathlib import Path

import pytest

from conformance import host

META = Path(__file__).parent
LIES = {
    "FBA-017": ("fbarray", "fbarray:ret:1"),
    "LEG-001": ("legacy", "info:physmem_size:4096"),
    "MSL-011": ("memseg", "lists:0.base_va:4096"),
}


@pytest.mark.parametrize("id", LIES)
def test_lie_is_caught(pytester, monkeypatch, id):
    folder, lie = LIES[id]
    monkeypatch.setenv("PYTHONPATH", str(META.parents[1]), prepend=os.pathsep)
    target = f"cmd:{sys.executable} {META}/lying_target.py {lie} -- {sys.executable} -m pyeal.agent"
    done = pytester.runpytest_subprocess(
        "-c",
        META.parent / "pytest.toml",
        META.parent / folder,
        f"--id={id}",
        f"--target={target}",
        "-p",
        "no:cacheprovider",
    )
    outcomes = done.parseoutcomes()
    if "skipped" in outcomes and not host.is_root():
        pytest.skip("wanted root, found none")

    assert (outcomes.get("failed", 0) > 0, "passed" in outcomes) == (True, False)
