"""DPDK's own fixes as a page: which the suite sees, which it does not, and why."""

from __future__ import annotations

import json

from conformance import FIXTURES
from conformance.runner.report.pages import cell

DATA = FIXTURES / "history/fixes.json"
LINK = "https://github.com/DPDK/dpdk/commit/"
HEAD = """\
# DPDK's own fixes

<!-- made by ci/report history from fixtures/history/fixes.json -->

Would the suite have caught them? Each fix and its parent are built, and families of requirements
run on both. A fix is *seen* if a requirement fails on the parent and passes on the fix.
[Facts of releases](facts.md) says when a fix came to which release. To run a fix again:

    python -m conformance history COMMIT --source REPO --build COMMAND --library PATH
"""


def load():
    return json.loads(DATA.read_text())


def kind(entry):
    """Return seen, not seen, cannot be seen, not run."""
    if "why" in entry:
        return "cannot be seen"
    if "result" not in entry:
        return "not run"
    pairs = entry["result"]["verdicts"].values()
    return "seen" if ["failed", "passed"] in pairs else "not seen"


def outcome(entry):
    """Return one line on a fix: its rows, or why there is none."""
    if "why" in entry:
        return entry["why"]
    if not (done := entry.get("result")):
        return ""
    changed = done["verdicts"].items()
    said = [f"{id} {was} → {now}" for id, (was, now) in changed]
    named = ", ".join(p.removesuffix("-*") for p in entry["rows"])
    none = [f"{done['judged']} requirements of {named} are alike on both"]
    failed = [f"fails on the fix: {', '.join(done['failed'])}"] if done["failed"] else []
    return "; ".join([*(said or none), *failed])


def markdown(data):
    fixes = data["fixes"]
    counts = dict.fromkeys(("seen", "not seen", "cannot be seen", "not run"), 0)
    for entry in fixes:
        counts[kind(entry)] += 1
    said = ", ".join(f"{n} {k}" for k, n in counts.items())
    out = [HEAD, f"{len(fixes)} fixes between 20.11 and 26.07: {said}.", ""]
    out += ["| commit | date | subject | | requirement: parent → fix |", "|---|---|---|---|---|"]
    for e in fixes:
        link = f"[{e['commit']}]({LINK}{e['commit']})"
        cells = [link, e["date"], cell(e["subject"]), kind(e), cell(outcome(e))]
        out.append(f"| {' | '.join(cells)} |")
    return "\n".join(out) + "\n"
