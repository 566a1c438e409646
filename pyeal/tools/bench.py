"""`pyeal bench`: pyeal, librte_eal and the kernel's limit side by side, kept and compared."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

from pyeal import suite
from pyeal.tools import BOLD, CYAN, DIM, GREEN, RED, YELLOW, columns, document, ink
from pyeal.tools.bench_runs import Broken, costs, find, kept, load, number

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from typing import Any

    Dict = dict[str, Any]

TEXT = """Time an EAL beside another one and beside the kernel's limit: memory phase, whole init,
attach, restart, clean-up; each in a process of its own, in turn, in private mounts. And check the
gates: system calls and instructions per page, waits, CPU time. Needs root, free 2M pages and gcc.
Exit code: 0; 1 a gate fails, or --against finds it slower; 2 it cannot run or wrong arguments."""
EXAMPLES = """  pyeal bench                              the table; the run is kept in .benchmarks
  pyeal bench --pages 256 --rounds 3       quickly
  pyeal bench --only dynmem,attach-dynmem  some works
  pyeal bench --against main~1             with that revision, in turn, in the same run
  pyeal bench --against 0007               with a run that was kept; FILE.json, too
  pyeal bench --target librte_eal:build/lib/librte_eal.so.23   an EAL of your own
  pyeal bench --show                       the last run again; --page FILE draws all of them"""

COLOURS = {"holds": GREEN, "misses": RED, "not shown": DIM}
FAILED, BROKEN = 1, 2
GAUGE = 24


PYTEST_USAGE = 4  # pytest's exit code for wrong arguments


def arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("--target", default="pyeal", help="pyeal, or librte_eal:PATH (pyeal)")
    p.add_argument(
        "--reference",
        default="librte_eal",
        help="librte_eal[:RELEASE or PATH] (the installed one); pyeal is measured as its release",
    )
    p.add_argument("--pages", default="256,1024,3072", help="numbers of 2M pages, as far as free")
    p.add_argument("--rounds", type=int, default=7, help="of which the median counts (7)")
    p.add_argument("--only", metavar="WORK,...", help="dynmem, single-file, attach-legacy, ...")
    p.add_argument("--no-gates", action="store_true", help="without counts of calls, instructions")
    p.add_argument("--against", metavar="REV|FILE", help="compare: a git revision, or a kept run")
    p.add_argument(
        "--fail-over", type=float, default=10, metavar="PERCENT", help="more CPU than there (10)"
    )
    p.add_argument("--host", metavar="NAME", help="what this machine is called in the history")
    p.add_argument("--storage", default=".benchmarks", metavar="DIR", help="where runs are kept")
    p.add_argument("--page", metavar="FILE", help="draw: history, ratio, stages; x.svg: stages")
    p.add_argument("--show", action="store_true", help="measure nothing: the last kept run")
    p.add_argument("--json", action="store_true", help="as JSON, schema pyeal.bench/1")


def run(args: argparse.Namespace) -> int:
    import tempfile

    try:
        if args.show:
            files = kept(args.storage)
            if not files:
                raise Broken(f"no run is kept in {args.storage}")
            data = load(files[-1])
        else:
            with tempfile.TemporaryDirectory(prefix="pyeal-bench-") as tmp:
                data = _measure(args, tmp)
        compared = _compare(data, args)
        if args.page:
            from pyeal.tools import bench_page

            runs = [load(f) for f in kept(args.storage)] or [data]
            page = bench_page.picture(data) if args.page.endswith(".svg") else bench_page.draw(runs)
            with open(args.page, "w", encoding="utf-8") as f:
                f.write(page)
    except Broken as e:
        print(f"pyeal bench: {e}", file=sys.stderr)
        return BROKEN
    facts = {
        "machine": {k: data["machine_info"].get(k) for k in FACTS},
        "rows": data["rows"],
        "gates": data.get("gates", []),
        "compared": compared,
    }
    if args.json:
        print(document("bench", facts))
    else:
        print(text(facts, min(columns(), 120)))
    slow = [c for c in compared if c["verdict"] == "misses"]
    return FAILED if slow or any(g["verdict"] == "misses" for g in facts["gates"]) else 0


# --- measuring

FACTS = "target", "reference", "host", "kernel", "cpus", "numa_nodes", "hugepages"


def _complete() -> None:
    """Raise Broken if the suite or a package that it needs for benchmarks is not installed."""
    from importlib.util import find_spec

    if suite.folder() is None:
        raise Broken("the suite is not part of this installation")
    for name in ("pytest", "pytest_benchmark"):
        if find_spec(name) is None:
            raise Broken(
                f"no module {name}: in a checkout of pyeal, pip install '.[conformance,bench]'"
            )


def _measure(args: argparse.Namespace, tmp: str) -> Dict:
    _complete()
    out = f"{tmp}/run.json"
    gates = [] if args.no_gates or args.only else _gates(args, tmp)
    with open(f"{tmp}/gates.json", "w", encoding="utf-8") as f:
        json.dump(gates, f)
    more = [
        f"--target={args.target}",
        f"--reference={args.reference}",
        f"--pages={args.pages}",
        f"--rounds={args.rounds}",
        f"--gates={tmp}/gates.json",
        f"--basetemp={tmp}/timing",
    ]
    if args.only:
        more.append(f"--only={args.only}")
    if args.host:
        more.append(f"--host={args.host}")
    if args.against and not (os.path.exists(args.against) or args.against.isdigit()):
        more.append(f"--base={_revision(args.against, tmp)}")
    storage = os.path.abspath(args.storage)
    more += [
        f"--benchmark-json={out}",
        f"--benchmark-storage=file://{storage}",
        "--benchmark-autosave",
        "--benchmark-save-data",
    ]
    code, said = _pytest("campaigns/timing", more)
    skipped = re.findall(r"^SKIPPED \[\d+\] [^:]+:\d+: (.*)$", said, re.M)
    if skipped and code == 0 and not (os.path.exists(out) and load(out)["benchmarks"]):
        raise Broken(f"nothing can be measured here: {'; '.join(dict.fromkeys(skipped))}")
    if code == PYTEST_USAGE and (wrong := re.search(r"^ERROR: (.*)", said, re.M)):
        raise Broken(wrong[1])
    if not os.path.exists(out):
        raise Broken(f"pytest ends with {code}:\n{said}")
    return load(out)


def _gates(args: argparse.Namespace, tmp: str) -> list[Dict]:
    """The gates' tests, and what each noted: value and bound."""
    log = f"{tmp}/gates.jsonl"
    more = [f"--target={args.target}", f"--report-log={log}", f"--basetemp={tmp}/gates"]
    code, said = _pytest("units/test_counts.py", more)
    if code not in (0, 1):
        raise Broken(f"pytest ends with {code}:\n{said}")
    found = []
    with open(log, encoding="utf-8") as f:
        for line in f:
            r = json.loads(line)
            test, _, work = r.get("nodeid", "").rpartition("::")[2].rstrip("]").partition("[")
            if r.get("$report_type") != "TestReport" or not test:
                continue
            if r["when"] == "call" or (r["when"] == "setup" and r["outcome"] != "passed"):
                found.append(_gate(r, test, work))
    return found


def _gate(r: Dict, test: str, work: str) -> Dict:
    words = {"passed": "holds", "failed": "misses", "skipped": "not shown"}
    why = r["longrepr"][2] if r["outcome"] == "skipped" else ""
    name = test.removeprefix("test_").replace("_", " ")
    note = dict(r["user_properties"]).get("gate", {})
    return (
        {"gate": name, "work": work, "value": None, "bound": None}
        | {k: v for k, v in note.items() if k in ("value", "bound")}
        | {"verdict": words[r["outcome"]], "note": why.removeprefix("Skipped: ")}
    )


def _pytest(part: str, more: list[str]) -> tuple[int, str]:
    """(exit code, the end of what it said); on a terminal one line tells how far it is."""
    argv = suite.command("pytest", part, "-v", *more)
    # without the settings of a pytest around this one
    env = {k: v for k, v in suite.environment().items() if not k.startswith("PYTEST_")}
    lines: list[str] = []
    tty = sys.stderr.isatty()
    with subprocess.Popen(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=env,
        errors="replace",
        stdin=subprocess.DEVNULL,
    ) as p:
        assert p.stdout
        try:
            for line in p.stdout:
                lines.append(line)
                if tty and "::" in line and line.rstrip().endswith("]"):
                    name, _, done = line.rpartition("::")[2].partition("] ")
                    sys.stderr.write(f"\r\x1b[2K{done.split()[-1]:>6} {name.partition('[')[2]}")
                    sys.stderr.flush()
        except KeyboardInterrupt:
            p.wait()
            raise
    if tty:
        sys.stderr.write("\r\x1b[2K")
    return p.returncode, "".join(lines[-25:])


def _revision(rev: str, tmp: str) -> str:
    """That revision's package, unpacked."""
    tar = subprocess.run(["git", "archive", rev, "pyeal"], capture_output=True)
    if tar.returncode:
        why = tar.stderr.decode().strip()
        raise Broken(f"--against {rev}: neither a file nor a revision of this repository: {why}")
    subprocess.run(["tar", "-x", "-C", tmp], input=tar.stdout, check=True)
    return f"{tmp}/pyeal"


# --- comparing


def _compare(data: Dict, args: argparse.Namespace) -> list[Dict]:
    """Now over then. CPU time decides; of the least rounds, to which others' load added least.

    A base of the same run is compared directly, a kept run by the ratio to its own reference.
    """
    if not args.against or args.show:
        return []
    then, now = {}, costs(data)
    if os.path.exists(args.against) or args.against.isdigit():
        then = costs(load(find(args.against, args.storage)))
    limit, out = 1 + args.fail_over / 100, []
    for key, arms in now.items():
        if then:
            old = then.get(key, {})
            if not {"target", "reference"} <= set(old) & set(arms):
                continue
            value = min(arms["target"]) / min(arms["reference"])
            value /= min(old["target"]) / min(old["reference"])
        elif "base" in arms:
            value = min(arms["target"]) / min(arms["base"])
        else:
            continue
        work, pages, measure = key
        word = "holds" if value <= limit else "misses" if measure.endswith("cpu") else "not shown"
        out.append(
            {
                "work": work,
                "pages": pages,
                "measure": measure,
                "value": value,
                "bound": limit,
                "verdict": word,
            }
        )
    return out


# --- looks


def _gauge(row: Dict) -> str:
    """Up to the value; the target is the mark at two thirds."""
    if "value" not in row:
        return " " * GAUGE
    mark = GAUGE * 2 // 3
    full = max(0, min(GAUGE, round(row["value"] / row["target"] * mark)))
    cells = ["━" if i < full else "─" for i in range(GAUGE)]
    look = COLOURS[row["verdict"]]
    if row["verdict"] == "not shown":
        look = YELLOW
    left = ink("".join(cells[: min(full, mark)]), look) + ink("".join(cells[full:mark]), DIM)
    right = ink("".join(cells[mark:full]), look) + ink("".join(cells[max(full, mark) :]), DIM)
    return f"{left}{ink('┃', BOLD)}{right}"


def text(facts: Dict, width: int) -> str:
    """What a person sees."""
    return "\n".join(_lines(facts, width))


def _lines(facts: Dict, width: int) -> Iterator[str]:
    m = facts["machine"]
    pools = ", ".join(f"{n} × {size}" for size, n in (m["hugepages"] or {}).items()) or "no pages"
    yield ink(f"{m['target']} beside {m['reference']}", BOLD)
    yield ink(
        f"kernel {m['kernel']}, {m['cpus']} CPUs, {m['numa_nodes']} node(s), {pools}; "
        "ratio of medians, spread of the middle half of rounds; "
        "floor: the kernel's limit, on a quiet machine and here",
        DIM,
    )
    yield ""
    w = max([len(r["work"]) for r in facts["rows"]] + [4])
    wide = width >= w + 69 + GAUGE
    head = f"{'work':{w}}  {'pages':>5}  {'measured':>9}  {'spread':^15}  {'target':>8}"
    yield ink(f"{head}  {'floor':>5}  {'here':>5}", DIM)
    for r in facts["rows"]:
        unit = r["unit"]
        spread = f"{number(r['low'], '×')} – {number(r['high'], '×')}" if "low" in r else ""
        floor, here = (f"{r[k]:.2f}" if r.get(k) else "" for k in ("floor", "here"))
        value = ink(f"{number(r.get('value'), unit):>9}", BOLD)
        verdict = ink(r["verdict"], COLOURS[r["verdict"]])
        yield (
            f"{r['work']:{w}}  {r['pages'] or '':>5}  {value}  {spread:^15}  "
            f"{'≤ ' + number(r['target'], unit):>8}  {floor:>5}  {here:>5}  "
            + (f"{_gauge(r)}  " if wide else "")
            + verdict
            + (ink(f"  {r['note']}", DIM) if r["note"] else "")
        ).rstrip()
    if facts["gates"]:
        yield from ("", ink(f"{'gate':{w}}  {'':5}  {'measured':>9}  {'':15}  {'at most':>8}", DIM))
    for g in facts["gates"]:
        name = f"{g['gate']}{', ' if g['work'] else ''}{g['work']}"
        value, bound = ("" if g[k] is None else f"{g[k]:,.4g}" for k in ("value", "bound"))
        if g["value"] is not None and g["value"] >= 1000:
            value, bound = f"{g['value']:,.0f}", f"{g['bound']:,.0f}"
        yield (
            f"{name:{w}}  {'':5}  {ink(f'{value:>9}', BOLD)}  {'':15}  {bound:>8}                "
            + ink(g["verdict"], COLOURS[g["verdict"]])
            + (ink(f"  {g['note']}", DIM) if g["note"] else "")
        ).rstrip()
    if facts["compared"]:
        yield from ("", ink(f"{'now over then, the least rounds':{w}}  pages   measured", DIM))
    for c in facts["compared"]:
        look = {"holds": GREEN, "misses": RED}.get(c["verdict"], CYAN)
        name = f"{c['work']}, {c['measure']}"
        yield f"{name:{w}}  {c['pages'] or '':>5}  " + ink(f"{c['value']:>9.2f}", look)
