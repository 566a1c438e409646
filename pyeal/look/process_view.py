"""The machine as one process sees it: its mounts, limits, groups, addresses."""

from __future__ import annotations

import os
from errno import EACCES, EINVAL

from pyeal import libc
from pyeal.cparse import size_of
from pyeal.host import Host, parse_maps
from pyeal.look import locks, runtime_dir
from pyeal.look.config import HeldConfig
from pyeal.look.hugedir import PageFile
from pyeal.look.process import NO_LIMIT, Process, inside, number
from pyeal.look.sources import Folder

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator


class ProcessView(Host):
    """The machine as a process sees it, this process if pid is None.

    root: a directory that stands for / (a fake host).
    at: the prefix with which paths of that process can be opened here.
    """

    def __init__(self, pid: int | None = None, root: str = "") -> None:
        self.pid, self.root = pid or os.getpid(), root
        self.own = pid is None or pid == os.getpid()
        self.me = f"{root}/proc/self" if self.own else f"{root}/proc/{pid}"
        self.process = Process(self.pid, at=self.me)
        self.at = root if self.own or self._same("mnt") else f"/proc/{pid}/root"
        self.sys = f"{self.at}/sys"
        self.proc = f"{root}/proc"
        self.mounts = f"{self.proc if self.own else self.me}/mounts"
        self.namespace, self.capable, self.limit = (
            self.process.namespace,
            self.process.capable,
            self.process.limit,
        )
        self._flocked: dict[str, list[tuple[str, int]]] | None = None
        self._page_files: dict[str, list[PageFile]] = {}
        self.primary_build: dict[str, int] | None = None  # of the prefix that doctor checks

    def path(self, path: str) -> str:
        """Return a path of that process as this one can open it."""
        return f"{self.at}{path}"

    def _same(self, kind: str) -> bool:
        try:
            return os.stat(f"{self.me}/ns/{kind}").st_ino == os.stat(f"/proc/self/ns/{kind}").st_ino
        except OSError:
            return True

    @property
    def sees_all_locks(self) -> bool:
        """Whether /proc/locks has all locks: it omits holders in other PID namespaces."""
        return locks.in_initial_pid_ns()

    def read(self, path: str) -> str:
        """Return a file's text, "" if there is none or it may not be read."""
        return locks.read_text(f"{self.root}{path}")

    # the process

    @property
    def status(self) -> dict[str, str]:
        return self.process.status

    @property
    def uid(self) -> int:
        return int(self.status.get("Uid", f"{os.geteuid()} {os.geteuid()}").split()[1])

    @property
    def in_user_namespace(self) -> bool:
        """Whether its user ids are those of a user namespace: its root is not the host's."""
        words = self.read(f"{self.me[len(self.root) :]}/uid_map").split()
        return bool(words) and words != ["0", "0", "4294967295"]

    @property
    def gids(self) -> set[int]:
        words = [
            *self.status.get("Gid", "0 0").split()[1:2],
            *self.status.get("Groups", "").split(),
        ]
        return {int(w) for w in words}

    def environ(self) -> dict[str, str]:
        return dict(os.environ) if self.own else self.process.environ()

    def affinity(self) -> set[int]:
        try:
            return super().affinity() if self.own else os.sched_getaffinity(self.pid)
        except OSError:
            return set()

    def usable_cpus(self) -> set[int]:
        """Return the CPUs that its cpuset allows: its affinity if the cpuset cannot be seen."""
        return self.allowed_cpus(range(os.cpu_count() or 1)) or self.affinity()

    def allowed_cpus(self, asked: Iterable[int]) -> set[int] | None:
        """Return which of these CPUs a thread of it could be pinned to; None if that is unknown.

        This process tries it, and goes back to the affinity that it had.
        """
        if not self.own or self.root:
            return None
        before, found = self.affinity(), set[int]()
        if not before:
            return None
        try:
            for cpu in asked:
                try:
                    os.sched_setaffinity(0, {cpu})
                    found.add(cpu)
                except OSError as e:
                    if e.errno != EINVAL:
                        return None
        finally:
            os.sched_setaffinity(0, before)
        return found

    def raise_open_files(self) -> int:
        """Return the hard limit; this process's own limit stays as it is."""
        return self.limit("Max open files")[1]

    def open_files(self) -> int:
        n = self.process.open_descriptors()
        return 4 if n is None else n

    def mems_allowed(self) -> set[int] | None:
        text = self.status.get("Mems_allowed_list", "")
        return set(numbers(text)) if text else None

    def maps(self) -> list[tuple[int, int, str]]:
        """Return (start, end, path or name) of each mapping. Raises OSError if it may not look."""
        with open(f"{self.me}/maps", encoding="utf-8", errors="replace") as f:
            return [(start, end, name) for start, end, _, name in parse_maps(f.read())]

    # hugetlb cgroups

    def cgroups(self) -> list[str]:
        """Return the directories of the hugetlb controller, from the process's own group upward."""
        where = {2: "/sys/fs/cgroup", 1: "/sys/fs/cgroup/hugetlb"}
        for line in self.read("/proc/self/mountinfo").splitlines():
            left, _, right = line.partition(" - ")
            kind, _, opts = right.split(" ", 2)
            if kind == "cgroup2":
                where[2] = left.split()[4]
            elif kind == "cgroup" and "hugetlb" in opts.split(","):
                where[1] = left.split()[4]
        found = []
        for line in self.read(f"{self.me[len(self.root) :]}/cgroup").splitlines():
            hierarchy, controllers, at = line.split(":", 2)
            if hierarchy != "0" and "hugetlb" not in controllers.split(","):
                continue
            base = self.root + where[2 if hierarchy == "0" else 1]
            parts = [p for p in at.split("/") if p]
            found += [os.path.join(base, *parts[:n]) for n in range(len(parts), -1, -1)]
        return [d for d in found if os.path.isdir(d)]

    def hugetlb_limits(self, page_sz: int) -> Iterator[tuple[str, bool, int, int]]:
        """Yield (file, whether it limits reservations, limit, in use) of each limit, in bytes."""
        mb = page_sz >> 20
        unit = f"{mb >> 10}GB" if mb >> 10 else f"{mb}MB" if mb else f"{page_sz >> 10}KB"
        words = (
            ("max", "current"),
            ("rsvd.max", "rsvd.current"),
            ("limit_in_bytes", "usage_in_bytes"),
            ("rsvd.limit_in_bytes", "rsvd.usage_in_bytes"),
        )
        for d in self.cgroups():
            for most, used in words:
                path = f"{d}/hugetlb.{unit}.{most}"[len(self.root) :]
                limit = number(self.read(path).strip() or "max")
                if limit < NO_LIMIT:
                    now = number(self.read(f"{d}/hugetlb.{unit}.{used}"[len(self.root) :]) or "0")
                    yield path, "rsvd" in most, limit, now

    # files

    def runtime_bases(self) -> list[str]:
        """Return every directory that can contain runtime directories of this machine's users."""
        users = runtime_dir.listed(self.path("/run/user"))
        return runtime_dir.bases(self.environ(), users)

    def real(self, path: str) -> str:
        """Return the same as path(), with links followed inside: /var/run is one."""
        return inside(self.at, path)

    def access(self, path: str, mode: int) -> bool:
        """Return whether that process may; for another process by owner, group and mode."""
        path = self.real(path)
        if self.own:
            return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)
        try:
            st = os.stat(path)
        except OSError:
            return False
        if self.uid == 0 and self.capable("dac_override"):
            return True
        shift = 6 if st.st_uid == self.uid else 3 if st.st_gid in self.gids else 0
        return mode & (st.st_mode >> shift & 7) == mode

    def statfs(self, path: str) -> tuple[int, int]:
        return libc.statfs(self.path(path))

    def room(self, hugedir: str) -> tuple[int, int]:
        """Return (pages, files) that size= and nr_inodes= of a mount leave, or NO_LIMIT."""
        try:
            st = os.statvfs(self.path(hugedir))
        except OSError:
            return NO_LIMIT, NO_LIMIT
        pages = st.f_bavail if st.f_blocks else NO_LIMIT
        return pages, st.f_favail if 0 < st.f_files < NO_LIMIT else NO_LIMIT

    def kept_for(self, hugedir: str, page_sz: int) -> int:
        """Return how many unused pages the kernel keeps for a mount (min_size=)."""
        for line in self.read(self.mounts[len(self.root) :]).splitlines():
            fields = line.split(" ")
            if fields[1:3] == [hugedir, "hugetlbfs"]:
                _, eq, text = fields[3].partition("min_size=")
                least = (size_of(text.partition(",")[0]) or 0) if eq else 0
                try:
                    st = os.statvfs(self.path(hugedir))
                except OSError:
                    return 0
                return max(0, least // page_sz - (st.f_blocks - st.f_bfree))
        return 0

    def flocked(self) -> dict[str, list[tuple[str, int]]]:
        """Return {locks.file_id: [(mode, pid)]} of all flock locks that can be seen, read once."""
        if self._flocked is not None:
            return self._flocked
        found = self._flocked = dict[str, list[tuple[str, int]]]()
        for lock in locks.locks("FLOCK") if not self.root else ():
            found.setdefault(lock.file, []).append((lock.mode, lock.pid))
        return found

    def page_files(self, hugedir: str) -> list[PageFile]:
        """Return the *map_* files of a hugepage directory, of any prefix, read once. OSError."""
        if hugedir in self._page_files:
            return self._page_files[hugedir]
        held, found = self.flocked(), list[PageFile]()
        path = self.path(hugedir)
        with os.scandir(path) as entries:
            device = locks.device_id(os.stat(path).st_dev)
            for e in entries:
                if "map_" in e.name and e.is_file(follow_symlinks=False):
                    found.append(PageFile(e, held.get(f"{device}:{e.inode()}", [])))
        self._page_files[hugedir] = sorted(found, key=lambda f: f.name)
        return self._page_files[hugedir]

    def config(self, directory: str) -> HeldConfig | None:
        """Return the config of a runtime directory and its holder, None without one.

        Raises OSError(EACCES) if it may not be read.
        """
        try:
            return HeldConfig(Folder(self.real(directory)))
        except OSError as e:
            if e.errno == EACCES:
                raise
            return None


def numbers(text: str) -> list[int]:
    """ "0-2,5" -> [0, 1, 2, 5]"""
    ends = [part.split("-") for part in text.split(",") if part.strip()]
    return [n for e in ends for n in range(int(e[0]), int(e[-1]) + 1)]
