"""Makes the page files of a start before it: allocated on their node, zeroed by all its CPUs.

The hugepage directories are locked meanwhile as a start locks them, so a start that begins during
this waits, and then takes the files. A process that is killed here leaves files that the next start
takes as well: those it made hold zeros or no page. EAL treats the file of a page as dirty, but of a
list's file, with --single-file-segments, the first page alone (eal_memalloc.c: get_seg_fd): such a
file is emptied before it is filled.
"""

from __future__ import annotations

import fcntl
import os
import stat
import time
from contextlib import ExitStack
from errno import EBUSY, ENOMEM, EPERM, EWOULDBLOCK

from pyeal import files, libc, runtime
from pyeal.errors import EalError
from pyeal.host import LOCAL
from pyeal.look import hugedir
from pyeal.look.warm import UNUSED, Warm, WarmFile
from pyeal.populate import Pagemap, Population, more_pages
from pyeal.tools import size
from pyeal.vaspace import align

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyeal.populate import PreferredNode
    from pyeal.tools.dryrun import DryRun

BATCH = 512  # files that are open at a time
COARSE = 5  # CLOCK_REALTIME_COARSE, of which the kernel takes the times of files
NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Wanted:
    """A page file of a start: where, of which pages and node, how many of them."""

    __slots__ = ("folder", "name", "node", "page_sz", "pages")

    def __init__(self, folder: str, name: str, page_sz: int, node: int, pages: int) -> None:
        self.folder, self.name, self.page_sz = folder, name, page_sz
        self.node, self.pages = node, pages

    @property
    def path(self) -> str:
        return f"{self.folder}/{self.name}"

    @property
    def bytes(self) -> int:
        return self.page_sz * self.pages


class PagesAhead:
    """The page files of one start, as a dry run of it has found them."""

    def __init__(self, r: DryRun) -> None:
        self.options, self.release, self.mode = r.options, r.release, r.mode
        self.prefix, self.runtime_dir = r.options.file_prefix, r.runtime_dir
        self.population = Population(Pagemap(), False, _ignore, r.node_of)
        self.folders = {info.hugedir: info.page_sz for info in r.infos if info.hugedir}
        self.wanted: dict[str, Wanted] = {}
        held = r.none.held
        assert held is not None
        for msl in r.lists:
            folder = held.infos[msl.page_sz].hugedir if msl.count else ""
            for start, n in msl.arr.runs():
                pages = start + n if self.options.single_file_segments else 1
                for name in held.file_names(msl, start, n):
                    w = Wanted(folder, name, msl.page_sz, msl.socket, pages)
                    self.wanted[w.path] = w

    def locked(self, timeout: float) -> ExitStack:
        """Return a block in which no EAL starts on these directories. OSError(ETIMEDOUT)"""
        opened = ExitStack()
        try:
            self.dir_fds = {
                folder: opened.enter_context(files.DirectoryLock(folder, fcntl.LOCK_EX, timeout))
                for folder in self.folders
            }
        except BaseException:
            opened.close()
            raise
        return opened

    def existing(self) -> list[str]:
        """Return the paths of the page files that the prefix has already."""
        found = []
        for folder, fd in self.dir_fds.items():
            for name in os.listdir(fd):
                m = hugedir.NAME.match(name)
                if m and m[1] == self.prefix:
                    found.append(f"{folder}/{name}")
        return sorted(found)

    def make(self, dirty: list[str], clean: dict[str, WarmFile]) -> tuple[Warm, int]:
        """Zero the dirty files, make those that are missing; return the record, and bytes zeroed.

        clean: files that are zero already. A file of a start with more memory is zeroed and kept.
        A failure removes what was made.
        """
        directory = runtime.make_directory(self.options, self.release, LOCAL, _ignore)
        kept, new = dict(clean), list[Wanted]()
        again = [w for path in dirty if (w := self._of(path))]
        for path, w in self.wanted.items():
            if path in clean and clean[path].pages < w.pages:  # a list's file grows
                again.append(w)
            elif path not in clean and path not in dirty:
                new.append(w)
        made: list[Wanted] = []
        zeroed = 0
        try:
            for group, old in (again, True), (new, False):
                for batch in _batches(group):
                    made += [] if old else batch
                    done = self._fill(batch, old)
                    kept.update((f.path, f) for f in done)
                    zeroed += sum(f.pages * f.page_sz for f in done)
            _wait_for_another_ctime(kept)
            record = Warm(self.release.name, self.mode, [kept[path] for path in sorted(kept)])
            record.write(directory)
        except BaseException:
            for w in made:
                try:
                    os.unlink(w.name, dir_fd=self.dir_fds[w.folder])
                except OSError:
                    pass
            raise
        return record, zeroed

    def _of(self, path: str) -> Wanted | None:
        """Return a file that is there as one to zero: with its own length, if no start wants it.

        An empty file that no start wants is removed.
        """
        if path in self.wanted:
            return self.wanted[path]
        folder, _, name = path.rpartition("/")
        sz = self.folders[folder]
        pages = os.lstat(path).st_size // sz
        if not pages:
            os.unlink(name, dir_fd=self.dir_fds[folder])
            return None
        return Wanted(folder, name, sz, next(iter(self.wanted.values())).node, pages)

    # a batch: files of one directory and node

    def _fill(self, batch: list[Wanted], old: bool) -> list[WarmFile]:
        """Make or open a batch of files, populate and zero them."""
        sz, node, folder = batch[0].page_sz, batch[0].node, batch[0].folder
        total = sum(w.bytes for w in batch)
        with ExitStack() as opened:
            fds = self._open(batch, old, opened)
            room = libc.reserve(0, total + sz)
            opened.callback(libc.munmap, room, total + sz)
            va = at = align(room, sz)
            for w, fd in zip(batch, fds, strict=True):
                self._map(at, w, fd)
                at += w.bytes
            n = total // sz
            with self.population.on_node(node) as policy:
                threads = self.population.threads(total, policy)
                if len(self.population.populate(va, sz, n, threads)) < n:
                    what = f"Cannot allocate {n} pages of {size(sz)} for {folder}"
                    found, fix = self.population.why, more_pages(sz, node)
                    raise EalError(ENOMEM, "warm", what, found=found, fix=fix)
                if self.population.on_its_node(va, sz, n, policy) < n:
                    what = f"Cannot allocate {n} pages of {size(sz)} on node {node}"
                    found, fix = self.population.why, "pyeal warm --drop, or more pages there"
                    raise EalError(ENOMEM, "warm", what, found=found, fix=fix)
                if old and not self.options.single_file_segments:
                    self._zero(va, sz, n, policy)
            return [_recorded(w, fd) for w, fd in zip(batch, fds, strict=True)]

    def _open(self, batch: list[Wanted], old: bool, opened: ExitStack) -> list[int]:
        """Return a descriptor of each file, with the lock that shows that no process has it."""
        dir_fd, names = self.dir_fds[batch[0].folder], [w.name for w in batch]
        fds = list[int]()
        opened.callback(_close, fds)
        if old:
            for name in names:
                fds.append(files.open_shared(name, os.O_RDWR | os.O_CLOEXEC, dir_fd))
                check_own(os.fstat(fds[-1]), name)
        else:
            fds += libc.syscall_batch("openat", len(names), dir_fd, names, NEW, 0o600)
            if fds and fds[-1] < 0:
                raise OSError(-fds[-1], os.strerror(-fds[-1]), names[len(fds) - 1])
        exclusive = fcntl.LOCK_EX | fcntl.LOCK_NB
        locks = libc.syscall_batch("flock", len(fds), fds, exclusive)
        if locks and (no := -locks[-1]):
            name = names[len(locks) - 1]
            if no == EWOULDBLOCK:
                what = f"Cannot prepare pages while a process has {name} locked"
                raise EalError(EBUSY, "warm", what, fix="end that process first")
            raise OSError(no, os.strerror(no), name)
        if old:
            for w, fd in zip(batch, fds, strict=True):
                if self.options.single_file_segments:
                    os.ftruncate(fd, 0)
                if os.fstat(fd).st_size != w.bytes:
                    os.ftruncate(fd, w.bytes)
        return fds

    def _map(self, va: int, w: Wanted, fd: int) -> None:
        kind = libc.MAP_SHARED | libc.MAP_FIXED | self.population.map_flag
        try:
            libc.mmap(va, w.bytes, libc.PROT_RW, kind, fd)
        except OSError as e:
            what = f"Cannot allocate {w.pages} pages of {size(w.page_sz)} for {w.path}"
            fix = more_pages(w.page_sz, w.node)
            raise EalError(ENOMEM, "warm", what, found=e.strerror or "", fix=fix) from None

    def _zero(self, va: int, sz: int, n: int, policy: PreferredNode) -> None:
        """Zero n pages by all threads: the kernel does not clear pages that a file has already."""
        threads = self.population.threads(n * sz, policy)
        per = threads.share(n, sz)
        chunks = iter(range(0, n, per))

        def work() -> None:
            for at in chunks:
                libc.zero(va + at * sz, min(per, n - at) * sz)

        threads.together(work)


def check_own(st: os.stat_result, name: str) -> None:
    """Raise OSError(EPERM) for a file of another user, or a file with a second name."""
    if st.st_uid != os.geteuid():
        raise OSError(EPERM, f"it belongs to user {st.st_uid}", name)
    if st.st_nlink != 1 or not stat.S_ISREG(st.st_mode):
        raise OSError(EPERM, f"it has {st.st_nlink} names, expected 1", name)


def _batches(group: list[Wanted]) -> list[list[Wanted]]:
    """Return files of the same directory and node, at most BATCH together."""
    by: dict[tuple[str, int], list[Wanted]] = {}
    for w in group:
        by.setdefault((w.folder, w.node), []).append(w)
    return [x[i : i + BATCH] for x in by.values() for i in range(0, len(x), BATCH)]


def _recorded(w: Wanted, fd: int) -> WarmFile:
    os.utime(fd, ns=(UNUSED, os.fstat(fd).st_mtime_ns))
    st = os.fstat(fd)
    return WarmFile(w.path, st.st_dev, st.st_ino, st.st_ctime_ns, w.page_sz, w.node, w.pages)


def _wait_for_another_ctime(kept: dict[str, WarmFile]) -> None:
    """Wait until a file that is changed gets another ctime: at most for a tick of the kernel."""
    newest = max(f.ctime_ns for f in kept.values())
    for _ in range(100):
        if not 0 <= newest - time.clock_gettime_ns(COARSE) < 10**8:
            return
        time.sleep(0.001)


def _close(fds: list[int]) -> None:
    for fd in fds:
        if fd >= 0:
            os.close(fd)


def _ignore(level: str, text: str) -> None:
    pass
