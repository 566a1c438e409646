"""The machine as one process sees it: its mounts, limits, groups, addresses. Nothing is changed."""

from __future__ import annotations

import os
from errno import EACCES

from pyeal import config, files, layout, libc
from pyeal.cparse import size_of
from pyeal.host import Host
from pyeal.tools import scan

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


NO_LIMIT = 1 << 62
CAPS = {"sys_admin": 21, "sys_nice": 23, "ipc_lock": 14, "dac_override": 1, "sys_resource": 24}


class View(Host):
    """pid: whose view, this process's if None; root: a tree that stands for / (a fake host)."""

    def __init__(self, pid: int | None = None, root: str = "") -> None:
        self.pid, self.root = pid or os.getpid(), root
        self.own = pid is None or pid == os.getpid()
        self.me = f"{root}/proc/self" if self.own else f"{root}/proc/{pid}"
        self.at = root if self.own or self._same("mnt") else f"/proc/{pid}/root"
        self.sys = f"{self.at}/sys"
        self.proc = f"{root}/proc"
        self.mounts = f"{self.proc if self.own else self.me}/mounts"
        self._status: dict[str, str] | None = None
        self._flocked: dict[str, list[tuple[str, int]]] | None = None
        self._page_files: dict[str, list[PageFile]] = {}

    def path(self, inside: str) -> str:
        """A path of that process as this one can open it."""
        return f"{self.at}{inside}"

    def _same(self, ns: str) -> bool:
        try:
            return os.stat(f"{self.me}/ns/{ns}").st_ino == os.stat(f"/proc/self/ns/{ns}").st_ino
        except OSError:
            return True

    def namespace(self, ns: str) -> str:
        """ "pid:[4026531836]", "" where it may not be seen."""
        try:
            return os.readlink(f"{self.me}/ns/{ns}")
        except OSError:
            return ""

    @property
    def sees_all_locks(self) -> bool:
        """/proc/locks leaves out holders of other process namespaces."""
        return scan.in_initial_pid_ns()

    def read(self, path: str) -> str:
        """A file's text, "" where there is none or it may not be read."""
        try:
            with open(f"{self.root}{path}", encoding="utf-8", errors="replace") as f:
                return f.read()
        except OSError:
            return ""

    # the process

    @property
    def status(self) -> dict[str, str]:
        if self._status is None:
            lines = self.read(self.me[len(self.root) :] + "/status").splitlines()
            self._status = {k: v.strip() for k, _, v in (line.partition(":") for line in lines)}
        return self._status

    @property
    def uid(self) -> int:
        return int(self.status.get("Uid", f"{os.geteuid()} {os.geteuid()}").split()[1])

    @property
    def gids(self) -> set[int]:
        words = [
            *self.status.get("Gid", "0 0").split()[1:2],
            *self.status.get("Groups", "").split(),
        ]
        return {int(w) for w in words}

    def capable(self, name: str) -> bool:
        return bool(int(self.status.get("CapEff", "0"), 16) >> CAPS[name] & 1)

    def environ(self) -> dict[str, str]:
        if self.own:
            return dict(os.environ)
        text = self.read(f"/proc/{self.pid}/environ")
        return dict(e.split("=", 1) for e in text.split("\0") if "=" in e)

    def affinity(self) -> set[int]:
        return os.sched_getaffinity(0 if self.own else self.pid)

    def limit(self, name: str) -> tuple[int, int]:
        """(soft, hard) of a line of /proc/PID/limits: "Max open files"."""
        for line in self.read(f"{self.me[len(self.root) :]}/limits").splitlines():
            if line.startswith(name):
                soft, hard = line[len(name) :].split()[:2]
                return _number(soft), _number(hard)
        return NO_LIMIT, NO_LIMIT

    def raise_open_files(self) -> int:
        """Returns the hard limit; this process's own limit stays as it is."""
        return self.limit("Max open files")[1]

    def open_files(self) -> int:
        try:
            return len(os.listdir(f"{self.me}/fd"))
        except OSError:
            return 4

    def mems_allowed(self) -> set[int] | None:
        text = self.status.get("Mems_allowed_list", "")
        return set(numbers(text)) if text else None

    def maps(self) -> list[tuple[int, int, str]]:
        """(start, end, name) of each mapping. OSError where they may not be read."""
        found = []
        with open(f"{self.me}/maps", encoding="utf-8", errors="replace") as f:
            for line in f:
                fields = line.split(maxsplit=5)
                start, end = (int(x, 16) for x in fields[0].split("-"))
                found.append((start, end, fields[5].strip() if len(fields) > 5 else ""))
        return found

    # hugetlb cgroups

    def cgroups(self) -> list[str]:
        """Directories of the hugetlb controller, from the process's own group upward."""
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
            number, controllers, at = line.split(":", 2)
            if number != "0" and "hugetlb" not in controllers.split(","):
                continue
            base = self.root + where[2 if number == "0" else 1]
            parts = [p for p in at.split("/") if p]
            found += [os.path.join(base, *parts[:n]) for n in range(len(parts), -1, -1)]
        return [d for d in found if os.path.isdir(d)]

    def hugetlb_limits(self, page_sz: int) -> Iterator[tuple[str, bool, int, int]]:
        """(file, whether it holds back reservations, limit, in use) of each limit, in bytes."""
        mb = page_sz >> 20
        unit = f"{mb >> 10}GB" if mb >> 10 else f"{mb}MB" if mb else f"{page_sz >> 10}KB"
        words = (("max", "current"), ("rsvd.max", "rsvd.current"),
                 ("limit_in_bytes", "usage_in_bytes"),
                 ("rsvd.limit_in_bytes", "rsvd.usage_in_bytes"))  # fmt: skip
        for d in self.cgroups():
            for most, used in words:
                path = f"{d}/hugetlb.{unit}.{most}"[len(self.root) :]
                limit = _number(self.read(path).strip() or "max")
                if limit < NO_LIMIT:
                    now = _number(self.read(f"{d}/hugetlb.{unit}.{used}"[len(self.root) :]) or "0")
                    yield path, "rsvd" in most, limit, now

    # files

    def runtime_bases(self) -> list[str]:
        """Every place where runtime directories of this machine's users may lie."""
        env = self.environ()
        users = [f"/run/user/{n}" for n in _listed(self.path("/run/user"))]
        bases = [env.get("RUNTIME_DIRECTORY", ""), "/var/run", env.get("XDG_RUNTIME_DIR", "")]
        return list(dict.fromkeys(f"{b}/dpdk" for b in [*bases, *users, "/tmp"] if b))

    def real(self, inside: str) -> str:
        """The same as path(), with links followed inside: /var/run is one."""
        return scan.inside(self.at, inside)

    def access(self, inside: str, mode: int) -> bool:
        """Whether that process may; by owner, group and mode, where it is another one."""
        path = self.real(inside)
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

    def statfs(self, inside: str) -> tuple[int, int]:
        return libc.statfs(self.path(inside))

    def room(self, hugedir: str) -> tuple[int, int]:
        """(pages, files) that the mount's size= and nr_inodes= leave; NO_LIMIT without them."""
        try:
            st = os.statvfs(self.path(hugedir))
        except OSError:
            return NO_LIMIT, NO_LIMIT
        pages = st.f_bavail if st.f_blocks else NO_LIMIT
        return pages, st.f_favail if 0 < st.f_files < NO_LIMIT else NO_LIMIT

    def kept_for(self, hugedir: str, page_sz: int) -> int:
        """Pages that the kernel keeps for a mount (min_size=) and that it does not use yet."""
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
        """scan.file_id -> [(mode, pid)] of all flock locks that can be seen, read once."""
        if self._flocked is not None:
            return self._flocked
        found = self._flocked = dict[str, list[tuple[str, int]]]()
        for lock in scan.locks("FLOCK") if not self.root else ():
            found.setdefault(lock.file, []).append((lock.mode, lock.pid))
        return found

    def page_files(self, hugedir: str) -> list[PageFile]:
        """The *map_* files of a hugepage directory, of any prefix, read once. OSError."""
        if hugedir in self._page_files:
            return self._page_files[hugedir]
        held, found = self.flocked(), list[PageFile]()
        path = self.path(hugedir)
        with os.scandir(path) as entries:
            device = scan.device_id(os.stat(path).st_dev)
            for e in entries:
                if "map_" in e.name and e.is_file(follow_symlinks=False):
                    found.append(PageFile(e, held.get(f"{device}:{e.inode()}", [])))
        self._page_files[hugedir] = sorted(found, key=lambda f: f.name)
        return self._page_files[hugedir]

    def config(self, directory: str) -> Config | None:
        """What `config` there says, and who holds it; None without one. OSError(EACCES)."""
        try:
            return Config(f"{self.real(directory)}/config")
        except OSError as e:
            if e.errno == EACCES:
                raise
            return None


class PageFile:
    """A page's file in a hugepage directory; holders: [(lock mode, pid)].

    It is looked at when first asked for more: thousands are in use, and few are asked for.
    """

    __slots__ = ("entry", "holders", "name")

    def __init__(self, entry: os.DirEntry[str], holders: list[tuple[str, int]]) -> None:
        self.entry, self.name, self.holders = entry, entry.name, holders

    @property
    def prefix(self) -> str:
        return self.name.rpartition("map_")[0]

    @property
    def uid(self) -> int:
        return self._stat()[0]

    @property
    def size(self) -> int:
        return self._stat()[1]

    @property
    def pages_bytes(self) -> int:
        return self._stat()[2]

    def _stat(self) -> tuple[int, int, int]:
        """(owner, size, bytes of its pages); nobody's and empty if it is gone meanwhile."""
        try:
            st = self.entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return -1, 0, 0
        return st.st_uid, st.st_size, st.st_blocks * 512


class Config(config.Copy):
    """`config` of some primary, read without a lock; owner: pid, 0 for one that cannot be seen.

    alive: whether a process holds it locked, as a primary does all its life.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        fd = files.open_untrusted(path, config.LIMIT)
        try:
            super().__init__(os.pread(fd, layout.CONFIG_SIZE, 0))
            self.alive, self.owner = scan.lock_holder(fd)
        finally:
            os.close(fd)


def _number(text: str) -> int:
    text = text.strip()
    n = int(text) if text.isdecimal() else NO_LIMIT
    return NO_LIMIT if n >= NO_LIMIT else n  # cgroup v1 says "no limit" with a number


def numbers(text: str) -> list[int]:
    """ "0-2,5" -> [0, 1, 2, 5]"""
    ends = [part.split("-") for part in text.split(",") if part.strip()]
    return [n for e in ends for n in range(int(e[0]), int(e[-1]) + 1)]


def _listed(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []
