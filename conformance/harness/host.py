"""What this machine has, what a test finds missing, and whether it was left as found."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
import platform
import re
import shutil
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from conformance import until
from conformance.harness import fake_host, neighbours
from pyeal import loans, records
from pyeal.records import started as started

SYS = Path("/sys/kernel/mm/hugepages")
NODES = Path("/sys/devices/system/node")
RUN = os.path.realpath("/var/run")
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def size(name):
    """Bytes of "2M"."""
    return int(name[:-1]) * UNITS[name[-1]]


def name(sz):
    """2097152 -> "2M"."""
    return next(f"{sz // UNITS[u]}{u}" for u in "GMK" if not sz % UNITS[u])


def kernel_dir(name):
    return f"hugepages-{size(name) // 1024}kB"


class Pool(NamedTuple):
    """One page size of the whole machine."""

    total: int
    free: int
    resv: int
    surplus: int

    @property
    def available(self):
        return self.free - self.resv


def pools():
    def read(d, word):
        with open(f"{SYS}/{d}/{word}_hugepages") as f:
            return int(f.read())

    return {
        name(int(d[10:-2]) * 1024): Pool(*(read(d, w) for w in ("nr", "free", "resv", "surplus")))
        for d in sorted(os.listdir(SYS) if SYS.is_dir() else ())
    }


def free_on(node, size):
    """Free pages of a node, reserved ones included; 0 where it has no such pool."""
    file = NODES / f"node{node}/hugepages/{kernel_dir(size)}/free_hugepages"
    return int(file.read_text()) if file.exists() else 0


def nodes():
    return sorted(int(d.name[4:]) for d in NODES.glob("node[0-9]*"))


def full_nodes():
    """Nodes that have CPUs and memory."""
    files = [NODES / word for word in ("has_cpu", "has_memory")]
    sets = [set(fake_host.numbers(f.read_text().strip())) for f in files if f.exists()]
    return sorted(set.intersection(*sets)) if sets else []


def workers(a_core=1):
    """So many for each core, where each finds 64 pages; without root or pages cores alone count."""
    n, pages = a_core * len(os.sched_getaffinity(0)), pools().get("2M")
    if not is_root() or not pages or not pages.total:
        return n
    return max(1, min(n, pages.available // 64))


def closed(path):
    """The folder on the way to a path that other users may not pass, or None."""
    way = [*reversed(Path(path).resolve().parents), Path(path).resolve()]
    return next((d for d in way if d.is_dir() and not d.stat().st_mode & 0o001), None)


def is_root():
    return os.geteuid() == 0


def mountinfo():
    """Mounts as (mount point, file system type, device)."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        left, _, right = line.partition(" - ")
        found.append((left.split()[4].replace(r"\040", " "), right.split()[0], right.split()[1]))
    return found


# Needs: each answers None, or "wanted this, found that".


def _pages(want, host):
    for sz, n in want.items():
        found = host.get(sz, Pool(0, 0, 0, 0))
        if found.total < n:
            return f"wanted {n} free {sz} pages, found {found.total}"
    return None


def _strace(_):
    if not shutil.which("strace"):
        return "wanted strace, found none"
    scope = Path("/proc/sys/kernel/yama/ptrace_scope")
    if not is_root() and scope.exists() and (found := scope.read_text().strip()) != "0":
        return f"wanted root or ptrace_scope 0 for strace, found uid {os.geteuid()}, scope {found}"
    return None


def hugetlb_cgroup():
    """(directory, version) of the hugetlb controller, None without one."""
    for where, kind, _ in mountinfo():
        d = Path(where)
        if kind == "cgroup2" and "hugetlb" in (d / "cgroup.controllers").read_text().split():
            return d, 2
        if kind == "cgroup" and list(d.glob("hugetlb.*.limit_in_bytes")):
            return d, 1
    return None


def _cgroup(want):
    if not is_root():
        return f"wanted root for a {want} cgroup, found uid {os.geteuid()}"
    return None if want == "hugetlb" and hugetlb_cgroup() else f"wanted {want} cgroup, found none"


def _phys(_):
    """Frame numbers in pagemap: root with CAP_SYS_ADMIN, and not a container that hides them."""
    from conformance.harness import proc

    probe = bytearray(1)
    import ctypes

    at = ctypes.addressof(ctypes.c_char.from_buffer(probe))
    return None if proc.frame("self", at) else "wanted physical addresses, found none in pagemap"


NEEDS = {
    "root": lambda want: None if is_root() else f"wanted root, found uid {os.geteuid()}",
    "strace": _strace,
    "gdb": lambda want: None if shutil.which("gdb") else "wanted gdb, found none",
    "nodes": lambda want: (
        None
        if len(full_nodes()) >= want
        else f"wanted {want} NUMA nodes, found {len(full_nodes())}"
    ),
    "cgroup": _cgroup,
    "phys": _phys,
    "kernel": lambda want: (
        None
        if version(platform.release()) >= version(want)
        else f"wanted kernel {want}, found {platform.release()}"
    ),
    "path": lambda want: None if os.path.exists(want) else f"wanted {want}, found none",
    "cpus": lambda want: (
        None
        if len(os.sched_getaffinity(0)) >= want
        else f"wanted {want} CPUs, found {len(os.sched_getaffinity(0))}"
    ),
}


def lacks(**want):
    """Why a test cannot run here, or None."""
    for what, value in want.items():
        if what == "pages":
            why = _pages(value, pools())
        elif value in (None, False):
            continue
        else:
            why = NEEDS[what](value)
        if why:
            return why
    return None


def version(text):
    """22.11.11 -> (22, 11, 11); what follows the numbers does not count."""
    return tuple(map(int, re.findall(r"\d+", re.match(r"[\d.]*", text)[0])))


# The pool ledger. In-memory EALs take from the machine's own pool and no mount keeps pages for
# them, so all runs of a user agree by records. A box needs none: min_size= makes the kernel keep
# its pages.


class NotEnough(Exception):
    """Pages are there, but others hold them."""


class Gone(Exception):
    """Pages were there when they were counted, and not any more when they were taken."""


class Ledger:
    """What in-memory EALs of each living process may take: one locked record a take."""

    numbers = itertools.count(1)

    def __init__(self, folder=None, limit=60.0):
        self.folder = Path(folder or neighbours.own_folder() / "pages")
        self.limit = limit
        self.taken = []  # (pages, record)

    def take(self, pages, hold=None, node=None):
        """Wait until the pages are free, on this node if one is named; not for more than a pool
        has. With `hold`, it reserves them itself (a mount), or raises Gone; without, they are
        written down until `give`."""
        if not pages:
            return hold() if hold else None
        short, answer = "", None

        def took():
            nonlocal short, answer
            with records.locked(self.folder, _say):
                short, never = self._short(pages, node)
                if never:
                    raise NotEnough(short)
                if short:
                    return False
                if not hold:
                    self._write(pages)
                    return True
                try:
                    answer = hold()
                except Gone as e:
                    short = str(e)
                return not short

        if not until(took, self.limit, 0.5):
            raise NotEnough(f"{short} after {self.limit:g} s")
        return answer

    def _short(self, pages, node):
        """What is lacking, in words, and whether that will never change."""
        now, held = pools(), self._held()
        for sz, n in pages.items():
            found = now[sz].available - held.get(sz, 0) if sz in now else 0
            if node is not None:  # what is reserved may become pages of any node
                found = min(found, free_on(node, sz) - now[sz].resv - held.get(sz, 0))
            if found < n:
                never = sz not in now or now[sz].total < n
                return f"wanted {n} free {sz} pages, found {max(found, 0)}", never
        return "", False

    def _held(self):
        """What living processes have written down; records of dead ones go."""
        held = {}
        for path in self.folder.glob("*.json"):
            if records.alive(path) is False:
                path.unlink(missing_ok=True)
                continue
            for sz, n in (records.load(path) or {}).get("pages", {}).items():
                held[sz] = held.get(sz, 0) + n
        return held

    def _write(self, pages):
        path = self.folder / f"{os.getpid()}-{next(self.numbers)}-{os.urandom(3).hex()}.json"
        records.create(path, {"pages": pages})
        self.taken.append((pages, path))

    def give(self, pages):
        if not pages:
            return
        at = next(i for i, (of, _) in enumerate(self.taken) if of == pages)
        _, path = self.taken.pop(at)
        with records.locked(self.folder, _say):
            records.remove(path)


def _say(text):
    print(text, file=sys.stderr)


@contextmanager
def alone(what):
    """No other test has it meanwhile: for what there is once on a machine."""
    fd = os.open(
        neighbours.own_folder() / f"{what}.lock",
        os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC,
        0o600,
    )
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


# Left as found


class Snapshot(NamedTuple):
    """The parts of a host that a test must not change."""

    pools: dict
    mounts: frozenset
    files: frozenset
    children: frozenset
    lent: dict  # size: pages that leases have added, of this run or of others


forkservers: set[int] = set()  # of this process: what they forked counts as its children


def children():
    """Living processes whose parent is this one, or a fork server of it."""
    found = set()
    for pid in (os.getpid(), *forkservers):
        for d in Path(f"/proc/{pid}/task").iterdir():
            with contextlib.suppress(FileNotFoundError):  # a thread that has just ended
                found |= set(map(int, (d / "children").read_text().split()))
    return frozenset(found - forkservers)


def snapshot(prefix="eal_"):
    """`prefix`: file prefixes of our own; what else comes and goes in /run/dpdk is not ours."""
    mounts = mountinfo()
    files = set()
    for where, kind, _ in mounts:
        if kind == "hugetlbfs":
            try:
                files |= {f"{where}/{f}" for f in os.listdir(where) if f.startswith(prefix)}
            except OSError:
                pass
    for base in (RUN, tempfile.gettempdir()):
        if os.path.isdir(d := f"{base}/dpdk"):
            try:
                files |= {f"{d}/{f}" for f in os.listdir(d) if f.startswith(prefix)}
            except PermissionError:
                pass
    ours = {m for m in mounts if m[1] == "hugetlbfs" or m[0].startswith(("/sys/", RUN + "/dpdk"))}
    return Snapshot(pools(), frozenset(ours), frozenset(files), children(), lent())


def lent():
    """What all leases have added to the pools."""
    found = {}
    for _, loan, _ in loans.all_loans():
        for sz, n in (loan or {}).get("took", {}).items():
            sz = sz.partition("@")[0]
            found[sz] = found.get(sz, 0) + n
    return found


def users():
    """Other processes that hold hugepages or could, one after the other: counters cannot be laid at
    our door then."""
    us = os.readlink("/proc/self/ns/mnt")
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            if os.readlink(f"/proc/{pid}/ns/mnt") != us:
                with open(f"/proc/{pid}/mountinfo") as f:
                    found = " hugetlbfs " in f.read()
                if found:
                    yield int(pid)
                    continue
            with open(f"/proc/{pid}/status") as f:
                held = re.search(r"HugetlbPages:\s+(\d+)", f.read())
            if held and held[1] != "0":
                yield int(pid)
        except PermissionError:  # another user's: who knows
            yield int(pid)
        except OSError:
            continue


def own_total(snapshot, sz):
    """Pages of a pool without surplus ones: a lease that ends leaves such where they are in use."""
    p = snapshot.pools[sz]
    return p.total - p.surplus


def difference(before, after):
    """What a test left behind or took away, as sentences."""
    said = []
    for sz, b in before.pools.items():
        a = after.pools.get(sz)
        grown = own_total(after, sz) - own_total(before, sz) if a else None
        lent = after.lent.get(sz, 0) - before.lent.get(sz, 0)
        if grown is None or grown not in (0, lent):
            said.append(f"{sz} pool changed: {b} -> {a}")
        elif a.available < b.available and not any(users()):
            said.append(f"{b.available - a.available} {sz} pages are missing")
    said += [f"mount left behind: {m[0]} ({m[1]})" for m in after.mounts - before.mounts]
    said += [f"mount is gone: {m[0]} ({m[1]})" for m in before.mounts - after.mounts]
    said += [f"file left behind: {f}" for f in sorted(after.files - before.files)]
    said += [f"process left behind: {p} {cmdline(p)}" for p in after.children - before.children]
    return said


def of_pools(said):
    """Whether a sentence of `difference` is about the pools, which other users change as well."""
    return said.endswith("pages are missing") or " pool changed: " in said


def cmdline(pid):
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()[:100]
    except OSError:
        return "(gone)"


SETTLED = 30.0  # seconds after which what is left is left behind, also on a slow machine


def settled(before, prefix="eal_"):
    """Return the difference that remains: the kernel may take its time, on a slow machine much."""
    said = []

    def as_before():
        nonlocal said
        said = difference(before, snapshot(prefix))
        return not said

    until(as_before, SETTLED)
    return said
