"""A hole in a reservation: where pages are mapped one by one, and nobody else meanwhile."""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Sequence
from pathlib import Path

import pytest

from conformance import MB
from pyeal import libc
from pyeal.libc import MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_SHARED, PAGE
from pyeal.vaspace import MUCH, VaSpace, choosing, make_gap, map_into_gap, what_lies_at

LOW, N = 0x500000000, 8
SIZE = N * PAGE
FREE = "nothing lies there now"
munmap = libc.munmap


@pytest.fixture
def low() -> int:
    """A reservation of eight pages where an EAL has them."""
    return libc.reserve(LOW, SIZE, MAP_FIXED_NOREPLACE)


@pytest.fixture(autouse=True)
def _clean() -> object:
    yield
    libc.munmap(LOW, SIZE)


def test_a_low_reservation_makes_room(low: int) -> None:
    with choosing:
        flag = make_gap(low, SIZE)
        inside = what_lies_at(low, SIZE)

    assert (flag, inside) == (MAP_FIXED_NOREPLACE, FREE)


@pytest.mark.parametrize("after", [0, PAGE])
def test_at_a_limit_on_address_space_the_reservation_stays(
    low: int, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    """There is no room for what the kernel is asked to place, at first or once more."""
    reserve = libc.reserve

    def limited(va: int, length: int, flags: int = 0) -> int:
        if not va and length != after:
            return MUCH + low if after else reserve(va, length + (1 << 60), flags)
        if not va:
            raise OSError(errno.ENOMEM, "over the limit")
        return reserve(va, length, flags)

    monkeypatch.setattr(libc, "reserve", limited)
    monkeypatch.setattr(libc, "munmap", lambda va, n: va > LOW + SIZE or munmap(va, n))
    with choosing:
        flag = make_gap(low, SIZE)
        assert what_lies_at(low, SIZE) != FREE

    assert flag == MAP_FIXED


def test_one_that_the_kernel_would_choose_stays() -> None:
    """The place of the kernel's own choice: what is mapped next would lie in the hole."""
    va = libc.reserve(0, 64 * MB)
    with choosing:
        flag = make_gap(va, 64 * MB)
        inside = what_lies_at(va, 64 * MB)
    libc.munmap(va, 64 * MB)

    assert (flag, inside != FREE) == (MAP_FIXED, True)


def test_other_eals_wait_until_it_is_full(low: int) -> None:
    """Their cursors begin at the same address: the hint would be granted."""
    space, got = VaSpace(LOW), []
    other = threading.Thread(target=lambda: got.append(space.reserve(PAGE)))
    with choosing:
        make_gap(low, SIZE)
        other.start()
        other.join(0.2)
        waiting = other.is_alive()
        libc.reserve(low, SIZE, MAP_FIXED_NOREPLACE)
    other.join(10)
    libc.munmap(got[0], PAGE)

    assert waiting
    assert not LOW <= got[0] < LOW + SIZE


@pytest.mark.parametrize("slots", [range(N), (0, 1, 3, 6, 7)], ids=["whole", "gaps"])
@pytest.mark.parametrize("k", [0, 3, 4, None])
def test_what_is_not_mapped_is_reserved(low: int, slots: Sequence[int], k: int | None) -> None:
    """With and without gaps; page k fails: those before are mapped, and nobody comes there."""
    files = [os.memfd_create("page") for _ in slots]
    for fd in files:
        os.ftruncate(fd, PAGE)
    if k is not None:
        os.close(files[k])
    done, error = map_into_gap(files, [low + i * PAGE for i in slots], PAGE, MAP_SHARED)
    lies = [what_lies_at(low + i * PAGE, PAGE) for i in range(N)]
    dumped = [not d for d in dont_dump(low, SIZE)]
    for fd in files if k is None else files[:k] + files[k + 1 :]:
        os.close(fd)

    there = [i in slots[:k] for i in range(N)]
    assert done == (len(slots) if k is None else k)
    assert (error and error.errno) == (None if k is None else errno.EBADF)
    assert ["memfd" in text for text in lies] == there == dumped
    assert FREE not in lies


def test_gaps_that_cannot_be_reserved(low: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As at vm.max_map_count: no page is mapped, and all is a reservation again."""
    monkeypatch.setattr(libc, "syscall_batch", lambda *args, **more: [low, -errno.ENOMEM])
    vas = [low, low + 2 * PAGE, low + 5 * PAGE]
    done, error = map_into_gap([0, 0, 0], vas, PAGE, MAP_SHARED)
    lies = [what_lies_at(low + i * PAGE, PAGE) for i in range(6)]

    assert (error and error.errno, done) == (errno.ENOMEM, 0)
    assert "2 gaps between pages" in str(error)
    assert FREE not in lies


def dont_dump(low: int, length: int) -> list[bool]:
    """Whether each page is out of core dumps; of pages that are not mapped it is not said."""
    found: dict[int, bool] = {}
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if "-" in (span := line.split()[0]):
            at, end = (int(x, 16) for x in span.split("-"))
        elif line.startswith("VmFlags:"):
            found |= dict.fromkeys(range(max(at, low), min(end, low + length), PAGE), " dd" in line)
    return [found[va] for va in sorted(found)]
