"""A source tree as target: built once by the user's command, in a clone, or not at all."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conformance import SUITE, until
from conformance.runner import builds, git, run
from conformance.selftest.tree import Tree

PROGRAM = "printf '#!/bin/sh\\n' > target; chmod +x target; echo built"


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = Tree(tmp_path / "repo")
    made.commit("one")
    made.commit("two")
    return made


@pytest.fixture
def cache(tmp_path: Path) -> builds.Cache:
    return builds.Cache(tmp_path / "cache", say=lambda text: None)


def test_revision_is_built_once_and_the_repository_stays(tree: Tree, cache: builds.Cache) -> None:
    before = tree.everything()
    count = tree.path.parent / "count"
    command = f"echo x >> {count}; cat number; {PROGRAM}"
    first, again = (cache.build(tree.path, "HEAD~1", command) for _ in range(2))
    other = cache.build(tree.path, "main", command)

    assert count.read_text() == "x\n" * 2
    assert first == again
    assert [(b.tree / "number").read_text() for b in (first, other)] == ["one", "two"]
    assert first.target("target") == f"cmd:{first.tree}/target"
    assert first.facts(first.target("target")) == {
        "repository": str(tree.path),
        "revision": git.git(tree.path, "rev-parse", "HEAD~1"),
        "date": first.commit.date,
        "subject": "one",
        "command": command,
        "compiler": "",
    }
    assert tree.everything() == before


def test_failing_build_says_its_last_words_and_is_not_kept(tree: Tree, cache: builds.Cache) -> None:
    with pytest.raises(builds.BuildFailed, match=r"does not build.*exits 3\n  \| no compiler$"):
        cache.build(tree.path, "main", "echo no compiler; exit 3")

    assert not [p for p in cache.folder.iterdir() if p.is_dir()]


def test_build_without_the_library_names_the_option(tree: Tree, cache: builds.Cache) -> None:
    done = cache.build(tree.path, "main", "true")

    with pytest.raises(builds.BuildFailed, match=r"left no lib/x: .*Fix: --library PATH"):
        done.target("lib/x")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL], ids=["ctrl-c", "kill-9"])
def test_interrupted_build_is_built_anew(
    tree: Tree,
    cache: builds.Cache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    how: signal.Signals,
) -> None:
    begun = tmp_path / "begun"
    command = f"[ -e $OLD/begun ] || {{ > $OLD/begun; exec sleep 60; }}; {PROGRAM}"
    code = f"from conformance.runner.builds import Cache; Cache({str(cache.folder)!r}).build"
    other = subprocess.Popen(
        [sys.executable, "-c", f"{code}({str(tree.path)!r}, 'main', {command!r})"],
        env=os.environ | {"OLD": str(tmp_path), "PYTHONPATH": str(SUITE.parent)},
        stderr=subprocess.DEVNULL,
    )
    until(begun.exists)
    other.send_signal(how)
    other.wait()
    if how == signal.SIGINT:
        assert not [p for p in cache.folder.iterdir() if p.is_dir()]

    monkeypatch.setenv("OLD", str(tmp_path))
    assert cache.build(tree.path, "main", command).target("target")


def test_compiler_is_read_from_the_library(tmp_path: Path) -> None:
    if not (cc := shutil.which("cc")):
        pytest.skip("wanted a C compiler, found none: apt-get install gcc libc6-dev")
    (tmp_path / "a.c").write_text("int a;")
    subprocess.run([cc, "-shared", "-o", tmp_path / "a.so", tmp_path / "a.c"], check=True)

    assert any(word in builds.compiler(tmp_path / "a.so") for word in ("GCC", "clang"))
    assert builds.compiler(tmp_path / "a.c") == builds.compiler(tmp_path / "none") == ""


def test_command_without_a_build_is_refused(
    tree: Tree, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*argv: str) -> str:
        assert run.main([*argv, "--report", str(tmp_path / "report")]) == run.BROKEN
        return capsys.readouterr().err

    source = f"{tree.path}@main"
    how = ["--build", "exit 4", "--library", "x", "--cache", str(tmp_path / "cache")]
    assert "expected --build COMMAND and --library PATH" in refused("--source", source)
    assert "'exit 4' exits 4" in refused("--target", f"source:{source}", *how)
    assert "has no revision v1" in refused("--source", f"{tree.path}@v1", *how)
    assert "expected --source" in refused(*how)
