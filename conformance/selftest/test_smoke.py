"""A new target is looked at before the suite: the examples pass, each fault is named."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conformance import SUITE
from conformance.runner import smoke
from conformance.targets import librte_eal

EXAMPLES = SUITE / "targets/examples"
TARGET = """
from conformance.selftest.fake_target import Fake, serve
import ctypes, mmap, os, sys

class Mine(Fake):
    def init(self, args):
        if "--no-such-option" in args:
            raise OSError(22, "no such option")
        self.dir = f"{os.environ['XDG_RUNTIME_DIR']}/{args[-1]}"
        os.makedirs(self.dir, exist_ok=True)
        with open(f"{self.dir}/config", "wb+") as f:
            f.truncate(4096)
            self.config = mmap.mmap(f.fileno(), 4096)
        return super().init(args) | {"runtime_dir": self.dir}

FAULT
serve(Mine())
"""


def look(target: str, capsys: pytest.CaptureFixture[str], *more: str) -> tuple[int, dict]:
    code = smoke.main([target, "--json", *more])
    out = capsys.readouterr().out
    return code, json.loads(out) if out else {}


@pytest.fixture(scope="module")
def library() -> str:
    with contextlib.suppress(FileNotFoundError):
        return librte_eal.find()
    pytest.skip("wanted librte_eal, found none: apt-get install librte-eal23")


def good(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, found = look(target, capsys)

    assert [c for c in found["checks"] if not c["good"]] == []
    assert (code, found["schema"], found["good"]) == (0, "pyeal.smoke/1", True)
    assert len(found["checks"]) == len(smoke.CHECKS)


def test_python_example(library: str, capsys: pytest.CaptureFixture[str]) -> None:
    good(f"cmd:{sys.executable} {EXAMPLES}/smallest.py {library}", capsys)


def test_c_example(library: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cc = shutil.which("cc") or shutil.which("gcc")
    if not cc:
        pytest.skip("wanted a C compiler, found none: apt-get install gcc libc6-dev")
    argv = [cc, "-Wall", "-Wextra", "-Werror", "-o", tmp_path / "smallest"]
    subprocess.run([*argv, EXAMPLES / "smallest.c", library], check=True)

    good(f"cmd:{tmp_path}/smallest", capsys)


FAULTS = {
    "none": ("", {}),
    "release": ("Mine.release = 'v3'", {"hello": 'found "v3"'}),
    "no-cleanup": ("del Fake.cleanup", {"hello": '"can" lacks cleanup'}),
    "noise": ("os.write(1, b'EAL: hello\\n')", {"hello": "not of the protocol"}),
    "yes": (
        "Mine.init = lambda self, args: 0",
        {"bad argument": 'wanted {"error": ...}, found "ok"', "init and cleanup": "found 0"},
    ),
    "own-fault": (
        "Mine.init = lambda self, args: 1 / 0",
        {"bad argument": "found null"}
        | dict.fromkeys(("init and cleanup", "end of input", "killed"), "division by zero"),
    ),
    "no-config": (
        "Mine.init = lambda self, args, f=Mine.init: f(self, args) | {'runtime_dir': '/nowhere'}",
        {"init and cleanup": "found none in /nowhere"},
    ),
    "keys": (
        "Mine.lists = lambda self: [{'index': 0}]",
        {"init and cleanup": "lists: the answer lacks name, base_va"},
    ),
    "exit": (
        "Mine.cleanup = lambda self: os._exit(3)",
        {"init and cleanup": "exited 3", "end of input": "exited 3"},
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_fault_is_named(fault: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line, want = FAULTS[fault]
    (tmp_path / "mine.py").write_text(TARGET.replace("FAULT", line))
    code, found = look(f"cmd:{sys.executable} {tmp_path}/mine.py", capsys)
    wrong = {c["name"]: c["says"] for c in found["checks"] if not c["good"]}

    assert wrong.keys() == want.keys()
    assert [n for n, says in want.items() if says not in wrong[n]] == []
    assert code == (0 if not want else 2 if "hello" in want else 1)


@pytest.mark.parametrize("target", ["nonsense", "cmd:/no/such/program"])
def test_what_does_not_start_ends_with_2(target: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert look(target, capsys)[0] == 2


def test_report_for_people(capsys: pytest.CaptureFixture[str]) -> None:
    assert smoke.main(["pyeal"]) == 0
    out = capsys.readouterr().out

    assert out.startswith("ok     hello             pyeal, release 22.11.11")
    assert out.endswith("\nready: pyeal conform --target pyeal\n")
