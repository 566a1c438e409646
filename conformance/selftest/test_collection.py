"""Ids are known, single and complete; deviations and skips are what they say."""

import sys

import pytest

from conformance.harness import host
from conformance.selftest.conftest import GOOD, SELFTEST

BROKEN = pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.INTERRUPTED
TWICE = """
@requirement("FAKE-001")
def test_one(start): pass
@requirement("FAKE-001")
def test_two(start): pass
"""
UNKNOWN = """
@requirement("FAKE-009")
def test_one(start): pass
"""
FAILS = """
@requirement("FAKE-001")
def test_never_true(start):
    assert start().lists() == []
"""


@pytest.mark.parametrize("args", [(), ("-n2",)], ids=["alone", "xdist"])
@pytest.mark.parametrize(
    ("tests", "words"),
    [
        (TWICE, "FAKE-001 is tested twice: test_mini.py::test_one and test_mini.py::test_two"),
        (UNKNOWN, "test_mini.py::test_one: no requirement FAKE-009"),
        ("def test_any(): pass", "test_mini.py::test_any checks no requirement"),
        ("", "FAKE-001 is a must without a test"),
    ],
    ids=["twice", "unknown", "none", "missing"],
)
def test_contradiction_is_a_broken_run(suite, tests, words, args):
    done = suite.run(tests, *args, subprocess=bool(args))

    assert done.ret in BROKEN
    assert words in done.text
    assert "passed" not in done.outcomes


@pytest.mark.parametrize(
    ("untested", "words"),
    [
        ("FAKE-001", "untested.toml: FAKE-001 is tested by test_mini.py"),
        ("FAKE-*", "untested.toml: every requirement of FAKE-* is tested"),
        ("GONE-*", "untested.toml: GONE-* matches no requirement"),
    ],
)
def test_stale_untested_is_a_broken_run(suite, untested, words):
    suite.file("untested.toml", f'"{untested}" = "later"')
    done = suite.run()

    assert done.ret in BROKEN
    assert words in done.text


def test_untested_with_a_reason_and_as_is_rows_need_no_test(suite):
    suite.rows(("FAKE-001", "must", ""), ("FAKE-002", "must", ""), ("FAKE-003", "as-is", ""))
    suite.file("untested.toml", '"FAKE-002" = "later"')

    assert suite.run().outcomes == {"passed": 1}


def test_part_of_a_suite_may_lack_tests(suite):
    suite.rows(("FAKE-001", "must", ""), ("FAKE-002", "must", ""))

    assert suite.run(part=True).outcomes == {"passed": 1}


@pytest.mark.parametrize("row", ['[FAKE-001]\nstatement = "half a row"', "no toml"])
def test_bad_catalogue_is_a_broken_run(suite, row):
    suite.file("requirements/FAKE.toml", row)

    assert suite.run().ret in BROKEN


# Deviations


def test_deviation_explains_a_failure(suite):
    suite.deviation(id="FAKE-001")
    done = suite.run(FAILS)

    assert (done.ret, done.outcomes) == (0, {"xfailed": 1})
    assert suite.properties()[0]["deviation"] == "known"


def test_deviation_covers_a_target_that_dies(suite):
    suite.deviation(id="FAKE-001")

    assert suite.run(fault="abort").outcomes == {"xfailed": 1}


def test_deviation_that_passes_fails_the_run(suite):
    suite.deviation(id="FAKE-001")
    done = suite.run()

    assert (done.ret, done.outcomes) == (1, {"failed": 1})
    assert "XPASS(strict)" in done.text


def test_deviation_does_not_cover_a_fault_of_the_test(suite):
    suite.deviation(id="FAKE-001")
    done = suite.run(FAILS.replace("start().lists()", "nonsense"))

    assert (done.ret, done.outcomes) == (1, {"failed": 1})


@pytest.mark.parametrize(
    "entry",
    [
        {"target": "other"},
        {"releases": ">=25.11"},
        {"secondary": "other"},
        {"fact": "Debian's package"},
    ],
    ids=["target", "release", "secondary", "fact"],
)
def test_deviation_of_another_does_not_count(suite, entry):
    suite.deviation(id="FAKE-001", **entry)

    assert suite.run(FAILS).outcomes == {"failed": 1}
    assert suite.run().outcomes == {"passed": 1}


@pytest.mark.parametrize(
    "entry",
    [
        {"id": "FAKE-002"},
        {"params": "legacy"},
        {"typo": "x"},
        {"since": "lately"},
        {"why": ""},
    ],
    ids=["id", "params", "key", "date", "why"],
)
def test_stale_deviation_is_a_broken_run(suite, entry):
    suite.deviation(**{"id": "FAKE-001"} | entry)
    done = suite.run()

    assert done.ret in BROKEN
    assert "deviations.toml: " in done.text


# Skips: wanted this, found that


@pytest.mark.parametrize(
    ("needs", "words"),
    [
        ('pages={"2M": 99999999}', "wanted 99999999 free 2M pages, found"),
        ("nodes=999", f"wanted 999 NUMA nodes, found {len(host.nodes())}"),
        ('kernel="99.0"', "wanted kernel 99.0, found "),
        ('path="/no/such"', "wanted /no/such, found none"),
        ('release=">=25.11"', "not in this release: >=25.11, target is 22.11.11"),
        ('verbs=["alloc"]', "fake has no verb alloc"),
    ],
    ids=["pages", "nodes", "kernel", "path", "release", "verbs"],
)
def test_need_that_is_not_met_is_a_skip_with_both_numbers(suite, needs, words):
    done = suite.run(
        f'@requirement("FAKE-001")\n@needs({needs})\ndef test_it(start): start().lists()'
    )

    assert done.outcomes == {"skipped": 1}
    assert words in done.text


def test_unknown_need_is_an_error(suite):
    done = suite.run('@requirement("FAKE-001")\n@needs(pgaes=1)\ndef test_it(): pass')

    assert done.outcomes == {"errors": 1}


def test_unknown_verb_is_a_skip(suite):
    done = suite.run('@requirement("FAKE-001")\ndef test_it(start): start().malloc(1)')

    assert done.outcomes == {"skipped": 1}
    assert "fake has no verb malloc" in done.text


def test_row_of_another_release_is_a_skip(suite):
    suite.rows(("FAKE-001", "must", "<=21.11"))

    assert suite.run().outcomes == {"skipped": 1}


def test_modes_and_sizes_have_ids_written_by_hand(suite):
    done = suite.run(
        """
@requirement("FAKE-001")
@modes("in-memory", "no-huge")
@sizes({"2M": 99999999, "1G": 99999999})
def test_it(start, mode, page): pass
""",
        "-v",
    )

    for ids in ("2M-in-memory", "1G-in-memory", "2M-no-huge", "1G-no-huge"):
        assert f"test_it[{ids}]" in done.text


def test_id_picks_requirements_and_shows_the_evidence(suite):
    suite.rows(("FAKE-001", "must", ""), ("FAKE-002", "must", ""))
    suite.file("untested.toml", '"FAKE-002" = "later"')
    done = suite.run(
        """
@requirement("FAKE-001")
def test_it(start, evidence): evidence("seen with my own eyes")
""",
        "--id",
        "FAKE-*",
    )

    assert "FAKE-001: Its statement." in done.text
    assert "seen with my own eyes" in done.text
    assert suite.properties()[0]["evidence"] == "seen with my own eyes"


# Pairs


def test_a_pair_runs_only_what_joins(suite):
    suite.rows(("FAKE-001", "must", ""), ("FAKE-002", "must", ""))
    joins = (
        GOOD.replace("001", "002")
        .replace("is_where", "lies_where")
        .replace("(start)", "(start, join)")
        .replace("eal = start()", "eal = join()")
    )
    target = f"cmd:{sys.executable} {SELFTEST}/fake_target.py"
    done = suite.run(GOOD + joins, "--secondary", target)

    assert (done.ret, done.outcomes) == (0, {"passed": 1, "deselected": 1})
    assert suite.properties()[0]["secondary"] == "fake"
    assert "secondary: fake" in done.text


def test_a_pair_is_of_one_release(suite):
    done = suite.run(GOOD, "--secondary", "pyeal:24.11.6")

    assert done.ret == 4
    assert "--target is 22.11.11, --secondary 24.11.6" in done.text
