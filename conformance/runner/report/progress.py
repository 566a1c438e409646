"""pytest plugin of a run: what is going on, as JSON lines on the descriptor that the runner reads.

The runner loads it with -p; without the two variables below it does nothing.
CONFORM_PROGRESS  a descriptor: {"total": n}, then {"done": nodeid, "outcome": ...} for each test
CONFORM_COLLECTED a file: which requirement each test belongs to, for tests that kill their worker
"""

from __future__ import annotations

import json
import os

import pytest


def pytest_configure(config):
    if hasattr(config, "workerinput"):
        if config.workerinput["workerid"] == "gw0":
            config.pluginmanager.register(Collected())
        return
    if fd := os.environ.get("CONFORM_PROGRESS"):
        config.pluginmanager.register(Progress(int(fd)))
    if not getattr(config.option, "numprocesses", None):
        config.pluginmanager.register(Collected())


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config, items):
    """A quick run: of each test one parameter set, the first."""
    if "CONFORM_QUICK" in os.environ:
        first = {i.nodeid.partition("[")[0]: i for i in reversed(items)}
        items[:] = [i for i in items if first[i.nodeid.partition("[")[0]] is i]


class Collected:
    def pytest_collection_finish(self, session):
        if path := os.environ.get("CONFORM_COLLECTED"):
            with open(path, "w", encoding="utf-8") as f:
                json.dump({i.nodeid: self.facts(i) for i in session.items}, f)

    @staticmethod
    def facts(item):
        said = dict(item.user_properties)
        return [said.get(k, "") for k in ("requirement", "family", "statement")]


class Progress:
    def __init__(self, fd):
        self.fd, self.total = fd, 0

    def say(self, **what):
        try:
            os.write(self.fd, json.dumps(what).encode() + b"\n")
        except OSError:
            pass  # the runner has gone

    def pytest_collection_finish(self, session):
        if session.items:  # under xdist the workers collect
            self.say(total=len(session.items))

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, node, ids):
        if len(ids) > self.total:
            self.total = len(ids)
            self.say(total=self.total)

    def pytest_runtest_logreport(self, report):
        outcome = report.outcome
        if hasattr(report, "wasxfail") and outcome == "skipped":
            outcome = "deviating"
        family = dict(report.user_properties).get("family", "")
        done = report.when == "teardown" or report.when == "???"
        self.say(test=report.nodeid, family=family, outcome=outcome, when=report.when, done=done)
