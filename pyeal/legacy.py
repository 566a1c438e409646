"""The memory that never changes after init: --no-huge, and --legacy-mem on hugetlbfs.

linux/eal_memory.c: eal_legacy_hugepage_init
"""

from __future__ import annotations

import os
from errno import ENOMEM

from . import hugepage_data, libc
from .dynmem import pages_per_socket
from .errors import EalError
from .hugepage_data import Page
from .layout import BAD_IOVA
from .libc import (
    MADV_POPULATE_WRITE,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_PRIVATE,
    MAP_SHARED,
    PAGE,
    PROT_RW,
)
from .memseg import MemsegList, MemsegLists
from .segments import (
    CHUNK,
    PRESENT,
    Helpers,
    Locked,
    OnNode,
    Segments,
    frames,
    grow_descriptor_table,
    lock_shared,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .hugepages import HugepageInfo
    from .options import Options

    Log = Callable[[str, str], object]

MB = 1 << 20
DEFAULT_MEMORY = 64 * MB  # MEMSIZE_IF_NO_HUGE_PAGE
BLOCK = 4096  # records of no-huge written at a time; their addresses differ in 12 bits


def no_huge(lists: MemsegLists, segments: Segments, memory: int, pa: bool, log: Log) -> None:
    """One list of 4 kB pages on a memfd, or on anonymous memory where there is no memfd.

    EalError(ENOMEM).
    """
    msl = lists.add("nohugemem", PAGE, memory // PAGE, 0)
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
    _describe(lists, msl, pa)


def _describe(lists: MemsegLists, msl: MemsegList, pa: bool) -> None:
    """Writes the records of all pages of a no-huge list. eal_memseg_list_populate

    A block of records is a template in which only the addresses' high bytes change.
    """
    from struct import Struct

    pack = Struct("<QQQQiIII").pack
    n, first = msl.n_segs, msl.base_va // PAGE
    block = bytearray(
        b"".join(
            [
                pack(BAD_IOVA if pa else i * PAGE, i * PAGE, PAGE, PAGE, 0, 0, 0, 0)
                for i in range(BLOCK)
            ]
        )
    )
    fields = (8,) if pa else (0, 8)
    seen = [0] * 8
    at = 0
    while at < n:
        high, low = divmod(first + at, BLOCK)
        for k, byte in enumerate((high * BLOCK * PAGE).to_bytes(8, "little")):
            if k >= 3 and seen[k] != byte:
                seen[k] = byte
                for field in fields:
                    block[field + k :: 48] = bytes([byte]) * BLOCK
        take = min(BLOCK - low, n - at)
        lists.arrays.write(
            msl.c.memseg_arr, at * 48, memoryview(block)[low * 48 : (low + take) * 48]
        )
        at += take
    msl.arr.mark(0, n)


def hugepage_init(
    lists: MemsegLists,
    segments: Segments,
    infos: list[HugepageInfo],
    opts: Options,
    lcores: dict[int, int],
    data_path: str | None,
    log: Log,
) -> None:
    """Maps all free pages of every size, keeps what is wanted, contiguous ones side by side.

    data_path: hugepage_data, None to write none. EalError(ENOMEM); what was mapped is gone then.
    """
    work = Legacy(lists, segments, opts, log)
    try:
        for info in infos:
            if info.num_pages[0]:
                work.map_all(info)
        kept = work.choose(infos, lcores)
        work.remap(kept)
        if data_path:
            hugepage_data.write(data_path, kept, work.mapped)
        if opts.unlink_before_mapping:
            for page in kept:
                os.unlink(page.path)
    except BaseException:
        work.give_up()
        raise
    finally:
        work.unmap()
    lists.release_unused()


class Legacy:
    """The pages of one start, from the first mapping of all to the second one of those kept."""

    def __init__(self, lists: MemsegLists, segments: Segments, opts: Options, log: Log) -> None:
        self.lists, self.segments, self.opts, self.log = lists, segments, opts, log
        self.pages: list[Page] = []  # sizes descending, addresses ascending
        self.holes: list[tuple[int, int]] = []  # where the first mappings lie
        self.mapped = 0
        self.pseudo = 0  # next address where there are no physical ones
        self.outstanding = dict(opts.socket_mem or {})  # bytes by node, for the policy

    def map_all(self, info: HugepageInfo) -> None:
        """Makes, maps and touches a file for each page, up to one that fails. map_all_hugepages"""
        size, wanted = info.page_sz, info.num_pages[0]
        n = min(wanted, _mount_room(info.hugedir, size))
        first = len(self.pages)
        grow_descriptor_table(n)
        with Locked(info, False) as dir_fd:
            helpers = self.segments.helpers(n * size, lambda: None)
            try:
                self._open(info, n, dir_fd)
                pages = self.pages[first:]
                va = libc.reserve(0, max(1, len(pages)) * size + size)
                self.holes.append((va, max(1, len(pages)) * size + size))
                va = (va + size - 1) & -size
                done = [0]
                try:
                    fds = [p.fd for p in pages]
                    kind = MAP_SHARED | MAP_FIXED | self.segments.populate_flag
                    libc.map_each(fds, va, size, kind, done)
                except OSError as e:
                    self.log("DEBUG", f"mmap failed: {e.strerror}")
                good = self._touch(va, size, done[0], helpers)
            finally:
                helpers.close()
            for page in pages[good:]:
                self._remove(page)
            del self.pages[first + good :]
        if good < wanted:
            self.log("DEBUG", f"{good} not {wanted} hugepages of size {size // MB} MB allocated")
        self._locate(self.pages[first:], va, size)
        self.pages[first:] = sorted(self.pages[first:], key=lambda p: p.physaddr)
        self.mapped += good

    def _open(self, info: HugepageInfo, n: int, dir_fd: int) -> None:
        prefix = f"{self.opts.file_prefix}map_"
        for i in range(n):
            try:
                fd = os.open(
                    f"{prefix}{i}", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600, dir_fd=dir_fd
                )
            except OSError as e:
                self.log("DEBUG", f"open failed: {e.strerror}")
                break
            self.pages.append(Page(f"{info.hugedir}/{prefix}{i}", i, info.page_sz, 0, fd))

    def _touch(self, va: int, size: int, n: int, helpers: Helpers) -> int:
        """Populates the pages, each on its turn's node; how many from the first on are there."""
        turns = self._turns(n, size)
        if len(turns) > 1 or turns[0][0] is not None:
            return self._touch_by_node(va, size, turns)
        chunks = iter(range(0, n, per := max(1, CHUNK // size)))
        failed: list[OSError] = []

        def work() -> None:
            for at in chunks:
                if failed:
                    break
                try:
                    if not self.segments.populate_flag:
                        libc.madvise(va + at * size, min(per, n - at) * size, MADV_POPULATE_WRITE)
                except OSError as e:
                    failed.append(e)

        helpers.together(work)
        return self._present(va, size, n, bool(failed))

    def _touch_by_node(self, va: int, size: int, turns: list[tuple[int | None, int]]) -> int:
        at = 0
        for node, n in turns:
            with OnNode(node or 0, self.log):
                try:
                    libc.madvise(va + at * size, n * size, MADV_POPULATE_WRITE)
                except OSError:
                    return at + self._present(va + at * size, size, n, True)
            at += n
        return at

    def _present(self, va: int, size: int, n: int, failed: bool) -> int:
        if n and (failed or self.segments.populate_flag):
            entries = self.segments.pagemap.entries(va, size, n)
            here = next((i for i, e in enumerate(entries) if not e & PRESENT), n)
            if here < n:
                self.log("DEBUG", f"SIGBUS: Cannot mmap more hugepages of size {size // MB} MB")
            return here
        return n

    def _turns(self, n: int, size: int) -> list[tuple[int | None, int]]:
        """(node to prefer, pages) in mapping order: first what is outstanding, then in turn."""
        asked = [node for node, mem in (self.opts.socket_mem or {}).items() if mem]
        if not asked or not n:
            return [(None, n)]
        turns: list[tuple[int | None, int]] = []
        left = n
        for node in asked:
            take = min(left, -(-self.outstanding[node] // size))
            self.outstanding[node] = max(0, self.outstanding[node] - take * size)
            if take:
                turns.append((node, take))
            left -= take
        if len(asked) == 1:
            return [*turns, (asked[0], left)] if left else turns
        return turns + [(asked[i % len(asked)], 1) for i in range(left)]

    def _locate(self, pages: list[Page], va: int, size: int) -> None:
        """Physical address (or a running number) and node of each page."""
        if not pages:
            return
        if self.segments.pa:
            physical = frames(self.segments.pagemap.entries(va, size, len(pages)))
            if BAD_IOVA in physical:
                raise EalError(
                    ENOMEM, "pages", f"Failed to find phys addr for {size // MB} MB pages"
                )
        else:
            end = self.pseudo + len(pages) * size
            physical = list(range(self.pseudo, end, size))
            self.pseudo = end
        try:
            nodes = libc.page_nodes(va, size, len(pages))
        except OSError:
            self.log(
                "NOTICE", "NUMA support not available consider that all memory is in socket_id 0"
            )
            nodes = [0] * len(pages)
        for i, page in enumerate(pages):
            page.orig_va, page.physaddr, page.node = va + i * size, physical[i], nodes[i]
            if nodes[i] < 0:
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
        used = pages_per_socket(
            memory, self.opts.socket_mem, [(s, counts[s]) for s in sizes], lcores
        )
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
                self._remove(page)
        self.pages = kept
        return kept

    def remap(self, pages: list[Page]) -> None:
        """Maps runs of neighbours side by side into the lists. remap_needed_hugepages"""
        start = 0
        for i in range(1, len(pages) + 1):
            if i == len(pages) or not _neighbours(pages[i - 1], pages[i]):
                while start < i:
                    start += self._remap_run(pages[start:i])

    def _remap_run(self, run: list[Page]) -> int:
        """Maps the run, or as much as the roomiest place takes; one segment stays free before."""
        size, node = run[0].size, run[0].node
        for msl in self.lists:
            if (msl.page_sz, msl.socket, msl.external) != (size, node, False):
                continue
            at = msl.arr.biggest(0, False)
            room = msl.arr.contig(at, False) if at >= 0 else 0
            if room < 2:
                continue
            if msl.count:
                at, room = at + 1, room - 1
            self._place(msl, at, run[: min(len(run), room)])
            return min(len(run), room)
        raise EalError(
            ENOMEM, "pages",
            f"Could not find space for memseg: {len(run)} pages of {size // MB} MB on node {node}. "
            "Please increase RTE_MAX_MEMSEG_PER_LIST RTE_MAX_MEMSEG_PER_TYPE and/or "
            "RTE_MAX_MEM_MB_PER_TYPE in configuration.",
        )  # fmt: skip

    def _place(self, msl: MemsegList, at: int, run: list[Page]) -> None:
        va, size = msl.va(at), msl.page_sz
        try:
            for page in run:
                lock_shared(page.fd)
            libc.map_each(
                [p.fd for p in run], va, size,
                MAP_SHARED | MAP_FIXED | self.segments.populate_flag, [0],
            )  # fmt: skip
            if not self.segments.populate_flag:
                libc.madvise(va, len(run) * size, MADV_POPULATE_WRITE)
        except OSError as e:
            raise EalError(ENOMEM, "pages", f"Couldn't remap '{run[0].path}' and on: {e}") from None
        for i, page in enumerate(run):
            page.final_va = va + i * size
            if not self.segments.pa:
                page.physaddr = page.final_va
            try:
                self.segments.keep(msl, at + i, page.fd)
            except EalError as e:
                self.log("ERR", e.text)
                self.segments.unkept.append(page.fd)
            page.fd = -1
        c = self.lists.config
        msl.fill(at, [p.physaddr for p in run], c.nchannel, c.nrank, [0] * len(run))

    def _remove(self, page: Page) -> None:
        os.unlink(page.path)
        os.close(page.fd)
        page.fd = -1

    def give_up(self) -> None:
        """Removes every file that is left, after a failure."""
        for page in self.pages:
            try:
                os.unlink(page.path)
            except FileNotFoundError:
                pass
            if page.fd >= 0:
                os.close(page.fd)

    def unmap(self) -> None:
        """Takes the first mappings away."""
        for va, length in self.holes:
            libc.munmap(va, length)
        self.holes.clear()


def _neighbours(a: Page, b: Page) -> bool:
    return (a.size, a.node, a.physaddr + a.size) == (b.size, b.node, b.physaddr)


def _mount_room(hugedir: str, size: int) -> int:
    """How many pages the mount's size= leaves; without one, as many as can be counted."""
    st = os.statvfs(hugedir)
    return st.f_bavail if st.f_blocks else 1 << 40
