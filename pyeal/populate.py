"""Populating mapped pages, and what the kernel says of them afterwards: frame numbers and nodes.

Population is one MADV_POPULATE_WRITE for each chunk, from several warmed-up threads: it touches
pages without changing them, and reports a page that cannot be allocated instead of ending in
SIGBUS. Then one pread of pagemap per page if IO addresses are physical, and one query of all nodes.
linux/eal_memalloc.c: alloc_seg
"""

from __future__ import annotations

import _thread
import os
from errno import EFAULT, ENOSYS, EPERM

from . import libc
from .errors import Log
from .layout import BAD_IOVA
from .libc import MADV_POPULATE_WRITE, MAP_ANONYMOUS, MAP_POPULATE, MAP_PRIVATE, PAGE, PROT_RW

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping


CHUNK = 128 << 20  # bytes that one madvise populates: 64 pages of 2 MB
WORKERS = 8  # threads that populate at a time, the caller included
PFN = (1 << 55) - 1
PRESENT = 1 << 63


class Pagemap:
    """Physical addresses of this process's pages. rte_mem_virt2phy"""

    def __init__(self) -> None:
        self.fd = -1

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def entries(self, va: int, page_sz: int, n: int) -> list[int]:
        """Returns the pagemap entry of each page's first 4 kB. Raises OSError."""
        if self.fd < 0:
            self.fd = os.open("/proc/self/pagemap", os.O_RDONLY)
        first, step = va // PAGE * 8, page_sz // PAGE * 8
        found = libc.pread_batch(self.fd, 8, range(first, first + n * step, step))
        return memoryview(found).cast("Q").tolist()

    def works(self) -> bool:
        """Returns whether this process may see frame numbers. rte_eal_using_phys_addrs"""
        va = libc.mmap(0, PAGE, PROT_RW, MAP_PRIVATE | MAP_ANONYMOUS)
        try:
            libc.zero(va, PAGE)
            return bool(self.entries(va, PAGE, 1)[0] & PFN)
        except OSError:
            return False
        finally:
            libc.munmap(va, PAGE)


def frames(entries: list[int]) -> list[int]:
    """Returns pagemap entries as physical addresses, BAD_IOVA for a page without one."""
    return [(e & PFN) * PAGE or BAD_IOVA for e in entries]


class PreferredNode:
    """The calling thread's memory policy within the block: prefer a node; None changes nothing.

    The policy before is restored, a default one as local. cpus: where the thread runs meanwhile,
    close to the memory that it populates; none leaves that to the kernel.
    prepare_numa, restore_numa
    """

    def __init__(self, node: int | None, log: Log, cpus: Collection[int] = ()) -> None:
        self.node, self.log, self.cpus, self.old = node, log, cpus, (0, b"")
        self.ran_on: Collection[int] = ()
        self.works = node is not None

    def __enter__(self) -> PreferredNode:
        if not self.works:
            return self
        try:
            self.old = libc.get_mempolicy()
        except OSError as e:
            if e.errno in (ENOSYS, EPERM):
                self.works = False  # as numa_available() of libnuma reports since 2.0.17
                self.log("DEBUG", "NUMA is not supported.")
                return self
            self.log("ERR", f"Failed to get current mempolicy: {e}. Assuming MPOL_DEFAULT.")
        if self.cpus:
            self.ran_on = os.sched_getaffinity(0)
        self.prefer()
        return self

    def prefer(self) -> None:
        """Sets the calling thread's policy; PopulateThreads call it too, as each has its own."""
        if self.works and self.node is not None:
            self._run_on(self.cpus)
            try:
                libc.set_mempolicy(libc.MPOL_PREFERRED, (1 << self.node).to_bytes(128, "little"))
            except OSError as e:
                self.log("ERR", f"set_mempolicy failed: {os.strerror(e.errno or 0)}")

    def _run_on(self, cpus: Collection[int]) -> None:
        try:
            if cpus:
                os.sched_setaffinity(0, cpus)
        except OSError as e:  # a cpuset has changed: population is slower, and as good
            self.log("DEBUG", f"sched_setaffinity failed: {e.strerror}")

    def __exit__(self, *_: object) -> None:
        if not self.works:
            return
        self._run_on(self.ran_on)
        mode, mask = self.old
        if mode == libc.MPOL_DEFAULT:
            mode = libc.MPOL_LOCAL
        for policy in (mode, mask), (libc.MPOL_LOCAL, b""):
            try:
                return libc.set_mempolicy(*policy)
            except OSError as e:  # the memory is allocated all the same
                self.log("ERR", f"Failed to restore mempolicy: {e}")


def local_cpus(node_of: Mapping[int, int], usable: Collection[int]) -> dict[int, set[int]]:
    """Returns the CPUs that populate a node's memory, {node: its CPUs}, if there are several nodes.

    A node with less than half as many CPUs as would work otherwise is left to all of them.
    """
    found: dict[int, set[int]] = {}
    for cpu in usable:
        found.setdefault(node_of.get(cpu, 0), set()).add(cpu)
    few = min(len(usable), WORKERS) / 2
    return {node: cpus for node, cpus in found.items() if len(found) > 1 and len(cpus) >= few}


class PopulateThreads:
    """Threads that run one function once, together with the caller.

    They are started before they are needed. A fresh thread's first memory needs the lock on the
    address space that a running madvise holds, and the kernel could place it in the gap that a
    failing mapping leaves. Both are over when the constructor returns.
    """

    def __init__(self, n: int, warm: Callable[[], object]) -> None:
        self.work, self.warm = warm, warm
        self.started: list[tuple[_thread.LockType, _thread.LockType]] = []
        for _ in range(n):
            go, done = _thread.allocate_lock(), _thread.allocate_lock()
            go.acquire()
            done.acquire()
            try:
                _thread.start_new_thread(self._run, (go, done))
            except RuntimeError:  # at the limit of threads: those that run do it all
                break
            self.started.append((go, done))
        for _, done in self.started:
            done.acquire()  # it is warm

    def _run(self, go: _thread.LockType, done: _thread.LockType) -> None:
        try:
            bytearray(1 << 16)
            self.warm()
        finally:
            done.release()
            go.acquire()
            try:
                self.work()
            finally:
                done.release()

    def share(self, n: int, size: int) -> int:
        """Returns how many of n pages a thread takes at a time: a chunk, or less to occupy all."""
        return max(1, min(CHUNK // size, -(-n // (len(self.started) + 1))))

    def together(self, work: Callable[[], object]) -> None:
        """Runs work() in every thread, this one included; they have ended when it returns."""
        self.work, started, self.started = work, self.started, []
        for go, _ in started:
            go.release()
        try:
            work()
        finally:
            for _, done in started:
                done.acquire()

    def close(self) -> None:
        """Ends the threads, if there was no work for them."""
        self.together(bool)


class Population:
    """How the pages of one EAL get their memory, and where that memory lies.

    pa: whether IO addresses are physical ones; else they are the virtual ones. node_of: the node
    of each CPU, to populate a node's memory by its own CPUs. why, fix: of the page that failed
    last.
    """

    def __init__(
        self, pagemap: Pagemap, pa: bool, log: Log, node_of: Mapping[int, int] | None = None
    ) -> None:
        self.pagemap, self.pa, self.log, self.why, self.fix = pagemap, pa, log, "", ""
        self.cpus: Collection[int] = os.sched_getaffinity(0)
        self.local_cpus = local_cpus(node_of or {}, self.cpus)
        self.map_flag = 0
        try:
            libc.madvise(0, 0, MADV_POPULATE_WRITE)
        except OSError:  # before Linux 5.14: mmap populates, and reports no failure
            self.map_flag = MAP_POPULATE

    def failure(self, level: str, why: str, fix: str = "") -> None:
        """Logs why a page failed, and keeps it for the error of the whole request."""
        self.why, self.fix = why, fix
        self.log(level, why)

    def on_node(self, node: int | None) -> PreferredNode:
        """Returns the policy for memory of that node, populated by the node's own CPUs."""
        cpus = () if node is None else self.local_cpus.get(node, ())
        return PreferredNode(node, self.log, cpus)

    def threads(self, length: int, policy: PreferredNode) -> PopulateThreads:
        """Returns threads to populate that many bytes with; none if they would not pay."""
        n = min(len(policy.cpus or self.cpus), WORKERS) - 1
        return PopulateThreads(n if length >= CHUNK else 0, policy.prefer)

    def touch(
        self, va: int, size: int, n: int, threads: PopulateThreads, go_on: bool = False
    ) -> list[OSError]:
        """Populates n mapped pages without changing them; returns the errors of failing chunks.

        All threads stop at the first failure; with go_on only the one that met it does.
        """
        per = threads.share(n, size)
        chunks = iter(() if self.map_flag else range(0, n, per))
        failed: list[OSError] = []

        def work() -> None:
            for at in chunks:
                try:
                    libc.madvise(va + at * size, min(per, n - at) * size, MADV_POPULATE_WRITE)
                except OSError as e:
                    failed.append(e)
                    return
                if failed and not go_on:
                    return

        threads.together(work)
        return failed

    def touch_again(self, va: int, length: int, advice: int = MADV_POPULATE_WRITE) -> None:
        """Populates a mapping of pages that have their memory already. Raises OSError."""
        if not self.map_flag:
            libc.madvise(va, length, advice)

    def populate(self, va: int, size: int, n: int, threads: PopulateThreads) -> list[int]:
        """Populates n mapped pages; returns the IO addresses of those before the first failure."""
        failed = self.touch(va, size, n, threads)
        if failed:
            self.failure("DEBUG", why_absent(failed[0], size))
        elif not self.pa and not self.map_flag:
            return list(range(va, va + n * size, size))
        try:
            entries = self.pagemap.entries(va, size, n)
        except OSError as e:
            if not failed:
                self.failure("DEBUG", f"can't get IOVA addr: /proc/self/pagemap: {e.strerror}")
            return []
        good = n
        if min(entries, default=0) < PRESENT:
            good = next((i for i, e in enumerate(entries) if not e & PRESENT), n)
        if good < n and not failed:
            self.failure("DEBUG", why_absent(OSError(EFAULT, ""), size))
        if not self.pa:
            return list(range(va, va + good * size, size))
        iovas = frames(entries[:good])
        if BAD_IOVA in iovas:
            good = iovas.index(BAD_IOVA)
            self.failure("DEBUG", "can't get IOVA addr: /proc/self/pagemap shows no frame number")
        return iovas[:good]

    def present(self, va: int, size: int, n: int) -> list[bool]:
        """Returns which of n pages are populated. Raises OSError."""
        return [bool(e & PRESENT) for e in self.pagemap.entries(va, size, n)]

    def on_its_node(self, va: int, size: int, n: int, policy: PreferredNode) -> int:
        """Returns how many of n populated pages, from the first on, lie on the policy's node."""
        if policy.node is None or not policy.works or not n:
            return n
        try:
            nodes = libc.page_nodes(va, size, n)
        except OSError as e:
            if e.errno == ENOSYS:
                return n
            self.failure("DEBUG", f"move_pages: {e.strerror}")
            return 0
        good = nodes.count(policy.node)
        if good < n:
            good, node = next((i, node) for i, node in enumerate(nodes) if node != policy.node)
            self.failure(
                "DEBUG",
                f"allocation happened on wrong socket (wanted {policy.node}, got {node})",
                more_pages(size, policy.node),
            )
        return good


def why_absent(e: OSError, size: int) -> str:
    """Returns the text for pages of that size that could not be populated."""
    if e.errno == EFAULT:  # a touch would have met it as SIGBUS
        return (
            f"SIGBUS: Cannot mmap more hugepages of size {size >> 20}MB; "
            "the pool ran dry or a hugetlb cgroup limit is reached"
        )
    return f"pages could not be populated: {e.strerror}"


def pool_file(page_sz: int, node: int | None = None) -> str:
    """Returns the file with the number of pages of a pool; of all nodes if the node is not here."""
    at = f"/sys/devices/system/node/node{node}"
    at = at if node is not None and os.path.isdir(at) else "/sys/kernel/mm"
    return f"{at}/hugepages/hugepages-{page_sz >> 10}kB/nr_hugepages"


def more_pages(page_sz: int, node: int | None = None) -> str:
    """Returns what adds pages of a size; `pyeal doctor` knows how many are missing."""
    return f"echo PAGES > {pool_file(page_sz, node)}, and a mount whose size= allows them"
