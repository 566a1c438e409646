"""Other users of hugepages: what they do is disturbed, repeated and told, and hides no fault."""

from __future__ import annotations

import os

import pytest

from conformance.harness import host, neighbours
from conformance.harness.host import Pool, Snapshot

EMPTY = Snapshot({}, frozenset(), frozenset(), frozenset(), {})
COUNTED = """
import os
from conformance.harness import host, neighbours

@needs(pages={{"2M": 1}})
@requirement("FAKE-001")
def test_it():
    with open("tries", "a") as f: f.write("x")
    tries = os.stat("tries").st_size
    {}
    assert tries > {}
"""


@pytest.fixture
def pool(monkeypatch):
    """A machine of eight pages that no process uses; what is changed there is seen."""
    pool = {"2M": Pool(8, 8, 0, 0)}
    monkeypatch.setattr(host, "pools", lambda: dict(pool))
    monkeypatch.setattr(host, "lent", dict)
    monkeypatch.setattr(host, "SETTLED", 0.1)
    monkeypatch.setattr(neighbours, "holders", dict)
    monkeypatch.setattr(host, "own_pool", pool, raising=False)
    return pool


def grow(pages):
    """What a neighbour's write to nr_hugepages does, from within a test."""
    return f"host.own_pool['2M'] = host.Pool({pages}, {pages}, 0, 0)"


def disturbed(suite):
    import json

    lines = map(json.loads, suite.log.read_text().splitlines())
    said = [dict(r["user_properties"]).get("disturbed") for r in lines if r.get("when") == "call"]
    assert len(said) == 1  # one try is reported
    return said[0]


def test_a_failure_that_a_neighbour_disturbed_is_repeated(suite, pool):
    done = suite.run(COUNTED.format(grow("[9, 30, 11][min(tries, 2)]"), 2))

    assert done.outcomes == {"passed": 1}
    assert disturbed(suite).startswith("2 times: the 2M pool changed from 30 to 11 pages")


def test_a_failure_with_no_neighbour_is_none_of_theirs(suite, pool):
    done = suite.run(COUNTED.format("pass", 2))

    assert done.outcomes == {"failed": 1}
    assert os.stat("tries").st_size == 1


def test_a_test_that_changes_the_pool_each_time_fails(suite, pool):
    """By the same number in each of three tries, with no other process at work."""
    done = suite.run(COUNTED.format(grow("host.own_pool['2M'].total + 1"), 0))

    assert done.outcomes.get("errors") == 1, done.text
    assert "2M pool changed" in done.text


def test_a_test_that_passes_has_a_verdict_in_any_pool(suite, pool):
    """Its size changes in each try, by another number: it is no test's doing."""
    done = suite.run(COUNTED.format(grow("[9, 30, 11, 50][tries % 4]"), 0))

    assert done.outcomes == {"passed": 1}
    assert os.stat("tries").st_size == 3
    assert disturbed(suite).startswith("3 times: ")


def test_what_is_disturbed_in_each_try_is_not_judged(suite, pool):
    done = suite.run(COUNTED.format(grow("[9, 30, 11, 50, 8, 60][tries % 6]"), 99))

    assert done.outcomes == {"skipped": 1}
    assert os.stat("tries").st_size == neighbours.TRIES
    assert neighbours.NOT_JUDGED in done.text
    assert disturbed(suite).startswith("6 times: ")


def test_a_test_without_pages_is_not_disturbed(suite, pool):
    done = suite.run(COUNTED.replace("@needs", "#").format(grow("8"), 99))

    assert done.outcomes["failed"] == 1
    assert os.stat("tries").st_size == 1


def test_a_process_that_is_left_is_never_a_neighbours(suite, pool):
    code = grow("8 + tries") + "\n    import subprocess; p = subprocess.Popen(['sleep', '60'])"
    before = host.children()
    done = suite.run(COUNTED.format(code, 0), "-W", "ignore::ResourceWarning")
    for pid in host.children() - before:
        os.kill(pid, 9)
        os.waitpid(pid, 0)

    assert done.outcomes == {"passed": 1, "errors": 1}
    assert os.stat("tries").st_size == 1


def test_pages_of_a_lease_are_no_change(pool):
    """Of this run or of another: what leases have added is counted out."""
    before = EMPTY._replace(pools={"2M": Pool(64, 64, 0, 0)}, lent={"2M": 32})
    leased = before._replace(pools={"2M": Pool(96, 96, 0, 0)}, lent={"2M": 64})
    returned = before._replace(pools={"2M": Pool(40, 40, 0, 8)}, lent={})  # 8 are still in use
    other = before._replace(pools={"2M": Pool(96, 96, 0, 0)})

    assert host.difference(before, leased) == []
    assert host.difference(before, returned) == []
    assert host.difference(before, before._replace(lent={"2M": 7})) == []  # of another machine
    assert [host.of_pools(s) for s in host.difference(before, other)] == [True]


def test_processes_of_this_run_are_no_neighbours(monkeypatch):
    parents = {5: 4, 4: 3, 3: 1, 9: 1, 1: 0}

    assert neighbours._descends(5, 3, parents) and neighbours._descends(3, 3, parents)
    assert not neighbours._descends(9, 3, parents)


@pytest.mark.parametrize("theirs", ["mode", "link", "file", "none"])
def test_a_folder_that_others_write_is_not_used(tmp_path, monkeypatch, theirs):
    """An ordinary user without a runtime directory has one of a name that others do not know."""
    squat = tmp_path / "run"
    match theirs:
        case "mode":
            squat.mkdir()
            squat.chmod(0o777)
        case "link":
            (tmp_path / "x").mkdir()
            squat.symlink_to(tmp_path / "x")
        case "file":
            squat.touch()
    monkeypatch.setattr(neighbours, "root", lambda: False)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(squat))
    monkeypatch.delenv(neighbours.FOLDER, raising=False)
    at = neighbours.own_folder()

    assert tmp_path not in at.parents
    assert at.stat().st_mode & 0o077 == 0
    assert neighbours.own_folder() == at
    at.rmdir()
