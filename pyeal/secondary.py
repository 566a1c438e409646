"""A secondary's mappings: made like the primary's, and kept in line with its changes.

The config, arrays and pages are mapped at the primary's addresses. Which pages of a list this
process has mapped is recorded in an array of its own, the shadow.

linux/eal_memory.c: eal_legacy_hugepage_attach;
linux/eal_memalloc.c: eal_memalloc_sync_with_primary
"""

from __future__ import annotations

from ctypes import sizeof
from errno import ENOMEM

from . import layout, libc
from .errors import EalError
from .fbarray import Arrays, Fbarray, bits, runs
from .host import LOCAL, Host
from .layout import Memseg
from .memseg import MemsegList, MemsegLists

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .backing.pagefiles import HugedirFiles

    Log = Callable[[str, str], object]


class Sync:
    """This process's mappings of a primary's lists, and what keeps them in line.

    suffix: of the names of its shadow arrays.
    """

    def __init__(
        self, lists: MemsegLists, arrays: Arrays, backing: HugedirFiles, log: Log, suffix: str = ""
    ) -> None:
        self.lists, self.arrays, self.backing, self.log = lists, arrays, backing, log
        self.on_event: list[Callable[[str, int, int], object]] = []
        self.mapped = {msl.index: 0 for msl in lists}  # bit i: segment i is mapped here
        self.versions = dict(self.mapped)
        self.shadows: dict[int, tuple[layout.Fbarray, Fbarray]] = {}
        try:
            self._make_shadows(suffix)
        except BaseException:
            self.close()
            raise

    def _make_shadows(self, suffix: str) -> None:
        for msl in self.lists:
            desc, name = layout.Fbarray(), f"{msl.name}_{suffix}"
            made = self.arrays.create(desc, name, msl.n_segs, sizeof(Memseg))
            self.shadows[msl.index] = desc, made

    def close(self) -> None:
        """Removes the shadow arrays. secondary_msl_destroy_walk"""
        for desc, arr in self.shadows.values():
            arr.release()
            self.arrays.destroy(desc)
        self.shadows.clear()

    def follow(self) -> None:
        """Maps what the primary has and this process lacks, and unmaps the opposite. sync_walk

        EalError(ENOMEM) when a page cannot be mapped; what is mapped by then stays.
        """
        for msl in self.lists:
            version = msl.c.version
            if self.versions[msl.index] == version:
                continue
            if msl.page_sz not in self.backing.infos:
                size = msl.page_sz >> 10
                raise EalError(
                    ENOMEM, "sync", f"no hugepage directory is known for {size} kB pages"
                )
            with self.backing.directory(msl.page_sz) as dir_fd:
                self._align(msl, dir_fd)
            self.versions[msl.index] = version

    def _align(self, msl: MemsegList, dir_fd: int) -> None:
        theirs, mine = msl.arr.used(), self.mapped[msl.index]
        for start, n in runs(theirs & ~mine):
            self._map(msl, start, n, dir_fd)
        for start, n in runs(mine & ~theirs):
            self._tell("free", msl, start, n)
            self.backing.detach(msl, start, n, dir_fd)
            self._mark(msl, start, n, False)
        if not self.mapped[msl.index]:
            self.backing.close_list(msl)

    def _map(self, msl: MemsegList, start: int, n: int, dir_fd: int) -> None:
        self.backing.attach(msl, start, n, dir_fd)
        self._mark(msl, start, n, True)
        self._tell("alloc", msl, start, n)

    def _mark(self, msl: MemsegList, start: int, n: int, used: bool) -> None:
        """Enters what is mapped, also into the shadow array where there is one."""
        bits = (1 << n) - 1 << start
        old = self.mapped[msl.index]
        self.mapped[msl.index] = old | bits if used else old & ~bits
        if msl.index in self.shadows:
            _, shadow = self.shadows[msl.index]
            at, size = start * sizeof(Memseg), n * sizeof(Memseg)
            records = libc.memory(msl.arr.desc.data + at, size)
            self.arrays.write(shadow.desc, at, records if used else bytes(size))
            shadow.mark(start, n, used)

    def _tell(self, what: str, msl: MemsegList, start: int, n: int) -> None:
        for fn in self.on_event:
            fn(what, msl.va(start), n * msl.page_sz)

    def map_legacy(self, path: str) -> None:
        """Maps each page that hugepage_data records. eal_legacy_hugepage_attach

        EalError(ENOMEM) that names the file that is missing.
        """
        if aslr_enabled():
            self.log(
                "WARNING",
                "WARNING: Address Space Layout Randomization (ASLR) is enabled in the kernel.",
            )
            self.log(
                "WARNING", "   This may cause issues with mapping memory into secondary processes"
            )
        try:
            for (msl, directory), pages in self._places(path).items():
                if self.mapped[msl.index]:
                    raise ValueError(f"pages of {msl.name} lie in two directories")
                self.mapped[msl.index] = bits(pages)
                self.backing.attach_files(msl, directory, pages)
        except (OSError, ValueError) as e:
            what = getattr(e, "filename", None) or path
            raise EalError(ENOMEM, "legacy", f"Could not open {what}: {e}") from None

    def _places(self, path: str) -> dict[tuple[MemsegList, str], dict[int, str]]:
        """The recorded pages, {(list, directory): {segment: file}}. ValueError if it cannot be."""
        from . import hugepage_data

        dirs = {info.hugedir.rstrip("/") for info in self.backing.infos.values()}
        dirs |= {f"{d}/" for d in dirs}  # of a directory that was named with a slash
        found: dict[tuple[MemsegList, str], dict[int, str]] = {}
        vas, where, pages = range(0), "", dict[int, str]()  # of the pages before, mostly
        for va, size, file_id, file in hugepage_data.read(path):
            directory, _, name = file.rpartition("/")
            if directory != where or va not in vas:
                where = directory
                if dirs and where not in dirs:
                    raise ValueError(f"page {file_id} lies in no hugepage directory: {file!r}")
                if (at := self.lists.of(va)) is None:
                    raise ValueError(f"page {file_id} lies in no memseg list: {va:#x}")
                msl = at[0]
                vas = range(msl.base_va, msl.base_va + msl.len, msl.page_sz)
                pages = found.setdefault((msl, where), {})
                first, page_sz, fits = msl.base_va, msl.page_sz, va in vas
            seg = (va - first) // page_sz
            if size != page_sz or not fits or seg in pages:
                raise ValueError(f"page {file_id} is not segment {seg} of {msl.name}, or again")
            pages[seg] = name
        return found


class ObserverSync(Sync):
    """An observer's: without shadow arrays, and a page that was freed meanwhile is no error."""

    def _make_shadows(self, suffix: str) -> None:
        pass

    def _map(self, msl: MemsegList, start: int, n: int, dir_fd: int) -> None:
        try:
            super()._map(msl, start, n, dir_fd)
        except EalError as e:
            if msl.arr.is_used(start):
                raise
            self.log("DEBUG", f"gone before it was mapped: {e.text}")


def aslr_enabled(host: Host = LOCAL) -> bool:
    """Whether this process's addresses are random. linux/eal_memory.c: aslr_enabled"""
    if libc.personality() & libc.ADDR_NO_RANDOMIZE:
        return False
    try:
        with open(f"{host.proc}/sys/kernel/randomize_va_space") as f:
            return f.read().strip() != "0"
    except OSError:
        return False
