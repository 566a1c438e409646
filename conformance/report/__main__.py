"""python -m conformance.report RUN.jsonl... [-o DIR]: one report out of the runs of many."""

import argparse
import sys
from pathlib import Path

from conformance import catalogue, report, run

p = argparse.ArgumentParser(prog="conformance.report", description=__doc__)
p.add_argument("files", nargs="+", type=Path, metavar="RUN.jsonl")
p.add_argument("-o", type=Path, default=Path("conform-report"), metavar="DIR")
args = p.parse_args()
try:
    runs = report.load(*args.files)
    args.o.mkdir(parents=True, exist_ok=True)
    report.write(runs, args.o, catalogue.rows(), run.why_untested())
except (report.BadMerge, OSError) as e:
    sys.exit(f"report: {e}")
print(run.matrix(runs))
