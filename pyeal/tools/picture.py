"""The memory map of an EAL, drawn from `Eal.layout()`: table, terminal picture, SVG."""

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
    ]


def overlays(layout: Dict) -> list[Dict]:
    """What other processes have where these lists lie: scan.Process.overlay, with a label."""
    found: list[Dict] = layout.get("overlays", [])
    return found


def _cut(ml: Dict, spans: list[list[Any]]) -> list[tuple[int, int]]:
    """The parts of spans of addresses that lie in a list."""
    lo, hi = ml["base_va"], ml["base_va"] + ml["len"]
    return [(max(a, lo), min(b, hi)) for a, b, *_ in spans if a < hi and b > lo]


def collisions(layout: Dict) -> list[str]:
    """A line for each mapping of another process that lies where a list is."""
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
    """Lists, their contiguous runs, and what lies behind each run."""
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
                here = sum(b - a for a, b in _cut(ml, o["pages"]))
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
        for a, b in _cut(ml, spans):
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


# --- SVG

W, M = 1120, 32  # picture and margin
IN = W - 2 * M - 40  # inside of a card
STYLE = """
text{font:13px ui-sans-serif,system-ui,'Segoe UI',Roboto,'DejaVu Sans',sans-serif;fill:#334155}
.h{font-size:24px;font-weight:700;fill:#0f172a}
.b{font-weight:600;fill:#0f172a}
.m{font-family:ui-monospace,Menlo,Consolas,'DejaVu Sans Mono',monospace;font-size:12px}
.s{font-size:11px;fill:#64748b}
.t{font-size:9px}
.e{text-anchor:end}
.c{text-anchor:middle}
.card{fill:#fff;stroke:#e2e8f0}
.i:hover{stroke:#0f172a;stroke-width:1.5}
""".strip()


def esc(s: object) -> str:
    return str(s).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def rect(x: float, y: float, w: float, h: float, fill: str, tip: str = "", more: str = "") -> str:
    a = f'<rect x="{x:.1f}" y="{y:.1f}" width="{max(w, 0):.1f}" height="{h:.1f}" fill="{fill}"'
    a += f" {more}" if more else ""
    return f'{a} class="i"><title>{esc(tip)}</title></rect>' if tip else a + "/>"


def text(x: float, y: float, s: object, cls: str = "", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" class="{cls}" {more}>{esc(s)}</text>'


def svg(layout: Dict) -> str:
    """The map as one self-contained picture; every mark says in its tooltip what it is."""
    pages, used, reserved = totals(layout)
    out, y = [], 52
    out.append(text(M, y, layout["file_prefix"], "h"))
    out.append(text(W - M, y, f"{size(used)} used", "h e"))
    y += 24
    out.append(text(M, y, " · ".join([*title(layout)[:3], title(layout)[4]])))
    out.append(text(W - M, y, f"{count(pages, 'page')} · {size(reserved)} reserved", "e"))
    y += 24
    y = _space(layout, out, y)
    for ml in layout["lists"]:
        y = _card(ml, out, y) if ml["count"] else _row(ml, out, y)
    y = _legend(layout, out, y + 8)
    hatch = "".join(
        f'<pattern id="r{i}" width="6" height="6" patternUnits="userSpaceOnUse" '
        f'patternTransform="rotate(45)"><rect width="6" height="6" fill="{c[2]}"/>'
        f'<rect width="1.4" height="6" fill="{c[1]}" opacity=".35"/></pattern>'
        for i, c in enumerate(NODES)
    )
    hatch += (
        '<pattern id="dirty" width="5" height="5" patternUnits="userSpaceOnUse" '
        'patternTransform="rotate(-45)"><rect width="1.8" height="5" fill="#fff" opacity=".75"/>'
        "</pattern>"
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {W} {y}" width="{W}" height="{y}" '
        f'role="img"><title>{esc("Memory map of " + layout["file_prefix"])}</title>'
        f"<style>{STYLE}</style><defs>{hatch}</defs>"
        f'<rect width="{W}" height="{y}" rx="14" fill="#f8fafc"/>' + "\n".join(out) + "</svg>\n"
    )


def _fill(ml: Dict) -> str:
    """1G pages in the deep tone of their node, all others in the middle one."""
    return NODES[node(ml)][0 if ml["page_sz"] >= 1 << 30 else 1]


def _hatch(ml: Dict) -> str:
    return f"url(#r{node(ml)})"


def _space(layout: Dict, out: list[str], y: int) -> int:
    """All lists in order of address on one axis; what lies between them is cut out."""
    ls = sorted(layout["lists"], key=lambda ml: ml["base_va"])
    if not ls:
        return y
    width, gap = W - 2 * M, 10
    ends = [ml["base_va"] + ml["len"] for ml in ls]
    breaks = [b["base_va"] - end > b["len"] // 16 for end, b in zip(ends, ls[1:], strict=False)]
    room = width - gap * sum(breaks) - 2 * len(ls)
    whole = sum(ml["len"] for ml in ls)
    # a list of 64M beside one of 64G is still to be seen: each gets 14 px before the rest is shared
    least = min(14, room // len(ls))
    x, labelled = float(M), -1e9
    places = []
    for ml, cut in zip(ls, [*breaks, False], strict=True):
        w = least + (room - least * len(ls)) * ml["len"] / whole
        tip = f"{ml['name']}: {ml['base_va']:#x} – {ml['base_va'] + ml['len']:#x}, "
        tip += f"{size(ml['len'])}, node {ml['socket_id']}, {size(ml['page_sz'])} pages"
        out.append(rect(x, y, w, 30, _hatch(ml), tip, f'rx="3" stroke="{NODES[node(ml)][1]}"'))
        for r in ml["runs"]:
            at = x + w * r["seg"] / ml["n_segs"]
            wide = min(max(w * r["n"] / ml["n_segs"], 2), x + w - at)
            out.append(rect(at, y, wide, 30, _fill(ml)))
        name = f"{size(ml['page_sz'])}"
        if w > 40:
            halo = 'paint-order="stroke" stroke="#fff" stroke-width="4" stroke-linejoin="round"'
            out.append(text(x + w / 2, y + 19, name, "s c b", halo))
        if x - labelled > 96 and x < W - M - 80:
            out.append(rect(x, y + 31, 1, 6, "#94a3b8"))
            out.append(text(x, y + 48, f"{ml['base_va']:#x}", "m s"))
            labelled = x
        places.append((ml, x, w))
        x += w + 2
        if cut:
            out.append(text(x + gap / 2 - 1, y + 19, "⋮", "s c"))
            x += gap
    return _lanes(layout, places, out, y + 66)


def _lanes(layout: Dict, places: list[tuple[Dict, float, float]], out: list[str], y: int) -> int:
    """A lane under the axis for each other process, and what is in its way in words."""
    for o in overlays(layout):
        out.append(text(M, y, o["label"], "s"))
        for ml, x, w in places:
            out.append(rect(x, y + 6, w, 7, "#e9eef5", "", 'rx="2"'))
            marks = (
                (o["kept"], "#cbd5e1", "kept free for these pages"),
                (o["pages"], NODES[node(ml)][1], "mapped here, too"),
                (o["foreign"], "#e11d48", "in the way"),
            )
            for spans, colour, words in marks:
                for a, b in _cut(ml, spans):
                    at = x + w * (a - ml["base_va"]) / ml["len"]
                    wide = min(max(w * (b - a) / ml["len"], 2), x + w - at)
                    tip = f"{a:#x} – {b:#x}, {size(b - a)}: {words}"
                    out.append(rect(at, y + 6, wide, 7, colour, tip))
        y += 28
    said = collisions(layout)
    for line in said[:8]:
        out.append(text(M, y, f"✗ {line}", "s", 'style="fill:#e11d48"'))
        y += 16
    return y + (12 if said else 0)


def _head(ml: Dict, out: list[str], x: float, y: int) -> None:
    out.append(rect(x, y - 12, 10, 10, _fill(ml), "", 'rx="2"'))
    out.append(text(x + 18, y - 3, ml["name"], "b"))
    where = f"node {ml['socket_id']} · {size(ml['page_sz'])} pages"
    out.append(text(x + 200, y - 3, where + (" · external" if ml["external"] else "")))
    out.append(text(x + 360, y - 3, f"{ml['base_va']:#x} – {ml['base_va'] + ml['len']:#x}", "m"))


def _bar_svg(ml: Dict, out: list[str], x: float, y: int) -> tuple[float, float]:
    """The list's range to scale; answers where its used part begins and ends."""
    tip = f"reserved: {ml['base_va']:#x} – {ml['base_va'] + ml['len']:#x}, {size(ml['len'])}"
    out.append(rect(x, y, IN, 10, _hatch(ml), tip, 'rx="3"'))
    lo, hi = x + IN, x
    for r in ml["runs"]:
        a = x + IN * r["seg"] / ml["n_segs"]
        w = max(IN * r["n"] / ml["n_segs"], 2.5)
        a = min(a, x + IN - w)
        out.append(rect(a, y, w, 10, _fill(ml), f"{r['va']:#x}, {size(r['len'])}", 'rx="1"'))
        lo, hi = min(lo, a), max(hi, a + w)
    return lo, hi


def _row(ml: Dict, out: list[str], y: int) -> int:
    """A list without a page: one quiet line."""
    x = M + 20
    g: list[str] = []
    _head(ml, g, x, y + 22)
    g.append(text(x + IN, y + 19, f"empty · {size(ml['len'])} reserved", "s e"))
    out.append(rect(M, y, W - 2 * M, 32, "#fff", "", 'rx="8" class="card" opacity=".7"'))
    out.append(f'<g opacity=".62">{"".join(g)}</g>')
    return y + 38


def _card(ml: Dict, out: list[str], y: int) -> int:
    """A list in use: its range, and every page of it, magnified."""
    x = float(M + 20)
    k, marks = cells(ml, 512)
    seq = list(marks)
    if isinstance(seq[-1], int):  # the free rest is what the bar shows
        seq.pop()
    if seq and isinstance(seq[0], int):
        seq.pop(0)
    n = len(seq)
    cols = next((c for c in (16, 32, 64, 96) if n <= c), 128)
    pitch = IN / cols
    ch, gap = (26, 2) if cols <= 32 else (20, 1.5) if cols <= 64 else (14, 1)
    lane = ch + 16  # row of cells and its IOVA lane
    n_rows = -(-n // cols)
    h = 74 + n_rows * lane + 26
    out.append(rect(M, y, W - 2 * M, h, "#fff", "", 'rx="10" class="card"'))
    _head(ml, out, x, y + 28)
    fill = f"{size(ml['count'] * ml['page_sz'])} of {size(ml['len'])}"
    share = f"{ml['count']:,} of {count(ml['n_segs'], 'page')}"
    out.append(text(x + IN, y + 25, f"{fill} · {share}", "e"))
    lo, hi = _bar_svg(ml, out, x, y + 40)
    top = y + 74
    right = x + min(n, cols) * pitch - gap
    zoom = f"{lo:.1f},{y + 50} {hi:.1f},{y + 50} {right:.1f},{top - 4} {x:.1f},{top - 4}"
    out.append(f'<polygon points="{zoom}" fill="{NODES[node(ml)][2]}" opacity=".55"/>')
    told: set[object] = set()
    for i in range(n_rows):
        row, cy = seq[i * cols : (i + 1) * cols], top + i * lane
        for j, c in enumerate(row):
            cx, cw = x + j * pitch, pitch - gap
            if isinstance(c, int):
                tip = f"{count(c, 'free page')}, {size(c * ml['page_sz'])}"
                out.append(rect(cx, cy, cw, ch, _hatch(ml), tip, 'rx="2" stroke-dasharray="2 2"'))
                out.append(text(cx + cw / 2, cy + ch / 2 + 4, "⋯", "s c"))
                continue
            _cell(ml, c, out, cx, cy, cw, ch)
        _iova_lane(ml, row, out, x, cy + ch + 3, pitch, gap, told)
    runs = count(sum(len(r["iova_runs"]) for r in ml["runs"]), "IOVA run")
    one = f"one square = {count(k, 'page')}" + (f" = {size(k * ml['page_sz'])}" if k > 1 else "")
    out.append(
        text(x, y + h - 12, f"{one} · {runs} · {count(len(ml['runs']), 'run')} of addresses", "s")
    )
    return y + h + 10


def _cell(ml: Dict, c: Cell, out: list[str], x: float, y: float, w: float, h: float) -> None:
    va = ml["base_va"] + c.seg * ml["page_sz"]
    pages = f"pages {c.seg}–{c.seg + c.n - 1}" if c.n > 1 else f"page {c.seg}"
    tip = f"{pages} · {va:#x}, {size(c.n * ml['page_sz'])} · {FLAGS[c.flags & 3]}"
    rx = f'rx="{2 if w > 8 else 1}"'
    out.append(rect(x, y, w, h, _fill(ml), tip, rx))
    if c.flags & DIRTY:
        out.append(rect(x, y, w, h, "url(#dirty)", "", rx + ' pointer-events="none"'))
    if c.flags & DO_NOT_FREE:
        out.append(rect(x, y + h - 3, w, 3, "#0f172a", "", 'opacity=".55" pointer-events="none"'))


def _iova_lane(
    ml: Dict,
    row: list[Cell | int],
    out: list[str],
    x: float,
    y: float,
    pitch: float,
    gap: float,
    told: set[object],
) -> None:
    """One bracket an IOVA run; a square that holds several is drawn as a comb."""
    i = 0
    while i < len(row):
        c, j = row[i], i + 1
        if isinstance(c, int) or not c.iovas:
            i = j
            continue
        while j < len(row) and isinstance(d := row[j], Cell) and d.iovas == c.iovas:
            j += 1
        cx, w = x + i * pitch, (j - i) * pitch - gap
        index, iova, n = c.iovas[0]
        if len(c.iovas) > 1:
            tip = f"{count(len(c.iovas), 'IOVA run')} from {iova_text(iova)}"
            for t in range(3):
                out.append(rect(cx + t * w / 3, y, w / 3 - 0.8, 5, "#94a3b8", tip))
        else:
            bad = iova == BAD_IOVA
            tip = f"{iova_text(iova)}, {count(n, 'page')}, {size(n * ml['page_sz'])}"
            shade = "#e11d48" if bad else ("#334155", "#94a3b8")[index % 2]
            out.append(rect(cx, y, w, 5, shade, tip, 'rx="2"'))
            label = "no IOVA" if bad else f"{iova:#x}"
            if w > 6 * len(label) and (iova, n) not in told:  # once, where there is room
                told.add((iova, n))
                out.append(text(cx, y + 13.5, label, "m s t"))
        i = j


def _legend(layout: Dict, out: list[str], y: int) -> int:
    x = float(M)

    def item(draw: list[str], s: str) -> None:
        nonlocal x
        out.extend(draw)
        out.append(text(x + 22, y + 11, s, "s"))
        x += 22 + 6.3 * len(s) + 20

    seen = {ml["socket_id"]: ml for ml in reversed(layout["lists"])}
    for i, ml in sorted(seen.items()):
        item([rect(x, y, 14, 14, NODES[node(ml)][1], "", 'rx="2"')], f"node {i}")
    if any(ml["page_sz"] >= 1 << 30 for ml in layout["lists"]):
        item([rect(x, y, 14, 14, NODES[0][0], "", 'rx="2"')], "1G pages: deep tone")
    item([rect(x, y, 14, 14, "url(#r7)", "", 'rx="2"')], "reserved")
    base = rect(x, y, 14, 14, NODES[7][1], "", 'rx="2"')
    item([base, rect(x, y + 11, 14, 3, "#0f172a", "", 'opacity=".55"')], "never freed")
    base = rect(x, y, 14, 14, NODES[7][1], "", 'rx="2"')
    item([base, rect(x, y, 14, 14, "url(#dirty)", "", 'rx="2"')], "dirty")
    item([rect(x, y + 5, 14, 5, "#334155", "", 'rx="2"')], "one IOVA run")
    runs = [r for ml in layout["lists"] for r in ml["runs"]]
    if any(i["iova"] == BAD_IOVA for r in runs for i in r["iova_runs"]):
        item([rect(x, y + 5, 14, 5, "#e11d48", "", 'rx="2"')], "no IOVA")
    heaps = [h for h in layout.get("heaps", []) if h["total_size"]]
    if heaps:
        s = " · ".join(f"heap {h['name']} {size(h['total_size'])}" for h in heaps[:4])
        out.append(text(W - M, y + 11, s, "s e"))
    return y + 38
