"""Bisecting names the commit at which a row changed, with few runs, and leaves the repository."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from pathlib import Path

import pytest

from conformance import SUITE
from conformance.runner import bisect
from conformance.runner.bisect import Known, Search
from conformance.runner.targets import Broken
from conformance.selftest.tree import Tree
from conformance.targets import librte_eal

ROW = "CFG-003"
EXAMPLE = (SUITE / "targets/examples/smallest.py").read_text()
BEFORE = '        return {"ret": 0, "iova_mode"'
WRONG = EXAMPLE.replace(BEFORE, f'        os.chmod(f"{{runtime_dir}}/config", 0o640)\n{BEFORE}')


class Line:
    """Commits 0 to n - 1 in a row, as Repository has them, and a row that changes at `culprit`."""

    def __init__(self, n, culprit, unusable=(), flaky=()):
        self.n, self.culprit, self.unusable = n, culprit, set(map(str, unusable))
        self.flaky, self.probed = set(map(str, flaky)), []
        self.interrupt = None  # after so many runs

    def between(self, olds, new):
        old, new = max(map(int, olds)), int(new)
        middle = (old + new) / 2
        return [str(c) for c in sorted(range(old + 1, new + 1), key=lambda c: abs(c - middle))]

    def parents(self, sha):
        return [str(int(sha) - 1)]

    def probe(self, sha, rows):
        if len(self.probed) == self.interrupt:
            raise KeyboardInterrupt
        self.probed.append(sha)
        if sha in self.unusable:
            raise Broken("does not build")
        failed = int(sha) >= self.culprit
        if sha in self.flaky and self.probed.count(sha) == 1:  # its first run is wrong
            failed = not failed
        return {r: {"verdict": "failed" if failed else "passed", "tests": []} for r in rows}

    def search(self, known=None):
        found = Search(self, self.probe, known or Known(), [ROW])
        return found.first(ROW, "0", str(self.n - 1))


@pytest.mark.parametrize("n", [2, 3, 10, 200])
def test_each_culprit_is_named_with_few_runs(n: int) -> None:
    for culprit in range(1, n):
        line = Line(n, culprit)

        assert line.search() == [str(culprit)]
        assert len(line.probed) <= 2 + math.ceil(math.log2(n)) + 2  # ends, halves, two again
        assert len(set(line.probed)) <= 2 + math.ceil(math.log2(n))


def test_nothing_changed_takes_two_runs_of_both_ends() -> None:
    line = Line(50, 50)

    assert line.search() == []
    assert line.probed == ["0", "49"] * 2


def test_commits_that_do_not_build_are_gone_around() -> None:
    line = Line(200, 40, unusable=range(80, 120))

    assert line.search() == ["40"]
    assert sum(c in line.unusable for c in line.probed) <= 6

    hidden = Line(20, 10, unusable=(8, 9, 10))
    assert sorted(map(int, hidden.search())) == [8, 9, 10, 11]


@pytest.mark.parametrize("flaky", [[12], [11], [0], [19], [11, 12]])
def test_runs_that_differ_are_repeated(flaky: list[int]) -> None:
    line = Line(20, 12, flaky=flaky)

    assert line.search() == ["12"]


def test_interrupted_search_goes_on(tmp_path: Path) -> None:
    whole, line = Line(200, 77), Line(200, 77)
    whole.search()
    for line.interrupt in (1, 4, 7):
        with contextlib.suppress(KeyboardInterrupt):
            line.search(Known(tmp_path / "state.json"))
    line.interrupt = None

    assert line.search(Known(tmp_path / "state.json")) == ["77"]
    assert line.probed == whole.probed


@pytest.fixture(scope="module")
def library() -> str:
    with contextlib.suppress(FileNotFoundError):
        return librte_eal.find()
    pytest.skip("wanted librte_eal, found none: apt-get install librte-eal23")


@pytest.mark.timeout(400)  # five runs of the suite
def test_planted_regression_is_named_and_told(
    library: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """smallest.py in a repository: 1 fine, 2 fine, 3 planted, 4 does not build, 5 still wrong."""
    tree = Tree(tmp_path / "repo")
    build = f"echo '#!/bin/sh\nexec {sys.executable} '$PWD'/eal.py {library}' > eal\nchmod +x eal\n"
    for subject, text, script in (
        ("1", EXAMPLE, build),
        ("2", f"# 2\n{EXAMPLE}", build),
        ("3", WRONG, build),
        ("4", WRONG, "exit 1\n"),
        ("5", WRONG, build),
    ):
        tree.commit(subject, **{"eal.py": text, "build.sh": script})
    before = tree.everything()
    argv = ["main~3..main", ROW, "--source", str(tree.path), "--build", "sh build.sh"]
    argv += ["--library", "eal", "--cache", str(tmp_path / "cache")]
    code = bisect.main([*argv, "--json"])
    found = json.loads(capsys.readouterr().out)
    (row,) = found["rows"]

    assert (code, found["schema"]) == (bisect.NAMED, bisect.SCHEMA)
    assert [c["subject"] for c in row["candidates"]] == ["3"]
    assert (row["before"]["subject"], row["after"]["subject"]) == ("2", "3")
    assert (found["builds"], found["runs"]) == (3, 5)
    assert tree.everything() == before
    assert not list((tmp_path / "cache").glob("bisect-*"))

    text = bisect.letter(found)
    assert f'Subject: {ROW}: failed since {row["first"][:10]} ("3")' in text
    assert "mode 600, mapped rw-s" in text and "mode 640, mapped rw-s" in text
    assert f"pyeal conform {ROW} --source {tree.path}@{row['first'][:10]}" in text


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["main..main~1", ROW], "main is no ancestor of main~1"),
        (["main~1..v9", ROW], "has no revision v9"),
        (["main~1..main", "XYZ-001"], "no requirement XYZ-001"),
    ],
)
def test_what_cannot_be_bisected_is_said(
    argv: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tree = Tree(tmp_path / "repo")
    tree.commit("1")
    tree.commit("2")
    how = ["--source", str(tree.path), "--build", "true", "--library", "x"]

    assert bisect.main([*argv, *how, "--cache", str(tmp_path / "cache")]) == bisect.COULD_NOT
    assert says in capsys.readouterr().err
