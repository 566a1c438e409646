"""A hole in a reservation: where pages are mapped one by one, and nobody else meanwhile."""

from __future__ import annotations

import errno
import os
import threading

import pytest

from pyeal import libc
from pyeal.libc import MAP_FIXED, MAP_FIXED_NOREPLACE, MAP_SHARED, PAGE
from pyeal.vaspace import Hole, VaSpace, what_lies_at

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
    with Hole(low, SIZE) as flag:
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
            return Hole.MUCH + low if after else reserve(va, length + (1 << 60), flags)
        if not va:
            raise OSError(errno.ENOMEM, "over the limit")
        return reserve(va, length, flags)

    monkeypatch.setattr(libc, "reserve", limited)
    monkeypatch.setattr(libc, "munmap", lambda va, n: va > LOW + SIZE or munmap(va, n))
    with Hole(low, SIZE) as flag:
        assert what_lies_at(low, SIZE) != FREE

    assert flag == MAP_FIXED


def test_one_that_the_kernel_would_choose_stays() -> None:
    """The place of the kernel's own choice: what is mapped next would lie in the hole."""
    va = libc.reserve(0, 64 << 20)
    with Hole(va, 64 << 20) as flag:
        inside = what_lies_at(va, 64 << 20)
    libc.munmap(va, 64 << 20)

    assert (flag, inside != FREE) == (MAP_FIXED, True)


def test_other_eals_wait_until_it_is_full(low: int) -> None:
    """Their cursors begin at the same address: the hint would be granted."""
    space, got = VaSpace(LOW), []
    other = threading.Thread(target=lambda: got.append(space.reserve(PAGE)))
    with Hole(low, SIZE):
        other.start()
        other.join(0.2)
        waiting = other.is_alive()
        libc.reserve(low, SIZE, MAP_FIXED_NOREPLACE)
    other.join(10)
    libc.munmap(got[0], PAGE)

    assert waiting
    assert not LOW <= got[0] < LOW + SIZE


@pytest.mark.parametrize("k", [0, 3, N - 1])
def test_what_cannot_be_mapped_is_reserved_again(low: int, k: int) -> None:
    """Page k of eight fails: the ones before are mapped, and from there on nobody else comes."""
    files = [os.memfd_create("page") for _ in range(N)]
    for fd in files:
        os.ftruncate(fd, PAGE)
    os.close(files[k])
    done = [0]
    with pytest.raises(OSError) as failed, Hole(low, SIZE) as flag:
        libc.map_each(files, range(low, low + SIZE, PAGE), PAGE, MAP_SHARED | flag, done)
    lies = [what_lies_at(low + i * PAGE, PAGE) for i in range(N)]
    for fd in files[:k] + files[k + 1 :]:
        os.close(fd)

    assert (failed.value.errno, done) == (errno.EBADF, [k])
    assert ["memfd" in text for text in lies] == [i < k for i in range(N)]
    assert FREE not in lies
