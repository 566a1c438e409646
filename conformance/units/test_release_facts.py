"""pyeal/releases.py against DPDK's history: fixtures/releases/facts.json, which ci/facts writes."""

import json
from functools import cache

import pytest

from conformance.harness import decode
from pyeal import releases

FACTS = decode.LAYOUTS.parents[1] / "releases/facts.json"
KEYS = ("main", "releases", "others")

# Where the table differs from the history: (fact, first release, last release): why. A row that no
# longer describes a difference fails the test.
DIFFERENCES = {
    ("cpus_looked_at", "21.11", "21.11.9"): "128 CPUs in the whole line",
    ("cpus_looked_at", "22.11", "22.11.7"): "came as a fix to 22.11.8",
    ("cpus_looked_at", "23.11", "23.11.3"): "came as a fix to 23.11.4",
    ("cpus_looked_at", "24.11", "24.11.1"): "came as a fix to 24.11.2",
    ("zeroes_released", "22.11", "22.11.7"): "came as a fix to 22.11.8",
    ("zeroes_released", "23.11", "23.11.3"): "came as a fix to 23.11.4",
    ("zeroes_released", "24.11", "24.11.1"): "came as a fix to 24.11.2",
}


@cache
def history():
    return json.loads(FACTS.read_text())


@cache
def tags():
    return [t for t in history()["releases"].split() if t != "main"]


def facts():
    return [f for f in history() if f not in (*KEYS, *history()["others"])]


def value(fact, tag):
    """Return the fact at that release: its last change in its own line or a release before that."""
    chain = [t for t in tags() if t.count(".") == 1 or t[:5] == tag[:5]]
    changes = history()[fact]
    return next(changes[t] for t in reversed(chain[: chain.index(tag) + 1]) if t in changes)


def known(tag):
    """Whether the table has a row for the release's line."""
    return tag[:5] in {r.line for r in releases.RELEASES.values()}


def in_table(fact, tag):
    name = tag if tag.count(".") == 2 else f"{tag}.0"  # "22.11" alone is the newest of its line
    found = getattr(releases.get(name), fact)
    return list(found) if isinstance(found, tuple) else found


@cache
def differences():
    """Return {(fact, tag)} where table and history differ."""
    return {
        (fact, tag)
        for tag in tags()
        for fact in facts()
        if known(tag) and in_table(fact, tag) != value(fact, tag)
    }


def listed():
    """Return {(fact, tag)} that DIFFERENCES describes."""
    return {
        (fact, tag)
        for fact, first, last in DIFFERENCES
        for tag in tags()[tags().index(first) : tags().index(last) + 1]
    }


def test_a_minor_release_inherits_from_its_own_line():
    """A fix of 22.11.8 holds in 22.11.11, not in 23.03, which came before it."""
    before, fixed, after, since = (
        value("zeroes_released", t) for t in ("22.11.7", "22.11.8", "22.11.11", "23.03")
    )

    assert (before, fixed, after, since) == (False, True, True, False)
    assert value("zeroes_released", "25.07") is True


def test_every_fact_of_the_table_is_in_the_history():
    fields = set(vars(releases.get(releases.DEFAULT))) - {"name", "word", "known"}

    assert fields == set(facts())


@pytest.mark.parametrize("fact", facts())
def test_the_table_says_what_the_source_says(fact):
    """For each release that the table knows, minor ones included."""
    differ = {t for f, t in differences() if f == fact}
    expected = {t for f, t in listed() if f == fact}

    assert sorted(differ - expected) == [], "the table is wrong, or DIFFERENCES lacks a row"
    assert sorted(expected - differ) == [], "no difference any more: remove it from DIFFERENCES"


@pytest.mark.parametrize("name", [name for name, _ in releases._CHANGES[1:]])
def test_a_row_states_what_was_different_before(name):
    """A row repeats nothing that holds without it."""
    rows = dict(releases._CHANGES)
    before = releases.RELEASES[list(rows)[list(rows).index(name) - 1]]

    assert [f for f, v in rows[name].items() if getattr(before, f) == v] == []
