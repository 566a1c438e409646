"""The link `files of others`: what other processes hold, and what a start would delete."""

from __future__ import annotations

import os

from pyeal.look import locks
from pyeal.tools import fixes, size
from pyeal.tools.doctor import core_dump, damage, primary
from pyeal.tools.doctor.model import FAIL, OK, WARN, Case, Finding, process_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def check(c: Case) -> Iterator[Finding]:
    yield from damage.check(c)
    if c.secondary:
        yield from core_dump.check(c)
        yield from primary.check(c)
        return
    bad = False
    for f in (*_prefix_taken(c), *_directory_lock(c), *_same_names(c)):
        bad = bad or f.state in (FAIL, WARN)
        yield f
    yield from _what_goes(c)
    yield from _shared_pool(c)
    yield from core_dump.check(c)
    if not bad:
        yield Finding(OK, "none in the way")


def _prefix_taken(c: Case) -> Iterator[Finding]:
    if c.o.no_shconf:
        return
    if c.running:
        text = f"process {c.view.pid} is this primary, and up: what it has is not counted as free"
        yield Finding(OK, text, 5, harmless=True)
        return
    if c.config and c.config.alive:
        yield Finding(
            FAIL,
            f"prefix {c.o.file_prefix} has a living primary",
            5,
            wanted=f"{c.directory}/config unlocked",
            found=process_name(c.config.owner),
            do=fixes.another_prefix(c.o.file_prefix),
        )
        return
    held = c.view.flocked()
    real = c.view.real(c.directory)
    try:
        names = [n for n in os.listdir(real) if n.startswith("fbarray_")]
    except OSError:
        names = []
    for name in names:
        st = os.stat(f"{real}/{name}")
        if by := held.get(locks.file_id(st)):
            pid = by[0][1]
            yield Finding(
                FAIL,
                "secondaries of a dead primary live on its files",
                21,
                17,
                wanted=f"{name} unlocked",
                found=process_name(pid),
                do=fixes.another_prefix(c.o.file_prefix),
            )
            return


def _directory_lock(c: Case) -> Iterator[Finding]:
    """Report locked hugepage directories: EAL waits for their locks without a limit."""
    held = c.view.flocked()
    paths = [c.view.path(d) for d in c.hugedirs.values() if d and not c.o.in_memory]
    for path in paths:
        try:
            st = os.stat(path)
        except OSError:
            continue
        for mode, pid in held.get(locks.file_id(st), []):
            if mode == "WRITE":
                shown = path.removeprefix(c.view.at)
                yield Finding(
                    FAIL,
                    f"{shown} is locked: the start would wait without a word",
                    44,
                    wanted="it unlocked",
                    found=process_name(pid),
                    do=fixes.another_mount(min(c.hugedirs)),
                )


def _same_names(c: Case) -> Iterator[Finding]:
    """Report page files of this prefix that are held although no primary of the prefix runs."""
    if c.o.in_memory or c.o.no_huge or (c.config and c.config.alive):
        return
    for d in c.hugedirs.values():
        try:
            files = c.view.page_files(d)
        except OSError:
            continue
        taken = [f for f in files if f.holders and f.prefix == c.o.file_prefix]
        if taken:
            yield Finding(
                FAIL,
                f"another EAL uses {d} with this prefix: its files would be removed by this start",
                21,
                wanted=f"no living {c.o.file_prefix}map_* file",
                found=f"{len(taken)} of {process_name(taken[0].holders[0][1])}",
                do=fixes.another_prefix(c.o.file_prefix),
            )


def _what_goes(c: Case) -> Iterator[Finding]:
    """Report the files that the start would delete."""
    if c.o.in_memory or c.o.no_huge or not c.o.unlink_existing:
        return
    for d in c.hugedirs.values():
        try:
            files = c.view.page_files(d) if d else []
        except OSError:
            continue
        if not c.view.sees_all_locks:
            files = []
        free = [f for f in files if not f.holders]
        mine = [f for f in free if f.prefix == c.o.file_prefix]
        others = sorted({f.prefix for f in free if f.prefix != c.o.file_prefix})
        if others:
            text = (
                f"{len(free) - len(mine)} kept files of {', '.join(others)} in {d} would be"
                " deleted by this start"
            )
            yield Finding(WARN, text, 22, 3, do=fixes.another_mount(min(c.hugedirs)))
        if mine:
            amount = size(sum(f.pages_bytes for f in mine))
            text = f"{len(mine)} files of a dead process ({amount}) are cleared away by the start"
            yield Finding(OK, text, 3, harmless=True)


def _shared_pool(c: Case) -> Iterator[Finding]:
    """Report how many pages of the common pools other processes use."""
    for sz, p in c.pools.items():
        used = int(p.get("nr", 0)) - int(p.get("free", 0))
        if used > 0 and c.needs_pages() and not c.error:
            text = (
                f"others use {used:,} pages of {size(sz)}: pyeal lease sets pages aside for a job"
            )
            yield Finding(OK, text, 43, harmless=True)
