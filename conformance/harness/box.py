"""Where a target runs: as root in private mounts that go with it, otherwise as it is."""

from __future__ import annotations

import glob
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

from conformance import until
from conformance.harness import host

HUGE = host.RUN + "/hugepages"  # inside the box: HUGE/2M is a hugetlbfs


class BoxError(Exception):
    """The mounts could not be made: a fault of the suite or of this machine."""


class Box:
    """A private mount namespace, held open by a process that waits for the end of its input.

    /run (what /var/run is) is an empty tmpfs, /run/hugepages/2M a hugetlbfs of exactly the pages
    asked for (min_size= takes them out of the pool, size= allows no more), every other hugetlbfs
    is out of sight, and so are PCI devices and DPDK's plug-ins. All is gone with the last process.

    binds: {path: tree bound over it}; mounts: [("2M", where, options)] more hugetlbfs, or another
    file system by its type; lease: pages that an in-memory EAL will take from the machine's pool.
    one_node: memory comes from this machine's first node that has any; the others are hidden.
    """

    private = True

    def __init__(
        self, pages=None, *, binds=None, mounts=(), lease=None, ledger=None, one_node=False
    ):
        self.pages, self.lease = dict(pages or {}), dict(lease or {})
        one_node = one_node and len(host.nodes()) > 1
        self.node, self.cpuset = host.full_nodes()[0] if one_node else None, None
        self.ledger = ledger or host.Ledger()
        script = ["set -e", *self._base([HUGE, *(f"{HUGE}/{sz}" for sz in self.pages)])]
        script += self._one_node() if one_node else []
        script += [
            self._hugetlbfs(
                sz, f"{HUGE}/{sz}", f"size={n * host.size(sz)},min_size={n * host.size(sz)}"
            )
            for sz, n in self.pages.items()
        ]
        script += self._mounts(mounts)
        script += [
            f"mount --bind {shlex.quote(str(b))} {shlex.quote(str(a))}"
            for a, b in (binds or {}).items()
        ]
        script += ["echo ready", "read _ || :"]
        self.ledger.take(self.pages, lambda: self._open("\n".join(script)), self.node)
        if one_node and (root := cpusets()):
            self.cpuset = Cpuset(root, self.node)
        if self.lease:
            self._lease()

    def _lease(self):
        try:
            self.ledger.take(self.lease, node=self.node)
        except host.NotEnough:
            self.lease = {}
            self.close()
            raise

    @staticmethod
    def _base(dirs):
        for where, kind, _ in host.mountinfo():  # before one is covered
            if kind == "hugetlbfs":
                yield f"umount -l {shlex.quote(where)}"
        run = host.RUN
        yield f"mount -t tmpfs -o mode=755 none {run}; mkdir -p {' '.join(dirs)}"
        yield f"mkdir -m 1777 {run}/user"
        hide = [
            "/sys/bus/pci/devices",
            *glob.glob("/usr/lib/*/dpdk/pmds-*"),
            *glob.glob("/usr/local/lib/*/dpdk/pmds-*"),
        ]
        for d in filter(os.path.isdir, hide):
            yield f"mount -t tmpfs none {d}"

    def _one_node(self):
        aside, nodes, first = f"{host.RUN}/nodes", host.NODES, f"node{self.node}"
        yield f"mkdir {aside}; mount --bind {nodes} {aside}; mount -t tmpfs none {nodes}"
        yield f"mkdir {nodes}/{first}; mount --bind {aside}/{first} {nodes}/{first}"
        yield f"umount -l {aside}; rmdir {aside}"

    @staticmethod
    def _hugetlbfs(size, where, options=""):
        options = f"pagesize={size}" + ("," + options if options else "")
        return f"mount -t hugetlbfs -o {options} none {shlex.quote(where)}"

    def _mounts(self, mounts):
        """Mount points are made, so only below what is the box's own."""
        own = [host.RUN]
        for kind, where, *options in mounts:
            if not where.startswith(tuple(d + "/" for d in own)) and (
                kind != "tmpfs" or not os.path.isdir(where)
            ):
                raise BoxError(f"{where} would be made on this machine: mount a tmpfs above it")
            own.append(where)
            yield f"mkdir -p {shlex.quote(where)}"
            if kind[0].isdigit():
                yield self._hugetlbfs(kind, where, *options)
            else:
                yield f"mount -t {kind} -o {','.join(filter(None, options)) or 'rw'} none {where}"

    def _open(self, script):
        self.holder = subprocess.Popen(
            [*lifeline(), "unshare", "--mount", "--propagation", "private", "sh", "-c", script],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.pid = self.holder.pid
        if self.holder.stdout.readline() != "ready\n":
            _, err = self.holder.communicate()
            if "Cannot allocate memory" in err and self.pages:
                raise host.Gone(f"wanted {self.pages} pages, which another process took first")
            raise BoxError(err.strip() or "the box did not open")
        self.ns = os.readlink(f"/proc/{self.pid}/ns/mnt")

    @property
    def enter(self):
        """Command prefix that runs inside. It execs: the pid stays."""
        inside = ["nsenter", f"--mount=/proc/{self.pid}/ns/mnt", "--", "env", "-C", os.getcwd()]
        return [*(self.cpuset.enter if self.cpuset else []), *inside]

    def path(self, inside):
        """A path inside the box as this process can open it.

        Links are followed here: /var/run is an absolute one, and would lead out of the box.
        """
        return Path(f"/proc/{self.pid}/root{os.path.realpath(inside)}")

    def hugedir(self, size):
        """Mount point inside, as for --huge-dir."""
        return f"{HUGE}/{size}"

    def sh(self, command):
        """Run a shell command inside and answer what it prints."""
        done = subprocess.run(
            [*self.enter, "sh", "-ec", command], capture_output=True, text=True, timeout=100
        )
        if done.returncode:
            raise BoxError(f"{command}: {done.stderr.strip()}")
        return done.stdout

    def environment(self):
        return {"XDG_RUNTIME_DIR": f"{host.RUN}/user"}

    def inside(self):
        """Return the processes in the box except its holder."""
        found = []
        if self.holder.poll() is not None:
            return found  # the namespace's number may be another's by now
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                if os.readlink(f"/proc/{pid}/ns/mnt") == self.ns and int(pid) != self.pid:
                    found.append(int(pid))
            except OSError:
                continue
        return found

    def close(self):
        """Free everything. Return what still ran inside; it is killed, or the pages would stay."""
        left = [f"{p} {host.cmdline(p)}" for p in self.inside()]

        def empty():
            inside = self.inside()
            for p in inside:
                with suppress(ProcessLookupError):
                    os.kill(p, signal.SIGKILL)
            return not inside

        until(empty)
        self.holder.communicate(timeout=60)
        if self.lease:
            self.ledger.give(self.lease)
        if self.cpuset:
            self.cpuset.close()
        return left


class Open:
    """No box: an ordinary user's process. The runtime directory is a temporary one; pages that
    an in-memory EAL takes from the machine's pool are written down in the ledger."""

    private = False
    enter: list[str] = []

    def __init__(self, lease=None, ledger=None):
        self.pages, self.lease, self.ledger = {}, dict(lease or {}), ledger or host.Ledger()
        # a test's own folder lies too deep: a socket's path has 107 characters
        self.tmp = Path(tempfile.mkdtemp(prefix="eal-"))
        self.ledger.take(self.lease)

    def path(self, inside):
        return Path(inside)

    def environment(self):
        return {"XDG_RUNTIME_DIR": str(self.tmp)}

    def close(self):
        shutil.rmtree(self.tmp, ignore_errors=True)
        self.ledger.give(self.lease)
        return []


def lifeline():
    """Command prefix: killed with this process, so that `kill -9` of a run leaves nothing."""
    return ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []


def limits(**soft):
    """Command prefix: resource limits by prlimit's names: nofile=20, as_=1 << 30, fsize=100."""
    return ["prlimit", *(f"--{k.rstrip('_')}={v}" for k, v in soft.items())] if soft else []


def user(name=None, drop=()):
    """Command prefix: another user and/or without capabilities: drop=["sys_admin"]."""
    caps = ",".join(f"-{c}" for c in drop)
    prefix = ["--reuid", name, "--regid", group(name), "--clear-groups"] if name else []
    prefix += [f"--bounding-set={caps}", f"--inh-caps={caps}"] if drop else []
    return ["setpriv", "--pdeathsig", "KILL", *prefix] if prefix else []


def group(name):
    import pwd

    return str(pwd.getpwnam(name).pw_gid)


def cpusets():
    """Where such cgroups are made, None where they cannot be."""
    for where, kind, _ in host.mountinfo():
        if kind == "cgroup2" and "cpuset" in Path(where, "cgroup.controllers").read_text().split():
            return Path(where)
    return None


class Cpuset:
    """A cgroup whose processes have the memory of one node alone, as on a machine with no other."""

    def __init__(self, root, node):
        (root / "cgroup.subtree_control").write_text("+cpuset")
        self.dir = Path(tempfile.mkdtemp(dir=root, prefix=f"eal_{os.getpid()}_"))
        (self.dir / "cpuset.mems").write_text(str(node))

    @property
    def enter(self):
        return ["sh", "-c", f'echo $$ >{self.dir}/cgroup.procs; exec "$@"', "sh"]

    def close(self):
        remove(self.dir)


class HugetlbControl:
    """The hugetlb controller of a cgroup's children, turned on until close() if it was off.

    Version 1 has it always.
    """

    def __init__(self):
        found = host.hugetlb_cgroup()
        self.switch = found[0] / "cgroup.subtree_control" if found and found[1] == 2 else None
        self.off = self.switch is not None and "hugetlb" not in self.switch.read_text().split()
        if self.off:
            self.switch.write_text("+hugetlb")

    def close(self):
        if self.off:
            self.switch.write_text("-hugetlb")


class Cgroup:
    """A hugetlb cgroup with one limit, for children that are put into it by pid."""

    def __init__(self, label, size, limit, reserve=False):
        self.root, self.version = host.hugetlb_cgroup()
        self.control = HugetlbControl()
        self.dir = self.root / label
        self.dir.mkdir()
        mb = host.size(size) >> 20
        unit = f"{mb}MB" if mb < 1024 else f"{mb >> 10}GB"
        word = "rsvd." * reserve + ("max" if self.version == 2 else "limit_in_bytes")
        (self.dir / f"hugetlb.{unit}.{word}").write_text(str(limit))

    def add(self, pid):
        (self.dir / "cgroup.procs").write_text(str(pid))

    def close(self):
        remove(self.dir)
        self.control.close()


def remove(cgroup):
    """Remove a cgroup, once the kernel has counted out its dead processes."""

    def removed():
        with suppress(OSError):
            cgroup.rmdir()
        return not cgroup.exists()

    if not until(removed):
        cgroup.rmdir()
