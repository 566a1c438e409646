"""The campaign of random situations: its seeds replay, and a difference is noticed."""

import json

import pytest

from conformance.campaigns.rehearsal import verdict
from conformance.campaigns.rehearsal.situation import MAKERS, Situation, compose
from conformance.campaigns.rehearsal.world import Ran

FAILED = 'EAL: FATAL: Cannot init memory\n{"error": {"errno": 12}}'


def ran(real="starts", doctor="OK", plan="", init="", own=None):
    """Return what the four said: stages, "" for a start."""
    ok = '{"ok": {"ret": 0}}\n'
    error = {"error": {"stage": init}} if init else {"lists": []}
    planned = {"ok": not plan, "error": plan and {"stage": plan}, "pyeal": own and {"stage": own}}
    return {
        "real": Ran(0, ok if real == "starts" else "", "" if real == "starts" else FAILED),
        "doctor": Ran(0, json.dumps({"verdict": doctor, "stage": plan or None, "first": "x"}), ""),
        "plan": Ran(0, json.dumps(planned), ""),
        "init": Ran(1 if init else 0, json.dumps(error), ""),
    }


def wrong(**said):
    s = Situation("t/0", "22.11.11")
    return verdict.Differences().wrong(s, verdict.verdicts(ran(**said)))


def test_a_seed_makes_the_same_situation_again():
    releases = ["20.11.10", "22.11.11"]
    once, twice = ([compose(f"1/{i}", releases).as_json() for i in range(50)] for _ in "ab")

    assert once == twice
    assert len(set(once)) == 50


def test_every_maker_is_drawn():
    drawn = {name for i in range(500) for name in compose(f"1/{i}", ["22.11.11"]).makers}

    assert drawn == MAKERS.keys()


@pytest.mark.parametrize(
    ("said", "who"),
    [
        ({}, []),
        ({"real": "memory", "doctor": "FAIL", "plan": "pages", "init": "memalloc"}, []),
        ({"real": "memory"}, ["init", "plan", "doctor"]),
        ({"plan": "hugepages", "doctor": "FAIL"}, ["plan", "doctor"]),
        ({"doctor": "FAIL"}, ["doctor"]),
        ({"init": "config"}, ["init"]),
        ({"init": "config", "own": "config"}, []),
        ({"own": "config"}, ["init"]),
    ],
    ids=["agree", "agree-on-stage", "all", "not-init", "doctor", "init", "both-said", "said-alone"],
)
def test_a_difference_is_noticed(said, who):
    """Each of the three beside the real one, and what pyeal alone refuses only if plan says so."""
    assert wrong(**said) == who


def test_each_meant_difference_has_its_reason():
    rows = verdict.Differences().rows

    assert rows
    assert all(row["why"] and row["real"] and row["pyeal"] for row in rows)
