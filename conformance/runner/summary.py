"""Sum up a run of ci/test: single checks, JUnit files of pytest, the suite's tests by verdict."""

import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

from conformance.runner.report import results

PYTESTS = "units", "meta-tests", "tools", "suite"  # counted test by test


def main(argv):
    """FOLDER RUN.jsonl STEPS: print "N passed, N failed, N skipped" last; return the exit code.

    FOLDER holds `checks`, a line "passed NAME" (or failed, skipped, broken) for each step, and
    JUnit files. 1: a step failed; 2: none did, but one could not be judged.
    """
    out, log, steps = Path(argv[0]), Path(argv[1]), argv[2].split()
    n, bad, worst = Counter(), [], 0
    for line in (out / "checks").read_text().splitlines():
        word, _, name = line.partition(" ")
        if word in ("failed", "broken"):
            bad.append(name if word == "failed" else f"{name} (broken)")
            worst = 1 if word == "failed" else worst or 2
        if name not in PYTESTS:
            n["failed" if word == "broken" else word] += 1
    for xml in out.glob("*.xml"):
        for s in ET.parse(xml).getroot().iter("testsuite"):
            failed = int(s.get("failures")) + int(s.get("errors"))
            n["failed"] += failed
            n["skipped"] += int(s.get("skipped"))
            n["passed"] += int(s.get("tests")) - failed - int(s.get("skipped"))
    if not steps or "suite" in steps:
        for run in results.load(log) if log.exists() else []:
            c = run.counts(tests=True)
            n["passed"] += c["passed"] + c["deviating"]  # a deviation is strict: it is as expected
            n["failed"] += c["failed"]
            n["skipped"] += c["skipped"]
    if bad:
        print("failed:", ", ".join(bad))
    n["failed"] = max(n["failed"], len(bad))
    print(f"{n['passed']} passed, {n['failed']} failed, {n['skipped']} skipped")
    return worst
