"""The table of DPDK's own fixes: what it counts as seen, and that the page is the data's."""

import pytest

from conformance import SUITE
from conformance.harness import catalogue
from conformance.runner import history
from conformance.runner.report import fixes

ENTRY = {"commit": "0" * 10, "date": "2026-01-01", "subject": "mem: fix | it", "rows": ["FBA-*"]}


def result(**verdicts):
    found = {id.replace("_", "-"): words for id, words in verdicts.items()}
    return {"ran": "", "release": "", "verdicts": found, "failed": [], "judged": 20}


@pytest.mark.parametrize(
    ("more", "kind", "outcome"),
    [
        ({"why": "a comment alone"}, "cannot be seen", "a comment alone"),
        ({}, "not run", ""),
        ({"result": result()}, "not seen", "20 requirements of FBA are alike on both"),
        ({"result": result(FBA_001=["failed", "passed"])}, "seen", "FBA-001 failed → passed"),
        ({"result": result(FBA_001=["passed", "failed"])}, "not seen", "FBA-001 passed → failed"),
    ],
)
def test_a_fix_is_seen_if_a_row_fails_before_it_alone(more, kind, outcome):
    entry = ENTRY | more

    assert (fixes.kind(entry), fixes.outcome(entry)) == (kind, outcome)
    assert f"1 {kind}" in fixes.markdown({"fixes": [entry]})


def test_each_fix_names_families_that_are_there_or_why_not():
    families = {row.family for row in catalogue.rows().values()}
    for entry in fixes.load()["fixes"]:
        named = {p.partition("-")[0] for p in entry["rows"]}
        assert named <= families
        assert not (named and "why" in entry)


def test_page_is_made_of_the_data():
    page = SUITE.parent / "docs/history.md"
    if not page.exists():
        pytest.skip("wanted a checkout, found an installed suite")

    assert page.read_text() == fixes.markdown(fixes.load())


def test_named_fixes_run_again_and_else_those_without_a_result():
    done = ENTRY | {"result": result()}

    assert history.asked(done, ["000000000000"])
    assert not history.asked(done, ["111"])
    assert history.asked(ENTRY, [])
    assert not history.asked(done, [])
    assert not history.asked(ENTRY | {"why": "x"}, [])
