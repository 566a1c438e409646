"""One EAL: the order of its stages, and nothing else. linux/eal.c: rte_eal_init

Eal is the door: arguments, role and release are decided there, once, and the order of the stages is
there for all roles. What a stage does is the role's: Primary, and in modules of their own
Secondary and Observer. What one kind of start alone needs (a mode's pages, a secondary, the message
channel) is imported when that start needs it.
"""

from __future__ import annotations

import os
from _thread import get_ident
from ctypes import addressof, sizeof
from errno import EALREADY, EBUSY, ENODEV

from . import config, files, lcores, memory, memseg, options, peers, releases, runtime
from .errors import CLOSED, EalError, Log
from .fbarray import Arrays, Fbarray
from .heap import Heaps
from .host import LOCAL, Host
from .layout import FLAG_DO_NOT_FREE, MAX_MEMZONE, Memseg, Memzone
from .memseg import MemsegList, MemsegLists
from .pauses import gc_paused, signals_deferred
from .populate import Population
from .segments import Segments
from .vaspace import VaSpace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from .backing import Backing
    from .hugepages import Infos
    from .secondary import Secondary

TIMEOUT = 10.0  # seconds for a primary to finish its start; EAL waits indefinitely


class Eal(memory.Memory):
    """EAL's memory in this process. `with pyeal.init([...]) as eal:` cleans up.

    args: EAL's own arguments.
    release: whose behaviour, "22.11.11" or just "24.11"; a secondary follows its primary's.
    log: called with (level, text) for what EAL would log.
    wait: seconds that a secondary waits for a primary which is still starting.
    role: "observer" attaches read-only, without socket, shadow array or lock; by default
    --proc-type decides.
    tailqs: names of tail queues, which programs that link more than EAL must find (pyeal.TAILQS).
    host: where the facts of the machine come from.
    primary: the class of a primary's stages; a dry run has one of its own.

    Several may live in one process, with prefixes of their own. EalError has EAL's errno and the
    stage; a start that fails leaves nothing behind.
    """

    stages: Primary | Secondary

    def __init__(
        self,
        args: list[str] | tuple[str, ...] = (),
        release: str | None = None,
        log: Log | None = None,
        wait: float = TIMEOUT,
        role: str | None = None,
        tailqs: Sequence[str] = (),
        host: Host = LOCAL,
        primary: Callable[[Eal], Primary] | None = None,
    ) -> None:
        super().__init__(host, log or (lambda level, text: None), tailqs)
        self._primary = primary or Primary
        wanted = releases.get(release) if release else None
        self.release = wanted or releases.get(releases.DEFAULT)
        try:
            with signals_deferred(), gc_paused():
                self._start([*args], role, wanted, wait)
        except BaseException as e:
            with signals_deferred():
                self.closed = self.mutex.closed = True
                self.undo()
                self._forget_memory()
            if isinstance(e, OSError):
                raise EalError(e.errno or 0, "init", str(e)) from e
            raise

    def _start(
        self, args: list[str], role: str | None, wanted: releases.Release | None, timeout: float
    ) -> None:
        """The order of the stages, of every role. linux/eal.c: rte_eal_init"""
        cpus = lcores.discover(self.release, self.host, self.log)
        self.options = options.parse(args, self.release, self.log)
        self.role = self._find_role(role or self.options.proc_type)
        if self.role != "primary":
            from .attached import find_release

            # the primary decides whose arguments and layouts hold
            self.release = find_release(self.file("config"), timeout, wanted)
            self.options = options.parse(args, self.release, self.log)
        running = lcores.enabled(self.options, cpus, self.host)
        nodes = [node for _, node in running]
        self.sockets, self.node_of = cpus.nodes, cpus.node_of
        self.stages = stages = self._stages_of(self.role)
        self.at_end(self.pagemap.close)
        self.config_file = stages.open_config()
        self.config = self.config_file.c
        opts, log = self.options, self.log
        self.phys_addrs = not opts.no_huge and self.pagemap.works()
        self.iova_mode = runtime.choose_iova_mode(opts, self.phys_addrs, self.host, log)
        stages.find_hugepages()
        self.zones = stages.open_arrays()
        self.at_end(lambda: self.arrays.release(self.zones))
        self.lists = MemsegLists(self.config, self.arrays, self.space, self.release, stages.peers)
        self.at_end(self.lists.unmap)
        self.at_end(self._let_go)
        runtime.raise_open_files(self.host, log)
        self._init_memory({node: nodes.count(node) for node in nodes})
        self._ends.append(self._stop_following)
        repair, told = self.repair_heap, self.on_event
        self.heaps = Heaps(self.memalloc, opts, stages.sockets(), nodes[0], repair, told)
        stages.share(nodes[1:])
        if not any(m.socket == nodes[0] for m in self.lists if not m.external):
            log("WARNING", "WARNING: Main core has no memory on local socket!")

    def _find_role(self, asked: str) -> str:
        """Returns the role; sets the directory in which a primary's files would be."""
        prefix = self.options.file_prefix
        named = (self.host.runtime_dir(prefix, r) for r in releases.RELEASES.values())
        found = [*dict.fromkeys(named)]
        at = next((d for d in found if os.path.exists(f"{d}/config")), found[-1])
        self.runtime_dir, self.shared = at, not self.options.no_shconf
        if asked == "auto":
            alive = self.shared and config.has_primary(f"{at}/config", self.release)
            asked = "secondary" if alive else "primary"
            self.log("INFO", f"Auto-detected process type: {asked.upper()}")
        return asked

    def _stages_of(self, role: str) -> Primary | Secondary:
        if role == "primary":
            return self._primary(self)
        if role == "observer":
            from .observer import Observer

            return Observer(self)
        from .secondary import Secondary

        return Secondary(self)

    def _init_memory(self, lcores: dict[int, int]) -> None:
        """Lists and pages, while no other process changes any. rte_eal_memory_init"""
        self.lists.lock.read()
        try:
            self.stages.open_lists()
            held = self.stages.backing()
            self.memalloc = Segments(self.lists, held)
            self.at_end(self.memalloc.close)
            self.stages.map_pages(held, lcores)
        except (EalError, OSError) as e:
            self.log("ERR", "Cannot init memory")
            raise runtime.in_memory_stage(e) from None
        finally:
            self.unlock_hugedirs()
            self.lists.lock.read_done()

    def cleanup(self) -> None:
        """Gives everything back that is not in use; config, arrays and hugepage_info stay as files.

        rte_eal_cleanup. An interrupt before it begins, or EalError(EBUSY) while another thread
        walks or this is called by a callback, leaves the EAL as it was. Other errors are raised
        after everything else was given back. EalError(EALREADY) the second time.
        """
        if self.closed and self.pid == os.getpid():
            raise EalError(EALREADY, "cleanup", "Already called cleanup")
        with self.mutex:
            if get_ident() in self.lists.lock.ours:
                what = "Cannot clean up from a callback of a walk"
                raise EalError(EBUSY, "cleanup", what, fix="return from it first")
            self.mutex.close()
            self.closed = True
            errors = memory.taken([*self._ends, self.stages.give_back])
            self._forget_memory()
            if errors:
                raise errors[0]

    def _stop_following(self) -> None:
        """Closes the channel and, until _let_go, keeps peers from changing memory.

        They would wait for this process's reply, and would not find themselves the last user of a
        page's file. EAL just ends.
        """
        try:
            self.lists.lock.read()
        except EalError as e:  # a process died with the lock
            self.log("ERR", e.text)
        if self.channel:
            self.channel.close()

    def _let_go(self) -> None:
        if get_ident() in self.lists.lock.ours:
            self.lists.lock.read_done()

    def _forget_memory(self) -> None:
        """Makes whatever a caller keeps raise EalError: the memory is not mapped any more."""
        mine, names = vars(self), ("_memzones", "heaps", "memalloc", "lists", "arrays")
        kept = [mine[name] for name in names if mine.get(name)]
        kept += self.heaps.heaps if "heaps" in mine else ()
        for thing in kept:
            if lock := vars(thing).get("lock"):
                lock.close()
            vars(thing).update(dict.fromkeys(vars(thing), CLOSED))
        mine.update(dict.fromkeys((*names, "config", "config_file"), CLOSED))

    def __enter__(self) -> Eal:
        return self

    def __exit__(self, *_: object) -> None:
        """Cleans up; in a child of this process, whose pages and files these are not, nothing."""
        if not self.closed and self.pid == os.getpid():
            self.cleanup()

    def others(self) -> dict[int, str]:
        """Returns the other living processes of this prefix: {pid: "primary" | "secondary"}."""
        self.mutex.check()
        found = runtime.processes(self.runtime_dir, self.host) if self.shared else {}
        return {pid: role for pid, role in found.items() if pid != self.pid}

    def refresh(self) -> None:
        """Brings an observer's mappings in line with the primary's lists. EalError(ENOMEM)."""
        with self.mutex:
            self.stages.refresh()


class Primary(memory.Stages):
    """What a primary does at each stage."""

    tables: list[int]  # of EAL's services, in the heap

    def shares_files(self) -> bool:
        """Returns whether there are files and a socket, with which other processes can attach."""
        return not self.eal.options.no_shconf

    def make_directory(self) -> str:
        """Makes the runtime directory if the start needs it, and returns its path."""
        e = self.eal
        path = runtime.make_directory(e.options, e.release, e.host, e.log)
        e.on_failure(lambda: _rmdir(path))
        return path

    def make_config(self) -> config.Config:
        """Returns rte_mem_config: in its file, or in private memory."""
        e = self.eal
        if not e.shared:
            return config.Config(e.release)
        return config.SharedConfig(e.file("config"), e.release, e.space, e.options.base_virtaddr)

    def discover(self) -> Infos:
        """Returns the page sizes that count; their directories stay locked."""
        from . import hugepages

        e = self.eal
        return hugepages.Discovery(e.options, e.sockets, e.host, e.log).run()

    def open_config(self) -> config.Config:
        """The runtime directory and config. rte_eal_config_create"""
        from . import backing

        e, opts = self.eal, self.eal.options
        backing.kind(opts)  # imported before the stages whose time counts
        e.space = VaSpace(opts.base_virtaddr, e.log, e.release.hint_warning)
        e.runtime_dir, e.shared = self.make_directory(), self.shares_files()
        self.peers = peers.Primary(e.log) if e.shared else peers.Alone()
        self.config_file = self.make_config()
        if e.shared:
            e.on_failure(lambda: files.discard(e.file("config")))
        e.at_end(self.config_file.close)
        e.on_failure(self.config_file.unmap)
        c = self.config_file.c
        c.version, c.legacy_mem = e.release.word, opts.legacy_mem
        c.single_file_segments = opts.single_file_segments
        for queue, name in zip(c.tailq_head, e.tailqs, strict=False):
            queue.tqh_last, queue.name = addressof(queue), name.encode()
        return self.config_file

    def find_hugepages(self) -> None:
        """Counts pages; hugepage directories stay locked. eal_hugepage_info_init"""
        e = self.eal
        if e.options.no_huge:
            return
        e.infos = infos = self.discover()
        e.on_failure(e.unlock_hugedirs)
        if e.shared:
            from . import hugepages

            hugepages.write_info(e.file("hugepage_info"), infos, e.release.numa_nodes_max)
            e.on_failure(lambda: files.discard(e.file("hugepage_info")))

    def open_arrays(self) -> Fbarray:
        e = self.eal
        e.arrays = Arrays(e.space, e.runtime_dir if e.shared else None)
        e.at_end(e.arrays.close)
        e.on_failure(lambda: e.arrays.close(remove=True))
        try:
            return e.arrays.create(e.config.memzones, "memzone", MAX_MEMZONE, sizeof(Memzone))
        except EalError as error:
            raise error.within("Cannot init memzone", ENODEV, "memzone") from None

    def open_lists(self) -> None:
        e = self.eal
        sizes = [info.page_sz for info in e.infos]
        e.lists.create(memseg.plan(sizes, e.sockets, e.release, e.options.pagesz_mem))

    def backing(self) -> Backing:
        """Returns what holds the pages."""
        from . import backing

        e = self.eal
        population = Population(e.pagemap, e.iova_mode == "PA", e.log, e.node_of)
        return backing.for_primary(e.lists, e.options, e.infos, population)

    def map_pages(self, held: Any, lcores: dict[int, int]) -> None:
        """Allocates what the options ask for: pages that are not freed before the end."""
        e, opts = self.eal, self.eal.options
        e.on_failure(held.abandon)
        if opts.no_huge:
            held.create(opts.memory)
        elif opts.legacy_mem:
            from . import legacy

            legacy.init(held, opts, lcores, e.file("hugepage_data") if e.shared else None)
        else:
            from . import dynmem

            dynmem.init(e.memalloc, opts, lcores)
        if e.shared:
            e.config.nchannel, e.config.nrank = opts.nchannel, opts.nrank

    def sockets(self) -> list[int]:
        return self.eal.sockets

    def start_threads(self, workers: list[int]) -> None:
        """Allocates what EAL's threads take of the heap: the nodes are those of worker lcores."""
        self.eal.heaps.worker_stacks(self.eal.options.worker_stack, workers)

    def share(self, workers: list[int]) -> None:
        """Fills the heaps; then processes may attach. rte_mp_channel_init, eal_mcfg_complete"""
        e = self.eal
        e.heaps.create()
        e.lists.rwlock("mlock")  # of the zones: one of those that a dead process may have held
        e.config.tsc_hz = runtime.tsc_hz(e.release.clock_step, e.host)
        self.start_threads(workers)
        self.tables = e.heaps.service_tables()
        if isinstance(self.peers, peers.Primary):
            runtime.sweep(e.runtime_dir)
            channel = e.open_channel("mp_socket", self.peers.release_dead_locks)
            locks = [*e.lists.config_locks(), *(heap.lock for heap in e.heaps.heaps)]
            self.peers.connect(channel, e.heaps, locks)
            channel.ready = True
        self.config_file.complete()

    def give_back(self) -> None:
        """Frees the pages that contain nothing."""
        e = self.eal
        if e.options.unlink_existing and not e.heaps.fixed:

            def clear(msl: MemsegList, ms: Memseg) -> None:
                ms.flags &= ~FLAG_DO_NOT_FREE

            e.lists.walk_segments(clear)
        for va in self.tables:
            e.heaps.free(va)
        if not e.heaps.fixed:
            e.heaps.free_unused()
            with e.lists.lock:
                for pages in e._pages:
                    e._free_pages(pages)


def _rmdir(path: str) -> None:
    try:
        os.rmdir(path)
    except OSError:
        pass
