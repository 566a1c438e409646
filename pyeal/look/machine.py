"""Every EAL of this machine: its processes, runtime directories and page files."""

from __future__ import annotations

import os
import re
import time
from errno import EFBIG, EPERM

from pyeal.hugepages import ESCAPES
from pyeal.look import locks, runtime_dir, warm
from pyeal.look.config import HeldConfig
from pyeal.look.foreign import ForeignEal
from pyeal.look.hugedir import PageFileMemory
from pyeal.look.process import ANONYMOUS, Process, inside, pids
from pyeal.look.runtime_dir import RuntimeDir
from pyeal.look.snapshot import Snapshot
from pyeal.look.sources import Folder, NotYet, ProcessMemory, Unreadable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


MARKS = b"/dpdk/", b"map_", b"/memfd:seg_", b"/memfd:nohuge", b"anon_hugepage"
PRIVATE = re.compile(ANONYMOUS.pattern + rb"|librte_eal|map_\d+(?:_\d+)?(?: \(deleted\))?\n")


MOST_PREFIXES = 1000  # that are examined in one directory, besides those that processes use


class Machine:
    """The processes, mounts, directories and locks of this machine at one moment.

    readings: how often /proc/locks is read: each takes the kernel long if thousands of pages are in
    use. One is enough for root, who sees every primary without it, and for a caller that looks a
    second time at all that seems free.
    """

    def __init__(self, readings: int = 0) -> None:
        self.readings = readings or (2 if os.geteuid() else 1)
        self.unreadable_processes: list[int] = []
        self.unreadable_directories: set[str] = set()
        self.crowded: dict[str, int] = {}  # directories of more than MOST_PREFIXES entries
        self.roots: dict[tuple[object, ...], str] = {}
        self.networks: dict[str, int] = {}  # namespace -> a process in it
        self.sees_all = locks.in_initial_pid_ns()
        self.processes = list(self._processes())
        self._locks: list[locks.Lock] | None = None

    def locks(self, kind: str = "") -> list[locks.Lock]:
        """Return all locks, or those of one kind (FLOCK, POSIX); /proc/locks is read once."""
        if self._locks is None:
            self._locks = locks.locks(readings=self.readings)
        return [x for x in self._locks if kind in x.kind]

    def _processes(self) -> Iterator[Process]:
        me = os.getpid()
        for pid in pids():
            try:
                with open(f"/proc/{pid}/maps", "rb", buffering=0) as f:
                    maps = f.read()  # a page at a time
                    while maps and (more := f.read(1 << 20)):
                        maps += more
            except PermissionError:
                self.unreadable_processes.append(pid)
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
            self.roots[key] = Process(pid).root

    @property
    def trees(self) -> list[str]:
        """The prefix of every tree of files that a process sees: "", /proc/PID/root."""
        return sorted({"", *self.roots.values()})

    # runtime directories

    def directories(self) -> list[RuntimeDir]:
        """Return every runtime directory in every tree, and those that processes have mapped."""
        found: dict[tuple[int, int], RuntimeDir] = {}
        for p in self.processes:
            for _, _, shown, deleted in p.configs():
                if not deleted:
                    self._add(found, p.root, shown)
        for root in self.trees:
            users = self._list(inside(root, "/run/user"))
            bases = runtime_dir.bases({} if root else os.environ, users)
            for base in ("/run/dpdk", *bases):
                names = self._list(path := inside(root, base))
                if len(names) > MOST_PREFIXES:
                    self.crowded[path] = len(names)
                    names = sorted(names)[:MOST_PREFIXES]
                for name in names:
                    self._add(found, root, f"{base}/{name}")
        return sorted(found.values(), key=lambda x: (x.prefix, x.path))

    def _list(self, path: str) -> list[str]:
        try:
            return os.listdir(path)
        except PermissionError:
            self.unreadable_directories.add(path)
        except OSError:
            pass
        return []

    @staticmethod
    def _add(found: dict[tuple[int, int], RuntimeDir], root: str, shown: str) -> None:
        path = inside(root, shown)
        try:
            st = os.stat(path)
        except OSError:
            return
        if os.path.isdir(path):
            found.setdefault((st.st_dev, st.st_ino), RuntimeDir(path, shown, root))

    # hugepage files

    def hugetlbfs(self) -> list[tuple[str, str]]:
        """Return (path, path in its own tree) of each hugetlbfs of each tree, once."""
        found: dict[tuple[str, ...], tuple[str, str]] = {}
        for root in self.trees:
            at = root.removesuffix("/root") or "/proc/self"
            for line in locks.read_text(f"{at}/mountinfo").splitlines():
                left, _, right = line.partition(" - ")
                if right.startswith("hugetlbfs "):
                    _, _, dev, top, point, *_ = left.split(" ")
                    for code, char in ESCAPES:
                        point = point.replace(code, char)
                    found.setdefault((dev, top), (root + point, point))
        return list(found.values())

    def holders_of_files(self) -> dict[str, set[tuple[int, str]]]:
        """Return {file_id: {(pid, "lock" or "map")}} of all files; pid 0 cannot be seen."""
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
        """Return {name: pids} of the processes that have a file of one of these names open."""
        found: dict[str, set[int]] = {}
        for pid in pids():
            try:
                fds = os.listdir(f"/proc/{pid}/fd")
            except OSError:
                continue
            for fd in fds:
                try:
                    last = os.readlink(f"/proc/{pid}/fd/{fd}").rpartition("/")[2]
                except OSError:
                    continue
                if last in names:
                    found.setdefault(last, set()).add(pid)
        return found

    def unreadable(self) -> list[int]:
        """Return the processes with hugepages that this user may not look into."""
        return [pid for pid in self.unreadable_processes if Process(pid).hugetlb_bytes]

    def sockets(self) -> set[str]:
        """Return the paths of the bound Unix sockets of every network namespace."""
        lines: list[str] = []
        for pid in self.networks.values():
            lines += locks.read_text(f"/proc/{pid}/net/unix").splitlines()
        return {line.split(None, 7)[7] for line in lines if "/" in line}

    # EALs

    def eals(self) -> list[ForeignEal]:
        """Return those with a runtime directory, then those that share nothing."""
        found = self.with_directories()
        return [*found, *self._of_other_users(found), *self._private(found)]

    def with_directories(self) -> list[ForeignEal]:
        """Return those with a runtime directory that this user can find."""
        return [e for directory in self.directories() if (e := self._of_directory(directory))]

    def _of_directory(self, directory: RuntimeDir) -> ForeignEal | None:
        e = ForeignEal(directory)
        if record := warm.read(directory.path):
            e.record, e.warm = record, record.clean(directory.root)
        try:
            folder = Folder(directory.path)
            config = HeldConfig(folder)
        except FileNotFoundError:
            return e if e.is_warm else None
        except OSError as err:
            if err.errno in (EPERM, EFBIG):  # no file that EAL makes
                return None
            e.needs_root = bool(os.getuid())
            e.why = f"config: {err.strerror}" + ("; needs root" if e.needs_root else "")
            return e
        e.locked, e.primary_pid = config.alive, config.owner
        e.age = time.time() - config.modified
        for p in self.processes:
            for _, writable, shown, deleted in p.configs():
                if deleted or not same_file(inside(p.root, shown), directory.path):
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
            e.snapshot = Snapshot(folder, _memory_of(e.holders))
            if not e.snapshot.memory:
                e.snapshot.memory = PageFileMemory(e.snapshot, directory).at
        except (Unreadable, OSError) as err:
            e.why, e.early = str(err), isinstance(err, NotYet)
            if isinstance(err, Unreadable) and not (e.early or e.locked or e.holders):
                return None  # any program may call a file `config`
        return e

    def _of_other_users(self, found: list[ForeignEal]) -> Iterator[ForeignEal]:
        """Yield primaries of other users: /proc/locks shows them to every user."""
        known = {e.primary_pid for e in found}
        primaries = {x.pid for x in self.locks("POSIX") if locks.of_primary(x)}
        for pid in sorted(pid for pid in primaries - known if pid > 0):
            p = Process(pid)
            prefix = p.option("--file-prefix")  # unknown if the program sets it itself
            e = ForeignEal(RuntimeDir("", f"/dpdk/{prefix}" if prefix else ""))
            e.primary, e.primary_pid, e.locked = p, pid, True
            e.early = not os.geteuid()  # root sees all: this one began meanwhile
            e.needs_root = not e.early
            e.why = "needs root to look into it" if e.needs_root else "began just now"
            yield e

    def _private(self, found: list[ForeignEal]) -> Iterator[ForeignEal]:
        """Yield EALs of --in-memory and --no-shconf, by their memfds and anonymous hugepages."""
        known = {p.pid for e in found for p in e.holders}
        for p in self.processes:
            if p.pid in known or not PRIVATE.search(p.maps):  # a JVM has anonymous ones as well
                continue
            e = ForeignEal(None)
            e.primary, e.primary_pid, e.age = p, p.pid, p.age
            try:
                if memory := p.own_config():
                    e.snapshot = Snapshot(memory, memory.at)
            except (OSError, Unreadable) as err:
                e.why = str(err)
            if e.snapshot or b"/memfd:seg_" in p.maps:
                yield e


def _memory_of(holders: list[Process]) -> Callable[[int, int], bytes] | None:
    """Return read(va, n) of the first process of an EAL that this user may read."""
    for p in holders:
        try:
            return ProcessMemory(p.pid).at
        except OSError:
            continue
    return None


def same_file(a: str, b: str) -> bool:
    try:
        return a == b or os.path.samefile(a, b)
    except OSError:
        return False
