"""What the kernel says of a process: /proc/PID and /proc/locks as plain objects."""

from __future__ import annotations

import os
import re
import struct
from pathlib import Path
from typing import NamedTuple

PAGE = os.sysconf("SC_PAGESIZE")


def rounded(n):
    """Return the bytes of a file or mapping for n bytes: whole pages of the kernel."""
    return -(-n // PAGE) * PAGE


class Map(NamedTuple):
    """One line of /proc/PID/maps; with smaps also bytes in memory, page size and VmFlags."""

    start: int
    end: int
    perms: str
    offset: int
    dev: str
    inode: int
    path: str
    rss: int = 0
    huge: int = 0  # in hugepages: not in rss
    page_sz: int = 0
    flags: frozenset[str] = frozenset()

    @property
    def len(self):
        return self.end - self.start


class Lock(NamedTuple):
    """One line of /proc/locks. `end` is None for the end of the file."""

    kind: str  # FLOCK, POSIX, OFDLCK
    mode: str  # READ, WRITE
    pid: int  # who asked for it; 0 or less from another pid namespace
    dev: str
    inode: int
    start: int
    end: int | None
    waits: bool


class Fd(NamedTuple):
    path: str
    flags: int
    pos: int
    dev: int
    inode: int


LINE = re.compile(r"(\w+)-(\w+) (\S{4}) (\w+) (\S+) (\d+) *(.*)")


def _maps(pid, name):
    found = []
    with open(f"/proc/{pid}/{name}") as f:
        for line in f:
            if m := LINE.match(line):
                a, b, perms, off, dev, ino, path = m.groups()
                found.append(Map(int(a, 16), int(b, 16), perms, int(off, 16), dev, int(ino), path))
            else:
                key, _, value = line.partition(":")
                m = found[-1]
                match key:
                    case "Rss":
                        found[-1] = m._replace(rss=int(value.split()[0]) * 1024)
                    case "Shared_Hugetlb" | "Private_Hugetlb":
                        found[-1] = m._replace(huge=m.huge + int(value.split()[0]) * 1024)
                    case "KernelPageSize":
                        found[-1] = m._replace(page_sz=int(value.split()[0]) * 1024)
                    case "VmFlags":
                        found[-1] = m._replace(flags=frozenset(value.split()))
    return found


def maps(pid):
    return _maps(pid, "maps")


def smaps(pid):
    return _maps(pid, "smaps")


def locks(path=None, pid=None):
    """Locks on one file and/or of one process. The inode decides: pids differ by namespace.

    The kernel hands the list out in parts, and forgets a line at a seam when others unlock
    meanwhile: what two readings agree on counts.
    """
    where = None
    if path is not None:
        st = os.stat(path)
        where = f"{os.major(st.st_dev):02x}:{os.minor(st.st_dev):02x}", st.st_ino
    seen = None
    for _ in range(20):
        found = [x for x in _locks() if where in (None, (x.dev, x.inode)) and pid in (None, x.pid)]
        # at a seam of its list the kernel tells some twice: a process has a range of a file once
        found = [x for i, x in enumerate(found) if x.kind != "POSIX" or x not in found[:i]]
        if found == seen:
            break
        seen = found
    return found


def _locks():
    with open("/proc/locks") as f:
        for line in f:
            _, *rest = line.split()
            waits = rest[0] == "->"
            kind, _, mode, who, where, start, end = rest[waits:]
            dev, _, inode = where.rpartition(":")
            end = None if end == "EOF" else int(end)
            yield Lock(kind, mode, int(who), dev, int(inode), int(start), end, waits)


def fds(pid):
    """Open descriptors: number -> Fd."""
    found = {}
    for fd in sorted(map(int, os.listdir(f"/proc/{pid}/fd"))):
        try:
            st = os.stat(f"/proc/{pid}/fd/{fd}")
            info = dict(
                x.split(":\t")
                for x in Path(f"/proc/{pid}/fdinfo/{fd}").read_text().splitlines()[:2]
            )
            path = os.readlink(f"/proc/{pid}/fd/{fd}")
        except FileNotFoundError:  # closed meanwhile
            continue
        found[fd] = Fd(path, int(info["flags"].strip(), 8), int(info["pos"]), st.st_dev, st.st_ino)
    return found


def limit(pid, name):
    """Soft and hard limit of a resource, by its name in /proc/PID/limits: "Max open files"."""
    for line in Path(f"/proc/{pid}/limits").read_text().splitlines():
        if line.startswith(name):
            return [-1 if x == "unlimited" else int(x) for x in line[len(name) :].split()[:2]]
    raise KeyError(name)


def frame(pid, va):
    """Physical address of a virtual one by /proc/PID/pagemap, 0 when the kernel hides it."""
    with open(f"/proc/{pid}/pagemap", "rb", buffering=0) as f:
        f.seek(va // PAGE * 8)
        (entry,) = struct.unpack("Q", f.read(8))
    pfn = entry & (1 << 55) - 1
    return pfn * PAGE + va % PAGE if pfn else 0


def node(pid, va):
    """NUMA node of the page at the start of a mapping, by numa_maps; None when not there."""
    for line in Path(f"/proc/{pid}/numa_maps").read_text().splitlines():
        if int(line.split()[0], 16) == va and (m := re.search(r" N(\d+)=", line)):
            return int(m[1])
    return None
