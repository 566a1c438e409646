"""The report: a real pytest run of a small suite, read back into verdicts."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET

import pytest

import conformance
from conformance.runner import run
from conformance.runner.report import merge, pages, results

ROOT = conformance.SUITE.parent
CONFTEST = """
import pytest
def pytest_collection_modifyitems(items):
    for i in items:
        if m := i.get_closest_marker("requirement"):
            id = m.args[0]
            i.user_properties += [("requirement", id), ("family", id[:3]), ("statement", "so")]
            if m.kwargs:
                i.user_properties.append(("deviation", m.kwargs["why"]))
                i.add_marker(pytest.mark.xfail(strict=True, reason="deviation: x"))
"""
SUITE = """
import os, pytest
r = pytest.mark.requirement
@pytest.fixture
def leaky():
    yield
    pytest.fail("2 2M pages are missing", pytrace=False)

@r("AAA-001")
@pytest.mark.parametrize("n", [1, 2])
def test_passes(n, request):
    request.node.user_properties.append(("evidence", f"saw {n}"))
@r("AAA-002", why="it counts from one")
def test_deviates(): assert 1 == 2
@r("AAA-003", why="no longer")
def test_deviates_no_more(): pass
@r("AAA-004")
def test_fails(): assert [1] == [2], "not equal"
@r("BBB-001")
@pytest.mark.parametrize("pages", [8, 64])
def test_cannot(pages): pytest.skip(f"wanted {pages} free 2M pages, found 0")
@r("BBB-002")
def test_cannot_either(): pytest.skip("wanted 16 free 2M pages, found 0")
@r("BBB-003")
@pytest.mark.parametrize("root", [False, True])
def test_one_of_two(root):
    if root: pytest.skip("wanted root, found uid 65534")
@r("BBB-004")
def test_leaves_pages_behind(leaky): pass
@r("CCC-001")
def test_kills_its_worker():
    if "PYTEST_XDIST_WORKER" in os.environ: os._exit(9)
def test_of_no_row(): pass
"""


@pytest.fixture(scope="module", params=["alone", "xdist"])
def log(request, tmp_path_factory):
    d = tmp_path_factory.mktemp("suite")
    (d / "conftest.py").write_text(CONFTEST)
    (d / "test_it.py").write_text(SUITE)
    (d / "pytest.toml").write_text('[pytest]\nmarkers = ["requirement"]\n')
    env = os.environ | {"PYTHONPATH": str(ROOT), "CONFORM_COLLECTED": str(d / "collected")}
    env.pop("PYTEST_XDIST_WORKER", None)
    argv = [
        "-c",
        "pytest.toml",
        "-p",
        "conformance.runner.report.progress",
        "-p",
        "no:cacheprovider",
    ]
    argv += ["--report-log=part", "--junitxml=part.xml"]
    argv += ["-n2"] if request.param == "xdist" else []
    subprocess.run([sys.executable, "-m", "pytest", *argv], cwd=d, env=env, capture_output=True)
    header = {"$report_type": "Run", "target": "fake", "release": "1", "host": {"name": "h"}}
    collected = {"$report_type": "Collected", "tests": json.loads((d / "collected").read_text())}
    lines = [json.dumps(header | {"seconds": 1}), json.dumps(collected), (d / "part").read_text()]
    (d / "run.jsonl").write_text("\n".join(lines))
    return d / "run.jsonl", request.param == "xdist"


def matrix(runs):
    m = merge.Matrix()
    for r in runs:
        m.add(r)
    return m


def test_verdicts_of_requirements(log):
    path, crashes = log
    (r,) = results.load(path)
    got = {i: results.verdict(t) for i, t in r.requirements().items() if "-" in i}

    assert got == {
        "AAA-001": "passed",
        "AAA-002": "deviating",
        "AAA-003": "failed",
        "AAA-004": "failed",
        "BBB-001": "skipped",
        "BBB-002": "skipped",
        "BBB-003": "passed",
        "BBB-004": "failed",
        "CCC-001": "failed" if crashes else "passed",
    }


def test_summary_has_exactly_the_agreed_keys(log):
    path, crashes = log
    got = pages.summary(matrix(results.load(path)))

    assert got == {
        "targets": {
            "fake": {
                "release": "1",
                "ran": 8,
                "rows": 10,
                "families": {
                    "AAA": {"passed": 1, "deviating": 1, "failed": 2, "skipped": 0},
                    "BBB": {"passed": 1, "deviating": 0, "failed": 1, "skipped": 2},
                    "CCC": {"passed": 0, "deviating": 0, "failed": 1, "skipped": 0}
                    if crashes
                    else {"passed": 1, "deviating": 0, "failed": 0, "skipped": 0},
                    "other": {"passed": 1, "deviating": 0, "failed": 0, "skipped": 0},
                },
            }
        },
        "host": {"name": "h"},
    }


def test_reasons_of_tests(log):
    (r,) = results.load(log[0])
    why = {i: t[0].reason for i, t in r.requirements().items()}

    assert why["AAA-002"] == "it counts from one"
    assert "[XPASS(strict)]" in why["AAA-003"]
    assert "not equal" in why["AAA-004"]
    assert why["BBB-004"] == "in teardown: 2 2M pages are missing"
    if log[1]:
        assert "crashed while running" in why["CCC-001"]


def test_skips_are_summed_up_by_reason(log):
    runs = results.load(log[0])

    assert runs[0].reasons() == [("wanted up to 16 free 2M pages, found 0", 2)]
    said = {what.split(",")[0].split(" (")[0]: n for what, n in run.wanted(runs)}
    assert said == {"--reserve 2M:64": 2, "root": 1}


def test_matrix_and_page_hold_every_verdict(log):
    runs = results.load(log[0])
    m = matrix(runs)
    text, html = run.matrix(runs), pages.page(pages.data(m, {}, {}, "so"))

    assert text.splitlines()[2].split() == ["AAA", "1", "1", "2", "0"]
    assert "| AAA | 1 / 1 / 2 / 0 |" in pages.markdown(m)
    for i in runs[0].requirements():
        assert i in html
    assert "saw 2" in html and "it counts from one" in html
    assert "<link" not in html and "src=" not in html


def test_eight_targets_fit_a_terminal():
    """Counts of up to 999, and how many rows ran: 120 columns, nothing cut, each target's head."""
    runs = []
    for name in "20.11", "22.11", "24.11", "25.11":
        for kind in "pyeal", "librte_eal":
            header = {"target": f"{kind}:{name}", "release": f"{name}.10"}
            runs.append(results.Run(header))
            for i in range(200 + 3):
                said = {
                    "nodeid": f"{i}",
                    "when": "call",
                    "user_properties": [("requirement", f"CLEAN-{i:03}"), ("family", "CLEAN")],
                }
                said["outcome"] = "skipped" if i < 3 else "passed"
                runs[-1].add({"$report_type": "TestReport", **said})
    lines = run.matrix(runs).splitlines()

    assert max(map(len, lines)) <= 120
    assert lines[0].split() == ["pyeal", "librte_eal"] * 4
    assert lines[1].split()[::2] == ["20.11.10", "22.11.10", "24.11.10", "25.11.10"]
    assert lines[-2].split() == ["total", *["200/0/0/3"] * 8]
    assert lines[-1].split()[:4] == ["ran", "200", "of", "203"]


def test_junit_is_one_file_with_a_suite_a_target(log, tmp_path):
    part = log[0].with_name("part.xml")
    results.junit([("a", part), ("b", part), ("c", tmp_path / "none")], tmp_path / "all.xml")

    suites = ET.parse(tmp_path / "all.xml").getroot().findall("testsuite")
    assert [s.get("name") for s in suites] == ["a", "b"]


def test_a_cut_log_is_broken_and_still_read(log, tmp_path):
    lines = log[0].read_text().splitlines()
    (tmp_path / "cut").write_text("\n".join(lines[:10]) + '\n{"$report_type": "Tes')
    (r,) = results.load(tmp_path / "cut")

    assert r.broken == ["the run ended before its time: no last line in its log"]
    assert r.tests


def test_two_runs_of_one_target_on_one_host_are_no_report(log):
    with pytest.raises(results.BadMerge, match="two runs of fake 1 on h"):
        results.load(log[0], log[0])


def test_pairs_are_counted_by_release_and_mode():
    """Two pairs of one release: a requirement that fails in one mode does not in the other."""
    runs = []
    for second in "librte_eal:22.11", "pyeal:22.11.11":
        header = {"target": second, "spec": "pyeal:22.11.11", "secondary": second}
        runs.append(results.Run(header | {"release": "22.11.11"}))
    for nodeid, mode, outcome in ("a", "dynmem", "failed"), ("b", "legacy", "passed"):
        props = [("requirement", "SEC-031"), ("family", "SEC"), ("mode", mode)]
        seen = {"nodeid": nodeid, "when": "call", "outcome": outcome, "user_properties": props}
        runs[0].add({"$report_type": "TestReport", **seen})

    assert results.interop(runs).splitlines() == [
        "| release | primary × secondary | dynmem | legacy |",
        "|---|---|---|---|",
        "| **22.11.11** | pyeal × librte_eal | 0 / 0 / 1 / 0 | 1 / 0 / 0 / 0 |",
        "|  | pyeal × pyeal | 0 / 0 / 0 / 0 | 0 / 0 / 0 / 0 |",
    ]
