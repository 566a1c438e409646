"""The other processes that map this one's memory, and the lock words that all of them take.

The kind of start decides which process changes memory, which ones have to follow, and which locks
may be reset. eal.py decides it once; Segments, Heaps and Memzones find the object in their lists.

    Alone       nothing is shared (--no-shconf)
    Primary     changes memory and tells the secondaries
    (secondary.py and observer.py have their own: a secondary asks the primary for each change, an
    observer changes nothing and takes no lock)

A word that another process can see is changed in one place only: `change`. Its exchange is
libc.compare_exchange, or compare_exchange_private if no other process maps the memory.
"""

from __future__ import annotations

import time
from _thread import get_ident
from ctypes import addressof, c_int
from errno import EDEADLK, ETIMEDOUT

from . import libc
from .errors import CLOSED, EalError, Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .malloc_mp import GrowthServer, Memory
    from .mp import Channel

    Exchange = Callable[[int, int, int], bool]

LOCK_TIMEOUT = 1.0  # seconds
_UNMAPPED = c_int()  # in place of a word that is not mapped any more


def change(
    va: int, new: Callable[[int], int | None], exchange: Exchange = libc.compare_exchange
) -> bool:
    """Replace the value v of a signed 4-byte word by new(v), and return False if that is None.

    Raises OSError(ENOTSUP) if this machine offers no atomic exchange.
    """
    while (changed := new(old := c_int.from_address(va).value)) is not None:
        if exchange(va, old, changed):
            return True
    return False


class SharedLock:
    """A lock word that several processes take; 0 means free.

    all_ended: returns whether every process that attached has ended. unheld: asks those that live,
    and returns whether each replied that it does not hold the word at that address. A word that
    stays taken then belongs to a dead process; it is reset, and repair() is called with the lock
    held.
    """

    GRACE, WAIT = 0.5, 4.5  # seconds before the first look at all_ended(); seconds after it

    def __init__(
        self,
        va: int,
        exchange: Exchange = libc.compare_exchange,
        all_ended: Callable[[], bool] = lambda: False,
        repair: Callable[[], object] = lambda: None,
        unheld: Callable[[int], bool] = lambda va: False,
    ) -> None:
        self.va, self.exchange, self.all_ended, self.repair = va, exchange, all_ended, repair
        self.unheld = unheld
        self.ours: list[int] = []  # each thread here that holds it or waits for it
        self.asleep: list[int] = []  # those that wait, while they do not look at the word

    @property
    def value(self) -> int:
        return c_int.from_address(self.va).value

    @property
    def may_be_ours(self) -> bool:
        """Whether a thread of this process holds it, or is about to."""
        return len(self.ours) > len(self.asleep)

    def change(self, new: Callable[[int], int | None]) -> bool:
        return change(self.va, new, self.exchange)

    def acquire(self, free: Callable[[int], bool], add: int) -> None:
        """Add to the word as soon as free(value) holds.

        Raises EalError: ETIMEDOUT after 5 s, ENOTSUP if this machine offers no atomic exchange,
        and whatever repair() raises; in the last case the lock stays taken.
        """
        if (me := get_ident()) in self.ours and not free(self.value):
            what = "Cannot take a lock that this thread holds"
            raise EalError(EDEADLK, "lock", what, fix="return from the walk first", reason="held")
        self.ours.append(me)
        try:
            was_dead = self._take(free, add)
        except BaseException as e:
            self.ours.remove(me)
            if isinstance(e, OSError):
                raise EalError(e.errno or 0, "lock", e.strerror or "") from None
            raise
        if was_dead:
            self.repair()

    def _take(self, free: Callable[[int], bool], add: int) -> bool:
        """Add to the word, and return whether a dead process's lock was reset for that."""
        for timeout in (self.GRACE, self.WAIT / 3, self.WAIT * 2 / 3):
            if self._add(free, add, timeout):
                return False
            # other processes may wait for an answer of the thread here that has it meanwhile
            alone = len(self.ours) - len(self.asleep) == 1
            if (alone or timeout > self.WAIT / 2) and self.all_ended():
                self.change(lambda value: 0)
            elif not (alone and self._reset_unheld()):
                continue
            if self._add(free, add, self.WAIT):
                return True
        why = f"the lock word at {self.va:#x} holds {self.value}, for {self.WAIT} s"
        raise OSError(ETIMEDOUT, f"{why}; its holder may be dead")

    def _reset_unheld(self, repair: Callable[[], object] = lambda: None) -> bool:
        """Reset the word if no living process holds it; return whether that is known.

        They are asked twice: a reader can come after its reply while another one goes before it.
        """
        old = self.value
        for _ in range(2):
            if not self.unheld(self.va) or self.value != old:
                return False
        repair()
        return self.exchange(self.va, old, 0)

    def _add(self, free: Callable[[int], bool], add: int, timeout: float) -> bool:
        pause, left = 1e-5, timeout
        while not self.change(lambda value: value + add if free(value) else None):
            if left <= 0:
                return False
            self.asleep.append(me := get_ident())
            try:
                time.sleep(pause)
            finally:
                self.asleep.remove(me)
            left, pause = left - pause, min(pause * 2, 0.01)
        return True

    def release(self, add: int) -> None:
        """Subtract what acquire() added."""
        self.change(lambda value: value - add)
        self.ours.remove(get_ident())

    def close(self) -> None:
        """Refuse each use from now on: the word is not mapped any more."""
        self.va, self.change = addressof(_UNMAPPED), CLOSED.use  # type: ignore[method-assign]

    def release_dead(self) -> None:
        """Reset the word if a dead process holds it, after repair().

        Raises what repair() raises; the lock stays taken then.
        """
        if self.ours or not self.value:
            return
        self.ours.append(get_ident())
        try:
            if self.all_ended():
                self.repair()
                self.change(lambda value: 0)
            else:
                self._reset_unheld(self.repair)
        finally:
            self.ours.remove(get_ident())


class RwLock(SharedLock):
    """A reader-writer lock; as a context it is held for writing.

    reader, writer: what each adds, the steps of the release. include/generic/rte_rwlock.h
    """

    def __init__(self, va: int, steps: tuple[int, int], *shared: Any) -> None:
        super().__init__(va, *shared)
        self.reader, self.writer = steps

    def __enter__(self) -> None:
        self.acquire(lambda value: value == 0, self.writer)

    def __exit__(self, *_: object) -> None:
        self.release(self.writer)

    def read(self) -> None:
        self.acquire(self._no_writer, self.reader)

    def _no_writer(self, value: int) -> bool:
        # a writer's value and a waiting writer's are below a reader's step, or negative
        return value >= 0 and not value & (self.reader - 1)

    def read_done(self) -> None:
        self.release(self.reader)


class Alone:
    """No other process maps the memory that this one changes."""

    exchange: Exchange = staticmethod(libc.compare_exchange_private)
    lock_timeout: float | None = None  # seconds to wait for a hugepage directory's lock

    def all_ended(self) -> bool:
        """Return whether every process that attached has ended: a lock still held is a dead one's.

        False if no process can have attached; a lock is then held by a thread of this process.
        """
        return False

    def unheld(self, va: int) -> bool:
        """Return whether each living process replied that it does not hold the lock at va."""
        return False

    def lock(self, va: int, repair: Callable[[], object] = lambda: None) -> SharedLock:
        """Return the lock at va; repair() is called after it was taken from a dead process."""
        return SharedLock(va, self.exchange, self.all_ended, repair, self.unheld)

    def rwlock(self, va: int, steps: tuple[int, int]) -> RwLock:
        """Return the reader-writer lock at va; steps: release.rwlock."""
        return RwLock(va, steps, self.exchange, self.all_ended, lambda: None, self.unheld)

    def announce(self, rollback: bool = False, id: int = 0) -> bool:
        """Have every peer map what the lists say now, and return whether each of them did.

        Called after pages were added or removed. id: of the request that this answers, 0 if none.
        """
        return True

    def grow(self, expand: Callable[[], object], *request: Any) -> bool:
        """Return whether a heap has new pages: made by expand(), or by the primary on request.

        Raises EalError as expand() does.
        """
        expand()
        return True

    def shrink(self, free: Callable[[], object], va: int, length: int) -> None:
        """Give pages back that no heap contains any more: by free(), or by the primary."""
        free()


class Primary(Alone):
    """A primary whose files are shared; no process can have attached before connect()."""

    exchange = staticmethod(libc.compare_exchange)

    def __init__(self, log: Log) -> None:
        self.log = log
        self._server: GrowthServer | None = None
        self._locks: list[SharedLock] = []

    def connect(self, channel: Channel, memory: Memory, shared: list[SharedLock]) -> None:
        """Serve the secondaries from now on; shared: every lock that one of them may take."""
        from . import malloc_mp

        self._server = malloc_mp.GrowthServer(channel, memory, self.log)
        self._locks = shared

    def all_ended(self) -> bool:
        return self._server is not None and self._server.channel.alone()

    def unheld(self, va: int) -> bool:
        return self._server is not None and self._server.unheld(va)

    def announce(self, rollback: bool = False, id: int = 0) -> bool:
        if self._server is None:
            return True
        followed = self._server.announce(rollback, id)
        # an unresponsive process may have been stopped while it held a directory's lock
        self.lock_timeout = LOCK_TIMEOUT if self._server.unresponsive else None
        self._server.memory.segments.backing.finish_frees()
        return followed

    def release_dead_locks(self) -> None:
        """Reset the locks of dead processes, if it is known that no living process holds them.

        The next process that attaches would wait for them indefinitely, as with the C library.
        """
        for lock in self._locks:
            try:
                lock.release_dead()
            except EalError as e:  # what it guards is beyond repair, so it stays taken
                self.log("ERR", e.text)
