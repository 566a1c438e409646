"""The command line: first steps, what was meant, the terminal's width and encoding, exit codes."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from pyeal import tools
from pyeal.cli import main
from pyeal.look.find import meant
from pyeal.tools import commands

WIDTHS = [60, 80, 100]


def test_without_a_command_there_are_three_first_steps(capsys):
    assert main([]) == 0

    steps = [line for line in capsys.readouterr().out.splitlines() if line.startswith("  pyeal ")]
    assert len(steps) == 3
    assert all(step.split()[1] in commands.COMMANDS for step in steps)


def test_help_begins_with_doctor_and_has_every_command_once(capsys):
    assert main(["--help"]) == 0

    text = capsys.readouterr().out
    names = [x.split()[0] for x in text.splitlines() if x.startswith("  ")]
    assert names[0] == "doctor"
    assert sorted(names) == sorted(dict(commands.summaries()))
    assert max(map(len, text.splitlines())) <= 80


def test_help_of_a_command_is_its_own(capsys):
    assert main(["help", "doctor"]) == 0
    assert capsys.readouterr().out.startswith("usage: pyeal doctor")


@pytest.mark.parametrize(
    ("argv", "meant"),
    [
        (["docter"], "did you mean doctor?"),
        (["ps", "--jsn"], "did you mean --json?"),
        (["doctor", "-l", "0-3"], "pyeal doctor -- -l 0-3"),
        (["plan", "--socket-mem", "64"], "pyeal plan -- --socket-mem 64"),
    ],
    ids=["command", "option", "short", "long"],
)
def test_what_was_meant_is_named(argv, meant, capsys):
    assert main(argv) == 2
    assert meant in capsys.readouterr().err


def test_a_mistyped_prefix_is_named():
    assert "'vswitch1'" in meant("vswich1", ["rte", "vswitch1"])
    assert meant("demo", ["rte", "vswitch1"]) == ""


@pytest.mark.parametrize("width", WIDTHS)
def test_a_table_fits_the_terminal_and_loses_nothing(width, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(width))
    rows = [("NAME", "WHERE", "BYTES", "WHY"), ("a", "/dev/" + "h" * 40, "2M", "held " * 20)]

    lines = tools.table(rows, right="BYTES", fit=True).splitlines()

    assert max(map(len, lines)) <= width
    assert "".join("".join(lines).split()).count("held") == 20


def test_a_table_into_a_pipe_has_a_line_for_each_row(monkeypatch, capfd):
    monkeypatch.delenv("COLUMNS", raising=False)
    rows = [("NAME", "WHY"), ("a", "held " * 60)]

    assert len(tools.table(rows, fit=True).splitlines()) == 2


@pytest.mark.parametrize(
    ("env", "colour"),
    [({"FORCE_COLOR": "1"}, True), ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False), ({}, False)],
    ids=["force", "no", "pipe"],
)
def test_colours_follow_the_environment(env, colour, monkeypatch):
    for name in ("FORCE_COLOR", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)
    for name, value in env.items():
        monkeypatch.setenv(name, value)

    assert tools.coloured() is colour


def test_a_dumb_terminal_has_no_colours(monkeypatch):
    monkeypatch.delenv("FORCE_COLOR", raising=False)
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert tools.coloured()
    monkeypatch.setenv("TERM", "dumb")
    assert not tools.coloured()


def test_a_closed_pipe_and_ascii_change_no_exit_code():
    """Text of 30 kB into a closed pipe ends with 0; ASCII prints no traceback."""
    command = [sys.executable, "-m", "pyeal", "man"]
    read, write = os.pipe()
    os.close(read)
    closed = subprocess.run(command, stdout=write, stderr=subprocess.PIPE, text=True, timeout=30)
    os.close(write)
    env = {**os.environ, "PYTHONIOENCODING": "ascii"}
    ascii_ = subprocess.run(
        [sys.executable, "-c", "from pyeal import cli; cli._tame_stdout(); print('2×2M \u2588')"],
        capture_output=True,
        text=True,
        env=env,
        timeout=30,
    )

    assert (closed.returncode, closed.stderr) == (0, "")
    assert (ascii_.stdout, ascii_.stderr) == ("2x2M #\n", "")


def test_an_empty_log_is_nothing_to_explain(monkeypatch, tmp_path):
    empty = tmp_path / "log"
    empty.touch()
    with empty.open() as f:
        monkeypatch.setattr(sys, "stdin", f)
        assert main(["explain"]) == 2
