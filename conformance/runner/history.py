"""DPDK's own fixes: does a requirement fail before a fix, and pass with it?

    python -m conformance history [COMMIT...] --source REPO --build COMMAND --library PATH

Builds each fix of fixtures/history/fixes.json and its parent, runs the requirements that the entry
names on both, and keeps the verdicts there. `ci/report history` makes docs/history.md of them.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import sys
from datetime import date
from fnmatch import fnmatchcase

from conformance.harness import catalogue
from conformance.runner import bisect, builds, run, targets
from conformance.runner.git import GitError
from conformance.runner.report import pages
from conformance.runner.report.fixes import DATA, load
from conformance.runner.targets import Broken
from pyeal import loans


def verdicts(entry, cache, args, tmp):
    """Return what changed between the parent of a fix and the fix: {row: [before, after]}, ..."""
    tests = pages.tests()
    ids = [r for r in catalogue.rows() if r in tests and chosen(r, entry["rows"])]
    facts, sides = run.host_facts(platform.node()), []
    for revision in (f"{entry['commit']}^", entry["commit"]):
        target = targets.of_revision(cache, args.source, revision, args)
        found = bisect.entries(bisect.once(target, ids, facts, tmp))
        sides.append({id: e["verdict"] for id, e in found.items()})
    before, after = sides
    return {
        "ran": date.today().isoformat(),
        "release": target.release,
        "verdicts": {i: [before[i], after[i]] for i in before if before[i] != after.get(i)},
        "failed": sorted(i for i in after if after[i] == "failed"),  # on the fix
        "judged": sum(word != "skipped" for word in after.values()),
    }


def chosen(row, patterns):
    return any(fnmatchcase(row, p) for p in patterns)


def write(data):
    new = DATA.with_suffix(".new")
    new.write_text(json.dumps(data, indent=1, ensure_ascii=False) + "\n")
    new.rename(DATA)


def main(argv):
    p = argparse.ArgumentParser(
        prog="python -m conformance history",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("commits", nargs="*", metavar="COMMIT", help="default: those not yet run")
    builds.add_options(p, source="one")
    p.add_argument("--reserve", metavar="2M:512,1G:1", help="as for pyeal conform")
    args = p.parse_args(argv)
    if not (args.build and args.library):
        p.error("expected --build COMMAND and --library PATH, which say how a revision is built")
    data, failed = load(), 0
    todo = [e for e in data["fixes"] if asked(e, args.commits) and e["rows"]]
    tmp = run.working_folder(run.memory())
    try:
        cache = builds.Cache(args.cache, bisect.say)
        if args.reserve:
            loans.lease(loans.parse(args.reserve), say=bisect.say)
        for entry in todo:
            bisect.say(f"{entry['commit']} {entry['subject']}")
            try:
                entry["result"] = verdicts(entry, cache, args, tmp)
            except (Broken, builds.BuildFailed) as e:
                bisect.say(f"  could not: {e}")
                failed += 1
                continue
            for id, (was, now) in entry["result"]["verdicts"].items():
                print(f"  {id}: {was} -> {now}", flush=True)
            write(data)
    except (GitError, loans.Refused, *run.FAULTS) as e:
        print(f"history: {e}", file=sys.stderr)
        return run.BROKEN
    finally:
        loans.give_back(say=bisect.say)
        shutil.rmtree(tmp, ignore_errors=True)
    return run.BROKEN if failed else run.OK


def asked(entry, commits):
    """Return whether a fix is to run: a named fix, or any without a result if none is named."""
    if commits:
        return any(entry["commit"].startswith(c[: len(entry["commit"])]) for c in commits)
    return "result" not in entry and "why" not in entry
