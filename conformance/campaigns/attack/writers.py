"""Words of shared memory are replaced while an EAL runs: it raises EalError, and neither dies nor
hangs; its end gives everything back.

A primary has its files in a folder of its own; secondaries and observers attach to recordings.
"""

from __future__ import annotations

import ctypes
import os
import random
from collections.abc import Callable
from pathlib import Path

import pyeal
from conformance.campaigns.attack import worlds
from conformance.campaigns.fuzz import attach
from conformance.campaigns.fuzz.engine import WORDS, Case, Wrong
from conformance.harness import host
from pyeal import layout

ROUNDS = 6  # of words and calls in a life
Calls = list[tuple[str, Callable[[], object]]]


def calls_of(eal: pyeal.Eal, areas: list[int], rng: random.Random) -> Calls:
    """What a program does with its memory."""
    return [
        ("malloc", lambda: areas.append(eal.malloc(rng.choice((64, 5000, 70000))))),
        ("free", lambda: areas and eal.free(areas.pop(rng.randrange(len(areas))))),
        ("reserve", lambda: eal.memzone_reserve(f"zone{rng.randrange(9)}", 64)),
        ("lookup", lambda: eal.memzone_lookup("zone1")),
        ("zone-free", lambda: eal.memzone_free(f"zone{rng.randrange(9)}")),
        ("layout", eal.layout),
        ("dump", eal.dump),
        ("walk", lambda: eal.walk_segments(lambda msl, ms: ms.flags & 0)),
        ("contig", lambda: eal.walk_contig(lambda msl, ms, n: 0)),
        ("zones", lambda: list(eal.memzones)),
        ("memseg", lambda: [eal.memseg_of(va) for va in areas]),
        ("fd", lambda: [eal.fd_of(va) for va in areas]),
        ("dma", lambda: eal.check_dma_mask(40)),
        ("virt", lambda: eal.virt(0x1000)),
        ("pages", lambda: eal.free_pages(eal.alloc_pages(2 << 20))),
        ("extern", lambda: eal.register_external(0x7000000000, 8192, 4096)),
        ("refresh", eal.refresh),
        ("names", lambda: [(m.name, m.count, m.external) for m in eal.memseg_lists()]),
    ]


class Writers:
    """One life of an EAL whose memory another process writes to."""

    allowed = ()

    def __init__(self, name: str) -> None:
        self.name = name
        self.tmp = attach.WorkFolder()
        self.attached = attach.Attach("config", "config")

    def case(self, seed: int, i: int) -> Case:
        return Case(
            self.name, random.Random(f"{seed} {i}").choice(attach.RECORDED), f"{seed} {i}", ()
        )

    def read(self, case: Case) -> None:
        attach.quick_locks()
        attach.any_file_system()
        rng = random.Random(case.how)
        if self.name in ("secondary", "observer"):
            self.attached.world(case.seed)
        before = attach.Attach._mine()
        if self.name == "primary":
            self._primary(rng)
        elif self.name == "hugepages":
            self._hugepages(rng)
        else:
            self._attached(case, rng)
        if (after := attach.Attach._mine()) != before:
            raise Wrong(f"left behind: {sorted(after ^ before)}")

    def _primary(self, rng: random.Random) -> None:
        base = Path(self.tmp.name) / str(os.getppid())
        base.mkdir(exist_ok=True)
        os.environ["RUNTIME_DIRECTORY"] = str(base)
        args = ["--no-huge", "-m", "2", "--file-prefix=writers"]
        self._live(pyeal.init(args), rng)
        with pyeal.init(args) as eal:  # the next start works
            eal.free(eal.malloc(64))

    def _hugepages(self, rng: random.Random) -> None:
        with worlds.private_hugetlbfs() as (_, hugedir):
            args = ["-m", "4", "--file-prefix=writers", "--huge-dir", hugedir]
            mode = rng.choice(([], ["--single-file-segments"], ["--legacy-mem"]))
            self._live(pyeal.init([*args, *mode]), rng)
            with pyeal.init(args) as eal:
                eal.free(eal.malloc(64))
            if left := os.listdir(hugedir):
                raise Wrong(f"pages stay: {left}")

    def lacks(self) -> str:
        if self.name != "hugepages":
            return ""
        return host.lacks(root=True, pages={"2M": worlds.PAGES}) or ""

    def _attached(self, case: Case, rng: random.Random) -> None:
        w = self.attached.world(case.seed)
        os.environ["RUNTIME_DIRECTORY"] = str(w.base)
        w.restore()
        args = ["--file-prefix", attach.PREFIX]
        secondary = self.name == "secondary"
        eal = attach.Eal(
            [*args, "--proc-type=secondary"] if secondary else args,
            wait=0,
            role=None if secondary else "observer",
        )
        try:
            self._live(eal, rng)
        finally:
            for file, data in w.files.items():
                w.put(file, data, -1)

    def _live(self, eal: pyeal.Eal, rng: random.Random) -> None:
        areas: list[int] = []
        files = self._files(eal)
        heap = [(m.base_va, m.len) for m in eal.memseg_lists() if m.count and eal.role == "primary"]
        try:
            for _ in range(3):
                self._try(lambda: areas.append(eal.malloc(500)))
            for _ in range(ROUNDS):
                for _ in range(rng.choice((1, 1, 3, 20))):
                    self._write(rng, files, heap)
                for _, call in rng.sample(calls_of(eal, areas, rng), 4):
                    self._try(call)
        finally:
            self._end(eal)

    @staticmethod
    def _try(call: Callable[[], object]) -> None:
        try:
            call()
        except pyeal.EalError:
            pass

    def _end(self, eal: pyeal.Eal) -> None:
        self._try(eal.cleanup)
        if not eal.closed:
            raise Wrong("cleanup does not end it")

    @staticmethod
    def _files(eal: pyeal.Eal) -> list[tuple[str, list[tuple[int, int]]]]:
        """(path, words that mean something) of each shared file."""
        kind = type(eal.config)
        words = [w for w in attach.leaves(kind) if w[0] < kind.memsegs.offset + 6 * 136]
        heaps = kind.malloc_heaps.offset
        words += [
            w for w in attach.leaves(kind) if heaps <= w[0] < heaps + 192 or w[0] > heaps + 6144
        ]
        found = [(eal.file("config"), words)]
        for name in sorted(os.listdir(eal.runtime_dir)):
            if name.startswith("fbarray_"):
                size = os.stat(eal.file(name)).st_size
                kind, step = (layout.Memzone, 72) if "memzone" in name else (layout.Memseg, 48)
                of = [(i * step + at, n) for i in range(4) for at, n in attach.leaves(kind)]
                of += [(at, 8) for at in range(size - 4096 & -8, size, 64)]
                found.append((eal.file(name), of))
        return found

    @staticmethod
    def _write(
        rng: random.Random,
        files: list[tuple[str, list[tuple[int, int]]]],
        heap: list[tuple[int, int]],
    ) -> None:
        """Replace a word of a file, or of an element in the pages."""
        new = rng.choice((rng.choice(WORDS), rng.getrandbits(64), rng.getrandbits(16)))
        if heap and rng.random() < 0.4:
            va, length = rng.choice(heap)
            at = (
                va
                + rng.randrange(min(length, 1 << 17)) // 64 * 64
                + rng.choice((0, 8, 16, 24, 32, 48))
            )
            if rng.random() < 0.5:  # a header that is there
                at = va + rng.choice((0, 8, 16, 24, 32, 40, 48, 56))
            ctypes.c_uint64.from_address(at).value = new
            return
        path, words = files[0] if rng.random() < 0.6 else rng.choice(files)
        at, size = rng.choice(words)
        with open(path, "r+b") as f:
            f.seek(at)
            old = int.from_bytes(f.read(size), "little")
            if rng.random() < 0.4:
                new = old ^ 1 << rng.randrange(size * 8)
            f.seek(at)
            f.write((new & (1 << size * 8) - 1).to_bytes(size, "little"))


FAMILIES = [Writers(name) for name in ("primary", "hugepages", "secondary", "observer")]
