"""Every system call of a start made to fail, and a kill at every step: what the target makes of it.

    python -m conformance faults [--target T] [--mode M] [--kill] [--limit N] [--json]

One clean start is traced; then each of its calls is made to fail with each errno of calls.toml, one
a start, by strace. pyeal must continue with all that was asked for, or end with an EalError that
names the cause, leave nothing, and be able to start again. For librte_eal the outcome is noted.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import errno
import functools
import itertools
import json
import os
import re
import sys
import tempfile
import time
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from conformance import HUGE_FILES, MB, MODES, until
from conformance.campaigns.faults import compare
from conformance.harness import fake_host, host, proc
from conformance.harness.box import Box, BoxError, lifeline
from conformance.harness.child import Child, TargetDied, TargetError, TargetHung, environment
from conformance.harness.console import ink
from conformance.harness.forkserver import ForkServer
from conformance.harness.trace import Trace

HERE = Path(__file__).parent
PREFIX = "faults"
PAGES = 12  # of 2M in the box
ASKED = ["-m", "8"]
LIMIT = 8.0  # seconds for one answer; a longer one counts as a hang
MODES_OF = {m: [*MODES[m], *ASKED] for m in MODES}
ATTACH = {f"{m}+secondary": m for m in HUGE_FILES}
KILLED = [*HUGE_FILES, *ATTACH]


# --- the target, forked


class Forked(Child):
    """A target that the fork server has forked."""

    def __init__(self, forkserver, log):
        super().__init__(["forked"], log, limit=LIMIT, begin=forkserver.fork)

    def end(self):
        """Gone, whatever state it is in."""
        self.kill()
        self.logfile.unlink(missing_ok=True)


# --- the calls of a clean start


class Step(NamedTuple):
    """The n-th call of a name, and what the tables call it."""

    call: str
    n: int
    label: str
    paths: tuple[str, ...]
    kind: str  # what of the skip table it is, or its label

    @property
    def inject(self):
        return f"{self.call}:error={{}}:when={self.n}"


STD = {"0": "stdin", "1": "stdout", "2": "stderr"}
NUMBERS = re.compile(r"\d+")
FD = re.compile(r"(\d+|AT_FDCWD)<(.*)>$")


def steps_of(calls, prefix=PREFIX, answer='{\\"'):
    """The calls of one start, from the request on (without it) to the answer (without it)."""
    counts, areas, found = collections.Counter(), [], []
    for c in calls:
        counts[c.name] += 1
        if c.name == "write" and c.args[1].startswith(f'"{answer}'):
            break
        paths = tuple(_paths(c))
        kind = _kind(c, paths, areas)
        label = f"{c.name} {_short(paths[-1], prefix)}" if paths and kind == c.name else kind
        found.append(Step(c.name, counts[c.name], label, paths, kind))
    return found


def _paths(c):
    base = ""
    for a in c.args:
        if m := FD.match(a):
            if m[1] == "AT_FDCWD":
                continue
            base = m[2]
            if base.startswith("/"):
                yield base
        elif a.startswith('"') and c.name not in ("write", "read", "pread64", "sendmsg"):
            path = a.strip('"')
            yield path if path.startswith("/") or not base else f"{base}/{path}".rstrip("/")


def _short(path, prefix):
    path = path.replace(prefix, "PREFIX").removesuffix(" (deleted)")
    path = re.sub(r"(map|seg)_\d+(-\d+)?", r"\1_N", path)
    path = re.sub(r"mp_socket_\w+", "mp_socket_N", path)
    path = re.sub(r"(\d-\d)_\d+(_\w+)?$", r"\1_N", path)
    return re.sub(r"(/proc|/task|/cpu|node)/?\d+", r"\1N", path)


def _shorts(found):
    return [[_short(p, PREFIX) for p in paths] for paths in found]


def _kind(c, paths, areas):
    """The call's name; with what it is about where it is about memory of the interpreter's own.

    areas: (address, bytes, whether it is that), the latest mapping last.
    """
    if c.name in ("read", "write") and (m := FD.match(c.args[0])) and m[1] in STD:
        return f"{c.name} {STD[m[1]]}"
    if c.name == "mmap":
        free, prot, flags = c.args[0] == "NULL" and "MAP_ANONYMOUS" in c.args[3], *c.args[2:4]
        word = "stack" if "MAP_STACK" in flags else "rw" if "WRITE" in prot else "none"
        own = free and word != "none"
        if c.ret and c.ret > 0:
            areas.append((c.ret, int(c.args[1], 0), own))
        return f"mmap anon {word}" if own or not paths else "mmap"
    if c.name in ("munmap", "mprotect", "madvise", "mremap"):
        at = int(c.args[0], 0) if c.args[0] != "NULL" else 0
        own = next((own for va, n, own in reversed(areas) if va <= at < va + n), True)
        return f"{c.name} own" if own else c.name
    return c.name


@functools.cache
def tables():
    return tomllib.loads((HERE / "calls.toml").read_text())


def skipped(step):
    """Why a step is left alone, or None."""
    for pattern, why in tables()["skipped"].items():
        if fnmatchcase(step.kind, pattern) or fnmatchcase(step.label, pattern):
            return why
    return None if step.call in tables()["errnos"] else "calls.toml has no errno of it"


# --- one case


class Case(NamedTuple):
    target: str
    mode: str
    step: Step
    errno: str
    outcome: str  # goes on, ends, died, hung, error
    text: str
    left: list[str]
    wrong: str  # "" when all is as it must be
    rte_errno: int | None = None

    def facts(self):
        s = self.step
        facts = {"target": self.target, "mode": self.mode, "call": s.call, "n": s.n}
        return (
            facts
            | {"on": s.label}
            | {
                k: getattr(self, k)
                for k in ("errno", "outcome", "rte_errno", "text", "left", "wrong")
            }
        )


class Scene:
    """A box with few pages, and the targets that start in it again and again."""

    def __init__(self, target, mode, tmp):
        self.target, self.mode, self.tmp = target, mode, Path(tempfile.mkdtemp(dir=tmp))
        self.first = ATTACH.get(mode)
        self.stack = contextlib.ExitStack()
        self.box = Box({"2M": PAGES}, binds=fake_host.build(self.tmp / "host", {"2M": PAGES}))
        self.stack.callback(self.box.close)
        env = environment() | self.box.environment() | {"PYTHONHASHSEED": "0"}
        self.forkserver, self.logs = ForkServer(target, self.box.enter, env), itertools.count()
        self.stack.callback(self.forkserver.close)
        self.huge = self.box.path(self.box.hugedir("2M"))
        self.run = self.box.path(f"{host.RUN}/dpdk")
        self.run.mkdir()
        self.primary, self.ended = None, set()
        self.life()
        self.ended = self.left()  # of a life that nothing disturbed: legacy keeps its pages' files
        self.sweep(everything=True)
        common = ["--file-prefix", PREFIX]
        self.args = [*MODES_OF[self.first or mode], *common]
        if self.first:
            self.begin()
            self.args = ["--proc-type=secondary", *common]
        self.note()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.primary:
            self.primary.end()
        self.stack.close()

    def fork(self):
        return Forked(self.forkserver, self.tmp / f"{next(self.logs)}.log")

    def note(self):
        """What a case begins with."""
        self.before, self.files = self.left(), set(os.listdir(self.huge))

    def begin(self):
        """The primary that is joined."""
        self.primary = self.fork()
        self.primary.ask("init", args=[*MODES_OF[self.first], "--file-prefix", PREFIX])

    def child(self):
        return self.fork()

    def left(self):
        """Files of the prefix, and pages that are not free."""
        found = {f"{d.name}/{f}" for d in self.run.glob("*") for f in ("", *os.listdir(d))}
        found |= {f"page file {i}" for i, _ in enumerate(os.listdir(self.huge))}
        return found | {f"page {i}" for i in range(self.used())}

    def settle(self, wanted):
        """What is left beyond that, once the kernel has taken the pages that no file holds."""
        extra = set()

        def settled():
            nonlocal extra
            extra = self.left() - wanted
            return not any(e.startswith("page ") for e in extra) or self.in_files() == self.used()

        until(settled)
        return sorted(extra)

    def used(self):
        """Pages of the mount that are not free."""
        st = os.statvfs(self.huge)
        return st.f_blocks - st.f_bfree

    def in_files(self):
        """Pages of the mount that its files have."""
        sizes = [(self.huge / f).stat().st_blocks * 512 for f in os.listdir(self.huge)]
        return sum(sizes) // os.statvfs(self.huge).f_bsize

    def sweep(self, everything=False):
        """Takes away what a case has left."""
        before, pages = (set(), set()) if everything else (self.before, self.files)
        for f in set(os.listdir(self.huge)) - pages:
            (self.huge / f).unlink()
        for name in sorted(self.left() - before, reverse=True):
            if not name.startswith("page"):
                path = self.run / name
                path.rmdir() if name.endswith("/") else path.unlink(missing_ok=True)

    def trace(self, child, calls, inject=""):
        out = self.tmp / f"{child.pid}.strace"
        inject = [inject] if inject else []
        return Trace(child.pid, calls, out, inject=inject, prefix=lifeline(), follow=False)

    def clean(self):
        """The steps of a start that nothing disturbs, how many pages it has and what it leaves."""
        child = self.child()
        t = self.trace(child, "")
        child.ask("init", args=self.args)
        steps = steps_of(t.stop())
        self.segments = len(child.ask("segments"))
        self.facts = child.target, child.release
        child.close()
        self.kept = self.left()
        self.sweep()
        return steps

    # what a case is judged by

    def fail(self, step, name):
        """One start with one call failing; again, when it was another call that failed: strace may
        or may not see the end of the read that the target waits in, and how many runs of frames the
        kernel gives decides how often a run is mapped."""
        for attempt in range(6):
            if attempt > 1:
                step = next((s for s in reversed(self.clean()) if s.label == step.label), step)
            case, hit = self._fail(step, name)
            if hit:
                break
        return case if hit else case._replace(wrong=compare.NOT_REACHED)

    def _fail(self, step, name):
        child, left, text = self.child(), set(), ""
        try:
            before = self.inside(child.pid)
            t = self.trace(child, step.call, step.inject.format(name))
            outcome, text, rte_errno = self.start(child)
            hit = [[*_paths(c)] for c in t.stop() if c.injected]
            hit = _shorts(hit) == _shorts([step.paths])
            if outcome == "ends":
                left = self.settle(self.before)
            wrong = self.judge(child, step, name, outcome, text, left, before)
            child.close()
        except (TargetDied, TargetHung) as e:
            wrong = f"later: {str(e).splitlines()[0]}"
        finally:
            child.end()
        left = left or self.settle(self.kept)
        if left and not wrong and outcome == "goes on":
            wrong = self.extra(left, step)
        if self.primary and not self.primary.alive:
            wrong = "the primary died"
            self.begin()
            self.note()
        self.sweep()
        if self.facts[0] != "pyeal":
            wrong = ""
        return Case(self.target, self.mode, step, name, outcome, text, left, wrong, rte_errno), hit

    def start(self, child):
        try:
            child.ask("init", args=self.args)
        except TargetError as e:
            text = e.text if self.facts[0] == "pyeal" else e.log.strip().rpartition("\n")[2]
            return ("ends" if e.errno is not None else "error"), text, e.errno
        except TargetHung:
            return "hung", f"no answer in {LIMIT:g} s", None
        except TargetDied as e:
            return "died", str(e).splitlines()[0], None
        return "goes on", "", None

    def inside(self, pid):
        """What a process holds: descriptors by their files, big or shared mappings, threads."""
        fds = collections.Counter(fd.path for fd in proc.fds(pid).values())
        maps = collections.Counter(
            m.path or "address space"
            for m in proc.maps(pid)
            if "dpdk" in m.path or "huge" in m.path or (m.perms == "---p" and m.len >= 1 << 28)
        )
        return fds + maps + collections.Counter(threads=len(os.listdir(f"/proc/{pid}/task")))

    def judge(self, child, step, name, outcome, text, left, before):
        """What is wrong with it, "" if nothing."""
        if outcome == "goes on":
            n = len(child.ask("segments"))
            if n < self.segments:
                return f"it goes on with {n} of {self.segments} segments"
            return self.works(child)
        if outcome != "ends":
            return f"not an EalError: {text}" if outcome == "error" else outcome
        strerror = os.strerror(getattr(errno, name))
        named = {strerror, tables()["named"].get(step.call, strerror), *step.paths}
        named |= {os.path.basename(p).removeprefix("fbarray_") for p in step.paths} - {""}
        if not any(NUMBERS.sub("N", n) in NUMBERS.sub("N", text) for n in named):
            return f"its text names none of {', '.join(sorted(named))}"
        if wrong := self.extra(left, step):
            return wrong
        if step.call in ("close", "munmap"):  # it stays open: strace kept the call from the kernel
            return ""
        until(lambda: not self.inside(child.pid) - before, 30)  # a thread that is told to end ends
        if kept := self.inside(child.pid) - before:
            return f"after the error it still holds {', '.join(sorted(kept))}"
        outcome, text, _ = self.start(child)
        return "" if outcome == "goes on" else f"it cannot start again: {text}"

    @staticmethod
    def extra(left, step):
        """What must not have been left."""
        if step.call in tables()["stays"]:
            names = {NUMBERS.sub("N", os.path.basename(p)) for p in step.paths}
            left = [
                x
                for x in left
                if NUMBERS.sub("N", os.path.basename(x)) not in names
                and not x.startswith("page")
                and not x.endswith("/")
            ]
        return f"left {', '.join(left)}" if left else ""

    @staticmethod
    def works(child):
        va = child.ask("malloc", size=64, align=0, socket=-1)["va"]
        if not va:
            return "malloc gives nothing"
        child.ask("free", va=va)
        return ""

    # kills

    def kill(self, step):
        """One start that ends before that call; then a whole life of a new primary."""
        child, wrong = self.child(), ""
        try:
            t = self.trace(child, step.call, f"{step.call}:signal=KILL:when={step.n}")
            outcome, text, _ = self.start(child)
            t.stop()
        finally:
            child.end()
        if outcome != "died":
            wrong = f"it was not killed: {outcome} {text}"
        if self.primary:
            wrong = wrong or self.goes_on(self.primary)
            self.primary.close()
        left = sorted(self.left())
        wrong = wrong or self.life()
        if self.primary:
            self.sweep(everything=True)
            self.begin()
            self.note()
        else:
            self.sweep()
        return Case(self.target, self.mode, step, "KILL", outcome, text, left, wrong)

    def goes_on(self, primary):
        """The primary of a secondary: it grows and shrinks."""
        if self.first == "legacy":
            return self.works(primary)
        try:
            va = primary.ask("malloc", size=3 * MB, align=0, socket=-1)["va"]
            if not va:
                return "the primary cannot grow"
            primary.ask("free", va=va)
        except (TargetError, TargetDied, TargetHung) as e:
            return f"the primary: {e}"
        return ""

    def life(self):
        """A new primary with the same prefix: "" if it gets all its memory and frees it."""
        child, args = self.child(), [*MODES_OF[self.first or self.mode], "--file-prefix", PREFIX]
        try:
            child.ask("init", args=args)
            wrong = self.works(child)
            child.close()
        except (TargetError, TargetDied, TargetHung) as e:
            return f"the next start: {e}"
        finally:
            child.end()
        pages = [x for x in self.settle(self.ended) if x.startswith("page")]
        return wrong or (f"the next one left {', '.join(pages)}" if pages else "")


# --- the runs


def cases_of(steps, every=False):
    """(step, errno) of all that is to be injected: the first and the last call of a label with the
    first errno of its row, the first and the last of a name with each; `every`: all of them."""
    steps = [s for s in steps if not skipped(s)]

    def ends(key):
        return {id(x) for way in (steps, steps[::-1]) for x in {key(s): s for s in way}.values()}

    of_label, of_name = ends(lambda s: s.label), ends(lambda s: s.call)
    return [
        (s, e)
        for s in steps
        for i, e in enumerate(tables()["errnos"][s.call])
        if every or id(s) in of_name or (not i and id(s) in of_label)
    ]


def sample(items, limit):
    """That many of them, evenly spread; always the same."""
    return (
        items
        if not limit or len(items) <= limit
        else [items[i * len(items) // limit] for i in range(limit)]
    )


def sweep(target, modes, *, kill=False, limit=0, every=False, tick=lambda *a: None):
    """All cases of a target. tick(mode, done, total, wrong) is called after each."""
    with tempfile.TemporaryDirectory(prefix="faults-") as tmp:
        share = -(-limit // len(modes)) if limit else 0
        for mode in modes:
            with Scene(target, mode, tmp) as scene:
                steps = scene.clean()
                # a thread may find at once what it waited for in another run
                killed = [(s,) for s in steps if s.call != "futex"]
                todo = killed if kill else cases_of(steps, every)
                todo, bad = sample(todo, share), 0
                for i, item in enumerate(todo, 1):
                    case = scene.kill(*item) if kill else scene.fail(*item)
                    bad += bool(case.wrong)
                    tick(mode, i, len(todo), bad)
                    yield case


# --- what people see


def table(cases, kill):
    """Lines of call x errno with counts."""
    rows = collections.defaultdict(collections.Counter)
    for c in cases:
        row = rows[(c.step.call, c.errno)]
        row["injected"] += 1
        row[c.outcome] += 1
        row["wrong"] += bool(c.wrong)
        row["handled"] += not c.wrong and c.outcome in ("goes on", "ends", "died"[: 4 * kill])
        row["files left"] += any(not x.startswith("page") for x in c.left)
        row["pages left"] += any(x.startswith("page") for x in c.left)
    heads = ["injected", "goes on", "ends", "died", "hung", "files left", "pages left", "wrong"]
    if kill:
        heads = ["injected", "died", "files left", "pages left", "wrong"]
    else:
        heads.insert(-1, "handled")
    yield ink(f"{'call':18} {'errno':12}" + "".join(f"{h:>11}" for h in heads), 1)
    total, last = collections.Counter(), ""
    for (call, name), row in sorted(rows.items()):
        total += row
        cells = "".join(f"{row[h] or '.':>11}" for h in heads)
        yield ink(
            f"{call if call != last else '':18} {name:12}{cells}", *([31] if row["wrong"] else [])
        )
        last = call
    yield ink(f"{'all':18} {'':12}" + "".join(f"{total[h]:>11}" for h in heads), 1)


def complaints(wrong):
    """The wrong cases, those that are wrong in the same way in one."""
    same = collections.defaultdict(list)
    for c in wrong:
        same[
            c.mode, c.step.label, c.wrong if c.errno in c.text else "", c.text.split(":")[0]
        ].append(c)
    for cases in same.values():
        c = cases[0]
        text = next(iter(c.text.strip().splitlines()), "")
        names = " ".join(dict.fromkeys(x.errno for x in cases))
        yield ink(f"{c.mode}: {c.step.label}, {len(cases)} x {names}", 31)
        yield f"    {c.wrong}\n    {c.outcome}: {text}"


def progress():
    begun, tty = time.monotonic(), sys.stderr.isatty()
    last = 0.0

    def tick(mode, done, total, bad):
        nonlocal last
        now = time.monotonic()
        if now - last < (0.1 if tty else 10) and done != total:
            return
        last = now
        line = f"{now - begun:5.0f} s  {mode:22} {done:4} of {total:4}  {bad} wrong"
        end = "\n" if done == total or not tty else ""
        print(f"\r{line}" if tty else line, end=end, file=sys.stderr, flush=True)

    return tick


def main(argv):
    p = argparse.ArgumentParser(
        prog="ci/faults",
        description=__doc__.partition("\n")[0],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = [*MODES, *ATTACH]
    p.add_argument("--target", default="pyeal", help="pyeal[:RELEASE] or librte_eal[:RELEASE]")
    p.add_argument(
        "--mode",
        action="append",
        choices=known,
        metavar="M",
        help=f"one of {', '.join(known)}; may be repeated (default: all)",
    )
    p.add_argument("--kill", action="store_true", help="SIGKILL at each call instead of errors")
    p.add_argument(
        "--all",
        action="store_true",
        help="each errno at every call, not at a name's first and last",
    )
    p.add_argument(
        "--limit",
        type=int,
        default=0,
        metavar="N",
        help="about N cases, evenly spread, always the same",
    )
    p.add_argument("--json", action="store_true", help="all cases, as JSON lines")
    p.add_argument("--list", action="store_true", help="only the calls, and which are left alone")
    p.add_argument(
        "--compare",
        nargs=2,
        metavar=("PYEAL", "OTHER"),
        help="the outcomes of two sweeps, each as --json printed it",
    )
    o = p.parse_args(argv)
    if o.compare:
        return compared(*o.compare)
    if why := host.lacks(root=True, strace=True, pages={"2M": PAGES}):
        print(f"ci/faults: {why}", file=sys.stderr)
        return 2
    modes = o.mode or (KILLED if o.kill else known)
    if o.list:
        return show_steps(o.target, modes)
    cases = []
    try:
        for case in sweep(
            o.target, modes, kill=o.kill, limit=o.limit, every=o.all, tick=progress()
        ):
            cases.append(case)
            if o.json:
                print(json.dumps(case.facts()), flush=True)
    except (BoxError, TargetDied, host.NotEnough) as e:
        print(f"ci/faults: {e}", file=sys.stderr)
        return 2
    wrong = [c for c in cases if c.wrong]
    if not o.json:
        print(f"\n{o.target}: {', '.join(modes)}\n")
        print(*table(cases, o.kill), sep="\n")
        print(*complaints(wrong), sep="\n", end="\n" if wrong else "")
    return int(bool(wrong))


def compared(*files):
    try:
        out, good = compare.lines(*map(compare.read, files), compare.entries(), [*MODES, *ATTACH])
    except (OSError, ValueError) as e:
        print(f"ci/faults: {e}", file=sys.stderr)
        return 2
    print(*out, sep="\n")
    return int(not good)


def show_steps(target, modes):
    with tempfile.TemporaryDirectory(prefix="faults-") as tmp:
        for mode in modes:
            with Scene(target, mode, tmp) as scene:
                counts = collections.Counter((s.call, s.label, skipped(s)) for s in scene.clean())
            print(ink(mode, 1))
            for (_, label, why), n in sorted(counts.items(), key=str):
                print(f"  {n:4} x {label:70} {ink('not: ' + why, 2) if why else ''}")
    return 0
