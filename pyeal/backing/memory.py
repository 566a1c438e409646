"""Pages without a file: memfds and anonymous memory of --in-memory, and the memory of --no-huge."""

from __future__ import annotations

import os
from ctypes import sizeof
from errno import EACCES, EINVAL, ENOMEM, EPERM

from .. import libc
from ..errors import EalError
from ..layout import PGSIZE_4K, Memseg
from .base import Backing, ListPerFd, PagePerFd, add_opened

TYPE_CHECKING = False
if TYPE_CHECKING:
    from ..hugepages import HugepageInfo
    from ..memseg import MemsegList
    from ..options import Options
    from ..populate import Log
    from ..releases import Release

DEFAULT_MEMORY = 64 << 20  # MEMSIZE_IF_NO_HUGE_PAGE
BLOCK = 16384  # records of no-huge written at a time: fewer cost more each
LEN: int = Memseg.len.offset  # type: ignore[attr-defined]  # hugepage_sz follows it


class Anonymous(Backing):
    """Anonymous hugepages, if memfd_create knows none: memory without descriptors."""

    def map(self, msl: MemsegList, start: int, flags: list[int], dir_fd: int) -> int:
        kind = (
            libc.MAP_PRIVATE | libc.MAP_ANONYMOUS | libc.MAP_HUGETLB | libc.log2_flag(msl.page_sz)
        )
        return self._map_whole(msl, start, len(flags), -1, kind)


class Probed(Backing):
    """Hugepages of memfds, which not every kernel has."""

    @classmethod
    def usable(cls, sizes: list[int], opts: Options, release: Release, log: Log) -> type[Backing]:
        """Returns this class, or Anonymous if memfd_create knows no hugepages (EINVAL).

        Only the largest size is tried. Any other error is EalError(ENOMEM), and so is EINVAL with
        --single-file-segments. Releases without the probe assume that memfds work.
        linux/eal_memalloc.c: eal_memalloc_init, test_memfd_create
        """
        if release.probes_memfd:
            try:
                os.close(os.memfd_create("test", libc.MFD_HUGETLB | libc.log2_flag(sizes[0])))
            except OSError as e:
                if e.errno != EINVAL:
                    raise EalError(
                        ENOMEM,
                        "memfd",
                        "Unable to check if memfd is supported",
                        expected=f"memfd_create of {sizes[0] >> 10} kB pages",
                        found=e.strerror or "",
                        fix="run without --in-memory, or allow memfd_create (seccomp?)",
                        reason="memfd-denied" if e.errno in (EACCES, EPERM) else "memfd",
                    ) from None
                log("INFO", "Using memfd is not supported, falling back to anonymous hugepages")
                if opts.single_file_segments:
                    what = "Single-file segments mode cannot be used without memfd support"
                    fix = "run without --single-file-segments or without --in-memory"
                    raise EalError(ENOMEM, "memfd", what, fix=fix, reason="memfd") from None
                return Anonymous
        log("DEBUG", "Using memfd for anonymous memory")
        return cls


class Memfds(Probed, PagePerFd):
    """A memfd for each page: seg_<list>-<segment>."""

    def open(self, msl: MemsegList, start: int, flags: list[int], dir_fd: int) -> list[int]:
        opened, n = list[int](), len(flags)
        names = [f"seg_{msl.index}-{seg}" for seg in range(start, start + n)]
        kind = libc.MFD_HUGETLB | libc.log2_flag(msl.page_sz)
        try:
            add_opened(libc.syscall_batch("memfd_create", n, names, kind), names, opened)
        except OSError as e:
            what = f"memfd create failed: {e.strerror}"
            self.failure("ERR", f"Couldn't get fd on hugepage file: {what}")
        return opened

    def undo(self, msl: MemsegList, start: int, flags: list[int], dir_fd: int) -> None:
        for _, fd in self._taken(msl, start, len(flags)):
            os.close(fd)
        super().undo(msl, start, flags, dir_fd)

    def drop(self, msl: MemsegList, start: int, n: int, dir_fd: int) -> None:
        for seg, fd in self._taken(msl, start, n):
            libc.zero(msl.va(seg), msl.page_sz)  # a process that was given the descriptor sees it
            os.close(fd)
        super().drop(msl, start, n, dir_fd)


class ListMemfd(Probed, ListPerFd):
    """A memfd for each list: seg_<list>."""

    def open(self, msl: MemsegList, dir_fd: int) -> tuple[int, int]:
        kind = libc.MFD_HUGETLB | libc.log2_flag(msl.page_sz)
        return os.memfd_create(f"seg_{msl.index}", kind), 0


class NoHuge(ListPerFd):
    """One list of 4 kB pages on a memfd, or on anonymous memory without one. It never changes.

    linux/eal_memory.c: eal_legacy_hugepage_init
    """

    def info(self, page_sz: int) -> HugepageInfo:
        raise fixed(page_sz)

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
        if fd < 0:
            kind = libc.MAP_PRIVATE | libc.MAP_ANONYMOUS
        try:
            libc.mmap(msl.base_va, msl.len, libc.PROT_RW, kind | libc.MAP_FIXED, fd)
        except OSError as e:
            if fd >= 0:
                os.close(fd)
            what = f"Cannot map {msl.len >> 20} MB without hugepages"
            raise EalError(ENOMEM, "pages", what, found=str(e)) from None
        if fd >= 0:
            self.list_fds[msl.index] = fd

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
        block = libc.mmap(
            0, length, libc.PROT_RW, libc.MAP_PRIVATE | libc.MAP_ANONYMOUS | libc.MAP_POPULATE
        )
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


def fixed(page_sz: int) -> EalError:
    """Returns the error of an allocation in a mode whose memory never changes."""
    why = f"Cannot allocate pages of {page_sz >> 10} kB: memory is fixed in legacy mode"
    return EalError(ENOMEM, "memalloc", why)
