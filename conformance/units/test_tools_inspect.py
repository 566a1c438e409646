"""`pyeal inspect` of recordings and of a process without hugepages: no root, no pages."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from conformance import MB, SHARED
from conformance.harness import decode, recordings
from conformance.harness.child import environment
from conformance.units.recorded import RELEASES, facts, pyeal, unpack
from pyeal.look.snapshot import Snapshot
from pyeal.look.sources import Folder
from pyeal.tools import telemetry

modes = pytest.mark.parametrize("mode", SHARED)
every = pytest.mark.parametrize("release", RELEASES)


@every
@modes
def test_recordings_say_what_the_library_said(release: str, mode: str, tmp_path: Path) -> None:
    """Lists, pages and zones by the same words that telemetry uses."""
    seen, files = recordings.load(release, mode)
    s = Snapshot(Folder(str(unpack(release, mode, tmp_path))))
    ask = lambda *words: next(iter(telemetry.answer(s, ",".join(map(str, words))).values()))  # noqa: E731
    used = sorted({x["list"] for x in seen["segments"]})

    assert (s.release.name, s.mode, s.problems) == (seen["release"], mode, [])
    assert s.iova_mode == seen["init"]["iova_mode"]
    assert ask("/eal/memseg_lists") == used
    for i in used:
        segs = [x for x in seen["segments"] if x["list"] == i]
        assert ask("/eal/memseg_list_info", i) == [x["seg"] for x in segs]
        for x in (segs[0], segs[-1]):
            got = ask("/eal/memseg_info", i, x["seg"])
            assert (got["Start_addr"], got["IOVA_addr"]) == (hex(x["addr"]), hex(x["iova"]))
            assert (got["Size"], got["flags"]) == (x["len"], x["flags"])
    abi = decode.release(seen["release"])
    heap = abi.config(files["config"]).malloc_heaps[0]
    (said,) = s.heaps()
    assert (said["Name"], said["Heap_size"]) == (heap.name, heap.total_size)
    assert said["Alloc_count"] == heap.alloc_count
    # the content of pages is not in a copy: no number instead of a wrong one
    assert said["Free_size"] is None and "pages are not there" in said["unread"]


@every
def test_iova_and_flag_runs_cover_every_page(release: str, tmp_path: Path) -> None:
    s = Snapshot(Folder(str(unpack(release, "no-huge", tmp_path))))
    (run,) = s.lists[0]["runs"]

    assert run["n"] == 2048 == sum(i["n"] for i in run["iova_runs"])
    assert sum(f["n"] for f in run["flag_runs"]) == 2048
    assert run["iova_runs"] == [{"iova": run["va"], "n": 2048}]  # IOVA as VA


@pytest.mark.parametrize("how", ["directory", "zip", "tar"])
def test_a_copy_in_any_form(how: str, tmp_path: Path) -> None:
    run = unpack("24.11", "dynmem", tmp_path)
    what = str(run)
    if how == "zip":
        what = str(recordings.FOLDER / "24.11-dynmem.zip")
    elif how == "tar":
        what = str(tmp_path / "sos.tar.xz")
        with tarfile.open(what, "w:xz") as t:
            t.add(run, "var/run/dpdk/rte")
    got = facts("inspect", what)

    assert (got["schema"], got["health"], got["mode"]) == ("pyeal.inspect/1", "copy", "dynmem")
    assert got["bytes"] == 8 * MB and got["pid"] is None and not got["problems"]
    assert "pages are not there" in pyeal("inspect", what)


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    run = unpack("24.11", "dynmem", tmp_path)
    (run / "fbarray_memseg-2048k-0-0").unlink()
    got = facts("inspect", str(run))

    assert got["problems"] == [
        "memseg-2048k-0-0: 4 pages, but its array: No such file or directory"
    ]
    data = bytearray((run / "config").read_bytes())
    (run / "config").write_bytes(data[:100])
    assert "expected 25344 bytes, found 100" in pyeal("inspect", str(run), code=1)


def test_an_array_that_disagrees_is_told(tmp_path: Path) -> None:
    run = unpack("22.11", "dynmem", tmp_path)
    file = run / "fbarray_memseg-2048k-0-0"
    data = bytearray(file.read_bytes())
    data[8192 * 48 + 8] = 0b0111
    file.write_bytes(data)

    assert facts("inspect", str(run))["problems"] == [
        "memseg-2048k-0-0: 4 pages counted, 3 marked in its array"
    ]


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        ("/eal/nothing", "one of memseg_lists"),
        ("/eal/heap_info", "expected 1 number after"),
        ("/eal/memseg_info,0,x", "expected 2 numbers after"),
    ],
)
def test_requests_that_are_none(request_: str, words: str) -> None:
    zip_ = recordings.FOLDER / "22.11-dynmem.zip"

    assert words in pyeal("inspect", zip_, request_, code=1)


@pytest.fixture
def demo() -> Iterator[tuple[Any, dict[str, str]]]:
    """(layout, environment) of a living EAL for any user."""
    run = Path(tempfile.mkdtemp(prefix="eal-"))  # a socket's path has 107 characters
    env = environment() | {"RUNTIME_DIRECTORY": str(run)}
    argv = [sys.executable, "-P", "-m", "pyeal", "init", "--json", "--"]
    argv += ["--no-huge", "-m", "16", "--file-prefix", f"demo{os.getpid()}"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=env) as p:
        assert p.stdout and p.stdin
        try:
            yield json.loads(p.stdout.readline()), env
        finally:
            p.stdin.close()
            p.wait()
            shutil.rmtree(run)


def test_a_living_process(demo: tuple[Any, dict[str, str]]) -> None:
    """Its heap is read element by element, from its memory; they fill it without a gap."""
    said, env = demo
    got = facts("inspect", said["file_prefix"], "--elements", env=env)
    (ml,), (heap,), (holder,) = got["lists"], got["heaps"], got["holders"]
    drop = ("flag_runs",)
    runs = [{k: v for k, v in r.items() if k not in drop} for r in ml["runs"]]

    assert {**ml, "runs": runs} == said["lists"][0]
    assert (got["pid"], got["health"], got["mode"]) == (said["pid"], "running", "no-huge")
    assert (heap["Heap_size"], heap["Alloc_count"]) == (
        said["heaps"][0]["total_size"],
        said["heaps"][0]["alloc_count"],
    )
    elements = heap["elements"]
    ends = [e["addr"] + e["size"] for e in elements]
    assert [e["addr"] for e in elements] == [ml["base_va"], *ends[:-1]]
    assert sum(e["size"] for e in elements) == heap["Heap_size"]
    free = [e["size"] for e in elements if e["state"] == "Free"]
    assert (sum(free), len(free), max(free)) == (
        heap["Free_size"],
        heap["Free_count"],
        heap["Greatest_free_size"],
    )
    assert (holder["pid"], holder["role"]) == (said["pid"], "primary")
    assert holder["descriptors"]["open"] > 2 and "--no-huge" in holder["cmdline"]


def test_ways_to_name_it(demo: tuple[Any, dict[str, str]]) -> None:
    said, env = demo
    names = [said["file_prefix"], said["pid"], said["runtime_dir"]]
    got = [facts("inspect", name, env=env)["pid"] for name in names]

    assert got == [said["pid"]] * 3


def test_prometheus(demo: tuple[Any, dict[str, str]]) -> None:
    said, env = demo
    lines = pyeal("inspect", "--prometheus", said["pid"], env=env).splitlines()
    samples = [x for x in lines if not x.startswith("#")]
    line = re.compile(r'dpdk_eal_[a-z_]+\{(\w+="[^"]*",?)+\} -?\d+')

    assert samples and all(line.fullmatch(x) for x in samples)
    assert len({x.split("{")[0] for x in samples}) == len([x for x in lines if " gauge" in x])
    assert any(x.startswith("dpdk_eal_up{") and x.endswith(" 1") for x in samples)
    assert any(x.startswith("dpdk_eal_pages{") and x.endswith(" 4096") for x in samples)


def test_watch_shows_it_again(demo: tuple[Any, dict[str, str]]) -> None:
    said, env = demo
    argv = [sys.executable, "-P", "-m", "pyeal", "inspect", str(said["pid"]), "--watch", "0.1"]
    with subprocess.Popen([*argv, "--json"], stdout=subprocess.PIPE, env=env, text=True) as p:
        assert p.stdout
        twice = [json.loads(p.stdout.readline()) for _ in range(2)]
        p.terminate()

    assert [d["pid"] for d in twice] == [said["pid"]] * 2
    assert twice[0]["age_s"] < twice[1]["age_s"]
