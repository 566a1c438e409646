"""Make what the documentation shows of fixtures and of the code: pictures, layouts, layers."""

import os
import subprocess
import sys
import tomllib
from pathlib import Path

from conformance.harness import decode
from pyeal import builds
from pyeal.tools import commands
from pyeal.tools.explain import read

HERE = Path(__file__).parent
FIXTURES = HERE.parent / "fixtures"
EXPLAIN = FIXTURES / "explain"
SHARED = """rte_mem_config rte_memseg_list rte_fbarray rte_memseg rte_memzone rte_tailq_head
malloc_heap malloc_elem hugepage_info hugepage_file mp_msg_internal malloc_mp_req""".split()


STYLE = """text{font:13px ui-sans-serif,system-ui,'Segoe UI','DejaVu Sans',sans-serif;fill:#334155}
.h{font-weight:650;fill:#0f172a}.m{font:12px ui-monospace,Menlo,Consolas,monospace}
.s{font-size:11px;fill:#64748b}.c{text-anchor:middle}
.box{fill:#f8fafc;stroke:#94a3b8}.on{fill:#dbeafe;stroke:#3b82f6}
.arrow{fill:none;stroke:#64748b;stroke-width:1.5;marker-end:url(#a)}.tip{fill:#64748b}
.back{stroke-dasharray:5 4}
@media (prefers-color-scheme:dark){text{fill:#cbd5e1}.h{fill:#f1f5f9}.s{fill:#94a3b8}
.box{fill:#1e293b;stroke:#64748b}.on{fill:#1e3a5f;stroke:#60a5fa}}"""
TIP = '<defs><marker id="a" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="8" markerHeight="8" \
orient="auto-start-reverse"><path class="tip" d="M0 0 8 4 0 8z"/></marker></defs>'
LIFE = [  # of a page: state, what is done, where; four to the right, four back
    ("Reserved", "its address, PROT_NONE", "at the start: memseg.py"),
    ("Opened", "its file is made and locked", "PREFIXmap_N: open, flock"),
    ("Mapped", "the file at its address", "mmap; the pool counts it as reserved"),
    ("Populated", "allocated and zeroed", "madvise(MADV_POPULATE_WRITE)"),
    ("Checked", "IOVA by pagemap, its node", "pread, move_pages"),
    ("Recorded", "a memseg and a bit of the mask", "secondaries map the page now"),
    ("In use", "part of a heap element", "malloc, memzone: heap.py"),
    ("Freed", "unmapped, record cleared", "file removed if no process locks it"),
]


def svg(width, height, title, body):
    """Return an SVG file for light and dark pages."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
        f"<title>{title}</title><style>{STYLE}</style>{TIP}\n" + "\n".join(body) + "\n</svg>\n"
    )


def box(x, y, w, h, lines, kind="box"):
    """Yield a box with lines of (class, text) in its middle."""
    yield f'<rect class="{kind}" x="{x}" y="{y}" width="{w}" height="{h}" rx="6"/>'
    top = y + (h - 18 * len(lines)) / 2 + 13
    for n, (style, text) in enumerate(lines):
        text = text.replace("&", "&amp;").replace("<", "&lt;")
        yield f'<text class="{style} c" x="{x + w / 2:g}" y="{top + 18 * n:g}">{text}</text>'


def life():
    """Return the picture of a page's life: a ring of eight states and the way back on a failure."""
    w, h, gap, top = 228, 76, 34, 16
    low = top + h + 70
    body = []
    for n, (state, done, where) in enumerate(LIFE):
        x = (n if n < 4 else 7 - n) * (w + gap) + 8
        y = top if n < 4 else low
        lines = [("h", f"{n + 1}. {state}"), ("", done), ("s", where)]
        body += box(x, y, w, h, lines, "on" if state in ("Recorded", "In use") else "box")
        if n in (0, 1, 2):
            body.append(f'<path class="arrow" d="M{x + w} {y + h / 2:g}h{gap}"/>')
        elif n in (4, 5, 6):
            body.append(f'<path class="arrow" d="M{x} {y + h / 2:g}h{-gap}"/>')
        else:
            to = 70 if n == 3 else -70
            body.append(f'<path class="arrow" d="M{x + w / 2:g} {y + (h if n == 3 else 0)}v{to}"/>')
    first, mid = 8 + w * 0.8, top + h + 35
    for column in (1, 2, 3):
        x = column * (w + gap) + 8 + w * 0.2
        body.append(
            f'<path class="arrow back" style="marker-end:none" d="M{x:g} {top + h}V{mid}"/>'
        )
    x = 3 * (w + gap) + 8 + w * 0.35
    body.append(f'<path class="arrow back" style="marker-end:none" d="M{x:g} {low}V{mid}"/>')
    body.append(f'<path class="arrow back" d="M{x:g} {mid}H{first:g}V{top + h}"/>')
    text = "a failure undoes every step"
    body.append(f'<text class="s c" x="{1.7 * (w + gap) + 8:g}" y="{mid - 6}">{text}</text>')
    return svg(4 * w + 3 * gap + 16, low + h + 16, "The life of a page", body)


def contract(id):
    """Return a contract's layers as import-linter holds them: from top to bottom, each a list."""
    tool = tomllib.loads((HERE.parent / "pyproject.toml").read_text())["tool"]["importlinter"]
    found = next(c for c in tool["contracts"] if c["id"] == id)
    return [
        [m.strip(" ()") for m in layer.replace(":", "|").split("|")] for layer in found["layers"]
    ]


def layers(id):
    """Return the picture of the layers: a module imports only modules of rows below its own."""
    rows, body, y = contract(id), [], 10
    for modules in rows:
        lines = [modules[i : i + 7] for i in range(0, len(modules), 7)]
        for n, line in enumerate(lines):
            left = 510 - 140 * len(line) / 2
            for i, m in enumerate(line):
                body += box(left + 140 * i + 4, y + 32 * n, 132, 27, [("m", m)], "on")
        y += 32 * len(lines) - 3
        if modules is not rows[-1]:
            body.append(f'<path class="arrow" d="M510 {y}v15"/>')
            y += 18
    return svg(1020, y + 10, f"Layers of {id}/: imports go down", body)


def picture(mode):
    """Return the map of Debian's 22.11 in that mode."""
    argv = [sys.executable, "-P", "-m", "pyeal", "map", "--svg", "-"]
    argv.append(FIXTURES / f"recordings/22.11-{mode}.zip")
    return subprocess.run(argv, check=True, capture_output=True, text=True, cwd="/").stdout


def members(struct):
    """Return name -> (offset, size, type), with the members of unnamed structures."""
    found = {}
    for m in struct.get("members", ()):
        if m["name"]:
            dims = "".join(f"[{n}]" for n in m.get("dims", ()))
            found[m["name"]] = m["offset"], m["size"], m["type"] + dims
        else:
            for name, (offset, *rest) in members(m).items():
                found[name] = m["offset"] + offset, *rest
    return found


def layouts():
    """Yield the lines of layouts.md: sizes, and members with their offset in each release."""
    releases = decode.layouts()
    yield "# Layouts of all releases\n"
    yield "Offsets and sizes in bytes on x86-64 Linux, read from debug information; the data is"
    yield "`fixtures/abi/layouts.json`. If all releases agree, there is one column. Each cell is"
    yield "`offset (size)`. `pyeal diff 22.11 24.11` compares two releases.\n"
    yield "| structure | " + " | ".join(releases) + " | where |"
    yield "|---|" + "---|" * (len(releases) + 1)
    for name in SHARED:
        of = [r["structs"].get(name) for r in releases.values()]
        where = next(s["shared"] for s in of if s)
        sizes = " | ".join(str(s["size"]) if s else "-" for s in of)
        yield f"| [`{name}`](#{name}) | {sizes} | {where} |"
    yield from builds_moved()
    for name in SHARED:
        of = [members(r["structs"].get(name, {})) for r in releases.values()]
        same = all(m == of[0] for m in of)
        heads = ["all"] if same else list(releases)
        of = of[:1] if same else of
        yield f"\n## `{name}` {{#{name}}}\n"
        yield "| member | type | " + " | ".join(heads) + " |"
        yield "|---|---|" + "---|" * len(heads)
        for m in dict.fromkeys(k for one in of for k in one):
            kind = next(one[m][2] for one in of if m in one).replace("|", "\\|")
            cells = " | ".join(f"{one[m][0]} ({one[m][1]})" if m in one else "-" for one in of)
            yield f"| `{m}` | `{kind}` | {cells} |"


LINES = """
## What cache lines of 128 bytes move {#builds}

A build decides the length of a cache line: 64 bytes on x86-64, riscv64 and loongarch64; 128 on
ppc64le and, as distributions build it, on arm64; either for an SoC. The version word is the same.
The size of `config` tells the length, and in memory the place of the first heap's name. These
fields differ, in each release by the same offsets; everything before `malloc_heaps` is equal.
`pyeal diff 22.11 22.11:aarch64` compares the two builds.

| | 64-byte lines | 128-byte lines |
|---|---|---|"""
BUILDS = """
How each architecture was tried:

- x86-64: real machines and virtual ones; four releases of Debian's librte_eal, and upstream builds.
- arm64 with lines of 128 bytes: emulated machines with Debian's kernels of 4 and 16 kB pages, pyeal
  beside librte_eal 20.11, 22.11, 24.11 and 25.11; librte_eal by user-mode emulation; recordings.
- riscv64 and ppc64le: rows of file formats on Debian's librte_eal 24.11 and 22.11, by user-mode
  emulation (5 and 6 pass, 2 want a machine; CFG-017 of riscv64 failed for its two nodes, and was
  not run again since that was mended); a recording of riscv64; debug information.
- arm64 with lines of 64 bytes: debug information of a BlueField build.
- loongarch64: Debian's librte_eal 25.11 with `--no-huge`, by hand, with QEMU 10 (7.2 fails): the
  size and address of `config`, heaps, lists and the clock; pyeal's tools read it. There is no debug
  information of it in `fixtures/abi`: its row in the table below follows from its limits.

Not tried: real hardware other than x86-64, kernels with pages of 64 kB, big-endian machines.

A build also decides how many nodes and page sizes `hugepage_info` has, how many lcores EAL has, and
at which address memory begins (`pyeal/builds.py`):

| build | cache line | nodes | lcores | page sizes | `config` | `hugepage_info` | base address |
|---|---|---|---|---|---|---|---|"""


def builds_moved():
    """Yield the lines of layouts.md about other builds than x86-64."""
    a, b = (decode.release("22.11", build) for build in ("x86_64", "aarch64"))
    of_a, of_b = (members(d.structs["rte_mem_config"]) for d in (a, b))
    yield LINES
    for name in "rte_mem_config", "malloc_heap":
        yield f"| size of `{name}` | {a.sizeof(name)} | {b.sizeof(name)} |"
    for m in of_a:
        if of_a[m][:2] != of_b[m][:2]:
            cells = " | ".join(f"{of[m][0]} ({of[m][1]})" for of in (of_a, of_b))
            yield f"| `rte_mem_config.{m}` | {cells} |"
    yield BUILDS
    for x in builds.BUILDS.values():
        info = x.hugepage_sizes * (4108 + 4 * x.nodes + 7 & -8)
        sizes = f"{x.hugepage_sizes} | {x.abi.config_size} | {info}"
        yield f"| {x.name} | {x.line} | {x.nodes} | {x.lcores} | {sizes} | {x.base:#x} |"


LOGS = """# Logs explained

{posted} logs that users posted and {made} that were made for other kinds of failure, with what
`pyeal explain` says of each. EAL's own lines are kept, everything else is reworded and shortened.
The logs are in `fixtures/explain`, with the expected answer, which was decided from the thread and
from DPDK's source. `docs/make.py` writes this table from what explain answers now; a unit test
compares the two for each log, also in 16 forms in which a log may be copied, and wrapped.

*Cause*: the log shows it. *Possible*: this machine or a debug log decides. *Harmless*: the start
continued after the line. The numbers are those of [the problems](tools.md#explain).

A first run answered 45 of the 80 logs of `posted.toml` right, 30 wrong and 5 not at all; the code
then learned what was missing. The logs of `unseen.toml` were chosen after that, and their answers
written down before explain saw them. Of the first ten, 6 were right; one was *possible* instead of
*cause*, two named only the harmless line, and one was not answered. Of the second ten, 6 were
right; three said "a device or its driver" where IOVA was meant, and one was not answered. Of 24
later ones, 17 were right as written down. One more was right in other words than expected (u35),
and one expectation was corrected together with the code (u43). Of the wrong ones two had
the right problem and a wrong fix or certainty, one named a
warning and one a shortage that was none, one left out the application's complaint, and one was not
answered. All are right now, which says nothing about the next ones.

A log may have any length: explain keeps a few thousand lines. After 8,000 lines that differ from
all others it looks at those around an end or a beginning of EAL, and at the last 2,000.

| log | line that shows it | verdict | no. | answer |
|---|---|---|---|---|"""


def logs():
    """Yield the lines of explain.md: each log of fixtures/explain with explain's first answer."""
    files = [tomllib.loads(f.read_text("utf-8"))["log"] for f in sorted(EXPLAIN.glob("*.toml"))]
    cases = sorted((c for f in files for c in f), key=lambda c: (c["name"][0] == "f", c["name"]))
    made = sum(c["source"].startswith("made") for c in cases)
    yield LOGS.format(posted=len(cases) - made, made=made)
    for case in cases:
        p, line, certain = read(case["text"].splitlines())[0]
        verdict = "harmless" if p.harmless else "cause" if certain else "possible"
        where = case["source"].removeprefix("https://github.com/")
        if where != case["source"]:
            where = f"[{where.replace('/issues/', '#').replace('/pull/', '#')}]({case['source']})"
        line = line if len(line) < 70 else line[:67] + "..."
        line = line.replace("|", " ").replace("`", "'")
        title = p.title.removeprefix("harmless: ")
        number = "" if p.id is None else p.id
        yield f"| {where} | `{line}` | {verdict} | {number} | {title} |"


SHOWN = {  # what a page shows of a command that reads a fixture; the others have their help alone
    "inspect": [
        "inspect RECORDED/24.11-dynmem.zip",
        "inspect RECORDED/24.11-dynmem.zip /eal/heap_list",
    ],
    "map": ["map RECORDED/24.11-dynmem.zip"],
    "dump": ["dump RECORDED/24.11-dynmem.zip", "dump RECORDED/24.11-dynmem.zip:run/hugepage_info"],
    "diff": ["diff 22.11 24.11", "diff 22.11 22.11:aarch64"],
    "ci": ["ci github --pages 2M:64 -- ctest", "ci gitlab --pages 2M:64 -- ctest"],
}
PLAIN = {"COLUMNS": "80", "NO_COLOR": "1", "TERM": "dumb", "LC_ALL": "C.UTF-8"}


def said(line):
    """Return what `pyeal LINE` prints at 80 columns. Its exit code is 0, or 1 for a difference."""
    argv = [sys.executable, "-P", "-m", "pyeal", *line.split()]
    done = subprocess.run(
        argv, capture_output=True, text=True, cwd=FIXTURES.parent, env=os.environ | PLAIN
    )
    if done.returncode not in (0, 1) or done.stderr:
        raise RuntimeError(f"pyeal {line}: {done.returncode}\n{done.stderr}")
    return "\n".join(x.rstrip() for x in done.stdout.rstrip().splitlines())


def tool(name, summary):
    """Yield the lines of a command's page: what it answers, real output, its help."""
    yield f"# {name}\n\n<!-- made by docs/make.py -->\n\n{summary[0].upper()}{summary[1:]}."
    for line in SHOWN.get(name, ()):
        line = line.replace("RECORDED", "fixtures/recordings")
        ends = " || test $? = 1" if name == "diff" else ""
        yield f"\n```sh\npyeal {line}{ends}\n```\n\n```text\n{said(line)}\n```"
    yield f"\n## Options\n\n```text\n{said(f'{name} --help')}\n```"


def pages():
    """Yield (path below docs/, text) of each file that is made here."""
    for name, summary in commands.summaries():
        yield f"tools/{name}.md", "\n".join(tool(name, summary)) + "\n"
    for mode in ("dynmem", "single-file", "legacy", "no-huge"):
        yield f"pictures/{mode}.svg", picture(mode)
    yield "pictures/page.svg", life()
    yield "pictures/layers.svg", layers("pyeal")
    yield "pictures/suite-layers.svg", layers("conformance")
    yield "layouts.md", "\n".join(layouts()) + "\n"
    yield "explain.md", "\n".join(logs()) + "\n"


if __name__ == "__main__":
    for path, text in pages():
        (HERE / path).parent.mkdir(exist_ok=True)
        (HERE / path).write_text(text)
        print(f"docs/{path}")
