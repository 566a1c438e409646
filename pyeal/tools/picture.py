"""The memory map of an EAL, drawn from `Eal.layout()`: as a table, and for a terminal."""

from __future__ import annotations

from pyeal.tools import count, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    Dict = dict[str, Any]

BAD_IOVA = (1 << 64) - 1
DO_NOT_FREE, DIRTY = 1, 2  # rte_memory.h: RTE_MEMSEG_FLAG_*
FLAGS = {0: "in use", 1: "in use, never freed", 2: "dirty", 3: "dirty, never freed"}

# one hue a node: (deep, middle, pale)
NODES = [
    ("#1d4ed8", "#4f86f7", "#dbe7fe"),
    ("#b45309", "#f59e0b", "#fdecc8"),
    ("#047857", "#10b981", "#d0f5e4"),
    ("#7e22ce", "#a855f7", "#ecdcfd"),
    ("#be123c", "#f43f5e", "#fde0e5"),
    ("#0e7490", "#06b6d4", "#cff4fb"),
    ("#4d7c0f", "#84cc16", "#e7f6cc"),
    ("#475569", "#94a3b8", "#e5eaf0"),
]
XTERM = [69, 214, 42, 135, 204, 44, 112, 247]  # the middle ones in a terminal of 256 colours


def iova_text(iova: int) -> str:
    return "no IOVA" if iova == BAD_IOVA else f"IOVA {iova:#x}"


def node(ml: Dict) -> int:
    """Index into NODES of the list's hue."""
    return max(int(ml["socket_id"]), 0) % len(NODES)


def totals(layout: Dict) -> tuple[int, int, int]:
    """Pages in use, their bytes, bytes reserved."""
    ls = layout["lists"]
    return (
        sum(ml["count"] for ml in ls),
        sum(ml["count"] * ml["page_sz"] for ml in ls),
        sum(ml["len"] for ml in ls),
    )


def title(layout: Dict) -> list[str]:
    return [
        f"DPDK {layout['release']}",
        layout["mode"],
        f"IOVA as {layout['iova_mode']}" if layout["iova_mode"] else "no IOVA",
        f"prefix {layout['file_prefix']}",
        f"pid {layout['pid']}" if layout["pid"] else layout.get("health", "no process"),
        *filter(None, [layout.get("note")]),  # of a release that is not known
    ]


def overlays(layout: Dict) -> list[Dict]:
    """What other processes have where these lists lie: scan.Process.overlay, with a label."""
    found: list[Dict] = layout.get("overlays", [])
    return found


def clip(ml: Dict, spans: list[list[Any]]) -> list[tuple[int, int]]:
    """The parts of spans of addresses that lie in a list."""
    lo, hi = ml["base_va"], ml["base_va"] + ml["len"]
    return [(max(a, lo), min(b, hi)) for a, b, *_ in spans if a < hi and b > lo]


def collisions(layout: Dict) -> list[str]:
    """Return a line for each mapping of another process in the address range of a list."""
    return [
        f"{o['label']}: {what} lies at {a:#x} – {b:#x}, in {ml['name']}"
        for o in overlays(layout)
        for a, b, what in o["foreign"]
        for ml in layout["lists"]
        if ml["base_va"] <= a < ml["base_va"] + ml["len"]
    ]


def flag_runs(run: Dict) -> list[Dict]:
    """The pieces of a run whose pages have the same flags."""
    return run.get("flag_runs") or [{"flags": run["flags"], "n": run["n"]}]


class Cell:
    """`n` neighbouring pages of one run drawn as one mark; runs of IOVA as (index, iova, n)."""

    __slots__ = ("flags", "iovas", "n", "seg")

    def __init__(self, seg: int, n: int, flags: int, iovas: list[tuple[int, int, int]]) -> None:
        self.seg, self.n, self.flags, self.iovas = seg, n, flags, iovas


def cells(ml: Dict, most: int) -> tuple[int, Iterator[Cell | int]]:
    """(pages a cell, cells in order of address); an int stands for that many free pages."""
    k = 1
    while sum(-(-r["n"] // k) for r in ml["runs"]) > most and k < ml["count"]:
        k *= 2
    return k, _cells(ml, k)


def _cells(ml: Dict, k: int) -> Iterator[Cell | int]:
    end, index = 0, -1
    for r in ml["runs"]:
        if r["seg"] > end:
            yield r["seg"] - end
        end = r["seg"] + r["n"]
        spans, at = [], 0  # (first, end, index, iova, n): one IOVA run within this run
        for i in r["iova_runs"]:
            index += 1
            spans.append((at, at + i["n"], index, i["iova"], i["n"]))
            at += i["n"]
        j = 0
        ends, at = [], 0  # of flags: (end, flags)
        for f in flag_runs(r):
            at += f["n"]
            ends.append((at, f["flags"]))
        here = 0
        for first in range(0, r["n"], k):
            n = min(k, r["n"] - first)
            while j < len(spans) and spans[j][1] <= first:
                j += 1
            hit, i = [], j
            while i < len(spans) and spans[i][0] < first + n:
                hit.append(spans[i][2:])
                i += 1
            while ends[here][0] <= first:
                here += 1
            i, flags = here, ends[here][1]
            while ends[i][0] < first + n:  # any page of the cell counts
                i += 1
                flags |= ends[i][1]
            yield Cell(r["seg"] + first, n, flags, hit)
    if end < ml["n_segs"]:
        yield ml["n_segs"] - end


# --- table


def table(layout: Dict) -> str:
    """Return the lists, their contiguous runs, and the IO addresses and flags of each run."""
    head = ("LIST", "NODE", "PAGE", "ADDRESS", "SIZE", "PAGES", "IOVA")
    rows: list[tuple[str, ...]] = [head]
    for ml in layout["lists"]:
        rows.append(
            (
                ml["name"],
                str(ml["socket_id"]),
                size(ml["page_sz"]),
                f"{ml['base_va']:#x}",
                size(ml["len"]),
                f"{ml['count']} of {ml['n_segs']}",
                "external" if ml["external"] else "",
            )
        )
        for r in ml["runs"]:
            ir = r["iova_runs"]
            where = iova_text(ir[0]["iova"]).removeprefix("IOVA ") if ir else ""
            if len(ir) > 1:
                where += f" and {len(ir) - 1} more"
            span = f"{r['seg']}-{r['seg'] + r['n'] - 1}" if r["n"] > 1 else f"{r['seg']}"
            rows.append(
                (f"  {FLAGS[r['flags'] & 3]}", "", "", f"{r['va']:#x}", size(r["len"]), span, where)
            )
    w = [max(len(row[i]) for row in rows) for i in range(len(head))]
    right = {1, 2, 4, 5}
    return "\n".join(
        "  ".join(
            c.rjust(w[i]) if i in right else c.ljust(w[i]) for i, c in enumerate(row)
        ).rstrip()
        for row in rows
    )


# --- terminal


def terminal(layout: Dict, width: int = 80, colour: bool = True) -> str:
    """The map in characters, at most `width` columns wide."""
    width = max(width, 40)

    def ink(text: str, *sgr: object) -> str:
        return f"\x1b[{';'.join(map(str, sgr))}m{text}\x1b[0m" if colour and text else text

    def fg(code: int) -> str:
        return f"38;5;{code}"

    pages, used, reserved = totals(layout)
    out = [ink(x, 1) for x in _wrap(title(layout), width)]
    out += [f"{size(used)} in {count(pages, 'page')}, {size(reserved)} reserved"[:width], ""]
    empty: list[Dict] = []

    def flush() -> None:
        """Neighbours of one kind without a page share one line."""
        if empty:
            a, b = empty[0], empty[-1]
            name = a["name"] if a is b else f"{a['name']} .. {b['name'].rsplit('-', 1)[-1]}"
            text = f"{name}  node {a['socket_id']}  {size(a['page_sz'])}"
            text += f"  {size(sum(x['len'] for x in empty))} reserved, empty"
            out.append(ink(text[:width], 2))
            out.append(ink("░" * width, fg(XTERM[node(a)]), 2))
            empty.clear()

    for ml in layout["lists"]:
        kind = (ml["page_sz"], ml["socket_id"])
        if not ml["count"]:
            if empty and kind != (empty[-1]["page_sz"], empty[-1]["socket_id"]):
                flush()
            empty.append(ml)
            continue
        flush()
        hue = fg(XTERM[node(ml)])
        used = ml["count"] * ml["page_sz"]
        left = f"{ml['name']}  node {ml['socket_id']}  {size(ml['page_sz'])}"
        right = f"{size(used)} of {size(ml['len'])}"
        out.append(ink(left[:width], hue, 1) + right.rjust(max(width - len(left), 0))[:width])
        out.append(ink(_bar(ml, width), hue))
        for o in overlays(layout):
            if bar := _over_bar(ml, o, width):
                here = sum(b - a for a, b in clip(ml, o["pages"]))
                said = f"{o['label']}: {size(here) if here else 'nothing'} of it mapped"
                out.append(ink(said[:width], 2))
                out.append("".join(ink(c, 31 if c == "✗" else hue) for c in bar))
        out += _pages(ml, width, ink, hue)
    flush()
    for line in collisions(layout):
        out.append(ink(f"✗ {line}"[:width], 31))
    legend = "■ page  █ never freed  ▓ dirty  · free between  ░ reserved  ╰─╯ one IOVA run"
    return "\n".join([*out, "", *(ink(x, 2) for x in _wrap(legend.split("  "), width, "  "))])


def _wrap(words: list[str], width: int, sep: str = " · ") -> list[str]:
    lines = [""]
    for w in words:
        new = f"{lines[-1]}{sep}{w}" if lines[-1] else w
        if len(new) <= width:
            lines[-1] = new
        else:
            lines.append(w[:width])
    return lines


def _bar(ml: Dict, width: int) -> str:
    """The list's whole address range to scale; a used column is never lost to rounding."""
    bar = ["░"] * width
    for r in ml["runs"]:
        a = r["seg"] * width // ml["n_segs"]
        b = -(-(r["seg"] + r["n"]) * width // ml["n_segs"])
        bar[a:b] = "█" * (b - a)
    return "".join(bar)


def _over_bar(ml: Dict, o: Dict, width: int) -> str:
    """What one process has of a list's range: ━ mapped, ╌ kept free for it, ✗ in the way."""
    bar = [" "] * width
    for mark, spans in (("╌", o["kept"]), ("━", o["pages"]), ("✗", o["foreign"])):
        for a, b in clip(ml, spans):
            first = (a - ml["base_va"]) * width // ml["len"]
            last = -(-(b - ml["base_va"]) * width // ml["len"])
            bar[first:last] = mark * (last - first)
    return "".join(bar).rstrip()


def _pages(ml: Dict, width: int, ink: Any, hue: str) -> Iterator[str]:
    """Rows of: address, one mark a page (or k pages), brackets of the IOVA runs below."""
    w = width - 17
    k, seq = cells(ml, w * 6)
    flat: list[Cell | None] = []
    for c in seq:
        flat += [c] if isinstance(c, Cell) else [None] * min(-(-c // k), 3)
    while flat and flat[-1] is None:
        flat.pop()
    for at in range(0, len(flat), w):
        row = flat[at : at + w]
        first = next((c.seg for c in row if c), 0)
        marks = "".join(" ■█▓▓"[1 + (c.flags & 3)] if c else "·" for c in row)
        yield f"{ml['base_va'] + first * ml['page_sz']:#14x}   " + ink(marks, hue)
        yield " " * 17 + ink("".join(_bracket(flat, i) for i in range(at, at + len(row))), 2)
    n = sum(len(r["iova_runs"]) for r in ml["runs"])
    text = f"one mark is {count(k, 'page')}, {size(k * ml['page_sz'])}; {count(n, 'IOVA run')}"
    yield " " * 17 + ink(text[:w], 2)


def _bracket(flat: list[Cell | None], i: int) -> str:
    c = flat[i]
    if not c or not c.iovas:
        return " "
    if c.iovas[0][1] == BAD_IOVA:
        return "?"
    if len(c.iovas) > 1:
        return "┈"
    before = flat[i - 1] if i else None
    after = flat[i + 1] if i + 1 < len(flat) else None
    opens = not before or before.iovas != c.iovas
    ends = not after or after.iovas != c.iovas
    return {(1, 1): "╵", (1, 0): "╰", (0, 1): "╯", (0, 0): "─"}[opens, ends]
