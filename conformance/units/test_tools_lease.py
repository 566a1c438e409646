"""pyeal lease: what it asks of the loans, before and without a mount."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import pyeal
from conformance.runner import run
from pyeal.tools import lease


@pytest.fixture
def loans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A copy of the pools: 60 of 100 pages of 2 MB free, 10 of them reserved; 20 on node 1."""
    trees = {tmp_path / "pools": (100, 60, 10), tmp_path / "nodes/node1/hugepages": (50, 20, 0)}
    for at, (nr, free, resv) in trees.items():
        d = at / "hugepages-2048kB"
        d.mkdir(parents=True)
        for word, n in (("nr", nr), ("free", free), ("resv", resv), ("surplus", 0)):
            (d / f"{word}_hugepages").write_text(f"{n}\n")
    monkeypatch.setattr(lease.loans, "POOLS", tmp_path / "pools")
    monkeypatch.setattr(lease.loans, "NODES", tmp_path / "nodes")
    monkeypatch.setattr(lease.loans, "STATE", tmp_path / "state")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return lease.loans


def test_the_loans_are_the_suites_own() -> None:
    """One implementation for `pyeal lease`, the suite and ci/hugepages."""
    assert lease.loans is run.loans
    assert pyeal.lease is lease.Lease


def test_pages_of_a_node(loans) -> None:
    """Its own pool is raised, by what it lacks; reservations count wherever they will be served."""
    took = loans.lease({"2M@1": 30}, name="a")

    assert took == {"2M@1": 20}
    assert loans.read("2M@1", "nr") == 70 and loans.read("2M", "nr") == 100
    assert loans.give_back("a") == {"2M@1": 20}
    assert loans.read("2M@1", "nr") == 50


def test_two_jobs_do_not_count_the_same_pages(loans) -> None:
    """What one was promised is not there for the next, until its mount keeps it."""
    assert loans.lease({"2M": 40}, name="a") == {}
    assert loans.lease({"2M": 40}, name="b") == {"2M": 30}
    loans.mounted("a", [])
    loans.give_back("b")
    assert loans.lease({"2M": 40}, name="b") == {}
    assert {loans.text(loans.give_back(n)) for n in "ab"} == {"nothing"}
    assert loans.read("2M", "nr") == 100


def test_more_than_memory_has_is_refused_before_a_pool_is_touched(loans) -> None:
    with pytest.raises(loans.Refused, match="ask for fewer"), lease.Lease("2M:99999999"):
        pass
    assert loans.read("2M", "nr") == 100
    assert not loans.STATE.exists()


def test_a_mount_that_fails_gives_the_pages_back(loans, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str, *args: object) -> None:
        raise OSError(12, "mount")

    monkeypatch.setattr(lease, "_call", refuse)
    monkeypatch.setattr(lease, "PLACE", str(loans.STATE.parent / "pages"))
    with pytest.raises(loans.Refused, match="70 free 2M pages wanted"), lease.Lease("2M:70"):
        pass
    assert loans.read("2M", "nr") == 100
    assert not list(loans.STATE.parent.glob("pages*"))
