"""Every fix of doctor: made necessary, carried out as doctor says it, and EAL starts.

A scene makes the situation in which doctor gives one row of pyeal/tools/fixes.py. Its fix is then
carried out as a user would: arguments are added, commands run, variables exported.
"""

import ast
import os
import re
from pathlib import Path

import pytest

from conformance import MB, needs
from conformance.harness import fake_host, host
from conformance.harness.box import remove
from conformance.units.live.doctor.carried import check, prepared
from conformance.units.live.doctor.world import held_by_the_dead
from pyeal.tools import fixes

CPUSETS = Path("/sys/fs/cgroup/cpuset")
SCENES = {}


def scene(name, **need):
    """Register the maker of a situation under the name of its fix."""

    def register(make):
        SCENES[name] = pytest.param(make, name, id=name, marks=needs(root=True, **need))
        return make

    return register


# --- arguments ------------------------------------------------------------------------------------


@scene("no-huge")
def no_huge(world, tmp_path):
    return prepared(world, box=world.box(binds={"/sys/kernel/mm": tmp_path}))


@scene("in-memory", pages={"2M": 4})
def in_memory(world, tmp_path):
    """A user without root, and no mount: what works without root comes first."""
    return prepared(world, "-m", "4", box=world.box(lease={"2M": 4}), as_user="nobody")


@scene("prefix", pages={"2M": 2})
def prefix(world, tmp_path):
    box = world.box({"2M": 2})
    world.eal("--no-huge", box=box)
    return prepared(world, "-m", "2", box=box)


@scene("huge-dir", pages={"2M": 1})
def huge_dir(world, tmp_path):
    return prepared(world, "--huge-dir", "/run", box=world.box({"2M": 1}))


@scene("single-file", pages={"2M": 60})
def single_file(world, tmp_path):
    box = world.box({"2M": 60})
    return prepared(world, "-m", "120", box=box, rlimits={"nofile": 50})


@scene("iova-va", pages={"2M": 1})
def iova_va(world, tmp_path):
    box = world.box({"2M": 1})
    return prepared(
        world,
        "-m",
        "2",
        "--iova-mode=pa",
        box=box,
        drop=["sys_admin"],
        target="librte_eal:24.11",
        release="24.11",
    )


class Cpu0:
    """A cpuset of CPU 0 alone."""

    def __init__(self):
        self.dir = CPUSETS / f"fixes-{os.getpid()}"
        self.dir.mkdir()
        (self.dir / "cpuset.cpus").write_text("0")
        (self.dir / "cpuset.mems").write_text((CPUSETS / "cpuset.mems").read_text())

    def add(self, pid):
        (self.dir / "cgroup.procs").write_text(str(pid))

    def close(self):
        for pid in (self.dir / "cgroup.procs").read_text().split():
            (CPUSETS / "cgroup.procs").write_text(pid)
        remove(self.dir)


@pytest.fixture(autouse=True)
def cpusets(world):
    """world.cpu0() makes a cpuset, gone after the test."""
    made = []

    def cpu0():
        made.append(Cpu0())
        return made[-1]

    world.cpu0 = cpu0
    yield
    for cpuset in made:
        cpuset.close()


@scene("cores", cpus=2, path=str(CPUSETS / "cpuset.mems"))
def cores(world, tmp_path):
    return prepared(world, "--no-huge", "-l", "1", box=world.box(), cgroup=world.cpu0())


@scene("less", pages={"2M": 4})
def less(world, tmp_path):
    return prepared(world, "-m", "8M", box=world.box({"2M": 4}))


@scene("socket-mem", pages={"2M": 2})
def socket_mem(world, tmp_path):
    return prepared(world, "--socket-mem", "4,0,0,4", box=world.box({"2M": 2}), release="22.11")


@scene("no-shconf")
def no_shconf(world, tmp_path):
    box = world.box(mounts=[("tmpfs", "/run/dpdk", "mode=755,ro")])
    return prepared(world, "--no-huge", box=box, target="librte_eal:20.11", release="20.11")


# --- commands -------------------------------------------------------------------------------------


@pytest.fixture(autouse=True)
def mount_point():
    """The folder that the fix makes, if this machine has none: it is made in /dev of all."""
    at = Path("/dev/hugepages")
    there = at.exists()
    yield
    if not there and at.exists():
        at.rmdir()


@scene("mount", pages={"2M": 1})
def mount(world, tmp_path):
    box = world.box(lease={"2M": 2})
    return prepared(world, "-m", "2", box=box)


def another_size(world, tmp_path):
    """The size that is mounted has no page, the other one has pages and no mount."""
    if (there := host.pools().get("1G")) and there.total:
        pytest.skip(f"wanted no 1G page, found {there.total}")
    box = world.box(lease={"2M": 2}, mounts=[("1G", "/run/hugepages/1G", "")])
    return prepared(world, "-m", "2", box=box)


@scene("another-mount", pages={"2M": 4})
def another_mount(world, tmp_path):
    few = [
        ("2M", "/run/hugepages/few", "size=8M,nr_inodes=2"),
        ("tmpfs", "/mnt", "mode=755"),
    ]
    return prepared(world, "-m", "8", box=world.box(lease={"2M": 4}, mounts=few))


@scene("writable", pages={"2M": 1})
def writable(world, tmp_path):
    box = world.box(mounts=[("2M", "/run/hugepages/2M", "size=2M,ro")])
    return prepared(world, "-m", "2", box=box)


@scene("own", pages={"2M": 1})
def own(world, tmp_path):
    box = world.box(mounts=[("2M", "/run/hugepages/2M", "size=2M,mode=755")])
    return prepared(world, "-m", "2", box=box, as_user="nobody")


@scene("runtime")
def runtime(world, tmp_path):
    """A full tmpfs, on which the real EAL dies of SIGBUS without a word."""
    box = world.box(mounts=[("tmpfs", "/run/dpdk", "size=16k,mode=1777")])
    return prepared(world, "--no-huge", "-m", "4", box=box)


@scene("limit", pages={"2M": 1})
def limit(world, tmp_path):
    return prepared(world, "-m", "2", box=world.box({"2M": 1}), rlimits={"fsize": MB})


@scene("stale", pages={"2M": 4})
def stale(world, tmp_path):
    box, free = held_by_the_dead(world, tmp_path)
    target = prepared(world, "-m", "2", box=box)
    target.after = lambda: [counter.write_text("2\n") for counter in free]
    return target


def grow(tree):
    """Let a folder of counters follow what was written into one, as the kernel's do."""
    for counter in tree.glob("**/nr_hugepages"):
        n = int(counter.read_text())
        for word in ("nr", "free"):
            for f in tree.glob(f"**/{word}_hugepages"):
                f.write_text(f"{max(n, int(f.read_text()))}\n")


@scene("resize", pages={"2M": 1})
def resize(world, tmp_path):
    """The pool is a folder of files here: what the command writes, the kernel would have free."""
    box = world.box({"2M": 4}, binds=fake_host.build(tmp_path, {"2M": [0]}))
    target = prepared(world, "-m", "6", box=box)
    target.after = lambda: grow(tmp_path)
    return target


@scene("old-directory", pages={"2M": 1})
def old_directory(world, tmp_path):
    """A secondary finds files of a dead primary: without them it says so, instead of attaching."""
    box = world.box({"2M": 2})
    world.eal("-m", "2", box=box).kill()
    target = prepared(world, "--proc-type=secondary", box=box)
    target.after = lambda: world.eal("-m", "2", box=box)
    return target


MORE = [
    pytest.param(another_size, "mount", id="mount-size", marks=needs(root=True, pages={"2M": 2})),
]


@pytest.mark.parametrize(("make", "name"), [*SCENES.values(), *MORE])
def test_the_advice_lets_the_start_succeed(make, name, world, tmp_path, evidence):
    check(make, name, (), world, tmp_path, evidence)


def literals(path):
    """Yield (line, text) of each `do=` and `fix=` of a file that is a text and not a row."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.keyword) and node.arg in ("do", "fix"):
            for part in ast.walk(node.value):
                if isinstance(part, ast.Call):
                    break
                if isinstance(part, ast.Constant) and isinstance(part.value, str) and part.value:
                    yield node.value.lineno, part.value


def test_no_fix_stands_outside_of_the_table():
    """Every tool takes its fixes from pyeal/tools/fixes.py."""
    tools = Path(fixes.__file__).parent
    # explain has a table of its own; the others say what to do with a process of the user's own
    others = {"explain", "warm.py", "pages_ahead.py"}
    files = [f for f in tools.rglob("*.py") if not others & {*f.parts}]

    assert len(files) > 30
    assert [(f.name, *x) for f in files for x in literals(f)] == []


def test_no_fix_ends_a_process_or_weakens_the_system():
    texts = " ".join(fixes.ALL.values())

    assert not re.search(r"\bkill (?!-CONT)|pkill|rm -rf|chmod 777|setenforce|privileged", texts)
