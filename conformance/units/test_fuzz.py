"""Bad files, as many as an ordinary run has time for: `ci/fuzz --inputs 100000` for the rest."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from conformance.campaigns.fuzz import engine
from conformance.harness.child import environment
from conformance.units.test_fbarray import Array

INPUTS = 800
FAMILIES = "config", "fbarray", "hugepage_info", "hugepage_data", "heap", "message", "text"


def fuzz(*args: str) -> subprocess.CompletedProcess[str]:
    """In a process of its own: it forks, and a worker of pytest-xdist has threads."""
    command = [sys.executable, "-P", "-m", "conformance", "fuzz", *args]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=110)


@pytest.mark.parametrize("family", FAMILIES)
def test_bad_files_are_refused_or_read(family: str) -> None:
    done = fuzz(family, f"--inputs={INPUTS}")
    said = done.stdout + done.stderr

    assert done.returncode == 0, said
    _, inputs, refused, read, wrong, *_ = said.splitlines()[1].replace(",", "").split()
    assert (int(inputs), int(wrong), int(refused) + int(read)) == (INPUTS, 0, INPUTS)
    assert min(int(refused), int(read)) > INPUTS / 20, said


def test_what_lies_behind_the_last_entry_is_nobodys() -> None:
    """Stray bits in the mask's last word: no run reaches them, no search answers one."""
    a = Array(70)
    a.fb.mark(69)
    a.fb.words[8:] = b"\xff" * 8

    assert a.fb.runs() == [(64, 6)]
    assert (a.fb.find(69, True), a.fb.contig(64, True), a.fb.biggest(0, True)) == (69, 6, 64)


def test_what_was_found_before_stays_found() -> None:
    done = fuzz("--replay")

    assert done.returncode == 0, done.stdout + done.stderr
    assert {case.family for _, case in engine.kept()} <= set(FAMILIES)


PLANTED = """
import ctypes, os, sys, time
from conformance.campaigns.fuzz import engine
from conformance.campaigns.fuzz.engine import Case, Wrong

class Planted:
    name, allowed = "planted", (ValueError,)
    def seeds(self): return ["one"]
    def data(self, seed): return bytes(64)
    def ways(self, seed): return [""]
    def fields(self, seed): return []
    def read(self, case):
        match case.edits[0][0]:
            case 3: ctypes.string_at(8)
            case 5: raise KeyError("five")
            case 7: raise Wrong("seven")
            case 9: time.sleep(60)
            case 11: os._exit(4)
            case 13: bytearray(1 << 40)
            case 15: raise ValueError("as it should")

engine.LIMIT = 0.2
cases = [Case("planted", "one", "", ((i, b"x"), (0, b"y"))) for i in range(20)]
counts, found = engine.run(Planted(), cases.__getitem__, len(cases))
for f in found:
    print(f.case.edits[0][0], f.what)
print(counts.refused, counts.read, len(engine.smaller(Planted(), found[0]).case.edits))
"""


def test_each_way_to_be_wrong_is_found() -> None:
    """A crash, an exception, a fault that the family sees, a hang, an end, memory: and on."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", PLANTED], env=environment(), capture_output=True, text=True
    )

    assert sorted(done.stdout.splitlines()) == sorted(
        [
            "3 SIGSEGV",
            "5 KeyError in <string>: read",
            "7 wrong: seven",
            "9 hangs for 0.2 s",
            "11 exit 4",
            "13 MemoryError in <string>: read",
            "1 13 1",
        ]
    ), done.stderr


def test_a_case_is_the_same_in_every_run(tmp_path: Path) -> None:
    case = engine.Case("config", "22.11-dynmem/config", "observer", ((8, b"\1\2"),), 40)
    (tmp_path / "config-1.json").write_text(case.to_json("SIGBUS"))

    assert list(engine.kept(tmp_path)) == [(tmp_path / "config-1.json", case)]
    assert case.apply(bytes(48))[7:11] == b"\0\1\2\0" and len(case.apply(bytes(48))) == 40
