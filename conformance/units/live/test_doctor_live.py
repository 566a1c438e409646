"""Problems made for real: a librte_eal fails on each, doctor named it before, explain after.

A maker brings the world into its state and answers how the target is to be started in it. Doctor is
run as the target will be: in its mounts, with its user, limits, group and injected errors.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from conformance import needs
from conformance.harness import fake_host
from conformance.harness.box import Cgroup, limits, user
from conformance.harness.child import TargetDied, TargetHung, environment

TARGET = "librte_eal"
STRACE = ["strace", "-f", "-qq", "-o", "/dev/null"]
SHELL_JOIN = 'echo $$ > "$1/cgroup.procs"; shift; exec "$@"'


class Way:
    """How a target is started: EAL's arguments, and where. ends: refused, hangs, dies, starts."""

    def __init__(self, *args, box, ends="refused", inject=(), env=None, cgroup=None, before=None,
                 release=None, after=None, target=TARGET, **how):  # fmt: skip
        self.args, self.box, self.ends, self.inject = args, box, ends, inject
        self.env, self.cgroup, self.how = env or {}, cgroup, how
        self.before, self.after, self.release = before, after, release
        self.target = target

    def prefix(self):
        """What doctor's command is put behind, to be where the target is."""
        how = self.how
        argv = [*self.box.enter]
        if self.cgroup:
            argv += ["sh", "-c", SHELL_JOIN, "sh", str(self.cgroup.dir)]
        argv += limits(**how.get("rlimits", {}))
        argv += user(how.get("as_user"), how.get("drop", ()))
        for what in self.inject:
            argv += [*STRACE, "-e", f"trace={what.partition(':')[0]}", "-e", f"inject={what}"]
        return argv


class Deeper:
    """A namespace below a box, in which a command was run first."""

    def __init__(self, box, command):
        self._box = box
        self.enter = [*box.enter, "unshare", "--mount", "--propagation", "private", "sh", "-c",
                      f'{command}; exec "$@"', "sh"]  # fmt: skip

    def __getattr__(self, name):
        return getattr(self._box, name)


class World:
    """What makers build with."""

    def __init__(self, request, tmp_path, groups):
        self.request, self.tmp, self.groups = request, tmp_path, groups
        get = request.getfixturevalue
        self.box, self.start, self.cgroup, self.prefix = (
            get("make_box"), get("start"), get("cgroup"), get("prefix"))  # fmt: skip

    def eal(self, *args, box, **how):
        return self.start(*args, target=TARGET, box=box, **how)

    def tree(self, pools, cpus=None):
        """{path: tree} for a box: free pages by node, {"2M": [8, 0]}, which it shares CPUs with."""
        root = self.tmp / "tree"
        nodes = max(map(len, pools.values()))
        cpus = cpus or ({0: "0-1"} if nodes == 1 else {0: "0", 1: "1"})
        return fake_host.build(root, pools, cpus)

    def finally_(self, fn):
        self.request.addfinalizer(fn)


@pytest.fixture
def groups():
    """Cgroups, which outlive the processes in them."""
    made = []
    yield made
    for group in made:
        group.close()


@pytest.fixture
def world(request, tmp_path, groups):
    return World(request, tmp_path, groups)


PROBLEMS = []


def problem(row, link, *words, state="FAIL", log=True, **want):
    """A maker of problem `row`: doctor says `state` in `link`, with these words. log: whether the
    log tells (False: it is silent; another number: the log only shows that one)."""

    def take(make):
        logged = row if log is True else log
        marks = needs(**{"root": True, **want})
        PROBLEMS.append(pytest.param(make, row, link, words, state, logged, marks=marks,
                                     id=f"{row}-{make.__name__}".replace("_", "-")))  # fmt: skip
        return make

    return take


# --- arguments


@problem(0, "arguments", "unrecognized option")
def unknown_option(w):
    return Way("--no-such-thing", box=w.box())


@problem(0, "arguments", "lcore 127 unavailable")
def missing_lcore(w):
    return Way("-l", "127", box=w.box())


@problem(38, "arguments", "--no-huge")
def no_huge_with_huge_unlink(w):
    return Way("--no-huge", "--huge-unlink", box=w.box())


# --- pool


@problem(
    1, "pool", "no hugepages are reserved", "dpdk-hugepages.py -p 2M -r", log=1, pages={"2M": 1}
)
def nothing_reserved(w):
    return Way(box=w.box({"2M": 1}, binds=w.tree({"2M": [0]})))


@problem(3, "pool", "all hugepages are taken", "pyeal stale --delete", log=1, pages={"2M": 4})
def all_held_by_a_killed_process(w):
    box = w.box({"2M": 2}, binds=w.tree({"2M": [2]}),
                mounts=[("2M", "/run/hugepages/b", "size=4M,min_size=4M")])  # fmt: skip
    dead = w.eal("-m", "4", "--huge-dir", "/run/hugepages/b", box=box, prefix=f"{w.prefix}_dead")
    dead.kill()
    for f in w.tmp.glob("tree/**/free_hugepages"):
        f.write_text("0\n")
    return Way(box=box)


@problem(6, "pool", "asked for", "dpdk-hugepages.py -p 2M -r", pages={"2M": 1})
def more_than_there_is(w):
    return Way("-m", "99999999", box=w.box({"2M": 1}))


@problem(6, "pool", "asked for on node 0", "-n 0", pages={"2M": 1})
def more_than_a_node_has(w):
    return Way("--socket-mem", "99999", box=w.box({"2M": 1}))


@problem(27, "pool", "on node 1", "-n 1", log=6, pages={"2M": 4})
def all_on_the_other_node(w):
    return Way("--socket-mem", "2,2", box=w.box({"2M": 4}, binds=w.tree({"2M": [4, 0]})))


@problem(26, "pool", "the kernel has 0 free blocks", log=6, pages={"2M": 1})
def too_fragmented_for_more(w):
    file = w.tmp / "buddyinfo"
    file.write_text("Node 0, zone   Normal" + "    900" * 9 + "      0" * 2 + "\n")
    return Way("-m", "99999999", box=w.box({"2M": 1}, binds={"/proc/buddyinfo": file}))


@problem(35, "pool", "no 1G pages reserved: not a problem", state="OK", pages={"2M": 2})
def a_size_without_pages(w):
    box = w.box({"2M": 2}, binds=w.tree({"2M": [2], "1G": [0]}),
                mounts=[("1G", "/run/hugepages/1G", "size=1G")])  # fmt: skip
    return Way("-m", "2", box=box, ends="starts")


@problem(40, "mount", "at most 3 page sizes")
def more_sizes_than_eal_holds(w):
    host = fake_host.load("arm-sizes")
    root = host.expand(w.tmp / "arm")
    binds = {k: v for k, v in host.binds(root).items() if "hugepages" in k or "node" in k}
    return Way("--in-memory", box=w.box(binds=binds))


@problem(41, "pool", "no hugepages", "--no-huge")
def kernel_without_hugepages(w):
    (w.tmp / "mm").mkdir()
    return Way(box=w.box(binds={"/sys/kernel/mm": w.tmp / "mm"}))


# --- mount, namespace


@problem(2, "mount", "no hugetlbfs of these pages", "mount -t hugetlbfs -o pagesize=2M")
def no_mount(w):
    return Way(box=w.box())


@problem(2, "mount", "--huge-dir /run", "/run/hugepages/2M", pages={"2M": 1})
def a_huge_dir_that_is_none(w):
    return Way("--huge-dir", "/run", box=w.box({"2M": 1}))


@problem(6, "mount", "size= of /run/hugepages/2M leaves 2", "remount,size=", log=False,
         pages={"2M": 2})  # fmt: skip
def a_mount_with_a_small_size(w):
    return Way("-m", "16", box=w.box({"2M": 2}))


@problem(6, "mount", "nr_inodes", "remount,nr_inodes=", log=11, pages={"2M": 4})
def a_mount_with_few_inodes(w):
    mounts = [("2M", "/run/hugepages/few", "size=8M,min_size=8M,nr_inodes=2")]
    return Way("-m", "8", box=w.box(mounts=mounts))


@problem(30, "mount", "/run/hugepages/b", "--huge-dir", state="WARN", log=False, pages={"2M": 2})
def two_mounts_of_a_size(w):
    box = w.box({"2M": 2}, mounts=[("2M", "/run/hugepages/b", "size=4M")])

    def after(eal):
        assert eal.page_files("2M")  # in the first one
        assert not os.listdir(box.path("/run/hugepages/b"))

    return Way("-m", "2", box=box, ends="starts", after=after)


@problem(29, "mount", "in the order 1G then 2M", state="OK", log=False, pages={"1G": 1, "2M": 1})
def both_sizes_mounted(w):
    box = w.box({"1G": 1, "2M": 1})

    def after(eal):
        assert {s.len for s in eal.segments()} == {1 << 30}

    return Way("-m", "1024", box=box, ends="starts", after=after)


# --- cgroup


@problem(4, "cgroup", "SIGBUS", "hugetlb.2MB.max", cgroup="hugetlb", pages={"2M": 4})
def cgroup_limit(w):
    return Way("-m", "8", box=w.box({"2M": 4}), cgroup=w.cgroup("2M", 2 << 20))


@problem(4, "cgroup", "mmap fails", "rsvd", log=False, cgroup="hugetlb", pages={"2M": 4})
def cgroup_limit_of_reservations(w):
    return Way("-m", "8", "--in-memory", box=w.box(lease={"2M": 4}),
               cgroup=w.cgroup("2M", 4 << 20, reserve=True))  # fmt: skip


@problem(32, "cgroup", "requests and limits of the pod", log=4, cgroup="hugetlb", pages={"2M": 2})
def pod_that_asks_for_no_hugepages(w):
    w.groups.append(Cgroup(f"kubepods_{w.prefix}", "2M", 0))
    return Way("-m", "4", box=w.box({"2M": 2}), cgroup=w.groups[-1])


# --- permission


@problem(10, "permission", "may not make files", "uid=", pages={"2M": 1})
def mount_of_root(w):
    box = w.box(mounts=[("2M", "/run/hugepages/2M", "size=2M,mode=755")])
    return Way("-m", "2", box=box, as_user="nobody")


@problem(10, "permission", "may not make files", "mode 0700", pages={"2M": 1})
def mount_that_cannot_be_locked(w):
    box = w.box(mounts=[("2M", "/run/hugepages/2M", "size=2M,mode=700")])
    return Way("-m", "2", box=box, as_user="nobody")


@problem(10, "permission", "of user 0", "sticky", pages={"2M": 2})
def files_of_root_in_a_sticky_directory(w):
    box = w.box(mounts=[("2M", "/run/hugepages/2M", "size=4M,mode=1777")])
    for i in range(4):  # a name in each list, or EAL continues with the next
        box.path(f"/run/hugepages/2M/eal_stickymap_{i * 8192}").touch(mode=0o600)
    return Way("-m", "2", box=box, as_user="nobody", prefix="eal_sticky")


@problem(10, "permission", "read-only", "remount,rw", pages={"2M": 1})
def mount_read_only(w):
    box = w.box(mounts=[("2M", "/run/hugepages/2M", "size=2M,ro")])
    return Way("-m", "2", box=box)


@problem(10, "permission", "runtime directory", "XDG_RUNTIME_DIR")
def runtime_directory_of_root(w):
    box = w.box(mounts=[("tmpfs", "/run/closed", "mode=755")])
    env = {"XDG_RUNTIME_DIR": "/run/closed"}
    return Way("--no-huge", "-m", "4", box=box, as_user="nobody", env=env)


@problem(28, "permission", "memfd_create", strace=True, pages={"2M": 2})
def memfd_denied(w):
    inject = ["memfd_create:error=EACCES"]
    return Way("--in-memory", "-m", "4", box=w.box(lease={"2M": 2}), inject=inject)


# --- policy


@problem(7, "policy", "get_mempolicy is forbidden", "SYS_NICE", strace=True, pages={"2M": 2})
def mempolicy_denied(w):
    return Way("-m", "4", box=w.box({"2M": 2}), inject=["get_mempolicy:error=EPERM"])


@problem(8, "policy", "node 1", "Mems_allowed", pages={"2M": 2})
def node_that_is_not_allowed(w):
    box = w.box({"2M": 2}, binds=w.tree({"2M": [0, 2]}))
    return Way("--socket-mem", "0,4", box=box)


# --- address space, descriptors


@problem(45, "address space", "cannot be reserved", "ulimit -v", pages={"2M": 2})
def little_address_space(w):
    return Way("-m", "4", box=w.box({"2M": 2}), rlimits={"as": 1 << 30})


@problem(14, "address space", "something lies", "--base-virtaddr=0x", state="WARN", pages={"2M": 1})
def something_where_eal_begins(w):
    def before(eal):
        eal.block(0x200000000, 1 << 20)

    return Way("-m", "2", "--base-virtaddr=0x200000000", box=w.box({"2M": 1}), before=before,
               ends="starts")  # fmt: skip


@problem(42, "address space", "a sanitizer's shadow", state="WARN", log=14, pages={"2M": 1})
def sanitizer_where_eal_begins(w):
    gcc = shutil.which("gcc") or "false"
    path = subprocess.run([gcc, "-print-file-name=libasan.so.8"], capture_output=True, text=True)
    lib = path.stdout.strip()
    if "/" not in lib:
        pytest.skip("wanted libasan.so.8 of gcc, found none")
    env = {"LD_PRELOAD": lib, "ASAN_OPTIONS": "detect_leaks=0"}
    return Way("-m", "2", box=w.box({"2M": 1}), env=env,
               before=lambda eal: None, ends="starts")  # fmt: skip


@problem(13, "address space", "lists of this release", "2M:16M", log=False, pages={"2M": 8})
def lists_that_are_too_short(w):  # Debian has no 26.07 yet, and before it 64 GB must be full
    args = ["-m", "16", "--pagesz-mem", "2M:4M"]
    return Way(*args, box=w.box({"2M": 8}), target="pyeal:26.07", release="26.07")


@problem(12, "descriptors", "--single-file-segments", "ulimit -Hn 40", pages={"2M": 40})
def few_descriptors(w):
    return Way("-m", "80", box=w.box({"2M": 40}), rlimits={"nofile": 40})


@problem(11, "descriptors", "SIGXFSZ", "ulimit -f", pages={"2M": 1})
def short_files(w):
    return Way("-m", "2", box=w.box({"2M": 1}), rlimits={"fsize": 1 << 20})


# --- IOVA


@problem(9, "IOVA", "no physical address", "--iova-mode=va", pages={"2M": 1})
def no_physical_addresses(w):
    return Way("-m", "2", "--iova-mode=pa", box=w.box({"2M": 1}), drop=["sys_admin"],
               target="librte_eal:24.11", release="24.11")  # fmt: skip


# --- files of others: a primary


@problem(5, "files of others", "has a living primary", "--file-prefix", pages={"2M": 2})
def prefix_taken(w):
    box = w.box({"2M": 2})
    w.eal("-m", "2", box=box)
    return Way("-m", "2", box=box)


@problem(44, "files of others", "is locked", "kill", log=False, pages={"2M": 1})
def hugepage_directory_locked(w):
    box = w.box({"2M": 1})
    fd = os.open(box.path("/run/hugepages/2M"), os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)
    w.finally_(lambda: os.close(fd))
    return Way("-m", "2", box=box, ends="hangs", after=lambda eal: os.close(os.dup(fd)))


@problem(21, "files of others", "live on its files", "kill", pages={"2M": 2})
def secondary_that_outlived_its_primary(w):
    box = w.box({"2M": 2})
    primary = w.eal("-m", "2", box=box)
    secondary = w.eal("--proc-type=secondary", box=box)
    primary.kill()
    w.finally_(secondary.kill)
    return Way("-m", "2", box=box)


@problem(21, "files of others", "another EAL uses", "--file-prefix", log=False, pages={"2M": 2})
def the_same_prefix_in_another_container(w):
    box = w.box({"2M": 2}, mounts=[("tmpfs", "/run/a", ""), ("tmpfs", "/run/b", "")])
    first = w.eal("-m", "2", box=box, env={"RUNTIME_DIRECTORY": "/run/a"})
    was = os.stat(first.hugedir() / first.page_files()[0]).st_ino

    def after(eal):  # it took the name of the first one's page away
        assert os.stat(eal.hugedir() / eal.page_files()[0]).st_ino != was

    return Way("-m", "2", box=box, env={"RUNTIME_DIRECTORY": "/run/b"}, ends="starts", after=after)


@problem(22, "files of others", "would be deleted", state="WARN", log=False, pages={"2M": 2})
def kept_files_of_another(w):
    box = w.box({"2M": 2})
    w.eal("-m", "2", "--huge-unlink=never", box=box, prefix=f"{w.prefix}_kept").close()

    def after(eal):
        assert not [f for f in os.listdir(eal.hugedir()) if "_kept" in f]

    return Way("-m", "2", box=box, ends="starts", after=after)


# --- files of others: a secondary


@problem(18, "files of others", "no primary", "start a primary")
def no_primary(w):
    return Way("--proc-type=secondary", box=w.box())


@problem(18, "files of others", "is alive", "--file-prefix", pages={"2M": 1})
def primary_of_another_prefix(w):
    box = w.box({"2M": 1})
    w.eal("-m", "2", box=box, prefix=f"{w.prefix}_one")
    return Way("--proc-type=secondary", box=box, prefix=f"{w.prefix}_other")


@problem(18, "files of others", "only its files are left", pages={"2M": 1}, log=False)
def primary_gone(w):
    box = w.box({"2M": 1})
    w.eal("-m", "2", box=box).kill()
    return Way("--proc-type=secondary", box=box, ends="any")


@problem(17, "files of others", "wait indefinitely", "rm -r", log=False, pages={"2M": 1})
def primary_that_died_while_starting(w):
    box = w.box({"2M": 1})
    primary = w.eal("-m", "2", box=box)
    primary.patch("magic", 0)
    primary.kill()
    return Way("--proc-type=secondary", box=box, ends="hangs")


@problem(16, "files of others", "not of one release", pages={"2M": 1})
def primary_of_another_release(w):
    box = w.box({"2M": 1})
    primary = w.eal("-m", "2", box=box)
    primary.patch("version", 24 << 24 | 11 << 16 | 6 << 8 | 99)
    return Way("--proc-type=secondary", box=box, release="22.11.11")


@problem(19, "namespace", "under the same path", "-v /dev/hugepages", pages={"2M": 1})
def hugepage_directory_not_shared(w):
    box = w.box({"2M": 1})
    w.eal("-m", "2", box=box)
    inner = Deeper(box, "umount /run/hugepages/2M; rmdir /run/hugepages/2M")
    return Way("--proc-type=secondary", box=inner)


@problem(37, "files of others", "no names", "--huge-unlink", pages={"2M": 4})
def primary_that_unlinked_its_pages(w):
    box = w.box({"2M": 4})
    w.eal("-m", "2", "--huge-unlink", box=box)
    return Way("--proc-type=secondary", box=box)


@problem(38, "files of others", "--no-huge")
def primary_without_hugepages(w):
    box = w.box()
    w.eal("-m", "4", "--no-huge", box=box)
    return Way("--proc-type=secondary", box=box)


@problem(14, "address space", "taken in this process", "--base-virtaddr", pages={"2M": 1})
def primary_where_the_secondary_has_something(w):
    box = w.box({"2M": 1})
    primary = w.eal("-m", "2", box=box)
    at = primary.lists()[0].base_va

    def before(eal):
        eal.block(at, 1 << 20)

    return Way("--proc-type=secondary", box=box, before=before)


@problem(36, "files of others", "is stopped", "kill -CONT", state="WARN", pages={"2M": 8})
def primary_that_is_stopped(w):
    box = w.box({"2M": 8})
    primary = w.eal("-m", "2", box=box)
    os.kill(primary.pid, signal.SIGSTOP)
    w.finally_(lambda: os.kill(primary.pid, signal.SIGCONT))

    def after(eal):  # asks the primary for memory, and gives up after 5 s
        assert not eal.malloc(6 << 20).va

    return Way("--proc-type=secondary", box=box, ends="starts", after=after)


TAILQ = r"""
#include <dlfcn.h>
struct elem { void *head; void *next[2]; char name[32]; };
static struct elem e = { 0, {0, 0}, "RTE_RING" };
__attribute__((constructor)) static void add(void) {
    void *lib = dlopen("librte_eal.so.23", RTLD_NOW | RTLD_GLOBAL);
    int (*reg)(struct elem *) = lib ? dlsym(lib, "rte_eal_tailq_register") : 0;
    if (reg) reg(&e);
}
"""


@problem(20, "files of others", "RTE_RING", pages={"2M": 1})
def libraries_that_the_primary_lacks(w):
    lib = w.tmp / "librte_ring.so"
    gcc = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", lib, "-ldl"]
    try:
        subprocess.run(gcc, input=TAILQ, text=True, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("wanted gcc, found none that works")
    box = w.box({"2M": 1})
    w.eal("-m", "2", box=box)
    return Way("--proc-type=secondary", box=box, env={"LD_PRELOAD": str(lib)},
               before=lambda eal: None)  # fmt: skip


# --- the tests


def run(prefix, *args, env=None, stdin=""):
    """(exit code, decoded answer) of a tool."""
    argv = [*prefix, sys.executable, "-P", "-m", "pyeal", *map(str, args)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, input=stdin,
                          env=env or environment())  # fmt: skip
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stdout.startswith("{"), f"{argv}\n{done.stdout}{done.stderr}"
    return done.returncode, json.loads(done.stdout)


def ends(eal, way):
    """Lets the target start, and answers its log; it must end as was said."""
    trace = eal.trace(",".join(i.partition(":")[0] for i in way.inject),
                      inject=list(way.inject)) if way.inject else None  # fmt: skip
    if way.ends == "refused":
        log = eal.refused(within=20).log
    elif way.ends == "hangs":
        with pytest.raises(TargetHung):
            eal.init(within=0.7)
        log = eal.log
    elif way.ends == "dies":
        with pytest.raises(TargetDied):
            eal.init(within=20)
        log = eal.log
    elif way.ends == "starts":
        eal.init(within=20)
        if way.after:
            way.after(eal)
        log = eal.log
    else:
        try:
            eal.init(within=5)
        except Exception as e:  # any outcome will do
            del e
        log = eal.log
    if trace:
        trace.stop()
    return log


@pytest.mark.parametrize(("make", "row", "link", "words", "state", "logged"), PROBLEMS)
def test_named_before_and_after(make, row, link, words, state, logged, world, evidence):
    """Doctor: the link, the row, the words. librte_eal: fails. explain: the row, from its log."""
    way = make(world)
    eal = world.start(*way.args, target=way.target, init=False, box=way.box, env=way.env,
                      cgroup=way.cgroup, **way.how)  # fmt: skip
    options = ["--as", way.release] if way.release else []
    env = environment() | way.box.environment() | way.env
    if way.before:  # something of the process itself: doctor looks at that one
        way.before(eal)
        code, got = run([], "doctor", "--json", "--pid", eal.pid, *options, "--", *eal.args)
    else:
        env.pop("LD_PRELOAD", None)
        code, got = run(way.prefix(), "doctor", "--json", *options, "--", *eal.args, env=env)
    found = next(x for x in got["links"] if x["link"] == link)
    mine = [f for f in found["findings"] if row in f["problems"] and f["state"] == state]
    said = " ".join(str(f[k]) for f in mine for k in ("text", "wanted", "found", "do"))
    log = ends(eal, way)
    told = run([], "explain", "--json", stdin=log)[1]["problems"] if logged is not False else []
    evidence(f"{link}: {said[:100]}")

    assert mine, found
    assert [w for w in words if w not in said] == [], said
    assert got["first"] == (link if state == "FAIL" else None), got["first"]
    assert code == {True: 1, False: 0}[state == "FAIL"] + (link == "arguments" and state == "FAIL")
    if state == "FAIL":
        assert all(mine[0][k] for k in ("wanted", "found", "do"))
    if logged is not False:
        assert logged in [t["problem"] for t in told], _last_lines(log)


def _last_lines(log):
    lines = [x for x in log.splitlines() if "irtual area" not in x and "Tailq" not in x]
    return "\n".join(lines[-12:])


def test_thirty_of_the_problems_are_made_with_a_real_librte_eal():
    """Rows that hurt a user: without 0, which is no problem, pyeal's own 13, and the harmless."""
    states = {}
    for _, row, _, _, state, _ in (p.values for p in PROBLEMS):
        states.setdefault(row, set()).add(state)
    hurt = {row for row, found in states.items() if found != {"OK"}} - {0, 13}
    refused = {row for row in hurt if "FAIL" in states[row]}

    assert (len(hurt), len(refused)) == (33, 29)  # more is better: count again


HEALTHY = {
    "dynmem": (["-m", "4"], {"2M": 2}),
    "single-file": (["-m", "4", "--single-file-segments"], {"2M": 2}),
    "in-memory": (["-m", "4", "--in-memory"], {}),
    "huge-unlink": (["-m", "4", "--huge-unlink"], {"2M": 2}),
    "legacy": (["-m", "4", "--legacy-mem"], {"2M": 2}),
    "no-huge": (["-m", "4", "--no-huge"], {}),
    "nothing-asked": ([], {"2M": 2}),
    "both-sizes": (["-m", "4"], {"2M": 2, "1G": 1}),
}


@needs(root=True, pages={"2M": 2})
@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_found_where_all_is_well(name, world):
    """No FAIL and no WARN for what then starts; from outside by --pid neither."""
    args, pages = HEALTHY[name]
    box = world.box(pages, lease={} if pages else {"2M": 2})
    eal = world.start(*args, target=TARGET, init=False, box=box)
    env = environment() | box.environment()
    inside = run(box.enter, "doctor", "--json", "--", *eal.args, env=env)
    outside = run([], "doctor", "--json", "--pid", eal.pid, "--", *eal.args)
    eal.init()

    for code, got in (inside, outside):
        states = {x["link"]: x["state"] for x in got["links"]}
        assert (code, got["verdict"]) == (0, "OK"), got
        assert set(states.values()) == {"OK"}, got


@needs(root=True, pages={"2M": 2})
def test_a_secondary_is_well_too(world):
    """Beside a living primary."""
    box = world.box({"2M": 2})
    world.eal("-m", "4", box=box)
    eal = world.start("--proc-type=secondary", target=TARGET, init=False, box=box)
    env = environment() | box.environment()
    code, got = run(box.enter, "doctor", "--json", "--", *eal.args, env=env)
    eal.init()

    assert (code, got["verdict"], got["first"]) == (0, "OK", None), got
    assert {x["state"] for x in got["links"]} == {"OK"}, got


@needs(root=True, pages={"2M": 4})
def test_a_process_that_is_up_is_not_in_its_own_way(world):
    """Neither its lock nor its memory."""
    box = world.box({"2M": 4})
    eal = world.eal("-m", "4", box=box)
    code, got = run([], "doctor", "--json", "--pid", eal.pid, "--", *eal.args)
    said = [f["text"] for x in got["links"] for f in x["findings"]]

    assert (code, got["verdict"]) == (0, "OK"), got
    assert [t for t in said if f"process {eal.pid} is this primary, and up" in t]


@needs(root=True, pages={"2M": 2})
def test_in_a_process_namespace_it_does_not_guess(world):
    """Holders of locks outside are not visible: UNKNOWN, and kept files are not doomed."""
    box = world.box({"2M": 2})
    world.eal("-m", "2", "--huge-unlink=never", box=box, prefix=f"{world.prefix}_kept").close()
    env = environment() | box.environment()
    args = ["-m", "2", "--file-prefix", "eal_inside"]
    inner = [*box.enter, "unshare", "--pid", "--fork", "--mount-proc"]
    code, got = run(inner, "doctor", "--json", "--", *args, env=env)
    states = {x["link"]: x["state"] for x in got["links"] if x["state"] != "OK"}

    assert (code, got["verdict"]) == (0, "OK")
    assert states == {"namespace": "UNKNOWN"}


@needs(root=True, pages={"2M": 2})
def test_without_the_right_to_look_it_says_so(world):
    """As nobody at a process of root: its mounts are UNKNOWN."""
    box = world.box({"2M": 2})
    eal = world.start("-m", "2", target=TARGET, init=False, box=box)
    got = run(user("nobody"), "doctor", "--json", "--pid", eal.pid, "--", "--in-memory")[1]
    (told,) = [x for x in got["links"] if x["link"] == "namespace"]

    assert told["state"] == "UNKNOWN"
    assert f"sudo pyeal doctor --pid {eal.pid}" in [f["do"] for f in told["findings"]]


@needs(root=True, strace=True, pages={"2M": 2})
def test_it_only_looks(world, tmp_path):
    """No lock, nothing written, nothing opened for writing, no page taken."""
    box = world.box({"2M": 2})
    world.eal("-m", "4", box=box)
    out = tmp_path / "calls"
    calls = "flock,fcntl,open,openat,creat,unlink,unlinkat,mkdir,mkdirat,rename,ftruncate,fallocate"
    strace = ["strace", "-f", "-qq", "-y", "-e", f"trace={calls}", "-o", str(out)]
    env = environment() | box.environment() | {"PYTHONDONTWRITEBYTECODE": "1"}
    args = ["-m", "4", "--file-prefix", "eal_other"]
    run([*box.enter, *strace], "doctor", "--json", "--", *args, env=env)
    told = out.read_text().splitlines()
    words = "O_WRONLY O_RDWR O_CREAT flock( F_SETLK unlink mkdir rename".split()
    bad = [c for c in told if any(w in c for w in words)]
    truncated = [c for c in told if "ftruncate" in c and "memfd:" not in c]

    assert told
    assert bad == []
    assert truncated == []


@needs(root=True, cgroup="hugetlb", pages={"2M": 2})
def test_touch_names_the_call_that_fails(world):
    """A cgroup limit of 0 shows when the page is touched, and nowhere before."""
    box = world.box({"2M": 2})
    way = Way("-m", "2", box=box, cgroup=world.cgroup("2M", 0))
    args = ["-m", "2", "--file-prefix", "eal_touch"]
    env = environment() | box.environment()
    good = run(box.enter, "doctor", "--json", "--touch", "--", *args, env=env)[1]["touch"]
    bad = run(way.prefix(), "doctor", "--json", "--touch", "--", *args, env=env)[1]["touch"]

    assert {s["error"] for s in good} == {""}
    assert bad[-1] == {"step": "touch the page", "error": "SIGBUS"}
    assert {s["error"] for s in bad[:-1]} == {""}
    assert os.listdir(box.path("/run/hugepages/2M")) == []
