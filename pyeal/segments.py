"""The pages of a list: allocate, free, descriptors, physical addresses, nodes (EAL's memalloc).

A batch costs, per page: open, flock, mmap, a read of pagemap, each made for all pages by
libc.syscall_batch. The rest is one call for many: population by madvise in chunks from warmed-up
threads, one query of the nodes.
linux/eal_memalloc.c
"""

from __future__ import annotations

import _thread
import fcntl
import os
from errno import (
    EFAULT,
    EINVAL,
    ENODEV,
    ENOENT,
    ENOMEM,
    ENOSYS,
    ENOTSUP,
    EPERM,
    ETIMEDOUT,
    EWOULDBLOCK,
)

from . import files, libc
from .errors import EalError
from .fbarray import runs
from .layout import BAD_IOVA, FLAG_DIRTY, FLAG_DO_NOT_FREE
from .libc import (
    FALLOC_KEEP_SIZE,
    FALLOC_PUNCH_HOLE,
    MADV_POPULATE_READ,
    MADV_POPULATE_WRITE,
    MAP_ANONYMOUS,
    MAP_FIXED,
    MAP_HUGETLB,
    MAP_NORESERVE,
    MAP_POPULATE,
    MAP_PRIVATE,
    MAP_SHARED,
    MFD_HUGETLB,
    PAGE,
    PROT_READ,
    PROT_RW,
)
from .memseg import MemsegList, MemsegLists
from .vaspace import give_back, map_into_hole

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from .hugepages import HugepageInfo
    from .options import Options

CHUNK = 128 << 20  # bytes that one madvise populates: 64 pages of 2 MB
WORKERS = 8  # that populate at a time, the caller included
FEW = 16  # names up to which each is looked at, instead of listing the directory
PFN = (1 << 55) - 1
PRESENT = 1 << 63


class Pages:
    """Consecutive segments of one list: what an allocation answers and `free` takes."""

    __slots__ = ("msl", "n", "start")

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


class Pagemap:
    """Physical addresses of this process's pages. rte_mem_virt2phy"""

    def __init__(self) -> None:
        self.fd = -1

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1

    def entries(self, va: int, page_sz: int, n: int) -> list[int]:
        """The pagemap entry of each page's first 4 kB. OSError when it cannot be read."""
        if self.fd < 0:
            self.fd = os.open("/proc/self/pagemap", os.O_RDONLY)
        first, step = va // PAGE * 8, page_sz // PAGE * 8
        found = libc.pread_batch(self.fd, 8, range(first, first + n * step, step))
        return memoryview(found).cast("Q").tolist()

    def works(self) -> bool:
        """Whether this process may see frame numbers. rte_eal_using_phys_addrs"""
        va = libc.mmap(0, PAGE, PROT_RW, MAP_PRIVATE | MAP_ANONYMOUS)
        try:
            libc.zero(va, PAGE)
            return bool(self.entries(va, PAGE, 1)[0] & PFN)
        except OSError:
            return False
        finally:
            libc.munmap(va, PAGE)


def frames(entries: list[int]) -> list[int]:
    """Pagemap entries as physical addresses, BAD_IOVA where there is none."""
    return [(e & PFN) * PAGE or BAD_IOVA for e in entries]


class OnNode:
    """This thread's memory policy: prefer a node, then what it was (default becomes local).

    prepare_numa, restore_numa. cpus: where the thread runs meanwhile, near the memory that it
    fills; none leaves that to the kernel.
    """

    def __init__(
        self, node: int, log: Callable[[str, str], object], cpus: Collection[int] = ()
    ) -> None:
        self.node, self.log, self.cpus, self.old = node, log, cpus, (0, b"")
        self.ran_on: set[int] | None = None
        self.works = True

    def __enter__(self) -> OnNode:
        try:
            self.old = libc.get_mempolicy()
        except OSError as e:
            if e.errno in (ENOSYS, EPERM):
                self.works = False  # as numa_available() of libnuma says since 2.0.17
                self.log("DEBUG", "NUMA is not supported.")
                return self
            self.log("ERR", f"Failed to get current mempolicy: {e}. Assuming MPOL_DEFAULT.")
        self.ran_on = os.sched_getaffinity(0) if self.cpus else None
        self.prefer()
        return self

    def prefer(self) -> None:
        """For the calling thread; helpers call it too, as a policy is a thread's own."""
        if not self.works:
            return
        if self.cpus:
            self._run_on(self.cpus)
        try:
            libc.set_mempolicy(libc.MPOL_PREFERRED, (1 << self.node).to_bytes(128, "little"))
        except OSError as e:
            self.log("ERR", f"set_mempolicy failed: {os.strerror(e.errno or 0)}")

    def _run_on(self, cpus: Collection[int]) -> None:
        try:
            os.sched_setaffinity(0, cpus)
        except OSError as e:  # a cpuset has changed: slower, and as good
            self.log("DEBUG", f"sched_setaffinity failed: {e.strerror}")

    def __exit__(self, *_: object) -> None:
        if not self.works:
            return
        if self.ran_on:
            self._run_on(self.ran_on)
        mode, mask = self.old
        if mode == libc.MPOL_DEFAULT:
            mode = libc.MPOL_LOCAL
        for policy in (mode, mask), (libc.MPOL_LOCAL, b""):
            try:
                return libc.set_mempolicy(*policy)
            except OSError as e:  # the memory is there all the same
                self.log("ERR", f"Failed to restore mempolicy: {e}")


def near(node_of: dict[int, int], usable: Collection[int]) -> dict[int, set[int]]:
    """The CPUs that fill a node's memory, {node: CPUs of it}, where there are several nodes.

    A node with less than half as many as would work otherwise is left to all.
    """
    found: dict[int, set[int]] = {}
    for cpu in usable:
        found.setdefault(node_of.get(cpu, 0), set()).add(cpu)
    few = min(len(usable), WORKERS) / 2
    return {node: cpus for node, cpus in found.items() if len(found) > 1 and len(cpus) >= few}


class Helpers:
    """Threads that run one function at a time together with the caller.

    They are started before they are needed: a fresh thread's first memory wants the lock on the
    address space that a running populate holds, and could lie in the hole that a mapping leaves
    when it fails. So they have it all when this is made.
    """

    def __init__(self, n: int, warm: Callable[[], object]) -> None:
        self.work: Callable[[], object] | None = None
        self.n, self.warm = n, warm
        self.go: list[_thread.LockType] = []
        self.done: list[_thread.LockType] = []
        started = []
        for _ in range(n):
            locks = ready, go, done = [_thread.allocate_lock() for _ in range(3)]
            for lock in locks:
                lock.acquire()
            try:
                _thread.start_new_thread(self._run, (ready, go, done))
            except RuntimeError:  # at the limit of threads: those there are do it all
                break
            started.append(ready)
            self.go.append(go)
            self.done.append(done)
        for ready in started:
            ready.acquire()

    def _run(self, ready: _thread.LockType, go: _thread.LockType, done: _thread.LockType) -> None:
        try:
            try:
                bytearray(1 << 16)
                self.warm()
            finally:
                ready.release()
            go.acquire()
            if self.work:
                self.work()
        finally:
            done.release()

    def share(self, n: int, size: int) -> int:
        """How many of n pages a thread takes at a time: a chunk, or less so that each has some."""
        return max(1, min(CHUNK // size, -(-n // (len(self.go) + 1))))

    def together(self, work: Callable[[], object]) -> None:
        """work() in every thread, this one included; back when all are through."""
        self.work = work
        try:
            for go in self.go:
                go.release()
            self.go = []
            work()
        finally:
            self.close()

    def close(self) -> None:
        """Waits for the threads; those that never got work end without."""
        for go in self.go:
            go.release()
        for done in self.done:
            done.acquire()
        self.go, self.done = [], []


class Segments:
    """Pages for the lists of one EAL.

    infos: discovery's page sizes, whose directory locks decide whether a change takes one;
    memfd: whether in-memory pages have descriptors (the probe's answer).
    """

    def __init__(
        self,
        lists: MemsegLists,
        opts: Options,
        infos: list[HugepageInfo],
        pa: bool,
        pagemap: Pagemap,
        log: Callable[[str, str], object],
        memfd: bool = True,
        look_only: bool = False,
    ) -> None:
        self.lists, self.opts, self.log, self.pa = lists, opts, log, pa
        self.infos = {info.page_sz: info for info in infos}
        self.memfd = memfd or not opts.in_memory
        self.single = opts.single_file_segments or opts.no_huge
        self.look_only, self.prot = look_only, PROT_READ if look_only else PROT_RW
        self.fds: dict[int, dict[int, int]] = {}  # list -> segment -> descriptor
        self.list_fd: dict[int, int] = {}  # list -> descriptor of all its pages
        self.unkept: list[int] = []  # descriptors of legacy pages that single-file has no place for
        # what was there before, with --huge-unlink=never: a list's one file and how long it was,
        # legacy pages by descriptor
        self.kept: dict[int, int] = {}
        self.spared: set[int] = set()
        self.left: dict[int, int] = {}  # list -> bit i: segment i was freed while others had it
        self.pagemap = pagemap
        self.why = ""  # of the page that failed last
        self.cpus: Collection[int] = os.sched_getaffinity(0)
        self.near: dict[int, set[int]] = {}  # node -> those of them that fill its memory
        self.populate_flag = 0
        try:
            libc.madvise(0, 0, MADV_POPULATE_WRITE)
        except OSError:  # a kernel from before 5.14: mmap populates, and says nothing of failures
            self.populate_flag = MAP_POPULATE

    def close(self) -> None:
        """Closes every descriptor; what they kept locked is free for others then."""
        tables = (table.values() for table in self.fds.values())
        for fd in [*self.unkept, *self.list_fd.values(), *(fd for t in tables for fd in t)]:
            os.close(fd)
        self.unkept.clear()
        self.list_fd.clear()
        self.fds.clear()
        self.pagemap.close()

    def abandon(self) -> None:
        """Takes every file that this start made away; those that it found and kept stay."""
        made = [] if self.opts.no_huge else list(self.unkept)
        for msl in () if self.opts.no_huge else self.lists:
            table = self.fds.get(msl.index, {})
            made += [fd for seg, fd in table.items() if not msl.seg(seg).flags & FLAG_DIRTY]
            if msl.index in self.kept and msl.index in self.list_fd:
                os.ftruncate(self.list_fd[msl.index], self.kept[msl.index])
            elif msl.index in self.list_fd:
                made.append(self.list_fd[msl.index])
        for fd in set(made) - self.spared:
            name = os.readlink(f"/proc/self/fd/{fd}")
            if os.path.exists(name):
                os.unlink(name)

    # allocation

    def alloc(self, page_sz: int, socket: int, n: int, exact: bool = True, flags: int = 0) -> Pages:
        """n pages of one size on one node, consecutive in one list; fewer unless exact.

        flags: what each page's record carries, FLAG_DO_NOT_FREE or 0. EalError(ENOMEM), and then
        nothing is left of a part. eal_memalloc_alloc_seg_bulk
        """
        if n < 1:
            raise EalError(EINVAL, "memalloc", f"at least one page wanted, {n} found")
        info = self._info(page_sz)
        if not self.single:
            self.finish_frees()
        full = self.why = f"no memseg list of this size and node has room for {n}"
        with self.on_node(socket) as policy:
            for msl in self.lists:
                if (msl.page_sz, msl.socket, msl.external) != (page_sz, socket, False):
                    continue
                start, need = _room(msl, n, exact)
                if not need:
                    continue
                got = self._alloc_run(info, msl, start, need, policy, exact, flags)
                if got:
                    msl.c.version += 1
                    return Pages(msl, start, got)
                if exact:
                    break
        raise EalError(
            ENOMEM, "memalloc",
            f"{n} pages of {page_sz >> 10} kB wanted on node {socket}, not to be had: {self.why}",
            reason="lists-full" if self.why == full else "",
        )  # fmt: skip

    def _info(self, page_sz: int) -> HugepageInfo:
        if page_sz in self.infos and not self.opts.legacy_mem:
            return self.infos[page_sz]
        sizes = ", ".join(f"{s >> 10} kB" for s in self.infos) or "none"
        why = "memory is fixed in legacy mode" if self.opts.legacy_mem else f"sizes here: {sizes}"
        raise EalError(ENOMEM, "memalloc", f"pages of {page_sz >> 10} kB wanted; {why}")

    def _alloc_run(
        self,
        info: HugepageInfo,
        msl: MemsegList,
        start: int,
        n: int,
        policy: OnNode,
        exact: bool,
        extra: int,
    ) -> int:
        """Maps n segments from start; how many from the first on are good. The rest is undone."""
        if n > FEW:
            grow_descriptor_table(n)
        good, flags = 0, [0] * n
        with Locked(info, self.opts.in_memory, self.lists.peers.lock_timeout) as dir_fd:
            helpers = self.helpers(n * msl.page_sz, policy)
            try:
                mapped = self._map(msl, start, n, dir_fd, flags)
                found, iovas = self._populate(msl, start, mapped, helpers)
                found = self._on_node(msl, start, found, policy)
                if found < n:
                    self.log(
                        "DEBUG",
                        f"attempted to allocate {n} segments, but only {found} were allocated",
                    )
                if found == n or (found and not exact):
                    c = self.lists.config
                    marks = [flag | extra for flag in flags[:found]]
                    msl.fill(start, iovas[:found], c.nchannel, c.nrank, marks)
                    good = found
            finally:
                helpers.close()
                if good < n:
                    for i in range(good, n):
                        if flags[i] and not self.single:  # it was there before, and stays
                            self._close(msl, start + i)
                    self._drop(msl, start + good, n - good, dir_fd, erase=False)
        return good

    def on_node(self, node: int) -> OnNode:
        """Memory of that node, by the CPUs that are near it."""
        return OnNode(node, self.log, self.near.get(node, ()))

    def helpers(self, length: int, policy: OnNode | None = None) -> Helpers:
        """Threads to populate so many bytes with; none where that does not pay."""
        cpus = policy.cpus if policy and policy.cpus else self.cpus
        warm = policy.prefer if policy else lambda: None
        return Helpers(min(len(cpus), WORKERS) - 1 if length >= CHUNK else 0, warm)

    def _close(self, msl: MemsegList, seg: int) -> None:
        fd = self.fds.get(msl.index, {}).pop(seg, -1)
        if fd >= 0:
            os.close(fd)

    def _fail(self, level: str, why: str) -> None:
        self.why = why
        self.log(level, why)

    def _map(self, msl: MemsegList, start: int, n: int, dir_fd: int, flags: list[int]) -> int:
        """Maps what backs n segments, without touching it: how many; dirty pages' flags are set."""
        if not self.memfd:
            kind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | libc.log2_flag(msl.page_sz)
            return self._map_whole(msl, start, n, -1, kind)
        try:
            if self.single:
                fd, dirty = self._open_list(msl, dir_fd)
                flags[:] = [dirty] * n
                # what is reserved for a file and not populated would stay so as long as the file
                return self._map_whole(msl, start, n, fd, MAP_SHARED | MAP_NORESERVE)
            opened = self._open_each(msl, start, n, dir_fd, flags)
        except OSError as e:
            self._fail("ERR", f"Couldn't get fd on hugepage file: {e.strerror}: {e.filename}")
            return 0
        done = [0]
        try:
            kind = MAP_SHARED | self.populate_flag
            self._map_each(msl, start, opened, kind, done)
        except OSError as e:
            self._fail("DEBUG", f"mmap() failed: {os.strerror(e.errno or 0)}; {_advice(msl)}")
        return done[0]

    def _map_each(
        self, msl: MemsegList, start: int, opened: list[int], kind: int, done: list[int]
    ) -> None:
        """Maps files as segments from start on; done[0] is how many. OSError."""
        vas = range(msl.va(start), msl.va(start + len(opened)), msl.page_sz)
        map_into_hole(opened, vas, msl.page_sz, kind, done, self.prot)

    def _map_whole(self, msl: MemsegList, start: int, n: int, fd: int, kind: int) -> int:
        """One mapping for all n segments, or page by page as many as there are."""
        kind |= MAP_FIXED | self.populate_flag
        step = n
        at = 0
        while at < n:
            seg = start + at
            try:
                offset = seg * msl.page_sz if fd >= 0 else 0
                libc.mmap(msl.va(seg), step * msl.page_sz, PROT_RW, kind, fd, offset)
            except OSError as e:
                if step == 1:
                    why = os.strerror(e.errno or 0)
                    self._fail("DEBUG", f"mmap() failed: {why}; {_advice(msl)}")
                    break
                step = 1
            else:
                at += step
        return at

    def page_names(self, msl: MemsegList, start: int, n: int) -> list[str]:
        """Names of pages' files in their hugepage directory. common/eal_filesystem.h"""
        head, per_list = self.lists.release.page_file
        head = head.format(prefix=self.opts.file_prefix, list=msl.index)
        first = msl.index * per_list + start
        return [f"{head}{i}" for i in range(first, first + n)]

    def list_name(self, msl: MemsegList) -> str:
        return f"{self.opts.file_prefix}map_{msl.index}"

    def _open_list(self, msl: MemsegList, dir_fd: int) -> tuple[int, int]:
        """The descriptor of a list's one file, and the flags of pages that come from it."""
        fd = self.list_fd.get(msl.index, -1)
        if fd >= 0:
            return fd, 0
        if self.opts.in_memory:
            fd = os.memfd_create(f"seg_{msl.index}", MFD_HUGETLB | libc.log2_flag(msl.page_sz))
            dirty = 0
        else:
            name = self.list_name(msl)
            there, opened = _exists(name, dir_fd), list[int]()
            try:
                open_each([name], opened, os.O_RDWR | os.O_CREAT, dir_fd, look=True)
            except OSError:
                self._not_locked(opened, name, dir_fd, there)
                raise
            fd = opened[0]
            dirty = FLAG_DIRTY if there and not self.opts.unlink_existing else 0
            self.kept.pop(msl.index, None)
            if dirty:
                self.kept[msl.index] = os.fstat(fd).st_size
        self.list_fd[msl.index] = fd
        return fd, dirty

    def _open_each(
        self, msl: MemsegList, start: int, n: int, dir_fd: int, flags: list[int]
    ) -> list[int]:
        """Descriptors of n pages' own files, fewer when one fails; a dirty page's flag is set."""
        opened: list[int] = []
        names = self.page_names(msl, start, n)
        try:
            if self.opts.in_memory:
                names = [f"seg_{msl.index}-{seg}" for seg in range(start, start + n)]
                kind = MFD_HUGETLB | libc.log2_flag(msl.page_sz)
                take(libc.syscall_batch("memfd_create", n, names, kind), names, opened)
            else:
                self._open_files(names, opened, dir_fd, flags, self.infos[msl.page_sz].kept)
        except OSError as e:
            what = "memfd create" if self.opts.in_memory else f"open '{e.filename}'"
            self._fail("ERR", f"Couldn't get fd on hugepage file: {what} failed: {e.strerror}")
            good = locked_before(e, names, opened)
            while len(opened) > good:
                at = len(opened) - 1
                self._not_locked(opened, names[at], dir_fd, bool(flags[at]))
        self.fds.setdefault(msl.index, {}).update(enumerate(opened, start))
        return opened

    def _open_files(
        self, names: list[str], opened: list[int], dir_fd: int, flags: list[int],
        kept: dict[str, int],
    ) -> None:  # fmt: skip
        """Makes pages' files: an old one is removed first, or kept, and then its flag is set."""
        there: list[bool] = []
        try:
            if kept and all(map(kept.__contains__, names)):
                there += [True] * len(names)  # they were, when discovery opened them
            elif len(names) > FEW:
                there += map(set(os.listdir(dir_fd)).__contains__, names)
            else:
                there += (_exists(name, dir_fd) for name in names)
        finally:
            self._open_known(names[: len(there)], there, opened, dir_fd, flags, kept)

    def _open_known(
        self, names: list[str], there: list[bool], opened: list[int], dir_fd: int,
        flags: list[int], kept: dict[str, int],
    ) -> None:  # fmt: skip
        """there: which of them exist."""
        for name, old in zip(names, there, strict=True) if kept and not all(there) else ():
            if not old and name in kept:  # somebody has removed it meanwhile
                os.close(kept.pop(name))
        look = files.others_may_write(dir_fd)
        if not self.opts.unlink_existing:
            flags[: len(there)] = [FLAG_DIRTY if old else 0 for old in there]
        elif self.opts.unlink_before_mapping or any(there):
            return self._open_anew(names, opened, dir_fd, there, look)
        open_each(names, opened, os.O_RDWR | os.O_CREAT, dir_fd, look, kept)

    def _open_anew(
        self, names: list[str], opened: list[int], dir_fd: int, there: list[bool], look: bool
    ) -> None:
        """File by file, so that one that fails leaves the old ones after it alone."""
        for name, old in zip(names, there, strict=True):
            if old:
                os.unlink(name, dir_fd=dir_fd)
            opened.append(files.open_shared(name, os.O_RDWR | os.O_CREAT, dir_fd, look))
            lock_shared(opened[-1], name)
            if self.opts.unlink_before_mapping:
                os.unlink(name, dir_fd=dir_fd)

    def _not_locked(self, opened: list[int], name: str, dir_fd: int, there: bool) -> None:
        """Lets go of the file that was opened last, and takes it away if it was not there."""
        if opened:
            os.close(opened.pop())
            if not there:
                os.unlink(name, dir_fd=dir_fd)

    def _populate(
        self, msl: MemsegList, start: int, n: int, helpers: Helpers
    ) -> tuple[int, list[int]]:
        """Touches n mapped pages without changing them: how many are there, and their IOVAs."""
        va, size = msl.va(start), msl.page_sz
        per = helpers.share(n, size)
        chunks = iter(() if self.populate_flag else range(0, n, per))
        failed: list[str] = []

        def work() -> None:
            for at in chunks:
                try:
                    length = min(per, n - at) * size
                    libc.madvise(va + at * size, length, MADV_POPULATE_WRITE)
                except OSError as e:
                    failed.append(_populate_failure(e, size))
                if failed:
                    break

        helpers.together(work)
        if failed:
            self._fail("DEBUG", failed[0])
        elif not self.pa and not self.populate_flag:
            return n, list(range(va, va + n * size, size))
        try:
            entries = self.pagemap.entries(va, size, n)
        except OSError as e:
            if not failed:
                why = f"can't get IOVA addr: /proc/self/pagemap: {e.strerror}"
                self._fail("DEBUG", why)
            return 0, []
        good = n
        if min(entries, default=0) < PRESENT:
            good = next((i for i, e in enumerate(entries) if not e & PRESENT), n)
        if good < n and not failed:
            self._fail("DEBUG", _populate_failure(OSError(EFAULT, ""), size))
        if not self.pa:
            return good, list(range(va, va + good * size, size))
        iovas = frames(entries[:good])
        if BAD_IOVA in iovas:
            good = iovas.index(BAD_IOVA)
            self._fail("DEBUG", "can't get IOVA addr: /proc/self/pagemap shows no frame number")
        return good, iovas[:good]

    def _on_node(self, msl: MemsegList, start: int, n: int, policy: OnNode) -> int:
        """How many of the n pages, from the first on, lie on the list's node."""
        if not policy.works or not n:
            return n
        try:
            nodes = libc.page_nodes(msl.va(start), msl.page_sz, n)
        except OSError as e:
            if e.errno == ENOSYS:
                return n
            self._fail("DEBUG", f"move_pages: {e.strerror}")
            return 0
        good = nodes.count(msl.socket)
        if good < n:
            good, node = next((i, node) for i, node in enumerate(nodes) if node != msl.socket)
            self._fail(
                "DEBUG",
                f"allocation happened on wrong socket (wanted {msl.socket}, got {node}); "
                f"{_advice(msl)}",
            )
        return good

    # a secondary's pages: the files are the primary's

    def map_existing(self, msl: MemsegList, start: int, n: int, dir_fd: int) -> None:
        """Maps n segments that the primary uses. sync_chunk. EalError(ENOMEM)

        The C library makes an empty file where one is missing, and finds zeros; here it is named.
        """
        va, size = msl.va(start), msl.page_sz
        opened: list[int] = []
        try:
            if self.single:
                if msl.index not in self.list_fd:
                    try:
                        self._join([self.list_name(msl)], opened, dir_fd)
                    finally:
                        self.list_fd.update((msl.index, fd) for fd in opened)
                fd = self.list_fd[msl.index]
                libc.mmap(va, n * size, self.prot, MAP_SHARED | MAP_FIXED, fd, start * size)
            else:
                try:
                    self._join(self.page_names(msl, start, n), opened, dir_fd)
                finally:
                    self.fds.setdefault(msl.index, {}).update(enumerate(opened, start))
                self._map_each(msl, start, opened, MAP_SHARED, [0])
            if not self.populate_flag:
                advice = MADV_POPULATE_READ if self.look_only else MADV_POPULATE_WRITE
                libc.madvise(va, n * size, advice)
        except OSError as e:
            self.unmap(msl, start, n)
            raise EalError(
                ENOMEM, "sync",
                f"Could not map memory from primary process: {n} pages of {msl.name} from "
                f"{start} on: {e.strerror}" + (f": {e.filename}" if e.filename else "")
                + "; has its file been removed, or does the primary run with --huge-unlink?",
            ) from None  # fmt: skip

    def map_files(self, msl: MemsegList, directory: str, pages: dict[int, str]) -> None:
        """Maps legacy pages, {segment: file's name}, untouched. OSError names a file.

        One that is too short is refused: its mapping would make it longer. No other page of the
        list is mapped.
        """
        size, opened, segs = msl.page_sz, list[int](), sorted(pages)
        names = [pages[seg] for seg in segs]
        dir_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            self._join(names, opened, dir_fd)
        except OSError as e:
            e.filename = f"{directory}/{e.filename}"
            raise
        finally:
            os.close(dir_fd)
            self.fds.setdefault(msl.index, {}).update(zip(segs, opened, strict=False))
        ends = libc.syscall_batch("lseek", len(opened), opened, 0, os.SEEK_END, go_on=True)
        for found, name in zip(ends, names, strict=True) if min(ends, default=size) < size else ():
            if found < size:
                why = f"{size} bytes wanted, {found} found"
                raise OSError(EINVAL, why, f"{directory}/{name}")
        vas = [msl.base_va + seg * size for seg in segs]
        map_into_hole(opened, vas, size, MAP_SHARED, [0], self.prot)

    def _join(self, names: Sequence[str], opened: list[int], dir_fd: int) -> None:
        """Existing page files, with their shared locks unless this process only looks."""
        flags = os.O_RDONLY if self.look_only else os.O_RDWR
        open_each(names, opened, flags, dir_fd, files.others_may_write(dir_fd))

    def unmap(self, msl: MemsegList, start: int, n: int, dir_fd: int = -1) -> None:
        """Lets go of n segments; with dir_fd the last user of a page's file removes it."""
        names = self.page_names(msl, start, n) if dir_fd >= 0 and not self.single else []
        table = self.fds.get(msl.index, {})
        for seg, name in enumerate(names, start):
            if seg in table and self.opts.unlink_existing:
                _unlink_if_last(name, table[seg], dir_fd)
        for seg in range(start, start + n):
            self._close(msl, seg)
        give_back(msl.va(start), n * msl.page_sz)

    def close_list(self, msl: MemsegList) -> None:
        """Closes a single-file list's descriptor, once none of its pages is mapped."""
        if msl.index in self.list_fd:
            os.close(self.list_fd.pop(msl.index))

    # release

    def free(self, pages: Pages) -> None:
        """Gives pages back to the system. eal_memalloc_free_seg_bulk

        EalError(EINVAL) for pages that are not in use or marked do-not-free; nothing is freed then.
        Where the directory's lock is not to be had the files stay, with zeros.
        """
        msl = pages.msl
        info = self._info(msl.page_sz)
        for i in range(pages.start, pages.start + pages.n):
            if not msl.arr.is_used(i):
                raise EalError(EINVAL, "memalloc", f"segment {i} of {msl.name} is not in use")
            if msl.seg(i).flags & FLAG_DO_NOT_FREE:
                raise EalError(
                    EINVAL, "memalloc", f"Page is not allowed to be freed: {msl.name} {i}"
                )
        with Locked(info, self.opts.in_memory, self.lists.peers.lock_timeout, must=False) as dir_fd:
            msl.c.version += pages.n
            msl.clear(pages.start, pages.n)
            self._drop(msl, pages.start, pages.n, dir_fd, erase=True)

    def _drop(self, msl: MemsegList, start: int, n: int, dir_fd: int, erase: bool) -> None:
        """Takes the backing of n segments away; their addresses become a reservation again.

        erase: they held data, which must not be found again where the memory lives on.
        """
        table = self.fds.get(msl.index, {})
        for seg in range(start, start + n):
            fd = table.pop(seg, -1)
            if fd < 0:
                continue
            if not self._unlinked(msl, seg, fd, dir_fd, erase) and erase:
                libc.zero(msl.va(seg), msl.page_sz)
                self._leave(msl, seg, 1)
            os.close(fd)
        give_back(msl.va(start), n * msl.page_sz)
        fd = self.list_fd.get(msl.index, -1)
        if fd < 0 or not self.single:
            return
        at, end = start * msl.page_sz, (start + n) * msl.page_sz
        found = 0 if erase else self.kept.get(msl.index, 0)  # what was there before stays
        try:
            if (at := max(at, found)) < end:
                libc.fallocate(fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, at, end - at)
                self._leave(msl, start, n)
        except OSError as e:
            self.log("DEBUG", f"fallocate() failed: {e.strerror}")
        if not msl.count:
            if dir_fd >= 0 and not found:
                try:
                    os.unlink(self.list_name(msl), dir_fd=dir_fd)
                except OSError as e:
                    self.log("ERR", f"unlinking '{e.filename}' failed: {e.strerror}")
            os.close(self.list_fd.pop(msl.index))

    def _leave(self, msl: MemsegList, start: int, n: int) -> None:
        if self.opts.unlink_existing and not self.opts.in_memory:
            self.left[msl.index] = self.left.get(msl.index, 0) | (1 << n) - 1 << start

    def finish_frees(self) -> None:
        """Takes away the files of freed pages that others had then; called after they were told.

        The last user does so, but not one that is killed or that just goes. A librte_eal that lets
        go of a page of a single file touches it, and so puts it back.
        """
        left, self.left = self.left, {}
        for index, freed in left.items():
            msl = self.lists.slots[index]
            for start, n in runs(freed & ~msl.arr.used()):
                if not self.single:
                    self._remove_left(msl, start, n)
                elif (fd := self.list_fd.get(index, -1)) >= 0:
                    at, size = start * msl.page_sz, n * msl.page_sz
                    libc.fallocate(fd, FALLOC_PUNCH_HOLE | FALLOC_KEEP_SIZE, at, size)

    def _remove_left(self, msl: MemsegList, start: int, n: int) -> None:
        with Locked(
            self.infos[msl.page_sz], False, self.lists.peers.lock_timeout, must=False
        ) as dir_fd:
            if dir_fd < 0:
                return self._leave(msl, start, n)
            for seg, name in enumerate(self.page_names(msl, start, n), start):
                try:
                    fd = os.open(name, os.O_RDWR | os.O_NOFOLLOW, dir_fd=dir_fd)
                except FileNotFoundError:
                    continue
                except OSError as e:
                    self.log("DEBUG", f"{name} of a freed page is not looked at: {e.strerror}")
                    self._leave(msl, seg, 1)
                    continue
                if not _unlink_if_last(name, fd, dir_fd):
                    self._leave(msl, seg, 1)
                os.close(fd)

    def _unlinked(self, msl: MemsegList, seg: int, fd: int, dir_fd: int, erase: bool) -> bool:
        """Whether nobody can see the page once fd is closed: its file has no name and no user."""
        if self.opts.in_memory:
            return False  # whoever was given the descriptor still sees it
        if self.opts.unlink_before_mapping:
            return True
        if erase and not self.opts.unlink_existing:
            return False
        return dir_fd >= 0 and _unlink_if_last(self.page_names(msl, seg, 1)[0], fd, dir_fd)

    def contiguous(self, pages: Pages) -> bool:
        """Whether the pages follow each other for devices too. eal_memalloc_is_contig"""
        first = pages.msl.seg(pages.start).iova
        steps = range(pages.n) if self.pa else ()
        return all(
            pages.msl.seg(pages.start + i).iova == first + i * pages.msl.page_sz for i in steps
        )

    # descriptors

    def fd(self, msl: MemsegList, seg: int) -> tuple[int, int]:
        """(descriptor, offset in bytes) of a segment. rte_memseg_get_fd, rte_memseg_get_fd_offset

        EalError: ENOENT for an unused segment, ENOTSUP for external and for anonymous memory,
        ENODEV where no descriptor is kept.
        """
        if not msl.arr.is_used(seg):
            raise EalError(ENOENT, "memalloc", f"segment {seg} of {msl.name} is not in use")
        return self.kept_fd(msl, seg), seg * msl.page_sz if self.single else 0

    def kept_fd(self, msl: MemsegList, seg: int) -> int:
        """The descriptor alone. eal_memalloc_get_seg_fd. EalError: ENOTSUP, ENODEV."""
        what = f"descriptor of segment {seg} of {msl.name}"
        if msl.external or not self.memfd:
            raise EalError(ENOTSUP, "memalloc", f"{what}: its memory has none")
        fd = self.list_fd.get(msl.index, -1)
        if not self.single:
            fd = self.fds.get(msl.index, {}).get(seg, -1)
        if fd < 0:
            raise EalError(ENODEV, "memalloc", f"{what}: none is kept")
        return fd

    def keep(self, msl: MemsegList, seg: int, fd: int) -> None:
        """Stores a page's descriptor; EalError(ENOTSUP) if single-file. eal_memalloc_set_seg_fd"""
        if self.single:
            raise EalError(
                ENOTSUP, "memalloc", "Could not store segment fd: Operation not supported"
            )
        self.fds.setdefault(msl.index, {})[seg] = fd


class Locked:
    """A hugepage directory while its files change: exclusively locked, blocking.

    During init discovery's lock serves. In-memory pages need none. limit: seconds to wait at most;
    must: whether that is an error then.
    """

    def __init__(
        self, info: HugepageInfo, in_memory: bool, limit: float | None = None, must: bool = True
    ) -> None:
        self.info, self.in_memory, self.limit, self.must = info, in_memory, limit, must
        self.lock: files.DirectoryLock | None = None

    def __enter__(self) -> int:
        """The directory's descriptor; -1 in memory, and without the lock."""
        if self.in_memory:
            return -1
        if self.info.lock_fd >= 0:
            return self.info.lock_fd
        lock = files.DirectoryLock(self.info.hugedir, timeout=self.limit)
        try:
            fd = lock.__enter__()
        except OSError as e:
            if e.errno == ETIMEDOUT and not self.must:
                return -1
            why = f"Cannot lock '{self.info.hugedir}': {e.strerror}"
            raise EalError(ENOMEM, "memalloc", why) from None
        self.lock = lock
        return fd

    def __exit__(self, *_: object) -> None:
        if self.lock:
            self.lock.__exit__()
        self.lock = None


def _unlink_if_last(name: str, fd: int, dir_fd: int) -> bool:
    """Removes a page's file unless another process holds its lock."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=dir_fd)
    except OSError:
        return False
    return True


def _room(msl: MemsegList, n: int, exact: bool) -> tuple[int, int]:
    """Where in the list, and how many: alloc_seg_walk's choice."""
    if exact:
        start = msl.arr.find_n(0, n, False) if n <= msl.n_segs else -1
        return start, n if start >= 0 else 0
    start = msl.arr.biggest(0, False)
    return start, min(n, msl.arr.contig(start, False)) if start >= 0 else 0


def grow_descriptor_table(n: int) -> None:
    """Makes the process's table big enough at once, before there is a second thread.

    The kernel doubles it step by step else, and waits for all CPUs at each step of a process
    that has threads.
    """
    try:
        probe = os.open("/", os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.close(fcntl.fcntl(probe, fcntl.F_DUPFD, probe + n + FEW))
        finally:
            os.close(probe)
    except OSError:
        pass  # over the limit: the open that fails will say so


def _exists(name: str, dir_fd: int) -> bool:
    """OSError for anything but "is there" and "is not there"."""
    try:
        os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return True


def lock_shared(fd: int, name: str) -> None:
    """The lock of a page in use; where another process holds it exclusively EAL goes on without."""
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        pass
    except OSError as e:
        e.filename = name
        raise


def open_each(
    names: Sequence[str],
    opened: list[int],
    flags: int,
    dir_fd: int | None,
    look: bool,
    kept: dict[str, int] | None = None,
) -> None:
    """Opens page files, not through a link, with their shared locks if they are to be written to.

    opened gets the descriptors up to the first that cannot be had, and all of them where it is a
    lock that cannot. OSError names that file. look: at what each file is; False where nobody else
    can have made it. kept: those that are open already, which are taken from there.
    """
    try:
        if (look or len(names) == 1) and not kept:
            for name in names:
                opened.append(files.open_shared(name, flags, dir_fd, look))
        else:
            new = [name for name in names if name not in kept] if kept else names
            where = libc.AT_FDCWD if dir_fd is None else dir_fd
            how = flags | os.O_NOFOLLOW | os.O_CLOEXEC
            got = libc.syscall_batch("openat", len(new), where, new, how, 0o600)
            if kept and len(new) < len(names):
                fresh = iter(got)
                got = [kept.pop(n) if n in kept else next(fresh, -1) for n in names]
            take(got, names, opened)
    finally:
        if flags & os.O_RDWR:
            _lock_each(opened, names)


def locked_before(e: OSError, names: Sequence[str], opened: list[int]) -> int:
    """How many of the opened files have their locks, after that error of open_each."""
    return names.index(e.filename) if e.filename in names else len(opened)


def take(got: list[int], names: Sequence[str], opened: list[int]) -> None:
    """Adds the descriptors of a syscall_batch; OSError names the file whose open failed."""
    if got and min(got) < 0:
        at = next(i for i, fd in enumerate(got) if fd < 0)
        opened += got[:at]
        for fd in got[at + 1 :]:
            if fd >= 0:
                os.close(fd)
        raise OSError(-got[at], os.strerror(-got[at]), names[at])
    opened += got


def _lock_each(fds: list[int], names: Sequence[str]) -> None:
    """As lock_shared."""
    if len(fds) == 1:
        return lock_shared(fds[0], names[0])
    shared = fcntl.LOCK_SH | fcntl.LOCK_NB
    got = libc.syscall_batch("flock", len(fds), fds, shared, go_on=True)
    if got and min(got) < 0:
        for result, name in zip(got, names, strict=False):
            if result not in (0, -EWOULDBLOCK):
                raise OSError(-result, os.strerror(-result), name)


def _populate_failure(e: OSError, size: int) -> str:
    if e.errno == EFAULT:  # what a touch would have met as SIGBUS
        return (
            f"SIGBUS: Cannot mmap more hugepages of size {size >> 20}MB; "
            "the pool ran dry or a hugetlb cgroup limit is reached"
        )
    return f"pages could not be populated: {e.strerror}"


def _advice(msl: MemsegList) -> str:
    size = f"{msl.page_sz >> 20}M"
    return (
        f"see free_hugepages of node {msl.socket} and the mount's size=; "
        f"dpdk-hugepages.py -p {size} -n {msl.socket} -r SIZE reserves more"
    )
