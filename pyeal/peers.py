"""The other processes that map this one's memory.

The kind of start decides which process changes memory, which ones have to follow, and which locks
may be reset. eal.py decides it once; Segments, Heaps and Memzones find the object in their lists.

    Alone       nothing is shared (--no-shconf), or an observer, which changes nothing
    Primary     changes memory and tells the secondaries
    Secondary   asks the primary for each change
"""

from __future__ import annotations

from . import libc, locks
from .errors import EalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .malloc_mp import GrowthClient, GrowthServer, Memory
    from .mp import Channel
    from .releases import Release

    Log = Callable[[str, str], object]


LOCK_TIMEOUT = 1.0  # seconds


class Alone:
    """No other process maps the memory that this one changes."""

    exchange: Callable[[int, int, int], bool] = staticmethod(libc.compare_exchange_private)

    lock_timeout: float | None = None  # seconds to wait for a hugepage directory's lock

    def all_ended(self) -> bool:
        """Return whether every process that attached has ended: a lock still held is a dead one's.

        False if no process can have attached; a lock is then held by a thread of this process.
        """
        return False

    def lock(self, va: int, repair: Callable[[], object] = lambda: None) -> locks.SharedLock:
        """Return the lock at va; repair() is called after it was taken from a dead process."""
        return locks.SharedLock(va, self.exchange, self.all_ended, repair)

    def rwlock(self, va: int, release: Release) -> locks.RwLock:
        """Return the reader-writer lock at va."""
        return locks.RwLock(va, release, self.exchange, self.all_ended)

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
        self._locks: list[locks.SharedLock] = []

    def connect(self, channel: Channel, memory: Memory, shared: list[locks.SharedLock]) -> None:
        """Serve the secondaries from now on; shared: every lock that one of them may take."""
        from . import malloc_mp

        self._server = malloc_mp.GrowthServer(channel, memory, self.log)
        self._locks = shared

    def all_ended(self) -> bool:
        return self._server is not None and self._server.channel.alone()

    def announce(self, rollback: bool = False, id: int = 0) -> bool:
        if self._server is None:
            return True
        followed = self._server.announce(rollback, id)
        # an unresponsive process may have been stopped while it held a directory's lock
        self.lock_timeout = LOCK_TIMEOUT if self._server.unresponsive else None
        self._server.memory.finish_frees()
        return followed

    def release_dead_locks(self) -> None:
        """Reset the locks of dead processes once all other processes are dead.

        The next process that attaches would wait for them indefinitely, as with the C library.
        """
        for lock in self._locks:
            try:
                lock.release_dead()
            except EalError as e:  # what it guards is beyond repair, so it stays taken
                self.log("ERR", e.text)


class Secondary(Alone):
    """A secondary; it asks for nothing before connect()."""

    exchange = staticmethod(libc.compare_exchange)

    def __init__(self, log: Log) -> None:
        self.log = log
        self._client: GrowthClient | None = None

    def connect(self, channel: Channel, release: Release, follow: Callable[[], object]) -> None:
        """Follow the primary's announcements by follow(), and ask it for growth, from now on."""
        from . import malloc_mp

        self._client = malloc_mp.GrowthClient(channel, release, follow, self.log)

    def grow(self, expand: Callable[[], object], *request: Any) -> bool:
        return self._client is not None and self._client.grow(*request)

    def shrink(self, free: Callable[[], object], va: int, length: int) -> None:
        if self._client:
            self._client.release_pages(va, length)
