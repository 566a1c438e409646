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
