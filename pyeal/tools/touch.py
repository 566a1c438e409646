"""doctor --touch: allocates one page by EAL's own calls, and frees it."""

from __future__ import annotations

import os
from errno import ENOSYS

from pyeal import libc
from pyeal.tools import size
from pyeal.tools.dryrun import DryRun

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def touch(args: list[str], release: str | None) -> list[tuple[str, str]]:
    """Returns (call, "" or why it failed) of each call, up to the first that fails.

    The calls are made in a child process: a page over the limit of its cgroup ends it with SIGBUS.
    """
    import json
    import signal

    r, w = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.close(r)
            with os.fdopen(w, "w") as out:
                for step, error in _one_page(args, release):
                    print(json.dumps([step, error]), file=out, flush=True)
        finally:
            os._exit(0)
    os.close(w)
    with os.fdopen(r) as f:
        steps = [(s, e) for s, e in map(json.loads, f)]
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if status < 0:
        steps.append(("touch the page", signal.Signals(-status).name))
    return steps


def _one_page(args: list[str], release: str | None) -> Iterator[tuple[str, str]]:
    """Yields each call with its result. eal_memalloc.c: alloc_seg, get_seg_fd"""
    import fcntl

    with DryRun(args, release) as r:
        infos, opts = r.infos, getattr(r, "options", None)
    if opts is None or (r.error and r.error.stage == "options"):
        yield "read the arguments", r.error.text if r.error else ""
        return
    if opts.no_huge:
        yield "nothing: --no-huge", ""
        return
    if not infos:
        yield "find a page size with a free page", r.error.text if r.error else "none"
        return
    info = next((i for i in reversed(infos) if any(i.num_pages)), infos[-1])
    sz, name = info.page_sz, f"{opts.file_prefix}map_doctor{os.getpid()}"
    path = f"{info.hugedir}/{name}"
    fd, va, made = -1, 0, False
    try:
        try:
            if opts.in_memory:
                step = f"memfd_create of {size(sz)} pages"
                fd = os.memfd_create(name, libc.MFD_HUGETLB | libc.log2_flag(sz))
            else:
                step = f"open {path} to create it"
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
                made = True
                yield step, ""
                step = "flock, shared"
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            yield step, ""
            step = f"ftruncate to {size(sz)}"
            os.ftruncate(fd, sz)
            yield step, ""
            step = "mmap"
            va = libc.mmap(0, sz, libc.PROT_RW, libc.MAP_SHARED | libc.MAP_POPULATE, fd)
            yield step, ""
            if made:  # a SIGBUS in the next step must leave no file
                os.unlink(path)
                made = False
            step = "touch the page"
            libc.zero(va, 8)
            yield step, ""
            step = "get_mempolicy"
            libc.get_mempolicy()
            node = libc.page_nodes(va, sz, 1)[0]
            yield f"{step}: node {node}", ""
            step = "read /proc/self/pagemap"
            with open("/proc/self/pagemap", "rb", buffering=0) as f:
                os.pread(f.fileno(), 8, va // libc.PAGE * 8)
            yield step, ""
        except OSError as e:
            if step == "get_mempolicy" and e.errno == ENOSYS:
                yield f"{step}: this kernel has none, not a problem", ""
            else:
                yield step, os.strerror(e.errno or 0)
    finally:
        if va:
            libc.munmap(va, sz)
        if made:
            os.unlink(path)
        if fd >= 0:
            os.close(fd)
