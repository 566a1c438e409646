"""What all backings share: their methods, the mapping of pages, and the lock of a hugedir."""

from __future__ import annotations

import fcntl
import os
from errno import ENODEV, ENOMEM, ENOTSUP, ETIMEDOUT

from .. import files, libc
from ..errors import EalError
from ..populate import more_pages
from ..vaspace import give_back, map_into_gap

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ..hugepages import HugepageInfo
    from ..memseg import MemsegList, MemsegLists
    from ..options import Options
    from ..populate import Log, Population
    from ..releases import Release

FEW = 16  # pages that fit into every descriptor table, and whose names are looked up one by one


class Access:
    """How a process opens, maps and populates pages that another one made."""

    __slots__ = ("advice", "flags", "locks", "prot")

    def __init__(self, flags: int, prot: int, advice: int, locks: bool) -> None:
        self.flags, self.prot, self.advice, self.locks = flags, prot, advice, locks


READ_WRITE = Access(os.O_RDWR, libc.PROT_RW, libc.MADV_POPULATE_WRITE, locks=True)
# an observer's
READ_ONLY = Access(os.O_RDONLY, libc.PROT_READ, libc.MADV_POPULATE_READ, locks=False)


class NoDirectory:
    """The directory of pages that have none: descriptor -1, no lock."""

    def __enter__(self) -> int:
        return -1

    def __exit__(self, *_: object) -> None:
        pass


class OpenDirectory(NoDirectory):
    """A hugedir for an observer: open, not locked."""

    def __init__(self, path: str) -> None:
        self.path, self.fd = path, -1

    def __enter__(self) -> int:
        self.fd = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY)
        return self.fd

    def __exit__(self, *_: object) -> None:
        os.close(self.fd)


class LockedDirectory(NoDirectory):
    """A hugedir whose files change: exclusively locked, for at most `timeout` seconds of waiting.

    During a start the lock of the discovery serves. must: whether a timeout is an error; else the
    descriptor is -1 then. EalError(ENOMEM).
    """

    def __init__(self, info: HugepageInfo, timeout: float | None, must: bool = True) -> None:
        self.info, self.timeout, self.must = info, timeout, must
        self.lock: files.DirectoryLock | None = None

    def __enter__(self) -> int:
        fd = self._lock()
        self._check(fd)
        return fd

    def _lock(self) -> int:
        if self.info.lock_fd >= 0:
            return self.info.lock_fd
        lock = files.DirectoryLock(self.info.hugedir, timeout=self.timeout)
        try:
            fd = lock.__enter__()
        except OSError as e:
            if e.errno == ETIMEDOUT and not self.must:
                return -1
            why = f"Cannot lock '{self.info.hugedir}': {e.strerror}"
            raise EalError(ENOMEM, "memalloc", why) from None
        self.lock = lock
        return fd

    def _check(self, fd: int) -> None:
        """Raises EalError(ENODEV) if another file system covers the mount: it has no hugepages.

        The block size of hugetlbfs is its page size.
        """
        if self.must and (size := os.fstatvfs(fd).f_bsize) != self.info.page_sz:
            self.__exit__()
            raise EalError(
                ENODEV,
                "memalloc",
                f"Cannot allocate pages in '{self.info.hugedir}'",
                expected=f"hugetlbfs with pages of {self.info.page_sz} bytes",
                found=f"another file system with blocks of {size} bytes",
                fix=f"umount {self.info.hugedir}, or name another mount with --huge-dir",
                reason="not-hugetlbfs",
            )

    def __exit__(self, *_: object) -> None:
        if self.lock:
            self.lock.__exit__()
        self.lock = None


class Backing:
    """Holds the pages of one EAL's lists. Each method works on a run of segments, never on one.

    directory   what must be held while pages come or go
    map         opens and maps new pages, without touching them
    undo        takes back what map did: pages that were there before stay
    attach      maps pages that the primary made
    detach      unmaps them
    drop        removes pages that held data; it must not be found again
    fd          the descriptor of a page
    close       all descriptors
    """

    def __init__(
        self,
        lists: MemsegLists,
        opts: Options,
        infos: Sequence[HugepageInfo],
        population: Population,
        access: Access = READ_WRITE,
    ) -> None:
        self.lists, self.population, self.access = lists, population, access
        self.failure, self.log = population.failure, population.log
        self.infos = {info.page_sz: info for info in infos}

    @classmethod
    def usable(cls, sizes: list[int], opts: Options, release: Release, log: Log) -> type[Backing]:
        """Returns this class, or the one that this kernel has instead of it."""
        return cls

    def info(self, page_sz: int) -> HugepageInfo:
        """Returns what discovery found of a page size. EalError(ENOMEM) if pages cannot change."""
        if page_sz in self.infos:
            return self.infos[page_sz]
        what, sizes = f"Cannot allocate pages of {page_sz >> 10} kB", [s >> 10 for s in self.infos]
        raise EalError(ENOMEM, "memalloc", what, expected=f"one of {sizes or 'no'} kB")

    def directory(self, page_sz: int, must: bool = True) -> NoDirectory:
        """Returns the context in which pages of a size come or go; entering gives its descriptor.

        must: whether it is an error if the lock is not free in time.
        """
        return NoDirectory()

    def prepare(self, n: int) -> None:
        """Gets ready to map n more pages, before there are threads."""

    def map(self, msl: MemsegList, start: int, flags: list[int], dir_fd: int) -> int:
        """Maps len(flags) segments from start on; returns how many there are before a failure.

        flags: gets FLAG_DIRTY for each page that was there before, with its data.
        """
        raise NotImplementedError

    def undo(self, msl: MemsegList, start: int, flags: list[int], dir_fd: int) -> None:
        """Takes such segments back, also those that are not mapped yet."""
        give_back(msl.va(start), len(flags) * msl.page_sz)

    def drop(self, msl: MemsegList, start: int, n: int, dir_fd: int) -> None:
        """Removes n segments whose records are cleared; their addresses are a reservation again."""
        give_back(msl.va(start), n * msl.page_sz)

    def file_names(self, msl: MemsegList, start: int, n: int) -> list[str]:
        """Returns the names of the files in a hugedir that hold n segments, or their whole list."""
        return []

    def finish_frees(self) -> None:
        """Removes dropped pages that other processes still had: called after they were told."""

    def fd(self, msl: MemsegList, seg: int) -> tuple[int, int]:
        """Returns (descriptor, offset in bytes) of a segment.

        EalError: ENOTSUP for memory that has none, ENODEV if none is open.
        """
        what, found = f"Segment {seg} of {msl.name} has no descriptor", self._find_fd(msl, seg)
        if msl.external or not found:
            raise EalError(ENOTSUP, "memalloc", f"{what}: its memory has none")
        if found[0] < 0:
            raise EalError(ENODEV, "memalloc", f"{what} that is open")
        return found

    def _find_fd(self, msl: MemsegList, seg: int) -> tuple[int, int] | None:
        """Returns the same, descriptor -1 if none is open; None for memory that has none."""
        return None

    def set_fd(self, msl: MemsegList, seg: int, fd: int) -> None:
        """Stores a page's descriptor. EalError(ENOTSUP) if a list has one for all its pages."""
        what = "Could not store segment fd: Operation not supported"
        raise EalError(ENOTSUP, "memalloc", what)

    def close_list(self, msl: MemsegList) -> None:
        """Closes what a list has open when none of its pages is mapped any more."""

    def close(self) -> None:
        """Closes every descriptor; the locks that they hold are free for others then."""

    def abandon(self) -> None:
        """Removes every file that this start made; files that it found stay."""

    def _map_whole(self, msl: MemsegList, start: int, n: int, fd: int, kind: int) -> int:
        """Maps n segments by one call, or page by page as many as there are; returns how many."""
        kind |= libc.MAP_FIXED | self.population.map_flag
        at, step = 0, n
        while at < n:
            seg = start + at
            try:
                offset = seg * msl.page_sz if fd >= 0 else 0
                libc.mmap(msl.va(seg), step * msl.page_sz, libc.PROT_RW, kind, fd, offset)
            except OSError as e:
                if step == 1:
                    self._map_failed(msl, e)
                    break
                step = 1
            else:
                at += step
        return at

    def _map_failed(self, msl: MemsegList, e: OSError) -> None:
        why = os.strerror(e.errno or 0)
        self.failure("DEBUG", f"mmap() failed: {why}", more_pages(msl.page_sz, msl.socket))


class PagePerFd(Backing):
    """Each page has a descriptor of its own."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.open_files: dict[int, dict[int, int]] = {}  # list -> segment -> descriptor

    def prepare(self, n: int) -> None:
        if n > FEW:
            grow_descriptor_table(n)

    def open(self, msl: MemsegList, start: int, flags: list[int], dir_fd: int) -> list[int]:
        """Returns descriptors of new pages, fewer after a failure; fills flags as map does."""
        raise NotImplementedError

    def map(self, msl: MemsegList, start: int, flags: list[int], dir_fd: int) -> int:
        done = [0]
        try:
            opened = self.open(msl, start, flags, dir_fd)
        except OSError as e:
            self.failure("ERR", f"Couldn't get fd on hugepage file: {e.strerror}: {e.filename}")
            return 0
        self._table(msl).update(enumerate(opened, start))
        try:
            self._map_each(msl, start, opened, self.population.map_flag, done)
        except OSError as e:
            self._map_failed(msl, e)
        return done[0]

    def _map_each(
        self, msl: MemsegList, start: int, opened: list[int], flag: int, done: list[int]
    ) -> None:
        """Maps files as segments from start on; done[0] is how many. OSError."""
        vas = range(msl.va(start), msl.va(start + len(opened)), msl.page_sz)
        map_into_gap(opened, vas, msl.page_sz, libc.MAP_SHARED | flag, done, self.access.prot)

    def _table(self, msl: MemsegList) -> dict[int, int]:
        return self.open_files.setdefault(msl.index, {})

    def _taken(self, msl: MemsegList, start: int, n: int) -> list[tuple[int, int]]:
        """Returns (segment, descriptor) of those that are open, which are forgotten."""
        table = self._table(msl)
        return [(seg, table.pop(seg)) for seg in range(start, start + n) if seg in table]

    def _find_fd(self, msl: MemsegList, seg: int) -> tuple[int, int]:
        return self.open_files.get(msl.index, {}).get(seg, -1), 0

    def set_fd(self, msl: MemsegList, seg: int, fd: int) -> None:
        self._table(msl)[seg] = fd

    def close(self) -> None:
        for table in self.open_files.values():
            for fd in table.values():
                os.close(fd)
        self.open_files.clear()


class ListPerFd(Backing):
    """A list has one descriptor: segment i of it lies at i times the page size."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.list_fds: dict[int, int] = {}
        self.preexisting: dict[int, int] = {}  # list -> bytes of its file that were there before

    def open(self, msl: MemsegList, dir_fd: int) -> tuple[int, int]:
        """Returns a new descriptor for a list, and FLAG_DIRTY if its file has data from before."""
        raise NotImplementedError

    def map(self, msl: MemsegList, start: int, flags: list[int], dir_fd: int) -> int:
        dirty = 0
        if msl.index not in self.list_fds:
            try:
                fd, dirty = self.open(msl, dir_fd)
            except OSError as e:
                why = f"Couldn't get fd on hugepage file: {e.strerror}: {e.filename}"
                self.failure("ERR", why)
                return 0
            self.list_fds[msl.index] = fd
        flags[:] = [dirty] * len(flags)
        # pages that are reserved for a file and not populated stay reserved as long as the file
        kind = libc.MAP_SHARED | libc.MAP_NORESERVE
        return self._map_whole(msl, start, len(flags), self.list_fds[msl.index], kind)

    def undo(self, msl: MemsegList, start: int, flags: list[int], dir_fd: int) -> None:
        self.drop(msl, start, len(flags), dir_fd, self.preexisting.get(msl.index, 0))

    def drop(self, msl: MemsegList, start: int, n: int, dir_fd: int, stays: int = 0) -> None:
        """Keeps the first `stays` bytes of the file."""
        give_back(msl.va(start), n * msl.page_sz)
        if msl.index not in self.list_fds:
            return
        at, end = max(start * msl.page_sz, stays), (start + n) * msl.page_sz
        try:
            if at < end:
                self._punch(msl, at, end - at)
                self._punched(msl, start, n)
        except OSError as e:
            self.log("DEBUG", f"fallocate() failed: {e.strerror}")
        if not msl.count:
            if not stays:
                self._remove(msl, dir_fd)
            self.close_list(msl)

    def _punch(self, msl: MemsegList, at: int, length: int) -> None:
        """Takes memory out of a list's file. OSError."""
        kind = libc.FALLOC_PUNCH_HOLE | libc.FALLOC_KEEP_SIZE
        libc.fallocate(self.list_fds[msl.index], kind, at, length)

    def _punched(self, msl: MemsegList, start: int, n: int) -> None:
        """Notes segments that other processes may still have mapped."""

    def _remove(self, msl: MemsegList, dir_fd: int) -> None:
        """Removes the file of a list that has no page left."""

    def _find_fd(self, msl: MemsegList, seg: int) -> tuple[int, int]:
        return self.list_fds.get(msl.index, -1), seg * msl.page_sz

    def close_list(self, msl: MemsegList) -> None:
        if msl.index in self.list_fds:
            os.close(self.list_fds.pop(msl.index))

    def close(self) -> None:
        for fd in self.list_fds.values():
            os.close(fd)
        self.list_fds.clear()


def add_opened(got: list[int], names: Sequence[str], opened: list[int]) -> None:
    """Adds the descriptors of a syscall_batch; OSError names the file whose open failed."""
    if got and min(got) < 0:
        at = next(i for i, fd in enumerate(got) if fd < 0)
        opened += got[:at]
        for fd in got[at + 1 :]:
            if fd >= 0:
                os.close(fd)
        raise OSError(-got[at], os.strerror(-got[at]), names[at])
    opened += got


def grow_descriptor_table(n: int) -> None:
    """Makes the process's descriptor table big enough at once, before there is a second thread.

    Otherwise the kernel doubles it step by step, and waits for all CPUs at each step of a process
    that has threads.
    """
    try:
        probe = os.open("/", os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.close(fcntl.fcntl(probe, fcntl.F_DUPFD, probe + n + FEW))
        finally:
            os.close(probe)
    except OSError:
        pass  # over the limit: the open that fails will report it
