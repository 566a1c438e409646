"""pyeal/releases.py against DPDK's history: fixtures/releases/facts.json, which ci/facts writes."""

import itertools
from functools import cache

import pytest

from conformance.harness import catalogue
from pyeal import options, releases

KEYS = ("main", "releases", "others")


history = catalogue.history


@cache
def tags():
    return [t for t in history()["releases"].split() if t != "main"]


def facts():
    return [f for f in history() if f not in (*KEYS, *history()["others"])]


def value(fact, tag):
    """Return the fact at that release: its last change in its own line or a release before that."""
    return catalogue.fact(fact, tag)


def in_table(fact, tag):
    name = tag if tag.count(".") == 2 else f"{tag}.0"  # "22.11" alone is the newest of its line
    found = getattr(releases.get(name), fact)
    return list(found) if isinstance(found, tuple) else found


def long_options(tag):
    """Return the history's options at that release: the first list with all changes up to it."""
    first, *changes = [
        v for t, v in history()["options"].items() if tags().index(t) <= tags().index(tag)
    ]
    found = set(first)
    for change in changes:
        found |= {o[1:] for o in change if o[0] == "+"}
        found -= {o[1:] for o in change if o[0] == "-"}
    return found


def test_a_minor_release_inherits_from_its_own_line():
    """A fix of 22.11.8 holds in 22.11.11, not in 23.03, which came before it."""
    before, fixed, after, since = (
        value("zeroes_released", t) for t in ("22.11.7", "22.11.8", "22.11.11", "23.03")
    )

    assert (before, fixed, after, since) == (False, True, True, False)
    assert value("zeroes_released", "25.07") is True


def test_every_fact_of_the_table_is_in_the_history():
    fields = set(vars(releases.get(releases.DEFAULT))) - {"name", "word", "read_as"}

    assert fields == set(facts())


@pytest.mark.parametrize("fact", facts())
def test_the_table_says_what_the_source_says(fact):
    """For each release from 20.11 on, minor ones included."""
    assert {t: in_table(fact, t) for t in tags()} == {t: value(fact, t) for t in tags()}


def test_the_table_repeats_nothing():
    """A row states what was different before it, and so does a fix."""
    rows = dict(releases._CHANGES)
    lines = list(rows)
    for before, line in itertools.pairwise(lines):
        old = releases.get(f"{before}.0")
        assert [f for f, v in rows[line].items() if getattr(old, f) == v] == [], line
    for name, fixes in releases._FIXES:
        old = releases.get(f"{name[:6]}{int(name[6:]) - 1}")
        assert [f for f, v in fixes.items() if getattr(old, f) == v] == [], name


@pytest.mark.parametrize("tag", [t for t in tags() if t.count(".") == 1])
def test_options_are_those_of_the_source(tag):
    """Names of more than a letter, and whether they take a value. rte_argparse has its own help."""
    found = {
        name + ("", "=", "[=]")[takes]
        for name, _, takes, _, since, until in options._OPTIONS
        if since <= tag < until and len(name) > 1
    }

    assert found - {"help"} == long_options(tag) - {"help"}
