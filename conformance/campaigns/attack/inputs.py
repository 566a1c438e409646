"""Damaged files of EALs, given to the tools that read them: inspect, map, ps, stale and dump.

A tool prints its result or one line of error within 2 s of CPU time, 100 MB and 8 MB of text.
"""

from __future__ import annotations

import ctypes
import functools
import io
import os
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from conformance import FIXTURES, MB
from conformance.campaigns.attack import worlds
from conformance.campaigns.fuzz import attach
from conformance.campaigns.fuzz.engine import Case, Wrong
from pyeal import cli, layout
from pyeal.look.config import config_of
from pyeal.look.snapshot import shape_of

SECONDS, TEXT = 2.0, 8 * MB
ARCHIVE = "zip"  # a seed that is an archive as a whole
LOOK = (
    "inspect RUN",
    "inspect --json RUN",
    "inspect --elements RUN",
    "inspect --prometheus RUN",
    "inspect RUN /eal/heap_info,0 /eal/memzone_list /eal/heap_list",
    "map RUN",
    "map --json RUN",
    "map --svg - RUN",
    "map --html - RUN",
    "ps -a",
    "ps -a --json",
    "stale -v",
    "stale --all --json",
)
DUMP = "dump FILE", "dump --json FILE", "dump -a FILE"
UNPACK = "inspect FILE", "map FILE", "dump FILE", "inspect --json FILE"


class Refused(Exception):
    """The tool printed one line of error."""


class Inputs:
    """Files of runtime directories, pages and archives with words changed, cut or extended."""

    name, allowed, memory = "inputs", (Refused,), 100 * MB

    def __init__(self) -> None:
        self.tmp = attach.WorkFolder()
        self._whole: set[tuple[int, str]] = set()  # (process, world): files that are as they were

    # where the files are

    @property
    def huge(self) -> str:
        """The folder of page files, as hugepage_info names it."""
        return f"{self.tmp.name}/huge"

    def _files(self, world: str) -> dict[str, bytes]:
        return worlds.files(world, self.huge)

    def _world(self, world: str) -> Path:
        """Put an EAL's files where the tools look; return the folder.

        The children of one parent run one after the other and share it.
        """
        at = Path(self.tmp.name) / str(os.getppid()) / world.replace("/", "-")
        worlds.only(at)
        if (me := (os.getpid(), world)) not in self._whole:
            self._whole.add(me)
            for path, data in self._files(world).items():
                file = self._path(at, path)
                file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                file.write_bytes(data)
        return at

    def _path(self, at: Path, path: str) -> Path:
        folder, _, name = path.partition("/")
        return Path(self.huge) / name if folder == "huge" else at / "dpdk" / attach.PREFIX / name

    # what is changed

    @functools.cached_property
    def _seeds(self) -> list[str]:
        found = []
        for world in worlds.names():
            of = sorted(self._files(world))
            found += [f"{world}:{path}" for path in of]
            found += [f"{world}:run/config"] * (len(of) // 2)  # what most of the rest hangs on
            if not world.startswith("heap/"):
                found.append(f"{world}:{ARCHIVE}")
        return found

    def seeds(self) -> list[str]:
        return self._seeds

    def warm(self) -> None:
        """Compute once what all children need."""
        for seed in dict.fromkeys(self._seeds):
            self.fields(seed)

    def data(self, seed: str) -> bytes:
        world, _, path = seed.partition(":")
        if path == ARCHIVE:
            return (FIXTURES / world).read_bytes()
        return self._files(world)[path]

    def ways(self, seed: str) -> list[str]:
        if seed.endswith(f":{ARCHIVE}"):
            return [*UNPACK]
        return [*LOOK, *(DUMP if ":run/" in seed else ())]

    @functools.cache  # noqa: B019
    def fields(self, seed: str) -> list[tuple[int, int]]:
        """(offset, bytes) of the words of a file that mean something."""
        path = seed.partition(":")[2]
        name, data = path.rpartition("/")[2], self.data(seed)
        if path == ARCHIVE:
            return []
        if path.startswith("huge/"):
            return self._elements(data)
        if name == "config":
            c, _, _ = config_of(data)
            empty = [i for i, m in enumerate(c.memsegs) if not m.base_va][1:]
            idle = [i for i, h in enumerate(c.malloc_heaps) if not h.name][1:]
            lists, heaps = type(c).memsegs, type(c).malloc_heaps
            step, size = lists.size // len(c.memsegs), heaps.size // len(c.malloc_heaps)
            spare = {at for i in empty for at in range(step * i, step * (i + 1))}
            spare = {lists.offset + at for at in spare}
            spare |= {heaps.offset + at for i in idle for at in range(size * i, size * (i + 1))}
            return [(at, n) for at, n in attach.leaves(type(c)) if at not in spare]
        if name.startswith("hugepage_"):
            kind = layout.hugepage_file()
            if name == "hugepage_info":
                kind = layout.hugepage_info(shape_of(data)[1])
            step = ctypes.sizeof(kind)
            ends = range(0, len(data) - step + 1, step)
            return [(i + at, n) for i in ends for at, n in attach.leaves(kind)]
        kind, step = (layout.Memzone, 72) if name.endswith("memzone") else (layout.Memseg, 48)
        words = [(i * step + at, n) for i in range(8) for at, n in attach.leaves(kind)]
        tail = len(data) - 64 - len(data) // (step * 8) // 8 * 8
        return words + [(at & -8, 8) for at in range(max(tail, 0), len(data) - 8, 64)]

    @staticmethod
    def _elements(data: bytes) -> list[tuple[int, int]]:
        """The words of what looks like elements of a heap in a page: they name their heap."""
        found: list[tuple[int, int]] = []
        kind, size = layout.MallocElem, ctypes.sizeof(layout.MallocElem)
        for at in range(0, len(data) - size, 64):
            e = kind.from_buffer_copy(data, at)
            if e.heap and e.size and not e.size % 64:
                found += [w for w in attach.leaves(kind, at) if w[0] - at < 80]
        return found

    # what looks at it

    def read(self, case: Case) -> None:
        world, _, path = case.seed.partition(":")
        content = case.apply(self.data(case.seed))
        at = self._world(world) if path != ARCHIVE else Path(self.tmp.name)
        file = self._path(at, path) if path != ARCHIVE else at / f"{os.getppid()}.zip"
        try:
            file.write_bytes(content)
            self._run(case.how, str(at / "dpdk" / attach.PREFIX), str(file))
        finally:
            if path != ARCHIVE:
                file.write_bytes(self.data(case.seed))

    def _run(self, how: str, run: str, file: str) -> None:
        words = [{"RUN": run, "FILE": file}.get(word, word) for word in how.split()]
        out, begun = io.StringIO(), time.process_time()
        with redirect_stdout(out), redirect_stderr(out):
            code = cli.main(words)
        took, said = time.process_time() - begun, out.getvalue()
        if took > SECONDS:
            raise Wrong(f"{how} takes over {SECONDS:g} s")
        if len(said) > TEXT:
            raise Wrong(f"{how} prints over {TEXT} bytes")
        if code not in (0, 1) or "Traceback" in said:
            raise Wrong(f"{how} ends with {code}: {said[-300:]}")
        if code and said.startswith("pyeal: "):
            raise Refused(said)
