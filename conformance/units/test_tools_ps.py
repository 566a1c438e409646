"""`pyeal ps` for any user: a living EAL without hugepages, its end, and what a crash leaves."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conformance import GB, MB
from conformance.harness.child import environment
from conformance.units.recorded import RELEASES, facts, pyeal, unpack
from pyeal.tools import ps


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A base of runtime directories that only this test knows."""
    return tmp_path


def eals(run: Path, *args: str) -> dict[str, Any]:
    got = facts("ps", *args, env={"RUNTIME_DIRECTORY": str(run)})["eals"]
    return {e["file_prefix"]: e for e in got if str(e["runtime_dir"]).startswith(str(run))}


@pytest.fixture
def alive(tmp_path: Path) -> Iterator[tuple[str, int]]:
    """(--file-prefix, pid) of an EAL that shares nothing and needs nothing."""
    prefix = f"quiet{os.getpid()}"
    argv = [sys.executable, "-P", "-m", "pyeal", "init", "--json", "--", "--no-huge", "-m", "16"]
    argv += ["--no-shconf", "--file-prefix", prefix]
    env = environment() | {"RUNTIME_DIRECTORY": str(tmp_path)}
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as p:
        assert p.stdin and p.stdout
        p.stdout.readline()
        yield prefix, p.pid
        p.stdin.close()


def test_one_that_shares_nothing_is_found_in_its_memory(alive: tuple[str, int]) -> None:
    prefix, pid = alive
    (got,) = [e for e in facts("ps")["eals"] if e["pid"] == pid]

    assert (got["file_prefix"], got["mode"], got["release"]) == (prefix, "no-huge", "22.11.11")
    assert (got["bytes"], got["runtime_dir"]) == (16 * MB, None)


@pytest.mark.parametrize("release", RELEASES)
def test_what_a_crash_left(release: str, run: Path) -> None:
    """Pages are counted as used, and no process has the lock."""
    unpack(release, "dynmem", run / "dpdk").rename(run / "dpdk/rte")
    got = eals(run)["rte"]

    assert got["health"] == "stale" and got["pid"] is None
    assert got["release"].startswith(release) and got["bytes"] == 8 * MB


def test_prometheus_has_pages_pools_and_what_is_left(run: Path) -> None:
    unpack("22.11", "dynmem", run / "dpdk").rename(run / "dpdk/rte")
    said = pyeal("ps", "--prometheus", env={"RUNTIME_DIRECTORY": str(run)})
    mine = [x for x in said.splitlines() if f'path="{run}/dpdk/rte"' in x]

    assert any("_info{" in x and 'health="stale"' in x for x in mine)
    assert any(
        "_used_bytes{" in x and x.endswith(f'page_bytes="{2 * MB}",node="0"}} {8 * MB}')
        for x in mine
    )
    assert "\ndpdk_eal_stale_bytes{} " in said


def test_what_ended_is_shown_when_asked_for(run: Path) -> None:
    unpack("22.11", "no-huge", run / "dpdk").rename(run / "dpdk/rte")
    (run / "dpdk/other").mkdir()
    (run / "dpdk/other/config").mkdir()  # a source tree may look like that

    assert eals(run) == {} and eals(run, "-a")["rte"]["health"] == "ended"
    said = pyeal("ps", env={"RUNTIME_DIRECTORY": str(run)})
    assert "of ended ones: pyeal ps -a" in said


def test_half_written_files_are_no_reason_to_fail(run: Path) -> None:
    d = unpack("22.11", "dynmem", run / "dpdk")
    for name, n in {"empty": 0, "short": 100, "zeros": 25344}.items():
        (run / f"dpdk/{name}").mkdir()
        (run / f"dpdk/{name}/config").write_bytes(bytes(n))
    (d / "config").write_bytes((d / "config").read_bytes()[:8] + os.urandom(25336))
    got = eals(run, "-a")

    assert {got[n]["health"] for n in ("empty", "short", "zeros")} == {"unknown"}
    assert "expected 25344 bytes, found 100" in got["short"]["why"]
    assert "run" in got


def test_pages_in_words() -> None:
    pages = [
        {"page_sz": GB, "socket_id": 1, "count": 1},
        {"page_sz": 2 * MB, "socket_id": 0, "count": 32},
    ]

    assert ps.pages_text(pages) == "1×1G@1 32×2M@0"
    assert ps.pages_text([]) == "-"


def test_a_name_that_another_user_chose_forges_no_row(run: Path) -> None:
    """Nor does a newline in a prefix end `ps` for every user."""
    d = unpack("22.11", "dynmem", run / "dpdk")
    d.rename(run / "dpdk" / "x\n\x1b[31mrte  4711")
    env = {"RUNTIME_DIRECTORY": str(run)}
    said = pyeal("ps", "-a", env=env)

    assert [line for line in said.splitlines() if line.startswith(r"x\x0a\x1b[31mrte  4711")]
    assert "\x1b" not in said
    assert list(eals(run, "-a")) == ["x\n\x1b[31mrte  4711"]
