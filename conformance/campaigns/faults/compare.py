"""Two targets beside each other: where one start ends, does the other's?

    ci/faults --json >pyeal.jsonl; ci/faults --target librte_eal:22.11 --json >eal.jsonl
    ci/faults --compare pyeal.jsonl eal.jsonl

The first and the last call of a kind, on the same kind of file, with the same errno, are one pair.
A pair that goes on here and ends there differs; differs.toml says why it may. Strict: when all
modes ran, an entry that no pair needs is wrong as well.
"""

from __future__ import annotations

import collections
import json
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

ENTRIES = Path(__file__).parent / "differs.toml"
NOT_REACHED = "it was not reached"  # of a case: another call failed in its place
SAME, EXPLAINED, WRONG = "same", "explained", "wrong"


class Pair(NamedTuple):
    """What two targets make of the same fault; which: first or last, of a kind and a file."""

    mode: str
    on: str
    errno: str
    which: str
    outcomes: tuple[str, str]
    texts: tuple[str, str]

    def __str__(self):
        first, second = self.outcomes
        return f"{self.mode}: {self.which} {self.on}, {self.errno}: {first}, the other {second}"


def ends(cases):
    """(mode, label, errno, first or last) -> case"""
    found = {}
    for c in sorted(cases, key=lambda c: c["n"]):
        if c["wrong"] == NOT_REACHED:
            continue
        key = c["mode"], c["on"], c["errno"]
        found.setdefault((*key, "first"), c)
        found[*key, "last"] = c
    return found


def pairs(one, other):
    """The pairs of two sweeps, and how many ends of each have no partner."""
    a, b = ends(one), ends(other)
    both = [
        Pair(*k, (a[k]["outcome"], b[k]["outcome"]), (a[k]["text"], b[k]["text"]))
        for k in a
        if k in b
    ]
    return both, len(a) - len(both), len(b) - len(both)


def entries(path=ENTRIES):
    return tomllib.loads(path.read_text())["differs"]


def fits(entry, pair):
    """`outcomes` exactly; mode, on and errno are patterns, or lists of them."""
    if list(pair.outcomes) != entry["outcomes"]:
        return False
    for field in "mode", "on", "errno":
        wanted = entry.get(field, "*")
        wanted = [wanted] if isinstance(wanted, str) else wanted
        if not any(fnmatchcase(getattr(pair, field), w) for w in wanted):
            return False
    return True


def judge(both, known):
    """verdict -> pairs; and the entries that none of them needed."""
    found, used = {SAME: [], EXPLAINED: [], WRONG: []}, set()
    for p in both:
        why = [i for i, e in enumerate(known) if fits(e, p)]
        same = p.outcomes[0] == p.outcomes[1]
        found[SAME if same else EXPLAINED if why else WRONG].append(p)
        used.update(why)
    return found, [e for i, e in enumerate(known) if i not in used]


def read(path):
    cases = [json.loads(line) for line in Path(path).read_text().splitlines()]
    if not cases:
        raise ValueError(f"{path}: wanted cases of ci/faults --json, found none")
    return cases


def lines(one, other, known, modes):
    """What is printed, and whether all is as it must be; modes: all there are."""
    both, alone, others = pairs(one, other)
    found, stale = judge(both, known)
    if {p.mode for p in both} < set(modes):
        stale = []
    out = [f"{'mode':22}{'pairs':>8}{SAME:>8}{EXPLAINED:>11}{WRONG:>8}"]
    counts = {v: collections.Counter(p.mode for p in ps) for v, ps in found.items()}
    for name in [*dict.fromkeys(p.mode for p in both), "all"]:
        n = [c.total() if name == "all" else c[name] for c in counts.values()]
        out.append(f"{name:22}{sum(n):>8}{n[0]:>8}{n[1]:>11}{n[2]:>8}")
    names = one[0]["target"], other[0]["target"]
    out.append(f"without a partner: {alone} of {names[0]}, {others} of {names[1]}")
    for p in found[WRONG]:
        out += ["", str(p), *(f"    {t.splitlines()[0]}" for t in p.texts if t)]
    out += [f"differs.toml: no pair needs {e}" for e in stale]
    return out, not found[WRONG] and not stale
