"""One process of any program: what /proc/PID says about it."""

from __future__ import annotations

import os
import re
import time
from functools import cached_property

from pyeal import releases
from pyeal.host import parse_maps
from pyeal.look.config import find_config
from pyeal.look.sources import ProcessMemory

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Dict = dict[str, Any]

MAPPED = re.compile(r"^\w+-\w+ \S{4} \w+ (\S+) ([1-9]\d*) .*/", re.M)
CONFIG = re.compile(rb"^(\w+)-\w+ (\S{4}) \w+ \S+ \d+ +(/\S.*)/config( \(deleted\))?$")
ANONYMOUS = re.compile(rb"/memfd:(?:seg_|nohuge)|anon_hugepage")
PAGES = re.compile(r"map_\d+(?:_\d+)?(?: \(deleted\))?$|/memfd:(?:seg_|nohuge)|anon_hugepage")
BARE = "memfd:seg_", "memfd:nohuge", "anon_hugepage"
ABI = releases.abis()


NO_LIMIT = 1 << 62
CAPABILITIES = {  # linux/capability.h
    "dac_override": 1,
    "ipc_lock": 14,
    "sys_admin": 21,
    "sys_nice": 23,
    "sys_resource": 24,
}


def read(path: str) -> bytes:
    """Return the content of a file of /proc, b"" if it is gone or this user may not read it."""
    try:
        with open(path, "rb", buffering=0) as f:
            return f.read()
    except OSError:
        return b""


def pids() -> list[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


class Process:
    """One process.

    at: its directory in /proc; maps: the content of its maps, read if it is not given.
    """

    def __init__(self, pid: int, maps: bytes | None = None, at: str = "") -> None:
        self.pid, self.at, self._maps = pid, at or f"/proc/{pid}", maps

    def _read(self, name: str) -> bytes:
        return read(f"{self.at}/{name}")

    @cached_property
    def maps(self) -> bytes:
        """The content of its maps, b"" if they may not be read."""
        return self._read("maps") if self._maps is None else self._maps

    # identity and state

    @cached_property
    def comm(self) -> str:
        return self._read("comm").decode("utf-8", "replace").strip()

    @cached_property
    def _stat(self) -> list[bytes]:
        """The fields of stat from the third on, [] if it is gone."""
        return self._read("stat").rpartition(b")")[2].split()

    @cached_property
    def state(self) -> str:
        return self._stat[0].decode() if self._stat else "?"

    @property
    def age(self) -> float:
        """Seconds since it started."""
        if not self._stat:
            return time.clock_gettime(time.CLOCK_BOOTTIME)
        started = int(self._stat[19]) / os.sysconf("SC_CLK_TCK")
        return max(time.clock_gettime(time.CLOCK_BOOTTIME) - started, 0.0)

    @property
    def cmdline(self) -> list[str]:
        return [os.fsdecode(a) for a in self._read("cmdline").split(b"\0")][:-1]

    def option(self, name: str) -> str | None:
        """Return the value of an EAL option on its command line, None if it is not given."""
        argv = self.cmdline
        for i, a in enumerate(argv):
            if a == name:
                return argv[i + 1] if i + 1 < len(argv) else ""
            if a.startswith(name + "="):
                return a[len(name) + 1 :]
        return None

    @property
    def waits_in(self) -> str:
        """The kernel function that it sleeps in; "" without root's rights."""
        text = self._read("wchan").decode().strip()
        return "" if text == "0" else text

    # its rights and limits

    @cached_property
    def status(self) -> dict[str, str]:
        lines = self._read("status").decode("utf-8", "replace").splitlines()
        return {k: v.strip() for k, _, v in (line.partition(":") for line in lines)}

    @property
    def hugetlb_bytes(self) -> int:
        """Bytes of hugepages that it maps."""
        return int((self.status.get("HugetlbPages") or "0").split()[0]) << 10

    def hugepages_of(self, page_sz: int) -> int:
        """Return bytes of hugepages of a size that it maps; of all sizes if it hides numa_maps."""
        lines = self._read("numa_maps").splitlines()
        if not lines:
            return self.hugetlb_bytes
        word, total = b" kernelpagesize_kB=%d" % (page_sz >> 10), 0
        for line in lines:
            if b" huge " in line + b" " and line.endswith(word):
                total += sum(int(n) for n in re.findall(rb" N\d+=(\d+)", line))
        return total * page_sz

    def unmapped_hugepages(self, page_sz: int) -> int:
        """Return bytes of hugepages of a size in files without a name that it has open."""
        total, seen = 0, set[int]()
        try:
            fds = os.listdir(f"{self.at}/fd")
        except OSError:
            return 0
        for fd in fds:
            try:
                if not os.readlink(at := f"{self.at}/fd/{fd}").endswith(" (deleted)"):
                    continue
                st = os.stat(at)
                if st.st_ino not in seen and st.st_blksize == page_sz:
                    seen.add(st.st_ino)
                    total += st.st_blocks * 512
            except OSError:
                continue
        return total

    def capable(self, name: str) -> bool:
        return bool(int(self.status.get("CapEff", "0"), 16) >> CAPABILITIES[name] & 1)

    def environ(self) -> dict[str, str]:
        entries = os.fsdecode(self._read("environ")).split("\0")
        return dict(e.split("=", 1) for e in entries if "=" in e)

    def limit(self, name: str) -> tuple[int, int]:
        """Return (soft, hard) of a line of its limits, such as "Max open files"."""
        for line in self._read("limits").decode("utf-8", "replace").splitlines():
            if line.startswith(name):
                soft, hard = line[len(name) :].split()[:2]
                return number(soft), number(hard)
        return NO_LIMIT, NO_LIMIT

    def open_descriptors(self) -> int | None:
        """Return how many descriptors it has open, None without the right to look."""
        try:
            return len(os.listdir(f"{self.at}/fd"))
        except OSError:
            return None

    def descriptors(self) -> Dict:
        """Return how many descriptors it has open, and its limits; {} without the right to look."""
        if (n := self.open_descriptors()) is None:
            return {}
        soft, hard = (-1 if n >= NO_LIMIT else n for n in self.limit("Max open files"))
        return {"open": n, "soft_limit": soft, "hard_limit": hard}

    def namespace(self, kind: str) -> str:
        """Return "pid:[4026531836]", "" without the right to look."""
        try:
            return os.readlink(f"{self.at}/ns/{kind}")
        except OSError:
            return ""

    @cached_property
    def root(self) -> str:
        """The prefix with which its paths can be opened here: "" if they mean the same."""
        try:
            a, b = os.stat("/"), os.stat(f"{self.at}/root/")
            same = (a.st_dev, a.st_ino) == (b.st_dev, b.st_ino)
            if same and os.readlink(f"{self.at}/ns/mnt") == os.readlink("/proc/self/ns/mnt"):
                return ""
            return f"{self.at}/root"
        except OSError:
            return ""

    # what it maps

    def mappings(self) -> Iterator[tuple[int, int, str, str]]:
        """Yield (start, end, permissions, path or name) of each mapping."""
        return parse_maps(os.fsdecode(self.maps))

    def configs(self) -> Iterator[tuple[int, bool, str, bool]]:
        """Yield (address, writable, runtime directory, deleted) of each config that it maps."""
        at = self.maps.find(b"/config")
        while at >= 0:
            end = self.maps.find(b"\n", at)
            line = self.maps[self.maps.rfind(b"\n", 0, at) + 1 : end]
            m = CONFIG.match(line)
            if m and b"/dpdk/" in line:
                yield int(m[1], 16), b"w" in m[2], os.fsdecode(m[3]), bool(m[4])
            at = self.maps.find(b"/config", end)

    def files(self) -> set[str]:
        """Return file_id of each file that it maps."""
        return {f"{dev}:{inode}" for dev, inode in MAPPED.findall(self.maps.decode("latin-1"))}

    def overlay(self, lists: list[Dict], prefix: str, member: bool = True) -> Dict:
        """Return what it maps in the address ranges of an EAL's lists.

        pages: [start, end] of the EAL's pages; kept: of reserved address space; foreign: of
        anything else, which is in the way. If it is not a member of the EAL, all is foreign.
        """
        spans = sorted((ml["base_va"], ml["base_va"] + ml["len"]) for ml in lists)
        found: Dict = {"pages": [], "kept": [], "foreign": []}
        ours = f"{prefix}map_", *BARE
        first = 0  # of the spans that are not passed yet; both go up
        for start, end, perms, path in self.mappings():
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
        """Return the hugepages of an EAL that shares nothing, by size and node, of numa_maps."""
        found: dict[tuple[int, int], int] = {}
        for line in self._read("numa_maps").splitlines():
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
        """Return the release by the name of its librte_eal.so, "" if it is linked statically."""
        m = re.search(rb"/librte_eal\.so\.((\d+)(?:\.\d+)?)", self.maps)
        if not m:
            return ""
        return ABI.get(m[1].decode()) or ABI.get(m[2].decode(), "")

    def own_config(self) -> ProcessMemory | None:
        """Return its memory if it has a config that is in no file.

        Raises OSError without the right to read it.
        """
        areas, left = [], 256 << 20
        for line in self.maps.splitlines():
            words = line.split(None, 5)
            if words[1][:2] == b"rw" and words[1][3:] == b"p" and b"hugepage" not in line:
                start, end = (int(x, 16) for x in words[0].split(b"-"))
                if end - start <= min(left, 64 << 20):
                    areas.append((start, end))
                    left -= end - start
        memory = ProcessMemory(self.pid)
        memory.config, memory.config_size = find_config(memory, areas)
        if memory.config:
            return memory
        memory.close()
        return None


def _join(spans: list[list[Any]], new: list[Any]) -> None:
    """Append a span, or extend the last one."""
    last = spans[-1] if spans else None
    if last and last[1] == new[0] and (len(new) == 2 or _what(last) == _what(new)):
        last[1] = new[1]
    else:
        spans.append(new)


def _what(span: list[Any]) -> str:
    """Return what a span is; all pages of one EAL are the same."""
    return re.sub(r"map_\d+(_\d+)?$", "map_", span[2])


def number(text: str) -> int:
    """Return a number of /proc or of a cgroup, NO_LIMIT for "unlimited" and "max"."""
    text = text.strip()
    n = int(text) if text.isdecimal() else NO_LIMIT
    return NO_LIMIT if n >= NO_LIMIT else n  # cgroup v1 writes "no limit" as a number


def inside(root: str, path: str) -> str:
    """Return a path of another root as it can be opened here, links followed inside that root."""
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
