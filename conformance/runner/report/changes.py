"""Two runs: exactly the requirements that changed, and why, as far as the runs say.

    pyeal conform diff RUN RUN      run.jsonl, or a folder with one

Targets of one name are compared; if each run has one target alone, these two. A reason is what the
runs themselves differ in: release, revision of the source, kernel, CPU, page pools, user, suite.
0 nothing changed, 1 rows changed, 2 the runs cannot be compared.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path

from conformance.runner.report import merge, pages, results
from conformance.runner.report.results import BadMerge, verdict

SCHEMA = "pyeal.conform-diff/1"
ALIKE, CHANGED, COULD_NOT = 0, 1, 2
WHY = {  # a test's reason -> which fact of the runs it is about
    r"not in this release": ("release",),
    r"wanted \d+ free \d+[KMG] pages": ("pages",),
    r"wanted root": ("user",),
    r"wanted .*(kernel|Linux)": ("kernel",),
    r"wanted .*node": ("nodes",),
    r".* has no verb": ("release", "revision", "target"),
}


def facts(run):
    """Return what one run states that can be the reason of a change."""
    f, source = run.host, run.header.get("source", {})
    return {
        "target": merge.plain(run.target).partition(":")[0],
        "release": run.release,
        "revision": source.get("revision", ""),
        "compiler": source.get("compiler", ""),
        "host": f.get("name", ""),
        "kernel": f.get("kernel", ""),
        "machine": f.get("machine", ""),
        "cpu": f.get("cpu", ""),
        "nodes": f.get("nodes", 1),
        "pages": pages.pools(f),
        "user": "root" if f.get("uid") == 0 else f"uid {f.get('uid')}",
        "suite": run.header.get("revision", ""),
    }


def between(a, b):
    """Return {facts: {name: [before, after]}, changed: [...], alike: n, only: [ids, ids]}."""
    was, now = facts(a), facts(b)
    differ = {k: [was[k], now[k]] for k in was if was[k] != now[k]}
    before, after = a.requirements(), b.requirements()
    changed = [
        row(id, before[id], after[id], differ)
        for id in before
        if id in after and verdict(before[id]) != verdict(after[id])
    ]
    both = [id for id in before if id in after]
    return {
        "before": {"target": a.name, "started": a.header.get("started", "")},
        "after": {"target": b.name, "started": b.header.get("started", "")},
        "facts": differ,
        "changed": changed,
        "alike": len(both) - len(changed),
        "only": [[i for i in before if i not in after], [i for i in after if i not in before]],
    }


def row(id, before, after, differ):
    words = [verdict(before), verdict(after)]
    said = [decisive(tests, word) for tests, word in zip((before, after), words, strict=True)]
    tests = [
        [(t.nodeid.partition("[")[2].rstrip("]"), t.verdict) for t in tests]
        for tests in (before, after)
    ]
    about = [k for reason in said for k in about_facts(reason) if k in differ]
    statements = {t.statement for t in (*before, *after)} - {""}
    if not about and len(statements) > 1:
        about = ["statement"]
    return {
        "id": id,
        "statement": (after[0].statement or before[0].statement).strip(),
        "verdicts": words,
        "reasons": said,
        "because": list(dict.fromkeys(about)),
        "may_be": [] if about else [k for k in differ if k != "host"],
        "tests": tests,
        "disturbed": any(t.disturbed for t in (*before, *after)),
    }


def decisive(tests, word):
    return next((t.reason for t in tests if t.verdict == word and t.reason), "")


def about_facts(reason):
    return next((about for p, about in WHY.items() if re.match(p, reason)), ())


def compared(first, second):
    """Return the pairs of targets of two files. Raises BadMerge if there is none."""
    befores, afters = ({r.target: r for r in read(p)} for p in (first, second))
    if len(befores) == len(afters) == 1:
        return [between(*befores.values(), *afters.values())]
    plain = {merge.plain(name): r for name, r in afters.items()}
    pairs = [
        (r, found)
        for name, r in befores.items()
        if (found := afters.get(name) or plain.get(merge.plain(name)))
    ]
    if not pairs:
        names = " and ".join(", ".join(found) or "no target" for found in (befores, afters))
        raise BadMerge(f"no target is in both runs: {names}")
    return [between(a, b) for a, b in pairs]


def read(path):
    found = list(results.read(path / "run.jsonl" if path.is_dir() else path))
    if not found:
        raise BadMerge(f"{path}: no run in it")
    for run in found:
        for t in run.tests.values():
            t.settle()
        if why := merge.cut_short(run):
            raise BadMerge(f"{path}: {run.name} ended early: {why}; run it again")
    return found


def text(d):
    """Lines on one pair of targets."""
    a, b = d["before"], d["after"]
    yield f"{a['target']} ({a['started'][:16]}) -> {b['target']} ({b['started'][:16]})"
    for k, (was, now) in d["facts"].items():
        yield f"  {k}: {was or 'not stated'} -> {now or 'not stated'}"
    for x in d["changed"]:
        was, now = (results.LABELS.get(w, w) for w in x["verdicts"])
        yield f"\n{x['id']}: {was} -> {now}"
        yield f"  {x['statement']}"
        for word, reason in zip((was, now), x["reasons"], strict=True):
            if reason:
                yield f"  {word}: {reason[:200]}"
        if x["because"]:
            yield f"  because of: {', '.join(x['because'])}"
        elif x["disturbed"]:
            yield "  other users of hugepages disturbed it"
        elif x["may_be"]:
            yield f"  may be because of: {', '.join(x['may_be'])}"
        else:
            yield "  the runs state nothing that differs"
    for ids, which in zip(d["only"], ("first", "second"), strict=True):
        if ids:
            yield f"\nonly in the {which}: {', '.join(ids)}"
    yield f"\n{len(d['changed'])} changed, {d['alike']} alike"


def main(argv):
    p = argparse.ArgumentParser(
        prog="pyeal conform diff",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("runs", nargs=2, type=Path, metavar="RUN")
    p.add_argument("--json", action="store_true", help=f"schema {SCHEMA}")
    args = p.parse_args(argv)
    try:
        found = compared(*args.runs)
    except (BadMerge, OSError) as e:
        print(f"diff: {e}", file=sys.stderr)
        return COULD_NOT
    if args.json:
        print(json.dumps({"schema": SCHEMA, "targets": found}, indent=1))
    else:
        print("\n\n".join("\n".join(text(d)) for d in found))
    return CHANGED if any(d["changed"] or any(d["only"]) for d in found) else ALIKE
