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
from .secondary import Secondary, Sync

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .backing.pagefiles import HugedirFiles
    from .memseg import MemsegList


def _refused(stage: str) -> EalError:
    what = "Cannot change memory: an observer only reads"
    return EalError(EACCES, stage, what, fix="attach as a secondary", reason="role")


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
        raise _refused("lock")


class ObserverPeers(Alone):
    """No peer waits for this process, and this process asks none."""

    def rwlock(self, va: int, steps: tuple[int, int]) -> RwLock:
        return NoLock(va, steps)


class ObserverSync(Sync):
    """A page that was freed meanwhile is no error."""

    def _map(self, msl: MemsegList, start: int, n: int, dir_fd: int) -> None:
        try:
            super()._map(msl, start, n, dir_fd)
        except EalError as e:
            if msl.arr.is_used(start):
                raise
            self.log("DEBUG", f"gone before it was mapped: {e.text}")


class Observer(Secondary):
    """What an observer does at each stage."""

    config_class, arrays_class, access = ObserverConfig, ObserverArrays, ReadOnly

    def join(self, config: AttachedConfig) -> None:
        self.peers = ObserverPeers()

    def make_sync(self, held: HugedirFiles) -> Sync:
        return ObserverSync(self.eal, held, suffix="")

    def share(self, workers: list[int]) -> None:
        pass

    def check_change(self) -> None:
        raise _refused("malloc")

    def refresh(self) -> None:
        if not self.eal.options.legacy_mem:
            self.sync.follow()
