"""Leased hugepages, on a copy of the pools: all are returned, whichever process dies."""

from __future__ import annotations

import json
import os
import subprocess

import pytest

from pyeal import loans


@pytest.fixture
def pools(tmp_path, monkeypatch):
    """Two pools: 2M with 100 pages of which 60 are free and 10 of those reserved, 1G with none."""
    for kb, nr, free, resv in ((2048, 100, 60, 10), (1 << 20, 0, 0, 0)):
        d = tmp_path / "pools" / f"hugepages-{kb}kB"
        d.mkdir(parents=True)
        for word, n in (("nr", nr), ("free", free), ("resv", resv), ("surplus", 0)):
            (d / f"{word}_hugepages").write_text(f"{n}\n")
    monkeypatch.setattr(loans, "POOLS", tmp_path / "pools")
    monkeypatch.setattr(loans, "STATE", tmp_path / "state")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return lambda size: loans.read(size, "nr")


@pytest.fixture
def dead():
    """The pid of a process that has ended."""
    p = subprocess.Popen(["true"])
    p.wait()
    return p.pid


def test_takes_what_is_missing_and_gives_back_exactly_that(pools):
    took = loans.lease({"2M": 80})

    assert took == {"2M": 30}  # 50 were free already
    assert pools("2M") == 130
    (loans.pool("2M") / "nr_hugepages").write_text("150")  # another process takes 20 more
    assert loans.give_back() == {"2M": 30}
    assert pools("2M") == 120
    assert not loans.STATE.exists()
    assert loans.give_back() == {}


def test_takes_nothing_where_enough_is_free(pools):
    assert loans.lease({"2M": 50}) == {}
    assert pools("2M") == 100


def test_gives_back_for_the_dead_and_not_for_the_living(pools, dead, capsys):
    loans.lease({"2M": 60}, owner=1)
    state = json.loads((loans.STATE / "1.json").read_text())
    (loans.STATE / f"{dead}.json").write_text(json.dumps(state | {"pid": dead, "took": {"2M": 7}}))
    loans.recover()

    assert pools("2M") == 103
    assert (loans.STATE / "1.json").exists()
    assert not (loans.STATE / f"{dead}.json").exists()
    assert f"process {dead}, which died: 7 x 2M" in capsys.readouterr().out


def test_a_pid_used_again_is_not_the_owner(pools):
    loans.lease({"2M": 60}, owner=os.getpid())
    path = loans.STATE / f"{os.getpid()}.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"started": 1}))
    loans.recover(lambda text: None)

    assert pools("2M") == 100


@pytest.mark.parametrize(("reached", "back"), [(100, 100), (112, 100), (130, 100), (150, 120)])
def test_killed_while_the_kernel_collects_pages(pools, dead, reached, back):
    loan = {"pid": dead, "started": 1, "took": {}}
    loan["raising"] = {"size": "2M", "by": 30, "from": 100}
    loans.STATE.mkdir(parents=True)
    (loans.STATE / f"{dead}.json").write_text(json.dumps(loan))
    (loans.pool("2M") / "nr_hugepages").write_text(str(reached))
    loans.recover(lambda text: None)

    assert pools("2M") == back


@pytest.fixture
def kernel(monkeypatch):
    """A kernel that has memory for that many more pages; compact_memory is not to be written."""
    real = loans.add

    def limit(most):
        monkeypatch.setattr(loans, "add", lambda size, n: real(size, min(n, most)))
        monkeypatch.setattr(loans.Path, "write_text", write)

    write_text = loans.Path.write_text

    def write(path, words):
        return None if path.name == "compact_memory" else write_text(path, words)

    return limit


def test_all_or_nothing(pools, kernel):
    kernel(10)
    with pytest.raises(loans.Refused, match="80 x 2M wanted, 50 available, after 0 s"):
        loans.lease_all({"2M": 80}, 0)

    assert pools("2M") == 100
    assert not loans.STATE.exists()


def test_waits_until_others_give_back(pools, kernel, monkeypatch):
    kernel(10)
    pauses, said = [], []

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 3:
            (loans.pool("2M") / "free_hugepages").write_text("95")

    monkeypatch.setattr(loans.time, "sleep", sleep)
    took = loans.lease_all({"2M": 80}, 60, say=said.append)

    assert took == {}
    assert pauses == [0.5, 1, 2]
    assert said[0].startswith("waiting for 80 x 2M: 60 s left")


def test_without_root_nothing_is_taken(pools, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 65534)

    with pytest.raises(loans.Refused, match="needs root, found uid 65534"):
        loans.lease({"2M": 80})
    assert pools("2M") == 100


def test_unknown_size_is_refused_with_those_there_are(pools):
    with pytest.raises(loans.Refused, match="no pool of 4M pages; it has hugepages-1048576kB"):
        loans.lease({"2M": 80, "4M": 1})
    assert pools("2M") == 100


@pytest.mark.parametrize(
    ("text", "want"),
    [("2M:512", {"2M": 512}), ("2m:1, 1GB:2", {"2M": 1, "1G": 2}), ("2M:1,2M:2", {"2M": 3})],
)
def test_sizes_and_numbers(text, want):
    assert loans.parse(text) == want


@pytest.mark.parametrize("text", ["", "2M", "2M:", "2M:-1", "2X:1", "512"])
def test_what_is_no_size_and_number_is_refused(text):
    with pytest.raises(loans.Refused, match="is not SIZE:NUMBER"):
        loans.parse(text)
