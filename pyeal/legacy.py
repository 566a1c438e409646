"""The memory that never changes after init: --no-huge, and --legacy-mem on hugetlbfs.

linux/eal_memory.c: eal_legacy_hugepage_init
"""

from __future__ import annotations

import os
from ctypes import sizeof
from errno import EMFILE, ENOMEM

from . import files, hugepage_data, libc
from .dynmem import pages_per_socket
from .errors import EalError
from .fbarray import bits, runs
from .hugepage_data import Page
from .layout import BAD_IOVA, PGSIZE_4K, Memseg
from .libc import (
    MADV_POPULATE_WRITE,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_RW,
)
from .memseg import MemsegList, MemsegLists
from .segments import (
    FEW,
    PRESENT,
    OnNode,
    Segments,
    frames,
    grow_descriptor_table,
    lock_shared,
    locked_before,
    open_each,
)
from .vaspace import map_into_hole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .hugepages import HugepageInfo
    from .options import Options

    Log = Callable[[str, str], object]

MB = 1 << 20
DEFAULT_MEMORY = 64 * MB  # MEMSIZE_IF_NO_HUGE_PAGE
BLOCK = 16384  # records of no-huge written at a time: fewer cost more each
LEN: int = Memseg.len.offset  # type: ignore[attr-defined]  # hugepage_sz follows it


def no_huge(lists: MemsegLists, segments: Segments, memory: int, log: Log) -> None:
    """One list of 4 kB pages on a memfd, or on anonymous memory where there is no memfd.

    EalError(ENOMEM).
    """
    msl = lists.add("nohugemem", PGSIZE_4K, memory // PGSIZE_4K, 0)
    fd, kind = -1, MAP_PRIVATE | MAP_ANONYMOUS
    try:
        fd = os.memfd_create("nohuge", 0)
        os.ftruncate(fd, memory)
        kind = MAP_SHARED
        log("DEBUG", "Using memfd for anonymous memory")
    except OSError as e:
        level, what = ("DEBUG", "create") if fd < 0 else ("ERR", "resize")
        log(level, f"Cannot {what} memfd: {e.strerror}")
        log(level, "Falling back to anonymous map")
        if fd >= 0:
            os.close(fd)
        fd = -1
    try:
        libc.mmap(msl.base_va, msl.len, PROT_RW, kind | MAP_FIXED, fd)
    except OSError as e:
        if fd >= 0:
            os.close(fd)
        raise EalError(ENOMEM, "pages", f"{memory // MB} MB without hugepages: {e}") from None
    if fd >= 0:
        segments.list_fd[msl.index] = fd
    _describe(lists, msl)


def _describe(lists: MemsegLists, msl: MemsegList) -> None:
    """Writes the records of all pages of a no-huge list, IOVA and address being the same.

    eal_memseg_list_populate
    """
    n, size = msl.n_segs, sizeof(Memseg)
    length = min(n, BLOCK) * size
    # touched at once: page by page is a good part of the time that filling it takes
    block = libc.mmap(0, length, PROT_RW, MAP_PRIVATE | MAP_ANONYMOUS | libc.MAP_POPULATE)
    try:
        libc.store_sequence(block + LEN, length // size, PGSIZE_4K, 0, size, again=8)
        records = libc.memory(block, length)
        for at in range(0, n, BLOCK):
            some = min(BLOCK, n - at)
            libc.store_sequence(block, some, msl.va(at), PGSIZE_4K, every=size, again=8)
            lists.arrays.write(msl.c.memseg_arr, at * size, records[: some * size])
    finally:
        libc.munmap(block, length)
    lists.arrays.use_all(msl.c.memseg_arr)


def hugepage_init(
    work: Legacy, infos: list[HugepageInfo], lcores: dict[int, int], data_path: str | None
) -> None:
    """Maps all free pages of every size, keeps what is wanted, contiguous ones side by side.

    data_path: hugepage_data, None to write none. EalError(ENOMEM); what was mapped is gone then,
    but for pages that --huge-unlink=never had kept.
    """
    try:
        for info in infos:
            if info.num_pages[0]:
                work.map_all(info)
        kept = work.choose(infos, lcores)
        work.unmap()  # the files hold the pages; mapped twice, they could be too many mappings
        work.remap(kept)
        if data_path:
            hugepage_data.write(data_path, kept, work.mapped)
        work.unlink([*work.surplus, *(kept if work.opts.unlink_before_mapping else ())])
    except BaseException:
        work.give_up()
        raise
    finally:
        work.unmap()
    work.lists.release_unused()


class Legacy:
    """The pages of one start, from the first mapping of all to the second one of those kept."""

    def __init__(self, lists: MemsegLists, segments: Segments, opts: Options, log: Log) -> None:
        self.lists, self.segments, self.opts, self.log = lists, segments, opts, log
        self.pages: list[Page] = []  # sizes descending, addresses ascending
        self.surplus: list[Page] = []
        self.holes: list[tuple[int, int]] = []  # where the first mappings lie
        self.mapped = 0
        self.pseudo = 0  # next address where there are no physical ones
        self.why = ""  # of the page that failed last
        self.outstanding = dict(opts.socket_mem or {})  # bytes by node, for the policy

    def _fail(self, why: str) -> None:
        self.why = why
        self.log("DEBUG", why)

    def map_all(self, info: HugepageInfo) -> None:
        """Makes, maps and touches a file for each page, up to one that fails. map_all_hugepages

        Descriptors stay open for the second mapping. A pool of more pages than there may be
        descriptors is mapped in parts, whose files are closed; those kept are opened again.
        """
        size, wanted, first = info.page_sz, info.num_pages[0], len(self.pages)
        n = min(wanted, _mount_room(info.hugedir, size) + info.num_reusable)
        room = max(1, _free_descriptors())
        if n <= room:
            grow_descriptor_table(n)
        va, at = self._hole(n * size, size), 0
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
            self.why = self.why or f"size= of {info.hugedir} leaves {n} of {wanted} free pages"
        self._locate(pages, va, size)
        self.pages[first:] = sorted(pages, key=lambda p: p.physaddr)
        self.mapped += len(pages)

    def _hole(self, length: int, size: int) -> int:
        """Address space for the first mapping, at a multiple of the page size.

        Behind the lists, where a Hole can be.
        """
        va = libc.reserve(max(msl.base_va + msl.len for msl in self.lists), length + size)
        self.holes.append((va, length + size))
        return (va + size - 1) & -size

    def _turns(self, n: int, size: int, most: int) -> Iterator[tuple[int | None, int]]:
        """(node to prefer, pages) in mapping order: first what is outstanding, then in turn."""
        asked = sorted(node for node, mem in (self.opts.socket_mem or {}).items() if mem)
        node, some = None, n
        while n:
            if short := [x for x in asked if self.outstanding[x]]:
                node, some = short[0], -(-self.outstanding[short[0]] // size)
            elif asked:
                after = -1 if node is None else node
                node = next((x for x in asked if x > after), asked[0])
                some = 1 if len(asked) > 1 else n
            some = min(some, n, most)
            yield node, some
            n -= some

    def _map(self, info: HugepageInfo, at: int, n: int, va: int, node: int | None) -> int:
        """Files number at to at + n, mapped and populated on a node; how many are there."""
        first, size = len(self.pages), info.page_sz
        self._open(info, at, n, va)
        pages = self.pages[first:]
        if node is None:
            there = self._populate(pages, va, size)
        else:
            with self.segments.on_node(node) as policy:
                there = self._populate(pages, va, size, policy)
        absent = [page for page, good in zip(pages, there, strict=True) if not good]
        for page in absent:
            self.pages.remove(page)
            page.close()
        self.unlink([page for page in absent if not page.found])
        return sum(there)

    def _open(self, info: HugepageInfo, at: int, n: int, va: int) -> None:
        """Files number at to at + n, each with its lock, for addresses from va on."""
        head, keep = f"{info.hugedir}/{self.opts.file_prefix}map_", not self.opts.unlink_existing
        paths, opened = [f"{head}{i}" for i in range(at, at + n)], list[int]()
        good = n
        try:
            flags = os.O_RDWR | os.O_CREAT
            open_each(paths, opened, flags, None, files.others_may_write(info.hugedir))
        except OSError as e:
            good = locked_before(e, paths, opened)
            self._fail(f"open failed: {e.strerror}: {e.filename}")
        for i, (path, fd) in enumerate(zip(paths, opened, strict=False)):
            page = Page(path, at + i, info.page_sz, va + i * info.page_sz, fd)
            page.found = keep and os.fstat(fd).st_size > 0
            if i < good:
                self.pages.append(page)
                continue
            page.close()  # it is open, but has no lock
            if not page.found:
                self.unlink([page])

    def _populate(
        self, pages: list[Page], va: int, size: int, policy: OnNode | None = None
    ) -> list[bool]:
        """Maps the files side by side and touches them without a change; which are there."""
        if not pages:
            return []
        helpers = self.segments.helpers(len(pages) * size, policy)
        flag, done, failed = self.segments.populate_flag, [0], []
        try:
            vas, fds = range(va, va + len(pages) * size, size), [page.fd for page in pages]
            map_into_hole(fds, vas, size, MAP_SHARED | flag, done)
        except OSError as e:
            self._fail(f"mmap failed: {e.strerror}: {pages[done[0]].path}")
        n = done[0]
        per = helpers.share(n, size)
        chunks = iter(() if flag else range(0, n, per))

        def work() -> None:
            for at in chunks:
                try:
                    libc.madvise(va + at * size, min(per, n - at) * size, MADV_POPULATE_WRITE)
                except OSError as e:
                    failed.append(e)
                    break

        helpers.together(work)
        there = [True] * n
        if n and (failed or flag):
            there = [bool(e & PRESENT) for e in self.segments.pagemap.entries(va, size, n)]
            if not all(there):
                self._fail(
                    f"SIGBUS: Cannot mmap more hugepages of size {size // MB} MB; "
                    "the pool ran dry or a hugetlb cgroup limit is reached"
                )
        return there + [False] * (len(pages) - n)

    def _locate(self, pages: list[Page], va: int, size: int) -> None:
        """Physical address (or a running number) and node of each page."""
        if not pages:
            return
        at = [(page.orig_va - va) // size for page in pages]
        if self.segments.pa:
            entries = self.segments.pagemap.entries(va, size, at[-1] + 1)
            physical = frames([entries[i] for i in at])
            if BAD_IOVA in physical:
                raise EalError(
                    ENOMEM, "pages", f"Failed to find phys addr for {size // MB} MB pages"
                )
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

    def choose(self, infos: list[HugepageInfo], lcores: dict[int, int]) -> list[Page]:
        """Keeps the lowest pages of each size and node that the request needs; the rest goes."""
        nodes = max([p.node for p in self.pages] + [len(i.num_pages) - 1 for i in infos]) + 1
        counts = {info.page_sz: [0] * nodes for info in infos}
        for page in self.pages:
            counts[page.size][page.node] += 1
        memory = self.opts.memory
        if not memory and self.opts.socket_mem is None:
            memory = sum(p.size for p in self.pages)
        sizes = [info.page_sz for info in infos]
        available = [(s, counts[s]) for s in sizes]
        try:
            used = pages_per_socket(memory, self.opts.socket_mem, available, lcores)
        except EalError as e:
            why = f"; {self.why}" if self.why else ""
            e.what += why
            raise e
        left = dict(zip(sizes, used, strict=True))
        for size, row in left.items():
            for node, n in enumerate(row):
                if n:
                    text = f"Requesting {n} pages of size {size // MB}MB from socket {node}"
                    self.log("DEBUG", text)
        kept = []
        for page in self.pages:
            if left[page.size][page.node]:
                left[page.size][page.node] -= 1
                kept.append(page)
            else:
                page.close()
                self.surplus.append(page)
        self.pages = kept
        return kept

    def remap(self, pages: list[Page]) -> None:
        """Maps runs of neighbours side by side into the lists. remap_needed_hugepages

        They lie one after the other, as the roomiest place is behind the last one; one segment
        stays free before each.
        """
        places: dict[MemsegList, dict[int, Page]] = {}
        start = 0
        for i in range(1, len(pages) + 1):
            if i == len(pages) or not _neighbours(pages[i - 1], pages[i]):
                while start < i:
                    msl, at = self._room(places, pages[start], i - start)
                    run = pages[start : min(i, start + msl.n_segs - at)]
                    places.setdefault(msl, {}).update(enumerate(run, at))
                    start += len(run)
        for msl, placed in places.items():
            self._place(msl, placed)

    def _room(
        self, places: dict[MemsegList, dict[int, Page]], first: Page, n: int
    ) -> tuple[MemsegList, int]:
        """The list with room for a run, or for the most of it, and from which segment on."""
        size, node = first.size, first.node
        for msl in self.lists:
            if (msl.page_sz, msl.socket, msl.external) == (size, node, False):
                at = next(reversed(places[msl])) + 2 if msl in places else 0
                if at + (at == 0) < msl.n_segs:
                    return msl, at
        raise EalError(
            ENOMEM, "pages",
            f"Could not find space for memseg: {n} pages of {size // MB} MB on node {node}. "
            "Please increase RTE_MAX_MEMSEG_PER_LIST RTE_MAX_MEMSEG_PER_TYPE and/or "
            "RTE_MAX_MEM_MB_PER_TYPE in configuration.",
            reason="lists-full",
        )  # fmt: skip

    def _place(self, msl: MemsegList, placed: dict[int, Page]) -> None:
        """Maps pages as these segments."""
        size, used = msl.page_sz, bits(placed)
        vas = [msl.va(seg) for seg in placed]
        try:
            for page in placed.values():
                if page.fd < 0:
                    page.fd = os.open(page.path, os.O_RDWR | os.O_NOFOLLOW)
                    lock_shared(page.fd, page.path)
            kind = MAP_SHARED | self.segments.populate_flag
            map_into_hole([p.fd for p in placed.values()], vas, size, kind, [0])
            for start, n in runs(used) if not self.segments.populate_flag else ():
                libc.madvise(msl.va(start), n * size, MADV_POPULATE_WRITE)
        except OSError as e:
            many = "; each page needs a descriptor: ulimit -n" if e.errno == EMFILE else ""
            raise EalError(
                ENOMEM, "pages", f"Couldn't remap pages of {msl.name}: {e}{many}"
            ) from None
        for seg, va, page in zip(placed, vas, placed.values(), strict=True):
            page.final_va = va
            if not self.segments.pa:
                page.physaddr = va
            try:
                self.segments.keep(msl, seg, page.fd)
            except EalError as e:
                self.log("ERR", e.text)
                self.segments.unkept.append(page.fd)
            if page.found:
                self.segments.spared.add(page.fd)
            page.fd = -1
        c = self.lists.config
        msl.fill_some({seg: page.physaddr for seg, page in placed.items()}, c.nchannel, c.nrank)

    def give_up(self) -> None:
        """Removes every file that is left, after a failure, but for those that were there."""
        for page in [*self.pages, *self.surplus]:
            page.close()
        self.unlink([page for page in [*self.pages, *self.surplus] if not page.found])

    def unlink(self, pages: list[Page]) -> None:
        for page in pages:
            try:
                os.unlink(page.path)
            except FileNotFoundError:
                pass
            except OSError as e:
                self.log("WARNING", f"Removing {page.path} failed: {e.strerror}")

    def unmap(self) -> None:
        """Takes the first mappings away."""
        for va, length in self.holes:
            libc.munmap(va, length)
        self.holes.clear()


def _neighbours(a: Page, b: Page) -> bool:
    return a.physaddr + a.size == b.physaddr and a.size == b.size and a.node == b.node


def _free_descriptors() -> int:
    """How many more files may be open, less a few for others."""
    return os.sysconf("SC_OPEN_MAX") - len(os.listdir("/proc/self/fd")) - FEW


def _mount_room(hugedir: str, size: int) -> int:
    """How many pages the mount's size= leaves; without one, as many as can be counted."""
    st = os.statvfs(hugedir)
    return st.f_bavail if st.f_blocks else 1 << 40
