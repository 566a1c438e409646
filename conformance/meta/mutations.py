"""Proof that the tests can fail: faults put into a copy of pyeal, which the tests must find.

    python -m conformance.meta.mutations [ID ...] [-j N]

mutations.toml lists the faults. One that its test does not find is printed, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import functools
import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pyeal

META = Path(__file__).parent
SUITE = META.parent
PACKAGE = Path(pyeal.__file__).parent
CAUGHT, SURVIVED, COULD_NOT = "caught", "survived", "could not run"


class Mutation(NamedTuple):
    """`old` becomes `new` in a file of the package; `target` shows it to the test of `id`."""

    id: str
    file: str
    old: str
    new: str
    target: str

    def __str__(self):
        old, new = (" ".join(text.split())[:40] for text in (self.old, self.new))
        return f"{self.id:9} {self.file.removeprefix('pyeal/'):15} {old!r} -> {new!r}"

    def fault(self):
        """Why the entry is stale, or None."""
        n = (PACKAGE.parent / self.file).read_text().count(self.old)
        return None if n == 1 else f"{self}: `old` stands {n} times in the file"


def load():
    entries = tomllib.loads((META / "mutations.toml").read_text()).get("mutation", [])
    return [
        Mutation(id, e["file"], e["old"], e["new"], e.get("target", "pyeal"))
        for e in entries
        for id in e.get("ids", [e.get("id")])
    ]


@functools.cache
def tests():
    """{id: the file that its test stands in}"""
    found = {}
    for path in SUITE.glob("*/test_*.py"):
        for id in re.findall(r'^@requirement\("([A-Z]+-\d+)"\)', path.read_text(), re.M):
            found[id] = path
    return found


def replay(m):
    """(verdict, the end of what pytest said)"""
    with tempfile.TemporaryDirectory(prefix="mutation-") as tmp:
        shutil.copytree(
            PACKAGE, f"{tmp}/pyeal", ignore=shutil.ignore_patterns("suite", "__pycache__")
        )
        mutated = Path(tmp, m.file)
        mutated.write_text(mutated.read_text().replace(m.old, m.new))
        agent = f"env PYTHONPATH={tmp} {sys.executable} -P -m pyeal.agent"
        release = m.target.partition(":")[2]
        target = f"cmd:{agent}" + (f" --as {release}" if release else "")
        argv = ["-c", SUITE / "pytest.toml", tests()[m.id], f"--id={m.id}", f"--target={target}"]
        more = ["-q", "-x", "-p", "no:cacheprovider", f"--basetemp={tmp}/t", "--limit=15"]
        done = subprocess.run(
            [sys.executable, "-P", "-m", "pytest", *argv, *more],
            env=os.environ | {"PYTHONPATH": str(SUITE.parent), "PYTHONDONTWRITEBYTECODE": "1"},
            capture_output=True, text=True, timeout=300,
        )  # fmt: skip
    last = (done.stdout.strip().splitlines() or [done.stderr[-500:]])[-1]
    if done.returncode == 1 and re.search(r"\d+ (failed|error)", last):
        return CAUGHT, last
    if done.returncode == 0 and "passed" in last:
        return SURVIVED, last
    return COULD_NOT, last


def main(argv=None):
    p = argparse.ArgumentParser(prog="conformance.meta.mutations", description=__doc__)
    p.add_argument("ids", nargs="*", metavar="ID", help="only these: FBA-017, 'MSL-*'")
    p.add_argument("-j", "--jobs", type=int, default=len(os.sched_getaffinity(0)))
    args = p.parse_args(argv)
    chosen = [m for m in load() if not args.ids or any(fnmatchcase(m.id, i) for i in args.ids)]
    if stale := [fault for m in chosen if (fault := m.fault())]:
        print(*stale, sep="\n")
        return 2
    counts = dict.fromkeys((CAUGHT, SURVIVED, COULD_NOT), 0)
    with ThreadPoolExecutor(args.jobs) as pool:
        for m, (verdict, last) in zip(chosen, pool.map(replay, chosen), strict=True):
            counts[verdict] += 1
            print(f"{verdict:13} {m}" + ("" if verdict == CAUGHT else f"\n    {last}"), flush=True)
    print(", ".join(f"{n} {word}" for word, n in counts.items()))
    return 1 if counts[SURVIVED] else 0


if __name__ == "__main__":
    sys.exit(main())
