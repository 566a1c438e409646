"""python -m conformance rehearsal: random situations, in which the real EAL of a release, `pyeal
init`, `plan` and `doctor` must agree on start or no start, and on the stage. Exit code 1 if not.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing
from functools import partial
from typing import Any

from conformance import SUITE
from conformance.campaigns.rehearsal import verdict, world
from conformance.campaigns.rehearsal.situation import MAKERS, Situation, compose
from conformance.harness import child, host, peers
from conformance.harness.box import HugetlbControl
from conformance.harness.peers import Unobtainable

SKIPPED = 77  # exit code: nothing was run


def targets(named: list[str]) -> dict[str, str]:
    """Return {release: target} of what is there: the installed library, and peers."""
    found: dict[str, str] = {}
    for name in named or ["installed", *peers.releases()]:
        try:
            if name == "installed":
                found[child.greet("librte_eal").release] = "librte_eal"
            else:
                found.setdefault(peers.find(name).release, f"librte_eal:{name}")
        except (Unobtainable, child.TargetDied, OSError) as e:
            print(f"rehearsal: {name}: {e}", file=sys.stderr)
    return found


def one(seed: str, known: dict[str, str], only: list[str]) -> tuple[Situation, dict[str, Any]]:
    """Return a situation and what came of it; nothing, if its makers exclude each other."""
    s = compose(seed, sorted(known), only)
    try:
        return s, world.run(s, known[s.release])
    except world.Unbuildable:
        return s, {}


def main(argv: list[str]) -> int:
    p = argparse.ArgumentParser(prog="ci/rehearsal", description=__doc__)
    p.add_argument("--situations", type=int, default=100, metavar="N")
    p.add_argument("--seed", default="1", help="another one makes other situations")
    p.add_argument(
        "--only",
        action="append",
        default=[],
        choices=MAKERS,
        metavar="MAKER",
        help=f"these makers: {' '.join(MAKERS)}",
    )
    p.add_argument("--release", action="append", default=[], help="of ci/peers, or installed")
    p.add_argument("--replay", metavar="SEED/N", help="one situation, with all that was said")
    p.add_argument("--seconds", type=float, metavar="S", help="end after that time, and say so")
    p.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)))
    args = p.parse_args(argv)
    if os.geteuid():
        print("rehearsal: wanted root, found an ordinary user", file=sys.stderr)
        return SKIPPED
    known = targets(args.release)
    if not known:
        print("rehearsal: wanted a librte_eal, found none", file=sys.stderr)
        return SKIPPED
    if at := host.closed(SUITE):
        print(f"rehearsal: {at} is closed to other users: no maker `user`", file=sys.stderr)
        MAKERS.pop("user", None)
    world.load()
    with closing(HugetlbControl()):
        if args.replay:
            return replay(args.replay, known, args.only)
        return sweep(args, known)


def sweep(args: argparse.Namespace, known: dict[str, str]) -> int:
    seeds = [f"{args.seed}/{i}" for i in range(args.situations)]
    began, meant = time.monotonic(), verdict.Differences()
    outcomes: Counter[str] = Counter()
    done = wrong = 0
    with ProcessPoolExecutor(args.jobs) as pool:
        for s, ran in pool.map(partial(one, known=known, only=args.only), seeds, chunksize=2):
            done += 1
            if args.seconds and time.monotonic() - began > args.seconds:
                pool.shutdown(wait=False, cancel_futures=True)
                break
            if not ran:
                outcomes["not built"] += 1
                continue
            found = verdict.verdicts(ran)
            outcomes[found["real"]] += 1
            if who := meant.wrong(s, found):
                wrong += 1
                said = ", ".join(
                    f"{w} {found[w]}" for w in ("real", *verdict.WHO, "stricter") if w in found
                )
                print(f"{s}\n    {said}    <- {' '.join(who)}", flush=True)
    told = ", ".join(f"{n} {what}" for what, n in outcomes.most_common())
    took = time.monotonic() - began
    end = f"{wrong} disagreements that are not meant"
    print(f"{done} of {len(seeds)} situations in {took:.0f} s: {told}; {end}")
    return 1 if wrong else 0


def replay(seed: str, known: dict[str, str], only: list[str]) -> int:
    s, ran = one(seed, known, only)
    print(s, s.as_json(), sep="\n")
    for who, r in ran.items():
        print(
            f"--- {who}: {verdict.OF[who](r)} (exit {r.code})",
            r.out[:6000],
            r.err[-3000:],
            sep="\n",
        )
    return 1 if verdict.Differences().wrong(s, verdict.verdicts(ran)) else 0
