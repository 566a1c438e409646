"""doctor names damage in the heap of a dead and of a running EAL, and none in a healthy one."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from conformance.campaigns.attack import worlds
from conformance.campaigns.fuzz.attach import PREFIX
from conformance.harness.child import environment
from conformance.units.recorded import facts
from pyeal import cli
from pyeal.layout import MallocElem
from pyeal.look.config import config_of

NO_HUGE = "--no-huge", "-m", "8", "--file-prefix", "damage"
PROGRAM = """
import ctypes, sys, pyeal
with pyeal.init(sys.argv[1:]) as eal:
    kept = [eal.malloc(n) for n in (64, 5000, 100, 70000)]
    print(kept[2] - 128, flush=True)
    if "--no-shconf" not in sys.argv:
        prev = ctypes.c_uint64.from_address(kept[2] - 128 + 8)
        input()
        right, prev.value = prev.value, 0x4711
        print("damaged", flush=True)
        input()
        prev.value = right
    while "--no-shconf" in sys.argv:
        eal.free(kept.pop(0))
        kept.append(eal.malloc(len(kept) * 700 + 64))
"""
Damage = list[dict[str, Any]]


@pytest.fixture
def damage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Damage]:
    """damage(*words): the findings of doctor that say `damaged`."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))

    def damage(*words: str) -> Damage:
        said = io.StringIO()
        with redirect_stdout(said):
            assert cli.main(["doctor", "--json", *words]) in (0, 1)
        links = json.loads(said.getvalue())["links"]
        findings = [f for link in links for f in link["findings"]]
        not_read = [f["text"] for f in findings if "not examined" in f["text"]]
        assert not [t for t in not_read if "all the time" not in t and "lock" not in t]
        return [f for f in findings if "damaged" in f["text"]]

    return damage


def unpacked(release: str, tmp_path: Path) -> Path:
    """Write the files of a dead EAL; return the folder of its pages."""
    huge = tmp_path / "pages"
    for path, data in worlds.files(f"heap/{release}", str(huge)).items():
        folder, _, name = path.partition("/")
        file = (tmp_path / "dpdk" / PREFIX if folder == "run" else huge) / name
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        file.write_bytes(data)
    return huge


@pytest.mark.parametrize("release", worlds.HEAPS)
def test_a_dead_eal(release: str, tmp_path: Path, damage: Callable[..., Damage]) -> None:
    huge = unpacked(release, tmp_path)
    words = "--", "--no-huge", "--file-prefix", PREFIX
    assert damage(*words) == []

    c, _, _ = config_of((tmp_path / "dpdk" / PREFIX / "config").read_bytes())
    at, m = c.malloc_heaps[0].first, c.memsegs[0]
    seg, offset = divmod(at - m.base_va, m.page_sz)
    (page,) = huge.glob(f"*_{seg}")
    content = bytearray(page.read_bytes())
    MallocElem.from_buffer(content, offset).prev = 0x4711
    page.write_bytes(content)
    (found,) = damage(*words)

    assert f"damaged: heap 0: element at {at:#x}: prev: expected 0, found 0x4711" in found["text"]
    assert found["text"].startswith("files of a dead primary") and found["state"] == "WARN"


@contextmanager
def program(*more: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Start PROGRAM; yield it, and an element of its heap."""
    argv = [sys.executable, "-P", "-c", PROGRAM, *NO_HUGE, *more]
    pipe = subprocess.PIPE
    env = environment() | {"RUNTIME_DIRECTORY": os.environ["RUNTIME_DIRECTORY"]}
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, env=env) as p:
        try:
            assert p.stdout
            yield p, f"{int(p.stdout.readline()):#x}"
        finally:
            p.kill()


def test_a_running_eal(damage: Callable[..., Damage]) -> None:
    """It is named to who starts it, to its secondary, and by its pid; `do` shows it as well."""
    with program() as (p, at):
        asked = [["--", f"--proc-type={role}", *NO_HUGE] for role in ("primary", "secondary")]
        asked.append(["--pid", str(p.pid)])
        assert [damage(*words) for words in asked] == [[], [], []]
        assert p.stdin and p.stdout
        p.stdin.write("\n")
        p.stdin.flush()
        p.stdout.readline()
        found = [f for words in asked for f in damage(*words)]
        command, *advice = found[0]["do"].split()
        shown = facts(*advice)["problems"] if command == "pyeal" else []

    assert len(found) == 3
    assert all(f"element at {at}: prev: expected " in f["text"] for f in found), found
    assert any(f"element at {at}: prev" in text for text in shown)


def test_a_heap_whose_array_is_missing(damage: Callable[..., Damage], tmp_path: Path) -> None:
    """Without the array no page is known, so nothing is known of the heap: that is no damage."""
    with program():
        folder = tmp_path / "dpdk/damage"
        for array in folder.glob("fbarray_*mem*"):
            array.rename(tmp_path / array.name)
        found = facts("inspect", str(folder))

    assert "No such file or directory" in found["heaps"][0]["unread"]
    assert not [p for p in found["problems"] if "damaged" in p]


def test_a_heap_that_changes(damage: Callable[..., Damage]) -> None:
    """The process shares nothing: its config is found in its memory."""
    with program("--no-shconf") as (p, _):
        for _ in range(5):
            assert damage("--pid", str(p.pid)) == []
