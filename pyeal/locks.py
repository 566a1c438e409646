"""Lock words in `config`, which every process of a prefix maps and changes.

A word that another process can see is changed in one place only: SharedWord.change. Its exchange
is libc.compare_exchange, or compare_exchange_private if no other process maps the memory.
"""

from __future__ import annotations

import time
from ctypes import c_int
from errno import EACCES, ETIMEDOUT

from . import libc
from .errors import EalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .releases import Release

    Exchange = Callable[[int, int, int], bool]


class SharedWord:
    """A signed 4-byte word at va that other processes change meanwhile."""

    def __init__(self, va: int, exchange: Exchange = libc.compare_exchange) -> None:
        self.va, self.exchange = va, exchange

    @property
    def value(self) -> int:
        return c_int.from_address(self.va).value

    def change(self, new: Callable[[int], int | None]) -> bool:
        """Replaces the value v by new(v), and returns False if that is None.

        Raises OSError(ENOTSUP) if this machine offers no atomic exchange.
        """
        while (changed := new(old := self.value)) is not None:
            if self.exchange(self.va, old, changed):
                return True
        return False


class SharedLock(SharedWord):
    """A lock word that several processes take; 0 means free.

    all_ended: returns whether every process that attached has ended. A word that stays taken then
    belongs to a dead process; it is reset, and repair() is called with the lock held.
    """

    GRACE, WAIT = 0.5, 4.5  # seconds before the first look at all_ended(); seconds after it

    def __init__(
        self,
        va: int,
        exchange: Exchange = libc.compare_exchange,
        all_ended: Callable[[], bool] = lambda: False,
        repair: Callable[[], object] = lambda: None,
    ) -> None:
        super().__init__(va, exchange)
        self.all_ended, self.repair = all_ended, repair
        self.ours: list[None] = []  # one entry for each thread here that holds it or waits for it

    def acquire(self, free: Callable[[int], bool], add: int) -> None:
        """Adds to the word as soon as free(value) holds.

        Raises EalError: ETIMEDOUT after 5 s, ENOTSUP if this machine offers no atomic exchange,
        and whatever repair() raises; in the last case the lock stays taken.
        """
        self.ours.append(None)
        try:
            was_dead = self._take(free, add)
        except OSError as e:
            self.ours.pop()
            raise EalError(e.errno or 0, "lock", e.strerror or "") from None
        except EalError:
            self.ours.pop()
            raise
        if was_dead:
            self.repair()

    def _take(self, free: Callable[[int], bool], add: int) -> bool:
        """Adds to the word, and returns whether a dead process's lock was reset for that."""
        for timeout in (self.GRACE, self.WAIT):
            if self._add(free, add, timeout):
                return False
            # other processes may wait for an answer of the thread here that has it meanwhile
            if (timeout == self.WAIT or len(self.ours) == 1) and self.all_ended():
                self.change(lambda value: 0)
                if self._add(free, add, self.WAIT):
                    return True
        raise OSError(
            ETIMEDOUT,
            f"the lock word at {self.va:#x} holds {self.value}, for {timeout} s; "
            "its holder may be dead",
        )

    def _add(self, free: Callable[[int], bool], add: int, timeout: float) -> bool:
        pause, left = 1e-5, timeout
        while not self.change(lambda value: value + add if free(value) else None):
            if left <= 0:
                return False
            time.sleep(pause)
            left, pause = left - pause, min(pause * 2, 0.01)
        return True

    def release(self, add: int) -> None:
        """Subtracts what acquire() added."""
        self.change(lambda value: value - add)
        self.ours.pop()

    def release_dead(self) -> None:
        """Resets the word if a dead process holds it, after repair().

        Raises what repair() raises; the lock stays taken then.
        """
        if self.ours or not self.value or not self.all_ended():
            return
        self.ours.append(None)
        self.repair()
        self.change(lambda value: 0)
        self.ours.pop()


class RwLock(SharedLock):
    """A reader-writer lock; as a context it is held for writing.

    reader, writer: what each adds, as release.rwlock has it. include/generic/rte_rwlock.h
    """

    def __init__(
        self,
        va: int,
        release: Release,
        exchange: Exchange = libc.compare_exchange,
        all_ended: Callable[[], bool] = lambda: False,
    ) -> None:
        super().__init__(va, exchange, all_ended)
        self.reader, self.writer = release.rwlock

    def __enter__(self) -> None:
        self.write()

    def __exit__(self, *_: object) -> None:
        self.write_done()

    def read(self) -> None:
        self.acquire(self._no_writer, self.reader)

    def _no_writer(self, value: int) -> bool:
        # a writer's value and a waiting writer's are below a reader's step, or negative
        return value >= 0 and not value & (self.reader - 1)

    def read_done(self) -> None:
        self.release(self.reader)

    def write(self) -> None:
        self.acquire(lambda value: value == 0, self.writer)

    def write_done(self) -> None:
        self.release(self.writer)


class NoLock:
    """An observer's lock: reading takes nothing, and writing is refused with EalError(EACCES)."""

    def read(self) -> None:
        pass

    read_done = read

    def __enter__(self) -> None:
        raise EalError(EACCES, "lock", "an observer changes nothing")

    def __exit__(self, *_: object) -> None:
        pass
