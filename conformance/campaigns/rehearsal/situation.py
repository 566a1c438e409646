"""A situation as plain data, and the makers of which a random one is composed.

A maker changes the situation by a random choice; what it has chosen stands in `told`.
"""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    Maker = Callable[["Situation", random.Random], object]

NOBODY = 65534
HUGE = "/run/hugepages/2M"
PAGES = 8  # of the mount that each situation begins with
MODES = ("dynmem", "dynmem", "legacy", "in-memory", "no-huge", "single-file", "no-shconf")
ARGS = {
    "dynmem": [],
    "legacy": ["--legacy-mem"],
    "in-memory": ["--in-memory"],
    "no-huge": ["--no-huge"],
    "single-file": ["--single-file-segments"],
    "no-shconf": ["--no-shconf"],
}


class Situation:
    """One start in one place. steps: (verb of world.World, its arguments), in order."""

    def __init__(self, seed: str, release: str) -> None:
        self.seed, self.release = seed, release
        self.makers: list[str] = []
        self.told: list[str] = []
        self.mode = "dynmem"
        self.memory: list[str] = []  # -m and the like
        self.args: list[str] = []
        self.env: dict[str, str] = {}
        self.uid: int | None = None
        self.userns = False
        self.drop: list[str] = []  # capabilities
        self.limits: dict[str, int] = {}
        self.cpus: list[int] | None = None  # affinity
        self.denied: dict[str, int] = {}  # system call -> errno of a filter
        self.cpuset = False
        self.cgroup: dict[str, str] = {}  # file of a hugetlb cgroup -> content
        self.mount: str | None = f"size={PAGES * 2}M,min_size={PAGES * 2}M"
        self.mount_mode = ""
        self.steps: list[list[Any]] = []

    def do(self, verb: str, *args: Any) -> None:
        self.steps.append([verb, *args])

    @property
    def eal_args(self) -> list[str]:
        return [*ARGS[self.mode], *self.memory, *self.args]

    def __str__(self) -> str:
        return f"{self.seed}: {self.release} {' '.join(self.eal_args)} | {'; '.join(self.told)}"

    def as_json(self) -> str:
        return json.dumps(self.__dict__, indent=1)


MAKERS: dict[str, Maker] = {}


def maker(fn: Maker) -> Maker:
    MAKERS[fn.__name__] = fn  # type: ignore[attr-defined]
    return fn


def compose(seed: str, releases: Sequence[str], only: Sequence[str] = ()) -> Situation:
    """Return the situation of a seed: a release, a mode, an amount, and one to three makers."""
    r = random.Random(seed)
    s = Situation(seed, r.choice(releases))
    s.mode = r.choice(MODES)
    amount = r.choice([0, 0, 2, 4, 6, 12])
    if amount:
        s.memory = [r.choice(["-m", "--socket-mem"]), str(amount)]
    n = r.choice([1, 1, 1, 2, 2, 3])
    names = r.sample(sorted(only or MAKERS), min(n, len(only or MAKERS)))
    for name in sorted(names, key=[*MAKERS].index):
        s.makers.append(name)
        MAKERS[name](s, r)
    if s.uid and not s.mount_mode:
        s.mount_mode = ",mode=1777"
    return s


# --- mounts ---------------------------------------------------------------------------------------


@maker
def size_of_mount(s: Situation, r: random.Random) -> None:
    """size= of the hugetlbfs, and an amount around it."""
    n = r.choice([1, 2, 4])
    s.mount = f"size={n * 2}M"
    s.memory = ["-m", str(r.choice([2, 4, 8, 10]))]
    s.told.append(f"mount of {n} pages")


@maker
def inodes_of_mount(s: Situation, r: random.Random) -> None:
    n = r.choice([1, 2, 3, 5])
    s.mount = f"size=16M,min_size=16M,nr_inodes={n}"
    s.told.append(f"mount of {n} inodes")


@maker
def mount_rights(s: Situation, r: random.Random) -> None:
    """Owner, mode and flags of the hugetlbfs."""
    choice = r.choice(["ro", "mode=755", "mode=700", "uid=65534,mode=700", "mode=1777"])
    s.mount_mode = "," + choice
    s.told.append(f"mount {choice}")


@maker
def mounts(s: Situation, r: random.Random) -> None:
    """No hugetlbfs, a covered one, a second one, --huge-dir."""
    way = r.choice(["none", "covered", "covered-above", "second", "below", "gone", "plain"])
    s.told.append(f"mounts: {way}")
    if way == "none":
        s.mount = None
    elif way == "covered":
        s.do("mount", "tmpfs", HUGE, "mode=1777")
    elif way == "covered-above":
        s.do("mount", "tmpfs", "/run/hugepages", "mode=755")
    elif way == "second":
        s.do("mount", "hugetlbfs", "/run/hugepages/b", "pagesize=2M,size=8M,mode=1777")
        s.args += r.choice([[], ["--huge-dir", "/run/hugepages/b"]])
    elif way == "below":
        s.do("mkdir", f"{HUGE}/below", 0o777)
        s.args += ["--huge-dir", f"{HUGE}/below"]
    elif way == "gone":
        s.args += ["--huge-dir", f"{HUGE}/nothing"]
    else:
        s.args += ["--huge-dir", "/run/user"]


# --- runtime directory ----------------------------------------------------------------------------


@maker
def runtime_place(s: Situation, r: random.Random) -> None:
    """Where the runtime directory is by the environment."""
    name = r.choice(["RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"])
    at = r.choice(["/run/place", "/run/place:/run/user", "/run/nothing", "", "place", "/run/file"])
    s.do("mkdir", "/run/place", 0o777)
    s.do("file", "/run/file", "", 0o644)
    s.env[name] = at
    s.told.append(f"{name}={at}")


@maker
def runtime_rights(s: Situation, r: random.Random) -> None:
    """The file or directory at the place of the runtime directory."""
    base = "/tmp" if s.uid or s.userns else "/run"
    way = r.choice(["file", "link", "foreign", "foreign-open", "closed", "ro", "prefix-file",
                    "prefix-link", "config-dir", "config-foreign", "dangling"])
    s.told.append(f"runtime directory: {way}")
    at = f"{base}/dpdk"
    if way == "file":
        s.do("file", at, "", 0o644)
    elif way == "link":
        s.do("mkdir", f"{base}/elsewhere", 0o777)
        s.do("link", at, f"{base}/elsewhere")
    elif way == "dangling":
        s.do("link", at, f"{base}/nowhere")
    elif way in ("foreign", "foreign-open"):
        s.do("mkdir", at, 0o777 if way == "foreign-open" else 0o755, 1234)
    elif way == "closed":
        s.do("mkdir", at, 0o555)
    elif way == "ro":
        s.do("mount", "tmpfs", at, "mode=755", 1)
    else:
        s.do("mkdir", at, 0o777)
        if way == "prefix-file":
            s.do("file", f"{at}/rte", "", 0o644)
        elif way == "prefix-link":
            s.do("mkdir", f"{base}/elsewhere", 0o777)
            s.do("link", f"{at}/rte", f"{base}/elsewhere")
        else:
            s.do("mkdir", f"{at}/rte", 0o777)
            if way == "config-dir":
                s.do("mkdir", f"{at}/rte/config", 0o777)
            else:
                s.do("file", f"{at}/rte/config", "", 0o600, 1234)


@maker
def runtime_room(s: Situation, r: random.Random) -> None:
    """A small or full file system for the runtime directory."""
    kb = r.choice([8, 24, 40, 64, 256, 512, 1024, 2048, 16384])
    inodes = r.choice(["", "", ",nr_inodes=3", ",nr_inodes=6"])
    s.do("mkdir", "/run/dpdk", 0o1777)
    s.do("mount", "tmpfs", "/run/dpdk", f"size={kb}k,mode=1777{inodes}")
    s.env["RUNTIME_DIRECTORY"] = "/run"
    s.told.append(f"runtime directory of {kb} kB{inodes}")


@maker
def prefix(s: Situation, r: random.Random) -> None:
    """A file prefix that is long, odd or nested."""
    p = r.choice(["x" * 60, "x" * 80, "x" * 90, "x" * 200, "x" * 300, "a/b", "a b", ".", "..", "ä"])
    s.args += ["--file-prefix", p]
    s.told.append(f"prefix {p[:20]} of {len(p)}")


# --- the process ----------------------------------------------------------------------------------


@maker
def limits(s: Situation, r: random.Random) -> None:
    """Resource limits, far from the border: two Pythons need not the same."""
    name, value = r.choice([("nofile", 40), ("nofile", 256), ("as", 1 << 30), ("as", 1 << 38),
                            ("fsize", 24 << 10), ("fsize", 100 << 10), ("fsize", 1 << 20),
                            ("fsize", 64 << 20), ("memlock", 0), ("nproc", 1)])
    s.limits[name] = value
    if name == "nofile" and value == 40:
        s.mount, s.memory = "size=128M,min_size=0", ["-m", r.choice(["4", "100"])]
    s.told.append(f"limit {name} {value}")


@maker
def filters(s: Situation, r: random.Random) -> None:
    """A seccomp filter that refuses some calls."""
    call = r.choice(["mkdir", "memfd_create", "get_mempolicy", "set_mempolicy", "mbind", "flock",
                     "ftruncate", "sched_setaffinity", "socket", "bind", "setrlimit", "madvise",
                     "fallocate", "unlink", "sched_getaffinity"])
    s.denied[call] = r.choice([1, 1, 38])
    s.told.append(f"filter: {call} is errno {s.denied[call]}")


@maker
def cores(s: Situation, r: random.Random) -> None:
    """Affinity, and lists of cores inside and outside of it."""
    s.cpus = r.choice([[0], [1], [0, 1]])
    word = r.choice([["-l", "0"], ["-l", "1"], ["-l", "0-1"], ["-l", "0-9"], ["--lcores", "0@1"],
                     ["--lcores", "0@0"], ["-c", "0x2"], ["--lcores", "(0,1)@1"], [],
                     ["-l", "0-1", "--main-lcore", "1"], ["-l", "0", "--main-lcore", "1"],
                     ["--lcores", "3@0,5@1"]])
    s.args += word
    s.told.append(f"CPUs {s.cpus}")


@maker
def cpuset(s: Situation, r: random.Random) -> None:
    """A cpuset of CPU 0 alone, and cores inside and outside of it."""
    s.cpuset = True
    s.args += r.choice([["-l", "0"], ["-l", "1"], ["-l", "0-1"], ["--lcores", "0@1"], []])
    s.told.append("cpuset of CPU 0")


@maker
def user(s: Situation, r: random.Random) -> None:
    way = r.choice(["nobody", "nobody", "rootless", "no-admin", "no-override"])
    s.told.append(f"user: {way}")
    if way == "nobody":
        s.uid = NOBODY
    elif way == "rootless":
        s.uid, s.userns = NOBODY, True
    else:
        s.drop = (
            ["sys_admin"] if way == "no-admin" else ["dac_override", "dac_read_search", "fowner"]
        )


@maker
def cgroup(s: Situation, r: random.Random) -> None:
    """A hugetlb limit on use or on reservations."""
    kind, n = r.choice(["max", "rsvd.max"]), r.choice([0, 1, 2, 4, 8])
    s.cgroup = {f"hugetlb.2MB.{kind}": str(n * (2 << 20))}
    s.told.append(f"cgroup {kind} of {n} pages")


# --- the machine and others -----------------------------------------------------------------------


@maker
def pools(s: Situation, r: random.Random) -> None:
    """Other counts in /sys: none, few, only overcommit, a second node, no hugetlb.

    Only such that the real pages can meet: the kernel does not know of them.
    """
    way: Any = r.choice([
        {"2M": 0}, {"2M": 1}, {"2M": 3}, {"2M": [2, 0]},
        {"2M": {"free": 0, "over": 8}}, {"2M": 4, "1G": 0},
        {"2M": {"free": 2, "over": 8}}, {},
    ])
    s.do("pools", way)
    s.told.append(f"pools {way}")


@maker
def others(s: Situation, r: random.Random) -> None:
    """What other EALs have left or hold."""
    way = r.choice(["dead", "alive", "alive-other", "kept", "locked-dir", "locked-file",
                    "locked-array", "foreign-pages", "half-config", "empty-config"])
    s.told.append(f"others: {way}")
    if way in ("dead", "alive"):
        s.do("primary", ["-m", "4"], way == "dead")
    elif way == "alive-other":
        s.do("primary", ["-m", "4", "--file-prefix", "other"], False)
    elif way == "kept":
        s.do("primary", ["-m", "4", "--huge-unlink=never"], True)
    elif way == "locked-dir":
        s.do("lock", HUGE)
    elif way == "locked-file":
        s.do("file", f"{HUGE}/rtemap_0", "", 0o600)
        s.do("lock", f"{HUGE}/rtemap_0")
    elif way == "foreign-pages":
        for i in range(4):
            s.do("file", f"{HUGE}/rtemap_{i * 8192}", "", 0o600)
    else:
        s.do("mkdir", "/run/dpdk", 0o777)
        s.do("mkdir", "/run/dpdk/rte", 0o777)
        name, data = ("fbarray_memzone", "x") if way == "locked-array" else ("config", "")
        s.do("file", f"/run/dpdk/rte/{name}", data * (100 if way != "half-config" else 1), 0o600)
        if way == "locked-array":
            s.do("lock", f"/run/dpdk/rte/{name}")
        elif way == "half-config":
            s.do("file", f"/run/dpdk/rte/{name}", "\x1e\x8f\x2e\x01abc", 0o600)


# --- arguments ------------------------------------------------------------------------------------


@maker
def arguments(s: Situation, r: random.Random) -> None:
    """Odd arguments, right and wrong ones."""
    pick = r.choice([
        ["-m", "1G"], ["-m", "sixty"], ["-m", "0"], ["-m", "-1"], ["--socket-mem", "4,4"],
        ["--socket-mem", "0,4"], ["--socket-mem", "a"], ["--socket-limit", "4"],
        ["--huge-unlink"], ["--huge-unlink=never"], ["--match-allocations"],
        ["--base-virtaddr=0x200000000"], ["--base-virtaddr=1"], ["--iova-mode=pa"],
        ["--iova-mode=va"], ["--iova-mode=x"], ["--huge-dir", ""], ["--file-prefix", ""],
        ["-n", "4"], ["-n", "0"], ["-r", "17"], ["--no-telemetry"], ["--nothing"], ["-w", "0:1"],
        ["--master-lcore", "0"], ["--proc-type=auto"], ["--proc-type=secondary"],
        ["--single-file-segments", "--huge-unlink"], ["-m", "4", "--no-shconf"],
        ["--numa-mem", "4"], ["--pagesz-mem", "2M:8M"], ["--in-memory", "--legacy-mem"],
    ])
    s.args += pick
    s.told.append(f"arguments {' '.join(pick)}")
