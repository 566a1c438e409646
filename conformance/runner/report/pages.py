"""What people look at: the report, the catalogue and the findings, as HTML and as Markdown.

Both pages are one file, page.html, with its style, its script and one JSON object in it. The script
draws all of it from that object; a row of the catalogue looks the same with and without verdicts.
"""

from __future__ import annotations

import ast
import html
import json
import re
from collections import Counter
from functools import cache
from pathlib import Path
from typing import NamedTuple

from conformance import SUITE
from conformance.harness import catalogue, peers
from conformance.runner.report.results import LABELS, NO_ROW, WORDS, grouped

HERE = Path(__file__).parent
KNOWN = {  # Row.evidence, by letter
    "R": "run on Debian's 22.11.11",
    "7": "run on builds of all seven releases",
    "F": "run with a fault injected",
    "S": "read in the source",
    "D": "run on Debian's build of such a release",
}
ALONE = "run here on pyeal alone: Debian has no build of such a release"
DRAWN = re.compile(r"\S {2,}\S|[|\[#]|->|<-|\.\.\. ")  # what a paragraph of prose has not
COLOURS = {"failed": "red", "deviating": "yellowgreen", "passed": "brightgreen"}
HEADS = [LABELS.get(w, w) for w in WORDS]
LISTED = 20  # failures and hosts that a summary names


class Test(NamedTuple):
    """The test of a row, as its source has it."""

    path: str
    name: str
    says: str  # the docstring's first paragraph
    notes: list[str]  # what prose follows it
    picture: str  # and what is drawn


@cache
def tests(suite=SUITE):
    """id -> its test, read from the sources: nothing is imported or collected."""
    found = {}
    for path in sorted(suite.glob("families/*/test_*.py")):
        at = path.relative_to(suite)
        for f in ast.walk(ast.parse(path.read_text())):
            for d in getattr(f, "decorator_list", ()):
                match d:
                    case ast.Call(func=ast.Name("requirement"), args=[ast.Constant(id)]):
                        text = ast.get_docstring(f) or ""
                        says, *parts = [p.strip("\n") for p in re.split(r"\n\s*\n", text)]
                        says = " ".join(says.split())
                        drawn = [p for p in parts if DRAWN.search(p)]
                        notes = [" ".join(p.split()) for p in parts if p not in drawn]
                        found[id] = Test(str(at), f.name, says, notes, "\n\n".join(drawn))
    return found


class Finding(NamedTuple):
    """A defect of a real release that a requirement finds."""

    title: str
    id: str
    releases: str
    what: str  # what goes wrong, and what it costs
    run: str  # the one command
    saw: str  # the line of its output that shows it
    link: str = ""


def findings(path=SUITE / "findings.toml"):
    entries = catalogue.load(path).get("finding", [])
    try:
        return [Finding(**e) for e in entries]
    except TypeError as e:
        raise catalogue.Broken(f"{path.name}: {e}") from None


# --- the object in the page


def data(m, rows, untested, title, whole=False):
    """All that the page shows. `whole`: also rows that no test of these runs belongs to."""
    texts: dict[str, int] = {}

    def text(s):
        return texts.setdefault(s, len(texts))

    def test(t):
        log = "\n".join(f"{k}\n{v}" for k, v in t.sections.items()) if t.verdict == "failed" else ""
        seen = "\n".join(map(str, t.evidence))
        said = map(text, (t.params, t.reason, seen, t.trace.strip(), log))
        return [WORDS.index(t.verdict), round(t.duration, 2), *said]

    def group(g):
        hosts = [] if len(m.facts) < 2 else [ranges(g.hosts)]
        return [WORDS.index(g.verdict), [test(t) for t in g.tests], *hosts]

    columns, source, past = range(len(m.columns)), tests(), len(m.earlier)
    out = []
    for id in order(m, rows, whole):
        row, at = rows.get(id), source.get(id)
        entry = {"id": id, "family": row.family if row else m.families[id]}
        entry["text"] = row.statement if row else m.statements[id]
        if row:
            entry |= {k: getattr(row, k) for k in FACTS if getattr(row, k) not in ("", "-")}
            entry |= {"releases": catalogue.in_words(row.releases)} if row.releases else {}
            entry["known"] = known(row)
        if at:
            entry["test"] = at._asdict()
        elif row and untested.get(id):
            entry["untested"] = untested[id]
        cells = m.cells.get(id, {})
        entry["cells"] = [[group(g) for g in cells.get(c, {}).values()] for c in columns]
        if past:
            was = [m.history.get((id, c), {}) for c in columns]
            entry["past"] = [[w.get(i) for i in range(past)] for w in was]
        out.append(entry)
    return {
        "title": title,
        "words": WORDS,
        "labels": [*HEADS, LABELS["untested"]],
        "columns": [column(m, c) for c in columns],
        "hosts": m.facts,
        "runs": [[r.host, r.column, r.started, r.revision, r.seconds, r.tests] for r in m.runs],
        "earlier": m.earlier,
        "rows": out,
        "findings": [f._asdict() for f in findings()],
        "texts": list(texts),  # last, as what stands above fills it
    }


def known(row):
    """How a row was confirmed, in words."""
    built = [r for r in peers.releases() if catalogue.holds(row.releases, r)]
    return [KNOWN[k] for k in row.evidence if k in KNOWN] + [ALONE] * (not built)


FACTS = "level", "applies", "releases", "check", "needs", "source"


def order(m, rows, whole):
    """Ids in the catalogue's order, then those of no row."""
    shown = [i for i in rows if whole or i in m.cells or not m.chosen]
    return shown + [i for i in m.cells if i not in rows]


def column(m, c):
    target, release = list(m.columns)[c]
    cells = (groups.get(c, {}).values() for id, groups in m.cells.items())
    cannot = [g for g in map(list, cells) if g and all(x.verdict == "skipped" for x in g)]
    broken = sorted({why for r in m.runs if r.column == c for why in r.broken})
    built = sorted({r.built for r in m.runs if r.column == c and r.built})
    name = target if ":" in target or target.endswith(release) else f"{target} {release}"
    why = [[n, w] for w, n in grouped(g[0].tests[0].reason for g in cannot)]
    facts = {"target": target, "release": release, "name": name}
    return facts | {"why": why, "broken": broken, "built": built}


def ranges(numbers):
    """[0, 1, 2, 5] -> [0, 2, 5, 5]: first and last of each run."""
    out = []
    for n in sorted(numbers):
        if out and n == out[-1] + 1:
            out[-1] = n
        else:
            out += [n, n]
    return out


def page(found, plain=""):
    """The page that shows this object; `plain` is what stands there without scripts."""
    text = json.dumps(found, ensure_ascii=False, separators=(",", ":"))
    parts = {
        "title": html.escape(found["title"]),
        "plain": html.escape(plain),
        "css": (HERE / "page.css").read_text().strip(),
        "js": (HERE / "page.js").read_text().strip(),
        "data": text.replace("<", "\\u003c"),
    }
    frame = (HERE / "page.html").read_text()
    return re.sub(r"\{(title|css|js|data|plain)\}", lambda found: parts[found[1]], frame)


# --- Markdown


def printable(text):
    """Return a text in one line, without characters that a terminal obeys or that reorder text."""
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in str(text))


def cell(text):
    """Return a text for a table of Markdown: a name of another machine is no cell, link or HTML."""
    signs = {"&": "&amp;", "<": "&lt;"} | {c: f"\\{c}" for c in "|`[]"}
    return "".join(signs.get(c, c) for c in printable(text))


def markdown(m):
    """The matrix for a README or a CI summary: passed / deviating / failed / could not."""
    columns = [column(m, c) for c in range(len(m.columns))]
    out = [
        f"| family | {' | '.join(cell(c['name']) for c in columns)} |",
        "|---" * (len(columns) + 1) + "|",
    ]
    families = sorted(set(m.families.values()), key=lambda f: (f == NO_ROW, f))
    for name, family in [*((f, f) for f in families), ("**total**", None)]:
        counts = [m.counts(c, family) for c in range(len(columns))]
        cells = (" / ".join(str(n[w]) for w in WORDS) if n else "" for n in counts)
        out.append(f"| {name} | {' | '.join(cells)} |")
    of = [m.counts(c, None) for c in range(len(columns))]
    ran = (f"{sum(n[w] for w in WORDS) - n['skipped']} of {sum(n[w] for w in WORDS)}" for n in of)
    out.append(f"| **ran** | {' | '.join(ran)} |")
    if len(m.facts) > 1:
        out += ["", *by_host(m)]
    return "\n".join([*out, *failures(m, columns)]) + "\n"


def by_host(m):
    """Each host's sum over its targets, those with failures first."""
    sums = [dict.fromkeys(WORDS, 0) for _ in m.facts]
    for r in m.runs:
        for w in WORDS:
            sums[r.host][w] += r.counts[w]
    worst = sorted(range(len(sums)), key=lambda h: [-sums[h][w] for w in ("failed", "deviating")])
    yield f"| {len(m.facts)} hosts | kernel | CPU | pages | {' / '.join(HEADS)} |"
    yield "|---|---|---|---|---|"
    for h in worst[:LISTED]:
        f, n = m.facts[h], " / ".join(str(sums[h][w]) for w in WORDS)
        facts = (cell(f.get(k, "")) for k in ("name", "kernel", "cpu"))
        yield f"| {' | '.join([*facts, cell(pools(f)), n])} |"
    if rest := worst[LISTED:]:
        n = sum(1 for h in rest if sums[h]["failed"])
        yield f"| and {len(rest)} more | | | | {n or 'none'} of them with failures |"


def pools(facts):
    return (
        ", ".join(f"{p['total']} × {size}" for size, p in facts.get("pools", {}).items()) or "none"
    )


def failures(m, columns):
    found = [
        (id, columns[c]["name"], g)
        for id, cells in m.cells.items()
        for c, groups in cells.items()
        for g in groups.values()
        if g.verdict == "failed"
    ]
    if found:
        yield "\n**failed**\n"
    for id, name, g in found[:LISTED]:
        where = f", {len(g.hosts)} of {len(m.facts)} hosts" if len(m.facts) > 1 else ""
        why = next(t.reason for t in g.tests if t.verdict == "failed")
        why = printable(why[:200]).replace("`", "'")
        yield f"- {id} on {cell(name)}{where}: `{why}`"
    if len(found) > LISTED:
        yield f"- and {len(found) - LISTED} more"


def badge(m, c):
    """shields.io's endpoint format."""
    n = m.counts(c)
    said = [f"{n[w]} {LABELS.get(w, w)}" for w in ("failed", "passed", "deviating") if n[w]]
    return {
        "schemaVersion": 1,
        "label": column(m, c)["name"],
        "message": ", ".join(said) or "nothing ran",
        "color": next((colour for w, colour in COLOURS.items() if n[w]), "lightgrey"),
    }


def catalogue_markdown(m, rows, untested):
    """Every row of the catalogue with its picture, its test and, of these runs, its verdicts."""
    source, columns = tests(), [column(m, c)["name"] for c in range(len(m.columns))]
    have = sum(1 for i in rows if i in source)
    out = [
        "# The catalogue",
        "",
        "<!-- made by ci/report catalogue from conformance/requirements -->",
    ]
    out += ["", f"{len(rows)} requirements, {have} with a test. **must** counts for conformance,"]
    out += ["**as-is** is what releases do today. Modes: D dynmem, S single-file segments,"]
    out += ["M in-memory, L legacy, N no-huge, 2 secondary."]
    family = None
    for id, row in rows.items():
        if row.family != family:
            family = row.family
            out += ["", f"## {family}"]
        test = source.get(id)
        facts = [row.level, row.applies]
        facts += [f"releases {catalogue.in_words(row.releases)}"] * bool(row.releases)
        facts += [f"needs {row.needs}"] * (row.needs not in ("", "-"))
        facts += [row.source] if row.source else []
        facts += ["; ".join(known(row))]
        out += ["", f"### {id}", "", row.statement, "", " · ".join(facts)]
        if test:
            out[-1] += f" · [{test.name}](../conformance/{test.path})"
            out += [x for text in filter(None, (test.says, *test.notes)) for x in ("", text)]
            out += ["", "```", test.picture, "```"] * bool(test.picture)
        else:
            out += ["", f"No test: {untested.get(id) or 'as-is'}."]
        if said := [f"{n}: {m.verdict(id, c)}" for c, n in enumerate(columns) if m.verdict(id, c)]:
            out += ["", "; ".join(said)]
    return "\n".join(out) + "\n"


def findings_markdown(found):
    out = [
        "# Findings",
        "",
        "<!-- made by ci/report findings from conformance/findings.toml -->",
        "",
    ]
    out += [
        "Defects of real DPDK releases that the suite finds, each with the command that shows it"
    ]
    out += ["(as root; pages: `--reserve 2M:64`; `ci/peers` fetches Debian's releases)."]
    for f in found:
        out += ["", f"## {f.title}", "", f"{f.releases} · {f.id}" + f" · <{f.link}>" * bool(f.link)]
        out += ["", f.what, "", f"    {f.run}", "", "```", f.saw.strip(), "```"]
    return "\n".join(out) + "\n"


def summary(m):
    """What a script wants to know: verdicts by target and family, and of which hosts."""
    families = dict.fromkeys(sorted(m.families.values(), key=lambda f: (f == NO_ROW, f)))
    found, kinds = {}, Counter(target for target, _ in m.columns)
    for (target, release), c in m.columns.items():
        counts = {f: m.counts(c, f) for f in families}
        of = {f: {w: n[w] for w in WORDS} for f, n in counts.items() if n}
        name = f"{target} {release}" if kinds[target] > 1 else target
        rows = {w: sum(n[w] for n in of.values()) for w in WORDS}
        ran = {"ran": sum(rows.values()) - rows["skipped"], "rows": sum(rows.values())}
        found[name] = {"release": release, **ran, "families": of}
    return {"targets": found} | (
        {"hosts": m.facts} if len(m.facts) > 1 else {"host": m.facts[0] if m.facts else {}}
    )


# --- files


def write(m, folder, rows, untested, title="EAL conformance"):
    """index.html, matrix.md, summary.json and badges/ of these runs."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    plain = markdown(m)
    (folder / "matrix.md").write_text(plain)
    (folder / "summary.json").write_text(json.dumps(summary(m), indent=1) + "\n")
    (folder / "index.html").write_text(page(data(m, rows, untested, title), plain))
    (badges := folder / "badges").mkdir(exist_ok=True)
    for old in badges.glob("*.json"):
        old.unlink()
    for c in range(len(m.columns)):
        b = badge(m, c)
        name = re.sub(r"[^\w.-]+", "_", b["label"]).strip("_")
        (badges / f"{name}.json").write_text(json.dumps(b) + "\n")


def write_catalogue(m, folder, rows, untested):
    """catalogue.html and catalogue.md; with the verdicts of these runs, if any."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    plain = catalogue_markdown(m, rows, untested)
    (folder / "catalogue.md").write_text(plain)
    found = data(m, rows, untested, "The catalogue", whole=True)
    (folder / "catalogue.html").write_text(page(found, plain))
