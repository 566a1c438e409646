"""Hugepage discovery: sizes, mounts, free pages of each node. linux/eal_hugepage_info.c

survey() only reads, on any Host. discover() also locks each hugedir and removes stale files, which
EAL does between finding a mount and counting its pages. The file hugepage_info has the result.
"""

from __future__ import annotations

import fcntl
import os
from ctypes import sizeof
from errno import EACCES

from . import files, layout, libc
from .cparse import size_of, strto
from .errors import EalError, Log
from .host import LOCAL, Host
from .populate import more_pages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .options import Options

MAX_SIZES = layout.MAX_HUGEPAGE_SIZES
MAX_RECORDS = 4  # of hugepage_info: 3, on Arm 4
MAX_RECORD = 5136  # bytes of a record for 256 nodes
U32 = 0xFFFFFFFF
GLOBAL = "kernel/mm/hugepages"
NOT_LOCKED = "Failed to lock hugepage directory!"
NODES = "devices/system/node"


class HugepageInfo:
    """One page size that counts. common/eal_internal_cfg.h: struct hugepage_info"""

    def __init__(self, page_sz: int, hugedir: str, nodes: int) -> None:
        self.page_sz, self.hugedir = page_sz, hugedir  # "": anonymous pages (--in-memory)
        self.num_pages = [0] * nodes  # by node id
        self.lock_fd = -1
        self.num_reusable = 0  # unlocked pages in hugedir, of starts with --huge-unlink=never
        self.open_files: dict[str, int] = {}  # those of this EAL's prefix: name -> descriptor

    def __repr__(self) -> str:
        pages = {k: n for k, n in enumerate(self.num_pages) if n}
        return f"HugepageInfo({self.page_sz >> 10} kB, {self.hugedir!r}, {pages})"

    def unlock(self) -> None:
        """Unlocks the hugedir and closes the files in it. linux/eal.c: eal_hugedirs_unlock"""
        for fd in self.open_files.values():
            os.close(fd)
        self.open_files.clear()
        if self.lock_fd >= 0:
            try:
                fcntl.flock(self.lock_fd, fcntl.LOCK_UN)  # a forked child may hold the descriptor
            except OSError:  # a filter forbids it
                pass
            os.close(self.lock_fd)
        self.lock_fd = -1


class Infos(list[HugepageInfo]):
    """The sizes that count, descending.

    dropped: the page size that EAL leaves in the record after them: a size without a mount that was
    found after the last counted one, else 0. hugepage_info has it, as all records are written.
    """

    dropped = 0


def refused(what: str, found: str | None, fix: str, reason: str) -> EalError:
    """Returns an error of this stage."""
    return EalError(EACCES, "hugepages", what, found=found or "", fix=fix, reason=reason)


# --- reading --------------------------------------------------------------------------------------


def counter(path: str, log: Log, unread: list[str] | None = None) -> int | None:
    """Returns the number in a sysfs file, None if there is none. eal_parse_sysfs_value

    unread: the path and the reason are added to it if the file cannot be opened.
    """
    try:
        with open(path, "rb", buffering=0) as f:
            text = f.read(64).decode("latin-1")
    except OSError as e:
        if unread is not None:
            unread.append(f"{path}: {e.strerror}")
        log("ERR", f"eal_parse_sysfs_value(): cannot open sysfs value {path}")
        return None
    line, newline, _ = text.partition("\n")
    n, rest = strto(line, 0)
    if rest or not newline:
        what = "parse" if text else "read"
        log("ERR", f"eal_parse_sysfs_value(): cannot {what} sysfs value {path}")
        return None
    return n & (1 << 64) - 1


def sizes(host: Host = LOCAL) -> list[tuple[str, int]]:
    """Returns (directory name, bytes) of each page size, in the order of the directory, as EAL.

    EalError(EACCES) if the kernel has no hugetlb pages.
    """
    path = f"{host.sys}/{GLOBAL}"
    try:
        names = [n for n in os.listdir(path) if n.startswith("hugepages-")]
    except OSError as e:
        what = f"Cannot open directory {path} to read system hugepage info"
        fix = "--no-huge: this kernel has no hugetlb pages"
        raise refused(what, e.strerror, fix, "no-hugetlb") from None
    return [(n, sz) for n in names if (sz := size_of(n[10:]))]


ESCAPES = (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\"))


def mounts(host: Host = LOCAL, decoded: bool = True) -> list[tuple[str, int | None]]:
    """Returns (mount point, page size or None if the line has none) of each hugetlbfs, as listed.

    decoded: whether \\040 and similar codes are decoded, which EAL does since 26.07.
    """
    found = []
    with open(host.mounts, "rb") as f:
        text = os.fsdecode(f.read())
    for line in text.split("\n") if "hugetlbfs" in text else ():
        fields = line.split(" ", 3)
        if len(fields) < 4:
            break
        if fields[2].startswith("hugetlbfs"):
            point, (_, eq, size) = fields[1], fields[3].partition("pagesize=")
            for code, char in ESCAPES if decoded else ():
                point = point.replace(code, char)
            found.append((point, size_of(size) if eq else None))
    return found


def default_size(host: Host = LOCAL) -> int:
    """Returns Hugepagesize of /proc/meminfo: the size of a mount line without pagesize=."""
    with open(f"{host.proc}/meminfo", encoding="ascii", errors="replace") as f:
        for line in f:
            if line.startswith("Hugepagesize:"):
                return size_of(line[13:]) or 0
    return 0


class Survey:
    """Reads a host for one set of options. Discovery also locks, and removes stale files."""

    def __init__(self, o: Options, nodes: list[int], host: Host, log: Log | None = None) -> None:
        self.o, self.release, self.nodes, self.host = o, o.release, nodes, host
        self.log: Log = log or (lambda level, text: None)
        self.unread: list[str] = []  # the counters that could not be read, and why
        self.mounts: list[tuple[str, int]] | None = None

    def enter(self, info: HugepageInfo) -> None:
        """Is called with each size that has a hugedir, before its pages are counted."""

    def _matching(self, page_sz: int) -> list[str]:
        """Returns the mount points for pages of a size."""
        if self.mounts is None:
            found = mounts(self.host, self.release.mounts_decoded)
            default = default_size(self.host) if any(sz is None for _, sz in found) else 0
            self.mounts = [(point, sz or default) for point, sz in found]
        return [point for point, sz in self.mounts if page_sz == sz]

    def hugedir(self, page_sz: int) -> str:
        """Returns the directory for files of a page size, "" if there is none. get_hugepage_dir"""
        asked, rule = self.o.huge_dir, self.release.huge_dir_rule
        if asked is None:
            return next(iter(self._matching(page_sz)), "")
        if rule == "exact":
            return asked if asked in self._matching(page_sz) else ""
        try:
            kind, block = self.host.statfs(asked)
        except OSError:
            return ""
        if rule == "statfs":
            return asked if kind == libc.HUGETLBFS_MAGIC and block == page_sz else ""
        for point in self._matching(page_sz):  # or a directory below a mount point
            below = asked[len(point) :]
            if asked.startswith(point) and (rule == "prefix" or below[:1] in ("", "/")):
                return asked
        return ""

    def overall(self, name: str, page_sz: int, reusable: int) -> int:
        """Returns how many pages the kernel can give on all nodes. get_num_hugepages"""
        if (resv := self._read(name, "resv")) is None:
            return 0
        if (free := self._read(name, "free")) is None:
            return 0
        n = max(free - resv, 0) + self.on_demand(name)
        if n == 0 and (reusable or not self.release.none_available_if_reusable):
            text = self.release.none_available
            self.log("WARNING", text.format(dir=name, kb=page_sz >> 10))
        return min(n + reusable, U32)

    def _read(self, name: str, word: str) -> int | None:
        path = f"{self.host.sys}/{GLOBAL}/{name}/{word}_hugepages"
        return counter(path, self.log, self.unread)

    def on_demand(self, name: str) -> int:
        """Returns how many pages overcommit still allows."""
        over, surplus = self._read(name, "nr_overcommit"), self._read(name, "surplus")
        return max((over or 0) - (surplus or 0), 0)

    def on_node(self, name: str, page_sz: int, node: int) -> int:
        """Returns the number of free pages of one node. get_num_hugepages_on_node"""
        path = f"{self.host.sys}/{NODES}/node{node}/hugepages"
        if not os.path.isdir(path):
            return 0
        n = counter(f"{path}/{name}/free_hugepages", self.log, self.unread)
        if n == 0:
            text = self.release.none_free
            self.log("WARNING", text.format(dir=name, kb=page_sz >> 10, node=node))
        return min(n or 0, U32)

    def count(self, info: HugepageInfo, name: str) -> None:
        """Counts the pages of a size on each node; legacy and reusable pages all on node 0.

        calc_num_pages
        """
        if not self.o.legacy_mem and not info.num_reusable:
            for node in self.nodes:
                info.num_pages[node] = self.on_node(name, info.page_sz, node)
        if not any(info.num_pages):
            info.num_pages[0] = self.overall(name, info.page_sz, info.num_reusable)

    def unmounted(self, name: str, page_sz: int) -> None:
        """Logs what a page size without a mount means."""
        if n := self.overall(name, page_sz, 0):
            text = "reserved, but no mounted hugetlbfs found for that size"
            self.log("NOTICE", f"{n} hugepages of size {page_sz} {text}")
        if self.o.in_memory:
            text = f"hugepages of size {page_sz} bytes will be allocated anonymously"
            self.log("DEBUG", f"In-memory mode enabled, {text}")

    def run(self) -> Infos:
        """Returns the sizes that count. hugepage_info_init. EalError(EACCES)"""
        infos, what = Infos(), "Cannot get hugepage information"
        try:
            for name, sz in sizes(self.host):
                if len(infos) == MAX_SIZES:
                    most = f"EAL counts at most {MAX_SIZES} page sizes"
                    raise refused(what, most, "mount fewer of them", "page-sizes")
                info = HugepageInfo(sz, self.hugedir(sz), self.release.numa_nodes_max)
                if info.hugedir and any(i.hugedir == info.hugedir for i in infos):
                    # EAL waits indefinitely for its own lock
                    found = f"mounts of two page sizes lie on top of each other at {info.hugedir}"
                    raise refused(what, found, f"umount {info.hugedir}", "stacked-mounts")
                if not info.hugedir:
                    self.unmounted(name, sz)
                    infos.dropped = sz
                    if not self.o.in_memory:
                        continue
                infos.dropped = 0
                infos.append(info)
                if info.hugedir:
                    self.enter(info)
                self.count(info, name)
            infos.sort(key=lambda i: -i.page_sz)
            if not any(any(i.num_pages) for i in infos):
                raise self.nothing(infos)
        except BaseException:
            for info in infos:
                info.unlock()
            raise
        return infos

    def nothing(self, infos: Infos) -> EalError:
        """Returns the error if no page was found at all."""
        mounted = {i.page_sz: i.hugedir for i in infos}
        found = [
            f"{sz >> 10} kB: " + (f"none free in {mounted[sz]}" if sz in mounted else "not mounted")
            for _, sz in sizes(self.host)
        ] + self.unread
        asked = f" for --huge-dir {self.o.huge_dir}" if self.o.huge_dir else ""
        smallest = min([*mounted] or [sz for _, sz in sizes(self.host)], default=2 << 20)
        return refused(
            "Cannot get hugepage information",
            f"no free page of a mounted size{asked} ({'; '.join(found) or 'no size at all'})",
            f"{more_pages(smallest)}, or --in-memory, or --no-huge",
            "no-free-page" if mounted else "no-mount",
        )


# --- the file hugepage_info ----------------------------------------------------------------------


def write_info(path: str, infos: Infos, nodes: int) -> None:
    """Writes the record of every size for secondaries. hugepage_info_init"""
    kind = layout.hugepage_info(nodes)
    records = (kind * MAX_SIZES)()
    for record in records:
        record.lock_descriptor = -1
    for record, info in zip(records[: len(infos)], infos, strict=True):
        record.hugepage_sz, record.hugedir = info.page_sz, os.fsencode(info.hugedir)
        record.num_pages[:] = info.num_pages
    if len(infos) < len(records):
        records[len(infos)].hugepage_sz = infos.dropped
    try:
        files.write_file(path, bytes(records))
    except OSError as e:
        what = "Failed to create shared memory!"
        fields = {"found": f"{path}: {e.strerror}", "reason": "runtime-file"}
        raise EalError(EACCES, "hugepages", what, **fields) from None


def read_info(path: str, nodes: int) -> list[HugepageInfo]:
    """Returns the page sizes and directories of a primary. eal_hugepage_info_read

    EalError(EACCES): no file, or a damaged one.
    """
    try:
        data = files.read_shared(path, MAX_RECORDS * MAX_RECORD + 1)
    except OSError as e:
        what = "Failed to open shared memory! Cannot get hugepage information"
        fix = "start the primary without --no-huge: only then can a process join it"
        raise refused(f"{what}: {path}: {e.strerror}", "", fix, "no-hugepage-info") from None
    from . import builds

    try:
        if len(data) != MAX_SIZES * sizeof(layout.hugepage_info(nodes)):
            nodes = builds.hugepage_shape(len(data))[1]  # of the primary's build
        return [info for info in decode_info(data, nodes) if info.hugedir]
    except ValueError as e:
        build = isinstance(e, builds.OtherLimits)
        why = f"{e}" if build else f"{path} is damaged: {e}"
        what = f"Cannot get hugepage information: {why}"
        raise refused(what, "", "", "build" if build else "damaged") from None


def decode_info(data: bytes, nodes: int) -> list[HugepageInfo]:
    """Returns the records in the content of a hugepage_info file. Raises ValueError if damaged."""
    found = []
    for record in info_records(data, nodes):
        sz, hugedir = record.hugepage_sz, os.fsdecode(record.hugedir)
        if hugedir and (sz < libc.PAGE or sz & sz - 1 or not hugedir.startswith("/")):
            raise ValueError(f"found pages of {sz} bytes in {hugedir!r}")
        found.append(HugepageInfo(sz, hugedir, nodes))
        found[-1].num_pages = list(record.num_pages)
    return found


def info_records(data: bytes, nodes: int) -> list[Any]:
    """Returns the structures of which a hugepage_info file consists. Raises ValueError."""
    kind = layout.hugepage_info(nodes)
    if not data or len(data) % sizeof(kind) or len(data) > MAX_RECORDS * sizeof(kind):
        records = f"1 to {MAX_RECORDS} records of {sizeof(kind)} bytes"
        raise ValueError(f"expected {records}, found {len(data)} bytes")
    return [kind.from_buffer_copy(data, at) for at in range(0, len(data), sizeof(kind))]


# --- locking and clearing -------------------------------------------------------------------------


class Discovery(Survey):
    """Locks each hugedir until it is unlocked, and removes stale files before pages are counted.

    Waits while another EAL initialises on the same mount. EalError(EACCES), and nothing is locked.
    """

    def enter(self, info: HugepageInfo) -> None:
        try:
            info.lock_fd = os.open(info.hugedir, os.O_RDONLY)
            fcntl.flock(info.lock_fd, fcntl.LOCK_EX)
        except OSError as e:
            self.log("CRIT", NOT_LOCKED)
            raise not_locked(info.hugedir, e.strerror) from None
        o, remove, names = self.o, self.o.unlink_existing, os.listdir(info.lock_fd)
        names = [name for name in names if "map_" in name]
        mine, total = list[str](), 0
        # legacy and single-file have none; what others may write has to be checked one by one
        no_own = o.legacy_mem or o.single_file_segments or files.others_may_write(info.lock_fd)
        if not remove and not no_own:
            mine = [name for name in names if name.startswith(f"{o.file_prefix}map_")]
            mine = mine[: os.sysconf("SC_OPEN_MAX") // 2]
            total = _open_old(info, mine)
        for name in set(names).difference(mine):
            total += _stale(info, name, remove)
        info.num_reusable = 0 if remove else total // info.page_sz


def not_locked(hugedir: str, found: str | None) -> EalError:
    """Returns the error of a hugedir that this user may not lock."""
    fix = "mount it for this user (uid=, mode=) or name another one with --huge-dir"
    return refused(f"{NOT_LOCKED} {hugedir}", found, fix, "hugedir-lock")


def _stale(info: HugepageInfo, name: str, remove: bool) -> int:
    """Returns the bytes of a *map_* file of any prefix if no process has locked it, and removes it.

    A link is not followed, and a pipe does not block.
    """
    try:
        fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=info.lock_fd)
        with files.closing(fd):
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            size = os.fstat(fd).st_size
            if remove:
                os.unlink(name, dir_fd=info.lock_fd)
            return size
    except OSError:
        return 0  # in use, or a directory


def _open_old(info: HugepageInfo, names: list[str]) -> int:
    """Opens and locks this prefix's files that are not in use, and returns their bytes.

    They stay open in info.open_files: opening and locking each again is most of the cost of such a
    start.
    """
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    fds = libc.syscall_batch("openat", len(names), info.lock_fd, names, flags, go_on=True)
    found = {name: fd for name, fd in zip(names, fds, strict=True) if fd >= 0}
    fds, exclusive = [*found.values()], fcntl.LOCK_EX | fcntl.LOCK_NB
    locked = libc.syscall_batch("flock", len(fds), fds, exclusive, go_on=True)
    ends = libc.syscall_batch("lseek", len(fds), fds, 0, os.SEEK_END, go_on=True)
    if any(locked) or min(ends, default=0) < 0:
        for name, lock, end in zip([*found], locked, ends, strict=True):
            if lock or end < 0:  # in use
                os.close(found.pop(name))
        ends = [end for lock, end in zip(locked, ends, strict=True) if not lock and end >= 0]
    info.open_files.update(found)
    return sum(ends)
