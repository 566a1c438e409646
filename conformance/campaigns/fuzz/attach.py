"""The files of a runtime directory, as recorded from real runs: a secondary reads them."""

from __future__ import annotations

import ctypes
import fcntl
import functools
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pyeal
from conformance import HUGE_FILES
from conformance.campaigns.fuzz.engine import Case, Wrong
from conformance.harness import decode, recordings
from pyeal import files, layout, lcores, peers, releases
from pyeal.backing.pagefiles import HugedirFiles
from pyeal.vaspace import VaSpace

PREFIX = "fuzz"
RECORDED = [f"{r}-{m}" for r in ("20.11", "22.11", "24.11", "25.11") for m in HUGE_FILES]
OURS = 0x500000000000  # below lies what EAL maps, above what the loader did
EVERY = 256  # of so many answers one is compared with what fixtures/abi reads
LIST = "base_va", "page_sz", "socket_id", "len", "external"


class WorkFolder(tempfile.TemporaryDirectory[str]):
    """A folder, in memory if possible; the process that makes it removes it at its end.

    It is locked as long as that process or a child of it lives. What a killed process left is
    unlocked, and removed when the next folder is made.
    """

    PREFIX = "pyeal-fuzz-"

    def __init__(self) -> None:
        at = "/dev/shm" if os.access("/dev/shm", os.W_OK) else tempfile.gettempdir()
        while True:
            super().__init__(prefix=self.PREFIX, dir=at)
            if (fd := self._locked(self.name, fcntl.LOCK_SH)) >= 0:
                break
        self.lock = fd
        for name in os.listdir(at):
            if not name.startswith(self.PREFIX) or (path := f"{at}/{name}") == self.name:
                continue
            if (fd := self._locked(path, fcntl.LOCK_EX | fcntl.LOCK_NB)) >= 0:
                shutil.rmtree(path, ignore_errors=True)
                os.close(fd)

    @staticmethod
    def _locked(path: str, how: int) -> int:
        """Return a descriptor that locks a folder of this user, -1 if it is gone or in use."""
        try:
            fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            return -1
        try:
            fcntl.flock(fd, how)
            if os.fstat(fd).st_uid == os.geteuid() and os.path.samestat(
                os.fstat(fd), os.stat(path)
            ):
                return fd
        except OSError:
            pass
        os.close(fd)
        return -1

    def cleanup(self) -> None:
        super().cleanup()
        if self.lock >= 0:
            os.close(self.lock)
            self.lock = -1


def any_file_system() -> None:
    """Accept page files that are not on hugetlbfs."""

    def opened(self: HugedirFiles, page_sz: int, must: bool = True) -> files.closing:
        return files.closing(os.open(self.infos[page_sz].hugedir, os.O_RDONLY))

    HugedirFiles.directory = opened  # type: ignore[method-assign]


def quick_locks() -> None:
    """Shorten the waits: no process frees a lock word that is wrong."""
    peers.SharedLock.GRACE = peers.SharedLock.WAIT = 0.001


@functools.cache
def cpus(release: releases.Release) -> lcores.Cpus:
    return lcores.discover(release)


class Eal(pyeal.Eal):
    """It knows this machine's CPUs already, whose files are the family text's."""

    def _cpus(self) -> lcores.Cpus:
        return cpus(self.release)


class World:
    """A recording, put where its pages and paths are its own."""

    def __init__(self, name: str, base: Path) -> None:
        release, _, mode = name.partition("-")
        seen, self.files = recordings.load(release, mode)
        self.release = releases.get(seen["release"])
        self.base, self.run, self.huge = base, base / "dpdk" / PREFIX, base / "huge"
        self.run.mkdir(0o700, parents=True)
        self.huge.mkdir(0o700)
        kind = layout.hugepage_info(self.release.numa_nodes_max)
        info = bytearray(self.files["hugepage_info"])
        kind.from_buffer(info).hugedir = os.fsencode(self.huge)
        self.files["hugepage_info"] = bytes(info)
        if "hugepage_data" in self.files:
            data = bytearray(self.files["hugepage_data"])
            for at in range(0, len(data), ctypes.sizeof(layout.hugepage_file())):
                r = layout.hugepage_file().from_buffer(data, at)
                r.filepath = os.fsencode(self._page(r.filepath.decode()))
            self.files["hugepage_data"] = bytes(data)
        for path, size in seen["files"].items():
            if path.startswith("/run/hugepages/"):
                with open(self._page(path), "wb") as f:
                    f.truncate(size)
        for file, content in self.files.items():
            (self.run / file).write_bytes(content)
        # a primary has its arrays locked; a secondary sweeps away what no process holds
        for file in self.files:
            if file.startswith("fbarray_"):
                fcntl.flock(os.open(self.run / file, os.O_RDONLY), fcntl.LOCK_SH)
        self.names, self.pid = self._names(), os.getpid()

    def _page(self, path: str) -> Path:
        return self.huge / Path(path).name.replace(recordings.PREFIX, PREFIX)

    def _names(self) -> dict[str, int]:
        with os.scandir(self.run) as run, os.scandir(self.huge) as huge:
            return {e.path: e.stat().st_size for e in (*run, *huge)}

    def restore(self) -> None:
        """As it was, if another process died over it."""
        if self.pid != os.getpid():
            self.pid = os.getpid()
            for path in self._names().keys() - self.names.keys():
                os.unlink(path)
            for file in self.files:
                self.put(file, self.files[file], -1)

    def put(self, file: str, content: bytes, old: int) -> None:
        with open(self.run / file, "r+b") as f:
            if len(content) != old:
                f.truncate(len(content))
            f.write(content)

    def unchanged(self, file: str, content: bytes, secondary: bool) -> None:
        """Wrong for a file that came, went, or has other bytes now."""
        expected = self.names | {str(self.run / file): len(content)}
        if (now := self._names()) != expected:
            what = sorted((Path(p).name, n) for p, n in now.items() ^ expected.items())
            raise Wrong(f"files changed: {what}")
        for name in {file, "config"}:
            want = content if name == file else self.files[name]
            got = (self.run / name).read_bytes()
            if secondary and name == "config":  # a secondary writes that it attached
                at = layout.config(self.release.family).mp_status.offset
                want, got = want[:at] + want[at + 1 :], got[:at] + got[at + 1 :]
            if got != want:
                at = next(i for i, (a, b) in enumerate(zip(got, want, strict=True)) if a != b)
                raise Wrong(f"{name} was written to at {at}")


class Attach:
    """One kind of file of the runtime directory."""

    allowed = (pyeal.EalError,)
    worlds: dict[str, World] = {}

    def __init__(self, name: str, pattern: str) -> None:
        self.name, self.pattern, self.n = name, pattern, 0
        self.tmp = WorkFolder()
        self._fields: dict[str, list[tuple[int, int]]] = {}

    def world(self, seed: str) -> World:
        name = seed.partition("/")[0]
        if name not in self.worlds:
            quick_locks()
            any_file_system()
            at = Path(self.tmp.name) / str(os.getpid()) / name
            self.worlds[name] = World(name, at)
        return self.worlds[name]

    def seeds(self) -> list[str]:
        if not hasattr(self, "_seeds"):
            self._seeds = [
                f"{name}/{file}"
                for name in RECORDED
                for file in sorted(self.world(name).files)
                if file.startswith(self.pattern)
            ]
        return self._seeds

    def data(self, seed: str) -> bytes:
        return self.world(seed).files[seed.partition("/")[2]]

    def ways(self, seed: str) -> list[str]:
        return ["observer"] * 7 + ["secondary"]

    def fields(self, seed: str) -> list[tuple[int, int]]:
        if seed not in self._fields:
            self._fields[seed] = self._words(seed)
        return self._fields[seed]

    def _words(self, seed: str) -> list[tuple[int, int]]:
        release, file = self.world(seed).release, seed.partition("/")[2]
        size = len(self.data(seed))
        if file == "config":
            kind = layout.config(release.family)
            empty = (  # slots that a small EAL has no use for
                range(kind.memsegs.offset + 6 * 136, kind.malloc_heaps.offset),
                range(kind.malloc_heaps.offset + 2 * 192, kind.next_socket_id.offset),
            )
            return [(at, n) for at, n in leaves(kind) if not any(at in e for e in empty)]
        if file == "hugepage_info":
            kind = layout.hugepage_info(release.numa_nodes_max)
        elif file == "hugepage_data":
            kind = layout.hugepage_file()
        else:
            kind = layout.Memzone if file.endswith("memzone") else layout.Memseg
            n, each = layout.MAX_MEMZONE if kind is layout.Memzone else 8192, ctypes.sizeof(kind)
            words = [n * each + 8 * i for i in (0, 1, 1, 1, 2, n // 64 - 1, n // 64, n // 64 + 1)]
            found = [(i * each + at, size) for i in range(8) for at, size in leaves(kind)]
            return found + [(at, 8) for at in words]
        n = ctypes.sizeof(kind)
        return [(i + at, size) for i in range(0, size, n) for at, size in leaves(kind)]

    def read(self, case: Case) -> None:
        w, file = self.world(case.seed), case.seed.partition("/")[2]
        os.environ["RUNTIME_DIRECTORY"] = str(w.base)
        w.restore()
        old = w.files[file]
        content = case.apply(old)
        w.put(file, content, len(old))
        before = self._mine()
        self.n += 1
        try:
            try:
                self._attach(case.how, w, content if file == "config" else b"")
            finally:
                w.unchanged(file, content, case.how == "secondary")
                if (after := self._mine()) != before:
                    raise Wrong(f"left behind: {sorted(after ^ before)}")
        finally:
            for name in {file, "config"}:
                w.put(name, w.files[name], -1)

    def _attach(self, how: str, w: World, config: bytes) -> None:
        args = ["--file-prefix", PREFIX]
        if how == "secondary":
            args.append("--proc-type=secondary")
        with Eal(args, wait=0, role="observer" if how == "observer" else None) as eal:
            facts: Any = eal.layout()
            eal.dump()
            list(eal.memzones)
            eal.refresh()
            for m in eal.memseg_lists():
                eal.memseg_of(m.base_va)
            eal.walk_contig(lambda msl, ms, n: None, unlocked=True)
            if config and self.n % EVERY == 0:
                self._compare(facts, w, config)

    @staticmethod
    def _compare(facts: Any, w: World, config: bytes) -> None:
        c = decode.release(w.release.name).config(config)
        want = [{f: m[f] for f in LIST} for m in c.memsegs if m.memseg_arr.len and not m.external]
        if (got := [{f: m[f] for f in LIST} for m in facts["lists"]]) != want:
            raise Wrong(f"lists {got}, the file says {want}")

    @staticmethod
    def _mine() -> set[str]:
        """Descriptors and mappings of EAL's kind."""
        mine = set(os.listdir("/proc/self/fd"))
        with open("/proc/self/maps") as f:
            for line in f:  # ascending
                if (start := int(line.partition("-")[0], 16)) >= OURS:
                    break
                if start >= VaSpace().cursor:
                    mine.add(line.partition(" ")[0])
        return mine


def leaves(kind: Any, base: int = 0) -> list[tuple[int, int]]:
    """(offset, bytes) of every number and of every string's head and end in a structure."""
    if hasattr(kind, "_fields_"):
        found = []
        for name, of, *_ in kind._fields_:
            found += leaves(of, base + getattr(kind, name).offset)
        return found
    if hasattr(kind, "_length_"):
        n = ctypes.sizeof(kind._type_)
        if n == 1:
            return [(base, 1), (base, 8), (base + 8, 8), (base + ctypes.sizeof(kind) - 1, 1)]
        return [x for i in range(kind._length_) for x in leaves(kind._type_, base + i * n)]
    return [(base, ctypes.sizeof(kind))]


FAMILIES = [
    Attach("config", "config"),
    Attach("fbarray", "fbarray_"),
    Attach("hugepage_info", "hugepage_info"),
    Attach("hugepage_data", "hugepage_data"),
]
