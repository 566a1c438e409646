"""What an allocation changes in a process, and what its roll-back must leave."""

import errno
import os
from contextlib import nullcontext
from pathlib import Path

import pytest

from conformance import MB, until
from conformance.harness.child import TargetError

PAGE = 2 * MB
N = 10  # pages of a batch


def state(eal):
    """Return all that an allocation changes. Threads end a moment after their work."""
    tasks = Path(f"/proc/{eal.pid}/task")
    until(lambda: len(list(tasks.iterdir())) <= eal.threads)
    lists = eal.lists()
    of_lists = [
        m for m in eal.smaps() if any(x.base_va <= m.start < x.base_va + x.len for x in lists)
    ]
    found = {
        "threads": len(list(tasks.iterdir())),
        "pages": [s.addr for s in eal.segments()],
        "lists": [(m.name, m.count) for m in lists],
        "versions": [m.version for m in lists],
        "maps": [(m.start, m.end, m.perms, m.path, m.offset, "dd" in m.flags) for m in of_lists],
        "descriptors": sorted((n, fd.path) for n, fd in eal.fds().items()),
        "policy": eal.ask("policy"),
    }
    if "2M" in eal.box.pages:
        free = os.statvfs(eal.hugedir())
        found |= {"files": eal.page_files(), "free": free.f_bfree, "size": free.f_blocks}
    return found


def but_for_versions(state):
    """A list's version rises with each allocation and each release."""
    return {what: found for what, found in state.items() if what != "versions"}


def refuse(eal, n, socket=0):
    """Ask for exactly n pages, which must be refused with ENOMEM."""
    with pytest.raises(TargetError) as refused:
        eal.alloc(PAGE, socket, n, True)
    assert refused.value.errno == errno.ENOMEM
    return refused.value


def alloc_some(eal, n, socket=0):
    """Ask for n pages or fewer, and return those allocated, none on ENOMEM."""
    try:
        return eal.alloc(PAGE, socket, n, False)
    except TargetError as e:
        assert e.errno == errno.ENOMEM
        return []


def pages_had(eal, fault=nullcontext, socket=0):
    """Ask for a batch twice while fault() holds; return how many pages the second one got.

    Exactly ten pages: refused, and nothing has changed. As many as there are: neighbours, after
    whose release nothing has changed but the versions.
    """
    before = state(eal)
    with fault():
        refuse(eal, N, socket)
    assert state(eal) == before

    with fault():
        segs = alloc_some(eal, N, socket)
    assert [s["seg"] for s in segs] == [segs[0]["seg"] + i for i in range(len(segs))]
    assert [s.addr for s in eal.segments()] == before["pages"] + [s["addr"] for s in segs]
    if segs:
        assert eal.free_segs(segs)["ret"] == 0
    assert but_for_versions(state(eal)) == but_for_versions(before)
    return len(segs)
