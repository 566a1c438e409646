"""What the core file of a crash would have, by the filter of the process: core(5)."""

from __future__ import annotations

from pyeal.look.core import PAGE_FILE, PAGES
from pyeal.look.runtime_dir import is_of_eal
from pyeal.tools import fixes, size
from pyeal.tools.doctor.model import OK, WARN, Case, Finding, process_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

ANON_SHARED, FILE_SHARED, HUGE_PRIVATE, HUGE_SHARED = 1, 3, 5, 6  # bits of coredump_filter
LARGE = 1 << 30


def check(c: Case) -> Iterator[Finding]:
    """Report what a core has of a process that is named, or of the start that is examined."""
    me = "self" if c.view.own else str(c.view.pid)
    word = c.view.read(f"/proc/{me}/coredump_filter").strip()
    if not word:
        return
    filter_ = int(word, 16)
    kept, lost = _mapped(c, filter_) if not c.view.own else (0, 0)
    if kept + lost:
        yield _of_process(c, filter_, kept, lost)
    elif not c.needs_pages() or not c.dry_run or c.error:
        return
    elif not filter_ >> HUGE_SHARED & 1:
        private = c.o.in_memory or c.o.no_shconf
        what = "pages" if private or filter_ >> FILE_SHARED & 1 else "lists, zones and pages"
        text = f"a core leaves out {what} (coredump_filter {filter_:#x})"
        yield Finding(OK, text + _advice(filter_, me, private), 39, harmless=True)
    pages = sum(sz * n for (sz, _), n in c.dry_run.pages().items()) if c.dry_run else 0
    large = max(pages * (filter_ >> HUGE_SHARED & 1), kept)
    if large > LARGE and c.view.limit("Max core file size")[0] > LARGE:
        text = f"a core dump will have {size(large)}"
        yield Finding(WARN, text, 39, do=fixes.to("core-dump", pid=me))


def _advice(filter_: int, pid: str, private: bool = False) -> str:
    """Return the commands that keep more, "" if all is kept."""
    more = []
    if not (private or filter_ >> FILE_SHARED & 1):
        more.append(f"{fixes.to('core-dump', pid=pid)} keeps lists and zones")
    if not filter_ >> HUGE_SHARED & 1:
        more.append(f"{PAGES:#x} all pages" if more else f"{PAGES:#x} keeps all pages")
    return f": {', '.join(more)}" if more else ""


def _mapped(c: Case, filter_: int) -> tuple[int, int]:
    """Return the bytes of EAL's pages that a process maps: (in its core, left out)."""
    kept = lost = 0
    for start, end, perms, path in c.view.process.mappings():
        if PAGE_FILE.search(path):
            bit = HUGE_SHARED if perms.endswith("s") else HUGE_PRIVATE
            if filter_ >> bit & 1:
                kept += end - start
            else:
                lost += end - start
    return kept, lost


def _of_process(c: Case, filter_: int, kept: int, lost: int) -> Finding:
    """Return what a core of a living process will and will not have."""
    layout, private = 0, True
    for start, end, perms, path in c.view.process.mappings():
        folder, _, name = path.removesuffix(" (deleted)").rpartition("/")
        if "/dpdk/" in f"{folder}/" and perms.endswith("s") and is_of_eal(name):
            private = False
            bit = ANON_SHARED if path.endswith(" (deleted)") else FILE_SHARED
            layout += (end - start) * (filter_ >> bit & 1)
    has = (
        ["lists and zones" + (f" ({size(layout)})" if layout else "")] if layout or private else []
    )
    has += [f"{size(kept)} of pages"] if kept else []
    lacks = [] if layout or private else ["lists, zones"]
    lacks += [f"{size(lost)} of pages"] if lost else []
    text = f"a core of {process_name(c.view.pid)} (coredump_filter {filter_:#x})"
    text += f" has {' and '.join(has) or 'nothing of EAL but the names of its pages'}"
    text += f", not {' and '.join(lacks)}" if lacks and has else ""
    return Finding(OK, text + _advice(filter_, str(c.view.pid), private), 39)
