"""The memory map of an EAL as SVG."""

from __future__ import annotations

from pyeal.tools import count, printable, size
from pyeal.tools.picture import (
    BAD_IOVA,
    DIRTY,
    DO_NOT_FREE,
    FLAGS,
    NODES,
    Cell,
    cells,
    clip,
    collisions,
    iova_text,
    node,
    overlays,
    title,
    totals,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Dict = dict[str, Any]

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
    """Return a text for an element or an attribute of XML: control characters are spelt out."""
    s = printable(str(s)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return s.replace('"', "&quot;").replace("'", "&#39;")


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
    """Draw all lists in order of address on one axis, without the space between them."""
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
                for a, b in clip(ml, spans):
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
            if w > 6 * len(label) and (iova, n) not in told:  # once, if it has room
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
