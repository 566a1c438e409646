"""The catalogue as data: requirements, what is not tested yet, where targets differ."""

from __future__ import annotations

import json
import re
import tomllib
from datetime import date
from fnmatch import fnmatchcase
from functools import cache
from typing import NamedTuple

from conformance import FIXTURES, SUITE
from conformance.harness.facts import FACTS


class Broken(Exception):
    """The suite contradicts itself."""


class Row(NamedTuple):
    id: str
    statement: str
    level: str  # must | as-is
    applies: str
    modes: list[str]  # letters: D S M L N 2
    releases: str  # predicate, "" for all
    check: str
    needs: str
    source: str
    evidence: str

    @property
    def family(self):
        return self.id.partition("-")[0]


class Deviation(NamedTuple):
    id: str
    target: str  # fnmatch; of the primary
    why: str
    since: date
    releases: str = ""
    params: str = "*"  # fnmatch on the test's parameter ids
    link: str = ""
    secondary: str = "*"  # fnmatch
    fact: str = ""  # of facts.py: what the suite measures of the target

    def covers(self, hello, secondary):
        return (
            fnmatchcase(hello.target, self.target)
            and fnmatchcase(secondary, self.secondary)
            and holds(self.releases, hello.release)
            and (not self.fact or self.fact in hello.measured)
        )


def load(path):
    try:
        return tomllib.loads(path.read_text()) if path.exists() else {}
    except ValueError as e:
        raise Broken(f"{path.name}: {e}") from None


@cache
def rows(folder=SUITE / "requirements"):
    found = {}
    for f in sorted(folder.glob("*.toml")):
        for id, row in load(f).items():
            if id in found:
                raise Broken(f"{f.name}: {id} stands in another file too")
            try:
                found[id] = Row(id, **row)
            except TypeError as e:
                raise Broken(f"{f.name}: {id}: {e}") from None
    return found


def untested(path=SUITE / "untested.toml"):
    """Pattern of ids -> why no test checks them."""
    return load(path)


def deviations(path=SUITE / "deviations.toml"):
    entries = load(path).get("deviation", [])
    try:
        found = [Deviation(**e) for e in entries]
    except TypeError as e:
        raise Broken(f"{path.name}: {e}") from None
    for d in found:
        if not isinstance(d.since, date) or not d.why:
            raise Broken(
                f"{path.name}: {d.id}: a date wanted, and why; found {d.since!r}, {d.why!r}"
            )
        if d.fact and d.fact not in FACTS:
            raise Broken(f"{path.name}: {d.id}: no fact {d.fact!r}; known: {', '.join(FACTS)}")
    return found


OPS = {
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
    "==": lambda a, b: a == b,
    "!=": lambda a, b: a != b,
}


FACT = re.compile(r"(!?)([a-z_]+)(?:=(.+))?")  # a term of a predicate


def same_release(a, b):
    """Return whether two names mean one release: "26.07" is "26.07.0", not "26.07.0-rc1"."""
    numbers, candidates = zip(*(name.partition("-")[::2] for name in (a, b)), strict=True)
    first, second = (f"{n}.0" if n.count(".") == 1 else n for n in numbers)
    return first == second and candidates[0] == candidates[1]


def holds(predicate, release):
    """ ">=22.11,<=24.11" against "24.11.4": compared as far as the predicate's number goes.

    A term may be a fact of DPDK's history, whose fixes came to minor releases: "!zeroes_released",
    "cpus_looked_at=1024".
    """
    numbers = [int(x) for x in re.findall(r"\d+", release)[:3]]
    for term in filter(None, predicate.split(",")):
        if m := FACT.fullmatch(term):
            found = fact(m[2], release)
            if bool(m[1]) == (str(found) == m[3] if m[3] else bool(found)):
                return False
            continue
        if not (m := re.fullmatch(r"\s*([<>=!]=?)\s*(\d+(?:\.\d+)*)\s*", term)) or m[1] not in OPS:
            raise Broken(f"release predicate {predicate!r}: {term!r}")
        want = [int(x) for x in m[2].split(".")]
        if not OPS[m[1]](numbers[: len(want)], want):
            return False
    return True


def in_words(predicate):
    """Return a predicate for people: a fact as the releases that brought it.

    "!zeroes_released" is "before 25.03, 24.11.2, 23.11.4, 22.11.8".
    """
    said = []
    for term in filter(None, predicate.split(",")):
        if m := FACT.fullmatch(term):
            brought = [t for t, v in history()[m[2]].items() if (str(v) == m[3] if m[3] else v)]
            brought.sort(key=lambda t: [*map(int, t.split("."))], reverse=True)
            said.append(f"{'before' if m[1] else 'since'} {', '.join(brought)}")
        else:
            said.append(term)
    return "; ".join(said) if any(" " in t for t in said) else ",".join(said)


@cache
def history():
    """Return fixtures/releases/facts.json, which ci/facts reads from DPDK's source."""
    return json.loads((FIXTURES / "releases/facts.json").read_text())


def fact(name, release):
    """Return a fact at a release: its last change in the release's line or before that line."""
    if not isinstance(changes := history().get(name), dict):
        raise Broken(f"no fact {name} in facts.json")
    numbers = [*map(int, re.findall(r"\d+", release)[:3]), 0][:3]
    found = None
    for tag in history()["releases"].split():
        at = [*map(int, re.findall(r"\d+", tag)), 0][:3] if tag != "main" else [99, 0, 0]
        own = at[:2] == numbers[:2] and at[2] <= numbers[2]
        newer = tag == "main" and numbers[:2] > newest()
        if tag in changes and (own or newer or (not at[2] and at[:2] < numbers[:2])):
            found = changes[tag]
    return found


def newest():
    """Return the line of the newest release that the history has."""
    return [int(n) for n in history()["releases"].split()[-2].split(".")[:2]]


def matches(id, pattern):
    return fnmatchcase(id, pattern)


def faults(tested, whole, rows, untested):
    """What is wrong with a collection. `tested`: (id or None, test function) pairs; `whole`:
    nothing was left out, so that what is missing is missing."""
    said, seen = [], {}
    for id, test in dict.fromkeys(tested):
        if id is None:
            if whole:
                said.append(f"{test} checks no requirement")
        elif id not in rows:
            said.append(f"{test}: no requirement {id}")
        elif seen.setdefault(id, test) != test:
            said.append(f"{id} is tested twice: {seen[id]} and {test}")
    if not whole:
        return said
    for row in rows.values():
        if (
            row.level == "must"
            and row.id not in seen
            and not any(matches(row.id, p) for p in untested)
        ):
            said.append(f"{row.id} is a must without a test; untested.toml gives no reason")
    for pattern in untested:
        ids = [id for id in rows if matches(id, pattern)]
        if not ids:
            said.append(f"untested.toml: {pattern} matches no requirement")
        elif pattern in seen:
            said.append(f"untested.toml: {pattern} is tested by {seen[pattern]}")
        elif all(id in seen for id in ids):
            said.append(f"untested.toml: every requirement of {pattern} is tested")
    return said


def why_untested():
    """Return {id: why no test checks it, or ""}."""
    patterns = untested()
    return {i: next((why for p, why in patterns.items() if fnmatchcase(i, p)), "") for i in rows()}
