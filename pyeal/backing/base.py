"""What all backings share: their methods, mapping, and a descriptor for each page or list."""

from __future__ import annotations

import fcntl
import os
from errno import ENODEV, ENOMEM, ENOTSUP

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
    from ..populate import Population

FEW = 16  # pages that fit into every descriptor table, and whose names are looked up one by one


class Access:
    """How a process opens, maps and populates pages that another one made."""

    flags, prot, advice, locks = os.O_RDWR, libc.PROT_RW, libc.MADV_POPULATE_WRITE, True


class ReadOnly(Access):
    """The same of an observer."""

    flags, prot, advice, locks = os.O_RDONLY, libc.PROT_READ, libc.MADV_POPULATE_READ, False


class keeping(files.closing):
    """Leaves a descriptor open at the end of a block, or has -1 in place of one."""

    def __exit__(self, *_: object) -> None:
        pass


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

    fixed = False  # whether memory never changes after the start
    open_failed = "open '{0.filename}' failed: {0.strerror}"

    def __init__(
        self,
        lists: MemsegLists,
        opts: Options,
        infos: Sequence[HugepageInfo],
        population: Population,
        access: type[Access] = Access,
    ) -> None:
        self.lists, self.population, self.access = lists, population, access
        self.failure, self.log = population.failure, population.log
        self.infos = {info.page_sz: info for info in infos}

    def check_size(self, page_sz: int) -> None:
        """Raises EalError(ENOMEM) if pages of a size can be neither allocated nor freed."""
        what = f"Cannot allocate pages of {page_sz >> 10} kB"
        if self.fixed:
            raise EalError(ENOMEM, "memalloc", f"{what}: memory is fixed in legacy mode")
        if page_sz not in self.infos:
            sizes = [size >> 10 for size in self.infos]
            raise EalError(ENOMEM, "memalloc", what, expected=f"one of {sizes or 'no'} kB")

    def directory(self, page_sz: int, must: bool = True) -> files.closing:
        """Returns the directory in which pages of a size come or go, for a `with` block.

        must: whether it is an error if its lock is not free in time; the descriptor is -1 else.
        """
        return keeping(-1)

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

    def _leave(self, msl: MemsegList, start: int, n: int) -> None:
        """Notes dropped segments that other processes may still have mapped."""

    def finish_frees(self) -> None:
        """Removes dropped pages that other processes still had: called after they were told."""

    def file_names(self, msl: MemsegList, start: int, n: int) -> list[str]:
        """Returns the names of the files in a hugedir that hold n segments, or their whole list."""
        return []

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

    def close_list(self, msl: MemsegList) -> None:
        """Closes what a list has open when none of its pages is mapped any more."""

    def close(self) -> None:
        """Closes every descriptor; the locks that they hold are free for others then."""

    def abandon(self) -> None:
        """Removes every file that this start made; files that it found stay."""

    def _cannot_open(self, e: OSError) -> None:
        self.failure("ERR", "Couldn't get fd on hugepage file: " + self.open_failed.format(e))

    def _cannot_map(self, msl: MemsegList, e: OSError) -> None:
        why = os.strerror(e.errno or 0)
        self.failure("DEBUG", f"mmap() failed: {why}", more_pages(msl.page_sz, msl.socket))

    def _map_whole(self, msl: MemsegList, start: int, n: int, fd: int, kind: int) -> int:
        """Maps n segments by one call, or page by page as many as there are; returns how many."""
        kind |= libc.MAP_FIXED | self.population.map_flag
        at, step = 0, n
        while at < n:
            seg = start + at
            try:
                offset = seg * msl.page_sz if fd >= 0 else 0
                libc.mmap(msl.va(seg), step * msl.page_sz, libc.PROT_RW, kind, fd, offset)
                at += step
            except OSError as e:
                if step == 1:
                    self._cannot_map(msl, e)
                    break
                step = 1
        return at


class PagePerFd(Backing):
    """Each page has a descriptor of its own."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, **more)
        self.open_files: dict[int, dict[int, int]] = {}  # list -> segment -> descriptor

    def prepare(self, n: int) -> None:
        if n > FEW:
            grow_descriptor_table(n)

    def open(
        self, msl: MemsegList, start: int, flags: list[int], dir_fd: int
    ) -> tuple[list[int], OSError | None]:
        """Returns descriptors of new pages up to the first failure, and that; fills flags."""
        raise NotImplementedError

    def map(self, msl: MemsegList, start: int, flags: list[int], dir_fd: int) -> int:
        opened, error = self.open(msl, start, flags, dir_fd)
        if error:
            self._cannot_open(error)
        n, error = self._map_opened(msl, start, opened, self.population.map_flag)
        if error:
            self._cannot_map(msl, error)
        return n

    def _map_opened(
        self, msl: MemsegList, start: int, opened: list[int], flag: int = 0
    ) -> tuple[int, OSError | None]:
        """Stores descriptors of pages from start on, and maps them as map_into_gap does."""
        self._table(msl).update(enumerate(opened, start))
        vas = range(msl.va(start), msl.va(start + len(opened)), msl.page_sz)
        return map_into_gap(opened, vas, msl.page_sz, libc.MAP_SHARED | flag, self.access.prot)

    def _table(self, msl: MemsegList) -> dict[int, int]:
        return self.open_files.setdefault(msl.index, {})

    def _taken(self, msl: MemsegList, start: int, n: int) -> list[tuple[int, int]]:
        """Returns (segment, descriptor) of those that are open, which are forgotten."""
        table = self._table(msl)
        return [(seg, table.pop(seg)) for seg in range(start, start + n) if seg in table]

    def _remove(self, msl: MemsegList, seg: int, fd: int, dir_fd: int, made: bool = False) -> bool:
        """Removes a page's file; returns whether no process can find the page once fd is closed.

        made: whether this allocation made it.
        """
        return False

    def undo(self, msl: MemsegList, start: int, flags: list[int], dir_fd: int) -> None:
        for seg, fd in self._taken(msl, start, len(flags)):
            if not flags[seg - start]:
                self._remove(msl, seg, fd, dir_fd, made=True)
            os.close(fd)
        super().undo(msl, start, flags, dir_fd)

    def drop(self, msl: MemsegList, start: int, n: int, dir_fd: int) -> None:
        for seg, fd in self._taken(msl, start, n):
            if not self._remove(msl, seg, fd, dir_fd):
                libc.zero(msl.va(seg), msl.page_sz)  # a process that was given the page sees it
                self._leave(msl, seg, 1)
            os.close(fd)
        super().drop(msl, start, n, dir_fd)

    def _find_fd(self, msl: MemsegList, seg: int) -> tuple[int, int]:
        return self.open_files.get(msl.index, {}).get(seg, -1), 0

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
                self.list_fds[msl.index], dirty = self.open(msl, dir_fd)
            except OSError as e:
                self._cannot_open(e)
                return 0
        flags[:] = [dirty] * len(flags)
        # pages that are reserved for a file and not populated stay reserved as long as the file
        kind = libc.MAP_SHARED | libc.MAP_NORESERVE
        return self._map_whole(msl, start, len(flags), self.list_fds[msl.index], kind)

    def undo(self, msl: MemsegList, start: int, flags: list[int], dir_fd: int) -> None:
        self.drop(msl, start, len(flags), dir_fd, self.preexisting.get(msl.index, 0))

    def drop(self, msl: MemsegList, start: int, n: int, dir_fd: int, stays: int = 0) -> None:
        """Keeps the first `stays` bytes of the file."""
        super().drop(msl, start, n, dir_fd)
        if msl.index not in self.list_fds:
            return
        at, end = max(start * msl.page_sz, stays), (start + n) * msl.page_sz
        try:
            if at < end:
                self._punch(msl, at, end - at)
                self._leave(msl, start, n)
        except OSError as e:
            self.log("DEBUG", f"fallocate() failed: {e.strerror}")
        if not msl.count:
            try:
                for name in self.file_names(msl, 0, 1) if dir_fd >= 0 and not stays else ():
                    os.unlink(name, dir_fd=dir_fd)
            except OSError as e:
                self.log("ERR", f"unlinking '{e.filename}' failed: {e.strerror}")
            self.close_list(msl)

    def _punch(self, msl: MemsegList, at: int, length: int) -> None:
        """Takes memory out of a list's file. OSError."""
        libc.fallocate(self.list_fds[msl.index], libc.PUNCH_HOLE, at, length)

    def _find_fd(self, msl: MemsegList, seg: int) -> tuple[int, int]:
        return self.list_fds.get(msl.index, -1), seg * msl.page_sz

    def close_list(self, msl: MemsegList) -> None:
        if msl.index in self.list_fds:
            os.close(self.list_fds.pop(msl.index))

    def close(self) -> None:
        for fd in self.list_fds.values():
            os.close(fd)
        self.list_fds.clear()


def up_to_failure(got: list[int], names: Sequence[str]) -> tuple[list[int], OSError | None]:
    """Returns the descriptors of a syscall_batch up to its first failure, which names its file."""
    if not got or min(got) >= 0:
        return got, None
    at = next(i for i, fd in enumerate(got) if fd < 0)
    for fd in got[at + 1 :]:
        if fd >= 0:
            os.close(fd)
    return got[:at], OSError(-got[at], os.strerror(-got[at]), names[at])


def grow_descriptor_table(n: int) -> None:
    """Makes the process's descriptor table big enough at once, before there is a second thread.

    Otherwise the kernel doubles it step by step, and waits for all CPUs at each step of a process
    that has threads.
    """
    try:
        with files.closing(os.open("/", os.O_RDONLY | os.O_CLOEXEC)) as probe:
            os.close(fcntl.fcntl(probe, fcntl.F_DUPFD, probe + n + FEW))
    except OSError:
        pass  # over the limit: the open that fails will report it
