"""Many runs as one: target x host x requirement, of each no more than the page shows.

A fleet's runs are read one after the other. What stays of one is a verdict for each requirement;
hosts with the same outcome are a list of numbers beside one example of its evidence.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import lru_cache
from typing import NamedTuple

from conformance.runner.report.results import WORST, BadMerge, read, verdict

KEEP = 5  # outcomes of a cell that are told apart; further ones are one a verdict
SAME = "kernel", "machine", "cpu"  # a host that differs in these is another host
ALIKE = "run both with one suite and ids, or say --partial where one was asked for fewer"
APART = "tell the hosts apart with --host"
SAID = 20  # faults that one refusal names
RELEASE = re.compile(r":\d\d\.\d\d[\d.]*(?= |$)")
NUMBER = re.compile(r"0x[0-9a-f]+|\d+")


class Group(NamedTuple):
    """Hosts with one outcome of a requirement, and the tests of the first of them."""

    verdict: str
    hosts: list[int]
    tests: list


class Done(NamedTuple):
    """What stays of a run as a whole."""

    host: int
    column: int
    started: str
    revision: str
    seconds: float
    tests: int
    counts: Counter
    broken: list[str]
    built: str  # from which revision, by which command


class Matrix:
    def __init__(self):
        self.facts: list[dict] = []  # of each host
        self.hosts: dict[str, int] = {}  # name -> its place
        self.columns: dict[tuple, int] = {}  # (target, release) -> its place
        self.cells: dict[str, dict] = {}  # requirement -> column -> key of an outcome -> Group
        self.families: dict[str, str] = {}  # of each requirement
        self.statements: dict[str, str] = {}
        self.runs: list[Done] = []
        self.chosen = True  # no run was asked for all ids
        self.earlier: list[tuple] = []  # (started, revision), oldest first
        self.history: dict[tuple, dict] = {}  # (requirement, column) -> place in it -> verdict

    def add(self, run):
        name = run.host.get("name", "")
        if (host := self.hosts.setdefault(name, len(self.hosts))) == len(self.facts):
            self.facts.append(run.host)
        column = self.columns.setdefault((run.target, run.release), len(self.columns))
        head = run.header
        self.chosen &= bool(head.get("ids"))
        more = head.get("started", ""), head.get("revision", ""), head.get("seconds", 0)
        requirements = run.requirements()
        counts = Counter(map(verdict, requirements.values()))
        self.runs.append(Done(host, column, *more, len(run.tests), counts, run.broken, run.built))
        for id, tests in requirements.items():
            self.families.setdefault(id, tests[0].family)
            self.statements.setdefault(id, tests[0].statement or tests[0].name)
            groups = self.cells.setdefault(id, {}).setdefault(column, {})
            word = verdict(tests)
            key = word, *((t.nodeid, t.verdict, alike(t.reason)) for t in tests)
            if key not in groups and len(groups) >= KEEP:
                key = (word,)
            if key not in groups:
                groups[key] = Group(word, [], [t.settle() for t in tests])
            groups[key].hosts.append(host)

    def another(self, facts):
        """What tells a host from the one of the same name that is here."""
        at = self.hosts.get(facts.get("name", ""))
        was = facts if at is None else self.facts[at]
        return next(
            (
                f"{k} {was[k]}, not {facts.get(k)}"
                for k in SAME
                if k in was and was[k] != facts.get(k)
            ),
            "",
        )

    def verdict(self, id, column):
        """Of all hosts: what failed on one has failed, what ran on one has run."""
        words = {g.verdict for g in self.cells.get(id, {}).get(column, {}).values()}
        return next((w for w in WORST if w in words), None)

    def counts(self, column, family=None):
        """verdict -> number of requirements"""
        ids = (i for i in self.cells if family in (None, self.families[i]))
        return Counter(filter(None, (self.verdict(i, column) for i in ids)))

    def remember(self, runs):
        """Earlier runs, as the history of the same targets; of other targets nothing is kept."""
        runs = sorted(runs, key=lambda kept: kept[0])
        self.earlier = list(dict.fromkeys(head for head, _, _ in runs))
        for head, target, words in runs:
            if (column := self.columns.get(target)) is None:
                continue
            at = self.earlier.index(head)
            for id, word in words.items():
                was = self.history.setdefault((id, column), {})
                was[at] = min(was.get(at, word), word, key=WORST.index)


@lru_cache(1 << 12)
def alike(reason):
    """Reasons that differ in numbers only are one."""
    return NUMBER.sub("#", reason)


def merge(paths, earlier=(), partial=False):
    """The matrix of these files; every fault that keeps them from being one is named.

    `partial`: runs of some ids, as asked for, may stand beside runs of all.
    """
    m, faults = Matrix(), []
    seen: dict[tuple, object] = {}  # (target, host) -> file
    sets: dict[tuple, dict] = {}  # pair or not, ids asked for -> its ids -> whose they are
    for path in paths:
        before = len(m.runs) + len(faults)
        for run in read(path):
            host, told = run.host.get("name", ""), run.target
            run.target = plain(told)
            if seen.get((run.name, host)) == path:  # two builds of one release in one run
                run.target = told
            who = f"{run.name} on {host or 'a host without a name'}"
            if why := cut_short(run):
                faults.append(f"{path}: {who} ended early: {why}; run it again or leave it out")
            elif first := seen.get((run.name, host)):
                faults.append(f"{path}: {who} is in {first} too; leave one out, or {APART}")
            elif other := m.another(run.host):
                faults.append(f"{path}: {host} is another host before, {other}; {APART}")
            else:
                seen[run.name, host] = path
                asked = tuple(run.header.get("ids", ())) if partial else ()
                of = sets.setdefault((bool(run.header.get("secondary")), asked), {})
                of.setdefault(frozenset(run.requirements()), []).append(f"{path}: {who}")
                m.add(run)
        if before == len(m.runs) + len(faults):
            faults.append(f"{path}: no run in it")
    faults += [f for s in sets.values() for f in unequal(s)]
    if faults:
        more = [f"and {len(faults) - SAID} more"] * (len(faults) > SAID)
        raise BadMerge("\n".join(["these runs do not make one report", *faults[:SAID], *more]))
    m.remember(kept(run) for path in earlier for run in read(path))
    return m


def plain(target):
    """Return a target's name without its release, which ci/conform adds to tell targets apart."""
    return RELEASE.sub("", target)


def cut_short(run):
    """Why a run is not whole, or nothing."""
    missing = [n for n in run.collected if n not in run.tests]
    if run.finished is None or missing:
        n = f"{len(run.collected) - len(missing)} of {len(run.collected)} tests"
        return n + (", no last line" if run.finished is None else f", {missing[0]} is missing")
    if run.finished not in (0, 1):
        return f"pytest ended with {run.finished}"
    return run.broken[0] if run.broken else ""


def unequal(sets):
    """Name the runs whose ids differ from those of most."""
    most = max(sets, key=lambda ids: len(sets[ids]), default=None)
    for ids in sets:
        if ids != most:
            parts = (("lacks", most - ids), ("has besides", ids - most))
            said = " and ".join(f"{word} {some(found)}" for word, found in parts if found)
            yield f"{sets[ids][0]} {said}, unlike {sets[most][0]}; {ALIKE}"


def some(ids):
    first, *rest = sorted(ids)
    return (
        first + (f", {rest[0]}" if rest else "") + (f" and {len(rest) - 1} more" * (len(rest) > 1))
    )


def kept(run):
    head = run.header.get("started", ""), run.header.get("revision", "")
    return (
        head,
        (plain(run.target), run.release),
        {i: verdict(t) for i, t in run.requirements().items()},
    )


def of(runs):
    """Return the matrix of these runs, not judged."""
    m = Matrix()
    for run in runs:
        m.add(run)
    return m
