"""What `inspect` and `map` show of a core without EAL's data: the page files that were mapped."""

from __future__ import annotations

from pyeal.look.core import LAYOUT, PAGES, core_of
from pyeal.tools import BOLD, DIM, YELLOW, count, document, ink, printable, size, table
from pyeal.tools.ps import facts

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyeal.look.foreign import ForeignEal

    Dict = dict[str, Any]

FILTERS = (
    f"before a start, echo {LAYOUT:#x} > /proc/self/coredump_filter keeps lists and zones in its"
    f" core, {PAGES:#x} also the pages with the heaps"
)


def show(e: ForeignEal, tool: str, json: bool) -> int:
    """Print what a core has without a config; returns the exit code, 1."""
    core = core_of(e)
    assert core
    pages = core.pages()
    problems = [*core.notes, *filter(None, [e.why]), FILTERS]
    if json:
        found = {**facts(e), "machine": core.machine, "mapped": pages, "problems": problems}
        print(document(tool, found))
        return 1
    title = [e.prefix or "(no files)", f"DPDK {e.release or '?'}", e.core, core.machine]
    print(ink(" · ".join(map(printable, title)), BOLD))
    if pages:
        rows = [("ADDRESS", "SIZE", "MAPPINGS", "OF", "IN CORE", "FILES")]
        rows += [
            (
                hex(r["va"]),
                size(r["len"]),
                f"{r['files']:,}",
                size(r["page_sz"]),
                size(r["stored"]),
                r["path"],
            )
            for r in pages
        ]
        total = sum(r["len"] for r in pages)
        print(ink("MAPPED", BOLD) + f"  {size(total)} in {count(len(pages), 'run')} of page files")
        print(table(rows, right="ADDRESS SIZE MAPPINGS OF"))
    else:
        print(ink("no page file of an EAL is mapped in it", DIM))
    for p in problems:
        print(ink(f"! {printable(p)}", YELLOW))
    return 1
