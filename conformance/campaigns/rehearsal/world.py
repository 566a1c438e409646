"""Builds a situation in namespaces of its own, and runs doctor, plan, init and the real one there.

Everything goes with the process that made it: mounts, files, pages, locks. The three of pyeal run
in forks of one process, which imported pyeal before; the real one is executed.
"""

from __future__ import annotations

import codecs
import ctypes
import fcntl
import json
import os
import resource
import select
import signal
import struct
import subprocess
import sys
import time
import traceback
from errno import EEXIST, ENOENT, ENOTDIR, EROFS
from pathlib import Path
from typing import Any

from conformance.campaigns.rehearsal.situation import HUGE, Situation
from conformance.harness import fake_host, host
from conformance.harness.box import lifeline
from conformance.harness.child import command, environment
from conformance.targets.librte_eal import ARGS

GIVEN = ARGS[1:]  # what the real one gets before a situation's own: an option twice is refused
LIMIT = 4.0  # seconds: after them a sleeping start waits indefinitely, and after as much work
NEWNS, NEWUSER = 0x20000, 0x10000000
RDONLY, REC_PRIVATE, BIND, DETACH = 1, 0x44000, 4096, 2
NUMBERS = {  # x86-64
    "mkdir": 83,
    "memfd_create": 319,
    "get_mempolicy": 239,
    "set_mempolicy": 238,
    "mbind": 237,
    "flock": 73,
    "ftruncate": 77,
    "sched_setaffinity": 203,
    "sched_getaffinity": 204,
    "socket": 41,
    "bind": 49,
    "setrlimit": 160,
    "madvise": 28,
    "fallocate": 285,
    "unlink": 87,
}
CAPS = {"dac_override": 1, "dac_read_search": 2, "fowner": 3, "sys_admin": 21}
CGROUPS = [m for m in host.mountinfo() if m[1] in ("cgroup", "cgroup2")]
libc = ctypes.CDLL(None, use_errno=True)


def _call(what: str, ret: int) -> None:
    if ret < 0:
        no = ctypes.get_errno()
        raise OSError(no, f"{what}: {os.strerror(no)}")


def load() -> None:
    """Import what the commands import, once for all situations.

    Also codecs: a situation's user may not be able to read them later.
    """
    for codec in ("ascii", "latin-1"):
        codecs.lookup(codec)

    import pyeal.backing.legacy
    import pyeal.backing.memory
    import pyeal.backing.pagefiles
    import pyeal.builds
    import pyeal.cli
    import pyeal.hugepage_data
    import pyeal.legacy
    import pyeal.malloc_mp
    import pyeal.secondary
    import pyeal.tools.doctor
    import pyeal.tools.init
    import pyeal.tools.plan
    import pyeal.tools.touch  # noqa: F401


def _words(path: Path) -> list[str]:
    return path.read_text().split() if path.exists() else []


class World:
    """The place of one run. Verbs of a situation's steps are its methods."""

    def __init__(self, s: Situation, target: str) -> None:
        self.s, self.target = s, target
        self.held: list[int] = []
        self.children: list[subprocess.Popen[str]] = []
        self.tmp = "/run/pyeal-rehearsal"

    def build(self) -> None:
        _call("unshare", libc.unshare(NEWNS))
        _call("private", libc.mount(None, b"/", None, REC_PRIVATE, None))
        for where, kind, _ in host.mountinfo():
            if kind == "hugetlbfs":
                libc.umount2(where.encode(), DETACH)
        self.mount("tmpfs", host.RUN, "mode=755")
        self.mount("tmpfs", "/tmp", "mode=1777")
        for d in ("/sys/bus/pci/devices", *map(str, Path("/usr/lib").glob("*/dpdk/pmds-*"))):
            if os.path.isdir(d):
                self.mount("tmpfs", d, "")
        os.mkdir(self.tmp)
        self.mkdir("/run/user", 0o1777)
        if self.s.mount is not None:
            options = f"pagesize=2M,{self.s.mount}{self.s.mount_mode}"
            self.mount("hugetlbfs", HUGE, options.replace(",ro", ""), "ro" in options.split(","))
        if self.s.cgroup:
            self.join()
        if self.s.cpuset:
            self.join_cpuset()
        for verb, *args in self.s.steps:
            getattr(self, verb)(*args)

    def close(self) -> None:
        for p in self.children:
            p.kill()
            p.wait()

    # steps

    def mount(self, kind: str, where: str, options: str = "", flags: int = 0) -> None:
        os.makedirs(where, exist_ok=True)
        ret = libc.mount(b"none", where.encode(), kind.encode(), int(flags), options.encode())
        _call(f"mount {kind} {where} {options}", ret)

    def mkdir(self, path: str, mode: int, uid: int = -1) -> None:
        os.makedirs(path, exist_ok=True)
        os.chown(path, uid, -1)
        os.chmod(path, mode)

    def file(self, path: str, text: str, mode: int, uid: int = -1) -> None:
        with open(path, "w") as f:
            f.write(text)
        os.chown(path, uid, -1)
        os.chmod(path, mode)

    def link(self, path: str, to: str) -> None:
        os.symlink(to, path)

    def lock(self, path: str) -> None:
        fd = os.open(path, os.O_RDONLY)
        fcntl.flock(fd, fcntl.LOCK_EX)
        self.held.append(fd)

    def pools(self, counts: dict[str, Any]) -> None:
        if not counts:
            os.mkdir(f"{self.tmp}/mm")
            binds = {"/sys/kernel/mm": Path(self.tmp, "mm")}
        else:
            binds = fake_host.build(Path(self.tmp), counts)
        for at, tree in binds.items():
            ret = libc.mount(str(tree).encode(), at.encode(), None, BIND, None)
            _call(f"bind {at}", ret)

    def primary(self, args: list[str], dead: bool) -> None:
        """Start a real EAL, and kill it if it is to be dead."""
        p = subprocess.Popen(
            [*lifeline(), *command(self.target)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment(),
        )
        self.children.append(p)
        assert p.stdin and p.stdout
        p.stdout.readline()
        p.stdin.write(json.dumps({"verb": "init", "args": args}) + "\n")
        p.stdin.flush()
        p.stdout.readline()
        if dead:
            p.kill()
            p.wait()

    def join(self) -> None:
        """Enter a hugetlb cgroup with the limits."""
        found = host.hugetlb_cgroup()
        if not found or found[1] != 2:
            return
        at = found[0] / f"rehearsal-{os.getpid()}"
        at.mkdir()
        for name, text in self.s.cgroup.items():
            (at / name).write_text(text)
        (at / "cgroup.procs").write_text(str(os.getpid()))

    def join_cpuset(self) -> None:
        """Enter a cpuset of CPU 0, where this machine has such cgroups."""
        for where, kind, _ in CGROUPS:
            top, at = Path(where), Path(where, f"rehearsal-{os.getpid()}")
            files = {"cpuset.cpus": "0"}
            if kind == "cgroup" and (top / "cpuset.mems").exists():
                files["cpuset.mems"] = (top / "cpuset.mems").read_text()
            elif kind != "cgroup2" or "cpuset" not in _words(top / "cgroup.subtree_control"):
                continue
            at.mkdir(exist_ok=True)
            for name, text in files.items():
                (at / name).write_text(text)
            (at / "cgroup.procs").write_text(str(os.getpid()))
            return

    # the process

    def become(self) -> None:
        """Take the limits, user, capabilities and filter of the situation."""
        s = self.s
        os.environ.clear()
        os.environ.update(environment() | {k: v for k, v in s.env.items() if v})
        if s.cpus:
            os.sched_setaffinity(0, set(s.cpus) & os.sched_getaffinity(0) or {0})
        for name, value in s.limits.items():
            resource.setrlimit(getattr(resource, f"RLIMIT_{name.upper()}"), (value, value))
        for cap in s.drop:
            libc.prctl(24, CAPS[cap], 0, 0, 0)  # PR_CAPBSET_DROP, for what is executed
        if s.drop:
            self._drop()
        if s.uid is not None:
            os.setgroups([])
            os.setresgid(s.uid, s.uid, s.uid)
            os.setresuid(s.uid, s.uid, s.uid)
            libc.prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE
        if s.userns:
            _call("unshare", libc.unshare(NEWUSER))
            Path("/proc/self/setgroups").write_text("deny")
            Path("/proc/self/uid_map").write_text(f"0 {s.uid} 1")
            Path("/proc/self/gid_map").write_text(f"0 {s.uid} 1")
        if s.denied:
            self._filter()

    def _drop(self) -> None:
        """Drop capabilities of this process itself."""
        head = ctypes.create_string_buffer(struct.pack("<Ii", 0x20080522, 0))
        data = ctypes.create_string_buffer(24)
        _call("capget", libc.syscall(125, head, data))
        words = list(struct.unpack("<6I", data.raw[:24]))
        for cap in self.s.drop:
            for i in range(3):
                words[i] &= ~(1 << CAPS[cap])
        new = ctypes.create_string_buffer(struct.pack("<6I", *words))
        _call("capset", libc.syscall(126, head, new))

    def _filter(self) -> None:
        rows = [struct.pack("<HBBI", 0x20, 0, 0, 0)]  # load the number
        for call, no in self.s.denied.items():
            rows.append(struct.pack("<HBBI", 0x15, 0, 1, NUMBERS[call]))
            rows.append(struct.pack("<HBBI", 0x06, 0, 0, 0x50000 | no))
        rows.append(struct.pack("<HBBI", 0x06, 0, 0, 0x7FFF0000))
        code = ctypes.create_string_buffer(b"".join(rows))
        program = struct.pack("<HxxxxxxQ", len(rows), ctypes.addressof(code))
        libc.prctl(38, 1, 0, 0, 0)  # PR_SET_NO_NEW_PRIVS
        _call("seccomp", libc.prctl(22, 2, ctypes.create_string_buffer(program), 0, 0))


class Unbuildable(Exception):
    """Two makers wanted what excludes each other."""


class Ran:
    """How a program ended. code: its exit code, -N for signal N, None if it did not end."""

    def __init__(self, code: int | None, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err


def _end(work: Any) -> None:
    """Run work() in a forked child, and end the child with what it returns."""
    code = 99
    try:
        code = int(work())
        sys.stdout.flush()
    except SystemExit as e:
        code = int(e.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        try:
            sys.stderr.flush()
        finally:
            os._exit(code)


def _inside(world: World, work: Any, fds: list[int]) -> int:
    for to, fd in enumerate(fds):
        os.dup2(fd, to)
    sys.stdout, sys.stderr = (os.fdopen(n, "w", closefd=False) for n in (1, 2))
    world.become()
    return int(work())


def _waits(pid: int, pidfd: int) -> bool:
    """Wait for a process: False once it has ended, True if it waits indefinitely itself.

    A busy machine makes it slow: it must have slept for a second without any work.
    """
    before, patience = -1, LIMIT
    while not select.select([pidfd], [], [], patience)[0]:
        words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks = int(words[11]) + int(words[12])
        if ticks > LIMIT * os.sysconf("SC_CLK_TCK") or (words[0] == "S" and ticks == before):
            return True
        before, patience = ticks, 1.0
    return False


def fork(world: World, work: Any, stdin: bytes = b"") -> Ran:
    """Run work() in a fork that has become the situation's process."""
    fds = [os.memfd_create(n) for n in ("stdin", "stdout", "stderr")]
    os.write(fds[0], stdin)
    os.lseek(fds[0], 0, 0)
    pid = os.fork()
    if not pid:
        _end(lambda: _inside(world, work, fds))
    pidfd = os.pidfd_open(pid)
    over = _waits(pid, pidfd)
    if over:
        os.kill(pid, signal.SIGKILL)
    os.close(pidfd)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    texts = []
    for fd in fds[1:]:
        os.lseek(fd, 0, 0)
        with os.fdopen(fd, errors="replace") as f:
            texts.append(f.read())
    os.close(fds[0])
    return Ran(None if over else status, *texts)


def pyeal(world: World, name: str, *options: str) -> Ran:
    """Run a command of pyeal."""
    from pyeal import cli

    s = world.s
    argv = [name, "--json", "--as", s.release, *options, "--", *GIVEN, *s.eal_args]

    return fork(world, lambda: cli.main(argv))


def real(world: World) -> Ran:
    """Run the real rte_eal_init and rte_eal_cleanup."""
    argv = command(world.target)
    if argv[0] == sys.executable and os.path.exists("/usr/bin/python3"):
        argv[0] = "/usr/bin/python3"  # any user may read it

    def work() -> int:
        os.execve(argv[0], argv, dict(os.environ))

    request = {"verb": "init", "args": world.s.eal_args}
    return fork(world, work, json.dumps(request).encode() + b"\n")


def run(s: Situation, target: str) -> dict[str, Ran]:
    """Build the situation twice, for pyeal's three and for the real one."""
    found: dict[str, Ran] = {}
    for side in (("doctor", "plan", "init"), ("real",)):
        found |= _side(s, target, side)
    return found


def _side(s: Situation, target: str, side: tuple[str, ...]) -> dict[str, Ran]:
    """Run some of the four, one after the other, in a place that ends with this call."""
    r, w = os.pipe()
    pid = os.fork()
    if not pid:
        os.close(r)
        _end(lambda: _answer(World(s, target), side, w))
    os.close(w)
    with os.fdopen(r) as f:
        text = f.read()
    os.waitpid(pid, 0)
    _leave_cgroup(pid)
    if not text:
        raise Unbuildable(str(s))
    return {name: Ran(**facts) for name, facts in json.loads(text).items()}


def _answer(world: World, side: tuple[str, ...], to: int) -> int:
    """Build the place, run the programs in it, and write what came of them as JSON."""
    libc.prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    answer = {}
    try:
        try:
            world.build()
        except OSError as e:
            if e.errno in (EEXIST, ENOTDIR, ENOENT, EROFS):
                return 1
            raise
        for name in side:
            more = ("--no-hold",) if name == "init" else ()
            ran = real(world) if name == "real" else pyeal(world, name, *more)
            answer[name] = ran.__dict__
    finally:
        world.close()
    with os.fdopen(to, "w") as f:
        json.dump(answer, f)
    return 0


def _leave_cgroup(pid: int) -> None:
    """Remove the cgroups of a place, once the kernel has settled."""
    for where, _, _ in CGROUPS:
        at, end = Path(where, f"rehearsal-{pid}"), time.monotonic() + 5
        while at.exists() and time.monotonic() < end:
            try:
                at.rmdir()
            except OSError:
                time.sleep(0.01)
