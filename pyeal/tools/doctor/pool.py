"""The link `pool`: are there enough free hugepages?"""

from __future__ import annotations

import os

from pyeal import hugepages, libc
from pyeal.errors import EalError
from pyeal.look.pools import all_pools
from pyeal.look.process import Process, pids
from pyeal.tools import fixes, size, steps
from pyeal.tools.doctor.model import FAIL, OK, WARN, Case, Finding, listed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    # by page size: total, free, reserved, free by node
    Usable = dict[int, tuple[int, int, int, dict[int, int]]]


def check(c: Case) -> Iterator[Finding]:
    if c.secondary:
        yield Finding(OK, "a secondary maps what its primary has")
        return
    if c.o.no_huge:
        yield Finding(OK, "not needed: --no-huge")
        return
    try:
        c.pools = dict(all_pools(c.view))
    except EalError as e:
        wsl = "microsoft" in os.uname().release.lower()
        yield Finding(
            FAIL,
            "this kernel has no hugepages" + " (WSL)" * wsl,
            41,
            wanted=f"{c.view.sys}/{hugepages.GLOBAL}",
            found=e.found,
            do=fixes.to("no-huge"),
        )
        return
    pools = c.pools
    usable = {sz: _words(c, sz) for sz in pools}
    yield from _shortage(c, usable)
    told = False
    for sz, (nr, free, resv, nodes) in usable.items():
        word, extra = size(sz), _extra(c, sz)
        if nr or free or extra:
            by = ", ".join(f"{n:,} on node {k}" for k, n in sorted(nodes.items())) or f"{free:,}"
            text = f"{word}: {by} free of {nr:,}"
            text += f", {resv:,} reserved" if resv else ""
            text += f", and {extra:,} on demand" if extra else ""
            told = True
            yield Finding(OK, text)
            if len(nodes) > 1 and min(nodes.values()) == 0 < max(nodes.values()):
                bare = next(k for k, n in sorted(nodes.items()) if not n)
                yield Finding(
                    WARN,
                    f"node {bare} has no free {word} page",
                    27,
                    8,
                    do=fixes.reserve(sz, bare),
                )
        elif any(w[1] for w in usable.values()):
            yield Finding(OK, f"no {word} pages reserved: not a problem", 35, harmless=True)
    if told:
        yield from _persistence(c, pools)


def _words(c: Case, sz: int) -> tuple[int, int, int, dict[int, int]]:
    """Return (total, free, reserved, free by node) of a pool."""
    pool = c.pools[sz]
    nodes = {k: n.get("free", 0) for k, n in pool["nodes"].items()}
    return pool.get("nr", 0), pool.get("free", 0), pool.get("resv", 0), nodes


def _shortage(c: Case, usable: Usable) -> Iterator[Finding]:
    """Report that no page is free, that all free ones are reserved, or that they are too few."""
    stale, e = _stale(c), c.error
    cleared = any(c.dry_run.cleared.values()) if c.dry_run else False
    some = any(
        free - resv > 0 or max(nodes.values(), default=0)
        for _, free, resv, nodes in usable.values()
    ) or any(_extra(c, sz) for sz in usable)
    if not some and not cleared:
        yield _none_free(c, usable, stale)
    elif e and e.reason == "no-free-page" and (idle := _unmounted(c, usable)):
        yield _wrong_size(c, usable, idle)
    elif e and e.reason == "no-free-page":
        yield _all_reserved(c, usable)
    elif e and (c.failed_at("pool") or (e.stage == "pages" and not c.limit)):
        yield _too_few(c, usable, e)
    elif stale and not cleared:
        amount = size(sum(n for _, n in stale))
        text = f"{amount} are held by files of dead processes"
        yield Finding(WARN, text, 3, do=fixes.to("stale"))


def _none_free(c: Case, usable: Usable, stale: list[tuple[str, int]]) -> Finding:
    default = _default(c, usable)
    word = size(default)
    want = f"at least one free page of {word}"
    total = sum(w[0] for w in usable.values())
    if not total:
        found = f"none in {', '.join(map(size, usable)) or 'any size'}"
        do = fixes.resize(default, fixes.pages(max(c.requested, fixes.LEAST), default))
        return Finding(FAIL, "no hugepages are reserved", 1, 26, wanted=want, found=found, do=do)
    rows: tuple[int, ...] = (1,)
    do, by = fixes.to("ps"), "by processes that are not visible"
    held = holders(c, default)
    if stale:
        rows, do = (3, 1), fixes.to("stale")
        by = f"{size(sum(n for _, n in stale))} by files of dead processes"
    elif held:
        do = fixes.resize(default, usable[default][0] + fixes.pages(fixes.LEAST, default))
        by = ", ".join(f"{size(n)} by {name} ({pid})" for n, pid, name in held[:3])
    elif others := pins(c, default):
        by, do = (
            others,
            fixes.resize(default, usable[default][0] + fixes.pages(fixes.LEAST, default)),
        )
    found = f"none free of {total:,}, {by}"
    return Finding(FAIL, "all hugepages are taken", *rows, wanted=want, found=found, do=do)


def _unmounted(c: Case, usable: Usable) -> list[int]:
    """Return the page sizes that have free pages and no mount that EAL would take."""
    if c.o.in_memory or c.o.huge_dir:
        return []
    survey = hugepages.Survey(c.o, [0], c.view)
    idle = [sz for sz, (_, free, resv, _) in usable.items() if free > resv]
    return [sz for sz in idle if not survey.hugedir(sz)]


def _wrong_size(c: Case, usable: Usable, idle: list[int]) -> Finding:
    """Report that the size which is mounted has no page, and the size with pages no mount."""
    sz = min(idle)
    none = ", ".join(size(x) for x, w in usable.items() if x not in idle and not w[1])
    return Finding(
        FAIL,
        f"{none or 'the mounted size'} has a mount and no free page, {size(sz)} no mount",
        2,
        29,
        wanted="free pages of a size that is mounted",
        found=f"{usable[sz][1]:,} free {size(sz)} pages, not mounted",
        do=fixes.mount(sz),
    )


def _all_reserved(c: Case, usable: Usable) -> Finding:
    default = _default(c, usable)
    word = size(default)
    reserved = ", ".join(
        f"{w[2]:,} of {w[1]:,} free {size(sz)} pages are reserved"
        for sz, w in usable.items()
        if w[2]
    )
    return Finding(
        FAIL,
        "every free page is reserved by another process",
        1,
        wanted=f"a free {word} page that no process reserved",
        found=reserved or "none free",
        do=fixes.resize(default, usable[default][0] + fixes.pages(fixes.LEAST, default)),
    )


def _too_few(c: Case, usable: Usable, e: EalError) -> Finding:
    """Report less free memory than -m or --socket-mem ask for, on all nodes or on one."""
    socket_mem = c.o.socket_mem or {}
    node = next((k for k in socket_mem if e.reason == f"too-few-pages-on-node-{k}"), None)
    default = _default(c, usable)
    word = size(default)
    counted = {sz: w for sz, w in usable.items() if sz in c.hugedirs} or usable
    free = {k: sum(sz * w[3].get(k, 0) for sz, w in counted.items()) for k in _nodes(counted)}
    if node is None:
        where = ""
        asked, have, reserved = c.requested, sum(free.values()), usable[default][0]
    else:
        where = f" on node {node}"
        asked, have = socket_mem.get(node, 0), free.get(node, 0)
        reserved = c.pools[default]["nodes"].get(node, {}).get("nr", 0)
    missing = max(asked - have, default)
    do = fixes.resize(default, reserved + fixes.pages(missing, default), node)
    if node is not None and c.dry_run and node not in c.dry_run.sockets:
        do = next(do for _, do in steps.misread(c.args, c.o, c.dry_run.sockets))
    rows: tuple[int, ...] = (6,)
    if node is not None and sum(free.values()) >= c.requested:
        rows = (6, 27)
    found = ", ".join(f"{size(n)} free on node {k}" for k, n in free.items())
    bare = [k for k, n in free.items() if n and c.dry_run and k not in c.dry_run.sockets]
    if bare:
        found += f"; EAL does not count node {listed(bare)}, which has no CPU"
        rows = (*rows, 8)
    elif not free or have >= asked:
        found = e.found or e.what
    if (room := _contiguous(c, default)) is not None and room < missing // default:
        found += f"; the kernel has {room} free blocks of {word} to make more of"
        rows = (*rows, 26)
    return Finding(
        FAIL,
        f"{size(asked)} asked for{where}, {size(have)} are free",
        *rows,
        wanted=f"{size(asked)}{where}",
        found=found,
        do=do,
    )


def _extra(c: Case, sz: int) -> int:
    """Return how many pages overcommit still allows."""
    pool = c.pools[sz]
    return max(int(pool.get("nr_overcommit", 0)) - int(pool.get("surplus", 0)), 0)


def _default(c: Case, usable: Usable) -> int:
    """Return the page size to suggest: the smallest that is mounted, else the smallest."""
    mounted = [sz for sz, d in c.hugedirs.items() if d]
    return min(mounted or [sz for sz in usable if sz >= 1 << 20] or usable or [2 << 20])


def _nodes(usable: Usable) -> list[int]:
    return sorted({k for w in usable.values() for k in w[3]})


def _contiguous(c: Case, sz: int) -> int | None:
    """Return how many more pages of a size the kernel could make of free memory now."""
    order = (sz // libc.PAGE).bit_length() - 1
    total, seen = 0, False
    for line in c.view.read("/proc/buddyinfo").splitlines():
        counts = line.split()[4:]
        for i, n in enumerate(counts[order:]):
            total, seen = total + int(n) * (1 << i), True
    return total if seen else None


def _persistence(c: Case, pools: dict[int, dict[str, Any]]) -> Iterator[Finding]:
    """Report pools that no configuration reserves again at the next boot."""
    if not c.view.own:
        return
    words = c.view.read("/proc/cmdline")
    for d in AT_BOOT:
        if os.path.isdir(d):
            words += "".join(c.view.read(f"{d}/{name}") for name in sorted(os.listdir(d)))
    words += c.view.read("/etc/sysctl.conf") + c.view.read("/etc/dpdk/dpdk.conf")
    default = hugepages.default_size(c.view)
    lost = [sz for sz, p in pools.items() if p.get("nr") and not _lasts(words, sz, default)]
    if lost:
        named = " and ".join(f"hugepages of {size(sz)}" for sz in sorted(lost))
        yield Finding(
            OK,
            f"{named} were reserved at run time and are lost at the next reboot",
            33,
            do=fixes.to("setup"),
            harmless=True,
        )


AT_BOOT = (  # what pyeal setup writes, and where distributions put the same
    "/etc/sysctl.d",
    "/run/sysctl.d",
    "/usr/lib/sysctl.d",
    "/etc/tmpfiles.d",
    "/etc/default/grub.d",
)


def _lasts(words: str, sz: int, default: int) -> bool:
    """Return whether files that are read at boot, or the kernel's arguments, reserve a size."""
    named = [f"hugepagesz={size(sz)}", f"hugepages-{sz >> 10}kB", f"NR_{size(sz)}"]
    if sz == default:
        named += ["nr_hugepages =", "nr_hugepages=", " hugepages="]
    return any(name in words for name in named)


def _stale(c: Case) -> list[tuple[str, int]]:
    """Return (path, bytes) of the page files that no process holds, in every hugetlbfs."""
    if not c.view.sees_all_locks or not c.needs_pages():
        return []
    found = []
    for at, _ in hugepages.mounts(c.view):
        try:
            files = c.view.page_files(at)
        except OSError:
            continue
        found += [
            (f"{at}/{f.name}", f.pages_bytes) for f in files if not f.holders and f.pages_bytes
        ]
    return found


def holders(c: Case, sz: int) -> list[tuple[int, int, str]]:
    """Return (bytes, pid, name) of the processes that hold pages of a size, most first.

    What they map; else what they keep by a descriptor: memory of a memfd needs no mapping.
    """
    found = []
    for pid in pids():
        p = Process(pid, at=f"{c.view.proc}/{pid}")
        n = p.hugepages_of(sz) if p.hugetlb_bytes else 0
        name = p.status.get("Name", "?")
        if kept := p.unmapped_hugepages(sz) if not n else 0:
            n, name = kept, f"{name}, by a descriptor"
        if n:
            found.append((n, pid, name))
    return sorted(found, reverse=True)


def pins(c: Case, sz: int) -> str:
    """Return what holds pages of a size without a process: files, and shared memory of System V."""
    found = []
    for at, _ in hugepages.mounts(c.view):
        try:
            if c.view.statfs(at)[1] != sz:
                continue
            with os.scandir(c.view.path(at)) as entries:
                held = [e.path for e in entries if e.is_file() and e.stat().st_blocks]
        except OSError:
            continue
        found += [f"{len(held):,} files in {at}"] if held else []
    for line in c.view.read("/proc/sysvipc/shm").splitlines()[1:]:
        words = line.split()
        n, users, rss = int(words[3]), int(words[6]), int(words[14])
        if not users and rss and not n % sz:
            found.append(f"{size(rss)} by shared memory {words[1]} (ipcs -m) without a process")
    return ", ".join(found)
