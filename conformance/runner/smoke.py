"""A new target, before the suite: does it speak the protocol, refuse as it should, end cleanly?

    pyeal conform smoke 'cmd:./mine'     0 it does, 1 something is wrong, 2 it does not start

Everything runs with --no-huge -m 16, as root in a box of its own: no pages are wanted.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import re
import shlex
import signal
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import pytest

from conformance.harness import host
from conformance.harness.box import Box, Open, lifeline
from conformance.harness.child import (
    Child,
    TargetDied,
    TargetError,
    TargetHung,
    command,
    environment,
)

OK, WRONG, NO_TARGET = 0, 1, 2
NEEDED = "init", "cleanup"
INIT = {"ret": int, "iova_mode": str, "runtime_dir": str}
# what verbs answer that only look: a type, a list of objects of these keys, or an object of them
LOOKS = {
    "lists": "index name base_va page_sz socket_id version len external heap n_segs count".split(),
    "segments": "list seg addr iova len hugepage_sz socket_id nchannel nrank flags".split(),
    "info": {"physmem_size", "using_phys_addrs", "iova_mode", "socket_ids"},
    "dump": str,
}


class Check(NamedTuple):
    name: str
    good: bool
    says: str


class Wrong(Exception):
    """What was wanted, what was found, what to do."""


class Smoke:
    def __init__(self, target, limit, tmp):
        self.target, self.limit, self.tmp = target, limit, tmp
        self.argv = command(target)
        self.box = Box() if host.is_root() else Open()
        self.n = 0

    def start(self):
        self.n += 1
        argv = [*self.box.enter, *lifeline(), *self.argv]
        return Child(
            argv,
            self.tmp / f"{self.n}.log",
            limit=self.limit,
            env=environment() | self.box.environment(),
        )

    def args(self):
        return ["--no-huge", "-m", "16", "--file-prefix", f"smoke_{os.getpid()}_{self.n}"]

    def checks(self):
        """The checks, each in a process of its own; nothing follows a hello that is wrong."""
        for name, check in CHECKS.items():
            c = None
            try:
                c = self.start()
                good, says = True, check(self, c)
            except (Wrong, TargetDied, TargetError, TargetHung) as e:
                good, says = False, str(e)
            finally:
                if c:
                    c.kill()
            yield Check(name, good, says)
            if not good and check is hello:
                return


def hello(s, c):
    missing = [v for v in NEEDED if v not in c.can]
    alive = isinstance(c.pid, int) and host.started(c.pid)
    refused = refusal(c, "no_such_verb")
    c.close()
    if not re.fullmatch(r"\d\d\.\d\d(\.\d+)?\S*", str(c.release)):
        raise Wrong(f'wanted a release as in "22.11.11", found {json.dumps(c.release)}')
    if not alive:
        raise Wrong(f"wanted the pid of a process that lives, found {json.dumps(c.pid)}")
    if missing:
        raise Wrong(f'"can" lacks {" and ".join(missing)}, without which no test runs')
    if refused != errno.ENOSYS:
        raise Wrong(f"an unknown verb: wanted errno 38 (ENOSYS), found {json.dumps(refused)}")
    return f"{c.target}, release {c.release}"


def refusal(c, verb, **params):
    """errno of the error that must come."""
    c.can.append(verb)  # or it would not be asked
    try:
        c.ask(verb, **params)
    except TargetError as e:
        return e.errno
    raise Wrong(f'{verb} {shlex.join(params.get("args", []))}: wanted {{"error": ...}}, found "ok"')


def bad_argument(s, c):
    try:
        got = refusal(c, "init", args=[*s.args(), "--no-such-option"])
    except TargetDied as e:  # an EAL whose argument parser exits, or that panics
        if ended := re.match(r"init: (exited \d+|killed by SIGABRT)", str(e)):
            return f"no errno: rte_eal_init ends the process ({ended[1]})"
        raise
    if not isinstance(got, int):
        raise Wrong("wanted rte_errno in the error, found null, which says the target is at fault")
    return f"errno {got}"


def init(s, c):
    done = c.ask("init", args=s.args())
    for key, kind in INIT.items():
        if not (isinstance(done, dict) and isinstance(done.get(key), kind)):
            raise Wrong(f"init: wanted {key} as {kind.__name__}, found {json.dumps(done):.100}")
    if done["iova_mode"] not in ("PA", "VA"):
        raise Wrong(f'iova_mode: wanted "PA" or "VA", found {done["iova_mode"]!r}')
    config = s.box.path(f"{done['runtime_dir']}/config")
    if not config.exists():
        raise Wrong(f"runtime_dir: wanted a config file there, found none in {done['runtime_dir']}")
    mapped = os.path.realpath(done["runtime_dir"]) + "/config"
    if mapped not in Path(f"/proc/{c.pid}/maps").read_text():
        raise Wrong(f"pid {c.pid}: wanted the process that has {mapped} mapped")
    looked = [look(c, verb) for verb in LOOKS if verb in c.can]
    ended = c.ask("cleanup")
    if not isinstance(ended, dict) or ended.get("ret") != 0:
        raise Wrong(f"cleanup: wanted ret 0, found {json.dumps(ended):.100}")
    c.close()
    return ", ".join(["IOVA as " + done["iova_mode"], *looked])


def look(c, verb):
    """Asks it; the answer must have its keys."""
    try:
        got, want = c.ask(verb), LOOKS[verb]
    except TargetError as e:
        raise Wrong(f"{verb}: {e}") from None
    if isinstance(want, type):
        if not isinstance(got, want):
            raise Wrong(f"{verb}: wanted text, found {got!r:.60}")
        return verb
    kind, rows = ("an object", [got]) if isinstance(want, set) else ("a list of objects", got)
    if not (isinstance(rows, list) and rows and all(isinstance(r, dict) for r in rows)):
        raise Wrong(f"{verb}: wanted {kind}, found {got!r:.60}")
    if missing := [k for k in want if any(k not in r for r in rows)]:
        raise Wrong(f"{verb}: the answer lacks {', '.join(missing)}")
    return verb if isinstance(want, set) else f"{len(rows)} {verb}"


def end_of_input(s, c):
    """After init and without cleanup: its own business, then."""
    c.ask("init", args=s.args())
    c.close()
    if host.started(c.pid):
        raise Wrong(f"process {c.pid} is still there after the end of input")
    return "cleaned up, exit code 0"


def killed(s, c):
    """The owner of the memory is killed: the program ends as well, so that the suite can tell."""
    c.ask("init", args=s.args())
    os.kill(c.pid, signal.SIGKILL)
    try:
        c.ask("cleanup")
    except TargetDied:
        return "its end is seen"
    except TargetError:
        pass
    raise Wrong(f"pid {c.pid} was killed, and the target goes on to answer")


CHECKS = {
    "hello": hello,
    "bad argument": bad_argument,
    "init and cleanup": init,
    "end of input": end_of_input,
    "killed": killed,
}


def main(argv):
    p = argparse.ArgumentParser(
        prog="pyeal conform smoke",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("target", metavar="TARGET", help="as for --target: 'cmd:PROGRAM ARGS', ...")
    p.add_argument("--limit", type=float, default=20, metavar="S", help="an answer takes no longer")
    p.add_argument("--json", action="store_true", help="schema pyeal.smoke/1")
    args = p.parse_args(argv)
    with tempfile.TemporaryDirectory(prefix="smoke-") as tmp:
        try:
            s = Smoke(args.target, args.limit, Path(tmp))
        except (pytest.UsageError, OSError, ValueError) as e:
            print(f"smoke: {e}", file=sys.stderr)
            return NO_TARGET
        found = []
        try:
            for c in s.checks():
                found.append(c)
                if not args.json:
                    first, *more = c.says.splitlines() or [""]
                    print(f"{'ok' if c.good else 'WRONG':5}  {c.name:16}  {first}")
                    print(*(f"{'':25}{line}" for line in more), sep="\n", end="\n" * bool(more))
        except OSError as e:  # of the first one: there is no such program
            print(f"smoke: {args.target}: {e}", file=sys.stderr)
            return NO_TARGET
        finally:
            s.box.close()
    wrong = [c for c in found if not c.good]
    if args.json:
        print(
            json.dumps(
                {
                    "schema": "pyeal.smoke/1",
                    "target": args.target,
                    "good": not wrong,
                    "checks": [c._asdict() for c in found],
                },
                indent=2,
            )
        )
    elif wrong:
        print(f"\n{len(wrong)} of {len(found)} wrong: conformance/PROTOCOL.md says what is wanted")
    else:
        print(f"\nready: pyeal conform --target {shlex.quote(args.target)}")
    if len(found) == 1 and wrong:
        return NO_TARGET
    return WRONG if wrong else OK
