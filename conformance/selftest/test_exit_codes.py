"""Exit codes of a run: 1 says that a requirement failed, 2 that it could not be judged."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from types import SimpleNamespace

import pytest

from conformance import needs
from conformance.harness import neighbours
from conformance.harness.child import environment
from conformance.runner import run, summary
from conformance.runner.report import results

TEST = """
import pytest
from conformance.harness import box

@requirement("FAKE-001")
def test_it():
    raise {}
"""
HEADER = {"$report_type": "Run", "target": "fake", "release": "22.11.11"}


def judged(log, code):
    """What the runner makes of a log, as an exit code."""
    text = json.dumps(HEADER) + "\n" + log.read_text()
    log.write_text(text)
    (one,) = results.load(log)
    return run.judge([(SimpleNamespace(name="fake"), None, code, log)], [one])


@pytest.mark.parametrize(
    ("raises", "code"),
    [
        ("AssertionError", 1),
        ("OSError(28, 'No space left on device')", 2),
        ("OSError(24, 'Too many open files')", 2),
        ("OSError(2, 'No such file')", 1),  # the target should have made it
        ("box.BoxError('mount: no')", 2),
    ],
    ids=["assert", "disk", "files", "file", "box"],
)
def test_what_fails_on_this_machine_is_no_verdict(suite, capsys, raises, code):
    done = suite.run(TEST.format(raises))

    assert done.ret == 1
    assert judged(suite.log, 1) == code
    assert ("this machine fails" in capsys.readouterr().err) == (code == 2)


def test_tests_that_neighbours_disturbed_in_each_try_are_no_verdict(suite, capsys):
    done = suite.run(TEST.format(f"pytest.skip({neighbours.NOT_JUDGED!r})"))

    assert done.outcomes == {"skipped": 1}
    assert judged(suite.log, 0) == 2
    assert "1 tests not judged: other users of hugepages" in capsys.readouterr().err


COMMANDS = """
import sys
from conformance import __main__ as commands
def fail(argv): raise {error}
for name in commands.COMMANDS:
    commands.COMMANDS[name] = fail
    print(name, commands.main([name]))
"""


@pytest.mark.parametrize(
    ("error", "says"),
    [
        ("OSError(28, 'No space left on device')", "this machine fails: [Errno 28]"),
        ("KeyError('x')", "KeyError: 'x'"),
    ],
    ids=["disk", "fault"],
)
def test_no_command_ends_with_1_because_it_fails_itself(error, says):
    argv = [sys.executable, "-P", "-c", COMMANDS.format(error=error)]
    done = subprocess.run(argv, env=environment(), capture_output=True, text=True, check=True)
    lines = done.stdout.splitlines()

    assert len(lines) > 10 and {line.split()[1] for line in lines} == {"2"}
    assert done.stderr.count(says) == len(lines)


@needs(root=True)
@pytest.mark.parametrize("full", ["report", "work"])
def test_a_full_disk(tmp_path, full):
    """The report's, or the one that tests work on; the log of pytest is quoted."""
    small = tmp_path / "small"
    small.mkdir()
    inside = [sys.executable, "-P", "-m", "conformance", "run", "--target", "pyeal", "FBA-001"]
    inside += ["--report", small if full == "report" else tmp_path / "report"]
    mounts = f"mount -t tmpfs -o size=16k none {small}; head -c 12k /dev/zero >{small}/x"
    if full == "work":
        mounts += "; mount -t tmpfs -o size=4k none /dev/shm"
    script = f"{mounts}; exec {shlex.join(map(str, inside))}"
    env = environment() | ({"TMPDIR": str(small)} if full == "work" else {})
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-c", script], env=env, capture_output=True, text=True
    )

    assert done.returncode == 2, done.stdout + done.stderr
    assert "No space left on device" in done.stdout + done.stderr
    assert not done.stderr.startswith("Traceback")


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["passed"], 0, "1 passed, 0 failed, 0 skipped\n"),
        (["passed", "skipped"], 0, "1 passed, 0 failed, 1 skipped\n"),
        (["failed", "broken"], 1, "0 passed, 2 failed, 0 skipped\n"),
        (["passed", "broken"], 2, "1 passed, 1 failed, 0 skipped\n"),
    ],
)
def test_a_broken_step_of_ci_test_is_no_failure(tmp_path, capsys, words, code, says):
    (tmp_path / "checks").write_text("".join(f"{w} step\n" for w in words))

    assert summary.main([str(tmp_path), str(tmp_path / "run.jsonl"), "lint"]) == code
    assert capsys.readouterr().out.endswith(says)
