"""Verdicts out of pytest-reportlog lines, and what is made of them.

A run file is reportlog's JSON lines, each target's after a header of ours:

    {"$report_type": "Run", "target": "pyeal", "release": "22.11.11", "host": {...}, ...}

Unknown keys and records are passed over, as reportlog asks of its readers. `merge.py` makes one
matrix of many runs, `pages.py` the report, the catalogue and the findings.
"""

from __future__ import annotations

import json
import re
from collections import Counter

from conformance import MODES

WORDS = ("passed", "deviating", "failed", "skipped")
LABELS = {"skipped": "could not", "untested": "no test"}  # where the word is not the label
WORST = ("failed", "deviating", "passed", "skipped")  # of a requirement's tests, the first found
NO_ROW = "other"  # tests that check no row of the catalogue
QUIET = b'"outcome": "passed", "longrepr": null, "when": "'  # as reportlog writes a phase
DECODE = json.JSONDecoder().raw_decode
NODEID = b'"nodeid": '
HEADER = b'{"$report_type": "Run", '


class BadMerge(Exception):
    """Files that do not make one report."""


class Test:
    """One test of one target: its phases made into one verdict."""

    def __init__(self, nodeid):
        self.nodeid, self.verdict, self.reason, self.trace = nodeid, "passed", "", ""
        self.requirement = self.family = self.statement = self.mode = ""
        self.evidence, self.sections, self.duration = [], {}, 0.0
        self.disturbed = self.broken = ""  # by other users of hugepages; by this machine
        self.lines = []  # of phases that passed, not yet parsed

    @property
    def params(self):
        return self.nodeid.partition("[")[2].rstrip("]")

    @property
    def name(self):
        return (
            self.nodeid.partition("[")[0]
            .rpartition("::")[2]
            .removeprefix("test_")
            .replace("_", " ")
        )

    def settle(self):
        """All that its lines say: what was seen, how long it took."""
        lines, self.lines = self.lines, []
        for line in lines:
            self.add(json.loads(line))
        return self

    def add(self, r):
        """One phase: setup, call or teardown."""
        said = [tuple(p) for p in r.get("user_properties", [])]
        props = dict(said)
        self.requirement = props.get("requirement", self.requirement)
        self.mode = props.get("mode", self.mode)
        self.family = props.get("family", self.family)
        self.statement = props.get("statement", self.statement)
        self.evidence = [v for k, v in said if k == "evidence"] or self.evidence
        self.disturbed = props.get("disturbed", self.disturbed)
        self.broken = props.get("broken", self.broken)
        self.sections |= dict(tuple(s) for s in r.get("sections", []))
        self.duration += r.get("duration", 0)
        text = _text(r.get("longrepr"))
        if r["outcome"] == "failed":
            self.verdict = "failed"
            where = "" if r["when"] in ("call", "???") else f"in {r['when']}: "
            self.reason = self.reason or where + _last(text)
            self.trace += text + "\n"
        elif r["outcome"] == "skipped" and self.verdict != "failed":
            deviates = "wasxfail" in r
            self.verdict = "deviating" if deviates else "skipped"
            why = props.get("deviation") or r.get("wasxfail")
            self.reason = why if deviates else _last(text)
            self.trace = text if deviates else ""


def _text(longrepr):
    match longrepr:
        case None:
            return ""
        case str():
            return longrepr
        case [_, _, str(why)]:
            return why.removeprefix("Skipped: ")
        case {"reprcrash": crash, "reprtraceback": {"reprentries": entries}}:
            lines = [line for e in entries for line in (e.get("data") or {}).get("lines", [])]
            return "\n".join(lines) or (crash or {}).get("message", "")
        case {"longrepr": str(why)}:
            return why
    return json.dumps(longrepr)


def said(trace):
    """What a failure says: pytest's E lines without the target's log, else the last line."""
    lines = [line for line in trace.strip().splitlines() if line.strip()]
    own = [line[1:].strip() for line in lines if line.startswith("E ")]
    return [line for line in own if not line.startswith("|")] or lines[-1:]


def _last(text):
    return (said(text) or ["no message"])[0]


class Run:
    """One target on one host."""

    def __init__(self, header):
        self.header, self.tests, self.broken, self.finished = header, {}, [], None
        self.target, self.release = header["target"], header.get("release", "")
        self.host = header.get("host", {})
        self.known: dict[bytes, Test] = {}  # end of a line -> whose it is

    @property
    def name(self):
        return f"{self.target} {self.release}".strip()

    def test(self, nodeid):
        if nodeid not in self.tests:
            self.tests[nodeid] = Test(nodeid)
        return self.tests[nodeid]

    def read(self, line):
        """One line of a log; of a phase that passed no more than its test is looked at."""
        if line.find(QUIET) > 0 and line.endswith(b'"}\n') and (at := line.rfind(NODEID)) > 0:
            tail = line[at:]
            if (t := self.known.get(tail)) is None:
                nodeid, _ = DECODE(tail[len(NODEID) :].decode())
                t = self.known[tail] = self.test(nodeid)
            t.lines.append(line)
        else:
            self.add(json.loads(line))

    def add(self, r):
        match r.get("$report_type"):
            case "TestReport":
                self.test(r["nodeid"]).add(r)
            case "CollectReport" if r.get("outcome") == "failed":
                self.broken.append(f"{r['nodeid']}: {_last(_text(r.get('longrepr')))}")
            case "SessionFinish":
                self.finished = r["exitstatus"]
            case "Collected":  # whose a test is, said before it can kill its worker
                self.collected = r["tests"]

    collected: dict = {}

    @property
    def built(self):
        """What it was built from, if the run has built it."""
        return built_from(self.header["source"]) if "source" in self.header else ""

    def close(self):
        """In the suite's order, not its workers'; with what is known of tests that killed one."""
        self.tests = {n: self.tests[n] for n in self.collected if n in self.tests} | self.tests
        for nodeid, t in self.tests.items():
            if t.requirement:
                continue
            if nodeid in self.collected:
                t.requirement, t.family, t.statement = self.collected[nodeid]
            else:
                t.settle()
            t.requirement = t.requirement or t.nodeid
            t.family = t.family or NO_ROW
        self.broken += [f"{t.nodeid}: {t.broken}" for t in self.tests.values() if t.broken]
        if self.finished is None:
            self.broken.append("the run ended before its time: no last line in its log")
        return self

    def requirements(self, mode=None):
        """id -> its tests, all or those of a mode"""
        found = {}
        for t in self.tests.values():
            if mode in (None, t.mode):
                found.setdefault(t.requirement, []).append(t)
        return found

    def families(self):
        """family -> verdict -> number of requirements"""
        found = {}
        for tests in self.requirements().values():
            family = found.setdefault(tests[0].family, dict.fromkeys(WORDS, 0))
            family[verdict(tests)] += 1
        return dict(sorted(found.items(), key=lambda kv: (kv[0] == NO_ROW, kv[0])))

    def counts(self, tests=False, mode=None):
        """verdict -> number, of requirements (in a mode) or of single tests"""
        if tests:
            return Counter(t.verdict for t in self.tests.values())
        return Counter(verdict(t) for t in self.requirements(mode).values())

    def reasons(self):
        """(reason, number of requirements) for what could not run at all, most first."""
        skipped = [t for t in self.requirements().values() if verdict(t) == "skipped"]
        return grouped(tests[0].reason for tests in skipped)


def built_from(source):
    """Return what a report says of a target that was built from a source tree: builds.py."""
    said = f'{source["revision"][:10]} ("{source["subject"]}", {source["date"]})'
    by = f", {source['compiler']}" if source["compiler"] else ""
    return f"{said} of {source['repository']}, built by {source['command']!r}{by}"


def verdict(tests):
    words = {t.verdict for t in tests}
    return next(w for w in WORST if w in words)


def grouped(reasons):
    """Reasons that differ only in the number wanted are one, with the largest."""
    found: dict[str, list] = {}
    for reason in reasons:
        m = re.match(r"wanted (\d+)(?= )", reason)
        key = "wanted # " + reason[m.end() + 1 :] if m else reason
        entry = found.setdefault(key, [0, 0])
        entry[0] += 1
        entry[1] = max(entry[1], int(m[1]) if m else 0)
    out = [(k.replace("#", f"up to {top}", 1) if top else k, n) for k, (n, top) in found.items()]
    return sorted(out, key=lambda x: (-x[1], x[0]))


def read(path):
    """The runs in a file, one at a time: no more than one is ever held here."""
    run = None
    with open(path, "rb") as f:
        for number, line in enumerate(f, 1):
            try:
                if line.startswith(HEADER):
                    if run:
                        yield run.close()
                    run = Run(json.loads(line))
                elif run:
                    run.read(line)
                else:
                    raise BadMerge(f"{path}:{number}: no header of a run before it")
            except ValueError:
                continue  # a line cut short by the end of its writer
    if run:
        yield run.close()


def load(*paths):
    """The runs in these files; refuses two of one target on one host."""
    runs = [run for path in paths for run in read(path)]
    for t in (t for run in runs for t in run.tests.values()):
        t.settle()
    seen = Counter((r.name, r.host.get("name")) for r in runs)
    if twice := [k for k, n in seen.items() if n > 1]:
        raise BadMerge(f"two runs of {twice[0][0]} on {twice[0][1]}")
    return runs


def interop(runs):
    """Pairs of processes by release and mode, as Markdown: a cell counts requirements."""
    pairs = [r for r in runs if r.header.get("secondary")]
    modes = [m for m in MODES if any(t.mode == m for r in pairs for t in r.tests.values())]
    out = [
        f"| release | primary × secondary | {' | '.join(modes)} |",
        "|---" * (2 + len(modes)) + "|",
    ]
    last = None
    for r in pairs:
        kinds = " × ".join(r.header[k].partition(":")[0] for k in ("spec", "secondary"))
        cells = (" / ".join(str(r.counts(mode=m)[w]) for w in WORDS) for m in modes)
        release = "" if r.release == last else f"**{r.release}**"
        out.append(f"| {release} | {kinds} | {' | '.join(cells)} |")
        last = r.release
    return "\n".join(out) + "\n"


def junit(files, to):
    """One JUnit file out of one a target, each a suite with the target's name."""
    import xml.etree.ElementTree as ET

    root = ET.Element("testsuites")
    for target, path in files:
        try:
            suites = ET.parse(path).getroot().iter("testsuite")
        except (OSError, ET.ParseError):
            continue
        for s in suites:
            s.set("name", target)
            root.append(s)
    ET.ElementTree(root).write(to, encoding="utf-8", xml_declaration=True)
