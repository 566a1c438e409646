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

from . import (
    backing,
    layout,
    libc,
    memory,
    memseg,
    peers,
    runtime,
)
from .attached import AttachedConfig
from .backing import Access
from .errors import EalError
from .fbarray import Arrays, Fbarray, bits, runs
from .heap import Heaps
from .host import LOCAL, Host
from .layout import Memseg, Memzone
from .memseg import MemsegList, MemsegLists
from .populate import Population
from .segments import Segments
from .vaspace import VaSpace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from .backing.pagefiles import HugedirFiles
    from .eal import Eal
    from .malloc_mp import GrowthClient
    from .mp import Channel
    from .releases import Release

    Log = Callable[[str, str], object]
    Running = list[tuple[int, int]]


class SecondaryRights(memory.Rights):
    """A secondary allocates from heaps; the primary adds pages to them."""

    def pages(self) -> None:
        what = "Cannot allocate pages: only a primary can"
        fix = "use malloc(), for which the primary adds pages"
        raise EalError(ENOTSUP, "memalloc", what, fix=fix, reason="role")


class SecondaryPeers(peers.Alone):
    """The primary of a secondary, which requests nothing before connect()."""

    exchange = staticmethod(libc.compare_exchange)

    def __init__(self, log: Log) -> None:
        self.log = log
        self._client: GrowthClient | None = None

    def connect(self, channel: Channel, release: Release, follow: Callable[[], object]) -> None:
        """Follow the primary's announcements by follow(), and ask it for growth, from now on."""
        from . import malloc_mp

        self._client = malloc_mp.GrowthClient(channel, release, follow, self.log)

    def grow(self, expand: Callable[[], object], *request: Any) -> bool:
        return self._client is not None and self._client.grow(*request)

    def shrink(self, free: Callable[[], object], va: int, length: int) -> None:
        if self._client:
            self._client.release_pages(va, length)


class Secondary:
    """The stages of a secondary."""

    rights: SecondaryRights = SecondaryRights()
    known = True  # to other processes, by a channel
    attach: type[AttachedConfig] = AttachedConfig
    arrays = Arrays
    access: type[Access] = Access

    def __init__(self, eal: Eal) -> None:
        self.eal = eal

    def start(self, running: Running) -> None:
        """linux/eal.c: rte_eal_init, rte_eal_config_attach; rte_eal_memory_init of a secondary"""
        e, opts, log, main = self.eal, self.eal.options, self.eal.log, running[0][1]
        self.config_file = e.config_file = self.attach(e.file("config"), e.release)
        e._undo.append(e.config_file.close)
        e.config = e.config_file.c
        opts.legacy_mem = bool(e.config.legacy_mem)
        opts.single_file_segments = bool(e.config.single_file_segments)
        no_huge, opts.in_memory, opts.no_huge = opts.no_huge, False, False
        self._join()
        e.phys_addrs = e._pagemap.works()
        e.iova_mode = runtime.choose_iova_mode(opts, e.phys_addrs, e.host, log)
        if not no_huge:
            from . import hugepages

            e.infos = hugepages.read_info(e.file("hugepage_info"), e.release.numa_nodes_max)
        e.space = VaSpace(0, log, primary=False)
        e.arrays = self.arrays(e.space, e.runtime_dir)
        e._undo.append(e.arrays.close)
        try:
            e.zones = e.arrays.attach(e.config.memzones, sizeof(Memzone))
        except EalError as error:
            raise error.within("Cannot attach to memzone list", ENODEV, "memzone") from None
        e.lists = MemsegLists(e.config, e.arrays, e.space, e.release, self.peers)
        runtime.raise_open_files(e.host, log)
        e.lists.lock.read()
        try:
            self._memory()
        except (EalError, OSError) as error:
            log("ERR", "Cannot init memory")
            raise runtime.in_memory_stage(error) from None
        finally:
            e.lists.lock.read_done()
        sockets = [h.socket_id for h in e.config.malloc_heaps if h.name.startswith(b"socket_")]
        on_event = e.sync.on_event
        e.heaps = Heaps(e.lists, e.memalloc, opts, sockets, main, log, e._pages, on_event)
        self._connect()
        e.heaps.worker_stacks(opts.worker_stack * self.known, [node for _, node in running[1:]])

    def _join(self) -> None:
        """Makes this process known to the primary, before it looks at any memory."""
        e, opts = self.eal, self.eal.options
        self.config_file.join()
        if not opts.single_file_segments:
            counts = (m.memseg_arr.count for m in e.config.memsegs)
            backing.grow_descriptor_table(sum(min(n, memseg.MAX_SEGS_PER_TYPE) for n in counts))
        tsc = time.monotonic_ns()
        self.suffix = e.release.shadow_suffix.format(pid=e.pid, tsc=tsc)
        e.open_channel(f"mp_socket_{e.pid}_{tsc:x}")
        self.peers: peers.Alone = SecondaryPeers(e.log)

    def _memory(self) -> None:
        """Maps every page that the primary uses, as config says."""
        e, pa = self.eal, self.eal.iova_mode == "PA"
        e._undo.append(e.lists.unmap)
        e.lists.attach()
        population = Population(e._pagemap, pa, e.log)
        held = backing.for_secondary(e.lists, e.options, e.infos, population, self.access)
        e.memalloc = Segments(e.lists, held)
        e._undo.append(e.memalloc.close)
        e.sync = self._sync(held)
        e._undo.append(e.sync.close)
        if e.options.legacy_mem:
            e.sync.map_legacy(e.file("hugepage_data"))
        else:
            e.sync.follow()

    def _sync(self, held: HugedirFiles) -> Sync:
        """Returns what keeps the mappings in line, with the shadow arrays of this process."""
        return Sync(self.eal.lists, self.eal.arrays, held, self.eal.log, self.suffix)

    def _connect(self) -> None:
        """Answers the primary's announcements from now on."""
        e = self.eal
        assert isinstance(self.peers, SecondaryPeers)
        self.peers.connect(e.channel, e.release, e.sync.follow)
        if not e.options.legacy_mem:
            e.sync.follow()  # changes between the first look and the socket's first answer
        e.channel.ready = True
        runtime.sweep(e.runtime_dir)

    def give_back(self) -> None:
        """Does nothing: the pages are the primary's."""

    def refresh(self) -> None:
        """Does nothing: the primary announces each change."""

    def forget(self) -> None:
        """Removes the record of what this process has mapped."""
        self.eal.sync.close()


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
        """Enters what is mapped, also into the shadow array if there is one."""
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


def aslr_enabled(host: Host = LOCAL) -> bool:
    """Whether this process's addresses are random. linux/eal_memory.c: aslr_enabled"""
    if libc.personality() & libc.ADDR_NO_RANDOMIZE:
        return False
    try:
        with open(f"{host.proc}/sys/kernel/randomize_va_space") as f:
            return f.read().strip() != "0"
    except OSError:
        return False
