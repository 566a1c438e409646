"""A signal arrives at any moment of a life of an EAL, and its handler raises, or calls in.

The EAL gives everything back, or an object owns it whose cleanup() ends it; the next start in the
process works.
"""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pyeal
from conformance import MODES
from conformance.campaigns.attack import worlds
from conformance.campaigns.attack.lines import AtLine
from conformance.campaigns.fuzz.engine import Case, Wrong, die_with
from conformance.harness import host

HUGE = "dynmem", "single-file", "legacy", "in-memory", "secondary"
KINDS = ("private", "shared", *HUGE)
WAYS = "line", "line", "time", "call"


class Alarm(Exception):
    """What the handler raises."""


class At(AtLine):
    """Raises a signal there."""

    def happens(self) -> None:
        signal.raise_signal(signal.SIGUSR1)


def ring(signum: int, frame: Any) -> None:
    raise Alarm


def taken() -> tuple[set[tuple[str, int, int]], int]:
    """The descriptors of this process with their files' devices and inodes, and the bytes that
    EAL's lists and arrays have mapped.

    A path would change: that of a folder in a mount namespace that the kernel removes meanwhile.
    """
    fds = set()
    for fd in os.listdir("/proc/self/fd"):
        try:
            st = os.fstat(int(fd))
        except OSError:  # of the listing itself
            continue
        fds.add((fd, st.st_dev, st.st_ino))
    big = 0
    for line in Path("/proc/self/maps").read_text().splitlines():
        first, _, last = line.split()[0].partition("-")
        if 0x100000000 <= int(first, 16) < 0x500000000000:  # where EAL maps
            big += int(last, 16) - int(first, 16)
    return fds, big


def life(args: list[str], known: list[pyeal.Eal] | None = None) -> None:
    """A start, allocations and an end, as a program that heeds its signals writes it."""
    eal, zone = None, f"zone-{time.monotonic_ns():x}"  # a secondary's outlive it
    try:
        eal = pyeal.init(args)
        if known is not None:
            known.append(eal)
        va = eal.malloc(4096)
        grown = eal.malloc(5 << 20)
        eal.memzone_reserve(zone, 64)
        eal.walk_segments(lambda msl, ms: 0)
        eal.memzone_free(zone)
        eal.free(grown)
        eal.free(va)
        eal.cleanup()
    finally:
        if eal and not eal.closed:
            eal.cleanup()


def primary(parent: int, args: list[str], pipe: Any) -> None:
    die_with(parent)
    with pyeal.init(args):
        pipe.send("ready")
        pipe.recv()


class Interrupts:
    name, allowed = "interrupts", (Alarm,)

    def __init__(self) -> None:
        self.lines: dict[str, int] = {}

    def lacks(self) -> str:
        return host.lacks(root=True, pages={"2M": worlds.PAGES}) or ""

    def case(self, seed: int, i: int) -> Case:
        return Case(self.name, KINDS[i % len(KINDS)], f"{WAYS[i // len(KINDS) % 4]} {seed} {i}", ())

    def read(self, case: Case) -> None:
        kind, (way, *_) = case.seed, case.how.split()
        rng, raised = random.Random(case.how), False
        with worlds.private_hugetlbfs() as (_, hugedir):
            args = self._args(kind, hugedir)
            with Beside(kind, args) as args:
                if kind not in self.lines:
                    life(args)
                    with At(0) as whole:
                        life(args)
                    self.lines[kind] = whole.lines
                    begun = time.monotonic()
                    life(args)
                    self.lines[f"{kind} us"] = int((time.monotonic() - begun) * 1e6)
                before, handler = taken(), signal.getsignal(signal.SIGINT)
                try:
                    self._interrupted(kind, way, args, rng)
                except Alarm:
                    raised = True
                if (after := taken()) != before:
                    paths = [os.readlink(f"/proc/self/fd/{f}") for f, *_ in after[0] - before[0]]
                    gone = [f for f, *_ in before[0] - after[0]]
                    raise Wrong(
                        f"left behind: {paths}, {after[1] - before[1]} bytes; closed: {gone}"
                    )
                if signal.getsignal(signal.SIGINT) is not handler:
                    raise Wrong("a handler is not restored")
                life(args)
            # an end in legacy mode keeps its files, and what a secondary allocated is the primary's
            if kind not in ("secondary", "legacy") and (left := os.listdir(hugedir)):
                raise Wrong(f"pages stay: {left}")
        if raised:
            raise Alarm

    @staticmethod
    def _args(kind: str, hugedir: str) -> list[str]:
        if kind in ("private", "shared"):
            args = ["--no-huge", "-m", "8", "--file-prefix=interrupts"]
            return args + ["--no-shconf"] * (kind == "private")
        mode = MODES["dynmem" if kind == "secondary" else kind]
        return [*mode, "-m", "4", "--file-prefix=interrupts", "--huge-dir", hugedir]

    def _interrupted(self, kind: str, way: str, args: list[str], rng: random.Random) -> None:
        known: list[pyeal.Eal] = []

        def call(signum: int, frame: Any) -> None:
            try:
                if known:
                    known[0].free(known[0].malloc(64))
            except pyeal.EalError as e:
                if e.reason == "heap-damaged":
                    raise

        old = signal.signal(signal.SIGUSR1, call if way == "call" else ring)
        try:
            if way == "time":
                delay = self.lines[f"{kind} us"] * rng.random() / 1e6
                timer = threading.Timer(delay, os.kill, (os.getpid(), signal.SIGUSR1))
                timer.start()
                try:
                    life(args, known)
                finally:
                    while timer.is_alive():
                        try:
                            timer.join()
                        except Alarm:  # it came after the end
                            pass
            else:
                with At(rng.randrange(1, self.lines[kind])):
                    life(args, known)
        finally:
            signal.signal(signal.SIGUSR1, old)


class Beside:
    """The arguments of a life: a secondary's has a primary in another process."""

    def __init__(self, kind: str, args: list[str]) -> None:
        self.args, self.process = args, None
        if kind == "secondary":
            fork = get_context("fork")
            self.pipe, end = fork.Pipe()
            self.process = fork.Process(target=primary, args=(os.getpid(), args, end))

    def __enter__(self) -> list[str]:
        if self.process is None:
            return self.args
        self.process.start()
        self.pipe.recv()
        return [*self.args, "--proc-type=secondary"]

    def __exit__(self, *_: object) -> None:
        if self.process:
            self.pipe.send(None)
            self.process.join(20)
            if self.process.exitcode:
                raise Wrong(f"the primary ends with {self.process.exitcode}")


FAMILIES = [Interrupts()]
