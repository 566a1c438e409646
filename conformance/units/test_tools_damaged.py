"""Damaged shared memory: tools end in time, with little output, and name the place."""

from __future__ import annotations

import io
import os
import random
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from conformance.units.recorded import facts, pyeal, unpack
from pyeal import cli
from pyeal.layout import MallocElem
from pyeal.look.config import config_of
from pyeal.look.leftovers import Leftovers
from pyeal.look.machine import MOST_PREFIXES
from pyeal.look.snapshot import Snapshot
from pyeal.look.sources import Folder
from pyeal.tools import inspect

MOST_TEXT = 1 << 20
TOOLS: tuple[tuple[str, ...], ...] = (
    ("inspect",),
    ("inspect", "--json"),
    ("inspect", "--prometheus"),
    ("map",),
    ("map", "--json"),
    ("map", "--svg", "-"),
    ("map", "--html", "-"),
)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return unpack("22.11", "dynmem", tmp_path)


def outcome(*words: str) -> tuple[int, str]:
    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(out):
        code = cli.main(list(words))
    return code, out.getvalue()


def change(run: Path, how: Callable[[Any], None]) -> None:
    c, _, _ = config_of((run / "config").read_bytes())
    how(c)
    (run / "config").write_bytes(bytes(c))


def first_used(c: Any) -> Any:
    return next(m for m in c.memsegs if m.memseg_arr.count)


def set_(path: str, value: int) -> Callable[[Any], None]:
    def how(c: Any) -> None:
        c = first_used(c) if path.startswith("list.") else c
        *way, last = path.removeprefix("list.").split(".")
        for name in way:
            c = getattr(c, name)
        setattr(c, last, value)

    return how


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("list.page_sz", 0),
        ("list.memseg_arr.elt_sz", 0),
        ("list.memseg_arr.len", 0),
        ("list.memseg_arr.len", (1 << 32) - 1),
        ("list.len", 1 << 62),
        ("memzones.elt_sz", 0),
        ("memzones.elt_sz", 1 << 31),
        ("memzones.len", (1 << 32) - 1),
    ],
)
@pytest.mark.parametrize("tool", TOOLS, ids=" ".join)
def test_a_wrong_size_is_named(run: Path, tool: tuple[str, ...], path: str, value: int) -> None:
    change(run, set_(path, value))
    begun = time.process_time()
    said = pyeal(*tool, run)

    assert time.process_time() - begun < 2 and len(said) < MOST_TEXT
    if tool == ("inspect",):
        assert "damaged" in said


def heap_of(run: Path, words: dict[int, dict[str, int]]) -> Snapshot:
    """An EAL whose heap has the given elements at multiples of 64 from its first page on."""
    c, _, _ = config_of((run / "config").read_bytes())
    base = first_used(c).base_va
    elements = {}
    for i, fields in words.items():
        e = MallocElem(size=64)
        for name, value in fields.items():
            setattr(e, name, base + 64 * value if "next" in name else value)
        elements[base + 64 * i] = bytes(e).ljust(128, b"\0")

    def how(c: Any) -> None:
        c.malloc_heaps[0].first = base
        c.malloc_heaps[0].free_head[0] = base

    change(run, how)
    return Snapshot(Folder(str(run)), lambda va, n: elements[va])


@pytest.mark.parametrize(
    ("elements", "words"),
    [
        ({0: {"free_next": 1}, 1: {"free_next": 0}}, "`free_next` forms a loop at 0x"),
        ({0: {"free_next": 0}}, "`free_next` forms a loop at 0x"),
        ({0: {"size": 1 << 47}}, "size: expected at most"),
        ({0: {"state": 7}}, "no element at 0x"),
    ],
    ids=["loop", "itself", "128-TB", "state"],
)
def test_a_heap_that_is_damaged(run: Path, elements: dict[int, Any], words: str) -> None:
    begun = time.process_time()
    said = heap_of(run, elements).heaps()[0]

    assert said["unread"].startswith("damaged: heap 0") and words in said["unread"]
    assert time.process_time() - begun < 2


def test_a_loop_of_elements(run: Path) -> None:
    s = heap_of(run, {0: {"next": 1}, 1: {"next": 0}})
    with pytest.raises(Exception, match="damaged: heap 0: `next` forms a loop"):
        list(s.elements(0))


@pytest.mark.parametrize("share", [-(1 << 23), 1 << 23, 0.5, 0])
def test_a_bar_has_its_width(share: float) -> None:
    assert len(inspect._bar(share)) < 40


@pytest.mark.parametrize("name", ["config", "hugepage_info", "fbarray_memzone"])
def test_words_at_random(run: Path, name: str) -> None:
    """Each of 28 files has some words replaced; seeds are fixed."""
    whole = (run / name).read_bytes()
    for seed in range(28):
        r, data = random.Random(seed), bytearray(whole)
        used = [i for i in range(8, len(data) - 8, 4) if any(data[i : i + 4])]
        for _ in range(r.choice((1, 3, 30))):
            at = r.choice(used)
            word = r.choice((0, 1, r.getrandbits(16), r.getrandbits(32), (1 << 32) - 1))
            data[at : at + 4] = word.to_bytes(4, "little")
        (run / name).write_bytes(data)
        begun = time.process_time()
        for tool in (TOOLS[seed % len(TOOLS)], ("dump",)):
            what = run / name if tool == ("dump",) else run
            code, said = outcome(*map(str, (*tool, what)))
            assert code in (0, 1) and "Traceback" not in said, (seed, tool)
            assert len(said) < 4 * MOST_TEXT, (seed, tool)
        assert time.process_time() - begun < 3, (seed, tool)


def test_many_prefixes_are_told_and_not_all_examined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """20,000 took 40 s; the time is that of the first 1,000."""
    run = unpack("22.11", "dynmem", tmp_path)
    name = f"crowd{os.getpid()}"
    for i in range(MOST_PREFIXES + 20):
        (d := tmp_path / f"dpdk/{name}_{i:05}").mkdir(parents=True)
        os.link(run / "config", d / "config")
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    said = facts("ps", "--json", "-a")
    mine = [f for f in Leftovers().items if f["file_prefix"].startswith(name)]

    assert said["crowded_directories"] == [f"{tmp_path}/dpdk"]
    assert len(mine) == MOST_PREFIXES
    assert f"1,020 entries, of which {MOST_PREFIXES:,} were examined" in pyeal("ps")
