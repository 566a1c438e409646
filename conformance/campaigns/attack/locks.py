"""A secondary is killed at a step of a call while another one lives: the primary goes on.

Step number i of the calls in turn; every second time the other secondary also waits for the lock.
"""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from collections.abc import Callable
from multiprocessing import get_context
from typing import Any

import pyeal
from conformance.campaigns.attack import worlds
from conformance.campaigns.attack.lines import AtLine
from conformance.campaigns.fuzz.engine import Case, Wrong, die_with
from conformance.harness import host
from pyeal.look.snapshot import Snapshot
from pyeal.look.sources import Folder, ProcessMemory

MB = 1 << 20
EACH, STRIDE = 100, 61  # the first steps one by one, the later ones spread over the whole call
CALLS: dict[str, Callable[[pyeal.Eal], object]] = {
    "malloc": lambda eal: eal.malloc(640),
    "free": lambda eal: (eal.free(eal.malloc(64)),),
    "growth": lambda eal: eal.malloc(5 * MB),
    "release": lambda eal: (eal.free(eal.malloc(5 * MB)),),
    "zone": lambda eal: (eal.memzone_reserve(zone(), 64), eal.memzone_free(zone())),
}


def zone() -> str:
    """Return a name of this process: that of a killed process stays."""
    return f"zone-{os.getpid()}"


class Step(AtLine):
    """Kills this process there."""

    def happens(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


class Said:
    """The last lines that an EAL logged."""

    def __init__(self) -> None:
        self.lines: deque[str] = deque(maxlen=8)

    def add(self, level: str, text: str) -> None:
        if level in ("ERR", "WARNING"):
            self.lines.append(f"{time.monotonic():.1f} {text}")

    def __str__(self) -> str:
        return f"it logged at {time.monotonic():.1f}: {[*self.lines]}"


def secondary(parent: int, pipe: Any) -> None:
    """Attach when told, then carry out calls: ("die", call, step), or ("call", call)."""
    die_with(parent)
    args, said = pipe.recv(), Said()
    with pyeal.init(args, log=said.add) as eal:
        pipe.send("attached")
        while message := pipe.recv():
            kind, name, step = message
            if kind == "die":
                with Step(0) as whole:
                    CALLS[name](eal)
                with Step(1 + step % max(whole.lines - 1, 1)):
                    CALLS[name](eal)
            try:
                pipe.send("done" if CALLS[name](eal) else f"no memory; {said}")
            except pyeal.EalError as e:
                pipe.send(f"{e}; {said}")
    pipe.send("ended")


class Locks:
    name, allowed = "lock holders", ()

    def lacks(self) -> str:
        return host.lacks(root=True, pages={"2M": worlds.PAGES}) or ""

    def case(self, seed: int, i: int) -> Case:
        calls, n = list(CALLS), i // len(CALLS)
        step = n if n < EACH else n * STRIDE  # of a call with several hundred
        return Case(self.name, calls[i % len(calls)], f"{(seed - 1) * 100_000 + step}", ())

    def read(self, case: Case) -> None:
        with worlds.private_hugetlbfs() as (_, hugedir):
            self._trial(hugedir, case.seed, int(case.how))

    def _trial(self, hugedir: str, call: str, step: int) -> None:
        args = ["-m", "4", "--file-prefix=locks", "--huge-dir", hugedir]
        fork = get_context("fork")
        ends = [fork.Pipe() for _ in range(2)]
        others = [fork.Process(target=secondary, args=(os.getpid(), end)) for _, end in ends]
        for p in others:
            p.start()
        try:
            (dies, _), (lives, _) = ends
            said = Said()
            with pyeal.init(args, log=said.add) as eal:
                for pipe in (dies, lives):
                    pipe.send([*args, "--proc-type=secondary"])
                    self._expect(pipe, "attached")
                dies.send(("die", call, step))
                others[0].join(30)
                if others[0].exitcode != -signal.SIGKILL:
                    raise Wrong(f"the secondary was not killed: {others[0].exitcode}")
                if step % 2:  # it also waits for the lock, and sees it free in the end
                    lives.send(("call", "free", 0))
                for act in CALLS.values():
                    act(eal)
                if step % 2:
                    self._expect(lives)
                for name in ("malloc", "growth", "zone"):
                    lives.send(("call", name, 0))
                    self._expect(lives, "done", said)
                self._whole(eal)
                lives.send(None)
                self._expect(lives, "ended")
            others[1].join(30)
            with pyeal.init(args) as eal:
                eal.free(eal.malloc(64))
        finally:
            for p in others:
                if p.is_alive():
                    p.kill()
                p.join()

    @staticmethod
    def _expect(pipe: Any, word: str = "", primary: Said | None = None) -> None:
        if not pipe.poll(30):
            raise Wrong(f"the other secondary hangs, {word or 'a reply'} expected")
        if (said := pipe.recv()) != word and word:
            raise Wrong(f"the other secondary: {said}; the primary: {primary}")

    @staticmethod
    def _whole(eal: pyeal.Eal) -> None:
        """Wrong if a lock is taken, or inspect finds damage in a heap."""
        s = Snapshot(Folder(eal.runtime_dir), ProcessMemory(os.getpid()).at)
        taken = [n for n, *_ in type(s.c)._fields_ if n.endswith("lock") and getattr(s.c, n)]
        said = [h["unread"] for h in s.heaps() if "unread" in h] + s.problems
        if taken or said:
            raise Wrong(f"locks {taken} are taken; {said}")


FAMILIES = [Locks()]
