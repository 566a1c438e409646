"""Findings: each has its row, its test, its command, and what that printed."""

import re
from pathlib import Path

import pytest

from conformance import SUITE
from conformance.harness import catalogue, decode
from conformance.runner.report import pages

AS_FOUND = ("ERR-012",)  # a row of must that says itself what goes wrong
DOCS = next((d / "docs" for d in (SUITE.parent, Path.cwd()) if (d / "docs").exists()), None)


@pytest.mark.parametrize("f", pages.findings(), ids=lambda f: f.id)
def test_a_finding_is_what_a_row_says_or_what_deviates_from_one(f):
    row = catalogue.rows()[f.id]
    command = re.fullmatch(rf"ci/conform {f.id} --target librte_eal:(\d\d\.11)", f.run)
    told = [
        d for d in catalogue.deviations() if d.id == f.id and "librte" in d.target + d.secondary
    ]

    assert f.id in pages.tests()
    assert command  # Debian's is the newest of its line
    assert catalogue.holds(row.releases, decode.release(command[1]).name)
    assert row.level == "as-is" or told or f.id in AS_FOUND
    assert f.title and f.what and f.saw
    first, *last = re.findall(r"\d\d\.11", f.releases)
    assert first <= command[1] <= (last or [first])[-1]


def test_findings_are_told_once():
    ids = [f.id for f in pages.findings()]

    assert len(ids) == len(set(ids)) > 15


@pytest.mark.skipif(not DOCS, reason="wanted a checkout, found the suite alone")
def test_docs_follow():
    """ci/report findings writes it again."""
    assert (DOCS / "findings.md").read_text() == pages.findings_markdown(pages.findings())


def test_a_row_says_how_it_was_confirmed():
    """On 22.11.11 what holds there; what has a test is not only read, unless no package has it."""
    rows = catalogue.rows()
    alone = [i for i, row in rows.items() if pages.ALONE in pages.known(row)]

    assert alone == ["CFG-015", "HPI-008", "MSL-004", "SEC-009", "SEG-002"]
    for i, row in rows.items():
        assert pages.known(row)
        assert "R" not in row.evidence or catalogue.holds(row.releases, "22.11.11"), i
        assert row.evidence != "S" or i in alone or i not in pages.tests(), i
