"""Every system call of `pyeal warm` made to fail, and a kill at each: what the next start finds.

    python -m conformance warm faults [--kill | --errors] [--limit N]
    python -m conformance warm measure [--rounds N] [--write]

Of two situations: no page files, and files that a process filled with a pattern and left. After a
kill, librte_eal starts with the same arguments and takes what is there; a file that is not all
zeros is counted as dirty by EAL, and no record calls it clean. After an error, pyeal warm has
said why, and what it made is gone. Then pyeal warm --again succeeds, and --drop returns all pages.
"""

from __future__ import annotations

import argparse
import collections
import itertools
import mmap
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path

from conformance import MB, until
from conformance.campaigns.faults.sweep import Forked
from conformance.campaigns.warm import measure
from conformance.harness import host
from conformance.harness.box import Box
from conformance.harness.child import TargetDied, TargetError, TargetHung, environment
from conformance.harness.forkserver import ForkServer
from pyeal.look import warm

PREFIX, PAGES, MB_ASKED = "warmfaults", 6, 8
FILES = MB_ASKED // 2
ARGS = ["--file-prefix", PREFIX, "-m", str(MB_ASKED), "--huge-unlink=never"]
PATTERN = b"bytes of a process that is gone. " * 64
ERRNOS = {
    "openat": "EMFILE",
    "mmap": "ENOMEM",
    "madvise": "EFAULT",
    "ftruncate": "EIO",
    "flock": "EWOULDBLOCK",
    "pwrite64": "ENOSPC",
    "write": "ENOSPC",
    "mkdir": "ENOSPC",
    "utimensat": "EIO",
    "fstat": "EIO",
    "newfstatat": "EIO",
    "getdents64": "EIO",
    "read": "EIO",
    "pread64": "EIO",
    "lseek": "EIO",
}
CALL = re.compile(r"^(?:\d+ +)?(\w+)\((.*)")


class Scene:
    """A box with few pages, in which warm runs again and again."""

    def __init__(self, tmp: Path) -> None:
        self.tmp, self.numbers = tmp, itertools.count()
        self.box = Box({"2M": PAGES})
        self.env = environment() | self.box.environment()
        self.env |= {"PYTHONHASHSEED": "0", "PYTHONDONTWRITEBYTECODE": "1"}
        self.forkserver = ForkServer("librte_eal:22.11", self.box.enter, self.env)
        self.folder = self.box.path(self.box.hugedir("2M"))
        self.run_dir = self.box.path(f"{host.RUN}/dpdk/{PREFIX}")

    def close(self) -> None:
        self.forkserver.close()
        self.box.close()

    def warm(self, *options: str, strace: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
        argv = [*self.box.enter, *strace, sys.executable, "-P", "-m", "pyeal", "warm", *options]
        return subprocess.run(
            [*argv, "--", *ARGS], env=self.env, capture_output=True, text=True, timeout=120
        )

    def prepare(self, situation: str) -> None:
        """Nothing there; or files full of a pattern, as a killed process leaves them."""
        for name in os.listdir(self.folder):
            os.unlink(self.folder / name)
        (self.run_dir / warm.RECORD).unlink(missing_ok=True)
        until(lambda: not self.used())
        for i in range(FILES if situation == "again" else 0):
            with open(self.folder / f"{PREFIX}map_{i}", "w+b") as f:
                f.truncate(2 * MB)
                with mmap.mmap(f.fileno(), 2 * MB) as m:
                    m[:] = (PATTERN * (2 * MB // len(PATTERN) + 1))[: 2 * MB]

    def used(self) -> int:
        st = os.statvfs(self.folder)
        return st.f_blocks - st.f_bfree

    def dirty(self) -> set[str]:
        """The names of page files that are not all zeros."""
        return {n for n in os.listdir(self.folder) if any((self.folder / n).read_bytes())}

    def steps(self, *options: str) -> list[tuple[str, int]]:
        """(call, which of its name) from the lock on the hugepage directory on."""
        out = self.tmp / "trace"
        done = self.warm(*options, strace=("strace", "-f", "-qq", "-o", str(out)))
        assert done.returncode == 0, done.stderr
        counts: collections.Counter[str] = collections.Counter()
        found, begun = [], False
        for line in out.read_text(errors="replace").splitlines():
            if not (m := CALL.match(line)):
                continue
            counts[m[1]] += 1
            begun = begun or (m[1] == "flock" and "LOCK_EX" in m[2])
            if begun:
                found.append((m[1], counts[m[1]]))
        return found

    def one(self, situation: str, call: str, n: int, fault: str) -> tuple[bool, str]:
        """Return (whether the fault was met, what is wrong with what follows)."""
        self.prepare(situation)
        options = ["--again"] if situation == "again" else []
        inject = f"inject={call}:{fault}:when={n}"
        log = self.tmp / "injected"
        log.unlink(missing_ok=True)
        strace = ("strace", "-f", "-qq", "-o", str(log), "-e", f"trace={call}", "-e", inject)
        done = self.warm(*options, strace=strace)
        killed = fault.startswith("signal")
        met = (killed and done.returncode < 0) or "INJECTED" in log.read_text(errors="replace")
        if "Traceback" in done.stderr:
            return met, f"a traceback: {done.stderr.strip().splitlines()[-1]}"
        left, dirty = set(os.listdir(self.folder)), self.dirty()
        record = warm.read(str(self.run_dir))
        clean = {f.path.rpartition("/")[2] for f in self.as_recorded(record)}
        if wrong := sorted(clean & dirty):
            return met, f"the record calls {', '.join(wrong)} clean"
        if not killed and done.returncode not in (0, 1):
            return met, f"it ended with {done.returncode}: {done.stderr.strip()}"
        if not killed and done.returncode and situation == "new" and left and call != "unlinkat":
            return met, f"it failed and left {', '.join(sorted(left))}: {done.stderr.strip()}"
        if not killed and not done.returncode and (dirty or len(left) != FILES):
            return met, f"it succeeded with {len(left)} files, of which {sorted(dirty)} are dirty"
        return met, self.next_start(dirty) or self.next_warm()

    def as_recorded(self, record: warm.Warm | None) -> list[warm.WarmFile]:
        found = []
        for f in record.files.values() if record else ():
            path = self.folder / f.path.rpartition("/")[2]
            if path.exists() and f.is_as_recorded(path.stat()):
                found.append(f)
        return found

    def next_start(self, dirty: set[str]) -> str:
        """librte_eal takes what is there, and knows what it has to clear itself."""
        child = Forked(self.forkserver, self.tmp / f"{next(self.numbers)}.log")
        try:
            child.ask("init", args=ARGS)
            flags = [s["flags"] for s in child.ask("segments")]
            if len(flags) != FILES:
                return f"the next start has {len(flags)} of {FILES} pages"
            unknown = [n for n in dirty if not flags[int(n.rpartition("_")[2])] & 2]
            if unknown:
                return f"the next start takes {', '.join(unknown)} for zeros"
        except (TargetError, TargetDied, TargetHung) as e:
            return f"the next start: {e}"
        finally:
            child.end()
        return ""

    def next_warm(self) -> str:
        for options in ("--again",), ("--drop",):
            done = self.warm(*options)
            if done.returncode:
                return f"then {options[0]} ended with {done.returncode}: {done.stderr.strip()}"
            if dirty := self.dirty():
                return f"then {options[0]} left bytes in {', '.join(sorted(dirty))}"
        until(lambda: not self.used())
        return f"--drop left {self.used()} pages" if self.used() else ""


def faults(args: argparse.Namespace) -> int:
    met = wrong = total = 0
    with tempfile.TemporaryDirectory() as tmp:
        scene = Scene(Path(tmp))
        try:
            for situation in "new", "again":
                scene.prepare(situation)
                steps = scene.steps(*["--again"] * (situation == "again"))
                kinds = [] if args.errors else ["signal=KILL"]
                cases = [(c, n, k) for c, n in steps for k in kinds if c != "exit_group"]
                cases += [
                    (c, n, f"error={ERRNOS[c]}") for c, n in steps if c in ERRNOS and not args.kill
                ]
                for call, n, fault in cases[:: max(len(cases) // (args.limit or len(cases)), 1)]:
                    was_met, why = scene.one(situation, call, n, fault)
                    total, met, wrong = total + 1, met + was_met, wrong + bool(why)
                    if why:
                        print(f"{situation} {call} {n} {fault}: {why}", flush=True)
        finally:
            scene.close()
    print(f"{total} cases, {met} met their call, {wrong} wrong")
    return int(wrong > 0)


def main(argv: list[str]) -> int:
    p = argparse.ArgumentParser(prog="ci/warm", description=__doc__.partition("\n")[0])
    sub = p.add_subparsers(dest="verb", required=True)
    f = sub.add_parser("faults", help="fail and kill it at each system call")
    f.add_argument("--kill", action="store_true", help="kills alone")
    f.add_argument("--errors", action="store_true", help="errors alone")
    f.add_argument("--limit", type=int, help="about so many cases of each situation")
    f.set_defaults(run=faults)
    measure.arguments(sub.add_parser("measure", help="time it beside cold starts"))
    args = p.parse_args(argv)
    return args.run(args)
