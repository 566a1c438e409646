"""An observer: a secondary that only reads, and of which no other process knows.

It has no socket, no shadow array and no lock. Each class here replaces one of a secondary's.
"""

from __future__ import annotations

import os
from errno import EACCES

from .attached import AttachedConfig
from .backing import ReadOnly
from .errors import EalError
from .fbarray import Arrays
from .libc import PROT_READ
from .peers import Alone, RwLock
from .secondary import Secondary, SecondaryRights, Sync

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .backing.pagefiles import HugedirFiles
    from .memseg import MemsegList


class ObserverRights(SecondaryRights):
    """An observer only reads."""

    def change(self) -> None:
        what = "Cannot change memory: an observer only reads"
        raise EalError(EACCES, "malloc", what, fix="attach as a secondary", reason="role")


class ObserverConfig(AttachedConfig):
    """A primary's config, mapped for reading alone."""

    flags, prot = os.O_RDONLY, PROT_READ


class ObserverArrays(Arrays):
    """The arrays of a primary, mapped for reading alone and not locked."""

    flags, prot = os.O_RDONLY, PROT_READ

    def _lock_attached(self, fd: int) -> None:
        pass


class NoLock(RwLock):
    """Takes nothing for reading, and refuses writing with EalError(EACCES)."""

    def read(self) -> None:
        pass

    def read_done(self) -> None:
        pass

    def __enter__(self) -> None:
        what = "Cannot change memory: an observer only reads"
        raise EalError(EACCES, "lock", what, fix="attach as a secondary", reason="role")


class ObserverPeers(Alone):
    """No peer waits for this process, and this process asks none."""

    def rwlock(self, va: int, steps: tuple[int, int]) -> RwLock:
        return NoLock(va, steps)


class ObserverSync(Sync):
    """Maps without shadow arrays; a page that was freed meanwhile is no error."""

    def _make_shadows(self, suffix: str) -> None:
        pass

    def _map(self, msl: MemsegList, start: int, n: int, dir_fd: int) -> None:
        try:
            super()._map(msl, start, n, dir_fd)
        except EalError as e:
            if msl.arr.is_used(start):
                raise
            self.log("DEBUG", f"gone before it was mapped: {e.text}")


class Observer(Secondary):
    """The stages of an observer."""

    rights = ObserverRights()
    known = False
    attach = ObserverConfig
    arrays = ObserverArrays
    access = ReadOnly

    def _join(self) -> None:
        self.peers = ObserverPeers()

    def _sync(self, held: HugedirFiles) -> Sync:
        return ObserverSync(self.eal.lists, self.eal.arrays, held, self.eal.log)

    def _connect(self) -> None:
        pass

    def refresh(self) -> None:
        if not self.eal.options.legacy_mem:
            self.eal.sync.follow()
