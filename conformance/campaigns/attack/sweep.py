"""python -m conformance attack: what hostile users, broken programs, signals and kills can do.

Exit code 1 if anything went wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import os
import signal
import sys
import time
import xml.etree.ElementTree as xml
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import active_children, get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from conformance.campaigns.fuzz import attach, engine
from conformance.campaigns.fuzz.engine import Case
from conformance.harness import tests

CHUNK = 500  # trials of a worker, after which there is a line of progress


class Part(NamedTuple):
    """What is tried: families, or a file of tests; how often in short and in whole."""

    families: Callable[[], list[Any]] | None
    short: int
    whole: int
    files: tuple[str, ...] = ()


def _inputs() -> list[Any]:
    from conformance.campaigns.attack import inputs

    return [inputs.Inputs()]


def _attach() -> list[Any]:
    return [*attach.FAMILIES]


def _heaps() -> list[Any]:
    from conformance.campaigns.attack import heaps

    return heaps.FAMILIES


def _locks() -> list[Any]:
    from conformance.campaigns.attack import locks

    return locks.FAMILIES


def _writers() -> list[Any]:
    from conformance.campaigns.attack import writers

    return writers.FAMILIES


def _interrupts() -> list[Any]:
    from conformance.campaigns.attack import interrupts

    return interrupts.FAMILIES


PARTS = {
    "inputs": Part(_inputs, 1000, 100_000),
    "attach": Part(_attach, 400, 20_000),
    "heaps": Part(_heaps, 40, 2000),
    "writers": Part(_writers, 120, 80_000),
    "interrupts": Part(_interrupts, 28, 3000),
    "locks": Part(_locks, 10, 1000),
    "names": Part(None, 0, 1, ("units/test_hostile_names.py",)),
    "leases": Part(
        None,
        0,
        1,
        ("units/test_loans.py", "units/live/test_lease_live.py", "units/live/test_run_ended.py"),
    ),
    "neighbours": Part(None, 0, 1, ("campaigns/attack/test_neighbours.py",)),
}


class Line:
    """A line of the table: what was tried, how often, and what was wrong."""

    def __init__(self, name: str) -> None:
        self.name, self.begun = name, time.monotonic()
        self.done = self.refused = self.wrong = 0
        self.why = ""

    def __str__(self) -> str:
        if self.why:
            return f"{self.name:14} not run: {self.why}"
        took = time.monotonic() - self.begun
        return f"{self.name:14} {self.done:>8,} {self.refused:>8,} {self.wrong:>6,} {took:>7.1f} s"


def case_of(family: Any, seed: int, i: int) -> Case:
    """Return trial number i of a seed."""
    make = getattr(family, "case", None)
    found: Case = make(seed, i) if make else engine.make(family, seed, i)
    return found


_family: Any = None  # of the workers, which are forked
_worker = 0  # the process whose folders are its own


def _begin(parent: int) -> None:
    """Begin a worker: Ctrl-C is for its parent, with which it ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    engine.die_with(parent)


def _work(seed: int, first: int, n: int) -> tuple[int, list[tuple[int, str, str]]]:
    """Run trials in children of a worker: how many were refused, and what was wrong."""
    global _worker
    numbers = {}
    if _worker != os.getpid():
        _worker = os.getpid()
        attach.Attach.worlds.clear()  # the parent's, which other workers would share

    def case(i: int) -> Case:
        numbers[made := case_of(_family, seed, first + i)] = first + i
        return made

    counts, found = engine.run(_family, case, n)
    return counts.refused, [(numbers[f.case], f.what, f.detail) for f in found]


@contextlib.contextmanager
def workers_ended() -> Iterator[None]:
    """Kill the workers, and with them what they started, if an exception ends the run."""
    try:
        yield
    except BaseException:
        for worker in active_children():
            worker.kill()
        raise


def attack(family: Any, n: int, seed: int, jobs: int) -> Line:
    """Make n trials of a family; print what was wrong and how it is tried again."""
    global _family
    line, _family = Line(family.name), family
    if why := getattr(family, "lacks", str)():
        line.why = why
        return line
    getattr(family, "warm", int)()
    shown = set()
    size = min(CHUNK, max(-(-n // (jobs * 16)), min(50, -(-n // jobs))))
    fork, me = get_context("fork"), (os.getpid(),)
    with ProcessPoolExecutor(jobs, fork, _begin, me) as pool, workers_ended():
        firsts = range(0, n, size)
        work = functools.partial(_work, seed)
        sizes = [min(size, n - first) for first in firsts]
        for done, (refused, found) in zip(sizes, pool.map(work, firsts, sizes), strict=True):
            line.done, line.refused = line.done + done, line.refused + refused
            line.wrong += len(found)
            if sys.stderr.isatty():
                print(f"\r{line}", end="\r", file=sys.stderr, flush=True)
            for i, what, detail in found:
                if (kind := what[:60]) not in shown:  # one of a kind
                    shown.add(kind)
                    again = f"ci/attack {family.part} --seed={seed} --number={i}"
                    print(f"\n{family.name}: {what}\n{case_of(family, seed, i)}\n{detail}{again}")
    return line


def test(name: str, files: tuple[str, ...]) -> Line:
    """Run files of tests; their parameters are the trials."""
    line = Line(name)
    with TemporaryDirectory() as tmp:
        for i, file in enumerate(files):
            out = Path(tmp) / f"{i}.xml"
            code = tests.run(file, "-q", "-n", "0", f"--junitxml={out}")
            if code not in (0, 1):  # pytest itself failed, or found no test
                raise OSError(f"pytest {file}: exit code {code}")
            for suite in xml.parse(out).iter("testsuite"):
                line.done += int(suite.get("tests", 0)) - int(suite.get("skipped", 0))
                line.wrong += int(suite.get("failures", 0)) + int(suite.get("errors", 0))
    return line


def lines(args: argparse.Namespace) -> Iterator[Line]:
    for name in args.parts or PARTS:
        part = PARTS[name]
        n = args.trials or (part.short if args.short else part.whole)
        if not n:  # a step of its own in ci/test
            continue
        if part.families is None:
            yield test(name, part.files)
            continue
        families = part.families()
        for family in families:
            family.part = name
            yield attack(family, -(-n // len(families)), args.seed, args.jobs)


def again(name: str, seed: int, number: int) -> int:
    """Run one trial, alone; its families share the number."""
    worst = 0
    families = PARTS[name].families
    assert families
    for family in families():
        made = case_of(family, seed, number)
        if why := getattr(family, "lacks", str)():
            print(f"{family.name} not run: {why}", file=sys.stderr)
            worst = 2
            continue
        _, found = engine.run(family, lambda i, case=made: case, 1)  # type: ignore[misc]
        print(made, *(f"{f.what}\n{f.detail}" for f in found), sep="\n")
        worst = worst or int(bool(found))
    return worst


def main(argv: list[str]) -> int:
    p = argparse.ArgumentParser(prog="ci/attack", description=__doc__)
    p.add_argument("parts", nargs="*", metavar="PART", help=f"default: {' '.join(PARTS)}")
    p.add_argument("--short", action="store_true", help="a sample of each part")
    p.add_argument("--trials", type=int, metavar="N", help="of each part, instead of its own")
    p.add_argument("--seed", type=int, default=1, help="another one makes other trials")
    p.add_argument("--number", type=int, metavar="I", help="only trial I of the part")
    p.add_argument("--jobs", type=int, default=2, metavar="J", help="workers (default 2)")
    args = p.parse_args(argv)
    if unknown := set(args.parts) - set(PARTS):
        p.error(f"no part {', '.join(sorted(unknown))}: {' '.join(PARTS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    if args.number is not None:
        if len(args.parts) != 1 or not PARTS[args.parts[0]].families:
            counted = " ".join(name for name, part in PARTS.items() if part.families)
            p.error(f"--number takes one part with numbered trials: {counted}")
        return again(args.parts[0], args.seed, args.number)
    print(f"{'part':14} {'trials':>8} {'refused':>8} {'wrong':>6} {'took':>9}   seed {args.seed}")
    wrong = 0
    for line in lines(args):
        print(line, flush=True)
        wrong += line.wrong
    print(f"{wrong} wrong")
    return 1 if wrong else 0
