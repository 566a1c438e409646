"""The commands and arguments that doctor, plan and explain tell a user: one table, each row tested.

A row is a template; a test of units/live/doctor/test_fixes.py makes the situation, carries out what
doctor then says, and starts EAL. Words that begin with -- or - are arguments of EAL.

hugetlbfs ignores `mount -o remount,size=|uid=`: what a mount allows is changed by chown, or by
another mount. dpdk-hugepages.py is not part of every installation, and refuses fractions.
"""

from __future__ import annotations

import os
import shlex

from pyeal.populate import pool_file
from pyeal.tools import size

LEAST = 64 << 20  # bytes that a start without -m, and small tools, need

# --- what lets the start succeed
FIXES = {
    # arguments of EAL
    "release": "--as {release}, which takes them",
    "no-huge": "--no-huge",
    "in-memory": "--in-memory",
    "no-shconf": "--no-shconf",
    "single-file": "--single-file-segments",
    "iova-va": "--iova-mode=va",
    "iova-pa": "--iova-mode=pa",
    "cores": "-l {cpus}",
    "prefix": "--file-prefix {prefix}",
    "huge-dir": "--huge-dir {directory}",
    "base": "--base-virtaddr={base:#x}",
    "pagesz-mem": "--pagesz-mem {size}:{most}",
    "less": "-m {mb}",
    "megabytes": "-m 64 for 64 megabytes",
    "socket-mem": "--socket-mem {mbs}",
    "socket-limit": "--socket-limit {mbs}",
    # commands of a shell
    "resize": "echo {n} > {file}",
    "mount": "mkdir -p {at}; mount -t hugetlbfs -o pagesize={size}{options} none {at}",
    "another-mount": "mkdir -p {at}; mount -t hugetlbfs -o pagesize={size}{options} none {at}"
    "  # then --huge-dir {at}",
    "umount": "umount {at}",
    "writable": "mount -o remount,rw {at}",
    "own": "chown {uid} {directory}",
    "runtime": "export {variable}=$(mktemp -d)",
    "limit": "ulimit {flag} unlimited",
    "limit-of": "prlimit --pid {pid} --as=unlimited",
    "stale": "pyeal stale --delete",
    "cgroup": "echo {n} > {file}",
    "max-map-count": "sysctl -w vm.max_map_count={n}",
    "overcommit": "sysctl -w vm.overcommit_memory=0",
    "core-dump": "echo 0x3b > /proc/{pid}/coredump_filter",
    "continue": "kill -CONT {pid}",
    "old-directory": "rm -r {at}",
}
# --- what is changed outside of this process, by hand
BY_HAND = {
    "pod": "hugepages-{size}i: {n}i in requests and limits of the pod",
    "capability": "docker run --cap-add SYS_NICE",
    "profile": "allow {call} in the seccomp profile of the container",
    "host-pids": "run it with --pid=host, or on the host",
    "pod-prefix": "--file-prefix $POD_UID",
    "volume": "docker run -v {directory}:{directory}",
    "cpuset": "nodes {nodes} in cpuset.mems of its cgroup",
    "boot-argument": "hugepagesz={size} hugepages={n} on the kernel's command line",
    "not-in-memory": "leave out --in-memory",
    "same-user": "run it as user {uid}",
    "same-release": "a secondary of {release}",
    "same-build": "a secondary of the primary's build",
    "same-libraries": "link the primary with the same libraries",
    "primary-without": "start the primary without {option}",
    "primary-base": "--base-virtaddr={base:#x} for the primary",
    "start-primary": "start a primary first",
    "wait-primary": "wait until process {pid} is up, or restart it",
    "locked-memory": "ulimit -l unlimited, or LimitMEMLOCK=infinity of the service",
}
# --- what shows more
LOOK = {
    "touch": "pyeal doctor --touch",
    "plan": "pyeal plan -- {args}",
    "doctor": "pyeal doctor -- {args}",
    "setup": "pyeal setup",
    "ps": "pyeal ps",
    "inspect": "pyeal inspect {what}",
    "as-root": "as root: pyeal doctor --pid {pid}",
    "inside": "nsenter -t {pid} -a pyeal doctor",
}
ALL = FIXES | BY_HAND | LOOK


def to(name: str, /, **words: object) -> str:
    """Return the fix of that name."""
    return ALL[name].format(**words)


def pages(n: int, page_sz: int) -> int:
    """Return how many pages hold n bytes."""
    return max(-(-n // page_sz), 1)


def reserve(page_sz: int, node: int | None = None, more: int = LEAST) -> str:
    """Return the command that adds pages for `more` bytes to a pool."""
    at = pool_file(page_sz, node)
    try:
        with open(at) as f:
            now = int(f.read())
    except (OSError, ValueError):
        now = 0
    return resize(page_sz, now + pages(more, page_sz), node)


def resize(page_sz: int, n: int, node: int | None = None) -> str:
    """Return the command that gives a pool n pages."""
    return to("resize", n=n, file=pool_file(page_sz, node))


def plan(args: list[str]) -> str:
    """Return the command that shows what a start with these arguments comes to."""
    return to("plan", args=shlex.join(args))


def doctor(args: list[str]) -> str:
    """Return the command that examines a start with these arguments."""
    return to("doctor", args=shlex.join(args))


def larger_pages(n: int) -> str:
    """Return what gives the next boot pages of 1 GB for n bytes."""
    return to("boot-argument", size="1G", n=pages(n, 1 << 30))


def mount(page_sz: int, at: str = "", options: str = "") -> str:
    """Return the command that mounts a hugetlbfs of a page size at a place of its own."""
    word = size(page_sz)
    at = at or ("/dev/hugepages" if word == "2M" else f"/dev/hugepages{word}")
    return to("mount", at=at, size=word, options=options)


def another_mount(page_sz: int, uid: int = 0) -> str:
    """Return the command that mounts a hugetlbfs without limits, for --huge-dir."""
    word = size(page_sz)
    options = f",uid={uid},mode=0700" if uid else ""
    return to("another-mount", at=f"/mnt/huge-{word}", size=word, options=options)


def own(directory: str, uid: int | str) -> str:
    """Return the command that gives a hugepage directory to a user."""
    return to("own", uid=uid, directory=directory)


def runtime_dir(path: str = "", uid: int | None = None, named: bool = False) -> str:
    """Return the command that gives EAL another runtime directory.

    EAL of root ignores XDG_RUNTIME_DIR. path: the one that fails, which tells whose EAL it is;
    named: the release obeys RUNTIME_DIRECTORY, which is stronger than the other.
    """
    if named or path.startswith(("/var/run/dpdk", "/run/dpdk")):
        root = True
    else:
        root = not path and (os.getuid() if uid is None else uid) == 0
    return to("runtime", variable="RUNTIME_DIRECTORY" if root else "XDG_RUNTIME_DIR")


def another_prefix(prefix: str) -> str:
    """Return the argument that gives EAL other files than those of a prefix in use."""
    return to("prefix", prefix=f"{prefix}2")


def seccomp(call: str) -> str:
    """Return what lets a container make a system call."""
    if call.endswith("mempolicy") or call == "mbind":
        return to("capability")
    return to("profile", call=call)


def process_name(pid: int) -> str:
    """Return "process 4711: its command line"."""
    if pid <= 0:
        return "a process out of sight"
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            words = f.read(200).replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        words = ""
    return f"process {pid}" + (f": {words[:60]}" if words else "")
