"""python -m conformance fuzz: inputs made of bad bytes, for each family; exit code 1 if one is
found that no reader may answer so.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from conformance import SUITE
from conformance.campaigns.fuzz import engine
from conformance.campaigns.fuzz.engine import Found
from conformance.harness import tests


def families() -> dict[str, engine.Family]:
    from conformance.campaigns.fuzz import attach, small, text

    return {f.name: f for f in (*attach.FAMILIES, *small.FAMILIES, *text.FAMILIES)}


class Row:
    """A family's line, rewritten as it proceeds on a terminal."""

    def __init__(self, name: str, n: int) -> None:
        self.name, self.n, self.begun, self.live = name, n, time.monotonic(), sys.stderr.isatty()

    def line(self, done: int, counts: engine.Counts, found: int) -> str:
        took = max(time.monotonic() - self.begun, 1e-3)
        return (
            f"{self.name:14} {done:>8,} {counts.refused:>9,} {counts.read:>9,} {found:>6,}"
            f" {took:>7.1f} s {done / took:>7,.0f}/s"
        )

    def tell(self, counts: engine.Counts, found: int) -> None:
        if self.live:
            print("\r" + self.line(counts.at + 1, counts, found), end="", file=sys.stderr)


def save(found: Found, folder: Path, n: int) -> Path:
    folder.mkdir(exist_ok=True)
    path = folder / f"{found.case.family}-{n}.json"
    path.write_text(found.case.to_json(found.what))
    return path


def free_number(folder: Path, family: str) -> int:
    used = [int(p.stem.rpartition("-")[2]) for p in folder.glob(f"{family}-*.json")]
    return max(used, default=0) + 1


def models(args: list[str]) -> int:
    """Run the tests that compare pyeal with models and with librte_eal, for hours."""
    files = "units/test_model_fbarray.py", str(SUITE / "units/test_model_segments.py")
    env = {"HYPOTHESIS_PROFILE": "nightly"}
    code: int = tests.run(*files, "-v", "-o", "timeout=3600", *args, **env)
    return code


def main(argv: list[str]) -> int:
    if argv[:1] == ["--model"]:
        return models(argv[1:])
    p = argparse.ArgumentParser(prog="ci/fuzz", description=__doc__)
    known = families()
    p.add_argument("families", nargs="*", metavar="FAMILY", help=f"default: {' '.join(known)}")
    p.add_argument("--inputs", type=int, default=2000, metavar="N", help="a family (default 2000)")
    p.add_argument("--seed", type=int, default=1, help="another one makes other inputs")
    p.add_argument("--keep", type=Path, metavar="DIR", help="where what is found goes, made small")
    p.add_argument("--replay", action="store_true", help="only what was found before")
    args = p.parse_args(argv)
    if unknown := set(args.families) - set(known):
        p.error(f"no family {', '.join(sorted(unknown))}: {' '.join(known)}")
    chosen = [known[name] for name in args.families or known]
    print(f"{'family':14} {'inputs':>8} {'refused':>9} {'read':>9} {'wrong':>6} {'took':>9}")
    wrong = False
    for family in chosen:
        if args.replay:
            cases = [case for _, case in engine.kept() if case.family == family.name]
            make, n = cases.__getitem__, len(cases)
        else:
            make, n = (lambda i, f=family: engine.make(f, args.seed, i)), args.inputs  # type: ignore[misc]
        row = Row(family.name, n)
        counts, found = engine.run(family, make, n, row.tell)
        print(("\r" if row.live else "") + row.line(n, counts, len(found)), flush=True)
        wrong = wrong or bool(found)
        for f in {f.what.partition(" [")[0]: f for f in reversed(found)}.values():  # one of a kind
            small = f if args.replay else engine.smaller(family, f)
            print(
                f"\n{family.name}: {f.what}\n{small.case.to_json(f.what)}", small.detail or f.detail
            )
            if args.keep:
                print(save(small, args.keep, free_number(args.keep, family.name)))
            sys.stdout.flush()
    return 1 if wrong else 0
