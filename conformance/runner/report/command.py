"""Reports of many runs, and the pages that need none.

merge RUN.jsonl...       target x host x family: index.html, matrix.md, summary.json, badges/
catalogue [RUN.jsonl...] every requirement with its picture and test, and verdicts of these runs
findings                 the defects of real releases that the suite finds
history                  DPDK's own fixes, and whether the suite sees them
mutations [TABLE.json...] the faults that tests caught, with what other machines saw of them
"""

import argparse
import sys
from pathlib import Path

from conformance.harness import catalogue
from conformance.runner.report import fixes, merge, pages
from conformance.runner.report.results import LABELS, WORDS, BadMerge


def merged(args):
    m = merge.merge(args.files, args.earlier, args.partial)
    folder, hosts = args.o or Path("conform-report"), len(m.facts)
    pages.write(m, folder, catalogue.rows(), catalogue.why_untested())
    counts = {pages.column(m, c)["name"]: m.counts(c) for c in range(len(m.columns))}
    width = max(map(len, counts), default=0)
    for name, n in counts.items():
        print(name.ljust(width), *(f"{n[w]:>5} {LABELS.get(w, w)}" for w in WORDS))
    print(f"\n{hosts} host{'s' * (hosts != 1)}; report: {folder / 'index.html'}")
    return int(any(n["failed"] for n in counts.values()))


def listed(args):
    m = merge.merge(args.files)
    folder = args.o or Path("docs" if not args.files else "conform-report")
    pages.write_catalogue(m, folder, catalogue.rows(), catalogue.why_untested())
    print(f"catalogue: {folder / 'catalogue.html'}, {folder / 'catalogue.md'}")


def found(args):
    to = (args.o or Path("docs")) / "findings.md"
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(pages.findings_markdown(pages.findings()))
    print(f"findings: {to}")


def seen(args):
    to = (args.o or Path("docs")) / "history.md"
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_text(fixes.markdown(fixes.load()))
    print(f"history: {to}")


def caught(args):
    from conformance.campaigns.mutations.sweep import Table

    table = Table(args.o or Path("docs"))
    for file in args.files:
        table.add(file)
    table.write()
    print(f"mutations: {table.folder / 'mutations.md'}")


def main(argv):
    p = argparse.ArgumentParser(
        prog="ci/report",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    sub = p.add_subparsers(required=True, metavar="COMMAND")
    for name, what, files in (
        ("merge", merged, "+"),
        ("catalogue", listed, "*"),
        ("findings", found, ""),
        ("history", seen, ""),
        ("mutations", caught, "*"),
    ):
        c = sub.add_parser(name)
        c.set_defaults(what=what)
        c.add_argument("-o", type=Path, metavar="DIR", help="where to")
        if files:
            c.add_argument("files", nargs=files, type=Path, metavar="RUN.jsonl")
        if name == "merge":
            some = c.add_argument("--partial", action="store_true")
            some.help = "also runs that were asked for fewer ids, as ci/conform NUMA"
            earlier = c.add_argument("--earlier", action="extend", nargs="+", default=[], type=Path)
            earlier.metavar, earlier.help = "RUN.jsonl", "earlier runs: the history of each row"
    args = p.parse_args(argv)
    try:
        return args.what(args)
    except (BadMerge, catalogue.Broken, OSError) as e:
        print(f"report: {e}", file=sys.stderr)
        return 2
