"""A secondary: its stages, and its mappings, kept in line with the primary's changes.

The config, arrays and pages are mapped at the primary's addresses. Which pages of a list this
process has mapped is recorded in an array of its own, the shadow.

linux/eal.c: rte_eal_config_attach; linux/eal_memory.c: eal_legacy_hugepage_attach;
linux/eal_memalloc.c: eal_memalloc_sync_with_primary
"""

from __future__ import annotations

import time
from ctypes import sizeof
from errno import ENODEV, ENOMEM, ENOTSUP

from . import backing, layout, libc, memory, memseg, peers, runtime
from .attached import AttachedConfig
from .backing import Access
from .errors import EalError, Log
from .fbarray import Arrays, Fbarray, bits, runs
from .layout import Memseg, Memzone
from .memseg import MemsegList
from .populate import Population
from .vaspace import VaSpace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .backing.pagefiles import HugedirFiles
    from .malloc_mp import GrowthClient
    from .mp import Channel
    from .releases import Release


class SecondaryPeers(peers.Alone):
    """The primary of a secondary, which requests nothing before connect()."""

    exchange = staticmethod(libc.compare_exchange)

    def __init__(self, log: Log) -> None:
        self.log = log
        self._client: GrowthClient | None = None
        self._locks: dict[int, peers.SharedLock] = {}

    def lock(self, va: int, repair: Callable[[], object] = lambda: None) -> peers.SharedLock:
        lock = self._locks[va] = super().lock(va, repair)
        return lock

    def rwlock(self, va: int, steps: tuple[int, int]) -> peers.RwLock:
        lock = self._locks[va] = super().rwlock(va, steps)
        return lock

    def holds(self, param: bytes) -> bytes:
        """Return the reply to a primary that asks whether this process holds a lock."""
        lock = self._locks.get(int.from_bytes(param, "little"))
        return bytes([lock is not None and lock.may_be_ours])

    def connect(self, channel: Channel, release: Release, follow: Callable[[], object]) -> None:
        """Follow the primary's announcements by follow(), and ask it for growth, from now on."""
        from . import malloc_mp

        self._client = malloc_mp.GrowthClient(channel, release, follow, self.log)

    def grow(self, expand: Callable[[], object], *request: Any) -> bool:
        return self._client is not None and self._client.grow(*request)

    def shrink(self, free: Callable[[], object], va: int, length: int) -> None:
        if self._client:
            self._client.release_pages(va, length)


class Secondary(memory.Stages):
    """What a secondary does at each stage."""

    config_class: type[AttachedConfig] = AttachedConfig
    arrays_class = Arrays
    access: type[Access] = Access
    sync: Sync

    def check_pages(self) -> None:
        what = "Cannot allocate pages: only a primary can"
        fix = "use malloc(), for which the primary adds pages"
        raise EalError(ENOTSUP, "memalloc", what, fix=fix, reason="role")

    def open_config(self) -> AttachedConfig:
        """Maps the primary's config, whose modes hold here. rte_eal_config_attach"""
        e, opts = self.eal, self.eal.options
        found = self.config_class(e.file("config"), e.release)
        e.at_end(found.close)
        e.on_failure(found.unmap)
        opts.legacy_mem = bool(found.c.legacy_mem)
        opts.single_file_segments = bool(found.c.single_file_segments)
        self.no_huge, opts.in_memory, opts.no_huge = opts.no_huge, False, False
        self.join(found)
        return found

    def join(self, config: AttachedConfig) -> None:
        """Makes this process known to the primary, before it looks at any memory."""
        e, opts = self.eal, self.eal.options
        config.join()
        if not opts.single_file_segments:
            counts = (m.memseg_arr.count for m in config.c.memsegs)
            backing.grow_descriptor_table(sum(min(n, memseg.MAX_SEGS_PER_TYPE) for n in counts))
        tsc = time.monotonic_ns()
        self.suffix = e.release.shadow_suffix.format(pid=e.pid, tsc=tsc)
        self.channel = e.open_channel(f"mp_socket_{e.pid}_{tsc:x}")
        self.peers = self.primary = SecondaryPeers(e.log)
        self.channel.actions["pyeal_lock"] = self.primary.holds

    def find_hugepages(self) -> None:
        if not self.no_huge:
            from . import hugepages

            e = self.eal
            e.infos = hugepages.read_info(e.file("hugepage_info"), e.release.numa_nodes_max)

    def open_arrays(self) -> Fbarray:
        e = self.eal
        e.space = VaSpace(0, e.log, primary=False)
        e.arrays = self.arrays_class(e.space, e.runtime_dir)
        e.at_end(e.arrays.close)
        try:
            return e.arrays.attach(e.config.memzones, sizeof(Memzone))
        except EalError as error:
            raise error.within("Cannot attach to memzone list", ENODEV, "memzone") from None

    def open_lists(self) -> None:
        self.eal.lists.attach()

    def backing(self) -> HugedirFiles:
        e = self.eal
        population = Population(e.pagemap, e.iova_mode == "PA", e.log)
        return backing.for_secondary(e.lists, e.options, e.infos, population, self.access)

    def map_pages(self, held: Any, lcores: dict[int, int]) -> None:
        """Maps every page that the primary uses."""
        self.sync = self.make_sync(held)
        if self.eal.options.legacy_mem:
            self.sync.map_legacy(self.eal.file("hugepage_data"))
        else:
            self.sync.follow()

    def make_sync(self, held: HugedirFiles) -> Sync:
        """Returns what keeps the mappings in line, with the shadow arrays of this process."""
        return Sync(self.eal, held, self.suffix)

    def sockets(self) -> list[int]:
        heaps = self.eal.config.malloc_heaps
        return [h.socket_id for h in heaps if h.name.startswith(b"socket_")]

    def share(self, workers: list[int]) -> None:
        """Answers the primary's announcements from now on."""
        e = self.eal
        self.primary.connect(self.channel, e.release, self.sync.follow)
        if not e.options.legacy_mem:
            self.sync.follow()  # changes between the first look and the socket's first answer
        self.channel.ready = True
        runtime.sweep(e.runtime_dir)
        e.heaps.worker_stacks(e.options.worker_stack, workers)


class Sync:
    """This process's mappings of a primary's lists, and what keeps them in line.

    suffix: of the names of its shadow arrays; "" if it makes none.
    """

    def __init__(self, eal: memory.Process, backing: HugedirFiles, suffix: str) -> None:
        self.lists, self.arrays, self.log, self.backing = eal.lists, eal.arrays, eal.log, backing
        self.on_event = eal.on_event
        self.mapped = {msl.index: 0 for msl in eal.lists}  # bit i: segment i is mapped here
        self.versions = dict(self.mapped)
        self.shadows: dict[int, Fbarray] = {}
        eal.at_end(self.close)
        for msl in eal.lists if suffix else ():
            desc, name = layout.Fbarray(), f"{msl.name}_{suffix}"
            self.shadows[msl.index] = eal.arrays.create(desc, name, msl.n_segs, sizeof(Memseg))

    def close(self) -> None:
        """Removes the shadow arrays. secondary_msl_destroy_walk"""
        for arr in self.shadows.values():
            desc = arr.desc
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
                what = f"no hugepage directory is known for {msl.page_sz >> 10} kB pages"
                raise EalError(ENOMEM, "sync", what)
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
        """Enters what is mapped, also into the shadow array if there is one."""
        bits = (1 << n) - 1 << start
        old = self.mapped[msl.index]
        self.mapped[msl.index] = old | bits if used else old & ~bits
        msl.note(start, n, used)
        if shadow := self.shadows.get(msl.index):
            at, size = start * sizeof(Memseg), n * sizeof(Memseg)
            records = libc.memory(msl.arr.data + at, size)
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
            aslr = "Address Space Layout Randomization (ASLR) is enabled in the kernel."
            self.log("WARNING", f"WARNING: {aslr}")
            effect = "This may cause issues with mapping memory into secondary processes"
            self.log("WARNING", f"   {effect}")
        try:
            for (msl, directory), pages in self._places(path).items():
                if self.mapped[msl.index]:
                    raise ValueError(f"pages of {msl.name} lie in two directories")
                self.mapped[msl.index] = bits(pages)
                for start, n in runs(bits(pages)):
                    msl.note(start, n)
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


def aslr_enabled() -> bool:
    """Whether this process's addresses are random. linux/eal_memory.c: aslr_enabled"""
    if libc.personality() & libc.ADDR_NO_RANDOMIZE:
        return False
    try:
        with open("/proc/sys/kernel/randomize_va_space") as f:
            return f.read().strip() != "0"
    except OSError:
        return False
