"""ci/attack: a few trials of each part, and that it finds what is wrong."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conformance import needs, until
from conformance.campaigns.fuzz.attach import WorkFolder
from conformance.harness.child import environment

PLANTED = """
import sys
from conformance.campaigns.attack import inputs, sweep
from pyeal.look.snapshot import Snapshot

%s
sys.exit(sweep.main(sys.argv[1:]))
"""


def attack(*args: str, plant: str = "") -> subprocess.CompletedProcess[str]:
    """In a process of its own: it forks, and a worker of pytest-xdist has threads."""
    command = [sys.executable, "-P", "-c", PLANTED % plant, *args]
    return subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=115)


def state_of(pid: str) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][:1]
    except OSError:
        return ""


@pytest.mark.parametrize("part", ["inputs", "attach", "heaps", "writers", "interrupts", "locks"])
def test_nothing_is_wrong(part: str) -> None:
    done = attack(part, "--trials=24", "--jobs=1")

    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "0 wrong"), done
    if " not run: " in done.stdout:
        pytest.skip(done.stdout.partition(" not run: ")[2].splitlines()[0])


def test_a_traceback_is_found_and_tried_again() -> None:
    plant = "Snapshot.tailqs = lambda self: [][0]"
    done = attack("inputs", "--trials=60", "--jobs=1", "--seed=3", plant=plant)
    again = done.stdout.partition("ci/attack ")[2].splitlines()[0].split()

    assert done.returncode == 1
    assert "IndexError" in done.stdout
    assert again[:2] == ["inputs", "--seed=3"]
    assert attack(*again, plant=plant).returncode == 1
    assert attack(*again).returncode == 0


def test_a_slow_tool_is_found() -> None:
    plant = "inputs.SECONDS = 0.0001"
    done = attack("inputs", "--trials=4", "--jobs=1", plant=plant)

    assert done.returncode == 1 and "takes over" in done.stdout


def test_a_damage_that_is_not_named_is_found() -> None:
    plant = "from pyeal.look import heap; heap.HeapCheck._compare = lambda self: None"
    done = attack("heaps", "--trials=8", "--jobs=1", plant=plant)

    assert done.returncode == 1 and "not named" in done.stdout


@needs(root=True, pages={"2M": 16})
def test_a_lock_of_a_dead_process_is_found() -> None:
    """Step 70 of malloc is within the heap's lock."""
    plant = "from pyeal import peers; peers.Primary.unheld = lambda self, va: False"
    done = attack("locks", "--number=350", plant=plant)

    assert done.returncode == 1 and "its holder may be dead" in done.stdout
    assert attack("locks", "--number=350").returncode == 0


def test_a_word_that_is_believed_is_found() -> None:
    """An array's length is that of its descriptor, which any process can write to."""
    plant = "from pyeal.fbarray import Fbarray\n"
    plant += "Fbarray.len = property(lambda self: self.desc.len, lambda self, n: None)"
    done = attack("writers", "--trials=80", "--jobs=1", plant=plant)

    assert done.returncode == 1 and "MemoryError" in done.stdout


@pytest.mark.parametrize("parts", [(), ("names",), ("heaps", "inputs")], ids=len)
def test_a_number_of_what_is_not_numbered_is_refused(parts: tuple[str, ...]) -> None:
    done = attack(*parts, "--number=3")

    assert done.returncode == 2 and "inputs attach heaps" in done.stderr


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_an_end_leaves_no_process_and_no_folder(how: signal.Signals, tmp_path: Path) -> None:
    """What a trial started ends as well: here a process that waits for its parent's word."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    plant = f"""
import os, time
from multiprocessing import get_context
from conformance.campaigns.attack import locks
def read(self, case):
    fork = get_context("fork")
    ends = fork.Pipe()
    p = fork.Process(target=locks.secondary, args=(os.getpid(), ends[1]))
    self.folder = inputs.attach.WorkFolder()
    p.start()
    with open({str(fifo)!r}, "w") as f:
        f.write(f"{{p.pid}} {{self.folder.name}}")
    time.sleep(60)
inputs.Inputs.read = read
inputs.Inputs.warm = lambda self: None
"""
    argv = [sys.executable, "-P", "-c", PLANTED % plant, "inputs", "--trials=1", "--jobs=1"]
    with subprocess.Popen(argv, env=environment(), stderr=subprocess.DEVNULL) as p:
        pid, folder = fifo.read_text().split()
        assert Path(folder).exists()
        p.send_signal(how)
    until(lambda: state_of(pid) in ("", "Z"))
    WorkFolder().cleanup()

    assert not Path(folder).exists()


@pytest.mark.parametrize("code", [2, 5])
def test_a_file_of_tests_that_pytest_does_not_run_is_no_success(code: int) -> None:
    plant = f"from conformance.harness import tests; tests.run = lambda *args: {code}"
    done = attack("names", plant=plant)

    assert done.returncode != 0 and f"exit code {code}" in done.stderr
