"""The conformance run: targets found, pages leased, one pytest a target, one report.

`ci/conform` in a checkout and `pyeal conform` anywhere else run this file's main().
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import fcntl
import json
import os
import platform
import re
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from fnmatch import fnmatchcase
from importlib import metadata
from pathlib import Path

from conformance import SUITE
from conformance.harness import catalogue, host, neighbours, peers
from conformance.harness.console import ink, say
from conformance.runner import builds, git, targets
from conformance.runner.report import merge, pages, results
from conformance.runner.targets import PAIRED, Broken
from pyeal import loans

OK, VERDICTS, BROKEN, INTERRUPTED = 0, 1, 2, 130
WIDE = 120  # columns of a terminal
NOTHING = 5  # pytest's word for no test at all
FAULTS = catalogue.Broken, results.BadMerge
COLOURS = {"passed": 32, "deviating": 33, "failed": 31, "skipped": 36}
HEADS = {"passed": "passed", "deviating": "deviating", "failed": "failed", "skipped": "could not"}


# --- looks


class Progress:
    """One line that rewrites itself on a terminal; elsewhere a line now and then.

    Each test that fails has a line of its own: a long run may be cut short.
    """

    def __init__(self, target):
        self.target, self.total, self.done, self.family = target, 0, 0, ""
        self.begun = self.said = time.monotonic()
        self.worst, self.tty = {}, sys.stdout.isatty()

    def add(self, event):
        self.total = event.get("total", self.total)
        if "test" in event:
            self.family = event["family"] or self.family
            if event["outcome"] == "failed" and self.worst.get(event["test"]) != "failed":
                say("\r\x1b[2K" * self.tty + f"{self.target}: failed: {event['test']}")
            if event["outcome"] != "passed":
                self.worst[event["test"]] = event["outcome"]
            self.done += event["done"]

    def text(self):
        if not self.total:
            return f"{self.target}: collecting"
        bad = list(self.worst.values())
        more = "".join(
            f", {bad.count(o)} {o}" for o in ("failed", "deviating", "skipped") if o in bad
        )
        took = f"{time.monotonic() - self.begun:.0f} s"
        if not self.tty:
            return f"{self.target}: {self.done} of {self.total} tests, {self.family}{more}, {took}"
        full = self.done * 24 // self.total
        bar = ink("━" * full, 32) + ink("━" * (24 - full), 2)
        return f"{self.target} {bar} {self.done}/{self.total} {self.family}{more}, {took}"

    def show(self, last=False):
        if self.tty:
            say("\r\x1b[2K" + ("" if last else self.text()), end="")
        elif not last and self.total and time.monotonic() - self.said > 10:
            self.said = time.monotonic()
            say(self.text())


def matrix(runs):
    """Family by target: how many requirements passed, deviate, failed, could not run.

    In columns with a head each, or where those are wider than a terminal as 310/22/0/13.
    """
    families = {f: None for r in runs for f in r.families()}
    width = max([len(f) for f in families] + [6])
    cell = [max(len(h), 4) for h in HEADS.values()]
    heads = "  ".join(h.rjust(w) for h, w in zip(HEADS.values(), cell, strict=True))
    if width + len(runs) * (4 + len(heads)) <= WIDE:
        gap, group = 4, len(heads)
        titles = [[r.name] for r in runs]
        out = [ink("family".ljust(width) + (" " * gap + heads) * len(runs), 2)]
    else:
        gap, cell = 2, [0] * len(HEADS)
        titles = [r.name.replace(":", " ").replace(" × ", " ×").split() for r in runs]
        titles = [[*t[:-2], t[-1]] if t[-1].startswith(t[-2]) else t for t in titles]
        group = max(12, *(len(word) for t in titles for word in t))
        out = [ink("family".ljust(width) + "  a cell: " + "/".join(HEADS.values()), 2)]
    above = max(map(len, titles))
    titles = [[""] * (above - len(t)) + t for t in titles]

    def line(name, cells):
        return ink(name.ljust(width), 1) + "".join(" " * gap + c for c in cells)

    def counted(c):
        """One run's counts; what pads them has no colour."""
        words = [(str(c[w] if c else 0), COLOURS[w] if c and c[w] else 2) for w in HEADS]
        between, pads = ("  ", cell) if gap == 4 else ("/", [0] * len(words))
        text = between.join(ink(n.rjust(w), k) for (n, k), w in zip(words, pads, strict=True))
        plain = between.join(n.rjust(w) for (n, _), w in zip(words, pads, strict=True))
        return " " * (group - len(plain)) + text if c or gap == 4 else " " * group

    ran = [(len(r.requirements()) - r.counts()["skipped"], len(r.requirements())) for r in runs]
    place = str.ljust if gap == 4 else str.rjust
    out[:0] = [line("", [ink(place(t[i], group), 1) for t in titles]) for i in range(above)]
    out += [line(f, [counted(r.families().get(f)) for r in runs]) for f in families]
    out.append(line("total", [counted(r.counts()) for r in runs]))
    out.append(line("ran", [f"{n} of {of}".rjust(group) for n, of in ran]))
    return "\n".join(x.rstrip() for x in out)


def could_not(runs):
    """Why requirements could not run, and what would let more of them run here."""
    out = []
    for run in runs:
        if reasons := run.reasons():
            out.append(f"\ncould not run on {run.target}:")
            out += [f"  {n:>4}  {why}" for why, n in reasons[:12]]
            if rest := sum(n for _, n in reasons[12:]):
                out.append(f"  {rest:>4}  {len(reasons) - 12} other reasons: see index.html")
    if lacking := wanted(runs):
        out.append("\nmore would run here, whole or in part, with")
        out += [f"  {n:>4}  {what}" for what, n in lacking]
    return "\n".join(out)


def disturbed(runs):
    """Tests that were repeated, since other users of hugepages disturbed them."""
    found = [(r, t) for r in runs for t in r.tests.values() if t.disturbed]
    times = sum(int(t.disturbed.split()[0]) for _, t in found)
    out = [f"\ndisturbed by other users of hugepages: {len(found)} tests, repeated {times} times"]
    for r, t in found[:10]:
        where = f" [{t.params}]" if t.params else ""
        out.append(f"  {r.target}  {t.requirement}{where}: {t.verdict}, {t.disturbed}")
    out += [f"  and {len(found) - 10} more: see run.jsonl"] * (len(found) > 10)
    return "\n".join(out) if found else ""


def wanted(runs):
    """(what would help, requirements that at least wait for it)"""
    waits: dict[str, set] = {}
    pages: dict[str, int] = {}
    for run in runs:
        for t in run.tests.values():
            if t.verdict != "skipped":
                continue
            if m := re.match(r"wanted (\d+) free (\d+[KMG]) pages", t.reason):
                pages[m[2]] = max(pages.get(m[2], 0), int(m[1]))
                waits.setdefault("pages", set()).add(t.requirement)
            elif m := re.match(r"wanted (.+?), found", t.reason):
                what = re.sub(r" for .*", "", m[1])
                waits.setdefault(what, set()).add(t.requirement)
    if pages:
        order = sorted(pages, key=lambda s: host.size(s))
        sizes = ",".join(f"{s}:{max(64 if s == '2M' else 1, pages[s])}" for s in order)
        waits[f"--reserve {sizes}" + ("" if host.is_root() else " (as root)")] = waits.pop("pages")
    return sorted(((w, len(ids)) for w, ids in waits.items()), key=lambda x: -x[1])


def evidence(runs):
    """What was seen, for a run of a few requirements."""
    out = []
    for run in runs:
        for rid, tests in run.requirements().items():
            word = results.verdict(tests)
            out.append(f"\n{ink(rid, 1)} on {run.target} {run.release}: {ink(word, COLOURS[word])}")
            out.append(f"  {tests[0].statement.strip() or tests[0].name}")
            for t in tests:
                out.append(f"  {ink(t.verdict, COLOURS[t.verdict])} {t.name} {t.params}".rstrip())
                out += [f"    {line}" for e in t.evidence for line in e.splitlines()]
                if t.reason:
                    out.append(f"    {t.reason}")
                trace = t.trace.strip().splitlines() if word == "failed" else results.said(t.trace)
                out += [f"    | {line}" for line in trace]
    return "\n".join(out)


# --- the host and the targets


def host_facts(name):
    pools = {sz: {"total": p.total, "free": p.available} for sz, p in host.pools().items()}
    return {
        "name": name,
        "kernel": platform.release(),
        "machine": platform.machine(),
        "cpu": cpu_model(),
        "cpus": len(os.sched_getaffinity(0)),
        "nodes": len(host.nodes()) or 1,
        "pools": pools,
        "uid": os.geteuid(),
        "python": platform.python_version(),
    }


def cpu_model():
    text = Path("/proc/cpuinfo").read_text()
    m = re.search(r"^(?:model name|CPU part|cpu)\s*:\s*(.+)$", text, re.M)
    return m[1].strip() if m else platform.machine()


def revision():
    """Return the commit under test in a checkout, else the package's version."""
    for root in (SUITE.parent, *Path(sys.prefix).parents):  # ci's environment lies in the checkout
        here = (root / ".git").exists() and (root / "conformance/runner/run.py").exists()
        if here and (found := git.describe(root)):
            return found
    try:
        return metadata.version("pyeal-dpdk")
    except metadata.PackageNotFoundError:
        return ""


def chosen(ids):
    """Patterns of ids for pytest: FBA-017 as it is, FBA as FBA-*; refuses what nothing matches."""
    rows = catalogue.rows()
    patterns = []
    for i in ids:
        p = i.upper() if "-" in i or "*" in i else f"{i.upper()}-*"
        if not (found := [r for r in rows if fnmatchcase(r, p)]):
            families = " ".join(sorted({r.family for r in rows.values()}))
            raise Broken(f"no requirement {i}; families are {families}")
        if not pages.tests().keys() & found:
            raise Broken(
                f"no test of {i}: {catalogue.why_untested()[found[0]] or rows[found[0]].statement}"
            )
        patterns.append(p)
    return patterns


# --- one pytest


def die_with_parent():
    """The child gets SIGINT when we end in any way, so that it tears its tests down."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # a shell's background jobs ignore it
    ctypes.CDLL(None).prctl(1, signal.SIGINT)


def run_target(t, args, facts, folder, tmp):
    """Run the suite against one target; answers pytest's JUnit file, exit code and log.

    Nothing for a pair of processes that no test was chosen for.
    """
    part, log = tmp / f"{len(os.listdir(tmp))}.jsonl", folder / f"{_plain(t.name)}.log"
    collected, own = part.with_suffix(".collected"), part.with_suffix(".own")
    own.mkdir(mode=0o700)
    argv = [sys.executable, "-P", "-m", "pytest", "-c", SUITE / "pytest.toml", *args.paths]
    argv += ["-p", "conformance.runner.report.progress", "-p", "no:cacheprovider", "--tb=short"]
    argv += ["-p", "no:hypothesispytest"]  # imports itself whole, for tests that are not here
    argv += [
        "--target",
        t.spec,
        "--host",
        facts["name"],
        *(x for p in args.patterns for x in ("--id", p)),
    ]
    argv += ["--secondary", t.secondary] if t.secondary else []
    # a single requirement is done before workers have started
    n = args.n or ("0" if args.ids and "*" not in "".join(args.patterns) else host.workers(3))
    n = str(n)  # three a core: tests wait more than they work
    argv += ["-n", n, "--dist", "loadgroup"] if n != "0" else []
    argv += ["--report-log", part, "--junitxml", part.with_suffix(".xml")]
    argv += ["--basetemp", part.with_suffix(".tmp")]
    r, w = os.pipe()
    path = [str(SUITE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    env = os.environ | {
        "PYTHONPATH": os.pathsep.join(path),
        "CONFORM_PROGRESS": str(w),
        "CONFORM_COLLECTED": str(collected),
        neighbours.FOLDER: str(own),
    }
    env.pop("PYTHONDONTWRITEBYTECODE", None)  # asserts are rewritten once, not by every worker
    if args.quick:
        env["CONFORM_QUICK"] = "1"
    progress, begun = Progress(t.name), datetime.datetime.now(datetime.UTC)
    with open(log, "wb") as out:
        pytest = subprocess.Popen(
            list(map(str, argv)),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            env=env,
            pass_fds=[w],
            process_group=0,  # Ctrl-C is for us; we pass on one, not the terminal's many
            preexec_fn=die_with_parent,
        )
    os.close(w)
    interrupted = False
    try:
        follow(r, progress)
        code = pytest.wait()
    except KeyboardInterrupt:
        interrupted, code = True, stop(pytest)
    finally:
        os.close(r)
        progress.show(last=True)
    if code == NOTHING and t.secondary:
        return None
    header = {
        "$report_type": "Run",
        "target": t.name,
        "release": t.release,
        "spec": t.spec,
        "secondary": t.secondary,
        "host": facts,
        "ids": args.patterns,
        "revision": args.revision,
        **({"source": t.source} if t.source else {}),
        "started": begun.isoformat(timespec="seconds"),
        "seconds": round(time.monotonic() - progress.begun, 1),
    }
    with open(folder / "run.jsonl", "a", encoding="utf-8") as to:
        to.write(json.dumps(header) + "\n")
        try:
            tests = json.loads(collected.read_text())
            to.write(json.dumps({"$report_type": "Collected", "tests": tests}) + "\n")
        except (FileNotFoundError, ValueError):
            pass  # pytest came to no collection, or its disk is full
        if part.exists():
            to.write(part.read_text().rstrip("\n") + "\n")  # a cut line spoils no header
    if interrupted:
        raise KeyboardInterrupt
    return part.with_suffix(".xml"), code, log


def follow(r, progress):
    """Show the plug-in's events until pytest closes its end."""
    buf = b""
    while True:
        progress.show()
        if select.select([r], [], [], 0.5)[0]:
            if not (got := os.read(r, 65536)):
                return
            *lines, buf = (buf + got).split(b"\n")
            for line in lines:
                progress.add(json.loads(line))


def stop(pytest):
    """Ask pytest to end its tests; in the end, end it."""
    for s, wait in ((signal.SIGINT, 60), (signal.SIGTERM, 5), (signal.SIGKILL, None)):
        pytest.send_signal(s)
        try:
            return pytest.wait(wait)
        except subprocess.TimeoutExpired:
            continue
    return None


def _plain(name):
    return re.sub(r"[^\w.-]+", "_", name).strip("_")


# --- all of it


def arguments(argv):
    p = argparse.ArgumentParser(
        prog="pyeal conform",
        description="Check EALs against the numbered requirements, with what this machine has.",
        epilog="merge RUN.jsonl... -o DIR makes one report out of the runs of many machines; "
        "smoke TARGET looks at a new target before the suite does; bisect GOOD..BAD ID names the "
        "commit at which a requirement changed; diff RUN RUN lists what changed between two runs.",
    )
    p.add_argument("ids", nargs="*", metavar="ID", help="only these: FBA-017, FBA, 'MSL-00*'")
    p.add_argument(
        "--target",
        action="append",
        default=[],
        metavar="T",
        help="pyeal[:RELEASE], librte_eal[:RELEASE or PATH], source:REPO[@REV] or "
        "'cmd:PROGRAM ARGS'; may be repeated (default: pyeal and librte_eal). PATH "
        "is a library, a build directory or an installation's prefix; PATH@20.11.10 gives the "
        "release of a library that reports none",
    )
    p.add_argument(
        "--peer",
        action="append",
        nargs="?",
        const=targets.PEER,
        default=[],
        metavar="RELEASE",
        help=f"fetch Debian's librte_eal and test that: {', '.join(peers.releases())} or all",
    )
    p.add_argument(
        "--no-peer",
        action="store_true",
        help="if no librte_eal is installed, test pyeal alone instead of fetching Debian's",
    )
    p.add_argument(
        "--all",
        action="store_true",
        help=f"eight targets: pyeal and Debian's librte_eal, each in {', '.join(peers.releases())}",
    )
    p.add_argument(
        "--interop",
        action="store_true",
        help="primary × secondary of pyeal and librte_eal, in each release of --peer and of each "
        "--target librte_eal:PATH (default: --peer all): the table of pairs and modes",
    )
    p.add_argument(
        "--reserve",
        metavar="2M:512,1G:1",
        help="make so many hugepages available for the run, as root; given back at the end",
    )
    builds.add_options(p)
    p.add_argument("--report", type=Path, metavar="DIR", help="default: conform-report")
    p.add_argument("-n", metavar="WORKERS", help="default: three a core, as far as pages allow")
    p.add_argument("--quick", action="store_true", help="one parameter set of each test")
    p.add_argument("--host", default=platform.node(), help="name of this machine in the report")
    return p.parse_args(argv)


def report_folder(asked):
    """Where the report goes; a folder under /tmp when the current one is not ours to write to."""
    folder = asked or Path("conform-report")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for old in ("run.jsonl", "summary.json", "index.html", "junit.xml", *folder.glob("*.log")):
            (folder / old).unlink(missing_ok=True)
        with open(folder / "run.jsonl", "w"):
            return folder
    except OSError as e:
        if asked:
            raise Broken(f"--report {asked}: {e.strerror}") from None
        return Path(tempfile.mkdtemp(prefix="conform-report-"))


def main(argv):
    args = arguments(argv)
    for s in (signal.SIGTERM, signal.SIGHUP):  # leases go back however we are ended
        signal.signal(s, signal.default_int_handler)
    try:
        loans.recover(say)
        if (args.build or args.library) and not any(
            (*args.source, *(t for t in args.target if t.startswith(builds.PREFIX)))
        ):
            raise Broken("--build and --library are of a source tree: expected --source REPO[@REV]")
        if args.interop and any(t.partition(":")[0] == "pyeal" for t in args.target):
            raise Broken("--interop adds pyeal in the release of each --target and --peer")
        if args.all and (args.target or args.source or args.peer or args.interop):
            raise Broken("--all has targets of its own, and their pairs are --interop")
        args.paths = [SUITE]
        args.patterns = chosen(args.ids or (PAIRED if args.interop else ()))
        folder = report_folder(args.report)
        try:
            if args.reserve:
                took = loans.lease(loans.parse(args.reserve), say=say)
                say(f"hugepages taken: {loans.text(took)}")
            return conform(args, folder)
        finally:
            if gave := loans.give_back(say=say):
                say(f"hugepages given back: {loans.text(gave)}")
    except (Broken, builds.BuildFailed, git.GitError, loans.Refused, *FAULTS) as e:
        print(f"conform: {e}", file=sys.stderr)
        return BROKEN
    except OSError as e:  # a full disk, for one
        print(f"conform: this machine fails: {e}", file=sys.stderr)
        return BROKEN
    except KeyboardInterrupt:
        print("conform: interrupted", file=sys.stderr)
        return INTERRUPTED


def working_folder(base=None):
    """Of this run, in `base`, locked as long as it lives; those of runs that were killed go."""
    base = Path(base or tempfile.gettempdir())
    for d in base.glob("pyeal-run-*"):
        if neighbours.private(d) and locked(d):
            shutil.rmtree(d, ignore_errors=True)
    new = tempfile.mkdtemp(prefix="pyeal-new-", dir=base)
    locked(new)
    return Path(new).rename(base / new.rpartition("/")[2].replace("new", "run", 1))


def locked(folder):
    """Whether this process has locked a folder, until it ends: no living process had."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(fd)
        return False
    return True


def memory():
    """Where thousands of small files cost least: /dev/shm with 256 MB, where programs may run."""
    try:
        fs = os.statvfs("/dev/shm")
    except OSError:
        return None
    roomy = fs.f_bavail * fs.f_frsize >= 256 << 20 and not fs.f_flag & os.ST_NOEXEC
    return "/dev/shm" if roomy and os.access("/dev/shm", os.W_OK) else None


def conform(args, folder):
    facts, args.revision = host_facts(args.host), revision()
    pools = [f"{p['free']} of {p['total']} {s} pages free" for s, p in facts["pools"].items()]
    say(
        f"host {facts['name']}: kernel {facts['kernel']}, {facts['cpus']} CPUs, "
        f"{facts['nodes']} node(s), {'root' if host.is_root() else 'uid ' + str(facts['uid'])}, "
        + (", ".join(pools) or "no hugepages")
    )
    if args.interop:
        todo = list(targets.interop(args))
    elif args.all:
        todo = [t for both in targets.both_of(["all"]) for t in both]
    else:
        found = targets.targets(args)
        todo = [*found, *targets.pairs(found, args.patterns)]
    for t in todo:
        if t.source and not t.secondary:
            say(f"{t.name}: {results.built_from(t.source)}")
    said, interrupted = [], False
    tmp = working_folder(memory())
    try:
        for t in todo:
            try:
                if done := run_target(t, args, facts, folder, tmp):
                    said.append((t, *done))
            except KeyboardInterrupt:
                interrupted = True
                break
        results.junit([(t.name, xml) for t, xml, _, _ in said], folder / "junit.xml")
    finally:
        shutil.rmtree(tmp, ignore_errors=True)
    runs = results.load(folder / "run.jsonl")
    pages.write(merge.of(runs), folder, catalogue.rows(), catalogue.why_untested())
    if any(r.tests for r in runs):
        say()
        say(results.interop(runs) if args.interop else matrix(runs))
    if args.ids and sum(len(r.requirements()) for r in runs) <= 8 * len(runs):
        say(evidence(runs))
    else:
        if text := could_not(runs):
            say(text)
        for word in ("deviating", "failed"):
            if text := listed(runs, word):
                say(text)
    if text := disturbed(runs):
        say(text)
    say(f"\nreport: {folder / 'index.html'}")
    if interrupted:
        raise KeyboardInterrupt
    return judge(said, runs)


def listed(runs, word):
    """Tests with this verdict and why; of a deviation, which is one sentence, each only once."""
    found = [(r, t) for r in runs for t in r.tests.values() if t.verdict == word]
    if word == "deviating":
        found = list({(r.target, t.requirement, t.reason): (r, t) for r, t in found}.values())
    out = [f"\n{ink(word, COLOURS[word])}:"] * bool(found)
    for r, t in found[:40]:
        where = f" [{t.params}]" if t.params else ""
        out.append(f"  {r.target}  {t.requirement}{where}: {t.reason[:200]}")
    out += [f"  and {len(found) - 40} more: see index.html"] * (len(found) > 40)
    return "\n".join(out)


def judge(said, runs):
    """0 as expected, 1 verdicts, 2 when a run is broken and says nothing."""
    code = OK
    for (t, _, exit_code, log), run in zip(said, runs, strict=True):
        if exit_code not in (0, 1) or run.broken:
            tail = log.read_text(errors="replace").strip().splitlines()[-15:]
            why = "no test was chosen" if exit_code == 5 else f"pytest ends with {exit_code}"
            print(f"conform: {t.name}: {'; '.join([why, *run.broken])}", file=sys.stderr)
            print("\n".join(f"  | {line}" for line in tail), file=sys.stderr)
            code = BROKEN
        elif lost := [x for x in run.tests.values() if x.reason.startswith(neighbours.NOT_JUDGED)]:
            print(f"conform: {t.name}: {len(lost)} tests {neighbours.NOT_JUDGED}", file=sys.stderr)
            code = BROKEN
        elif run.counts()["failed"] and code == OK:
            code = VERDICTS
    return code
