"""Survivors go on while others of their EAL are stopped and killed, and hostile users write.

Slices of the run alternate: in the quiet ones all processes allocate and free; in the others two
secondaries are stopped and killed, random datagrams come to every socket, and beside it a life of
another EAL after another has its shared words replaced. What the survivors did is counted in both.
"""

from __future__ import annotations

import argparse
import itertools
import mmap
import os
import random
import signal
import socket
import time
from collections import Counter
from multiprocessing import Process, get_context
from typing import Any

import pyeal
from conformance import until
from conformance.campaigns.attack import worlds, writers
from conformance.campaigns.fuzz import engine
from conformance.harness import host
from pyeal.look.config import config_of
from pyeal.look.snapshot import Snapshot
from pyeal.look.sources import Folder

SLICE = 3.0  # seconds
ROLES = "primary", "secondary", "victim", "victim"
SURVIVORS, VICTIMS = (0, 1), (2, 3)
WORDS = 3  # of a process in the counts: its calls, those refused, whether it is up


class Rig:
    """The processes of one EAL and their counts, which they share."""

    def __init__(self, hugedir: str) -> None:
        self.args = ["-m", "4", "--file-prefix=hostile", "--huge-dir", hugedir]
        self.words = memoryview(mmap.mmap(-1, 8 * WORDS * len(ROLES))).cast("Q")
        self.fork, self.done = get_context("fork"), Counter[str]()
        self.processes: dict[int, Any] = {}

    def start(self, i: int) -> None:
        """Start process i, and wait until it is up."""
        self.words[i * WORDS + 2] = 0
        p = self.processes[i] = self.fork.Process(target=self._live, args=(i, os.getpid()))
        p.start()
        until(lambda: self.words[i * WORDS + 2] or not p.is_alive())

    def _live(self, i: int, parent: int) -> None:
        engine.die_with(parent)
        ends: list[int] = []
        signal.signal(signal.SIGTERM, lambda *_: ends.append(1))
        args = self.args if not i else [*self.args, "--proc-type=secondary"]
        rng = random.Random(i)
        with pyeal.init(args) as eal:
            self.words[i * WORDS + 2] = 1
            while not ends:
                try:
                    eal.free(eal.malloc(rng.choice((64, 700, 5000))))
                    self.words[i * WORDS] += 1
                except pyeal.EalError:
                    self.words[i * WORDS + 1] += 1

    def calls(self) -> tuple[int, int]:
        """Return the calls of the survivors until now, and those refused."""
        n, refused = (sum(self.words[i * WORDS + k] for i in SURVIVORS) for k in (0, 1))
        return n, refused

    @property
    def folder(self) -> str:
        return f"{os.environ['RUNTIME_DIRECTORY']}/dpdk/hostile"

    def disturb(self, rng: random.Random) -> None:
        """Stop a victim for a moment, or kill it and start another; send datagrams."""
        i = rng.choice(VICTIMS)
        pid = self.processes[i].pid
        if rng.random() < 0.7:
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.02)
            os.kill(pid, signal.SIGCONT)
            self.done["stops"] += 1
        else:
            self.processes[i].kill()
            self.processes[i].join()
            with open(f"{self.folder}/config", "rb") as f:
                taken = config_of(f.read())[0].malloc_heaps[0].lock
            self.done["kills"] += 1
            self.done["kills of who held the heap, or while one did"] += bool(taken)
            self.start(i)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
            s.setblocking(False)
            for name in os.listdir(self.folder):
                if name.startswith("mp_socket"):
                    try:
                        s.sendto(rng.randbytes(rng.choice((1, 340, 332))), f"{self.folder}/{name}")
                        self.done["datagrams"] += 1
                    except OSError:  # full, or of a process that was killed
                        pass
        time.sleep(0.2)

    def end(self) -> list[str]:
        """End all; return what is wrong."""
        wrong = [f"{ROLES[i]} died" for i in SURVIVORS if not self.processes[i].is_alive()]
        for i in reversed(range(len(ROLES))):
            p: Process = self.processes[i]
            os.kill(p.pid or 0, signal.SIGTERM)
            if i == 0:  # alone, and at rest
                wrong += Snapshot(Folder(self.folder)).problems
            p.join(30)
            if p.exitcode:
                wrong.append(f"{ROLES[i]} ends with {p.exitcode}")
        return wrong


def write_words(parent: int, lives: Any) -> None:
    """Replace shared words of one EAL after another, until this process is killed."""
    engine.die_with(parent)
    family = writers.Writers("primary")
    for i in itertools.count():
        engine.run(family, lambda _, i=i: family.case(1, i), 1)  # type: ignore[misc]
        lives[0] += 1


def run(seconds: float, seed: int) -> int:
    rng = random.Random(seed)
    counts = {kind: [0, 0, 0.0] for kind in ("without", "with")}
    lives = memoryview(mmap.mmap(-1, 8)).cast("Q")
    with worlds.private_hugetlbfs() as (_, hugedir):
        rig = Rig(hugedir)
        for i in range(len(ROLES)):
            rig.start(i)
        writer = rig.fork.Process(target=write_words, args=(os.getpid(), lives))
        writer.start()
        end = time.monotonic() + seconds
        for kind in itertools.cycle(counts):
            os.kill(writer.pid or 0, signal.SIGCONT if kind == "with" else signal.SIGSTOP)
            begun, (n, refused) = time.monotonic(), rig.calls()
            while time.monotonic() - begun < SLICE:
                if kind == "with":
                    rig.disturb(rng)
                else:
                    time.sleep(0.1)
            after = rig.calls()
            changes = after[0] - n, after[1] - refused, time.monotonic() - begun
            counts[kind] = [a + b for a, b in zip(counts[kind], changes, strict=True)]
            if kind == "with" and time.monotonic() > end:
                break
        writer.kill()
        writer.join()
        wrong = rig.end()
        with pyeal.init(rig.args):  # it clears away what killed processes had
            pass
        left = [f for f in os.listdir(hugedir) if "map_" in f]
        wrong += [f"pages stay: {left}"] if left else []
    rates = {kind: n / took for kind, (n, _, took) in counts.items()}
    for kind, (n, refused, took) in counts.items():
        print(f"{kind:8} {n:>10,} calls in {took:5.1f} s, {refused:,} refused")
    print(", ".join(f"{n:,} {what}" for what, n in sorted(rig.done.items())), end="")
    print(f", {lives[0]:,} lives of another EAL with words replaced")
    print(f"{rates['with'] / rates['without']:.2f} of the throughput without; seed {seed}")
    print(*wrong, f"{len(wrong)} wrong", sep="\n")
    return 1 if wrong else 0


def main(argv: list[str]) -> int:
    p = argparse.ArgumentParser(prog="ci/stress --hostile", description=__doc__)
    p.add_argument("--stress-seconds", type=float, default=60, metavar="S")
    p.add_argument("--seed", type=int, default=1)
    args = p.parse_args(argv)
    if why := host.lacks(root=True, pages={"2M": worlds.PAGES}):
        print(f"ci/stress --hostile: {why}")
        return 2
    return run(args.stress_seconds, args.seed)
