"""EALs and the kernel's limit, measured side by side: one process at a time, in private mounts.

rig = Rig(folder, "pyeal", "librte_eal")          builds the probes
with rig.room(256) as room:                       a box with that many pages
    rounds(7, {"pyeal": lambda r: room.run(rig.target, ["-m", "512"]), ...})

A Run has the times of the process and of rte_eal_init's stages, as (wall, cpu) in seconds. Nothing
is traced and no library rebuilt: eal.c and eal.py say how.
"""

from __future__ import annotations

import compileall
import contextlib
import fcntl
import importlib.util
import itertools
import json
import os
import py_compile
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from conformance.harness import box as boxes
from conformance.harness import catalogue, fake_host, host, library, peers
from conformance.harness.child import TargetDied, TargetHung, greet

HERE = Path(__file__).parent
PAGE_MB = {"2M": 2, "1G": 1024}
DEFAULT = "22.11.11"  # the release of a pyeal that is told none
QUIET = ["--no-pci", "--no-telemetry"]
STAGES = "begin", "discovery", "lists", "pages", "data", "heaps", "clock", "rest"
LIMITS = {  # what limit.c does for the same pages, or for their records
    **dict.fromkeys(("dynmem", "legacy", "dynmem-1G"), "files"),
    **dict.fromkeys(("single-file", "single-file-1G", "attach-single-file"), "file"),
    "in-memory": "memfds",
    "attach-dynmem": "joined",
    "attach-legacy": "opened",
    "restart": "kept",
    "no-huge": "records",
}


class Missing(Exception):
    """What this machine lacks for a measurement."""


class Failed(Exception):
    """A process did not do what was to be measured."""


class Cost(NamedTuple):
    """Seconds, and how often the process waited (voluntary context switches)."""

    wall: float
    cpu: float
    waits: int = 0

    def __add__(self, other):
        return Cost(*map(sum, zip(self, other, strict=True)))


def between(a, b):
    """What passed from one mark to another."""
    return Cost(*(y - x for x, y in zip(a[1:], b[1:], strict=True)))


class Arm(NamedTuple):
    """A program that is measured: its name, its command, and its identity."""

    label: str
    argv: tuple
    what: str


class Run:
    """What a process said of itself and what it cost."""

    def __init__(self, answer, lines):
        self.said = answer["err"]
        self.process = Cost(answer["wall"], answer["cpu"], answer["waits"])
        self.init = self.memory = self.cleanup = None
        self.stages = {}
        if lines and "marks" in lines[0]:
            self._read(lines[0]["marks"])
        elif lines:
            self.memory = Cost(lines[0]["wall"], lines[0]["cpu"])
        if len(lines) > 1:
            self.cleanup = between(*lines[1]["marks"])

    def _read(self, marks):
        at = {}
        for a, b in itertools.pairwise(marks):
            at.setdefault(a[0], a)
            self.stages[a[0]] = self.stages.get(a[0], Cost(0, 0)) + between(a, b)
        self.init = between(marks[0], marks[-1])
        # hugepage_info_init, memzone_init, memory_init, malloc_heap_init
        self.memory = between(at.get("discovery") or at["lists"], at["rest"])


class Rig:
    """The arms: target, reference, perhaps a base to compare with; and the kernel's limit."""

    def __init__(self, folder, target="pyeal", reference="librte_eal", base=None):
        self.folder = Path(folder)
        _spread(self.folder)
        self.why = None if host.is_root() else f"wanted root, found uid {os.geteuid()}"
        self.gcc = shutil.which("gcc") or shutil.which("cc")
        self.reference = self.arm(reference, "reference")
        self.target = self.arm(target)
        self.base = self._pyeal("base", Path(base), self.release) if base else None
        self.limit = Arm("kernel", (self._build("limit"),), "the kernel's limit")

    def arm(self, spec, spare="target"):
        """pyeal[:RELEASE] or librte_eal[:PATH or RELEASE], as a process of eal.py or eal.c."""
        kind, _, rest = spec.partition(":")
        label = kind if spare != "target" or kind == "pyeal" else spare
        if kind == "pyeal":
            found = importlib.util.find_spec("pyeal").submodule_search_locations
            return self._pyeal(label, Path(next(iter(found))), rest or self.release)
        if kind != "librte_eal":
            raise Missing(f"{spec}: pyeal or librte_eal[:RELEASE or PATH] is what can be timed")
        if library.RELEASE.fullmatch(rest):
            peer = peers.find(rest)
            argv, release = (*peer._loader(), self._build("eal"), str(peer.lib)), peer.release
        else:
            argv, release = self._own(spec, rest)
        if spare == "reference":
            self.release = release
        return Arm(label, argv, f"librte_eal {release}")

    def _own(self, spec, path):
        """A library of this machine or of the user's, and the release that it reports."""
        try:
            lib = library.find(path).path if path else Path(_installed())
            release = greet(spec).release
        except (library.Unusable, TargetDied, TargetHung) as e:
            raise Missing(f"{spec}: {str(e).strip().splitlines()[-1]}") from None
        argv = self._build("eal"), os.path.realpath(lib)
        probe = "import ctypes, sys; ctypes.CDLL(sys.argv[1])"
        if subprocess.run([sys.executable, "-c", probe, argv[1]], capture_output=True).returncode:
            argv = "/usr/bin/env", f"LD_LIBRARY_PATH={lib.parent}", *argv  # it has no RUNPATH
        return argv, release

    def _pyeal(self, label, package, release):
        """A copy, compiled beforehand as an installed one is: an EAL of the reference's release."""
        to = self.folder / label
        if not to.exists():
            skip = shutil.ignore_patterns("suite", "__pycache__")
            shutil.copytree(package, to / "pyeal", ignore=skip)
            compileall.compile_dir(to / "pyeal", quiet=2)
        probe = self.folder / "eal.pyc"  # as eal.c is: no process has to compile it
        py_compile.compile(HERE / "eal.py", probe, doraise=True)
        argv = sys.executable, "-I", "-S", str(probe), release, str(to)
        usual = catalogue.same_release(release, DEFAULT)
        return Arm(label, argv, label if usual else f"{label} {release}")

    def _build(self, name):
        program = self.folder / name
        if not program.exists():
            if not self.gcc:
                raise Missing("wanted a C compiler (gcc), found none")
            argv = [self.gcc, "-O2", "-rdynamic", "-pthread", "-o", program, HERE / f"{name}.c"]
            done = subprocess.run([*argv, "-ldl"], capture_output=True, text=True)
            if done.returncode:
                raise Missing(f"{name}.c does not compile: {done.stderr.strip()[-300:]}")
        return str(program)

    @property
    def eals(self):
        """Target and reference, in this order, and the base."""
        return [self.target, self.reference, *([self.base] if self.base else [])]

    def warm(self, pages):
        """Touches the pool: memory that a guest never used comes slowly the first time."""
        if not self.why:
            anonymous = "anonymous", str(pages), "2", "1", ""
            subprocess.run([*self.limit.argv, *anonymous], capture_output=True)

    @contextlib.contextmanager
    def room(self, pages, in_memory=False, size="2M"):
        """A box with that many pages in its hugetlbfs, or in the machine's pool for in-memory."""
        if self.why:
            raise Missing(self.why)
        free = host.pools().get(size, host.Pool(0, 0, 0, 0)).available
        if pages > free:
            raise Missing(f"wanted {pages} free {size} pages, found {free}")
        room = Room(self, pages, in_memory, size)
        try:
            yield room
        finally:
            room.close()


class Room:
    """A box that shows EAL one pool of pages, all free, and processes in it."""

    def __init__(self, rig, pages, in_memory, size):
        self.rig, self.held, self.size, self.count = rig, [], size, itertools.count()
        self.folder = Path(tempfile.mkdtemp(dir=rig.folder))
        self.run_dir = None  # where runtime files lie, if not on a tmpfs of the box
        binds = fake_host.build(self.folder, {size: pages}, show=[fake_host.GLOBAL])
        mine = {size: pages} if pages else {}
        self.box = boxes.Box(
            {} if in_memory else mine,
            lease=mine if in_memory else {},
            binds=binds,
        )
        if os.stat(host.RUN).st_dev == os.stat(self.folder).st_dev:  # as on this machine
            self.run_dir = self.folder / "run"
            self.run_dir.mkdir(mode=0o700)
            self.box.sh(f"mkdir {host.RUN}/dpdk; mount --bind {self.run_dir} {host.RUN}/dpdk")
        self.env = {"PATH": os.defpath} | self.box.environment()
        self.spawner = subprocess.Popen(
            [*self.box.enter, sys.executable, "-I", "-S", HERE / "spawn.py"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, arm, args=(), cpus=None, text="", quiet=QUIET):
        """The arm's program to its end; text "c" has the EAL clean up before."""
        request = {
            "argv": [*map(str, arm.argv), *map(str, args), *quiet],
            "env": self.env,
            "cpus": cpus,
            "input": text,
        }
        self.spawner.stdin.write(json.dumps(request) + "\n")
        self.spawner.stdin.flush()
        answer = json.loads(self.spawner.stdout.readline() or '{"rc": "no answer", "err": ""}')
        if answer["rc"]:
            raise Failed(f"{shlex.join(request['argv'])}: {answer['rc']}\n{answer['err']}")
        return Run(answer, [json.loads(x) for x in answer["out"].splitlines() if x[:1] == "{"])

    def kernel(self, work, pages, cpus=None):
        """The limit, with a thread for each CPU that it may use; of pages that are there already
        it finds the timed EALs' files."""
        kind, threads = LIMITS[work], len(cpus or os.sched_getaffinity(0))
        where = self.box.hugedir(self.size)
        if kind == "records":
            where = f"{host.RUN}/dpdk/limit"
            self.box.path(where).mkdir(exist_ok=True)
        page, _ = catalogue.fact("page_file", self.rig.release)
        name = "timingmap_" if kind == "file" else page.format(prefix="timing", list=0)
        args = [kind, pages, PAGE_MB[self.size], threads, f"{where}/{name}"]
        return self.run(self.rig.limit, args, cpus, quiet=[])

    def hold(self, arm, args):
        """The arm's EAL, initialised, until the room is closed."""
        argv = [*self.box.enter, *boxes.lifeline(), *arm.argv, *args, *QUIET]
        p = subprocess.Popen(
            list(map(str, argv)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=self.env,
            text=True,
        )
        self.held.append(p)
        if '"rc": 0' not in p.stdout.readline():
            raise Failed(f"{shlex.join(map(str, argv))}: no primary")
        return p

    def program(self, name):
        """One of DPDK's own programs of the release, in a tree of Debian's packages."""
        peer, wanted = peers.find(f"{self.rig.release[:5]}-programs"), self.rig.release
        if not catalogue.same_release(peer.release, wanted):
            raise Missing(f"wanted {name} {wanted}, found {peer.release}")
        for d in ("proc", "sys", "dev", "run"):
            self.box.sh(f"mount --rbind /{d} {peer.root}/{d}")
        return Arm(name, (shutil.which("chroot"), peer.root, f"/usr/bin/{name}"), name)

    def release(self):
        """Ends those that are held."""
        for p in self.held:
            p.communicate("c", timeout=60)
        self.held = []

    def clear(self):
        """Takes away what the last process left: its pages are free for the next."""
        for f in self.box.path(self.box.hugedir(self.size)).glob("*map_*"):
            f.unlink()
        if self.run_dir:
            return self.put_away()
        for d in self.box.path(f"{host.RUN}/dpdk").glob("*"):
            shutil.rmtree(d)

    def put_away(self):
        """Move runtime files away, emptied: _spread says what deleting them costs."""
        for d in self.run_dir.iterdir():
            for f in d.iterdir():
                if f.is_file():
                    os.truncate(f, 0)
            d.rename(self.folder / f"run-{next(self.count)}")

    def close(self):
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.release()
        self.spawner.stdin.close()
        self.spawner.wait(10)
        self.spawner.stdout.close()
        self.box.close()
        if self.run_dir:
            self.put_away()


def _spread(folder):
    """Has ext4 put each directory of the folder (as chattr +T says) where it has most room, and not
    beside the folder: there it looks long for an inode after a build, an update or a test run that
    deleted files, 0.1 ms for a thousand. Elsewhere nothing happens."""
    get, put, topdir = 0x80086601, 0x40086602, 0x20000  # FS_IOC_GETFLAGS, SETFLAGS, FS_TOPDIR_FL
    fd = os.open(folder, os.O_RDONLY)
    try:
        flags = int.from_bytes(fcntl.ioctl(fd, get, bytes(8))[:4], sys.byteorder)
        fcntl.ioctl(fd, put, (flags | topdir).to_bytes(8, sys.byteorder))
    except OSError:
        pass
    finally:
        os.close(fd)


def rounds(n, arms, warm=1):
    """{arm: n values}; in each round every arm once, beginning with another one each time."""
    names, found = list(arms), {name: [] for name in arms}
    for r in range(-warm, n):
        turn = r % len(names)
        for name in names[turn:] + names[:turn]:
            value = arms[name](r)
            if r >= 0:
                found[name].append(value)
    return found


def one_cpu(r):
    """The CPU of a round in which all arms have one."""
    cpus = sorted(os.sched_getaffinity(0))
    return [cpus[r % len(cpus)]]


def _installed():
    from conformance.targets import librte_eal

    try:
        return librte_eal.find()
    except FileNotFoundError as e:
        raise Missing(e.strerror) from None
