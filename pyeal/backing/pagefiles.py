"""Pages in files of a hugetlbfs mount: one for each page, or one for each list.

A file has a shared lock while a process uses it, so that no other one removes it as stale.
linux/eal_memalloc.c: get_seg_fd, alloc_seg, free_seg
"""

from __future__ import annotations

import fcntl
import os
from errno import ENODEV, ENOMEM, ETIMEDOUT, EWOULDBLOCK

from .. import files, libc
from ..errors import EalError
from ..fbarray import runs
from ..layout import FLAG_DIRTY
from ..vaspace import give_back
from .base import FEW, Backing, ListPerFd, PagePerFd, keeping, up_to_failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

    from ..memseg import MemsegList

MAKE = os.O_RDWR | os.O_CREAT


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

    def directory(self, page_sz: int, must: bool = True) -> files.closing:
        """Returns a hugedir, locked as its files change; an observer's is just open.

        During a start the lock of the discovery serves. EalError: ENOMEM without a lock, ENODEV if
        another file system covers the mount: the block size of hugetlbfs is its page size.
        """
        info = self.infos[page_sz]
        if not self.access.locks:
            return files.closing(os.open(info.hugedir, os.O_RDONLY | os.O_DIRECTORY))
        held: files.closing = keeping(info.lock_fd)
        if info.lock_fd < 0:
            lock = files.DirectoryLock(info.hugedir, timeout=self.lists.peers.lock_timeout)
            try:
                held = files.closing(lock.__enter__())
            except OSError as e:
                if e.errno == ETIMEDOUT and not must:
                    return held
                why = f"Cannot lock '{info.hugedir}': {e.strerror}"
                raise EalError(ENOMEM, "memalloc", why) from None
        if must and (size := os.fstatvfs(held.fd).f_bsize) != page_sz:
            held.__exit__()
            sides = {
                "expected": f"hugetlbfs with pages of {page_sz} bytes",
                "found": f"another file system with blocks of {size} bytes",
            }
            what = f"Cannot allocate pages in '{info.hugedir}'"
            fix = f"umount {info.hugedir}, or name another mount with --huge-dir"
            raise EalError(ENODEV, "memalloc", what, fix=fix, reason="not-hugetlbfs", **sides)
        return held

    def _existing(
        self, names: list[str], dir_fd: int, ready: dict[str, int]
    ) -> tuple[Collection[str], OSError | None]:
        """Returns which of the files exist; names is cut before the first that fails to tell.

        ready: those that discovery has open already. OSError for the directory.
        """
        if ready and all(map(ready.__contains__, names)):
            return ready, None
        if len(names) > FEW:
            return set(names).intersection(os.listdir(dir_fd)), None
        old: list[str] = []
        for i, name in enumerate(names):
            try:
                os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
                old.append(name)
            except FileNotFoundError:
                pass
            except OSError as e:
                del names[i:]
                return old, e
        return old, None

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

    def _open_existing(self, names: list[str], dir_fd: int) -> tuple[list[int], OSError | None]:
        """Opens files of another process, with shared locks unless this one is an observer."""
        check = files.others_may_write(dir_fd)
        return open_files(names, self.access.flags, dir_fd, check, keep=names)

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

    def open(
        self, msl: MemsegList, start: int, flags: list[int], dir_fd: int
    ) -> tuple[list[int], OSError | None]:
        """Makes files. An old one is removed first, or stays and its flag is set."""
        names, ready = self.file_names(msl, start, len(flags)), self.infos[msl.page_sz].open_files
        try:
            old, unknown = self._existing(names, dir_fd, ready)
            check = files.others_may_write(dir_fd)
        except OSError as e:
            return [], e
        for name in [n for n in names if n in ready and n not in old] if ready else ():
            os.close(ready.pop(name))  # it was removed since discovery opened it
        keep: Collection[str] = ()
        if not self.unlink_existing:
            flags[: len(names)] = [FLAG_DIRTY if name in old else 0 for name in names]
            keep, old = old, ()
        opened, error = open_files(
            names, MAKE, dir_fd, check, ready, old, self.unlink_before_mapping, keep
        )
        return opened, error or unknown

    def _remove(self, msl: MemsegList, seg: int, fd: int, dir_fd: int, made: bool = False) -> bool:
        if self.unlink_before_mapping:
            return True
        if dir_fd < 0 or not (made or self.unlink_existing):
            return False
        return unlink_if_last(self.file_names(msl, seg, 1)[0], fd, dir_fd)

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
        opened, cannot_open = self._open_existing(self.file_names(msl, start, n), dir_fd)
        _, cannot_map = self._map_opened(msl, start, opened)
        if error := cannot_open or cannot_map:
            raise error

    def detach(self, msl: MemsegList, start: int, n: int, dir_fd: int = -1) -> None:
        """With dir_fd, the last user of a page's file removes it."""
        for seg, fd in self._taken(msl, start, n):
            self._remove(msl, seg, fd, dir_fd)
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
        return [f"{self.prefix}map_{msl.index}"]

    def open(self, msl: MemsegList, dir_fd: int) -> tuple[int, int]:
        names = self.file_names(msl, 0, 1)
        old, unknown = self._existing(names, dir_fd, {})
        opened, error = open_files(names, MAKE, dir_fd, check=True, keep=old)
        if error := unknown or error:
            raise error
        self.preexisting.pop(msl.index, None)
        if self.unlink_existing or not old:
            return opened[0], 0
        self.preexisting[msl.index] = os.fstat(opened[0]).st_size
        return opened[0], FLAG_DIRTY

    def _finish(self, msl: MemsegList, start: int, n: int) -> None:
        if msl.index in self.list_fds:
            self._punch(msl, start * msl.page_sz, n * msl.page_sz)

    def _attach(self, msl: MemsegList, start: int, n: int, dir_fd: int) -> None:
        if msl.index not in self.list_fds:
            opened, error = self._open_existing(self.file_names(msl, start, n), dir_fd)
            if error:
                raise error
            self.list_fds[msl.index] = opened[0]
        fd, va, size = self.list_fds[msl.index], msl.va(start), msl.page_sz
        kind = libc.MAP_SHARED | libc.MAP_FIXED
        libc.mmap(va, n * size, self.access.prot, kind, fd, start * size)

    def abandon(self) -> None:
        for index in self.preexisting.keys() & self.list_fds.keys():
            os.ftruncate(self.list_fds[index], self.preexisting[index])
        self._unlink_made({fd for i, fd in self.list_fds.items() if i not in self.preexisting})


def open_files(
    names: list[str],
    flags: int,
    dir_fd: int | None,
    check: bool,
    ready: dict[str, int] | None = None,
    old: Collection[str] = (),
    unlink: bool = False,
    keep: Collection[str] = (),
) -> tuple[list[int], OSError | None]:
    """Opens page files, not through a link, with shared locks if they are opened for writing.

    Returns descriptors up to the first file that fails, and its error, which names it. check: look
    at the type and owner of each; False if no other user can have made it. ready: descriptors that
    are open already, and are taken from there. old: files to remove first, each only when those
    before it are made. unlink: whether the files that were opened lose their names. keep: files
    that were there before, or are another process's: they stay after a failure.
    """
    opened, error = list[int](), None
    if check or old:
        try:
            for name in names:
                if name in old:
                    os.unlink(name, dir_fd=dir_fd)
                at = ready.pop(name) if ready and name in ready else -1
                opened.append(at if at >= 0 else files.open_shared(name, flags, dir_fd, check))
        except OSError as e:
            error = e
    else:
        new = [name for name in names if name not in ready] if ready else names
        where = libc.AT_FDCWD if dir_fd is None else dir_fd
        how = flags | os.O_NOFOLLOW | os.O_CLOEXEC
        got = libc.syscall_batch("openat", len(new), where, new, how, 0o600)
        if ready and len(new) < len(names):
            fresh = iter(got)
            got = [ready.pop(n) if n in ready else next(fresh, -1) for n in names]
        opened, error = up_to_failure(got, names)
    good, failed = len(opened), None
    if flags & os.O_RDWR:
        good, failed = lock_files(opened, names)
    try:
        for name in names[:good] if unlink else ():
            os.unlink(name, dir_fd=dir_fd)
    except OSError as e:
        good, failed = names.index(e.filename), e
    for name, fd in zip(names[good:], opened[good:], strict=False):
        _discard(name, fd, dir_fd, name in keep)
    return opened[:good], failed or error


def lock_files(fds: list[int], names: list[str]) -> tuple[int, OSError | None]:
    """Takes the locks of pages in use. If another process holds one exclusively, EAL continues.

    Returns how many come before the first failure, and that.
    """
    shared = fcntl.LOCK_SH | fcntl.LOCK_NB
    got = libc.syscall_batch("flock", len(fds), fds, shared, go_on=True)
    if got and min(got) < 0:
        for i, result in enumerate(got):
            if result not in (0, -EWOULDBLOCK):
                return i, OSError(-result, os.strerror(-result), names[i])
    return len(fds), None


def _discard(name: str, fd: int, dir_fd: int | None, keep: bool) -> None:
    """Closes a page file, and removes it if it was made for writing just now: it is empty then."""
    try:
        if not keep and not os.fstat(fd).st_size:
            os.unlink(name, dir_fd=dir_fd)
    except OSError:
        pass  # it would hide the failure before
    os.close(fd)


def unlink_if_last(name: str, fd: int, dir_fd: int) -> bool:
    """Removes a page's file unless another process holds its lock; returns whether it did."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=dir_fd)
    except OSError:
        return False
    return True
