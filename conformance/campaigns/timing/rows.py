"""The targets: one row a promise. `pyeal bench` prints them with what was measured."""

from __future__ import annotations

from statistics import median, quantiles
from typing import NamedTuple

LEAST = 256  # pages: with fewer, what a start costs without any decides
OWN = 1.10  # of an EAL that is not pyeal, to the reference: no slower, and what rounds differ by


class Row(NamedTuple):
    """What of the target's is at most `target` times the other's (over), or ms more; "": by itself.

    pages: for which number of them it was promised; None: the most that are measured.
    """

    id: str
    text: str
    work: str
    pages: int | None
    measure: str
    over: str
    target: float
    floor: float | None = None
    unit: str = "×"


C, KERNEL = "reference", "kernel"
CPU, WALL, INIT, PROCESS = "memory-cpu", "memory-wall", "init-wall", "process-wall"
LEAST_OF = {INIT: WALL, PROCESS: WALL}  # a start takes at least what the kernel does for its pages
BARE = "import", 0, PROCESS, "interpreter"  # which does nothing
BARE_MS = 7.7  # of it where the targets in ms were set
ROWS = [
    Row("dyn-wall", "dyn 6 GiB, memory phase, all CPUs, wall", "dynmem", 3072, WALL, C, 0.60, 0.47),
    Row("dyn-init", "dyn 6 GiB, whole init, wall", "dynmem", 3072, INIT, C, 0.45, 0.37),
    Row("dyn-cpu", "dyn, memory phase, one CPU, cpu", "dynmem", None, CPU, C, 0.92, 0.88),
    Row("dyn-limit", "the same over the kernel's limit", "dynmem", None, CPU, KERNEL, 1.06, 1.0),
    Row("dyn-process", "dyn 512 MiB, process with interpreter, wall", "dynmem", 256, PROCESS, C,
        0.25, 0.17),
    Row("single-cpu", "single-file, one CPU, cpu", "single-file", None, CPU, C, 0.90, 0.85),
    Row("single-wall", "single-file, all CPUs, wall", "single-file", None, WALL, C, 0.65, 0.50),
    Row("memfd-cpu", "in-memory, one CPU, cpu", "in-memory", None, CPU, C, 0.95, 0.91),
    Row("memfd-wall", "in-memory, all CPUs, wall", "in-memory", None, WALL, C, 0.60, 0.46),
    Row("legacy-cpu", "legacy, one CPU, cpu", "legacy", None, CPU, C, 0.87, 0.80),
    Row("legacy-wall", "legacy, all CPUs, wall", "legacy", None, WALL, C, 0.60, 0.48),
    Row("no-huge-2G", "no-huge 2 GiB, cpu", "no-huge", 1024, CPU, C, 0.50),
    Row("no-huge-6G", "no-huge 6 GiB, cpu", "no-huge", 3072, CPU, C, 0.15),
    Row("attach-cpu", "secondary, dyn, cpu", "attach-dynmem", None, CPU, C, 0.50, 0.42),
    Row("attach-wall", "secondary, dyn, wall", "attach-dynmem", None, WALL, C, 0.30),
    Row("attach-single", "secondary, single-file, from 1024 pages on, cpu", "attach-single-file",
        1024, CPU, C, 0.15, 0.08),
    Row("attach-legacy-cpu", "secondary, legacy, cpu", "attach-legacy", None, CPU, C, 1.15, 0.95),
    Row("attach-legacy-wall", "secondary, legacy, wall", "attach-legacy", None, WALL, C, 0.40),
    Row("restart-cpu", "restart on kept files, cpu", "restart", None, CPU, C, 0.42, 0.33),
    Row("restart-wall", "restart on kept files, wall", "restart", None, WALL, C, 0.22),
    Row("cleanup", "cleanup, 3072 pages, wall", "cleanup", 3072, "cleanup-wall", C, 0.25),
    Row("hosting", "hosting a real secondary, its whole init", "hosting", None, INIT, C, 10,
        unit="ms"),
    Row("inspect", "pyeal inspect of 3072 pages, whole command, wall", "inspect", 3072, PROCESS,
        "", 120, unit="ms"),
    Row("inspect-over", "the same over dpdk-proc-info -m", "inspect", 3072, PROCESS, "proc-info",
        0.5),
    Row("import", "import pyeal with its EAL over a bare interpreter, cpu", "import", None,
        "process-cpu", "bare", 10, unit="ms"),
]


def judge(row, found, own=False, why=""):
    """A row with its numbers: `found` is {(work, pages, measure, role): values by round}.

    why: the reason if its work could not be measured.
    """
    here = {p for work, p, measure, _ in found if (work, measure) == (row.work, row.measure)}
    pages = row.pages if row.pages in here else max(here, default=None)
    of = found.get((row.work, pages, row.measure, "target"))
    over = found.get((row.work, pages, row.measure, row.over))
    limit = OWN if own and row.unit == "×" else row.target
    said = {
        "id": row.id, "work": row.text, "unit": row.unit, "target": limit,
        "floor": None if own else row.floor, "here": None, "pages": pages, "over": row.over,
    }
    if row.over == "":
        over = [0.0] * len(of or ())
    if not of or not over:
        return said | {"verdict": "not shown", "note": "not measured" + f": {why}" * bool(why)}
    ratio = lambda a, b: a / b if row.unit == "×" else (a - b) * 1000  # noqa: E731
    each = [ratio(a, b) for a, b in zip(of, over, strict=True)]
    low, _, high = quantiles(each, n=4, method="inclusive") if len(each) > 1 else each * 3
    value = ratio(median(of), median(over))
    said |= {"value": value, "low": low, "high": high, "of_s": median(of), "over_s": median(over)}
    if row.pages not in (None, pages):
        return said | {"verdict": "not shown", "note": f"of {row.pages} pages; here {pages}"}
    if row.pages is None and row.unit == "×" and not own and 0 < pages < LEAST:
        return said | {"verdict": "not shown", "note": f"of {LEAST} pages at least; here {pages}"}
    least = _least(row, pages, found)
    if least:
        said["here"] = least / median(over)
    if value <= limit:
        return said | {"verdict": "holds", "note": ""}
    note = _not_of_this_machine(row, pages, found, said)
    return said | {"verdict": "not shown" if note else "misses", "note": note}


def _not_of_this_machine(row, pages, found, said):
    """Why the number says nothing against the target: the machine differs from the one where it was
    set by as much; "" if it does not."""
    value, limit, here, floor = (said[k] for k in ("value", "target", "here", "floor"))
    alone = "the kernel and an interpreter" if row.measure == PROCESS else "the kernel"
    if here and limit < here:
        # memory bandwidth that others use makes zeroing dear, and all the same
        return f"{alone} alone: {here:.2f} of it here"
    if here and floor and value <= limit * here / floor:
        return f"{alone} alone: {here:.2f} of it here, {floor} where this was set"
    if BARE in found:
        bare = 1000 * median(found[BARE])
        note = f"an interpreter alone takes {bare:.0f} ms here, {BARE_MS} where this was set"
        if row.unit == "ms" and row.over != C and value <= limit * bare / BARE_MS:
            return note
        there, waits = _there(row, pages, found, bare / BARE_MS)
        if there and there <= limit:
            return f"{note}; the reference waits {1000 * waits:.0f} ms here and there: {there:.2f}"
    if said["low"] <= limit:
        return "over it by less than rounds differ here: a quarter of them hold it"
    return ""


def _there(row, pages, found, slow):
    """The ratio of wall times where CPUs take 1/slow of the time, and the seconds that the
    reference waits, for a clock or the kernel, which is as long on any machine; 0, 0 for others.
    """
    waits = [found.get((row.work, pages, waits_of(row.measure), role)) for role in ("target", C)]
    if row.over != C or row.unit == "ms" or slow <= 1 or not all(waits):
        return 0, 0
    walls = [found[row.work, pages, row.measure, role] for role in ("target", C)]
    of, over = (
        median(idle) + (median(wall) - median(idle)) / slow
        for idle, wall in zip(waits, walls, strict=True)
    )
    return of / over, median(waits[1])


def waits_of(measure):
    """What of that wall time no CPU was used for, where it is known."""
    return f"{measure}: waits"


def _least(row, pages, found):
    """Seconds that nothing can stay below here: the kernel's, and for a process its interpreter's.

    None where that was not measured.
    """
    kernel = found.get((row.work, pages, LEAST_OF.get(row.measure, row.measure), KERNEL))
    if not kernel or row.over != C:
        return None
    return median(kernel) + (median(found.get(BARE, [0])) if row.measure == PROCESS else 0)
