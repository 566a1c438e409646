"""Findings: each has its row, its test, its command, and what that printed."""

import re
from pathlib import Path

import pytest

from conformance import catalogue
from conformance.report import pages

AS_FOUND = ("ERR-012",)  # a row of must that says itself what goes wrong
DOCS = next((d / "docs" for d in (pages.SUITE.parent, Path.cwd()) if (d / "docs").exists()), None)


@pytest.mark.parametrize("f", pages.findings(), ids=lambda f: f.id)
def test_a_finding_is_what_a_row_says_or_what_deviates_from_one(f):
    row = catalogue.rows()[f.id]
    command = re.fullmatch(rf"ci/conform {f.id} --target librte_eal:(\d\d\.11)", f.run)
    told = [
        d for d in catalogue.deviations() if d.id == f.id and "librte" in d.target + d.secondary
    ]

    assert f.id in pages.tests()
    assert command and catalogue.holds(row.releases, command[1])
    assert row.level == "as-is" or told or f.id in AS_FOUND
    assert f.title and f.what and f.saw
    first, *last = re.findall(r"\d\d\.11", f.releases)
    assert first <= command[1] <= (last or [first])[-1]


def test_findings_are_told_once():
    ids = [f.id for f in pages.findings()]

    assert len(ids) == len(set(ids)) > 15


@pytest.mark.skipif(not DOCS, reason="wanted a checkout, found the suite alone")
def test_docs_follow():
    """ci/report findings writes it anew."""
    assert (DOCS / "findings.md").read_text() == pages.findings_markdown(pages.findings())
