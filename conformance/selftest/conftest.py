"""Mini suites with a fake target: what a suite must never let pass."""

import json
import os
import shutil
import sys
from datetime import date
from pathlib import Path

import pytest

from conformance import SUITE

pytest_plugins = ["pytester"]
SELFTEST = Path(__file__).parent

ROW = """
[{id}]
statement = "Its statement."
level = "{level}"
applies = "all"
modes = ["N"]
releases = "{releases}"
check = "c"
needs = "-"
source = "s"
evidence = "R"
"""
HEAD = "from conformance import modes, needs, requirement, sizes\n"
GOOD = """
@requirement("FAKE-001")
def test_base_is_where_segment_0_is(start):
    eal = start()
    assert eal.lists()[0].base_va == eal.segments()[0].addr
"""


class Suite:
    """A suite of its own in a temporary folder; `run` answers outcomes and what was printed."""

    def __init__(self, pytester):
        self.pytester, self.path = pytester, pytester.path
        shutil.copy(SUITE / "pytest.toml", self.path)
        (self.path / "requirements").mkdir()
        self.rows(("FAKE-001", "must", ""))

    def rows(self, *rows):
        (self.path / "requirements/FAKE.toml").write_text(
            "".join(ROW.format(id=i, level=level, releases=r) for i, level, r in rows)
        )

    def file(self, name, text):
        (self.path / name).write_text(text)

    def deviation(self, **entry):
        entry = {"target": "fa*", "since": date(2026, 1, 1), "why": "known"} | entry
        lines = (f"{k} = {v if isinstance(v, date) else json.dumps(v)}\n" for k, v in entry.items())
        self.file("deviations.toml", "[[deviation]]\n" + "".join(lines))

    def run(self, tests=GOOD, *args, fault="", limit=2, target=None, subprocess=False, part=False):
        """part: only one file of the suite is run, not the whole."""
        self.file("test_mini.py", HEAD + tests)
        script = f"{SELFTEST}/faulty_target.py {fault}" if fault else f"{SELFTEST}/fake_target.py"
        self.log = self.path / "run.jsonl"
        run = self.pytester.runpytest_inprocess
        if subprocess:
            run = self.pytester.runpytest_subprocess
        done = run(
            "-p",
            "conformance.conftest",
            "-p",
            "no:cacheprovider",
            "--suite",
            self.path,
            "--target",
            target or f"cmd:{sys.executable} {script}",
            "--limit",
            str(limit),
            "--report-log",
            self.log,
            *args,
            self.path / "test_mini.py" if part else self.path,
        )
        done.text = "\n".join(done.outlines + done.errlines)
        done.outcomes = done.parseoutcomes() if " in " in done.text else {}
        return done

    def properties(self):
        """user_properties of the calls, from the report log."""
        lines = map(json.loads, self.log.read_text().splitlines())
        return [dict(r["user_properties"]) for r in lines if r.get("when") == "call"]


@pytest.fixture
def suite(pytester, monkeypatch):
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(SUITE.parent), prepend=os.pathsep)
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")  # their imports cost most
    monkeypatch.setenv("PYTEST_PLUGINS", "xdist.plugin,pytest_timeout,pytest_reportlog.plugin")
    return Suite(pytester)
