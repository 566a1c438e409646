"""The page of `pyeal bench`: one file, nothing to load. History, ratio over pages, stages."""

from __future__ import annotations

from html import escape
from statistics import median

from pyeal.tools import count, text_beside
from pyeal.tools.bench_runs import costs, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    Dict = dict[str, Any]
    Points = list[tuple[float, float]]

COLOURS = (
    "#2563eb",
    "#f59e0b",
    "#10b981",
    "#a855f7",
    "#ef4444",
    "#0ea5e9",
    "#84cc16",
    "#ec4899",
    "#64748b",
)
STAGES = {  # a stage between two marks, and its colour
    "begin": ("CPUs, options", "#94a3b8"),
    "discovery": ("discovery", "#0ea5e9"),
    "lists": ("lists", "#a855f7"),
    "pages": ("pages", "#2563eb"),
    "data": ("data file, second mapping", "#f59e0b"),
    "heaps": ("heaps", "#10b981"),
    "clock": ("clock: 100 ms of sleep", "#fca5a5"),
    "rest": ("rest", "#cbd5e1"),
}


def draw(runs: list[Dict]) -> str:
    """Of runs that are kept, oldest first; the last one in detail."""
    last = runs[-1]
    m = last["machine_info"]
    same = [
        r
        for r in runs
        if r["machine_info"].get("target", "").split()[:1] == m["target"].split()[:1]
    ]
    pools = ", ".join(f"{n} × {size}" for size, n in m["hugepages"].items())
    sub = f"kernel {m['kernel']}, {m['cpus']} CPUs, {m['numa_nodes']} node(s), {pools}"
    sub += f" · {last['datetime'][:10]} · commit {last['commit_info'].get('id', '')[:9]}"
    parts = {
        "TITLE": escape(f"{m['target']} beside {m['reference']}"),
        "SUB": escape(sub),
        "ROWS": _table(last["rows"]),
        "STAGES": stages(last),
        "PAGES": _over_pages(last),
        "RUNS": count(len(same), "run"),
        "HISTORY": _history(same),
    }
    page = text_beside(__file__, "bench_page.html")
    for name, part in parts.items():
        page = page.replace(f"%{name}%", part)
    return page


def _table(rows: list[Dict]) -> str:
    out = "<table><tr><th>work<th>pages<th>measured<th>spread<th>target<th>floor<th>here<th>"
    for r in rows:
        unit = r["unit"]
        value = number(r["value"], unit) if "value" in r else ""
        spread = f"{number(r['low'], unit)} – {number(r['high'], unit)}" if "low" in r else ""
        floor, here = (number(r.get(k), unit) for k in ("floor", "here"))
        note = f" <span class=small>{escape(r['note'])}</span>" if r["note"] else ""
        word = r["verdict"]
        out += (
            f"<tr><td>{escape(r['work'])}<td>{r['pages'] or ''}<td><b>{value}</b><td>{spread}"
            f"<td>≤ {number(r['target'], unit)}<td>{floor}<td>{here}"
            f"<td class='{word.replace(' ', '-')}'>{word}{note}"
        )
    return out + "</table>"


def stages(run: Dict) -> str:
    """A stacked bar for each mode and arm, of the most pages that were measured."""
    bars: list[tuple[str, str, dict[str, float]]] = []
    found = {}
    for b in run["benchmarks"]:
        x = b["extra_info"]
        if x.get("stages_ms") and x["role"] in ("target", "reference") and x["work"] != "hosting":
            found[x["work"], x["pages"], x["role"]] = x["stages_ms"]
    names = {role: run["machine_info"][role] for role in ("target", "reference")}
    for work in dict.fromkeys(w for w, _, _ in found):
        pages = max(p for w, p, _ in found if w == work)
        for role in ("reference", "target"):
            if (work, pages, role) in found:
                label = f"{work}, {pages} pages" if role == "reference" else ""
                bars.append((label, names[role].split()[0], found[work, pages, role]))
    if not bars:
        return "<span class=small>not measured</span>"
    most = max(sum(ms.values()) for *_, ms in bars)
    scale, y, out = 760 / most, 0, []
    for label, who, ms in bars:
        y += 12 if label else 0
        x = 270.0
        out.append(f'<text class="ink" x="0" y="{y + 14}">{escape(label)}</text>')
        out.append(f'<text x="262" y="{y + 14}" text-anchor="end">{escape(who)}</text>')
        for name, (what, colour) in STAGES.items():
            if (w := ms.get(name, 0) * scale) > 0.2:
                tip = f"<title>{what}: {ms[name]:.1f} ms</title>"
                out.append(
                    f'<rect x="{x:.1f}" y="{y}" width="{w:.1f}" height="20" '
                    f'fill="{colour}">{tip}</rect>'
                )
                x += w
        out.append(f'<text x="{x + 6:.1f}" y="{y + 14}">{sum(ms.values()):.0f} ms</text>')
        y += 23
    x, y = 0.0, y + 18
    for what, colour in STAGES.values():
        out.append(f'<rect x="{x}" y="{y}" width="11" height="11" rx="3" fill="{colour}"/>')
        out.append(f'<text x="{x + 16}" y="{y + 10}">{what}</text>')
        x += 36 + 6.2 * len(what)
    return f'<svg viewBox="0 0 1100 {y + 16}" role="img">{"".join(out)}</svg>'


def picture(run: Dict) -> str:
    """The stages alone, as an SVG file for a README."""
    m = run["machine_info"]
    style = (
        "text{font:11px ui-sans-serif,system-ui,'Segoe UI','DejaVu Sans',sans-serif;fill:#64748b}"
        ".ink{fill:#0f172a}.h{font-size:15px;font-weight:650}"
        "@media (prefers-color-scheme:dark){text{fill:#8b9ab3}.ink{fill:#f1f5f9}}"
    )
    title = f"Where the time goes: {m['target']} beside {m['reference']}, whole init, medians"
    inner = stages(run)
    head, _, rest = inner.partition(">")
    height = int(head.split('"')[1].split()[3])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="-12 -40 1124 {height + 52}" '
        f'role="img"><style>{style}</style>'
        f'<text class="ink h" x="0" y="-18">{escape(title)}</text>{rest}\n'
    )


def _ratio(arms: dict[str, list[float]], over: str = "reference") -> float | None:
    if not {"target", over} <= set(arms):
        return None
    return median(arms["target"]) / median(arms[over])


def _over_pages(run: Dict) -> str:
    """A chart for each measure, a line for each work."""
    measures: dict[str, dict[str, Points]] = {}
    for (work, pages, measure), arms in costs(run).items():
        if pages and (value := _ratio(arms)) is not None:
            measures.setdefault(measure, {}).setdefault(work, []).append((pages, value))
    many = {
        m: {w: sorted(p) for w, p in works.items() if len(p) > 1} for m, works in measures.items()
    }
    charts = [_chart(f"{m} over librte_eal's", works) for m, works in many.items() if works]
    return "".join(charts) or "<span class=small>one number of pages was measured</span>"


def machine(run: Dict) -> str:
    """Whose numbers these are: --host, its own name, or of an early run its kernel."""
    m = run["machine_info"]
    return f"{m.get('host') or m.get('node') or m['kernel']}, {count(m['cpus'], 'CPU')}"


def _history(runs: list[Dict]) -> str:
    """A chart for each row; a line for each machine, whose numbers are no other's."""
    lines: dict[str, dict[str, Points]] = {}
    targets: dict[str, float] = {}
    several = len({machine(run) for run in runs}) > 1
    for i, run in enumerate(runs):
        for r in run["rows"]:
            if "value" in r:
                of = lines.setdefault(r["work"], {})
                of.setdefault(machine(run) if several else "", []).append((i, r["value"]))
                targets[r["work"]] = r["target"]
    dates = [run["datetime"][:10] for run in runs]
    return "".join(_chart(name, of, targets[name], dates) for name, of in lines.items())


def _chart(
    title: str, lines: dict[str, Points], target: float | None = None, ticks: Sequence[str] = ()
) -> str:
    """A line chart from zero up; x as it is, or a place for each tick."""
    xs = sorted({x for p in lines.values() for x, _ in p})
    most = 1.05 * max([y for p in lines.values() for _, y in p] + [target or 0, 0.01])
    step = next(s * 10.0**e for e in range(-3, 6) for s in (1, 2, 5) if 4 * s * 10.0**e >= most)
    top = 4 * step
    low, wide = xs[0], (xs[-1] - xs[0]) or 1

    def px(x: float) -> float:
        return 44 + 380 * (x - low) / wide

    def py(y: float) -> float:
        return 150 - 130 * y / top

    out = []
    for i in range(5):
        y = step * i
        out.append(f'<line class=axis x1="40" x2="430" y1="{py(y):.1f}" y2="{py(y):.1f}"/>')
        out.append(f'<text x="34" y="{py(y) + 4:.1f}" text-anchor="end">{y:.3g}</text>')
    if target:
        out.append(
            f'<line class=target x1="40" x2="430" y1="{py(target):.1f}" y2="{py(target):.1f}"/>'
        )
    for x in xs if not ticks else {xs[0], xs[-1]}:
        word = ticks[int(x)] if ticks else f"{x:g}"
        end = "end" if x == xs[-1] and len(xs) > 1 else "start" if x == xs[0] else "middle"
        out.append(f'<text x="{px(x):.1f}" y="168" text-anchor="{end}">{word}</text>')
    for (name, points), colour in zip(lines.items(), COLOURS * 4, strict=False):
        path = " ".join(f"{px(x):.1f},{py(y):.1f}" for x, y in points)
        out.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for x, y in points:
            tip = f"<title>{escape(name)} {x:g}: {y:.3f}</title>"
            out.append(
                f'<circle cx="{px(x):.1f}" cy="{py(y):.1f}" r="3.2" fill="{colour}">{tip}</circle>'
            )
    key = "".join(
        f'<i style="background:{c}"></i>{escape(n)}'
        for n, c in zip(lines, COLOURS * 4, strict=False)
        if n
    )
    svg = f'<svg viewBox="0 0 440 174" role="img">{"".join(out)}</svg>'
    return f'<div class=card><b>{escape(title)}</b>{svg}<div class="key small">{key}</div></div>'
