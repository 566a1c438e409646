"""Damaged shared memory: tools end in time, with little output, and name the place."""

from __future__ import annotations

import io
import os
import random
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from conformance.campaigns.attack import heaps
from conformance.units.recorded import facts, pyeal, unpack
from pyeal import cli
from pyeal.layout import FREE, MallocElem
from pyeal.look.config import config_of
from pyeal.look.leftovers import Leftovers
from pyeal.look.machine import MOST_PREFIXES
from pyeal.look.snapshot import Snapshot
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


@pytest.fixture
def heap() -> Iterator[tuple[heaps.Memory, list[int]]]:
    """A healthy heap of 22.11, and the addresses of its elements."""
    family = heaps.Healthy()
    memory, elements, _ = family.used(family.case(7, 1))
    assert not heaps.problems(memory)
    yield memory, elements
    family.tmp.cleanup()


def element(memory: heaps.Memory, va: int) -> MallocElem:
    return MallocElem.from_buffer(memory.pages, va - memory.base)


def first_free(memory: heaps.Memory, elements: list[int]) -> int:
    return next(va for va in elements if element(memory, va).state & 7 == FREE)


@pytest.mark.parametrize(
    ("field", "value"),
    [("free_next", 0), ("next", 0), ("size", 1 << 47), ("state", 7), ("prev", 64), ("heap", 8)],
    ids=["free-loop", "loop", "128-TB", "state", "prev", "heap"],
)
def test_a_wrong_word_is_named(
    heap: tuple[heaps.Memory, list[int]], field: str, value: int
) -> None:
    memory, elements = heap
    va = first_free(*heap) if field.startswith("free") else elements[1]
    setattr(element(memory, va), field, va if field.endswith("next") else value)
    begun = time.process_time()
    said = heaps.problems(memory)

    assert any(f"damaged: heap 0: element at {va:#x}: {field}: expected " in p for p in said), said
    assert time.process_time() - begun < 2


@pytest.mark.parametrize("field", ["first", "last", "total_size", "alloc_count"])
def test_a_wrong_word_of_the_heap_is_named(
    heap: tuple[heaps.Memory, list[int]], field: str
) -> None:
    c = config_of(bytes(heap[0].config))[0]
    setattr(c.malloc_heaps[0], field, 4711)
    heap[0].config[:] = bytes(c)

    assert f"damaged: heap 0: {field}: expected " in heaps.problems(heap[0])[0]


def test_a_heap_that_a_stopped_process_changes_is_not_called_damaged(
    heap: tuple[heaps.Memory, list[int]],
) -> None:
    memory, elements = heap
    element(memory, elements[1]).prev = 0
    c = config_of(bytes(memory.config))[0]
    c.malloc_heaps[0].lock = 1
    memory.config[:] = bytes(c)
    (said,) = heaps.problems(memory)

    assert said.startswith("its lock is taken, and it is in the middle of a change: heap 0: ")


def test_a_heap_that_changes_while_it_is_read_is_not_called_damaged(
    heap: tuple[heaps.Memory, list[int]],
) -> None:
    """Each look finds another element torn."""
    memory, elements = heap
    whole, looks = bytes(memory.pages), [0]

    def read(name: str) -> bytes:
        looks[0] += 1
        memory.pages[:] = whole
        element(memory, elements[looks[0] % 5 + 1]).prev = 0
        return bytes(memory.config)

    memory.read = read  # type: ignore[method-assign]

    assert heaps.problems(memory) == ["it changes all the time"]


def test_a_loop_of_elements(heap: tuple[heaps.Memory, list[int]]) -> None:
    memory, elements = heap
    element(memory, elements[1]).next = elements[0]
    with pytest.raises(Exception, match="damaged: heap 0: `next` forms a loop"):
        list(Snapshot(memory, memory.at).elements(0))  # type: ignore[arg-type]


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
