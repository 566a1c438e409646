"""pyeal's searches in a bit mask against a plain list of booleans; no EAL, no files, no root."""

from __future__ import annotations

import ctypes
from errno import EINVAL
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from pyeal import fbarray, layout
from pyeal.errors import EalError
from pyeal.fbarray import Arrays, Fbarray, file_size, n_words
from pyeal.look import arrays

QUICK = settings(derandomize=True, database=None, deadline=None, max_examples=400)
ELT = 8


class Array:
    """An array in plain memory, its buffer kept."""

    def __init__(self, length: int) -> None:
        self.buffer = ctypes.create_string_buffer(file_size(length, ELT))
        self.desc = layout.Fbarray(
            name=b"unit", len=length, elt_sz=ELT, data=ctypes.addressof(self.buffer)
        )
        self.fb = Fbarray(self.desc)

    @property
    def words(self) -> bytes:
        at = self.desc.len * ELT + 8
        return self.buffer[at : at + 8 * n_words(self.desc.len)]


# The model: entries as a list, each search by its definition.


def runs(model: list[bool], used: bool) -> list[tuple[int, int]]:
    found, at = [], 0
    for value, group in groupby(model):
        n = len(list(group))
        if value == used:
            found.append((at, n))
        at += n
    return found


def find_n(model: list[bool], start: int, n: int, used: bool, back: bool) -> int:
    starts = range(start - n + 1, -1, -1) if back else range(start, len(model) - n + 1)
    return next((i for i in starts if model[i : i + n] == [used] * n), -1)


def contig(model: list[bool], start: int, used: bool, back: bool) -> int:
    way = model[start::-1] if back else model[start:]
    return way.index(not used) if (not used) in way else len(way)


def biggest(model: list[bool], start: int, used: bool, back: bool) -> int:
    if back:
        found = runs(model[: start + 1], used)[::-1]
    else:
        found = [(start + i, n) for i, n in runs(model[start:], used)]
    return max(found, key=lambda run: run[1], default=(-1, 0))[0]


lengths = st.one_of(st.integers(1, 300), st.sampled_from([1, 63, 64, 65, 127, 128, 192, 256]))


@st.composite
def patterns(draw: st.DrawFn) -> list[bool]:
    """Runs, often long and about a word's end: independent bits hardly ever make long ones."""
    length = draw(lengths)
    n = st.one_of(st.integers(1, 8), st.integers(1, 140), st.sampled_from([63, 64, 65, 128]))
    model: list[bool] = []
    used = draw(st.booleans())
    while len(model) < length:
        model += [used] * draw(n)
        used = not used
    return model[:length]


@QUICK
@given(st.data(), patterns())
def test_searches_answer_what_a_list_says(data: st.DataObject, model: list[bool]) -> None:
    a, length = Array(len(model)), len(model)
    for start, n in runs(model, True):
        a.fb.mark(start, n)
    start = data.draw(st.integers(0, length - 1), "start")
    n = data.draw(st.one_of(st.integers(1, length), st.integers(1, min(length, 20))), "n")

    assert a.desc.count == sum(model)
    for used in (True, False):
        assert a.fb.runs(used) == runs(model, used)
        for back in (False, True):
            ask = start, used, back
            assert a.fb.find(*ask) == find_n(model, start, 1, used, back)
            assert a.fb.find_n(start, n, used, back) == find_n(model, start, n, used, back)
            assert a.fb.contig(*ask) == contig(model, *ask)
            assert a.fb.biggest(*ask) == biggest(model, *ask)


class Marks(RuleBasedStateMachine):
    """Marks on top of marks: the mask, its unused tail and the count follow a list."""

    @initialize(length=lengths)
    def make(self, length: int) -> None:
        self.a, self.model = Array(length), [False] * length

    @rule(data=st.data(), used=st.booleans())
    def mark(self, data: st.DataObject, used: bool) -> None:
        start = data.draw(st.integers(0, len(self.model) - 1))
        n = data.draw(st.integers(1, len(self.model) - start))
        self.a.fb.mark(start, n, used)
        self.model[start : start + n] = [used] * n

    @rule(data=st.data())
    def mark_outside(self, data: st.DataObject) -> None:
        length = len(self.model)
        start = data.draw(st.sampled_from([-1, length - 1, length, length + 63]))
        with pytest.raises(EalError) as e:
            self.a.fb.mark(start, 2)
        assert e.value.errno == EINVAL

    @invariant()
    def follows(self) -> None:
        if not hasattr(self, "a"):
            return
        bits = sum(used << i for i, used in enumerate(self.model))
        assert self.a.words == bits.to_bytes(8 * n_words(len(self.model)), "little")
        assert self.a.fb.used() == bits
        assert self.a.desc.count == sum(self.model)
        assert [self.a.fb.is_used(i) for i in (0, -1 % len(self.model))] == [
            self.model[0],
            self.model[-1],
        ]


TestMarks = Marks.TestCase
TestMarks.settings = settings(QUICK, max_examples=100, stateful_step_count=20)


@pytest.mark.parametrize("length", [1, 64, 100])
def test_arguments_outside_of_the_array_are_refused(length: int) -> None:
    fb = Array(length).fb
    last = fb.desc.data + length * ELT - 1
    calls = [
        lambda: fb.find(length, True),
        lambda: fb.find(-1, False, back=True),
        lambda: fb.find_n(length, 1, True),
        lambda: fb.find_n(0, 0, False),
        lambda: fb.find_n(0, length + 1, False),
        lambda: fb.contig(length, True),
        lambda: fb.biggest(length, False),
        lambda: fb.is_used(length),
        lambda: fb.address(length),
        lambda: fb.index(0),
        lambda: fb.index(last + 1),
        lambda: fb.index(fb.desc.data - 1),
    ]
    for call in calls:
        with pytest.raises(EalError) as e:
            call()
        assert e.value.errno == EINVAL

    assert fb.index(last) == length - 1 and fb.address(length - 1) == last - ELT + 1


@pytest.mark.parametrize("length", [1, 7, 8, 9, 63, 64, 65, 127, 128, 1000])
def test_all_used_is_all_and_no_bit_more(length: int) -> None:
    array = Array(length)
    arrays = Arrays(None, None)  # type: ignore[arg-type]  # it has no part in this
    arrays.areas[array.desc.data] = file_size(length, ELT), -1
    end = length * ELT + 8 + len(array.words)
    array.buffer[end] = 0x55
    arrays.use_all(array.desc)

    assert array.buffer[end] == b"\x55"  # no entry owns it
    assert int.from_bytes(array.words, "little") == (1 << length) - 1
    assert array.desc.count == length
    assert array.fb.runs() == [(0, length)] and array.fb.runs(used=False) == []
    array.fb.mark(length - 1, used=False)
    assert array.fb.runs(used=False) == [(length - 1, 1)]


@pytest.mark.parametrize(("length", "elt_sz"), [(1, 48), (64, 72), (8192, 48)])
def test_content_is_read_by_the_mask_in_the_bytes(length: int, elt_sz: int) -> None:
    """The last bits of the mask's last word are no elements, whatever another process wrote."""
    mask = b"\xff" * 8 * fbarray.n_words(length)
    data = b"e" * (length * elt_sz) + fbarray.n_words(length).to_bytes(8, "little") + mask
    data = data.ljust(fbarray.file_size(length, elt_sz), b"\0")
    content = arrays.ArrayContent(data, length, elt_sz)

    assert arrays.shape(data, [48, 72]) == (elt_sz, length)
    assert content.runs() == [(0, length)]
    assert content.element(length - 1) == b"e" * elt_sz
    assert content.element(length) == content.element(-1) == b""


@pytest.mark.parametrize(
    ("length", "elt_sz"), [(0, 48), (64, 0), (-5, -48), (1 << 31, 1 << 31), (85, 48)]
)
def test_content_that_cannot_be_is_refused(length: int, elt_sz: int) -> None:
    """What a descriptor says is held against the bytes that are there: 4096 here."""
    with pytest.raises(ValueError, match="4096 bytes found, too short for"):
        arrays.ArrayContent(bytes(4096), length, elt_sz)
