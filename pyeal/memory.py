"""The memory of one EAL as a program uses it: what rte_memory.h, rte_malloc.h and rte_memzone.h do.

Lists and walks, pages, heap memory, zones, events and limits, external memory, addresses and
descriptors, and the layout as plain data.
"""

from __future__ import annotations

import os
import time
from _thread import allocate_lock, get_ident
from ctypes import addressof, memset, sizeof
from errno import EBUSY, EEXIST, EINVAL, ENOENT, ENOMEM, ENOSPC, ENOTSUP, EPERM

from .errors import CLOSED, EalError, Log
from .layout import BAD_IOVA, LINE
from .libc import PAGE
from .pauses import signals_deferred
from .peers import Alone
from .populate import Pagemap, frames
from .segments import Pages, Segments

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import Any, TypeVar

    from . import attached, fbarray, heap, hugepages, memzone, mp, releases, vaspace
    from .config import Config
    from .host import Host
    from .layout import Memseg, Memzone
    from .memseg import MemsegList, MemsegLists
    from .options import Options

    F = TypeVar("F", bound=Callable[..., Any])

MAX_DMA_BITS = 63
DRAIN = 10.0  # seconds that a cleanup waits for other threads


class Door:
    """Lets one thread at a time change an EAL, in the process that began it, until its cleanup.

    Within it signal handlers are deferred: a handler that raises must not leave a lock taken or a
    change half done, and a handler that calls in must not find them so.

    Raises EalError: EPERM in another process, EINVAL after cleanup, EBUSY for a callback of a call
    that is under way.
    """

    def __init__(self) -> None:
        self.pid, self.lock, self.owner = os.getpid(), allocate_lock(), 0
        self.closed = False
        self.readers: list[int] = []  # a thread for each call that only reads

    def check(self) -> None:
        if (pid := os.getpid()) != self.pid:
            what, fix = "Cannot use the EAL of another process", "begin one in this process"
            expected, found = f"process {self.pid}", f"process {pid}, its child by fork"
            raise EalError(
                EPERM, "eal", what, expected=expected, found=found, fix=fix, reason="forked"
            )
        if self.closed and self.owner != get_ident():
            CLOSED.use()

    def __enter__(self) -> None:
        self.check()
        if self.owner == get_ident():
            what, fix = "Cannot call in from a callback of this EAL", "return from it first"
            raise EalError(EBUSY, "eal", what, fix=fix, reason="re-entered")
        block = signals_deferred()
        block.__enter__()
        try:
            while not self.lock.acquire(timeout=0.1):
                block.deliver()
                self.check()
            self.block, self.owner = block, get_ident()
            if self.closed:
                self._leave()
                CLOSED.use()
        except BaseException:
            block.__exit__()
            raise

    def _leave(self) -> None:
        self.owner = 0
        self.lock.release()

    def __exit__(self, *_: object) -> None:
        block = self.block
        self._leave()
        block.__exit__()

    def close(self) -> None:
        """Refuses calls from now on, and waits for those of other threads that read.

        Raises EalError(EBUSY) if one does not end; the door is open again then.
        """
        self.closed, deadline = True, time.monotonic() + DRAIN
        while set(self.readers) - {get_ident()}:
            if time.monotonic() > deadline:
                self.closed = False
                what, fix = "Cannot clean up while a thread walks", "end the walk first"
                raise EalError(EBUSY, "cleanup", what, fix=fix, reason="walking")
            time.sleep(0.001)


def reads(fn: F) -> F:
    """Makes a method refuse as Door does, and cleanup wait for it."""

    def method(self: Memory, *args: Any, **named: Any) -> Any:
        door, me = self.mutex, get_ident()
        door.check()
        try:
            door.readers.append(me)
            door.check()  # once more: cleanup looks at the readers after it closed the door
            return fn(self, *args, **named)
        finally:
            if me in door.readers:
                door.readers.remove(me)

    method.__doc__, method.__name__, method.__wrapped__ = fn.__doc__, fn.__name__, fn  # type: ignore
    return method  # type: ignore[return-value]


class Process:
    """The state of one EAL, which the stages of its start fill in, and how its start is undone."""

    options: Options
    release: releases.Release
    role: str
    stages: Stages
    sockets: list[int]  # the nodes that count
    node_of: dict[int, int]  # CPU -> node
    runtime_dir: str
    shared: bool  # whether there are files in it
    iova_mode: str
    phys_addrs: bool
    space: vaspace.VaSpace
    config: Any  # rte_mem_config
    config_file: Config | attached.AttachedConfig
    arrays: fbarray.Arrays
    zones: fbarray.Fbarray  # of struct rte_memzone
    lists: MemsegLists
    memalloc: Segments
    heaps: heap.Heaps

    def __init__(self, host: Host, log: Log, tailqs: Sequence[str]) -> None:
        self.host, self.log, self.tailqs = host, log, tailqs
        self.pid, self.mutex, self.closed = os.getpid(), Door(), False
        self.pagemap = Pagemap()
        self.infos: list[hugepages.HugepageInfo] = []
        self.channel: mp.Channel | None = None  # of a process whose files are shared
        self.on_event: list[Callable[[str, int, int], object]] = []
        self._pages: list[Pages] = []  # allocated by alloc_pages() and not freed yet
        self._ends: list[Callable[[], object]] = []  # what an end takes, in reverse order
        self._undo: list[Callable[[], object]] = []  # what a failed start takes

    def at_end(self, step: Callable[[], object]) -> None:
        """Has the step taken at the end or when the start fails, the one added last first."""
        self._ends.append(step)
        self._undo.append(step)

    def on_failure(self, step: Callable[[], object]) -> None:
        """Has the step taken only when the start fails."""
        self._undo.append(step)

    def undo(self) -> None:
        """Takes the stages back that were done."""
        for e in taken(self._undo):
            self.log("WARNING", f"A failed start could not be taken back: {e}")

    def file(self, name: str) -> str:
        """Returns the path of a file in the runtime directory."""
        return f"{self.runtime_dir}/{name}"

    def open_channel(self, name: str, on_death: Callable[[], object] | None = None) -> mp.Channel:
        """Opens the channel to other processes, with a socket of that name. rte_mp_channel_init"""
        from . import mp

        self.channel = mp.Channel(self.runtime_dir, self.release, name, self.log)
        self.on_failure(self.channel.close)
        if on_death:
            self.channel.watch(on_death)
        self.channel.start()
        return self.channel

    def unlock_hugedirs(self) -> None:
        """Unlocks the hugepage directories. linux/eal.c: eal_hugedirs_unlock"""
        for info in self.infos:
            info.unlock()

    def repair_heap(self, heap: heap.Heap) -> None:
        """Rebuilds the links of a heap whose lock a dead process held. EalError(EINVAL)."""
        from . import heap_repair

        heap_repair.repair(heap, self._pages, self.options.match_allocations)
        self.log("WARNING", f"the heap of node {heap.socket} was a dead process's: links rebuilt")


def taken(steps: list[Callable[[], object]]) -> list[BaseException]:
    """Takes the steps, the last one first, and returns what they raised: it stops none."""
    errors = []
    while steps:
        try:
            steps.pop()()
        except BaseException as e:
            errors.append(e)
    return errors


class Stages:
    """What one role does at each stage of a start, and what its process may do afterwards.

    eal.py has the order of the stages, and the primary's; secondary.py, observer.py have others.
    """

    peers: Alone

    def __init__(self, eal: Memory) -> None:
        self.eal = eal

    def check_pages(self) -> None:
        """Raises EalError(ENOTSUP) if this process cannot allocate pages itself."""

    def check_change(self) -> None:
        """Raises EalError(EACCES) if this process must not change shared memory."""

    def give_back(self) -> None:
        """Frees at the end what is not in use; a secondary's pages are the primary's."""

    def refresh(self) -> None:
        """Follows the primary, of whose changes only an observer is not told."""


class Memory(Process):
    """The memory of one EAL; Eal is the class to make one of."""

    _memzones: memzone.Memzones | None = None

    @property
    def memzones(self) -> memzone.Memzones:
        """The zones by name; a start needs none of that code."""
        from .memzone import Memzones

        self._memzones = self._memzones or Memzones(self.zones, self.heaps, self.iova)
        return self._memzones

    # lists, segments, walks

    @reads
    def memseg_lists(self) -> list[MemsegList]:
        """Returns every list in slot order, empty and external ones included."""
        return list(self.lists)

    def segments(self) -> Iterator[tuple[MemsegList, int, Memseg]]:
        """Yields (list, index, record) of every used segment; the record is the shared one."""
        for msl in self.lists:
            for start, n in msl.arr.runs():
                for i in range(start, start + n):
                    yield msl, i, msl.seg(i)

    @reads
    def walk_lists(
        self,
        fn: Callable[[MemsegList], int | None],
        unlocked: bool = False,
        heap: bool = False,
    ) -> int:
        """Calls fn(list) until it returns anything but 0 or None, and returns that, else 0.

        unlocked: without memory_hotplug_lock. heap: only lists that heaps allocate from.
        rte_memseg_list_walk
        """
        return self.lists.walk_lists(fn, unlocked, heap)

    @reads
    def walk_segments(
        self, fn: Callable[[MemsegList, Memseg], int | None], unlocked: bool = False
    ) -> int:
        """Calls fn(list, record) for each used segment, in the same way. rte_memseg_walk"""
        return self.lists.walk_segments(fn, unlocked)

    @reads
    def walk_contig(
        self, fn: Callable[[MemsegList, Memseg, int], int | None], unlocked: bool = False
    ) -> int:
        """Calls fn(list, first record, bytes) for each run of used segments.

        rte_memseg_contig_walk
        """
        return self.lists.walk_contig(fn, unlocked)

    # pages

    def alloc_pages(self, page_size: int, socket: int = 0, n: int = 1, exact: bool = True) -> Pages:
        """Allocates n pages of page_size bytes on a node, outside of the heap; fewer unless exact.

        EalError: ENOMEM, and no page stays allocated; ENOTSUP in any process but a primary.
        """
        self.stages.check_pages()
        pages = None
        try:
            with self.mutex, self.lists.lock:
                pages = self.memalloc.alloc(page_size, socket, n, exact)
                if not self.lists.peers.announce(False, 0):
                    self._free_pages(pages)
                    what = "not every secondary could map the new pages"
                    raise EalError(ENOMEM, "memalloc", what)
                self._pages.append(pages)
                return pages
        except BaseException:  # a signal handler's, after the call: the caller has no pages
            if pages in self._pages:
                self.free_pages(pages)
            raise

    def free_pages(self, pages: Pages) -> None:
        """Frees what alloc_pages() returned. EalError(EINVAL) for anything else."""
        with self.mutex:
            if pages not in self._pages:
                what = f"Cannot free {pages!r}: it is not allocated, or in a heap"
                raise EalError(EINVAL, "memalloc", what)
            with self.lists.lock:
                self._free_pages(pages)
            self._pages.remove(pages)

    def _free_pages(self, pages: Pages) -> None:
        self.memalloc.free(pages)
        self.lists.peers.announce(False, 0)

    @reads
    def allocations(self) -> list[Pages]:
        """Returns what alloc_pages() allocated and free_pages() has not freed yet."""
        return list(self._pages)

    # heap memory and zones

    def malloc(self, size: int, align: int = 0, socket: int = -1) -> int:
        """Allocates from a heap; returns the address, 0 if there is no memory. rte_malloc_socket"""
        self.stages.check_change()
        va = 0
        try:
            with self.mutex:
                va = self.heaps.malloc(size, align, socket)
                return va
        except BaseException:  # a signal handler's, after the call: the caller has no address
            if va:
                self.free(va)
            raise

    def free(self, va: int) -> None:
        """Frees an address that malloc() returned. rte_free. EalError(EINVAL) for any other."""
        if isinstance(va, Pages):
            _renamed("free(pages)", "free_pages()")
            return self.free_pages(va)
        self.stages.check_change()
        with self.mutex:
            self.heaps.free(va)

    def alloc(self, page_size: int, socket: int = 0, n: int = 1, exact: bool = True) -> Pages:
        """Is the old name of alloc_pages()."""
        _renamed("alloc()", "alloc_pages()")
        return self.alloc_pages(page_size, socket, n, exact)

    def mfree(self, va: int) -> None:
        """Is the old name of free()."""
        _renamed("mfree()", "free()")
        self.free(va)

    def memzone_reserve(self, name: str, size: int, socket: int = -1, align: int = LINE) -> Memzone:
        """Reserves a zone of size bytes that every process finds by name.

        EalError: EEXIST, ENAMETOOLONG, EINVAL, ENOSPC, ENOMEM. rte_memzone_reserve_aligned
        """
        self.stages.check_change()
        with self.mutex:
            return self.memzones.reserve(name, size, socket, align)

    @reads
    def memzone_lookup(self, name: str) -> Memzone | None:
        """Returns the zone of that name, of any process. rte_memzone_lookup"""
        return self.memzones.lookup(name)

    def memzone_free(self, name: str) -> None:
        """Frees a zone. rte_memzone_free. EalError(ENOENT)."""
        self.stages.check_change()
        with self.mutex:
            self.memzones.free(name)

    # events and limits

    @reads
    def on_memory_event(self, fn: Callable[[str, int, int], object]) -> None:
        """Has fn("alloc" | "free", va, bytes) called after pages are added, and before they go.

        rte_mem_event_callback_register. EalError(ENOTSUP) if memory never changes.
        """
        self._must_change("register memory events")
        self.on_event.append(fn)

    @reads
    def limit(self, socket: int, size: int) -> None:
        """Keeps the heap of a node below size bytes. rte_mem_alloc_validator_register

        EalError(ENOTSUP) if memory never changes.
        """
        self._must_change("set a limit")
        self.heaps.limits[socket] = size

    def _must_change(self, what: str) -> None:
        if self.heaps.fixed:
            what = f"Cannot {what}: memory is fixed in {self.mode} mode"
            raise EalError(ENOTSUP, "memalloc", what, reason="fixed-memory")

    # external memory

    def register_external(
        self, va: int, length: int, page_sz: int, iovas: list[int] | None = None
    ) -> MemsegList:
        """Makes a list of memory that the program mapped itself. rte_extmem_register

        EalError: EINVAL if address, length, page size or IO addresses do not fit, EEXIST, ENOSPC.
        """
        n = length // page_sz if page_sz > 0 else 0
        if not (va and n) or page_sz & page_sz - 1 or length % page_sz or va % page_sz:
            what = f"Cannot register {length:#x} bytes at {va:#x}"
            raise EalError(EINVAL, "extmem", what, expected=f"whole pages of {page_sz} bytes")
        if iovas and len(iovas) != n:
            what, expected = "Cannot register memory", f"{n} IO addresses"
            raise EalError(EINVAL, "extmem", what, expected=expected, found=str(len(iovas)))
        with self.mutex, self.lists.lock:
            if any(m.base_va == va and m.len == length for m in self.lists):
                raise EalError(
                    EEXIST, "extmem", f"Cannot register {va:#x}: it is registered already"
                )
            slots = self.config.memsegs
            used = self.lists.slots  # also if another process has written to one
            slot = next((i for i, c in enumerate(slots) if not c.base_va and i not in used), None)
            if slot is None:
                raise EalError(ENOSPC, "extmem", "Couldn't find empty memseg list")
            socket = self.config.next_socket_id
            msl = self.lists.add(f"extmem_{va:#x}", page_sz, n, socket, va, slot)
            msl.c.external, msl.c.heap, msl.external = 1, 0, True
            msl.fill(0, iovas or [BAD_IOVA] * n, self.config.nchannel, self.config.nrank, [0] * n)
            self.config.next_socket_id += 1
        return msl

    def unregister_external(self, va: int, length: int) -> None:
        """Removes the list of such memory; the mapping stays. rte_extmem_unregister

        EalError: EINVAL for 0, ENOENT for memory that is not registered.
        """
        if not va or not length:
            what = "Cannot unregister memory"
            raise EalError(EINVAL, "extmem", what, expected="an address and a length", found="0")
        with self.mutex, self.lists.lock:
            for msl in self.lists:
                if msl.external and (msl.base_va, msl.len) == (va, length):
                    self.arrays.release(msl.arr)
                    self.arrays.destroy(msl.c.memseg_arr)
                    memset(addressof(msl.c), 0, sizeof(msl.c))
                    del self.lists.slots[msl.index]
                    return
        what = f"Cannot unregister {length:#x} bytes at {va:#x}: they are not registered"
        raise EalError(ENOENT, "extmem", what)

    # addresses and descriptors

    @reads
    def memseg_of(self, va: int) -> tuple[MemsegList, int] | None:
        """Returns (list, index) of an address of any list, used or not. rte_mem_virt2memseg"""
        return self.lists.of(va)

    @reads
    def iova(self, va: int) -> int:
        """Returns the IO address of an address, BAD_IOVA if it has none. rte_mem_virt2iova"""
        if self.iova_mode == "VA":
            return va
        try:
            page = frames(self.pagemap.entries(va, PAGE, 1))[0]
        except OSError:
            return BAD_IOVA
        return page if page == BAD_IOVA else page + va % PAGE

    @reads
    def virt(self, iova: int) -> int:
        """Returns the address of an IO address of a used segment, else 0. rte_mem_iova2virt"""
        for _, _, ms in self.segments():
            if ms.iova != BAD_IOVA and ms.iova <= iova < ms.iova + ms.len:
                return ms.addr + iova - ms.iova
        return 0

    @reads
    def fd(self, msl: MemsegList | int, seg: int) -> tuple[int, int]:
        """Returns (descriptor, offset) of a segment of a list or of a slot. rte_memseg_get_fd

        EalError: EINVAL, ENOENT, ENOTSUP, ENODEV.
        """
        if isinstance(msl, int):
            found = self.lists.slots.get(msl)
            if found is None:
                raise EalError(EINVAL, "memalloc", f"slot {msl} contains no memseg list")
            msl = found
        return self.memalloc.fd(msl, seg)

    @reads
    def fd_of(self, va: int | None) -> tuple[int, int]:
        """Returns the same for the segment that contains an address. EalError(EINVAL) if none."""
        found = self.memseg_of(va) if va else None
        if found is None:
            what, expected = "Cannot find a segment", "an address of a memseg list"
            raise EalError(EINVAL, "memalloc", what, expected=expected, found=hex(va or 0))
        return self.memalloc.fd(*found)

    @property
    @reads
    def physmem_size(self) -> int:
        """Bytes of all used pages of EAL's own lists. rte_eal_get_physmem_size"""
        return sum(m.count * m.page_sz for m in self.lists if not m.external)

    @reads
    def check_dma_mask(self, bits: int) -> int:
        """Returns 0 if all memory is below 2**bits (as all later memory will be), 1 if not.

        -1 for more than 63 bits. EalError(EACCES) if this process must not change the shared
        mask. rte_mem_check_dma_mask
        """
        if bits > MAX_DMA_BITS:
            return -1
        if self.heaps.beyond(bits):
            return 1
        self.stages.check_change()
        old = self.config.dma_maskbits
        self.config.dma_maskbits = min(old, bits) if old else bits
        return 0

    # for people and tools

    @reads
    def dump(self) -> str:
        """Returns a line for each used segment. rte_dump_physmem_layout"""
        from . import describe

        text = describe.segments(self.segments(), self.memalloc.backing)
        if self.release.total_line_in_dump:
            text += f"Total Memory Segments size = {self.physmem_size >> 20}M\n"
        return text

    @property
    def mode(self) -> str:
        """The mode's name: no-huge, legacy, in-memory, single-file or dynmem."""
        o = self.options
        if o.no_huge:
            return "no-huge"
        if o.legacy_mem:
            return "legacy"
        if o.in_memory:
            return "in-memory"
        return "single-file" if o.single_file_segments else "dynmem"

    @reads
    def layout(self) -> dict[str, object]:
        """Returns the lists and their runs of used segments as plain data, for JSON."""
        from . import describe

        return {
            "release": self.release.name,
            "mode": self.mode,
            "iova_mode": self.iova_mode,
            "file_prefix": self.options.file_prefix,
            "runtime_dir": self.runtime_dir,
            "pid": self.pid,
            "lists": [describe.memseg_list(msl) for msl in self.lists],
            "heaps": [describe.heap(heap) for heap in self.heaps.heaps],
            "ignored": self.options.ignored,
        }


def _renamed(old: str, new: str) -> None:
    import warnings

    text = f"Eal.{old} is now Eal.{new}; the old name goes with the next release"
    warnings.warn(text, DeprecationWarning, stacklevel=3)
