"""The 46 problems of users, by number: made for real, doctor's advice carried out, EAL starts."""

import fcntl
import os
import re
import signal
import sys

import pytest

from conformance import GB, MB, needs
from conformance.harness import fake_host
from conformance.units.live.doctor import test_fixes
from conformance.units.live.doctor.carried import check, prepared
from pyeal.tools import fixes
from pyeal.tools.explain.problems import PROBLEMS

# problem: the scene of test_fixes that makes it, by the row of its fix
OF_FIXES = {
    1: "stale",
    2: "mount",
    3: "stale",
    5: "prefix",
    6: "resize",
    9: "iova-va",
    10: "own",
    11: "limit",
    12: "single-file",
    29: "mount-size",
    41: "no-huge",
}
SCENES = {}
KNOWN = {p.id for p in PROBLEMS}


def scene(number, fix, **need):
    """Register the maker of a problem, with the row of pyeal/tools/fixes.py that ends it."""

    def register(make):
        marks = needs(root=True, **need)
        SCENES[number] = pytest.param(make, fix, number, id=f"{number}-{fix}", marks=marks)
        return make

    return register


@scene(4, "cgroup", pages={"2M": 4}, cgroup="hugetlb")
def limit_of_a_cgroup(world, tmp_path):
    return prepared(world, "-m", "8", box=world.box({"2M": 4}), cgroup=world.cgroup("2M", 2 * MB))


@scene(7, "capability", strace=True, pages={"2M": 2})
def mempolicy_forbidden(world, tmp_path):
    """The container's filter is strace here: with the capability it would not refuse."""
    box = world.box({"2M": 2})
    target = prepared(world, "-m", "4", box=box, inject=["get_mempolicy:error=EPERM"])
    target.carry = lambda do: world.target("-m", "4", box=box)
    return target


@scene(13, "pagesz-mem", pages={"2M": 8})
def short_lists(world, tmp_path):
    """Of 26.07, which Debian does not have: pyeal is the target."""
    args = ["-m", "16", "--pagesz-mem", "2M:4M"]
    box = world.box({"2M": 8})
    return prepared(world, *args, box=box, target="pyeal:26.07", release="26.07")


@scene(14, "base", pages={"2M": 1})
def taken_addresses(world, tmp_path):
    """Something of the process lies where EAL begins; with the base that doctor names it may."""
    box, args = world.box({"2M": 1}), ["-m", "2", "--base-virtaddr=0x200000000"]
    target = world.target(*args, box=box)
    target.eal.block(0x200000000, MB)
    target.by_pid = True

    def carry(do):
        after = world.target(*args, do, box=box)
        after.eal.block(0x200000000, MB)
        return after

    target.carry = carry
    return target


@scene(16, "same-release", pages={"2M": 1})
def another_release(world, tmp_path):
    box = world.box({"2M": 1})
    primary = world.eal("-m", "2", box=box)
    primary.patch("version", 24 << 24 | 11 << 16 | 6 << 8 | 99)
    target = prepared(world, "--proc-type=secondary", box=box, release="22.11.11")

    def carry(do):
        assert do == "a secondary of 24.11.6"
        primary.patch("version", 22 << 24 | 11 << 16 | 11 << 8 | 99)  # of the target's release
        return world.target("--proc-type=secondary", box=box)

    target.carry = carry
    return target


@scene(17, "old-directory", pages={"2M": 1})
def primary_that_died_while_starting(world, tmp_path):
    box = world.box({"2M": 2})
    primary = world.eal("-m", "2", box=box)
    primary.patch("magic", 0)
    primary.kill()
    target = prepared(world, "--proc-type=secondary", box=box)
    target.after = lambda: world.eal("-m", "2", box=box)
    return target


@scene(18, "start-primary", pages={"2M": 1})
def no_primary(world, tmp_path):
    box = world.box({"2M": 1})
    target = prepared(world, "--proc-type=secondary", box=box)

    def carry(do):
        world.eal("-m", "2", box=box)
        return world.target("--proc-type=secondary", box=box)

    target.carry = carry
    return target


@scene(21, "prefix", pages={"2M": 2})
def survivors(world, tmp_path):
    box = world.box({"2M": 2})
    primary = world.eal("-m", "2", box=box)
    secondary = world.eal("--proc-type=secondary", box=box)
    primary.kill()
    target = prepared(world, "-m", "2", box=box)
    target.end = secondary.kill
    return target


@scene(22, "another-mount", pages={"2M": 4})
def kept_files(world, tmp_path):
    """With a mount of its own the start leaves what another application keeps."""
    box = world.box({"2M": 2}, lease={"2M": 1}, mounts=[("tmpfs", "/mnt", "mode=755")])
    keeper = world.eal("-m", "2", "--huge-unlink=never", box=box, prefix=f"{world.prefix}_kept")
    at = box.path("/run/hugepages/2M")
    keeper.close()
    kept = set(os.listdir(at))
    target = prepared(world, "-m", "2", box=box)
    target.afterwards = lambda: kept and set(os.listdir(at)) == kept
    return target


@scene(23, "iova-pa", pages={"2M": 1}, path="/sys/class/iommu")
def few_address_bits(world, tmp_path):
    """An IOMMU of 39 bits, and memory above them."""
    cap = tmp_path / "dmar0/intel-iommu/cap"
    cap.parent.mkdir(parents=True)
    cap.write_text(f"{38 << 16:x}\n")
    box = world.box({"2M": 1}, binds={"/sys/class/iommu": tmp_path})
    return prepared(world, "-m", "2", "--iova-mode=va", "--base-virtaddr=0x8000000000", box=box)


@scene(25, "single-file", pages={"2M": 10})
def many_regions(world, tmp_path):
    """virtio-user takes 8 files. Its driver is not EAL's, and pyeal ignores it as the target."""
    args = ["-m", "20", "--vdev", "virtio_user0,path=/run/vhost"]
    return prepared(world, *args, box=world.box({"2M": 10}), target="pyeal")


@scene(26, "resize", pages={"2M": 4})
def fragmented(world, tmp_path):
    """The kernel finds no block; the pool grows all the same if memory is free by then."""
    buddyinfo = tmp_path / "buddyinfo"
    buddyinfo.write_text("Node 0, zone   Normal" + "    900" * 9 + "      0" * 2 + "\n")
    (tmp_path / "host").mkdir()
    binds = fake_host.build(tmp_path / "host", {"2M": [1]})
    box = world.box({"2M": 4}, binds=binds | {"/proc/buddyinfo": buddyinfo})
    target = prepared(world, "-m", "6", box=box)
    target.after = lambda: test_fixes.grow(tmp_path)
    return target


@scene(28, "not-in-memory", strace=True, pages={"2M": 2})
def memfd_denied(world, tmp_path):
    """A security module is strace here."""
    box, denied = world.box({"2M": 2}), ["memfd_create:error=EACCES"]
    target = prepared(world, "--in-memory", "-m", "4", box=box, inject=denied)
    target.carry = lambda do: world.target("-m", "4", box=box, inject=denied)
    return target


@scene(30, "huge-dir", pages={"2M": 2})
def two_mounts(world, tmp_path):
    box = world.box({"2M": 1}, mounts=[("2M", "/run/hugepages/b", "size=2M")])
    target = prepared(world, "-m", "2", box=box)
    target.afterwards = lambda: os.listdir(box.path("/run/hugepages/b"))
    return target


@scene(32, "pod", pages={"2M": 2}, cgroup="hugetlb")
def pod_without_hugepages(world, tmp_path):
    """The limit of 0 that kubelet sets, and then the one of the request that doctor names."""
    box, pod = world.box({"2M": 2}), world.cgroup("2M", 0, label="kubepods_")
    target = prepared(world, "-m", "4", box=box, cgroup=pod)

    def carry(do):
        mb = int(re.search(r": (\d+)Mi in requests", do)[1])
        (pod.dir / "hugetlb.2MB.max").write_text(str(mb * MB))
        return world.target("-m", "4", box=box, cgroup=pod)

    target.carry = carry
    return target


@scene(36, "continue", pages={"2M": 8})
def stopped_primary(world, tmp_path):
    box = world.box({"2M": 8})
    primary = world.eal("-m", "2", box=box)
    os.kill(primary.pid, signal.SIGSTOP)
    return prepared(world, "--proc-type=secondary", box=box)


def without(number, option, pages):
    """Make a primary whose memory no secondary can map, and start it without that option."""

    @scene(number, "primary-without", pages=pages)
    def make(world, tmp_path):
        box = world.box({"2M": 4})
        primary = world.eal("-m", "2", option, box=box)
        target = prepared(world, "--proc-type=secondary", box=box)

        def carry(do):
            assert do.endswith(option)
            primary.close()
            world.eal("-m", "2", box=box)
            return world.target("--proc-type=secondary", box=box)

        target.carry = carry
        return target


without(37, "--huge-unlink", {"2M": 4})
without(38, "--no-huge", {"2M": 4})


@scene(44, "another-mount", pages={"2M": 2})
def locked_directory(world, tmp_path):
    """The lock stays: the mount that doctor names is another directory."""
    box = world.box({"2M": 1}, lease={"2M": 1}, mounts=[("tmpfs", "/mnt", "mode=755")])
    target = prepared(world, "-m", "2", box=box)
    fd = os.open(box.path("/run/hugepages/2M"), os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    target.within, target.end = 1, lambda: os.close(fd)
    return target


# the kinds of wrong advice that were seen once
@scene("quota-in-legacy-mode", "another-mount", pages={"2M": 4})
def quota_in_legacy_mode(world, tmp_path):
    """The mount's quota ends the start, not the pool."""
    few = [("2M", "/run/hugepages/few", "size=4M"), ("tmpfs", "/mnt", "mode=755")]
    box = world.box(lease={"2M": 4}, mounts=few)
    return prepared(world, "--legacy-mem", "-m", "8", box=box)


@scene("primary-not-up", "wait-primary", pages={"2M": 1})
def primary_that_starts(world, tmp_path):
    """A primary before its last word, which it then writes."""
    box = world.box({"2M": 1})
    primary = world.eal("-m", "2", box=box)
    primary.patch("magic", 0)
    target = prepared(world, "--proc-type=secondary", box=box)

    def carry(do):
        assert f"process {primary.pid} " in do
        primary.patch("magic", 19820526)
        return world.target("--proc-type=secondary", box=box)

    target.within, target.carry = 1, carry
    return target


@scene("addresses-of-the-primary", "primary-base", pages={"2M": 1})
def addresses_of_the_primary(world, tmp_path):
    """The secondary has something where the primary begins: at the base for both it has not."""
    box, role = world.box({"2M": 1}), "--proc-type=secondary"
    primary = world.eal("-m", "2", box=box)
    taken = primary.lists()[0].base_va
    target = world.target(role, box=box)
    target.eal.block(taken, MB)
    target.by_pid = True

    def carry(do):
        primary.close()
        world.eal("-m", "2", do.split()[0], box=box)
        after = world.target(role, box=box)
        after.eal.block(taken, MB)
        return after

    target.carry = carry
    return target


@scene("another-user", "same-user", pages={"2M": 1})
def another_user(world, tmp_path):
    """The primary's files are root's."""
    mounts = [("2M", "/run/hugepages/2M", "size=2M,mode=1777"), ("tmpfs", "/run/d", "mode=777")]
    box, env = world.box(mounts=mounts), {"RUNTIME_DIRECTORY": "/run/d"}
    world.eal("-m", "2", box=box, env=env)
    args = ["--proc-type=secondary"]
    target = prepared(world, *args, box=box, env=env, as_user="nobody")
    target.carry = lambda do: world.target(*args, box=box, env=env)
    return target


@scene(45, "limit", pages={"2M": 2})
def little_address_space(world, tmp_path):
    return prepared(world, "-m", "4", box=world.box({"2M": 2}), rlimits={"as": GB})


@pytest.mark.parametrize(("make", "fix", "number"), SCENES.values())
def test_the_problem_is_gone_by_the_advice(make, fix, number, world, tmp_path, evidence):
    target = None

    def made(world, tmp_path):
        nonlocal target
        target = make(world, tmp_path)
        return target

    try:
        check(made, fix, {number} & KNOWN, world, tmp_path, evidence)
        assert getattr(target, "afterwards", lambda: True)()
    finally:
        getattr(target, "end", lambda: None)()


# without a scene here: where it is carried out, or why it cannot be on one machine
ELSEWHERE = {
    0: "names another argument: test_fixes, row cores",
    8: "needs a node with memory and one without: machine numa2",
    15: "test_looking_leaves_the_primary_alone",
    19: "an option of a container runtime, which is not here: test_namespace",
    20: "test_primary: the secondary starts without the library",
    24: "needs VFIO, which this kernel lacks: fixtures/hosts",
    27: "needs two nodes with memory: machine numa2",
    31: "needs over 4 GB of pages",
    33: "changes how this machine boots: the tests of pyeal setup",
    34: "test_as_many_pages_as_plan_says",
    35: "nothing to do: test_pool, which starts",
    39: "no start depends on it, and it needs 1 GB of pages",
    40: "needs more page sizes than a kernel of this architecture has",
    42: "test_addresses, as 14",
    43: "test_a_job_with_a_lease_has_its_pages",
    46: "test_a_counter_that_cannot_be_read",
}


# rows of pyeal/tools/fixes.py without a scene here or in test_fixes
WITHOUT = {
    "release": "chooses another release of DPDK: test_arguments",
    "megabytes": "names no number, the user's is not known",
    "socket-limit": "as socket-mem",
    "umount": "needs mounts on top of each other: fixtures/hosts",
    "limit-of": "of another process that has not started",
    "max-map-count": "changes the whole machine",
    "overcommit": "changes the whole machine",
    "core-dump": "no start depends on it, and it needs 1 GB of pages",
    "host-pids": "is about what cannot be known, not about a start that fails",
    "pod-prefix": "is about what cannot be known, not about a start that fails",
    "cpuset": "needs a second node: machine numa2",
    "boot-argument": "needs another boot",
    "volume": "an option of a container runtime, which is not here: test_namespace",
    "profile": "changes the configuration of a container runtime: test_permission",
    "same-build": "needs a build for another cache line",
    "same-libraries": "test_primary, which then starts",
    "locked-memory": "needs VFIO, which this kernel lacks: fixtures/hosts",
}


def test_each_fix_has_a_scene_or_a_reason():
    scenes = test_fixes.SCENES.keys() | {p.values[1] for p in SCENES.values()}

    assert scenes & WITHOUT.keys() == set()
    assert scenes | WITHOUT.keys() == (fixes.FIXES | fixes.BY_HAND).keys()


def test_each_problem_has_a_scene_or_a_reason():
    scenes = SCENES.keys() & KNOWN | OF_FIXES.keys()

    assert scenes & ELSEWHERE.keys() == set()
    assert scenes | ELSEWHERE.keys() == KNOWN
    assert {*OF_FIXES.values()} <= {*test_fixes.SCENES, *(p.id for p in test_fixes.MORE)}


@needs(root=True, pages={"2M": 4})
def test_looking_leaves_the_primary_alone(world, tool):
    """15: a secondary's end may stop the primary's device; inspect does not attach."""
    box = world.box({"2M": 4})
    primary = world.eal("-m", "2", box=box)
    before = primary.run_files()
    tool("inspect", primary.pid)

    assert primary.run_files() == before
    assert primary.malloc(3 * MB).va


@needs(root=True, pages={"2M": 4})
def test_as_many_pages_as_plan_says(world, tool, facts):
    """34: an application needs 5 MB; a start with as much memory as was planned has them."""
    box = world.box({"2M": 4})
    args = ["-m", "8"]
    planned = facts("plan", "--", *args, prefix=box.enter)
    target = world.target(*args, box=box)
    target.starts()

    assert planned["bytes"] == 8 * MB == sum(s.len for s in target.eal.segments())
    assert target.eal.malloc(5 * MB).va


@needs(root=True, pages={"2M": 1})
def test_a_job_with_a_lease_has_its_pages(tool, tmp_path):
    """43: whatever others take, `pyeal lease` sets pages aside for a command."""
    words = [sys.executable, "-P", "-m", "pyeal", "init", "--no-hold", "--", "-m", "4"]
    said = tool("lease", "2M:2", "--", *words, prefix=["env", f"RUNTIME_DIRECTORY={tmp_path}"])

    assert "memseg-2048k-0-0" in said


@needs(root=True, pages={"2M": 1})
def test_a_counter_that_cannot_be_read(world, tmp_path):
    """46: `demote` may only be written; doctor reads counters by their names, and EAL starts."""
    binds = fake_host.build(tmp_path, {"2M": [2]})
    for d in tmp_path.glob("sys/**/hugepages-2048kB"):
        (d / "demote").write_text("")
        (d / "demote").chmod(0o200)
    box = world.box(lease={"2M": 1}, binds=binds)
    target = world.target("--in-memory", "-m", "2", box=box, as_user="nobody")

    assert target.ask()[0] == 0
    target.starts()
