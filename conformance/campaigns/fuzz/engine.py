"""Inputs made of seeds, run in forked children: what ends a child is a finding, not the end.

A case is a seed and what was changed in it; number i of a run is the same in every run, so that a
child's death is told by its number alone.
"""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import random
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple, Protocol

from conformance import FIXTURES, MB

PR_SET_PDEATHSIG = 1
FOUND = FIXTURES / "fuzz"
BATCH = 500  # inputs a child
LIMIT = 15.0  # seconds an input: a busy machine is no hang
MEMORY = 512 * MB  # bytes that a child may write to; address space costs nothing
REFUSED, READ = "refused", "read"
WORDS = 0, 1, 2, 3, 63, 64, 4095, 4096, 4097, 1 << 16, 1 << 21, 1 << 31, (1 << 32) - 1, 1 << 47
WORDS += (1 << 63, (1 << 64) - 4096, (1 << 64) - 1)


class Case(NamedTuple):
    """A seed with bytes changed; how: the way it is looked at; size: cut or grown to so much."""

    family: str
    seed: str
    how: str
    edits: tuple[tuple[int, bytes], ...]
    size: int | None = None

    def apply(self, data: bytes) -> bytes:
        new = bytearray(data)
        for at, piece in self.edits:
            new[at : at + len(piece)] = piece
        if self.size is not None:
            new = new[: self.size].ljust(min(self.size, 1 << 22), b"\0")
        return bytes(new)

    def to_json(self, was: str) -> str:
        edits = [[at, piece.hex()] for at, piece in self.edits]
        facts = {"family": self.family, "seed": self.seed, "how": self.how, "edits": edits}
        if self.size is not None:
            facts["size"] = self.size
        return json.dumps(facts | {"was": was}, indent=1) + "\n"

    @classmethod
    def from_json(cls, text: str) -> Case:
        f = json.loads(text)
        edits = tuple((at, bytes.fromhex(piece)) for at, piece in f["edits"])
        return cls(f["family"], f["seed"], f["how"], edits, f.get("size"))


class Found(NamedTuple):
    """A case that no reader may answer so; what: the signal, or the exception and where."""

    case: Case
    what: str
    detail: str = ""


class Wrong(Exception):
    """What a family says of an answer: a leak, a write, a value that cannot be."""


class Family(Protocol):
    """What is fuzzed: its seeds, where their fields lie, and what reads them."""

    name: str
    allowed: tuple[type[Exception], ...]  # what a reader may raise
    # memory: bytes that a child may write to besides what its parent has; MEMORY without it

    def seeds(self) -> list[str]: ...
    def data(self, seed: str) -> bytes: ...
    def ways(self, seed: str) -> list[str]:
        """How a seed may be looked at; doubled entries are taken more often."""
        ...

    def fields(self, seed: str) -> list[tuple[int, int]]:
        """(offset, bytes) of words that mean something; () where every byte does."""
        ...

    def read(self, case: Case) -> None: ...


def make(family: Family, seed: int, i: int) -> Case:
    """Case number i of a run."""
    rng = random.Random(f"{seed} {family.name} {i}")
    name = rng.choice(family.seeds())
    how = rng.choice(family.ways(name))
    data, fields = family.data(name), family.fields(name)
    edits = [_edit(rng, data, fields) for _ in range(rng.choice((0, 1, 1, 1, 2, 4)))]
    size = None
    if not edits or rng.random() < 0.05:
        size = rng.choice(
            (
                0,
                1,
                rng.randrange(len(data) + 1),
                len(data) - 1,
                len(data) + 1,
                len(data) * 2,
                rng.randrange(len(data) + 1) & -4096,
            )
        )
    return Case(family.name, name, how, tuple(e for e in edits if e[1]), size)


def _edit(rng: random.Random, data: bytes, fields: list[tuple[int, int]]) -> tuple[int, bytes]:
    if not data:
        return 0, b""
    if fields and rng.random() < 0.8:
        at, size = rng.choice(fields)
        old = int.from_bytes(data[at : at + size], "little")
        other, n = rng.choice(fields)
        new = rng.choice(
            (
                rng.choice(WORDS),
                old ^ 1 << rng.randrange(size * 8),
                old + rng.choice((-1, 1)),
                old + rng.choice((-4096, 4096, -64, 64, 128)),
                old * 2,
                old // 2,
                int.from_bytes(data[other : other + n], "little"),
                rng.getrandbits(size * 8),
            )
        )
        return at, (new & (1 << size * 8) - 1).to_bytes(size, "little")
    at = rng.randrange(len(data))
    match rng.randrange(5):
        case 0:
            return at, bytes([data[at] ^ 1 << rng.randrange(8)])
        case 1:
            return at, bytes([rng.choice(b"\0\xff\x80\n /,.-0x9")])
        case 2:
            return at, rng.randbytes(rng.choice((1, 2, 4, 8, 32)))[: len(data) - at]
        case 3:
            other = rng.randrange(len(data))
            return at, data[other : other + rng.choice((4, 8, 16, 64))][: len(data) - at]
        case _:
            return at & -8, rng.choice(WORDS).to_bytes(8, "little")[: len(data) - (at & -8)]


class Counts:
    """Number of the case under way, how many were refused and read: shared with the children."""

    def __init__(self) -> None:
        self.words = memoryview(mmap.mmap(-1, 24)).cast("Q")

    at = property(lambda self: self.words[0])
    refused = property(lambda self: self.words[1])
    read = property(lambda self: self.words[2])


def run(
    family: Family,
    cases: Callable[[int], Case],
    n: int,
    tell: Callable[[Counts, int], object] = lambda counts, found: None,
) -> tuple[Counts, list[Found]]:
    """Runs cases 0 to n - 1: what was answered how often, and what must not be."""
    counts, found, first = Counts(), [], 0
    while first < n:
        last = min(first + BATCH, n)
        out, inn = os.pipe()
        parent = os.getpid()
        sys.stdout.flush()
        if not (pid := os.fork()):
            os.close(out)
            die_with(parent)
            _child(family, cases, range(first, last), counts, inn)
        os.close(inn)
        with open(out) as f:
            for line in f:
                i, what, detail = json.loads(line)
                found.append(Found(cases(i), what, detail))
        _, status = os.waitpid(pid, 0)
        first = last
        if status:
            first = counts.at + 1
            found.append(Found(cases(counts.at), ending(status)))
        tell(counts, len(found))
    return counts, found


def _data() -> int:
    """Return the bytes of this process that RLIMIT_DATA counts."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmData:"):
            return int(line.split()[1]) << 10
    return 0


def die_with(parent: int) -> None:
    """Let the kernel kill this process as its parent ends: nothing that was started stays."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before
        os._exit(1)


def ending(status: int) -> str:
    code = os.waitstatus_to_exitcode(status)
    if code == -signal.SIGALRM:
        return f"hangs for {LIMIT:g} s"
    return signal.Signals(-code).name if code < 0 else f"exit {code}"


def _child(
    family: Family, cases: Callable[[int], Case], numbers: range, counts: Counts, to: int
) -> None:
    code = 1
    try:
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        memory = getattr(family, "memory", 0)
        memory = memory + _data() if memory else MEMORY
        resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        for i in numbers:
            counts.words[0] = i
            case = cases(i)
            signal.setitimer(signal.ITIMER_REAL, LIMIT)
            try:
                family.read(case)
                counts.words[2] += 1
            except family.allowed:
                counts.words[1] += 1
            except BaseException as e:
                signal.setitimer(signal.ITIMER_REAL, 0)
                os.write(to, json.dumps([i, _where(e), traceback.format_exc()[-3000:]]).encode())
                os.write(to, b"\n")
        signal.setitimer(signal.ITIMER_REAL, 0)
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def _where(e: BaseException) -> str:
    """The exception and the function that it comes from."""
    if isinstance(e, Wrong):
        return f"wrong: {e}"
    last = traceback.extract_tb(e.__traceback__)[-1]
    return f"{type(e).__name__} in {Path(last.filename).name}: {last.name}"


def smaller(family: Family, found: Found) -> Found:
    """The same finding with as few edits as will do."""

    def same(case: Case) -> Found | None:
        _, again = run(family, lambda i: case, 1)
        return again[0] if again and again[0].what == found.what else None

    for i in reversed(range(len(found.case.edits))):
        edits = found.case.edits[:i] + found.case.edits[i + 1 :]
        found = same(found.case._replace(edits=edits)) or found
    if found.case.size is not None:
        found = same(found.case._replace(size=None)) or found
    return found


def kept(folder: Path = FOUND) -> Iterator[tuple[Path, Case]]:
    """What was found before."""
    for path in sorted(folder.glob("*.json")):
        yield path, Case.from_json(path.read_text())
