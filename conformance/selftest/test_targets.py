"""A target that lies, hangs, aborts or exits is one failed test with its last words."""

import re
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from conformance import until
from conformance.harness import host

SELFTEST = Path(__file__).parent
TWO = """
@requirement("FAKE-001")
def test_lists(start):
    eal = start()
    assert eal.lists()[0].base_va == eal.segments()[0].addr

@requirement("FAKE-002")
def test_segments(start):
    assert len(start().segments()) == 16
"""


@pytest.fixture
def two(suite):
    suite.rows(("FAKE-001", "must", ""), ("FAKE-002", "must", ""))
    return suite


def test_honest_target_passes(two):
    done = two.run(TWO)

    assert (done.ret, done.outcomes) == (0, {"passed": 2})
    assert two.properties()[0] | {"host": ""} == {
        "requirement": "FAKE-001",
        "family": "FAKE",
        "level": "must",
        "host": "",
        "statement": "Its statement.",
        "mode": "dynmem",
        "target": "fake",
        "release": "22.11.11",
        "secondary": "fake",
    }


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        ("lie", "eal.lists()[0].base_va == eal.segments()[0].addr"),
        ("hang", "TargetHung: lists: no answer in 2 s"),
        ("abort", "TargetDied: lists: killed by SIGABRT"),
        ("kill", "TargetDied: lists: killed by SIGKILL"),
        ("exit", "TargetDied: lists: exited 7"),
        ("raise", "KeyError: 'no such key'"),
        ("noise", "not of the protocol: b'EAL: hello'"),
    ],
)
def test_fault_is_one_failed_test(two, fault, words):
    done = two.run(TWO, fault=fault)

    assert (done.ret, done.outcomes) == (1, {"passed": 1, "failed": 1})
    assert words in done.text
    assert "about to fail" in done.text


@pytest.mark.parametrize(
    "fault, words",
    [
        ("late-exit", "at the end of input: exited 3"),
        ("late-hang", "did not exit in 2 s at the end of input"),
    ],
)
def test_bad_end_is_an_error(suite, fault, words):
    done = suite.run(fault=fault)

    assert (done.ret, done.outcomes) == (1, {"passed": 1, "errors": 1})
    assert words in done.text


def test_printing_to_stdout_does_no_harm(suite):
    assert suite.run(fault="print").outcomes == {"passed": 1}


@pytest.mark.parametrize(
    "target",
    [
        f"cmd:{sys.executable} {SELFTEST}/faulty_target.py mute",
        "cmd:/no/such/program",
        "nonsense",
        "cmd:/bin/echo {}",
    ],
)
def test_target_that_does_not_start_is_a_broken_run(suite, target):
    assert suite.run(target=target).ret == pytest.ExitCode.USAGE_ERROR


@pytest.mark.skipif(not host.is_root(), reason="wanted root for a box")
def test_process_left_in_the_box_is_found_and_ended(suite):
    done = suite.run(fault="daemon")

    assert done.outcomes == {"passed": 1, "errors": 1}
    assert re.search(r"processes left in the box: \d+ sleep 1000", done.text)


def test_kill_9_of_the_run_leaves_no_process(suite):
    suite.file(
        "test_mini.py",
        """
from conformance import requirement
@requirement("FAKE-001")
def test_hangs(start):
    eal = start()
    open("pids", "w").write(f"{eal.pid} {getattr(eal.box, 'pid', eal.pid)}")
    eal.lists()
""",
    )
    run = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-p",
            "conformance.conftest",
            "--suite",
            ".",
            "--target",
            f"cmd:{sys.executable} {SELFTEST}/faulty_target.py hang",
            ".",
        ],
        cwd=suite.path,
        stdout=subprocess.DEVNULL,
    )
    assert until(lambda: (suite.path / "pids").exists() and (suite.path / "pids").read_text())
    pids = [int(p) for p in (suite.path / "pids").read_text().split()]
    run.send_signal(signal.SIGKILL)
    run.wait(10)

    assert until(lambda: not any(map(host.started, pids)))


def test_a_folder_that_is_closed_to_other_users_is_named():
    """A target that runs as another user cannot read the files in it: such a test is skipped."""
    with tempfile.TemporaryDirectory(dir="/tmp") as closed:  # to others, as all of its kind
        (inner := Path(closed, "suite")).mkdir()
        found = host.closed(inner)
        Path(closed).chmod(0o711)
        then = host.closed(inner)

    assert (found, then) == (Path(closed), None)
