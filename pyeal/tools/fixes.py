"""The commands that doctor and explain tell a user to run: each is complete and tested.

hugetlbfs ignores `mount -o remount,size=|uid=`: what a mount allows is changed by chown, or by
another mount. dpdk-hugepages.py is not part of every installation, and refuses fractions.
"""

from __future__ import annotations

import os

from pyeal.populate import pool_file
from pyeal.tools import size

LEAST = 64 << 20  # bytes that a start without -m, and small tools, need


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
    return f"echo {n} > {pool_file(page_sz, node)}"


def mount(page_sz: int, at: str = "", options: str = "") -> str:
    """Return the command that mounts a hugetlbfs of a page size at a place of its own."""
    word = size(page_sz)
    at = at or ("/dev/hugepages" if word == "2M" else f"/dev/hugepages{word}")
    return f"mkdir -p {at}; mount -t hugetlbfs -o pagesize={word}{options} none {at}"


def another_mount(page_sz: int) -> str:
    """Return the command that mounts a hugetlbfs without limits, for --huge-dir."""
    at = f"/mnt/huge-{size(page_sz)}"
    return f"{mount(page_sz, at)}  # then --huge-dir {at}"


def own(directory: str, uid: int | str) -> str:
    """Return the command that gives a hugepage directory to a user."""
    return f"chown {uid} {directory}"


def runtime_dir(path: str = "", uid: int | None = None) -> str:
    """Return the command that gives EAL another runtime directory.

    EAL of root ignores XDG_RUNTIME_DIR. path: the one that fails, which tells whose EAL it is.
    """
    if path.startswith(("/var/run/dpdk", "/run/dpdk")):
        root = True
    else:
        root = not path and (os.getuid() if uid is None else uid) == 0
    return f"export {'RUNTIME_DIRECTORY' if root else 'XDG_RUNTIME_DIR'}=$(mktemp -d)"


def another_prefix(prefix: str) -> str:
    """Return the argument that gives EAL other files than those of a prefix in use."""
    return f"--file-prefix {prefix}2"


def writable(directory: str) -> str:
    """Return the command that makes a mount writable."""
    return f"mount -o remount,rw {directory}"


def cores(usable: str) -> str:
    """Return the argument that names the CPUs which a process may use."""
    return f"-l {usable}"


def limit(flag: str) -> str:
    """Return the command of a shell that lifts a resource limit of what it starts."""
    return f"ulimit {flag} unlimited"


def seccomp(call: str) -> str:
    """Return what lets a container make a system call."""
    if call.endswith("mempolicy") or call == "mbind":
        return "docker run --cap-add SYS_NICE"
    return f"allow {call} in the seccomp profile, or start without it"


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
