"""Which other processes map the memory of one EAL, and what a change of it owes them.

`MemsegLists.peers` is one of these: Alone until a message channel is open, then Primary or
Secondary. An observer stays Alone: it changes nothing, and no process knows of it.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .malloc_mp import Asker, Sync
    from .segments import Segments

LOCK_TIMEOUT = 1.0  # seconds


class Alone:
    """No other process maps the memory, as with --no-shconf and before the channel is open."""

    lock_timeout: float | None = None  # seconds to wait for a hugepage directory's lock

    def announce(self, rollback: bool = False, id: int = 0) -> bool:
        """Returns whether every other process has its mappings in line with the lists.

        Called after pages were added or removed. id: of the request that this answers, 0 if none.
        """
        return True

    def all_ended(self) -> bool:
        """Returns whether all processes that joined have ended: a lock that stays taken is theirs.

        False if no process can have joined: then it is a lock of this process's other thread.
        """
        return False


class Primary(Alone):
    """Secondaries may map the memory: each change is announced to them."""

    def __init__(self, server: Sync, segments: Segments) -> None:
        self.server, self.segments = server, segments

    def announce(self, rollback: bool = False, id: int = 0) -> bool:
        good = self.server.announce(rollback, id)
        # an unresponsive process may have been stopped while it held a directory's lock
        self.lock_timeout = LOCK_TIMEOUT if self.server.mute else None
        self.segments.finish_frees()
        return good

    def all_ended(self) -> bool:
        return self.server.channel.alone()


class Secondary(Alone):
    """The primary changes the memory: `client` asks it to grow or to shrink a heap."""

    def __init__(self, client: Asker) -> None:
        self.client = client
