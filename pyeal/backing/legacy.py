"""Page files of --legacy-mem: all free ones are mapped first, and those that are kept once more.

linux/eal_memory.c: map_all_hugepages, remap_segment
"""

from __future__ import annotations

import os
from errno import EFAULT, EINVAL, EMFILE, ENOMEM, ENOTSUP

from .. import files, libc
from ..errors import EalError
from ..fbarray import bits, runs
from ..hugepage_data import Page
from ..layout import BAD_IOVA
from ..libc import MAP_SHARED
from ..populate import frames, why_absent
from ..vaspace import map_into_gap
from .base import FEW, grow_descriptor_table
from .memory import fixed
from .pagefiles import PageFiles, lock_shared, locked_before, open_files

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from ..hugepages import HugepageInfo
    from ..memseg import MemsegList
    from ..populate import PreferredNode

MB = 1 << 20


class LegacyFiles(PageFiles):
    """A file for each page, numbered in the order of the first mapping."""

    def __init__(self, lists: Any, opts: Any, *args: Any, **more: Any) -> None:
        super().__init__(lists, opts, *args, **more)
        self.storable = not opts.single_file_segments  # which has no place for pages' descriptors
        self.asked = sorted(node for node, mem in (opts.socket_mem or {}).items() if mem)
        self.outstanding = dict(opts.socket_mem or {})  # bytes by node, for the policy
        self.pages: list[Page] = []  # every page with a file
        self.mapped = 0
        self.data_path: str | None = None  # of hugepage_data, once this start may have written it
        self.first_maps: list[tuple[int, int]] = []  # where the first mappings lie
        self.pseudo = 0  # next address if there are no physical ones
        self.extra_fds: list[int] = []  # of pages whose descriptors cannot be stored
        self.old_files: set[int] = set()  # descriptors of pages that were there before

    def info(self, page_sz: int) -> HugepageInfo:
        raise fixed(page_sz)

    # the first mapping

    def map_all(self, info: HugepageInfo) -> list[Page]:
        """Makes, maps and populates a file for each free page, up to the first failure.

        Returns the pages that are there, by physical address. Their descriptors stay open for the
        second mapping. A pool of more pages than there may be descriptors is mapped in parts,
        whose files are closed; those that are kept are opened again.
        """
        size, wanted, first = info.page_sz, info.num_pages[0], len(self.pages)
        n = min(wanted, _mount_room(info.hugedir, size) + info.num_reusable)
        room = max(1, _free_descriptors())
        if n <= room:
            grow_descriptor_table(n)
        va, at = self._space(n * size, size), 0
        for node, some in self._turns(n, size, room):
            got = self._map(info, at, some, va + at * size, node)
            if n > room:
                for page in self.pages[len(self.pages) - got :]:
                    page.close()
            if node is not None:
                self.outstanding[node] = max(0, self.outstanding[node] - got * size)
            at += some
            if got < some:
                break
        pages = self.pages[first:]
        if len(pages) < wanted:
            text = f"{len(pages)} not {wanted} hugepages of size {size // MB} MB allocated"
            self.log("DEBUG", text)
            short = f"size= of {info.hugedir} leaves {n} of {wanted} free pages"
            self.population.why = self.population.why or short
        self._locate(pages, va, size)
        self.mapped += len(pages)
        return sorted(pages, key=lambda p: p.physaddr)

    def _space(self, length: int, size: int) -> int:
        """Returns address space for the first mapping, at a multiple of the page size.

        It lies behind the lists, where it can become a Gap.
        """
        va = libc.reserve(max(msl.base_va + msl.len for msl in self.lists), length + size)
        self.first_maps.append((va, length + size))
        return (va + size - 1) & -size

    def _turns(self, n: int, size: int, most: int) -> Iterator[tuple[int | None, int]]:
        """(node to prefer, pages) in mapping order: first what is outstanding, then in turn."""
        node, some = None, n
        while n:
            if short := [x for x in self.asked if self.outstanding[x]]:
                node, some = short[0], -(-self.outstanding[short[0]] // size)
            elif self.asked:
                after = -1 if node is None else node
                node = next((x for x in self.asked if x > after), self.asked[0])
                some = 1 if len(self.asked) > 1 else n
            some = min(some, n, most)
            yield node, some
            n -= some

    def _map(self, info: HugepageInfo, at: int, n: int, va: int, node: int | None) -> int:
        """Maps and populates files number at to at + n on a node; returns how many there are."""
        first, size = len(self.pages), info.page_sz
        self._open_numbered(info, at, n, va)
        pages = self.pages[first:]
        if node is None:
            there = self._populate(pages, va, size)
        else:
            with self.population.on_node(node) as policy:
                there = self._populate(pages, va, size, policy)
        absent = [page for page, good in zip(pages, there, strict=True) if not good]
        for page in absent:
            self.pages.remove(page)
            page.close()
        self.unlink([page for page in absent if not page.preexisting])
        return sum(there)

    def _open_numbered(self, info: HugepageInfo, at: int, n: int, va: int) -> None:
        """Opens files number at to at + n, each with its lock, for addresses from va on."""
        head = f"{info.hugedir}/{self.prefix}map_"
        paths, opened = [f"{head}{i}" for i in range(at, at + n)], list[int]()
        good = n
        try:
            flags = os.O_RDWR | os.O_CREAT
            open_files(paths, opened, flags, None, files.others_may_write(info.hugedir))
        except OSError as e:
            good = locked_before(e, paths, opened)
            self.failure("DEBUG", f"open failed: {e.strerror}: {e.filename}")
        for i, (path, fd) in enumerate(zip(paths, opened, strict=False)):
            page = Page(path, at + i, info.page_sz, va + i * info.page_sz, fd)
            page.preexisting = not self.unlink_existing and os.fstat(fd).st_size > 0
            if i < good:
                self.pages.append(page)
                continue
            page.close()  # it is open, but has no lock
            if not page.preexisting:
                self.unlink([page])

    def _populate(
        self, pages: list[Page], va: int, size: int, policy: PreferredNode | None = None
    ) -> list[bool]:
        """Maps the files side by side and populates them; returns which pages are there."""
        if not pages:
            return []
        threads = self.population.threads(len(pages) * size, policy)
        flag, done = self.population.map_flag, [0]
        try:
            vas, fds = range(va, va + len(pages) * size, size), [page.fd for page in pages]
            map_into_gap(fds, vas, size, MAP_SHARED | flag, done)
        except OSError as e:
            self.failure("DEBUG", f"mmap failed: {e.strerror}: {pages[done[0]].path}")
        n = done[0]
        failed = self.population.touch(va, size, n, threads, go_on=True)
        there = [True] * n
        if n and (failed or flag):
            there = self.population.present(va, size, n)
            if not all(there):
                self.failure("DEBUG", why_absent(OSError(EFAULT, ""), size))
        return there + [False] * (len(pages) - n)

    def _locate(self, pages: list[Page], va: int, size: int) -> None:
        """Stores physical address (or a running number) and node of each page."""
        if not pages:
            return
        at = [(page.orig_va - va) // size for page in pages]
        if self.population.pa:
            entries = self.population.pagemap.entries(va, size, at[-1] + 1)
            physical = frames([entries[i] for i in at])
            if BAD_IOVA in physical:
                what = f"Failed to find phys addr for {size // MB} MB pages"
                raise EalError(ENOMEM, "pages", what)
        else:
            end = self.pseudo + len(pages) * size
            physical = list(range(self.pseudo, end, size))
            self.pseudo = end
        try:
            nodes = libc.page_nodes(va, size, at[-1] + 1)
        except OSError:
            self.log(
                "NOTICE", "NUMA support not available consider that all memory is in socket_id 0"
            )
            nodes = [0] * (at[-1] + 1)
        for page, i, address in zip(pages, at, physical, strict=True):
            page.physaddr, page.node = address, nodes[i]
            if page.node < 0:
                raise EalError(ENOMEM, "pages", f"Failed to find NUMA socket for {page.path}")

    def unmap_first(self) -> None:
        """Removes the first mappings; the files hold the pages."""
        for va, length in self.first_maps:
            libc.munmap(va, length)
        self.first_maps.clear()

    # the second mapping

    def place(self, msl: MemsegList, placed: dict[int, Page]) -> None:
        """Maps pages as these segments, for good, and writes their records. EalError(ENOMEM)."""
        size, used = msl.page_sz, bits(placed)
        vas = [msl.va(seg) for seg in placed]
        try:
            for page in placed.values():
                if page.fd < 0:
                    page.fd = os.open(page.path, os.O_RDWR | os.O_NOFOLLOW)
                    lock_shared(page.fd, page.path)
            kind = MAP_SHARED | self.population.map_flag
            map_into_gap([p.fd for p in placed.values()], vas, size, kind, [0])
            for start, n in runs(used):
                self.population.touch_again(msl.va(start), n * size)
        except OSError as e:
            what = f"Couldn't remap pages of {msl.name}"
            fix = "raise ulimit -n: each page needs a descriptor" if e.errno == EMFILE else ""
            raise EalError(ENOMEM, "pages", what, found=str(e), fix=fix) from None
        for seg, va, page in zip(placed, vas, placed.values(), strict=True):
            page.final_va = va
            if not self.population.pa:
                page.physaddr = va
            try:
                self.set_fd(msl, seg, page.fd)
            except EalError as e:
                self.log("ERR", e.text)
                self.extra_fds.append(page.fd)
            if page.preexisting:
                self.old_files.add(page.fd)
            page.fd = -1
        c = self.lists.config
        msl.fill_some({seg: page.physaddr for seg, page in placed.items()}, c.nchannel, c.nrank)

    # the end of a start

    def unlink(self, pages: list[Page]) -> None:
        """Removes pages' files."""
        for page in pages:
            try:
                os.unlink(page.path)
            except FileNotFoundError:
                pass
            except OSError as e:
                self.log("WARNING", f"Removing {page.path} failed: {e.strerror}")

    def unlink_unnamed(self, kept: list[Page], surplus: list[Page]) -> None:
        """Removes the files that need no name: of pages that are not kept, and --huge-unlink's."""
        self.unlink([*surplus, *(kept if self.unlink_before_mapping else ())])

    def give_up(self) -> None:
        """Removes every file after a failure, except those that were there before."""
        for page in self.pages:
            page.close()
        self.unlink([page for page in self.pages if not page.preexisting])

    def abandon(self) -> None:
        if self.data_path:
            files.discard(self.data_path)
        made = {fd for table in self.open_files.values() for fd in table.values()}
        self._unlink_made((made | {*self.extra_fds}) - self.old_files)

    # a secondary

    def attach_files(self, msl: MemsegList, directory: str, pages: dict[int, str]) -> None:
        """Maps a primary's pages, {segment: file's name}, untouched. OSError names a file.

        A file that is too short is refused: its mapping would make it longer. No other page of the
        list is mapped.
        """
        size, opened, segs = msl.page_sz, list[int](), sorted(pages)
        names = [pages[seg] for seg in segs]
        dir_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._open_existing(names, opened, dir_fd)
        except OSError as e:
            e.filename = f"{directory}/{e.filename}"
            raise
        finally:
            os.close(dir_fd)
            self._table(msl).update(zip(segs, opened, strict=False))
        ends = libc.syscall_batch("lseek", len(opened), opened, 0, os.SEEK_END, go_on=True)
        for found, name in zip(ends, names, strict=True) if min(ends, default=size) < size else ():
            if found < size:
                why = f"{size} bytes wanted, {found} found"
                raise OSError(EINVAL, why, f"{directory}/{name}")
        vas = [msl.base_va + seg * size for seg in segs]
        map_into_gap(opened, vas, size, MAP_SHARED, [0], self.access.prot)

    # descriptors

    def _find_fd(self, msl: MemsegList, seg: int) -> tuple[int, int]:
        return super()._find_fd(msl, seg) if self.storable else (-1, 0)

    def set_fd(self, msl: MemsegList, seg: int, fd: int) -> None:
        if not self.storable:
            what = "Could not store segment fd: Operation not supported"
            raise EalError(ENOTSUP, "memalloc", what)
        super().set_fd(msl, seg, fd)

    def close(self) -> None:
        super().close()
        for fd in self.extra_fds:
            os.close(fd)
        self.extra_fds.clear()


def _free_descriptors() -> int:
    """Returns how many more files this process may open, less a few for others."""
    return os.sysconf("SC_OPEN_MAX") - len(os.listdir("/proc/self/fd")) - FEW


def _mount_room(hugedir: str, size: int) -> int:
    """Returns how many pages the mount's size= leaves, or as many as can be counted without one."""
    st = os.statvfs(hugedir)
    return st.f_bavail if st.f_blocks else 1 << 40
