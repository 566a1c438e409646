"""One EAL: the order of its stages. The only file that knows it. linux/eal.c: rte_eal_init

What only one kind of start needs (a mode's pages, a secondary, the message channel) is imported
when it comes to that.
"""

from __future__ import annotations

import os
import time
from _thread import RLock
from ctypes import addressof, memset, sizeof
from errno import EACCES, EALREADY, EEXIST, EINVAL, ENODEV, ENOENT, ENOMEM, ENOSPC, ENOTSUP

from . import (
    config,
    gc_paused,
    hugepages,
    layout,
    lcores,
    libc,
    memseg,
    options,
    peers,
    releases,
    runtime,
)
from .errors import EalError
from .fbarray import Arrays
from .heap import Heaps
from .host import LOCAL, Host
from .layout import BAD_IOVA, FLAG_DO_NOT_FREE
from .memseg import MemsegList, MemsegLists
from .memzone import Memzones
from .populate import Failure, Pagemap, Population, frames
from .segments import Pages, Segments
from .vaspace import VaSpace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any

    from .backing import Backing
    from .layout import Memseg

MAX_DMA_BITS = 63
WAIT = 10.0  # seconds for a primary to finish its start; EAL waits for ever


class Eal:
    """EAL's memory in this process. `with pyeal.init([...]) as eal:` cleans up.

    args: EAL's own arguments.
    release: whose behaviour, "22.11.11" or just "24.11"; a secondary follows its primary's.
    log: called with (level, text) for what EAL would log.
    wait: seconds that a secondary gives a primary which is still starting.
    role: "observer" attaches without socket, shadow array or lock, to look; else --proc-type says.
    tailqs: names of tail queues, which programs that link more than EAL must find (pyeal.TAILQS).
    host: where the facts of the machine come from. backing: makes what holds a primary's pages,
    of the arguments of backing.for_primary, in the place of it.

    Several may live in one process, with prefixes of their own. EalError carries EAL's errno and
    the stage; nothing is left behind then.
    """

    def __init__(
        self,
        args: list[str] | tuple[str, ...] = (),
        release: str | None = None,
        log: Callable[[str, str], object] | None = None,
        wait: float = WAIT,
        role: str | None = None,
        tailqs: Sequence[str] = (),
        host: Host = LOCAL,
        backing: Callable[..., Backing] | None = None,
    ) -> None:
        self.host, self._make_backing = host, backing
        self.log = log or (lambda level, text: None)
        self._wanted = releases.get(release) if release else None
        self.release = self._wanted or releases.get(releases.DEFAULT)
        self._wait, self._asked_role, self._tailqs = wait, role, tailqs
        self.pid = os.getpid()
        self.mutex = RLock()  # one thread at a time changes memory
        self.infos: list[hugepages.HugepageInfo] = []
        self._tables: list[int] = []
        self._pages: list[Pages] = []  # what alloc() gave and free() did not take yet
        self._undo: list[Callable[[], object]] = []  # takes a failed start back, latest first
        self.config_file: config.Config | config.AttachedConfig
        self.closed = False
        try:
            with gc_paused():
                self._init(list(args))
        except BaseException as e:
            self.closed = True
            for undo in reversed(self._undo):
                try:
                    undo()
                except (OSError, EalError) as again:  # what is left to take back is taken back
                    self.log("WARNING", f"A failed start could not be taken back: {again}")
            if isinstance(e, OSError):
                raise EalError(e.errno or 0, "init", str(e)) from e
            raise

    def _init(self, args: list[str]) -> None:
        cpus = self._cpus()
        opts = self.options = options.parse(args, self.release, self.log)
        if self._joins():
            # the primary decides whose arguments and layouts hold
            self.release = config.find_release(self._file("config"), self._wait, self._wanted)
            opts = self.options = options.parse(args, self.release, self.log)
        running = lcores.enabled(opts, cpus, self._affinity())
        self.sockets, self._node_of = cpus.nodes, cpus.node_of
        self._pagemap = Pagemap()
        self._undo.append(self._pagemap.close)
        if self.role == "primary":
            self._start(opts, running)
        else:
            self._attach(opts, running)
        main = running[0][1]
        if not any(m.socket == main for m in self.lists if not m.external):
            self.log("WARNING", "WARNING: Main core has no memory on local socket!")

    def _joins(self) -> bool:
        """Whether this is to be a secondary; where the primary's files are then."""
        opts = self.options
        named = (self.host.runtime_dir(opts.file_prefix, r) for r in releases.RELEASES.values())
        found = [*dict.fromkeys(named)]
        at = next((d for d in found if os.path.exists(f"{d}/config")), found[-1])
        self.role = self._asked_role or opts.proc_type
        if self.role == "auto":
            alive = not opts.no_shconf and config.has_primary(f"{at}/config", self.release)
            self.role = "secondary" if alive else "primary"
            self.log("INFO", f"Auto-detected process type: {self.role.upper()}")
        self.runtime_dir, self.shared = at, not opts.no_shconf
        return self.role != "primary"

    def _start(self, opts: options.Options, running: list[tuple[int, int]]) -> None:
        """A primary's stages."""
        from . import backing

        backing.kind(opts)  # imported before the stages whose time counts
        make_backing = self._make_backing or backing.for_primary
        self.space = VaSpace(opts.base_virtaddr, self.log, self.release.hint_warning)
        self.config_file = self._open_runtime(opts)
        self.config = self.config_file.c
        self._undo += [lambda: self._remove("config"), self.config_file.close]
        self.config.version = self.release.word
        self.config.legacy_mem = opts.legacy_mem
        self.config.single_file_segments = opts.single_file_segments
        for queue, name in zip(self.config.tailq_head, self._tailqs, strict=False):
            queue.tqh_last, queue.name = addressof(queue), name.encode()

        self.phys_addrs = not opts.no_huge and self._pagemap.works()
        self.iova_mode = self._choose_iova_mode()
        if not opts.no_huge:
            self._discover()
        self.arrays = Arrays(self.space, self.runtime_dir if self.shared else None)
        self._undo.append(lambda: self.arrays.close(remove=True))
        try:
            zones = self.arrays.create(
                self.config.memzones, "memzone", layout.MAX_MEMZONE, sizeof(layout.Memzone)
            )
        except EalError as e:
            raise e.within("Cannot init memzone", ENODEV, "memzone") from None
        primary = peers.Primary(self.log) if self.shared else None
        others = primary or peers.Alone()
        self.lists = MemsegLists(self.config, self.arrays, self.space, self.release, others)
        self.lists.lock.read()
        try:
            self._memory([node for _, node in running], make_backing)
        except (EalError, OSError) as e:
            self.log("ERR", "Cannot init memory")
            raise _in_memory_stage(e) from None
        finally:
            hugepages.unlock(self.infos)
            self.lists.lock.read_done()
        main = running[0][1]
        self.heaps = Heaps(
            self.lists, self.memalloc, opts, self.sockets, main, self.log, self._pages, []
        )
        self.heaps.create()
        self.memzones = Memzones(zones, self.heaps, self.iova)
        self.config.tsc_hz = runtime.tsc_hz(self.host)
        self._tables = self.heaps.service_tables()
        if primary:
            self._host(primary)
        self.config_file.complete()

    def _host(self, primary: peers.Primary) -> None:
        """What processes that join need: the channel, its answers, and no lock of a dead one."""
        runtime.sweep(self.runtime_dir)
        self._open_channel("mp_socket", primary.release_dead_locks)
        locks = [*self.lists.config_locks(), *(heap.lock for heap in self.heaps.heaps)]
        primary.connect(self.channel, self.heaps, locks)
        self.channel.ready = True

    def _attach(self, opts: options.Options, running: list[tuple[int, int]]) -> None:
        """A secondary's stages."""
        from . import backing, secondary

        look_only = self.role == "observer"
        attach = config.ObservedConfig if look_only else config.AttachedConfig
        self.config_file = attach(self._file("config"), self.release)
        self._undo.append(self.config_file.close)
        self.config = self.config_file.c
        opts.legacy_mem = bool(self.config.legacy_mem)
        opts.single_file_segments = bool(self.config.single_file_segments)
        no_huge, opts.in_memory, opts.no_huge = opts.no_huge, False, False
        suffix = ""
        if not look_only:
            self.config_file.join()
            if not opts.single_file_segments:
                counts = (m.memseg_arr.count for m in self.config.memsegs)
                backing.grow_descriptor_table(sum(min(n, memseg.MAX_SEGS_PER_TYPE) for n in counts))
            tsc = time.monotonic_ns()
            suffix = self.release.shadow_suffix.format(pid=self.pid, tsc=tsc)
            self._open_channel(f"mp_socket_{self.pid}_{tsc:x}")
        self.phys_addrs = self._pagemap.works()
        self.iova_mode = self._choose_iova_mode()
        if not no_huge:
            path = self._file("hugepage_info")
            self.infos = hugepages.read_info(path, self.release.numa_nodes_max)
        self.space = VaSpace(0, self.log, primary=False)
        self.arrays = Arrays(self.space, self.runtime_dir, look_only)
        self._undo.append(self.arrays.close)
        try:
            zones = self.arrays.attach(self.config.memzones, sizeof(layout.Memzone))
        except EalError as e:
            raise e.within("Cannot attach to memzone list", ENODEV, "memzone") from None
        secondary_of = None if look_only else peers.Secondary(self.log)
        others = secondary_of or peers.Alone()
        self.lists = MemsegLists(self.config, self.arrays, self.space, self.release, others)
        self._raise_nofile()
        self.lists.lock.read()
        try:
            self._undo.append(self.lists.unmap)
            self.lists.attach()
            population = Population(self._pagemap, self.iova_mode == "PA", Failure(self.log))
            held = backing.for_secondary(self.lists, opts, self.infos, population, look_only)
            self.memalloc = Segments(self.lists, held)
            self._undo.append(self.memalloc.close)
            kind = secondary.ObserverSync if look_only else secondary.Sync
            self.follower = kind(self.lists, self.arrays, held, self.log, suffix)
            self._undo.append(self.follower.close)
            if opts.legacy_mem:
                self.follower.map_legacy(self._file("hugepage_data"))
            else:
                self.follower.follow()
        except (EalError, OSError) as e:
            self.log("ERR", "Cannot init memory")
            raise _in_memory_stage(e) from None
        finally:
            self.lists.lock.read_done()
        sockets = [h.socket_id for h in self.config.malloc_heaps if h.name.startswith(b"socket_")]
        main, on_event = running[0][1], self.follower.on_event
        self.heaps = Heaps(
            self.lists, self.memalloc, opts, sockets, main, self.log, self._pages, on_event
        )
        self.memzones = Memzones(zones, self.heaps, self.iova)
        if secondary_of is None:
            return
        secondary_of.connect(self.channel, self.release, self.follower.follow)
        if not opts.legacy_mem:
            # what changed between the first look and the socket's being answered
            self.follower.follow()
        self.channel.ready = True
        runtime.sweep(self.runtime_dir)

    def others(self) -> dict[int, str]:
        """The other living processes of this prefix: {pid: "primary" | "secondary"}."""
        found = runtime.processes(self.runtime_dir, self.host) if self.shared else {}
        return {pid: role for pid, role in found.items() if pid != self.pid}

    def refresh(self) -> None:
        """Brings an observer's mappings in line with the primary's lists. EalError(ENOMEM)."""
        if self.role == "observer" and not self.options.legacy_mem:
            self.follower.follow()

    def _open_channel(self, name: str, on_death: Callable[[], object] | None = None) -> None:
        from . import mp

        self.channel = mp.Channel(self.runtime_dir, self.release, name, self.log)
        self._undo.append(self.channel.close)
        if on_death:
            self.channel.watch(on_death)
        self.channel.start()

    # stages

    def _cpus(self) -> lcores.Cpus:
        return lcores.discover(self.release, self.host, self.log)

    def _affinity(self) -> set[int]:
        return self.host.affinity()

    def _open_runtime(self, opts: options.Options) -> config.Config:
        self.runtime_dir = runtime.make_directory(opts, self.release, self.host, self.log)
        self._undo.append(lambda: _rmdir(self.runtime_dir))
        if not self.shared:
            return config.Config(self.release)
        return config.SharedConfig(
            self._file("config"), self.release, self.space, opts.base_virtaddr
        )

    def _choose_iova_mode(self) -> str:
        mode = self.options.iova_mode
        if mode is None:
            if not self.phys_addrs:
                mode, why = "VA", "Physical addresses are unavailable, selecting IOVA as VA mode."
            elif _not_empty(f"{self.host.sys}/kernel/iommu_groups"):
                mode, why = "VA", "IOMMU is available, selecting IOVA as VA mode."
            else:
                mode, why = "PA", "IOMMU is not available, selecting IOVA as PA mode."
            self.log("DEBUG", why)
        elif mode == "PA" and not self.phys_addrs:
            raise EalError(
                EINVAL, "iova",
                "Cannot use IOVA as 'PA' since physical addresses are not available",
                expected="frame numbers in /proc/self/pagemap (CAP_SYS_ADMIN)", found="zeros",
                fix="run as root or with --iova-mode=va", reason="no-frame-numbers",
            )  # fmt: skip
        self.log("INFO", f"Selected IOVA mode '{mode}'")
        return mode

    def _discover(self) -> None:
        """Counts pages; hugepage directories stay locked. eal_hugepage_info_init"""
        infos = hugepages.discover(self.options, self.release, self.sockets, self.host, self.log)
        self.infos = infos
        self._undo.append(lambda: hugepages.unlock(infos))
        if not self.shared:
            return
        path = self._file("hugepage_info")
        hugepages.write_info(path, infos, self.release.numa_nodes_max)
        self._undo.append(lambda: self._remove("hugepage_info"))

    def _memory(self, nodes: list[int], make_backing: Callable[..., Any]) -> None:
        """Lists, probe, pages. common/eal_common_memory.c: rte_eal_memory_init"""
        opts, log = self.options, self.log
        self._raise_nofile()
        sizes = [info.page_sz for info in self.infos]
        self._undo.append(self.lists.unmap)
        if not opts.no_huge:
            self.lists.create(memseg.plan(sizes, self.sockets, self.release, opts.pagesz_mem))
        pa = self.iova_mode == "PA"
        population = Population(self._pagemap, pa, Failure(log), self._node_of)
        held = make_backing(self.lists, opts, self.infos, population)
        self.memalloc = Segments(self.lists, held)
        self._undo += [self.memalloc.close, held.abandon]
        by_node = {node: nodes.count(node) for node in nodes}
        if opts.no_huge:
            from . import no_huge

            no_huge.init(self.lists, held, opts.memory)
        elif opts.legacy_mem:
            from . import legacy

            data = self._file("hugepage_data") if self.shared else None
            self._undo.append(lambda: self._remove("hugepage_data"))
            legacy.init(self.lists, held, opts, self.infos, by_node, data)
        else:
            from . import dynmem

            counts = [(info.page_sz, info.num_pages) for info in self.infos]
            dynmem.hugepage_init(self.memalloc, opts, counts, by_node, log)
        if self.shared:
            self.config.nchannel, self.config.nrank = opts.nchannel, opts.nrank

    def _raise_nofile(self) -> None:
        try:
            most = self.host.raise_open_files()
            self.log("DEBUG", f"Setting maximum number of open files to {most}")
        except OSError as e:
            self.log("DEBUG", f"Setting maximum number of open files failed: {e}")

    def _file(self, name: str) -> str:
        return f"{self.runtime_dir}/{name}"

    def _remove(self, name: str) -> None:
        if self.shared:
            try:
                os.unlink(self._file(name))
            except FileNotFoundError:
                pass

    # the end

    def cleanup(self) -> None:
        """Gives everything back that nobody uses; config, arrays and hugepage_info stay as files.

        rte_eal_cleanup. EalError(EALREADY) the second time.
        """
        if self.closed:
            raise EalError(EALREADY, "cleanup", "Already called cleanup")
        with self.mutex:
            self.closed = True
            if self.role == "primary":
                self._give_back()
            still = self._hold_still()
            if self.shared and self.role != "observer":
                self.channel.close()
            self.memalloc.close()
            if still:
                self.lists.lock.read_done()
            if self.role != "primary":
                self.follower.close()
            self.lists.unmap()
            self.arrays.close()
            self.config_file.close()

    def _hold_still(self) -> bool:
        """Keeps others from changing memory while this process stops to follow: they would wait for
        its answer, and not find themselves the last user of a page's file. EAL just goes.
        """
        if not self.shared or self.role == "observer":
            return False
        try:
            self.lists.lock.read()
        except EalError as e:  # of somebody who died with it
            self.log("ERR", e.text)
            return False
        return True

    def _give_back(self) -> None:
        """Returns the pages that nothing is in, to the system."""
        if self.options.unlink_existing and not self.heaps.fixed:
            self._mark_freeable()
        for va in self._tables:
            self.heaps.free(va)
        if not self.heaps.fixed:
            self.heaps.free_unused()
            with self.lists.lock:
                for pages in self._pages:
                    self._free(pages)

    def _mark_freeable(self) -> None:
        def clear(msl: MemsegList, ms: Memseg) -> None:
            ms.flags &= ~FLAG_DO_NOT_FREE

        self.lists.walk_segments(clear)

    def __enter__(self) -> Eal:
        return self

    def __exit__(self, *_: object) -> None:
        if not self.closed:
            self.cleanup()

    # lists, segments, walks

    def memseg_lists(self) -> list[MemsegList]:
        """Every list, in slot order, also empty and external ones."""
        return list(self.lists)

    def segments(self) -> Iterator[tuple[MemsegList, int, Memseg]]:
        """(list, index, record) of every used segment; the record is the shared one, in place."""
        for msl in self.lists:
            for start, n in msl.arr.runs():
                for i in range(start, start + n):
                    yield msl, i, msl.seg(i)

    def walk_lists(
        self, fn: Callable[[MemsegList], int | None], unlocked: bool = False, heap: bool = False
    ) -> int:
        """fn(list) until it answers something but 0 or None; that, or 0. rte_memseg_list_walk

        unlocked: without memory_hotplug_lock; heap: only lists that heaps draw from.
        """
        return self.lists.walk_lists(fn, unlocked, heap)

    def walk_segments(
        self, fn: Callable[[MemsegList, Memseg], int | None], unlocked: bool = False
    ) -> int:
        """fn(list, record) for each used segment. rte_memseg_walk"""
        return self.lists.walk_segments(fn, unlocked)

    def walk_contig(
        self, fn: Callable[[MemsegList, Memseg, int], int | None], unlocked: bool = False
    ) -> int:
        """fn(list, first record, bytes) for each run of used segments. rte_memseg_contig_walk"""
        return self.lists.walk_contig(fn, unlocked)

    # memory

    def alloc(self, page_size: int, socket: int = 0, n: int = 1, exact: bool = True) -> Pages:
        """n pages of page_size bytes on a node, outside of the heap; fewer unless exact.

        EalError(ENOMEM), and then no page of it is left. Only a primary has pages to give.
        """
        if self.role != "primary":
            raise EalError(ENOTSUP, "memalloc", "pages come from the primary: use malloc()")
        with self.mutex, self.lists.lock:
            pages = self.memalloc.alloc(page_size, socket, n, exact)
            if not self.lists.peers.announce(False, 0):
                self._free(pages)
                raise EalError(ENOMEM, "memalloc", "not every secondary could map the new pages")
        self._pages.append(pages)
        return pages

    def _free(self, pages: Pages) -> None:
        self.memalloc.free(pages)
        self.lists.peers.announce(False, 0)

    def allocations(self) -> list[Pages]:
        """What alloc() answered and free() did not take yet."""
        return list(self._pages)

    def free(self, pages: Pages) -> None:
        """Gives back what alloc() answered. EalError(EINVAL) for anything else."""
        if pages not in self._pages:
            raise EalError(EINVAL, "memalloc", f"{pages!r} is not an allocation that is still held")
        with self.mutex, self.lists.lock:
            self._free(pages)
        self._pages.remove(pages)

    def malloc(self, size: int, align: int = 0, socket: int = -1) -> int:
        """Address of size bytes of a heap, 0 when they cannot be had. rte_malloc_socket"""
        self._must_not_look_only()
        with self.mutex:
            return self.heaps.malloc(size, align, socket)

    def mfree(self, va: int) -> None:
        """Gives an address of malloc() back. rte_free. EalError(EINVAL)."""
        self._must_not_look_only()
        with self.mutex:
            self.heaps.free(va)

    def _must_not_look_only(self) -> None:
        if self.role == "observer":
            raise EalError(EACCES, "malloc", "an observer changes nothing: attach as a secondary")

    def memzone_reserve(
        self, name: str, size: int, socket: int = -1, align: int = 64
    ) -> layout.Memzone:
        """A zone of size bytes that every process finds by name. rte_memzone_reserve_aligned

        EalError: EEXIST, ENAMETOOLONG, EINVAL, ENOSPC, ENOMEM.
        """
        self._must_not_look_only()
        with self.mutex:
            return self.memzones.reserve(name, size, socket, align)

    def memzone_lookup(self, name: str) -> layout.Memzone | None:
        """The zone of that name, of whichever process. rte_memzone_lookup"""
        return self.memzones.lookup(name)

    def memzone_free(self, name: str) -> None:
        """Gives a zone back. rte_memzone_free. EalError(ENOENT)."""
        self._must_not_look_only()
        with self.mutex:
            self.memzones.free(name)

    def on_memory_event(self, fn: Callable[[str, int, int], object]) -> None:
        """fn("alloc" | "free", va, bytes) after heap pages came and before they go.

        rte_mem_event_callback_register. EalError(ENOTSUP) where memory never changes.
        """
        self._must_change("memory events")
        self.heaps.on_event.append(fn)

    def limit(self, socket: int, size: int) -> None:
        """No growth of a node's heap to size bytes or more. rte_mem_alloc_validator_register

        EalError(ENOTSUP) where memory never changes.
        """
        self._must_change("a limit")
        self.heaps.limits[socket] = size

    def _must_change(self, what: str) -> None:
        if self.heaps.fixed:
            raise EalError(ENOTSUP, "memalloc", f"{what}: memory is fixed in {self.mode} mode")

    def register_external(
        self, va: int, length: int, page_sz: int, iovas: list[int] | None = None
    ) -> MemsegList:
        """Makes a list of memory that the program mapped itself. rte_extmem_register

        EalError: EINVAL for sizes that do not fit each other, EEXIST, ENOSPC.
        """
        n = length // page_sz if page_sz > 0 else 0
        if not (va and n) or page_sz & page_sz - 1 or length % page_sz or va % page_sz:
            raise EalError(
                EINVAL, "extmem", f"{length:#x} bytes at {va:#x} are not pages of {page_sz}"
            )
        if iovas and len(iovas) != n:
            raise EalError(EINVAL, "extmem", f"{n} physical addresses wanted, {len(iovas)} found")
        with self.mutex, self.lists.lock:
            if any(m.base_va == va and m.len == length for m in self.lists):
                raise EalError(EEXIST, "extmem", f"{va:#x} is registered already")
            slots = self.config.memsegs
            slot = next((i for i, c in enumerate(slots) if not c.base_va), None)
            if slot is None:
                raise EalError(ENOSPC, "extmem", "Couldn't find empty memseg list")
            socket = self.config.next_socket_id
            msl = self.lists.add(f"extmem_{va:#x}", page_sz, n, socket, va, slot)
            msl.c.external, msl.c.heap = 1, 0
            msl.fill(0, iovas or [BAD_IOVA] * n, self.config.nchannel, self.config.nrank, [0] * n)
            self.config.next_socket_id += 1
        return msl

    def unregister_external(self, va: int, length: int) -> None:
        """Forgets such memory; the mapping stays. rte_extmem_unregister. EalError(ENOENT)."""
        if not va or not length:
            raise EalError(EINVAL, "extmem", "an address and a length wanted")
        with self.mutex, self.lists.lock:
            for msl in self.lists:
                if msl.external and (msl.base_va, msl.len) == (va, length):
                    msl.arr.release()
                    self.arrays.destroy(msl.c.memseg_arr)
                    memset(addressof(msl.c), 0, sizeof(msl.c))
                    del self.lists.slots[msl.index]
                    return
        raise EalError(ENOENT, "extmem", f"{length:#x} bytes at {va:#x} are not registered")

    # addresses and descriptors

    def memseg_of(self, va: int) -> tuple[MemsegList, int] | None:
        """(list, index) of an address of any list, also of unused segments. rte_mem_virt2memseg"""
        return self.lists.of(va)

    def iova(self, va: int) -> int:
        """IO address of an address, BAD_IOVA where there is none. rte_mem_virt2iova"""
        if self.iova_mode == "VA":
            return va
        try:
            page = frames(self._pagemap.entries(va, libc.PAGE, 1))[0]
        except OSError:
            return BAD_IOVA
        return page if page == BAD_IOVA else page + va % libc.PAGE

    def virt(self, iova: int) -> int:
        """Address of an IO address of a used segment, 0 for others. rte_mem_iova2virt"""
        for _, _, ms in self.segments():
            if ms.iova != BAD_IOVA and ms.iova <= iova < ms.iova + ms.len:
                return ms.addr + iova - ms.iova
        return 0

    def fd(self, msl: MemsegList | int, seg: int) -> tuple[int, int]:
        """(descriptor, offset) of a segment of a list (or its slot number). rte_memseg_get_fd

        EalError: EINVAL, ENOENT, ENOTSUP, ENODEV.
        """
        if isinstance(msl, int):
            found = self.lists.slots.get(msl)
            if found is None:
                raise EalError(EINVAL, "memalloc", f"slot {msl} holds no memseg list")
            msl = found
        return self.memalloc.fd(msl, seg)

    def fd_of(self, va: int | None) -> tuple[int, int]:
        """The same for the segment that an address lies in. EalError(EINVAL) for any other."""
        found = self.memseg_of(va) if va else None
        if found is None:
            raise EalError(EINVAL, "memalloc", "an address of a memseg list wanted")
        return self.memalloc.fd(*found)

    @property
    def physmem_size(self) -> int:
        """Bytes of all used pages of EAL's own lists. rte_eal_get_physmem_size"""
        return sum(m.count * m.page_sz for m in self.lists if not m.external)

    def check_dma_mask(self, bits: int) -> int:
        """0 when all memory is within so many bits (and later memory will be), 1 when not.

        rte_mem_check_dma_mask; -1 for more than 63 bits.
        """
        if bits > MAX_DMA_BITS:
            return -1
        if self.heaps.beyond(bits):
            return 1
        old = self.config.dma_maskbits
        self.config.dma_maskbits = min(old, bits) if old else bits
        return 0

    def dump(self) -> str:
        """A line for each used segment. rte_dump_physmem_layout"""
        lines = []
        for msl, i, ms in self.segments():
            try:
                fd = self.memalloc.backing.fd(msl, i)[0]
            except EalError as e:
                fd = -e.errno
            lines.append(
                f"Segment {msl.index}-{i}: IOVA:{ms.iova:#x}, len:{ms.len}, virt:{ms.addr:#x}, "
                f"socket_id:{ms.socket_id}, hugepage_sz:{ms.hugepage_sz}, "
                f"nchannel:{ms.nchannel:x}, nrank:{ms.nrank:x} fd:{fd}"
            )
        if self.release.total_line_in_dump:
            lines.append(f"Total Memory Segments size = {self.physmem_size >> 20}M")
        return "".join(line + "\n" for line in lines)

    # what a person looks at

    @property
    def mode(self) -> str:
        o = self.options
        if o.no_huge:
            return "no-huge"
        if o.legacy_mem:
            return "legacy"
        if o.in_memory:
            return "in-memory"
        return "single-file" if o.single_file_segments else "dynmem"

    def layout(self) -> dict[str, object]:
        """The lists with their runs of used segments, as plain data for JSON and pictures."""
        return {
            "release": self.release.name,
            "mode": self.mode,
            "iova_mode": self.iova_mode,
            "file_prefix": self.options.file_prefix,
            "runtime_dir": self.runtime_dir,
            "pid": self.pid,
            "lists": [_list_layout(msl) for msl in self.lists],
            "heaps": [
                {
                    "name": h.c.name.decode("ascii", "replace"),
                    "socket_id": h.socket,
                    "total_size": h.c.total_size,
                    "alloc_count": h.c.alloc_count,
                }
                for h in self.heaps.heaps
            ],
            "ignored": self.options.ignored,
        }


def _list_layout(msl: MemsegList) -> dict[str, object]:
    facts = ("base_va", "len", "page_sz", "socket_id", "version", "external", "heap")
    return {
        "index": msl.index,
        "name": msl.name,
        **{name: getattr(msl.c, name) for name in facts},
        "n_segs": msl.n_segs,
        "count": msl.count,
        "runs": [_run_layout(msl, start, n) for start, n in msl.arr.runs()],
    }


def _run_layout(msl: MemsegList, start: int, n: int) -> dict[str, object]:
    """A run of used segments; within it, pieces that are contiguous in IO addresses."""
    iova_runs: list[dict[str, int]] = []
    following = -1
    for i in range(start, start + n):
        ms = msl.seg(i)
        if iova_runs and ms.iova == following:
            iova_runs[-1]["n"] += 1
        else:
            iova_runs.append({"iova": ms.iova, "n": 1})
        # pages without an address stay together, pages with one must follow each other
        following = ms.iova if ms.iova == BAD_IOVA else ms.iova + ms.len
    return {
        "seg": start,
        "n": n,
        "va": msl.va(start),
        "len": n * msl.page_sz,
        "flags": msl.seg(start).flags,
        "iova_runs": iova_runs,
    }


def _in_memory_stage(e: EalError | OSError) -> EalError:
    """What goes wrong with memory is ENOMEM, whatever it was."""
    if isinstance(e, EalError):
        return e.within(errno=ENOMEM)
    return EalError(ENOMEM, "memory", f"Cannot init memory: {e}")


def _not_empty(path: str) -> bool:
    try:
        return bool(os.listdir(path))
    except OSError:
        return False


def _rmdir(path: str) -> None:
    """Removes a directory that this start made or emptied; others' files keep it."""
    try:
        os.rmdir(path)
    except OSError:
        pass
