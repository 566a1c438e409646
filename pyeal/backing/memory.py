"""Pages without a file: memfds and anonymous memory of --in-memory, and the memory of --no-huge."""

from __future__ import annotations

import os
from ctypes import sizeof
from errno import EACCES, EINVAL, ENOMEM, EPERM

from .. import libc
from ..errors import EalError, Log
from ..layout import PGSIZE_4K, Memseg
from .base import Backing, ListPerFd, PagePerFd, up_to_failure

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..memseg import MemsegList
    from ..options import Options

DEFAULT_MEMORY = 64 << 20  # MEMSIZE_IF_NO_HUGE_PAGE
BLOCK = 16384  # records of no-huge written at a time: fewer cost more each
LEN: int = Memseg.len.offset  # type: ignore[attr-defined]  # hugepage_sz follows it


def memfd_flags(page_sz: int) -> int:
    return libc.MFD_HUGETLB | libc.log2_flag(page_sz)


def memfds_work(page_sz: int, opts: Options, log: Log) -> bool:
    """Returns whether memfd_create knows hugepages of the largest size. linux: test_memfd_create

    False is EINVAL. Any other error is EalError(ENOMEM), and so is EINVAL with
    --single-file-segments.
    """
    try:
        os.close(os.memfd_create("test", memfd_flags(page_sz)))
        return True
    except OSError as e:
        if e.errno != EINVAL:
            raise EalError(
                ENOMEM,
                "memfd",
                "Unable to check if memfd is supported",
                expected=f"memfd_create of {page_sz >> 10} kB pages",
                found=e.strerror or "",
                fix="run without --in-memory, or allow memfd_create (seccomp?)",
                reason="memfd-denied" if e.errno in (EACCES, EPERM) else "memfd",
            ) from None
        log("INFO", "Using memfd is not supported, falling back to anonymous hugepages")
        if opts.single_file_segments:
            what = "Single-file segments mode cannot be used without memfd support"
            fix = "run without --single-file-segments or without --in-memory"
            raise EalError(ENOMEM, "memfd", what, fix=fix, reason="memfd") from None
        return False


class Anonymous(Backing):
    """Anonymous hugepages, if memfd_create knows none: memory without descriptors."""

    def map(self, msl: MemsegList, start: int, flags: list[int], dir_fd: int) -> int:
        kind = libc.MAP_PRIVATE | libc.MAP_ANONYMOUS | libc.MAP_HUGETLB
        return self._map_whole(msl, start, len(flags), -1, kind | libc.log2_flag(msl.page_sz))


class Memfds(PagePerFd):
    """A memfd for each page: seg_<list>-<segment>."""

    open_failed = "memfd create failed: {0.strerror}"

    def open(
        self, msl: MemsegList, start: int, flags: list[int], dir_fd: int
    ) -> tuple[list[int], OSError | None]:
        n, kind = len(flags), memfd_flags(msl.page_sz)
        names = [f"seg_{msl.index}-{seg}" for seg in range(start, start + n)]
        return up_to_failure(libc.syscall_batch("memfd_create", n, names, kind), names)


class ListMemfd(ListPerFd):
    """A memfd for each list: seg_<list>."""

    open_failed = Memfds.open_failed

    def open(self, msl: MemsegList, dir_fd: int) -> tuple[int, int]:
        return os.memfd_create(f"seg_{msl.index}", memfd_flags(msl.page_sz)), 0


class NoHuge(ListPerFd):
    """One list of 4 kB pages on a memfd, or on anonymous memory without one. It never changes.

    linux/eal_memory.c: eal_legacy_hugepage_init
    """

    fixed = True

    def create(self, memory: int) -> None:
        """Makes the list, maps it and writes its records; memory: bytes, 0 for the default.

        EalError(ENOMEM).
        """
        n = (memory or DEFAULT_MEMORY) // PGSIZE_4K
        msl = self.lists.add("nohugemem", PGSIZE_4K, n, 0)
        self.map_list(msl)
        self.fill(msl)

    def map_list(self, msl: MemsegList) -> None:
        """Maps the whole list. EalError(ENOMEM)."""
        fd, kind = self._memfd(msl.len), libc.MAP_SHARED
        if fd >= 0:
            self.list_fds[msl.index] = fd
        else:
            kind = libc.MAP_PRIVATE | libc.MAP_ANONYMOUS
        try:
            libc.mmap(msl.base_va, msl.len, libc.PROT_RW, kind | libc.MAP_FIXED, fd)
        except OSError as e:
            what = f"Cannot map {msl.len >> 20} MB without hugepages"
            raise EalError(ENOMEM, "pages", what, found=str(e)) from None

    def _memfd(self, length: int) -> int:
        """Returns a memfd of that length, -1 if it cannot be made."""
        fd = -1
        try:
            fd = os.memfd_create("nohuge", 0)
            os.ftruncate(fd, length)
        except OSError as e:
            level, what = ("DEBUG", "create") if fd < 0 else ("ERR", "resize")
            self.log(level, f"Cannot {what} memfd: {e.strerror}")
            self.log(level, "Falling back to anonymous map")
            if fd >= 0:
                os.close(fd)
            return -1
        self.log("DEBUG", "Using memfd for anonymous memory")
        return fd

    def fill(self, msl: MemsegList) -> None:
        """Writes the records of all pages, whose IO addresses are the virtual ones.

        eal_memseg_list_populate
        """
        n, size, arrays = msl.n_segs, sizeof(Memseg), self.lists.arrays
        length = min(n, BLOCK) * size
        # populated at once: page by page is a good part of the time that filling it takes
        kind = libc.MAP_PRIVATE | libc.MAP_ANONYMOUS | libc.MAP_POPULATE
        block = libc.mmap(0, length, libc.PROT_RW, kind)
        try:
            libc.store_sequence(block + LEN, length // size, PGSIZE_4K, 0, size, again=8)
            records = libc.memory(block, length)
            for at in range(0, n, BLOCK):
                some = min(BLOCK, n - at)
                libc.store_sequence(block, some, msl.va(at), PGSIZE_4K, every=size, again=8)
                arrays.write(msl.c.memseg_arr, at * size, records[: some * size])
        finally:
            libc.munmap(block, length)
        arrays.use_all(msl.c.memseg_arr)
        msl.note(0, n)
