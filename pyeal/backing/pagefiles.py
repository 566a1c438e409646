"""Pages in files of a hugetlbfs mount: one for each page, or one for each list.

A file has a shared lock while a process uses it, so that no other one removes it as stale.
linux/eal_memalloc.c: get_seg_fd, alloc_seg, free_seg
"""

from __future__ import annotations

import fcntl
import os
from errno import ENOMEM, EWOULDBLOCK

from .. import files, libc
from ..errors import EalError
from ..fbarray import runs
from ..layout import FLAG_DIRTY
from ..vaspace import give_back
from .base import (
    FEW,
    Backing,
    ListPerFd,
    LockedDirectory,
    NoDirectory,
    OpenDirectory,
    PagePerFd,
    add_opened,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from ..memseg import MemsegList


class HugedirFiles(Backing):
    """What both kinds of files share: a directory, and freed pages that others still have mapped.

    unlink_existing: whether old files are removed, and files of freed pages by their last user;
    unlink_before_mapping: --huge-unlink=always.
    """

    def __init__(self, lists: Any, opts: Any, *args: Any, **more: Any) -> None:
        super().__init__(lists, opts, *args, **more)
        self.prefix = opts.file_prefix
        self.unlink_existing = opts.unlink_existing and self.access.locks
        self.unlink_before_mapping = opts.unlink_before_mapping
        self.left: dict[int, int] = {}  # list -> bit i: segment i was freed while others had it

    def directory(self, page_sz: int, must: bool = True) -> NoDirectory:
        info = self.infos[page_sz]
        if not self.access.locks:
            return OpenDirectory(info.hugedir)
        return LockedDirectory(info, self.lists.peers.lock_timeout, must)

    def attach(self, msl: MemsegList, start: int, n: int, dir_fd: int) -> None:
        """Maps n segments that the primary uses. EalError(ENOMEM). sync_chunk

        The C library makes an empty file in place of a missing one, and finds zeros in it; here
        the missing one is reported.
        """
        try:
            self._attach(msl, start, n, dir_fd)
            self.population.touch_again(msl.va(start), n * msl.page_sz, self.access.advice)
        except OSError as e:
            self.detach(msl, start, n)
            what = "Could not map memory from primary process"
            pages = f"{n} pages of {msl.name} from segment {start}"
            why = f"{e.strerror}: {e.filename}" if e.filename else e.strerror or ""
            fix = "keep page files, and start the primary without --huge-unlink"
            raise EalError(ENOMEM, "sync", what, expected=pages, found=why, fix=fix) from None

    def _attach(self, msl: MemsegList, start: int, n: int, dir_fd: int) -> None:
        """The same; OSError names the file, and what is open and mapped by then stays so."""
        raise NotImplementedError

    def attach_files(self, msl: MemsegList, directory: str, pages: dict[int, str]) -> None:
        """Maps page files with names of their own, {segment: name}, as legacy pages have."""
        raise NotImplementedError

    def detach(self, msl: MemsegList, start: int, n: int, dir_fd: int = -1) -> None:
        """Unmaps n segments that the primary made or has freed."""
        give_back(msl.va(start), n * msl.page_sz)

    def _open_existing(self, names: Sequence[str], opened: list[int], dir_fd: int) -> None:
        """Opens files of another process, with shared locks unless this one is an observer."""
        open_files(names, opened, self.access.flags, dir_fd, files.others_may_write(dir_fd))

    def _leave(self, msl: MemsegList, start: int, n: int) -> None:
        if self.unlink_existing:
            self.left[msl.index] = self.left.get(msl.index, 0) | (1 << n) - 1 << start

    def finish_frees(self) -> None:
        """Removes what other processes still had of freed pages, and now have unmapped.

        The last user does so too, but not if it is killed or just exits. A librte_eal that unmaps
        a page of a single file touches it, which allocates it again.
        """
        left, self.left = self.left, {}
        for index, freed in left.items():
            msl = self.lists.slots[index]
            for start, n in runs(freed & ~msl.arr.used()):
                self._finish(msl, start, n)

    def _finish(self, msl: MemsegList, start: int, n: int) -> None:
        raise NotImplementedError

    @staticmethod
    def _unlink_made(fds: set[int]) -> None:
        """Removes the files of descriptors, wherever they are."""
        for fd in fds:
            name = os.readlink(f"/proc/self/fd/{fd}")
            if os.path.exists(name):
                os.unlink(name)


class PageFiles(HugedirFiles, PagePerFd):
    """A file for each page: <prefix>map_<number>, in which the list and the segment are counted."""

    def file_names(self, msl: MemsegList, start: int, n: int) -> list[str]:  # eal_filesystem.h
        head, per_list = self.lists.release.page_file
        head = head.format(prefix=self.prefix, list=msl.index)
        first = msl.index * per_list + start
        return [f"{head}{i}" for i in range(first, first + n)]

    def prepare(self, n: int) -> None:
        self.finish_frees()
        super().prepare(n)

    def open(self, msl: MemsegList, start: int, flags: list[int], dir_fd: int) -> list[int]:
        opened, there = list[int](), list[bool]()
        names, ready = self.file_names(msl, start, len(flags)), self.infos[msl.page_sz].open_files
        try:
            try:
                there += self._existing(names, dir_fd, ready)
            finally:
                self._open(names[: len(there)], there, opened, dir_fd, flags, ready)
        except OSError as e:
            what = f"open '{e.filename}' failed: {e.strerror}"
            self.failure("ERR", f"Couldn't get fd on hugepage file: {what}")
            good = locked_before(e, names, opened)
            while len(opened) > good:
                at = len(opened) - 1
                discard_last(opened, names[at], dir_fd, preexisting=bool(flags[at]))
        return opened

    def _existing(self, names: list[str], dir_fd: int, ready: dict[str, int]) -> Iterable[bool]:
        """Returns which of the files exist. ready: those that discovery has open already."""
        if ready and all(map(ready.__contains__, names)):
            return [True] * len(names)  # they were, when discovery opened them
        if len(names) > FEW:
            return map(set(os.listdir(dir_fd)).__contains__, names)
        return (exists(name, dir_fd) for name in names)

    def _open(
        self,
        names: list[str],
        there: list[bool],
        opened: list[int],
        dir_fd: int,
        flags: list[int],
        ready: dict[str, int],
    ) -> None:
        """Makes files: an old one (there) is removed first, or stays and its flag is set."""
        for name, old in zip(names, there, strict=True) if ready and not all(there) else ():
            if not old and name in ready:  # another process has removed it meanwhile
                os.close(ready.pop(name))
        check = files.others_may_write(dir_fd)
        if not self.unlink_existing:
            flags[: len(there)] = [FLAG_DIRTY if old else 0 for old in there]
        elif self.unlink_before_mapping or any(there):
            return self._open_anew(names, opened, dir_fd, there, check)
        open_files(names, opened, os.O_RDWR | os.O_CREAT, dir_fd, check, ready)

    def _open_anew(
        self, names: list[str], opened: list[int], dir_fd: int, there: list[bool], check: bool
    ) -> None:
        """File by file, so that a failure leaves the old files after it alone."""
        for name, old in zip(names, there, strict=True):
            if old:
                os.unlink(name, dir_fd=dir_fd)
            opened.append(files.open_shared(name, os.O_RDWR | os.O_CREAT, dir_fd, check))
            lock_shared(opened[-1], name)
            if self.unlink_before_mapping:
                os.unlink(name, dir_fd=dir_fd)

    def undo(self, msl: MemsegList, start: int, flags: list[int], dir_fd: int) -> None:
        for seg, fd in self._taken(msl, start, len(flags)):
            if not flags[seg - start] and not self.unlink_before_mapping and dir_fd >= 0:
                unlink_if_last(self.file_names(msl, seg, 1)[0], fd, dir_fd)
            os.close(fd)
        super().undo(msl, start, flags, dir_fd)

    def drop(self, msl: MemsegList, start: int, n: int, dir_fd: int) -> None:
        for seg, fd in self._taken(msl, start, n):
            if not self._gone(msl, seg, fd, dir_fd):
                libc.zero(msl.va(seg), msl.page_sz)
                self._leave(msl, seg, 1)
            os.close(fd)
        super().drop(msl, start, n, dir_fd)

    def _gone(self, msl: MemsegList, seg: int, fd: int, dir_fd: int) -> bool:
        """Returns whether no process can see the page once fd is closed: no name, no other user."""
        if self.unlink_before_mapping:
            return True
        if not self.unlink_existing:
            return False
        return dir_fd >= 0 and unlink_if_last(self.file_names(msl, seg, 1)[0], fd, dir_fd)

    def _finish(self, msl: MemsegList, start: int, n: int) -> None:
        with self.directory(msl.page_sz, must=False) as dir_fd:
            if dir_fd < 0:
                return self._leave(msl, start, n)
            for seg, name in enumerate(self.file_names(msl, start, n), start):
                try:
                    fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW, dir_fd=dir_fd)
                except FileNotFoundError:
                    continue
                except OSError as e:
                    self.log("DEBUG", f"{name} of a freed page is not looked at: {e.strerror}")
                    self._leave(msl, seg, 1)
                    continue
                if not unlink_if_last(name, fd, dir_fd):
                    self._leave(msl, seg, 1)
                os.close(fd)

    def _attach(self, msl: MemsegList, start: int, n: int, dir_fd: int) -> None:
        opened: list[int] = []
        try:
            self._open_existing(self.file_names(msl, start, n), opened, dir_fd)
        finally:
            self._table(msl).update(enumerate(opened, start))
        self._map_each(msl, start, opened, 0, [0])

    def detach(self, msl: MemsegList, start: int, n: int, dir_fd: int = -1) -> None:
        """With dir_fd, the last user of a page's file removes it."""
        names = self.file_names(msl, start, n)
        for seg, fd in self._taken(msl, start, n):
            if dir_fd >= 0 and self.unlink_existing:
                unlink_if_last(names[seg - start], fd, dir_fd)
            os.close(fd)
        super().detach(msl, start, n, dir_fd)

    def abandon(self) -> None:
        made = set()
        for msl in self.lists:
            table = self.open_files.get(msl.index, {})
            made |= {fd for seg, fd in table.items() if not msl.seg(seg).flags & FLAG_DIRTY}
        self._unlink_made(made)


class ListFile(HugedirFiles, ListPerFd):
    """A file for each list: <prefix>map_<list>."""

    def file_names(self, msl: MemsegList, start: int, n: int) -> list[str]:
        return [self.name(msl)]

    def name(self, msl: MemsegList) -> str:
        return f"{self.prefix}map_{msl.index}"

    def open(self, msl: MemsegList, dir_fd: int) -> tuple[int, int]:
        name = self.name(msl)
        there, opened = exists(name, dir_fd), list[int]()
        try:
            open_files([name], opened, os.O_RDWR | os.O_CREAT, dir_fd, check=True)
        except OSError:
            discard_last(opened, name, dir_fd, there)
            raise
        self.preexisting.pop(msl.index, None)
        if not there or self.unlink_existing:
            return opened[0], 0
        self.preexisting[msl.index] = os.fstat(opened[0]).st_size
        return opened[0], FLAG_DIRTY

    def _punched(self, msl: MemsegList, start: int, n: int) -> None:
        self._leave(msl, start, n)

    def _remove(self, msl: MemsegList, dir_fd: int) -> None:
        if dir_fd < 0:
            return
        try:
            os.unlink(self.name(msl), dir_fd=dir_fd)
        except OSError as e:
            self.log("ERR", f"unlinking '{e.filename}' failed: {e.strerror}")

    def _finish(self, msl: MemsegList, start: int, n: int) -> None:
        if msl.index in self.list_fds:
            self._punch(msl, start * msl.page_sz, n * msl.page_sz)

    def _attach(self, msl: MemsegList, start: int, n: int, dir_fd: int) -> None:
        if msl.index not in self.list_fds:
            opened: list[int] = []
            try:
                self._open_existing([self.name(msl)], opened, dir_fd)
            finally:
                self.list_fds.update((msl.index, fd) for fd in opened)
        fd, va, size = self.list_fds[msl.index], msl.va(start), msl.page_sz
        libc.mmap(
            va, n * size, self.access.prot, libc.MAP_SHARED | libc.MAP_FIXED, fd, start * size
        )

    def abandon(self) -> None:
        made = set()
        for index, fd in self.list_fds.items():
            if index in self.preexisting:
                os.ftruncate(fd, self.preexisting[index])
            else:
                made.add(fd)
        self._unlink_made(made)


def exists(name: str, dir_fd: int) -> bool:
    """Returns whether a file is there. OSError if that cannot be told."""
    try:
        os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def open_files(
    names: Sequence[str],
    opened: list[int],
    flags: int,
    dir_fd: int | None,
    check: bool,
    ready: dict[str, int] | None = None,
) -> None:
    """Opens page files, not through a link, with shared locks if they are opened for writing.

    opened gets the descriptors up to the first that fails, and all of them if it is a lock that
    fails. OSError names that file. check: look at the type and owner of each; False if no other
    user can have made it. ready: descriptors that are open already, and are taken from there.
    """
    try:
        if (check or len(names) == 1) and not ready:
            for name in names:
                opened.append(files.open_shared(name, flags, dir_fd, check))
        else:
            new = [name for name in names if name not in ready] if ready else names
            where = libc.AT_FDCWD if dir_fd is None else dir_fd
            how = flags | os.O_NOFOLLOW | os.O_CLOEXEC
            got = libc.syscall_batch("openat", len(new), where, new, how, 0o600)
            if ready and len(new) < len(names):
                fresh = iter(got)
                got = [ready.pop(n) if n in ready else next(fresh, -1) for n in names]
            add_opened(got, names, opened)
    finally:
        if flags & os.O_RDWR:
            lock_files(opened, names)


def locked_before(e: OSError, names: Sequence[str], opened: list[int]) -> int:
    """Returns how many of the opened files have their locks, after that error of open_files."""
    return names.index(e.filename) if e.filename in names else len(opened)


def discard_last(opened: list[int], name: str, dir_fd: int, preexisting: bool) -> None:
    """Closes the file that was opened last, and removes it unless it was there before."""
    if opened:
        os.close(opened.pop())
        if not preexisting:
            os.unlink(name, dir_fd=dir_fd)


def lock_shared(fd: int, name: str) -> None:
    """Takes the lock of a page in use. If another process holds it exclusively, EAL continues."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    except OSError as e:
        e.filename = name
        raise


def lock_files(fds: list[int], names: Sequence[str]) -> None:
    """The same for many."""
    if len(fds) == 1:
        return lock_shared(fds[0], names[0])
    shared = fcntl.LOCK_SH | fcntl.LOCK_NB
    got = libc.syscall_batch("flock", len(fds), fds, shared, go_on=True)
    if got and min(got) < 0:
        for result, name in zip(got, names, strict=False):
            if result not in (0, -EWOULDBLOCK):
                raise OSError(-result, os.strerror(-result), name)


def unlink_if_last(name: str, fd: int, dir_fd: int) -> bool:
    """Removes a page's file unless another process holds its lock; returns whether it did."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=dir_fd)
    except OSError:
        return False
    return True
