"""Page files of --legacy-mem: all free ones are mapped first, and those that are kept once more.

linux/eal_memory.c: map_all_hugepages, remap_segment
"""

from __future__ import annotations

import os
from errno import EFAULT, EINVAL, EMFILE, ENOMEM

from .. import files, libc
from ..errors import EalError
from ..fbarray import bits, runs
from ..hugepage_data import Page
from ..layout import BAD_IOVA
from ..libc import MAP_SHARED
from ..populate import frames, why_absent
from ..vaspace import align, map_into_gap
from .base import FEW, grow_descriptor_table
from .pagefiles import MAKE, PageFiles, open_files

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

    fixed = True

    def __init__(self, lists: Any, opts: Any, *args: Any, **more: Any) -> None:
        super().__init__(lists, opts, *args, **more)
        self.storable = not opts.single_file_segments  # which has no place for pages' descriptors
        self.asked = sorted(node for node, mem in (opts.socket_mem or {}).items() if mem)
        self.outstanding = dict(opts.socket_mem or {})  # bytes by node, for the policy
        self.pages: list[Page] = []  # those whose files have names
        self.mapped = 0
        self.data_path: str | None = None  # of hugepage_data, once this start may have written it
        self.first_maps: list[tuple[int, int]] = []  # where the first mappings lie
        self.pseudo = 0  # next address if there are no physical ones

    def _table(self, msl: MemsegList) -> dict[int, int]:
        # descriptors without a place are kept where fd() does not find them
        return self.open_files.setdefault(msl.index if self.storable else ~msl.index, {})

    # the first mapping

    def map_all(self, info: HugepageInfo) -> list[Page]:
        """Makes, maps and populates a file for each free page, up to the first failure.

        Returns the pages that are there, by physical address. Their descriptors stay open for the
        second mapping. A pool of more pages than there may be descriptors is mapped in parts,
        whose files are closed; those that are kept are opened again.
        """
        size, wanted, pages = info.page_sz, info.num_pages[0], list[Page]()
        mount = os.statvfs(info.hugedir)
        n = min(wanted, mount.f_bavail + info.num_reusable) if mount.f_blocks else wanted
        room = max(1, os.sysconf("SC_OPEN_MAX") - len(os.listdir("/proc/self/fd")) - FEW)
        if n <= room:
            grow_descriptor_table(n)
        # behind the lists, where it can become a gap
        space, length = max(msl.base_va + msl.len for msl in self.lists), (n + 1) * size
        self.first_maps.append((libc.reserve(space, length), length))
        va, at = align(self.first_maps[-1][0], size), 0
        for node, some in self._turns(n, size, room):
            got = self._map(info, at, some, va + at * size, node)
            pages += got
            if n > room:
                for page in got:
                    page.close()
            if node is not None:
                self.outstanding[node] = max(0, self.outstanding[node] - len(got) * size)
            at += some
            if len(got) < some:
                break
        if len(pages) < wanted:
            text = f"{len(pages)} not {wanted} hugepages of size {size // MB} MB allocated"
            self.log("DEBUG", text)
            short = f"size= of {info.hugedir} leaves {n} of {wanted} free pages"
            self.population.why = self.population.why or short
        if pages:
            self._locate(pages, va, size)
        self.mapped += len(pages)
        return sorted(pages, key=lambda p: p.physaddr)

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

    def _map(self, info: HugepageInfo, at: int, n: int, va: int, node: int | None) -> list[Page]:
        """Makes files number at to at + n, maps and populates them on a node, from va on.

        Returns the pages that are there; the files of others are removed.
        """
        first, size, head = len(self.pages), info.page_sz, f"{info.hugedir}/{self.prefix}map_"
        paths = [f"{head}{i}" for i in range(at, at + n)]
        opened, error = open_files(paths, MAKE, None, files.others_may_write(info.hugedir))
        if error:
            self.failure("DEBUG", f"open failed: {error.strerror}: {error.filename}")
        for i, fd in enumerate(opened):
            page = Page(paths[i], at + i, size, va + i * size, fd)
            page.preexisting = not self.unlink_existing and os.fstat(fd).st_size > 0
            self.pages.append(page)
        pages = self.pages[first:]
        with self.population.on_node(node) as policy:
            there = self._populate(pages, va, size, policy)
        self.pages[first:] = [page for page, good in zip(pages, there, strict=True) if good]
        absent = [page for page, good in zip(pages, there, strict=True) if not good]
        for page in absent:
            page.close()
        self.unlink([page for page in absent if not page.preexisting])
        return self.pages[first:]

    def _populate(self, pages: list[Page], va: int, size: int, policy: PreferredNode) -> list[bool]:
        """Maps the files side by side and populates them; returns which pages are there."""
        threads = self.population.threads(len(pages) * size, policy)
        flag, vas = self.population.map_flag, range(va, va + len(pages) * size, size)
        n, error = map_into_gap([page.fd for page in pages], vas, size, MAP_SHARED | flag)
        if error:
            self.failure("DEBUG", f"mmap failed: {error.strerror}: {pages[n].path}")
        there = [True] * n
        if (self.population.touch(va, size, n, threads, go_on=True) or flag) and n:
            there = self.population.present(va, size, n)
            if not all(there):
                self.failure("DEBUG", why_absent(OSError(EFAULT, ""), size))
        return there + [False] * (len(pages) - n)

    def _locate(self, pages: list[Page], va: int, size: int) -> None:
        """Stores physical address (or a running number) and node of each page."""
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
            text = "NUMA support not available consider that all memory is in socket_id 0"
            self.log("NOTICE", text)
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
        size, vas = msl.page_sz, [msl.va(seg) for seg in placed]
        closed = [page for page in placed.values() if page.fd < 0]
        try:
            opened, error = open_files([page.path for page in closed], os.O_RDWR, None, check=False)
            for page, fd in zip(closed, opened, strict=False):
                page.fd = fd
            if not error:
                kind, fds = MAP_SHARED | self.population.map_flag, [p.fd for p in placed.values()]
                _, error = map_into_gap(fds, vas, size, kind)
            if error:
                raise error
            for start, n in runs(bits(placed)):
                self.population.touch_again(msl.va(start), n * size)
        except OSError as e:
            what = f"Couldn't remap pages of {msl.name}"
            fix = "raise ulimit -n: each page needs a descriptor" if e.errno == EMFILE else ""
            raise EalError(ENOMEM, "pages", what, found=str(e), fix=fix) from None
        for seg, va, page in zip(placed, vas, placed.values(), strict=True):
            page.final_va = va
            if not self.population.pa:
                page.physaddr = va
            if not self.storable:
                self.log("ERR", "Could not store segment fd: Operation not supported")
            self._table(msl)[seg], page.fd = page.fd, -1
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
        self.pages = [] if self.unlink_before_mapping else kept

    def abandon(self) -> None:
        if self.data_path:
            files.discard(self.data_path)
        self.unlink([page for page in self.pages if not page.preexisting])
        for page in self.pages:
            page.close()
        self.pages = []

    # a secondary

    def attach_files(self, msl: MemsegList, directory: str, pages: dict[int, str]) -> None:
        """Maps a primary's pages, {segment: file's name}, untouched. OSError names a file.

        A file that is too short is refused: its mapping would make it longer. No other page of the
        list is mapped.
        """
        size, segs = msl.page_sz, sorted(pages)
        names = [pages[seg] for seg in segs]
        with files.closing(os.open(directory, os.O_RDONLY | os.O_DIRECTORY)) as dir_fd:
            opened, error = self._open_existing(names, dir_fd)
        self._table(msl).update(zip(segs, opened, strict=False))
        ends = libc.syscall_batch("lseek", len(opened), opened, 0, os.SEEK_END, go_on=True)
        if min(ends, default=size) < size:
            found, name = next(x for x in zip(ends, names, strict=False) if x[0] < size)
            error = OSError(EINVAL, f"{size} bytes wanted, {found} found", name)
        if error:
            error.filename = f"{directory}/{error.filename}"
            raise error
        vas = [msl.base_va + seg * size for seg in segs]
        _, error = map_into_gap(opened, vas, size, MAP_SHARED, self.access.prot)
        if error:
            raise error
