"""The pages of memseg lists: allocate, free, descriptors (EAL's memalloc).

    find room, backing.map, population.populate, check the nodes, fill the records, or backing.undo

Each step is one call for all pages of a batch. Per page that costs open, flock and mmap, and a read
of pagemap if IO addresses are physical; what holds a page is the backing's matter alone.
linux/eal_memalloc.c
"""

from __future__ import annotations

from errno import EINVAL, ENOENT, ENOMEM

from .errors import EalError
from .layout import FLAG_DO_NOT_FREE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .backing import Backing
    from .memseg import MemsegList, MemsegLists
    from .populate import PreferredNode


class Pages:
    """Consecutive segments of one list: what an allocation returns and `free` takes."""

    def __init__(self, msl: MemsegList, start: int, n: int) -> None:
        self.msl, self.start, self.n = msl, start, n

    @property
    def va(self) -> int:
        return self.msl.va(self.start)

    @property
    def len(self) -> int:
        return self.n * self.msl.page_sz

    def __len__(self) -> int:
        return self.n

    def __repr__(self) -> str:
        return f"Pages(list {self.msl.index}, segments {self.start}+{self.n}, va {self.va:#x})"


class Segments:
    """The pages of the lists of one EAL, in whatever its backing makes them of."""

    def __init__(self, lists: MemsegLists, backing: Backing) -> None:
        self.lists, self.backing, self.population = lists, backing, backing.population
        self.log = backing.log

    @property
    def why(self) -> str:
        """The reason why a page failed last."""
        return self.population.why

    def alloc(self, page_sz: int, socket: int, n: int, exact: bool = True, flags: int = 0) -> Pages:
        """Allocates n pages of one size on one node, consecutive in one list; fewer unless exact.

        flags: what each page's record carries, FLAG_DO_NOT_FREE or 0. EalError(ENOMEM); no part of
        the request stays allocated then. eal_memalloc_alloc_seg_bulk
        """
        if n < 1:
            what = "Cannot allocate pages"
            raise EalError(EINVAL, "memalloc", what, expected="at least one", found=f"{n}")
        self.backing.check_size(page_sz)
        failed = self.population
        full = failed.why = f"no memseg list of this size and node has room for {n}"
        failed.fix = ""
        with self.population.on_node(socket) as policy:
            for msl in self.lists:
                if (msl.page_sz, msl.socket, msl.external) != (page_sz, socket, False):
                    continue
                start, need = _room(msl, n, exact)
                if not need:
                    continue
                got = self._alloc_run(msl, start, need, policy, exact, flags)
                if got:
                    msl.c.version += 1
                    return Pages(msl, start, got)
                if exact:
                    break
        what = f"Cannot allocate {n} pages of {page_sz >> 10} kB on node {socket}"
        reason = "lists-full" if failed.why == full else ""
        raise EalError(ENOMEM, "memalloc", what, found=failed.why, fix=failed.fix, reason=reason)

    def _alloc_run(
        self, msl: MemsegList, start: int, n: int, policy: PreferredNode, exact: bool, extra: int
    ) -> int:
        """Allocates segments from start on; returns how many are good. The rest is undone."""
        va, size, good, flags = msl.va(start), msl.page_sz, 0, [0] * n
        self.backing.prepare(n)
        with self.backing.directory(size) as dir_fd:
            threads = self.population.threads(n * size, policy)
            try:
                mapped = self.backing.map(msl, start, flags, dir_fd)
                iovas = self.population.populate(va, size, mapped, threads)
                found = self.population.on_its_node(va, size, len(iovas), policy)
                if found < n:
                    text = f"attempted to allocate {n} segments, but only {found} were allocated"
                    self.log("DEBUG", text)
                if found == n or (found and not exact):
                    c = self.lists.config
                    marks = [flag | extra for flag in flags[:found]]
                    msl.fill(start, iovas[:found], c.nchannel, c.nrank, marks)
                    good = found
            finally:
                threads.close()
                if good < n:
                    self.backing.undo(msl, start + good, flags[good:], dir_fd)
        return good

    def free(self, pages: Pages) -> None:
        """Gives pages back to the system. eal_memalloc_free_seg_bulk

        EalError(EINVAL) for pages that are not in use or marked do-not-free; nothing is freed then.
        If the directory's lock is not free in time, the files stay, with zeros.
        """
        msl = pages.msl
        self.backing.check_size(msl.page_sz)
        for i in range(pages.start, pages.start + pages.n):
            if not msl.maps(i):
                raise EalError(EINVAL, "memalloc", f"segment {i} of {msl.name} is not in use")
            if msl.seg(i).flags & FLAG_DO_NOT_FREE:
                what = f"Page is not allowed to be freed: {msl.name} {i}"
                raise EalError(EINVAL, "memalloc", what)
        with self.backing.directory(msl.page_sz, must=False) as dir_fd:
            msl.c.version += pages.n
            msl.clear(pages.start, pages.n)
            self.backing.drop(msl, pages.start, pages.n, dir_fd)

    def contiguous(self, pages: Pages) -> bool:
        """Returns whether the pages are contiguous for devices too. eal_memalloc_is_contig"""
        first = pages.msl.seg(pages.start).iova
        steps = range(pages.n) if self.population.pa else ()
        return all(
            pages.msl.seg(pages.start + i).iova == first + i * pages.msl.page_sz for i in steps
        )

    def fd(self, msl: MemsegList, seg: int) -> tuple[int, int]:
        """Returns (descriptor, offset in bytes) of a segment.

        EalError: ENOENT for an unused segment, ENOTSUP for external and for anonymous memory,
        ENODEV if no descriptor is open. rte_memseg_get_fd, rte_memseg_get_fd_offset
        """
        if not msl.arr.is_used(seg):
            raise EalError(ENOENT, "memalloc", f"segment {seg} of {msl.name} is not in use")
        return self.backing.fd(msl, seg)

    def close(self) -> None:
        """Closes every descriptor; the locks that they hold are free for others then."""
        self.backing.close()
        self.population.pagemap.close()


def _room(msl: MemsegList, n: int, exact: bool) -> tuple[int, int]:
    """Returns where in the list there is room, and for how many pages. alloc_seg_walk"""
    if exact:
        start = msl.arr.find_n(0, n, False) if n <= msl.n_segs else -1
        return start, n if start >= 0 else 0
    start = msl.arr.biggest(0, False)
    return start, min(n, msl.arr.contig(start, False)) if start >= 0 else 0
