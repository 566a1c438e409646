"""The commit at which a requirement changed, between two revisions of a source tree.

    pyeal conform bisect GOOD..BAD ID... --source REPO --build COMMAND --library PATH

Both ends are built and run, and the range between them is halved; all rows share the runs. A
commit that does not build, or whose target does not start, is skipped. A verdict that is neither
that of one end nor of the other is repeated. The commit that is named and the one before it run
twice. If two runs of a commit differ, a verdict counts when it leads by three runs.
Exit codes: 0 nothing changed, 1 a commit is named, 2 could not.

What is known is kept after each step: the same command goes on after Ctrl-C.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import platform
import shlex
import shutil
import signal
import sys
import tempfile
import textwrap
import time
from collections import Counter
from fnmatch import fnmatchcase
from pathlib import Path
from types import SimpleNamespace

from conformance import SUITE
from conformance.harness import catalogue
from conformance.runner import builds, run, targets
from conformance.runner.git import GitError, Repository
from conformance.runner.report import pages, results
from conformance.runner.targets import Broken
from pyeal import loans

SCHEMA, STATE = "pyeal.bisect/1", "pyeal.bisect-state/1"
SAME, NAMED, COULD_NOT, INTERRUPTED = 0, 1, 2, 130
STEADY = 3  # how far a verdict leads, where runs of a commit differ
MOST = 9  # runs of one commit


def say(text=""):
    print(text, file=sys.stderr, flush=True)


class Known:
    """What runs have shown, of each revision; kept in a file, if one is given."""

    def __init__(self, file=None):
        self.file = file
        self.runs: dict[str, dict[str, list]] = {}  # revision -> row -> one entry for each run
        self.unusable: dict[str, str] = {}  # revision -> why
        self.compilers: dict[str, str] = {}
        self.counts = {"builds": 0, "runs": 0}
        if file and file.exists():
            was = json.loads(file.read_text())
            if was.get("schema") == STATE:
                self.runs, self.unusable = was["runs"], was["unusable"]
                self.compilers, self.counts = was["compilers"], was["counts"]

    def save(self):
        if self.file:
            new = self.file.with_suffix(".new")
            kept = {k: getattr(self, k) for k in ("runs", "unusable", "compilers", "counts")}
            new.write_text(json.dumps({"schema": STATE} | kept))
            new.rename(self.file)

    def forget(self):
        if self.file:
            self.file.unlink(missing_ok=True)

    def entries(self, sha, row):
        return self.runs.get(sha, {}).get(row, [])

    def verdict(self, sha, row, lead=1):
        """Return the verdict that leads by so many runs, None if none does."""
        first, *rest = Counter(e["verdict"] for e in self.entries(sha, row)).most_common(2) or [()]
        if first and first[1] - (rest[0][1] if rest else 0) >= lead:
            return first[0]
        return None


class Search:
    """The search, apart from git and builds.

    repo.between(olds, new): commits that are not yet excluded, best first. probe(sha, rows): run
    them; {row: entry}, or Broken, BuildFailed if the commit cannot be judged.
    """

    def __init__(self, repo, probe, known, rows):
        self.repo, self.probe, self.known, self.rows = repo, probe, known, rows
        self.lead = 1  # of a verdict that counts

    def verdict(self, sha, row, lead=1):
        """Return the verdict of a row at a commit, by as many runs as that takes; None if it is not
        clear, or if the commit has none."""
        lead = max(lead, self.lead)
        while (word := self.known.verdict(sha, row, lead)) is None:
            done = self.known.entries(sha, row)
            if sha in self.known.unusable or len(done) >= MOST:
                return None
            try:
                found = self.probe(sha, self.rows if not done else [row])
            except (Broken, builds.BuildFailed) as e:
                say(f"{sha[:10]} is skipped: {str(e).splitlines()[0]}")
                self.known.unusable[sha] = str(e)
            else:
                self.known.counts["runs"] += 1
                for id, entry in found.items():
                    self.known.runs.setdefault(sha, {}).setdefault(id, []).append(entry)
                if row not in found:
                    self.known.unusable[sha] = f"{row} did not run"
            self.known.save()
        return word

    def first(self, row, good, bad):
        """Return the commits one of which is the first with the verdict of `bad`: one, if it could
        be told; [] if both ends are alike."""
        while True:
            found, steady = self._first(row, good, bad)
            if steady or self.lead == STEADY:
                return found
            say(f"{row} is not steady: runs of one commit differ, each now runs until one leads")
            self.lead = STEADY

    def _first(self, row, good, bad):
        old, new = self.verdict(good, row), self.verdict(bad, row)
        if old == new:
            return [], self.verdict(good, row, 2) == self.verdict(bad, row, 2) == old
        olds, at, skipped = [good], bad, set()
        while True:
            left = self.repo.between(olds, at)
            usable = [c for c in left if c != at and c not in skipped | set(self.known.unusable)]
            if not usable:
                break
            failed = len(left) - 1 - len(usable)
            c = usable[len(usable) * failed // (failed + 3)]  # away from what does not build
            word = self.verdict(c, row)
            if word not in (old, new, None):
                word = self.verdict(c, row, 2)
            if word == old:
                olds.append(c)
            elif word == new:
                at = c
            else:
                skipped.add(c)
            say(f"{row} {c[:10]}: {word or 'not clear'}, {len(left) - 1} commits were left")
        sure = self.verdict(at, row, 2) == new and all(
            self.verdict(p, row, 2) == old for p in self.repo.parents(at) if p in olds
        )
        return [at, *(c for c in left if c != at)], sure


# --- probing: a build and a run


class Prober:
    """Builds a revision and runs requirements on it."""

    def __init__(self, args, cache, known, tmp):
        self.args, self.cache, self.known, self.tmp = args, cache, known, Path(tmp)
        self.facts = run.host_facts(platform.node())

    def __call__(self, sha, rows):
        made = self.cache.made
        try:
            target = targets.of_revision(self.cache, self.args.source, sha, self.args)
        finally:
            self.known.counts["builds"] += self.cache.made - made
        self.known.compilers[sha] = target.source["compiler"]
        return entries(once(target, rows, self.facts, self.tmp))


def once(target, rows, facts, tmp):
    """Return one run of some requirements, its report apart. Raises Broken if it has no verdict."""
    tests = pages.tests()
    paths = list(dict.fromkeys(SUITE / tests[r].path for r in rows))
    args = SimpleNamespace(patterns=rows, ids=rows, n="0", quick=False, revision="", paths=paths)
    with (
        tempfile.TemporaryDirectory(dir=tmp) as folder,
        contextlib.redirect_stdout(sys.stderr),
    ):
        work = Path(folder, "work")
        work.mkdir()
        _, code, log = run.run_target(target, args, facts, Path(folder), work)
        (found,) = results.load(Path(folder, "run.jsonl"))
        if code not in (0, 1) or found.broken:
            last = log.read_text(errors="replace").strip().splitlines()[-1:]
            raise Broken("; ".join([f"pytest ends with {code}", *found.broken, *last]))
        return found


def entries(found):
    """Return what is kept of a run: {row: {verdict, tests}}."""

    def test(t):
        trace = results.said(t.trace) if t.verdict in ("failed", "deviating") else []
        seen = [line for e in t.evidence for line in str(e).splitlines()]
        more = {"reason": t.reason, "evidence": seen, "trace": trace}
        return {"name": t.name, "params": t.params, "verdict": t.verdict} | more

    return {
        row: {"verdict": results.verdict(tests), "tests": [test(t) for t in tests]}
        for row, tests in found.requirements().items()
    }


# --- the result


def result(args, repo, known, good, bad, found, seconds):
    """Return what --json prints: {schema, rows: [{id, first, before, after, ...}], ...}."""
    rows = catalogue.rows()

    def side(sha, id):
        c, seen = repo.commit(sha), known.entries(sha, id)
        word = known.verdict(sha, id)
        tests = next((e["tests"] for e in reversed(seen) if e["verdict"] == word), [])
        head = {"revision": sha, "date": c.date, "subject": c.subject}
        return head | {"verdict": word, "runs": len(seen), "tests": tests}

    def row(id, commits):
        told = {"id": id, "statement": rows[id].statement, "level": rows[id].level}
        told |= {"good": known.verdict(good.sha, id), "bad": known.verdict(bad.sha, id)}
        told["candidates"] = [repo.commit(c)._asdict() for c in commits]
        if len(commits) == 1:
            before = next((p for p in repo.parents(commits[0]) if known.entries(p, id)), good.sha)
            told |= {"first": commits[0], "before": side(before, id), "after": side(commits[0], id)}
        elif commits:
            told |= {"first": None, "before": side(good.sha, id), "after": side(commits[0], id)}
        return told

    return {
        "schema": SCHEMA,
        "repository": str(repo.path),
        "good": good._asdict(),
        "bad": bad._asdict(),
        "commits": len(repo.between([good.sha], bad.sha)),
        "command": args.build,
        "library": args.library,
        "reserve": args.reserve,
        "compiler": known.compilers.get(bad.sha, ""),
        "host": run.host_facts(platform.node()),
        "suite": run.revision(),
        "rows": [row(id, commits) for id, commits in found.items()],
        "skipped": [{"revision": c, "why": why} for c, why in known.unusable.items()],
        **known.counts,
        "seconds": round(seconds, 1),
    }


def letter(r):
    """Return the result as a text for a mailing list."""
    out = []
    changed = [x for x in r["rows"] if x["candidates"]]
    for x in changed:
        out += [*one(r, x), ""]
    if same := [x["id"] for x in r["rows"] if not x["candidates"]]:
        ends = f"{r['good']['sha'][:10]} and {r['bad']['sha'][:10]}"
        out += [*fill(f"Alike at {ends}: {', '.join(same)}"), ""]
    f = r["host"]
    out += fill(
        f"{r['commits']} commits, {r['builds']} builds, {r['runs']} runs in {r['seconds']:.0f} s; "
        f"kernel {f['kernel']}, {f['machine']}, {f['cpus']} CPUs, {pages.pools(f)} pages"
        + (f", {r['compiler']}" if r["compiler"] else "")
        + (f"; suite {r['suite']}" if r["suite"] else "")
    )
    for p in r["skipped"]:
        out += fill(f"Skipped: {p['revision'][:10]}, {p['why'].splitlines()[0]}")
    return "\n".join(out)


def one(r, x):
    """Lines on one requirement that changed."""
    after, before = x["after"], x["before"]
    if x["first"]:
        where = f'{after["revision"][:10]} ("{after["subject"]}")'
        yield f"Subject: {x['id']}: {after['verdict']} since {where}"
        yield ""
        yield from fill(f"The first commit at which {x['id']} is {after['verdict']} is {where}.")
    else:
        yield f"Subject: {x['id']}: {after['verdict']} since one of {len(x['candidates'])} commits"
        yield ""
        yield from fill(
            f"The first commit at which {x['id']} is {after['verdict']} is one of these:"
        )
        yield from (f'  {c["sha"][:10]} ("{c["subject"]}")' for c in x["candidates"])
    yield ""
    yield from fill(f"{x['id']} ({x['level']}): {x['statement']}")
    for head, side in (("Before", before), ("After", after)):
        yield ""
        runs = f", {side['runs']} runs" if side["runs"] > 1 else ""
        yield f"{head}, at {side['revision'][:10]}: {side['verdict']}{runs}"
        yield from seen(side)
    yield ""
    yield "To reproduce:"
    for side in (before, after):
        source = f"{r['repository']}@{side['revision'][:10]}"
        argv = ["pyeal", "conform", x["id"], "--source", source, "--build", r["command"]]
        argv += ["--library", r["library"], *(["--reserve", r["reserve"]] if r["reserve"] else [])]
        yield f"  {shlex.join(argv)}"


def seen(side):
    """What the tests of one side saw: those with its verdict, no more than four."""
    shown = [t for t in side["tests"] if t["verdict"] == side["verdict"]]
    for t in shown[:4]:
        yield f"  {t['name']} {t['params']}".rstrip()
        yield from (f"    {line}" for line in t["evidence"][:6])
        said = t["trace"] or [t["reason"]]
        yield from (f"    | {line}" for line in said[:8] if line)
    if len(shown) > 4:
        yield f"  and {len(shown) - 4} more"


def fill(text):
    return textwrap.wrap(text, 78, break_long_words=False, break_on_hyphens=False)


# --- the command


def arguments(argv):
    p = argparse.ArgumentParser(
        prog="pyeal conform bisect",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("range", metavar="GOOD..BAD", help="two revisions, the first an ancestor")
    p.add_argument("ids", nargs="+", metavar="ID", help="FBA-017, FBA, 'MSL-00*'")
    builds.add_options(p, source="one")
    p.add_argument("--reserve", metavar="2M:512,1G:1", help="as for pyeal conform")
    p.add_argument("--json", action="store_true", help=f"schema {SCHEMA}")
    args = p.parse_args(argv)
    args.good, dots, args.bad = args.range.partition("..")
    if not (args.good and dots and args.bad) or args.bad.startswith("."):
        p.error(f"{args.range}: expected GOOD..BAD, as in v24.03..v24.07")
    if not (args.build and args.library):
        p.error("expected --build COMMAND and --library PATH, which say how a revision is built")
    return args


def chosen(ids):
    """Return the requirements with a test that these ids and patterns mean."""
    patterns, tests = run.chosen(ids), pages.tests()
    return [r for r in catalogue.rows() if r in tests and any(fnmatchcase(r, p) for p in patterns)]


def bisect(args):
    rows = chosen(args.ids)
    repo = Repository(args.source)
    good, bad = repo.commit(args.good), repo.commit(args.bad)
    if good.sha == bad.sha or not repo.is_ancestor(good.sha, bad.sha):
        base = repo.merge_base(good.sha, bad.sha)
        fix = f" Fix: {base[:10]}..{args.bad}, from where they part" if base else ""
        raise Broken(f"{args.good} is no ancestor of {args.bad}: expected an earlier commit.{fix}")
    cache = builds.Cache(args.cache, say)
    key = json.dumps([str(repo.path), good.sha, bad.sha, rows, args.build, args.library])
    name = hashlib.sha256(key.encode()).hexdigest()[:20]
    known, begun = Known(cache.folder / f"bisect-{name}.json"), time.monotonic()
    if known.runs:
        say(f"going on after {known.counts['runs']} runs")
    tmp = run.working_folder(run.memory())
    try:
        search = Search(repo, Prober(args, cache, known, tmp), known, rows)
        changed = rows if len(rows) == 1 else []
        for id in rows:
            ends = {c.sha: search.verdict(c.sha, id) for c in (good, bad)}
            for c in (good, bad):
                if ends[c.sha] in (None, "skipped") and len(rows) == 1:
                    raise Broken(f"{id} has no verdict at {c}: {why(known, c.sha, id)}")
            words = set(ends.values())
            if len(rows) > 1 and len(words) == 2 and not words & {None, "skipped"}:
                changed.append(id)
        found, search.rows = dict.fromkeys(rows, ()), changed
        for id in changed:
            found[id] = search.first(id, good.sha, bad.sha)
            search.rows = [r for r in search.rows if r != id]
        return result(args, repo, known, good, bad, found, time.monotonic() - begun), known
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def why(known, sha, id):
    if sha in known.unusable:
        return known.unusable[sha]
    tests = [t for e in known.entries(sha, id) for t in e["tests"]]
    return next((t["reason"] for t in tests if t["reason"]), "its runs differ")


def main(argv):
    args = arguments(argv)
    for s in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(s, signal.default_int_handler)
    try:
        loans.recover(say)
        if args.reserve:
            loans.lease(loans.parse(args.reserve), say=say)
        try:
            r, known = bisect(args)
        finally:
            loans.give_back(say=say)
    except (Broken, builds.BuildFailed, GitError, loans.Refused, *run.FAULTS) as e:
        print(f"bisect: {e}", file=sys.stderr)
        return COULD_NOT
    except OSError as e:
        print(f"bisect: this machine fails: {e}", file=sys.stderr)
        return COULD_NOT
    except KeyboardInterrupt:
        print("bisect: interrupted; the same command goes on from here", file=sys.stderr)
        return INTERRUPTED
    known.forget()
    print(json.dumps(r, indent=1) if args.json else letter(r))
    return NAMED if any(x["candidates"] for x in r["rows"]) else SAME
