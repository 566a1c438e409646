"""One EAL: the order of its stages, and nothing else. linux/eal.c: rte_eal_init

Eal is the door: arguments, role and release are decided there, once. Primary is the order of a
primary's stages; secondary.py and observer.py have those of the other roles. What one kind of start
alone needs (a mode's pages, a secondary, the message channel) is imported when that start needs it.
"""

from __future__ import annotations

import os
from _thread import get_ident
from ctypes import addressof, sizeof
from errno import EALREADY, EBUSY, ENODEV

from . import (
    config,
    gc_paused,
    lcores,
    memory,
    memseg,
    options,
    peers,
    releases,
    runtime,
    signals_allowed,
    signals_deferred,
)
from .errors import CLOSED, EalError
from .fbarray import Arrays
from .heap import Heaps
from .host import LOCAL, Host
from .layout import FLAG_DO_NOT_FREE, MAX_MEMZONE, Memzone
from .memseg import MemsegLists
from .populate import Pagemap, Population
from .segments import Pages, Segments
from .vaspace import VaSpace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any

    from .attached import AttachedConfig
    from .backing import Backing
    from .hugepages import HugepageInfo, Infos
    from .layout import Memseg
    from .memseg import MemsegList
    from .mp import Channel
    from .secondary import Secondary, Sync

    Log = Callable[[str, str], object]
    Running = list[tuple[int, int]]  # (lcore, node) of those that run, the main one first

TIMEOUT = 10.0  # seconds for a primary to finish its start; EAL waits indefinitely


class Footprint:
    """What a primary takes from its machine and leaves there; the dry run's is empty."""

    def shares_files(self, eal: Eal) -> bool:
        """Returns whether there are files and a socket, with which other processes can attach."""
        return not eal.options.no_shconf

    def make_directory(self, eal: Eal) -> str:
        """Makes the runtime directory if the start needs it, and returns its path."""
        path = runtime.make_directory(eal.options, eal.release, eal.host, eal.log)
        eal._undo.append(lambda: _rmdir(path))
        return path

    def open_config(self, eal: Eal) -> config.Config:
        """Returns rte_mem_config: in its file, or in private memory."""
        if not eal.shared:
            return config.Config(eal.release)
        base = eal.options.base_virtaddr
        return config.SharedConfig(eal.file("config"), eal.release, eal.space, base)

    def discover(self, eal: Eal) -> Infos:
        """Returns the page sizes that count; their directories stay locked."""
        from . import hugepages

        return hugepages.discover(eal.options, eal.release, eal.sockets, eal.host, eal.log)

    def backing(self, eal: Eal, population: Population) -> Backing:
        """Returns what holds the pages."""
        from . import backing

        return backing.for_primary(eal.lists, eal.options, eal.infos, population)


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
    footprint: what a primary takes from the machine and leaves there.

    Several may live in one process, with prefixes of their own. EalError has EAL's errno and the
    stage; a start that fails leaves nothing behind.
    """

    config_file: config.Config | AttachedConfig
    space: VaSpace
    phys_addrs: bool
    channel: Channel  # of a process whose files are shared
    sync: Sync  # of a secondary

    def __init__(
        self,
        args: list[str] | tuple[str, ...] = (),
        release: str | None = None,
        log: Log | None = None,
        wait: float = TIMEOUT,
        role: str | None = None,
        tailqs: Sequence[str] = (),
        host: Host = LOCAL,
        footprint: Footprint | None = None,
    ) -> None:
        self.host, self.footprint = host, footprint or Footprint()
        self.log: Log = log or (lambda level, text: None)
        self.pid, self.mutex, self.tailqs = os.getpid(), memory.Door(), tailqs
        self.infos: list[HugepageInfo] = []
        self._pages: list[Pages] = []
        self._undo: list[Callable[[], object]] = []  # of a failed start, in reverse order
        self.closed = False
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
        """The door: arguments, role, release and lcores; then the stages of the role."""
        cpus = lcores.discover(self.release, self.host, self.log)
        self.options = options.parse(args, self.release, self.log)
        self.role = self._find_role(role or self.options.proc_type)
        if self.role != "primary":
            from .attached import find_release

            # the primary decides whose arguments and layouts hold
            with signals_allowed():
                self.release = find_release(self.file("config"), timeout, wanted)
            self.options = options.parse(args, self.release, self.log)
        running = lcores.enabled(self.options, cpus, self.host.affinity())
        self.sockets, self.node_of = cpus.nodes, cpus.node_of
        self._pagemap = Pagemap()
        self._undo.append(self._pagemap.close)
        self._stages = self._stages_of(self.role)
        self.rights = self._stages.rights
        self._stages.start(running)
        main = running[0][1]
        if not any(m.socket == main for m in self.lists if not m.external):
            self.log("WARNING", "WARNING: Main core has no memory on local socket!")

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
            return Primary(self)
        if role == "observer":
            from .observer import Observer

            return Observer(self)
        from .secondary import Secondary

        return Secondary(self)

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
            errors: list[BaseException] = []
            for step in (
                self._stages.give_back,
                self._stop_following,
                self._stages.forget,
                self._unmap,
                self.config_file.close,
            ):
                try:
                    step()
                except BaseException as e:  # the rest is given back all the same
                    errors.append(e)
            self._forget_memory()
            if errors:
                raise errors[0]

    def _stop_following(self) -> None:
        still = self._stages.known and self._hold_still()
        try:
            if self._stages.known:
                self.channel.close()
        finally:
            self.memalloc.close()
            if still:
                self.lists.lock.read_done()

    def _unmap(self) -> None:
        try:
            self.arrays.release(self.zones)
            self.lists.unmap()
        finally:
            self.arrays.close()

    def _forget_memory(self) -> None:
        """Makes whatever a caller keeps raise EalError: the memory is not mapped any more."""
        for name in ("_memzones", "heaps", "memalloc", "lists", "arrays"):
            kept = self.__dict__.get(name)
            if isinstance(kept, Heaps) and kept.heaps is not CLOSED:
                for heap in kept.heaps:
                    heap.c = heap.lock = CLOSED
            if kept is not None and kept is not CLOSED:
                kept.__dict__.update(dict.fromkeys(kept.__dict__, CLOSED))
            self.__dict__[name] = CLOSED
        self.config = self.config_file = CLOSED

    def _hold_still(self) -> bool:
        """Keeps peers from changing memory while this process stops to follow; whether it does.

        They would wait for its reply, and would not find themselves the last user of a page's
        file. EAL just ends.
        """
        try:
            self.lists.lock.read()
        except EalError as e:  # a process died with the lock
            self.log("ERR", e.text)
            return False
        return True

    def undo(self) -> None:
        """Takes the stages back that were done, the last one first."""
        for undo in reversed(self._undo):
            try:
                undo()
            except (OSError, EalError) as e:  # the other stages are taken back all the same
                self.log("WARNING", f"A failed start could not be taken back: {e}")
        self._undo.clear()

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
            self._stages.refresh()

    def open_channel(self, name: str, on_death: Callable[[], object] | None = None) -> None:
        """Opens the channel to other processes, with a socket of that name. rte_mp_channel_init"""
        from . import mp

        self.channel = mp.Channel(self.runtime_dir, self.release, name, self.log)
        self._undo.append(self.channel.close)
        if on_death:
            self.channel.watch(on_death)
        self.channel.start()

    def file(self, name: str) -> str:
        """Returns the path of a file in the runtime directory."""
        return f"{self.runtime_dir}/{name}"


class Primary:
    """The stages of a primary."""

    rights = memory.Rights()

    def __init__(self, eal: Eal) -> None:
        self.eal = eal
        self.tables: list[int] = []  # of EAL's services, in the heap

    @property
    def known(self) -> bool:
        """Whether other processes have a channel to this one."""
        return self.eal.shared

    def start(self, running: Running) -> None:
        """linux/eal.c: rte_eal_init"""
        from . import backing

        e, opts, log, main = self.eal, self.eal.options, self.eal.log, running[0][1]
        backing.kind(opts)  # imported before the stages whose time counts
        self._config()
        e.phys_addrs = not opts.no_huge and e._pagemap.works()
        e.iova_mode = runtime.choose_iova_mode(opts, e.phys_addrs, e.host, log)
        if not opts.no_huge:
            self._discover()
        e.arrays = Arrays(e.space, e.runtime_dir if e.shared else None)
        e._undo.append(lambda: e.arrays.close(remove=True))
        try:
            e.zones = e.arrays.create(e.config.memzones, "memzone", MAX_MEMZONE, sizeof(Memzone))
        except EalError as error:
            raise error.within("Cannot init memzone", ENODEV, "memzone") from None
        secondaries = peers.Primary(log) if e.shared else None
        e.lists = MemsegLists(e.config, e.arrays, e.space, e.release, secondaries or peers.Alone())
        e.lists.lock.read()
        try:
            self._memory([node for _, node in running])
        except (EalError, OSError) as error:
            log("ERR", "Cannot init memory")
            raise runtime.in_memory_stage(error) from None
        finally:
            self._unlock()
            e.lists.lock.read_done()
        e.heaps = Heaps(e.lists, e.memalloc, opts, e.sockets, main, log, e._pages, [])
        e.heaps.create()
        e.lists.rwlock("mlock")  # of the zones: one of those that a dead process may have held
        e.config.tsc_hz = runtime.tsc_hz(e.release.clock_step, e.host)
        e.heaps.worker_stacks(opts.worker_stack, [node for _, node in running[1:]])
        self.tables = e.heaps.service_tables()
        if secondaries:
            self._serve(secondaries)
        self.config_file.complete()

    def _config(self) -> None:
        """The runtime directory and config. rte_eal_config_create"""
        e, opts = self.eal, self.eal.options
        e.space = VaSpace(opts.base_virtaddr, e.log, e.release.hint_warning)
        e.runtime_dir, e.shared = e.footprint.make_directory(e), e.footprint.shares_files(e)
        self.config_file = e.config_file = e.footprint.open_config(e)
        e.config = e.config_file.c
        e._undo += [lambda: self._remove("config"), e.config_file.close]
        e.config.version = e.release.word
        e.config.legacy_mem = opts.legacy_mem
        e.config.single_file_segments = opts.single_file_segments
        for queue, name in zip(e.config.tailq_head, e.tailqs, strict=False):
            queue.tqh_last, queue.name = addressof(queue), name.encode()

    def _discover(self) -> None:
        """Counts pages; hugepage directories stay locked. eal_hugepage_info_init"""
        from . import hugepages

        e = self.eal
        e.infos = infos = e.footprint.discover(e)
        e._undo.append(self._unlock)
        if e.shared:
            hugepages.write_info(e.file("hugepage_info"), infos, e.release.numa_nodes_max)
            e._undo.append(lambda: self._remove("hugepage_info"))

    def _unlock(self) -> None:
        """Unlocks the hugepage directories. eal_hugedirs_unlock"""
        if self.eal.infos:
            from . import hugepages

            hugepages.unlock(self.eal.infos)

    def _memory(self, nodes: list[int]) -> None:
        """Lists and pages. common/eal_common_memory.c: rte_eal_memory_init"""
        e, opts = self.eal, self.eal.options
        runtime.raise_open_files(e.host, e.log)
        sizes = [info.page_sz for info in e.infos]
        e._undo.append(e.lists.unmap)
        e.lists.create(memseg.plan(sizes, e.sockets, e.release, opts.pagesz_mem))
        pa = e.iova_mode == "PA"
        population = Population(e._pagemap, pa, e.log, e.node_of)
        held = e.footprint.backing(e, population)
        e.memalloc = Segments(e.lists, held)
        e._undo += [e.memalloc.close, held.abandon]
        self._first_pages(held, {node: nodes.count(node) for node in nodes})
        if e.shared:
            e.config.nchannel, e.config.nrank = opts.nchannel, opts.nrank

    def _first_pages(self, held: Any, lcores: dict[int, int]) -> None:
        """Allocates what the options ask for: pages that are not freed before the end."""
        e, opts = self.eal, self.eal.options
        if opts.no_huge:
            held.create(opts.memory)
        elif opts.legacy_mem:
            from . import legacy

            legacy.init(held, opts, lcores, e.file("hugepage_data") if e.shared else None)
        else:
            from . import dynmem

            dynmem.init(e.memalloc, opts, lcores)

    def _serve(self, secondaries: peers.Primary) -> None:
        """Opens the channel by which processes attach. rte_mp_channel_init"""
        e = self.eal
        runtime.sweep(e.runtime_dir)
        e.open_channel("mp_socket", secondaries.release_dead_locks)
        locks = [*e.lists.config_locks(), *(heap.lock for heap in e.heaps.heaps)]
        secondaries.connect(e.channel, e.heaps, locks)
        e.channel.ready = True

    def _remove(self, name: str) -> None:
        if self.eal.shared:
            try:
                os.unlink(self.eal.file(name))
            except FileNotFoundError:
                pass

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

    def refresh(self) -> None:
        """Does nothing: only an observer is not told of changes."""

    def forget(self) -> None:
        """Does nothing: the records are the memory's own."""


def _rmdir(path: str) -> None:
    """Removes a directory that this start made; other files keep it."""
    try:
        os.rmdir(path)
    except OSError:
        pass
