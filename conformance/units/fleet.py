"""Run files of machines that do not exist, as ci/conform on them would write: for merges.

python conformance/units/fleet.py DIR HOSTS      # of a size to measure with
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

PARAMS = "dynmem", "legacy"


def header(host, target="pyeal", release="22.11.11", **more):
    facts = {
        "name": host,
        "kernel": "6.1.0",
        "machine": "x86_64",
        "cpu": "AMD EPYC",
        "cpus": 64,
        "nodes": 2,
        "pools": {"2M": {"total": 512, "free": 512}, "1G": {"total": 0, "free": 0}},
        "uid": 0,
        "python": "3.11.7",
    }
    said = {"$report_type": "Run", "target": target, "release": release, "host": facts}
    said |= {"revision": "abc123", "started": "2026-11-23T03:00:00+00:00", "seconds": 51.4}
    return said | more


def test(id, n, param, verdict="passed", why="", when=("setup", "call", "teardown")):
    """The three lines of a test."""
    nodeid = f"{id[:3].lower()}/test_it.py::test_{id.replace('-', '_').lower()}_{n}[{param}]"
    props = [("requirement", id), ("family", id.partition("-")[0]), ("level", "must")]
    props += [("statement", f"What {id} says about `{param}`."), ("host", "h")]
    for phase in when:
        if phase == "call":
            props.append(("evidence", f"saw {n} pages of {id}"))
        r = {
            "location": ["a", 1, "b"],
            "keywords": dict.fromkeys(("needs", "requirement", param), 1),
        }
        r |= {"outcome": "passed", "longrepr": None, "when": phase, "user_properties": list(props)}
        if phase == "call" and verdict != "passed":
            crash = {"path": "a", "lineno": 1, "message": why}
            entry = {"type": "ReprEntry", "data": {"lines": [f">   assert x\nE   {why}"]}}
            text = {"reprcrash": crash, "reprtraceback": {"reprentries": [entry]}}
            r["outcome"] = "failed" if verdict == "failed" else "skipped"
            r["longrepr"] = ["conftest.py", 1, f"Skipped: {why}"] if verdict == "skipped" else text
            r |= {"wasxfail": why} if verdict == "deviating" else {}
        r |= {"sections": [], "duration": 0.01, "start": 1795405141.1, "stop": 1795405141.2}
        yield r | {"nodeid": nodeid, "$report_type": "TestReport"}


def run(host, rows, verdicts=None, tests=1, finished=0, **more):
    """All records of one target's run; `verdicts`: id -> (verdict, why)."""
    records = [
        r
        for id in rows
        for n in range(tests)
        for r in test(id, n, PARAMS[n % 2], *(verdicts or {}).get(id, ()))
    ]
    yield header(host, **more)
    yield {"$report_type": "Collected", "tests": owners(records)}
    yield from records
    if finished is not None:
        yield {"exitstatus": finished, "$report_type": "SessionFinish"}


def owners(records):
    """The record that says whose each test is."""
    found = {}
    for r in records:
        said = dict(r["user_properties"])
        found[r["nodeid"]] = [said["requirement"], said["family"], said["statement"]]
    return found


def write(path, *runs):
    path.write_text("".join(json.dumps(r) + "\n" for records in runs for r in records))
    return path


def fleet(folder, n, ids, tests=1):
    """n hosts with two targets; of ten one has no 1G pages for a tenth, of fifty one fails."""
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        bad = {}
        if i % 10 == 0:
            bad |= dict.fromkeys(ids[::10], ("skipped", f"wanted 2 free 1G pages, found {i % 2}"))
        if i % 50 == 7:
            bad[ids[i % len(ids)]] = ("failed", f"assert {i} == 0x{i:x}")
        bad[ids[1]] = ("deviating", "it counts from one")
        host = f"node{i:04}"
        both = (run(host, ids, bad, tests, target=t) for t in ("pyeal", "librte_eal"))
        yield write(folder / f"{host}.jsonl", *both)


if __name__ == "__main__":
    many = [
        f"{f}-{i:03}"
        for f in ("CFG", "DYN", "FBA", "LEG", "MSL", "SEC", "SEG", "HPI")
        for i in range(1, 41)
    ]
    for made in fleet(Path(sys.argv[1]), int(sys.argv[2]), many, tests=2):
        print(made)
