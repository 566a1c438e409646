"""Every EAL of this machine, found from outside: processes, runtime directories, page files.

Nothing is attached to, locked, written or opened for writing. What this user may not read is
counted, never taken for absent.
"""

from __future__ import annotations

import fcntl
import functools
import os
import re
import stat
import struct
import time
from errno import EACCES, EINVAL, ENOENT

from pyeal import layout, releases
from pyeal.errors import EalError
from pyeal.hugepages import _ESCAPES as ESCAPES
from pyeal.tools import Patience, snapshot
from pyeal.tools.snapshot import Folder, NotYet, ProcessMemory, Snapshot, Unreadable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    Dict = dict[str, Any]

INITIAL_PID_NS = "pid:[4026531836]"  # PROC_PID_INIT_INO of the kernel
SLOW = 10  # seconds after which a start that waits for something is stuck
MARKS = b"/dpdk/", b"map_", b"/memfd:seg_", b"/memfd:nohuge", b"anon_hugepage"
MAP = re.compile(r"^(\w+)-(\w+) (\S{4}) \w+ \S+ \d+ *(.*)$", re.M)
MAPPED = re.compile(r"^\w+-\w+ \S{4} \w+ (\S+) ([1-9]\d*) .*/", re.M)
LOCK = re.compile(r"^\d+: (\D+ )(-?\d+) (\S+) (.+)$", re.M)
CONFIG = re.compile(rb"^(\w+)-\w+ (\S{4}) \w+ \S+ \d+ +(/\S.*)/config( \(deleted\))?$")
ANONYMOUS = re.compile(rb"/memfd:(?:seg_|nohuge)|anon_hugepage")
PRIVATE = re.compile(ANONYMOUS.pattern + rb"|librte_eal|map_\d+(?:_\d+)?(?: \(deleted\))?\n")
PAGES = re.compile(r"map_\d+(?:_\d+)?(?: \(deleted\))?$|/memfd:(?:seg_|nohuge)|anon_hugepage")
BARE = "memfd:seg_", "memfd:nohuge", "anon_hugepage"
PAGE_FILE = re.compile(r"(.+)map_(\d+)(?:_(\d+))?$")
# the bytes of `memsegs`, which a primary keeps locked: (first, last) of each layout family
LOCKED = {
    (m.offset, m.offset + m.size - 1): family
    for family in "AB"
    for m in [layout.config(family).memsegs]
}
ABI = {r.abi: r.line for r in releases.RELEASES.values()}


def in_initial_pid_ns() -> bool:
    """Whether all processes of this machine are in sight: else no holder proves nothing."""
    try:
        return os.readlink("/proc/self/ns/pid") == INITIAL_PID_NS
    except OSError:
        return False


def _read(path: str, limit: int = -1) -> bytes:
    """ "" for what is gone or not for this user."""
    try:
        with open(path, "rb", buffering=0) as f:
            return f.read(limit)
    except OSError:
        return b""


# --- processes


class Process:
    """One process that has to do with an EAL. maps: /proc/PID/maps as it was."""

    def __init__(self, pid: int, maps: bytes = b"") -> None:
        self.pid, self.maps = pid, maps
        self.comm = _read(f"/proc/{pid}/comm").decode("utf-8", "replace").strip()
        words = _read(f"/proc/{pid}/stat").rpartition(b")")[2].split()
        self.state = words[0].decode() if words else "?"
        self.started = int(words[19]) / os.sysconf("SC_CLK_TCK") if words else 0.0  # since boot
        self.root = _root_of(pid)

    @property
    def age(self) -> float:
        return max(time.clock_gettime(time.CLOCK_BOOTTIME) - self.started, 0.0)

    @property
    def cmdline(self) -> list[str]:
        data = _read(f"/proc/{self.pid}/cmdline")
        return [os.fsdecode(a) for a in data.split(b"\0")][:-1]

    def option(self, name: str) -> str | None:
        """What follows an option of EAL on the command line; None where it is not given."""
        argv = self.cmdline
        for i, a in enumerate(argv):
            if a == name:
                return argv[i + 1] if i + 1 < len(argv) else ""
            if a.startswith(name + "="):
                return a[len(name) + 1 :]
        return None

    @property
    def waits_in(self) -> str:
        """The kernel function that it sleeps in; needs root, "" without."""
        text = _read(f"/proc/{self.pid}/wchan").decode().strip()
        return "" if text == "0" else text

    def configs(self) -> Iterator[tuple[int, bool, str, bool]]:
        """(address, writable, runtime directory, deleted) of each config that it has mapped."""
        at = self.maps.find(b"/config")
        while at >= 0:
            end = self.maps.find(b"\n", at)
            line = self.maps[self.maps.rfind(b"\n", 0, at) + 1 : end]
            m = CONFIG.match(line)
            if m and b"/dpdk/" in line:
                yield int(m[1], 16), b"w" in m[2], os.fsdecode(m[3]), bool(m[4])
            at = self.maps.find(b"/config", end)

    def areas(self) -> Iterator[tuple[int, int, str, str]]:
        """(start, end, perms, path) of each mapping."""
        for a, b, perms, path in MAP.findall(os.fsdecode(self.maps)):
            yield int(a, 16), int(b, 16), perms, path

    def files(self) -> set[str]:
        """file_id of each file that it has mapped."""
        return {f"{dev}:{inode}" for dev, inode in MAPPED.findall(self.maps.decode("latin-1"))}

    def overlay(self, lists: list[Dict], prefix: str, member: bool = True) -> Dict:
        """What this process has where an EAL's lists lie: [start, end] of its pages, of address
        space kept free for them, and of anything else, which is in the way: to one that is no
        member yet, all is.
        """
        spans = sorted((ml["base_va"], ml["base_va"] + ml["len"]) for ml in lists)
        found: Dict = {"pages": [], "kept": [], "foreign": []}
        ours = f"{prefix}map_", *BARE
        first = 0  # of the spans that are not passed yet; both go up
        for start, end, perms, path in self.areas():
            while first < len(spans) and spans[first][1] <= start:
                first += 1
            for a, b in spans[first:]:
                if end <= a:
                    break
                at = [max(start, a), min(end, b)]
                name = path[path.rfind("/") + 1 :]
                if member and name.startswith(ours) and PAGES.search(path):
                    _join(found["pages"], at)
                elif member and perms[:3] == "---" and not path:
                    _join(found["kept"], at)
                else:
                    _join(found["foreign"], [*at, path or "anonymous memory"])
        return found

    def private_pages(self) -> list[Dict]:
        """Hugepages of an EAL that shares nothing, by size and node: from numa_maps."""
        found: dict[tuple[int, int], int] = {}
        for line in _read(f"/proc/{self.pid}/numa_maps").splitlines():
            if b" huge" not in line or not (b"memfd:seg_" in line or b"anon_hugepage" in line):
                continue
            words = dict(w.partition(b"=")[::2] for w in line.split())
            sz = int(words.get(b"kernelpagesize_kB", 0)) << 10
            for key, n in words.items():
                if key[:1] == b"N" and key[1:].isdigit():
                    at = sz, int(key[1:])
                    found[at] = found.get(at, 0) + int(n)
        return [
            {"page_sz": sz, "socket_id": node, "count": n}
            for (sz, node), n in sorted(found.items(), key=lambda x: (-x[0][0], x[0][1]))
        ]

    def library(self) -> str:
        """The release by the name of its librte_eal.so, "" where it is linked in."""
        m = re.search(rb"/librte_eal\.so\.((\d+)(?:\.\d+)?)", self.maps)
        if not m:
            return ""
        return ABI.get(m[1].decode()) or ABI.get(m[2].decode(), "")

    def own_config(self) -> ProcessMemory | None:
        """Its memory, where a config lies in it that is in no file. OSError without the right."""
        areas, left = [], 256 << 20
        for line in self.maps.splitlines():
            words = line.split(None, 5)
            if words[1][:2] == b"rw" and words[1][3:] == b"p" and b"hugepage" not in line:
                start, end = (int(x, 16) for x in words[0].split(b"-"))
                if end - start <= min(left, 64 << 20):
                    areas.append((start, end))
                    left -= end - start
        memory = ProcessMemory(self.pid)
        memory.config = snapshot.find_config(memory, areas)
        if memory.config:
            return memory
        memory.close()
        return None

    def descriptors(self) -> Dict:
        """How many it has open, and its limits; {} without the right to look."""
        try:
            n = len(os.listdir(f"/proc/{self.pid}/fd"))
        except OSError:
            return {}
        limits = re.search(rb"Max open files +(\S+) +(\S+)", _read(f"/proc/{self.pid}/limits"))
        soft, hard = (int(x) if x.isdigit() else -1 for x in limits.groups()) if limits else (0, 0)
        return {"open": n, "soft_limit": soft, "hard_limit": hard}


def _join(spans: list[list[Any]], new: list[Any]) -> None:
    """Appends a span, or makes the last one longer."""
    last = spans[-1] if spans else None
    if last and last[1] == new[0] and (len(new) == 2 or _what(last) == _what(new)):
        last[1] = new[1]
    else:
        spans.append(new)


def _what(span: list[Any]) -> str:
    """Pages of one EAL count as one thing."""
    return re.sub(r"map_\d+(_\d+)?$", "map_", span[2])


def _root_of(pid: int) -> str:
    """ "" where paths mean the same for that process as here, else /proc/PID/root."""
    try:
        a, b = os.stat("/"), os.stat(f"/proc/{pid}/root/")
        same = (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
        if same and os.readlink(f"/proc/{pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt"):
            return ""
        return f"/proc/{pid}/root"
    except OSError:
        return ""


def inside(root: str, path: str) -> str:
    """That path of another root, links followed there: absolute ones would lead out of it."""
    if not root:
        return path
    done = ""
    todo = [p for p in path.split("/") if p]
    for _ in range(64):
        if not todo:
            break
        part = todo.pop(0)
        try:
            to = os.readlink(f"{root}{done}/{part}")
        except OSError:
            done = f"{done}/{part}"
            continue
        if to.startswith("/"):
            done = ""
        todo = [p for p in to.split("/") if p not in ("", ".")] + todo
    return root + done


# --- the machine


class Place:
    """A runtime directory. path: as it can be opened here; shown: as its processes call it."""

    def __init__(self, path: str, shown: str, root: str = "") -> None:
        self.path, self.shown, self.root = path, shown, root
        self.prefix = shown.rpartition("/")[2]


class Eal:
    """One EAL: its runtime directory if it has one, its processes, what is known of its memory."""

    def __init__(self, place: Place | None) -> None:
        self.place = place
        self.primary: Process | None = None
        self.primary_pid = 0  # known, though nothing else may be seen of it
        self.locked = False  # somebody holds the primary's lock
        self.secondaries: list[Process] = []
        self.observers: list[Process] = []
        self.snapshot: Snapshot | None = None
        self.why = ""  # there is none
        self.early = False  # as its config says nothing yet
        self.age = 0.0
        self.copy = False  # it lies somewhere, and nothing here belongs to it

    @property
    def prefix(self) -> str:
        if self.place:
            return self.place.prefix
        return (self.primary and self.primary.option("--file-prefix")) or ""

    @property
    def release(self) -> str:
        if self.snapshot:
            return self.snapshot.release.name
        return self.primary.library() if self.primary else ""

    @property
    def mode(self) -> str:
        if self.place is None and self.primary and not ANONYMOUS.search(self.primary.maps):
            return "no-shconf"  # pages with files, all else for itself
        if self.snapshot:
            return self.snapshot.mode
        return "" if self.place else "in-memory"

    @property
    def pages(self) -> list[Dict]:
        if self.snapshot:
            return self.snapshot.pages()
        return self.primary.private_pages() if self.primary and not self.place else []

    @property
    def holders(self) -> list[Process]:
        return [p for p in (self.primary, *self.secondaries, *self.observers) if p]

    @property
    def health(self) -> tuple[str, str]:
        """(one word, why): running, initialising, stuck, stopped, dead primary, stale, ended."""
        if self.copy:
            return "copy", "nothing on this machine belongs to it"
        if self.place is None:
            return ("stopped", "by a signal") if self._stopped else ("running", "")
        if self.locked:
            return self._of_living()
        if self.secondaries:
            pids = ", ".join(str(p.pid) for p in self.secondaries)
            return "dead primary", f"secondaries {pids} live on its memory"
        if self.why and self.snapshot is None:
            return "unknown", self.why
        if self.snapshot and not self.snapshot.complete:
            return "stale", "its primary died while it started"
        if self.pages and self.mode != "no-huge":
            return "stale", "its primary is gone and counts pages as used: see pyeal stale"
        return "ended", "only files of the runtime directory are left"

    @property
    def _stopped(self) -> bool:
        return bool(self.primary and self.primary.state in "tT")

    def _of_living(self) -> tuple[str, str]:
        p = self.primary
        if self._stopped:
            return "stopped", "by a signal"
        if self.snapshot and self.snapshot.complete:
            return "running", "" if p else "as a process that is not in sight from here"
        if self.snapshot is None and not self.early:
            return "running" if self.primary_pid else "unknown", self.why
        age = p.age if p else self.age
        if p and age > SLOW and p.state in "SD":
            waits = p.waits_in
            return "stuck", f"started {age:.0f}s ago" + (f", sleeps in {waits}" if waits else "")
        return "initialising", f"for {age:.0f}s"


class Machine:
    """One look at all of it.

    readings: of /proc/locks; with thousands of pages in use each takes the kernel a while. One will
    do where what seems free is looked at again, and for root, who sees every primary without it.
    """

    def __init__(self, readings: int = 0) -> None:
        self.readings = readings or (2 if os.geteuid() else 1)
        self.unreadable: list[int] = []  # processes
        self.closed: set[str] = set()  # directories
        self.roots: dict[tuple[object, ...], str] = {}
        self.networks: dict[str, int] = {}  # namespace -> a process in it
        self.whole = in_initial_pid_ns()
        self.processes = list(self._processes())
        self._locks: list[Lock] | None = None

    def locks(self, kind: str = "") -> list[Lock]:
        """All, or FLOCK or POSIX alone, read once."""
        if self._locks is None:
            self._locks = locks(readings=self.readings)
        return [x for x in self._locks if kind in x.kind]

    def _processes(self) -> Iterator[Process]:
        me = os.getpid()
        for name in os.listdir("/proc"):
            if not name.isdecimal():
                continue
            pid = int(name)
            try:
                with open(f"/proc/{pid}/maps", "rb", buffering=0) as f:
                    maps = f.read()  # a page at a time
                    while maps and (more := f.read(1 << 20)):
                        maps += more
            except PermissionError:
                self.unreadable.append(pid)
                continue
            except OSError:  # gone meanwhile
                continue
            if not maps:  # of the kernel
                continue
            self._note_root(pid)
            if pid != me and any(m in maps for m in MARKS):
                yield Process(pid, maps)

    def _note_root(self, pid: int) -> None:
        try:
            st = os.stat(f"/proc/{pid}/root/")
            key = os.readlink(f"/proc/{pid}/ns/mnt"), st.st_dev, st.st_ino
            self.networks.setdefault(os.readlink(f"/proc/{pid}/ns/net"), pid)
        except OSError:
            return
        if key not in self.roots:
            self.roots[key] = _root_of(pid)

    @property
    def trees(self) -> list[str]:
        """ "" and /proc/PID/root for each other tree of files that a process sees."""
        return sorted({"", *self.roots.values()})

    # runtime directories

    def places(self) -> list[Place]:
        """Every runtime directory in every tree, and those that processes have mapped."""
        found: dict[tuple[int, int], Place] = {}
        for p in self.processes:
            for _, _, shown, deleted in p.configs():
                if not deleted:
                    self._add(found, p.root, shown)
        env = (os.environ.get(n, "") for n in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"))
        for root in self.trees:
            bases = ["/run", "/var/run", "/tmp", *(e for e in env if e and not root)]
            bases += [f"/run/user/{u}" for u in self._list(inside(root, "/run/user"))]
            for base in bases:
                for name in self._list(inside(root, f"{base}/dpdk")):
                    self._add(found, root, f"{base}/dpdk/{name}")
        return sorted(found.values(), key=lambda x: (x.prefix, x.path))

    def _list(self, path: str) -> list[str]:
        try:
            return os.listdir(path)
        except PermissionError:
            self.closed.add(path)
        except OSError:
            pass
        return []

    @staticmethod
    def _add(found: dict[tuple[int, int], Place], root: str, shown: str) -> None:
        path = inside(root, shown)
        try:
            st = os.stat(path)
        except OSError:
            return
        if os.path.isdir(path):
            found.setdefault((st.st_dev, st.st_ino), Place(path, shown, root))

    # hugepage files

    def hugetlbfs(self) -> list[tuple[str, str]]:
        """(path, as it is called there) of each hugetlbfs of each tree, once."""
        found: dict[tuple[str, ...], tuple[str, str]] = {}
        for root in self.trees:
            for line in _read_all(
                f"{root.removesuffix('/root') or '/proc/self'}/mountinfo"
            ).splitlines():
                left, _, right = line.partition(" - ")
                if right.startswith("hugetlbfs "):
                    _, _, dev, top, point, *_ = left.split(" ")
                    for code, char in ESCAPES:
                        point = point.replace(code, char)
                    found.setdefault((dev, top), (root + point, point))
        return list(found.values())

    def holders_of_files(self) -> dict[str, set[tuple[int, str]]]:
        """file_id -> who holds that file: (pid, "lock" or "map"). 0: a pid unseen."""
        held: dict[str, set[tuple[int, str]]] = {}
        for x in self.locks():
            if not x.waits:
                held.setdefault(x.file, set()).add((max(x.pid, 0), "lock"))
        for p in self.processes:
            how = p.pid, "map"
            for file in p.files():
                held.setdefault(file, set()).add(how)
        return held

    def open_files(self, names: set[str]) -> dict[str, set[int]]:
        """Which processes have a file of such a name open: last part of the path -> pids."""
        found: dict[str, set[int]] = {}
        for name in os.listdir("/proc"):
            if not name.isdecimal():
                continue
            try:
                fds = os.listdir(f"/proc/{name}/fd")
            except OSError:
                continue
            for fd in fds:
                try:
                    last = os.readlink(f"/proc/{name}/fd/{fd}").rpartition("/")[2]
                except OSError:
                    continue
                if last in names:
                    found.setdefault(last, set()).add(int(name))
        return found

    def dark(self) -> list[int]:
        """Processes that could not be looked into and do have hugepages."""
        rest = []
        for pid in self.unreadable:
            m = re.search(rb"^HugetlbPages:\s+(\d+)", _read(f"/proc/{pid}/status"), re.M)
            if m and int(m[1]):
                rest.append(pid)
        return rest

    def sockets(self) -> set[str]:
        """Paths of the bound Unix sockets of every network namespace in sight."""
        lines: list[str] = []
        for pid in self.networks.values():
            lines += _read_all(f"/proc/{pid}/net/unix").splitlines()
        return {line.split(None, 7)[7] for line in lines if "/" in line}

    # EALs

    def eals(self) -> list[Eal]:
        """Those with a runtime directory, then those that share nothing."""
        found = self.eals_in_sight()
        return [*found, *self._unseen(found), *self._private(found)]

    def eals_in_sight(self) -> list[Eal]:
        """Those with a runtime directory that can be looked into."""
        return [e for place in self.places() if (e := self._of_place(place))]

    def _of_place(self, place: Place) -> Eal | None:
        e = Eal(place)
        try:
            fd = os.open(f"{place.path}/config", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        except OSError as err:
            e.why = f"config: {err.strerror}" + ("; needs root" if os.getuid() else "")
            return e
        try:
            st = os.fstat(fd)
            if not stat.S_ISREG(st.st_mode):
                return None
            e.locked, e.primary_pid = lock_holder(fd)
        finally:
            os.close(fd)
        e.age = time.time() - st.st_mtime
        for p in self.processes:
            for _, writable, shown, deleted in p.configs():
                if deleted or not _same(inside(p.root, shown), place.path):
                    continue
                if p.pid == e.primary_pid:
                    e.primary = p
                elif writable:
                    e.secondaries.append(p)
                else:
                    e.observers.append(p)
        if e.locked and e.primary is None and e.primary_pid:
            e.primary = Process(e.primary_pid)
        try:
            e.snapshot = Snapshot(Folder(place.path), memory_of(e.holders))
            if not e.snapshot.memory:
                e.snapshot.memory = PageFiles(e.snapshot, place).at
        except (Unreadable, OSError) as err:
            e.why, e.early = str(err), isinstance(err, NotYet)
        return e

    def _unseen(self, found: list[Eal]) -> Iterator[Eal]:
        """Primaries of other users: what /proc/locks tells everybody."""
        known = {e.primary_pid for e in found}
        for pid in sorted(
            {x.pid for x in self.locks("POSIX") if (x.start, x.end) in LOCKED} - known
        ):
            if pid <= 0:
                continue
            p = Process(pid)
            prefix = p.option("--file-prefix")  # if a program gives it itself, nobody knows
            e = Eal(Place("", f"/dpdk/{prefix}" if prefix else ""))
            e.primary, e.primary_pid, e.locked = p, pid, True
            e.early = not os.geteuid()  # who may see all has missed it: it began meanwhile
            e.why = "began just now" if e.early else "needs root to look into it"
            yield e

    def _private(self, found: list[Eal]) -> Iterator[Eal]:
        """EALs of --in-memory and --no-shconf, by their memfds and anonymous hugepages."""
        known = {p.pid for e in found for p in e.holders}
        for p in self.processes:
            if p.pid in known or not PRIVATE.search(p.maps):  # a JVM has anonymous ones, too
                continue
            e = Eal(None)
            e.primary, e.primary_pid, e.age = p, p.pid, p.age
            try:
                if memory := p.own_config():
                    e.snapshot = Snapshot(memory, memory.at)
            except (OSError, Unreadable) as err:
                e.why = str(err)
            if e.snapshot or b"/memfd:seg_" in p.maps:
                yield e


class PageFiles:
    """The memory of an EAL that has no process any more, by its page files."""

    def __init__(self, snapshot: Snapshot, place: Place) -> None:
        self.snapshot, self.place = snapshot, place
        self.files: dict[str, int] = {}

    def at(self, va: int, n: int) -> bytes:
        found = self.snapshot.find(va)
        where = found and self.snapshot.page_file(self.place.prefix, *found)
        if not found or not where:
            raise OSError(14, "it lies in no page file", hex(va))
        ml, seg = found
        path, offset = where
        if path not in self.files:
            flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
            self.files[path] = os.open(inside(self.place.root, path), flags)
        data = os.pread(self.files[path], n, offset + va - ml["base_va"] - seg * ml["page_sz"])
        if len(data) != n:
            raise OSError(14, f"{n} bytes at {va:#x} wanted, {len(data)} found", path)
        return data


def memory_of(holders: list[Process]) -> Any:
    """read(va, n) of the pages of an EAL by the first of its processes that may be read."""
    for p in holders:
        try:
            return ProcessMemory(p.pid).at
        except OSError:
            continue
    return None


def _same(a: str, b: str) -> bool:
    try:
        return a == b or os.path.samefile(a, b)
    except OSError:
        return False


# --- locks


class Lock:
    """One line of /proc/locks. end: -1 for the end of the file."""

    __slots__ = ("file", "kind", "mode", "pid", "span", "waits")

    def __init__(self, how: str, pid: str, file: str, span: str) -> None:
        self.kind, self.mode, self.waits = _how(how)
        self.pid, self.file, self.span = int(pid), file, span

    @property
    def start(self) -> int:
        return int(self.span.split()[0])

    @property
    def end(self) -> int:
        word = self.span.split()[1]
        return -1 if word == "EOF" else int(word)


@functools.cache
def _how(text: str) -> tuple[str, str, bool]:
    """(kind, mode, whether it waits)."""
    *waits, kind, _, mode = text.split()
    return kind, mode, bool(waits)


def file_id(st: os.stat_result) -> str:
    """A file as /proc/locks calls it: major:minor:inode."""
    return f"{device_id(st.st_dev)}:{st.st_ino}"


@functools.cache
def device_id(dev: int) -> str:
    return f"{os.major(dev):02x}:{os.minor(dev):02x}"


def locks(kind: str = "", readings: int = 2) -> list[Lock]:
    """All, or FLOCK or POSIX alone.

    What two readings show together: the kernel loses lines at the seams of its list.
    """
    rows: dict[tuple[str, ...], None] = {}
    for _ in range(readings):
        rows |= dict.fromkeys(LOCK.findall(_read_all("/proc/locks")))
    return [Lock(*row) for row in rows if kind in row[0]]


def _read_all(path: str) -> str:
    try:
        with open(path) as f:
            return f.read()
    except OSError:
        return ""


def lock_holder(fd: int) -> tuple[bool, int]:
    """(whether a primary holds that config, its pid). No lock is taken.

    The pid is 0 for a holder in a PID namespace that is not in sight from here.
    """
    kind = struct.Struct("hhqqi4x")
    asked = kind.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    got, _, _, _, pid = kind.unpack(fcntl.fcntl(fd, fcntl.F_GETLK, asked))
    return got != fcntl.F_UNLCK, max(pid, 0) if got != fcntl.F_UNLCK else 0


# --- one of them


def copied(path: str) -> Eal:
    """The EAL of a copied directory or of an archive (ARCHIVE or ARCHIVE:DIRECTORY)."""
    file, _, inner = path.partition(":")
    if os.path.isdir(path):
        source: Any = Folder(path)
        name = os.path.realpath(path)
    elif os.path.isfile(file):
        source = snapshot.Archive(file, inner or None)
        if not inner and len(source.prefixes) > 1:
            names = ", ".join(f"{file}:{d}" for d in source.prefixes)
            raise Unreadable(f"several directories with a config are in it: {names}")
        name = f"{file}:{source.inner}"
    else:
        raise Unreadable(f"{path}: no such directory or archive")
    e = Eal(Place(path, name))
    e.copy = True
    e.snapshot = Snapshot(source)
    return e


def find(what: str | None) -> Eal:
    """The one EAL that a prefix, a pid, a runtime directory, a copy of one or an archive names.

    None: the only one there is. EalError(ENOENT) that lists the choice.
    """
    if what and "/" in what and not os.path.isdir(what):
        return _known(copied, what)
    with Patience("looking at processes"):
        eals = Machine().eals()
    if what is None:
        named = [e for e in eals if e.health[0] != "ended"] or eals
    elif os.path.isdir(what) and ("/" in what or os.path.exists(f"{what}/config")):
        named = [e for e in eals if e.place and _same(e.place.path, what)]
        if not named:
            return _known(copied, what)
    else:
        pid = int(what) if what.isdecimal() else -1
        named = [e for e in eals if pid in {e.primary_pid, *(p.pid for p in e.holders)}]
        named = named or [e for e in eals if e.prefix == what]
        if not named and os.path.exists(what.partition(":")[0]):
            return _known(copied, what)
    if len(named) == 1 and named[0].snapshot:
        return named[0]
    if len(named) == 1:
        raise EalError(EACCES, "scan", f"{what or named[0].prefix}: {named[0].why}")
    choice = [f"{e.prefix or '?'} (pid {e.primary_pid or '-'})" for e in named or eals]
    raise EalError(
        ENOENT, "scan",
        f"{what or 'one'}: one EAL wanted, {len(named)} found; there are: "
        + (", ".join(choice) or "none"),
    )  # fmt: skip


def _known(how: Callable[[str], Eal], what: str) -> Eal:
    try:
        return how(what)
    except Unreadable as e:
        raise EalError(EINVAL, "scan", str(e)) from None
