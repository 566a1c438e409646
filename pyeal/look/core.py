"""The core file of a process of DPDK: an ELF file of its memory, of any architecture.

Segments say which memory the core has; notes, which file was mapped where. config is found by the
name of its file, or by its content. /proc/PID/coredump_filter decided what is in it.
"""

from __future__ import annotations

import os
import re
from array import array
from bisect import bisect_right
from errno import EFAULT, ENOENT
from itertools import pairwise
from struct import Struct, error, iter_unpack

from pyeal import builds
from pyeal.attached import LIMIT
from pyeal.errors import EalError
from pyeal.look.config import config_of, find_config
from pyeal.look.foreign import ForeignEal
from pyeal.look.packed import Packed, open_large
from pyeal.look.process import Process
from pyeal.look.runtime_dir import RuntimeDir, is_of_eal
from pyeal.look.snapshot import Snapshot
from pyeal.look.sources import MOST_BYTES, Memory, Unreadable, array_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pyeal import layout

    Dict = dict[str, Any]

HEADER = Struct("<16sHHIQQQIHHHHHH")  # elf.h: Elf64_Ehdr
SEGMENT = Struct("<IIQQQQQQ")  # Elf64_Phdr: type, flags, offset, vaddr, _, filesz, memsz, _
NOTE = Struct("<III")  # Elf64_Nhdr: bytes of the name, of the content, type
MAPPED = Struct("<QQQ")  # of NT_FILE: start, end, offset
ET_CORE, PT_LOAD, PT_NOTE, PN_XNUM = 4, 1, 4, 0xFFFF
NT_PRPSINFO, NT_AUXV, NT_FILE, NT_SIGINFO = 3, 6, 0x46494C45, 0x53494749
FATAL = {3, 4, 5, 6, 7, 8, 11, 24, 25, 31}  # signals that end a process with a core
MOST_SEGMENTS = 1 << 20  # a mapping each; the kernel allows 65,530 unless told otherwise
MOST_NOTES = 100_000
MOST_NOTE = 8 << 20  # bytes of a note
MOST_SEARCHED = 256 << 20  # bytes in which config is searched by its content
LAYOUT, PAGES = 0x3B, 0x7F  # coredump_filter: with config and arrays; with all pages as well
MACHINES = {62: "x86_64", 183: "aarch64", 21: "ppc64le", 243: "riscv64", 258: "loongarch64"}
PAGE_FILE = re.compile(r"map_\d+(?:_\d+)?( \(deleted\))?$|/memfd:seg_|/anon_hugepage")


class Core(Memory):
    """The memory that a core file has.

    machine: the architecture; pid, command, words: the process; signal: what ended it, 0 unknown.
    mapped: (start, end, path) of each mapping of a file, in order of address.
    directory: the runtime directory as the process called it, "" if it maps no config.
    notes: what is wrong with the file, in words.
    Raises OSError, Unreadable if it is no core file of a machine with 64 bits.
    """

    def __init__(self, path: str) -> None:
        self.path, self.notes, self.truncated = path, list[str](), False
        self.pid, self.command, self.words, self.signal = 0, "", "", 0
        self.mapped: list[tuple[int, int, str]] = []
        try:
            self.file = open_large(path)
            head = self.file.pread(HEADER.size, 0)
        except (OSError, EalError):
            raise
        except Exception as e:  # decoders raise what they like for bad bytes
            raise self._no_core(str(e)) from None
        if not head.startswith(b"\x7fELF"):
            raise self._no_core(self.file.broken or "no ELF file")
        if head[4:6] != b"\2\1":
            word = "ELF32" if head[4] == 1 else "an ELF file of big-endian words"
            raise self._no_core(word)
        try:
            _, kind, machine, _, _, at, sections, _, _, size, n, _, _, _ = HEADER.unpack(head)
        except error:
            raise self._no_core("an ELF file that is cut off") from None
        if kind != ET_CORE:
            raise self._no_core("an ELF file of another kind: a program or a library")
        self.machine = MACHINES.get(machine, f"machine {machine}")
        if n == PN_XNUM:  # the first section has the number then
            n = int.from_bytes(self.file.pread(4, sections + 44), "little")
        if size != SEGMENT.size or not 0 < n <= MOST_SEGMENTS:
            raise self._no_core(f"{n} segments of {size} bytes")
        # of each segment of memory, ascending: address, length, offset, length in the file, flags
        self.starts, self.memory = array("Q"), array("Q")
        self.offsets, self.stored, self.flags = array("Q"), array("Q"), array("B")
        self._segments(at, n)
        self.directory, self.config, self.config_size = "", 0, 0
        self._find_config()

    def __str__(self) -> str:
        return "the core"

    def _no_core(self, found: str) -> Unreadable:
        return Unreadable(self.path, "a core file (ELF, 64 bits, little-endian)", found)

    # headers and notes

    def _segments(self, at: int, n: int) -> None:
        notes, end = list[tuple[int, int]](), 0
        columns = (self.starts, self.memory, self.offsets, self.stored, self.flags)
        step = 1024
        for i in range(0, n, step):
            wanted = min(step, n - i) * SEGMENT.size
            data = self.file.pread(wanted, at + i * SEGMENT.size)
            if len(data) < wanted:
                raise self._no_core("a core file that is cut off before its memory")
            for kind, flags, offset, va, _, stored, length, _ in iter_unpack(SEGMENT.format, data):
                end = max(end, offset + stored if stored else 0)
                if kind == PT_NOTE:
                    notes.append((offset, stored))
                elif kind == PT_LOAD and length and va + length < 1 << 64:
                    row = va, length, offset, min(stored, length), flags & 7
                    for column, word in zip(columns, row, strict=True):
                        column.append(word)
        if any(a > b for a, b in pairwise(self.starts)):
            order = sorted(range(len(self.starts)), key=self.starts.__getitem__)
            for column in columns:
                column[:] = array(column.typecode, (column[i] for i in order))
        if not isinstance(self.file, Packed):
            there = os.fstat(self.file.fd).st_size
            if there < end:
                self.truncated = True
                self.notes.append(f"the core is truncated: expected {end} bytes, found {there}")
        for offset, length in notes[:MOST_NOTES]:
            self._notes(offset, length)

    def _notes(self, at: int, length: int) -> None:
        end = at + length
        for _ in range(MOST_NOTES):
            head = self.file.pread(NOTE.size, at) if at < end else b""
            if len(head) < NOTE.size:
                return
            name, size, kind = NOTE.unpack(head)
            at += NOTE.size + (name + 3 & ~3)
            if kind in (NT_PRPSINFO, NT_FILE, NT_SIGINFO) and size <= MOST_NOTE:
                self._note(kind, self.file.pread(size, at))
            at += size + 3 & ~3

    def _note(self, kind: int, data: bytes) -> None:
        if kind == NT_SIGINFO:
            self.signal = int.from_bytes(data[:4], "little")
        elif kind == NT_PRPSINFO and len(data) >= 136:  # linux/elfcore.h: elf_prpsinfo
            self.pid = int.from_bytes(data[24:28], "little")
            self.command, self.words = (
                raw.partition(b"\0")[0].decode("utf-8", "replace").strip()
                for raw in (data[40:56], data[56:136])
            )
        elif kind == NT_FILE and not self.mapped:
            n = int.from_bytes(data[:8], "little")  # the second word is the unit of the offsets
            if n * MAPPED.size > len(data):
                self.notes.append("damaged: the core's list of mapped files")
                return
            names = data[16 + n * MAPPED.size :].split(b"\0")
            rows = iter_unpack(MAPPED.format, data[16 : 16 + n * MAPPED.size])
            self.mapped = sorted(
                (start, end, os.fsdecode(name))
                for (start, end, _), name in zip(rows, names, strict=False)
                if start < end
            )

    # memory

    def _segment(self, va: int) -> int:
        """Return the index of the segment that an address is in, -1 if there is none."""
        i = bisect_right(self.starts, va) - 1
        return i if i >= 0 and va < self.starts[i] + self.memory[i] else -1

    def some(self, va: int, n: int) -> bytes:
        parts = []
        while n > 0 and (i := self._segment(va)) >= 0:
            skip = va - self.starts[i]
            take = min(n, self.stored[i] - skip)
            data = self.file.pread(take, self.offsets[i] + skip) if take > 0 else b""
            parts.append(data)
            if len(data) < take or take <= 0:
                break
            va, n = va + take, n - take
        return b"".join(parts)

    def at(self, va: int, n: int) -> bytes:
        data = self.some(va, n) if n <= MOST_BYTES else b""
        if len(data) != n:
            raise Absent(self._why_not(va + len(data)))
        return data

    def _why_not(self, va: int) -> str:
        if (i := self._segment(va)) >= 0 and va < self.starts[i] + self.stored[i]:
            return f"the core is truncated before {va:#x}"
        return f"not in the core: {va:#x}; {advice(self.file_at(va))}"

    def file_at(self, va: int) -> str:
        """Return the path of what is mapped at an address, "" if it is no file."""
        i = bisect_right(self.mapped, (va, 1 << 64, "")) - 1
        return self.mapped[i][2] if i >= 0 and va < self.mapped[i][1] else ""

    # the EAL in it

    def _find_config(self) -> None:
        """Find config by the name of its file; by its content if no file of that name is there."""
        for va, _, directory, _ in DeadProcess(self).configs():
            self.directory, self.config, self.private = directory, va, False
            mapped = next(e - s for s, e, _ in self.mapped if s == va)
            data = self.some(va, min(mapped, LIMIT))
            abi = builds.of_config(data, is_file=False)  # the mapping ends with a page
            self.config_size = abi.config_size if abi else mapped
            return
        areas, left = [], MOST_SEARCHED
        for start, stored, flags in zip(self.starts, self.stored, self.flags, strict=True):
            writable = flags & 6 == 6 and not PAGE_FILE.search(self.file_at(start))
            if writable and 0 < stored <= min(left, 64 << 20):
                areas.append((start, start + stored))
                left -= stored
        self.config, self.config_size = find_config(self, areas)

    def names(self) -> list[str]:
        found = {self._of_eal(path) for _, _, path in self.mapped} - {""}
        found |= {"config"} if self.config else set()
        return sorted(found | self._own_arrays().keys())

    def _own_arrays(self) -> dict[str, layout.Fbarray]:
        """Return the arrays of an EAL that shares nothing, by the names of such files."""
        if not (self.private and self.config):
            return {}
        try:
            c = config_of(self.read("config"))[0]
        except (OSError, Unreadable):
            return {}
        found = (c.memzones, *(m.memseg_arr for m in c.memsegs))
        return {array_file(desc): desc for desc in found if desc.name and desc.data}

    def _of_eal(self, path: str) -> str:
        """Return the name of a file in the runtime directory, "" for any other path."""
        at, _, name = path.removesuffix(" (deleted)").rpartition("/")
        return name if self.directory and at == self.directory and is_of_eal(name) else ""

    def read(self, name: str) -> bytes:
        if name == "config" and self.config:
            return self.at(self.config, min(self.config_size, MOST_BYTES))
        for start, end, path in self.mapped:
            if name and self._of_eal(path) == name:
                return self.at(start, end - start)
        if name != "config" and (desc := self._own_arrays().get(name)):
            return self.array(desc)
        raise FileNotFoundError(ENOENT, os.strerror(ENOENT), f"{self.path}:{name}")

    def array_bytes(self, desc: layout.Fbarray) -> int:
        i = bisect_right(self.mapped, (desc.data, 1 << 64, "")) - 1
        start, end, path = self.mapped[i] if i >= 0 else (0, 0, "")
        return end - start if start == desc.data and self._of_eal(path) else 0

    # what there is without its data

    def pages(self) -> list[Dict]:
        """Return each run of mapped page files: {va, len, files, page_sz, stored, path}.

        page_sz: bytes of one mapping; stored: bytes of the run that the core has.
        """
        found: list[Dict] = []
        for start, end, path in self.mapped:
            if not PAGE_FILE.search(path):
                continue
            files = re.sub(r"map_\d+(_\d+)?", "map_*", path)
            row: Dict = {"va": start, "len": end - start, "files": 1, "page_sz": end - start}
            row |= {"stored": self._stored(start, end), "path": files}
            last = found[-1] if found else row
            same = last["path"] == files and last["page_sz"] == end - start
            if same and last["va"] + last["len"] == start:
                for key in ("len", "files", "stored"):
                    last[key] += row[key]
            else:
                found.append(row)
        return found

    def _stored(self, start: int, end: int) -> int:
        i = self._segment(start)
        return max(min(end, self.starts[i] + self.stored[i]) - start, 0) if i >= 0 else 0

    def maps(self) -> Iterator[str]:
        """Yield lines as those of /proc/PID/maps, as far as segments and notes tell."""
        rows = list[tuple[int, int, str]]()
        starts = [start for start, _, _ in self.mapped]
        for start, length in zip(self.starts, self.memory, strict=True):
            if self.file_at(start) == "":
                i = bisect_right(starts, start)
                rows.append((start, min([start + length, *starts[i : i + 1]]), ""))
        for start, end, path in sorted([*rows, *self.mapped]):
            i = self._segment(start)
            flags = self.flags[i] if i >= 0 else 4
            words = "".join(c if flags & bit else "-" for c, bit in (("r", 4), ("w", 2), ("x", 1)))
            name = path.replace("\n", r"\012")
            yield f"{start:x}-{end:x} {words}p 00000000 00:00 0 {name}\n"


class Absent(OSError):
    """Memory that the core does not have."""

    def __init__(self, why: str) -> None:
        super().__init__(EFAULT, why)

    def __str__(self) -> str:
        return str(self.strerror)


def advice(path: str = "") -> str:
    """Return the filter with which a core has what was mapped from a file of that path."""
    word = PAGES if not path or PAGE_FILE.search(path) else LAYOUT
    return f"echo {word:#x} > /proc/PID/coredump_filter keeps it in the next one"


class DeadProcess(Process):
    """The process of a core, as far as the core tells."""

    def __init__(self, core: Core) -> None:
        super().__init__(core.pid, at=f"{core.path}/proc")  # a place that does not exist
        self.core = core

    def _read(self, name: str) -> bytes:
        if name == "maps":
            return os.fsencode("".join(self.core.maps()))
        if name == "comm":
            return self.core.command.encode()
        if name == "cmdline":
            return b"".join(w.encode() + b"\0" for w in self.core.words.split())
        return b""

    @property
    def age(self) -> float:
        return 0.0


def is_core(path: str) -> bool:
    """Return whether a file is an ELF file, compressed or not. Raises OSError, EalError."""
    file = open_large(path)
    try:
        return file.pread(4, 0) == b"\x7fELF"
    except Exception:  # decoders raise what they like for bad bytes
        return False


def eal_of(path: str) -> ForeignEal:
    """Return the EAL whose memory a core file has; `why` says what is missing without a snapshot.

    Raises OSError, Unreadable.
    """
    core = Core(path)
    e = ForeignEal(RuntimeDir(path, core.directory) if core.directory else None)
    p = DeadProcess(core)
    e.core = f"of process {core.pid} ({core.command})" if core.pid else "of a process"
    e.core += f", ended by signal {core.signal}" if core.signal in FATAL else ""
    if _is_secondary(core):
        e.secondaries = [p]
    else:
        e.primary, e.primary_pid = p, p.pid
    if not core.config:
        e.why = "no config of an EAL is in the core" + (": " + core.notes[0] if core.notes else "")
        return e
    try:
        e.snapshot = Snapshot(core, core.at)
        e.snapshot.problems += core.notes
    except (OSError, Unreadable) as err:
        e.why = f"config: {err}"
    return e


def core_of(e: ForeignEal) -> Core | None:
    """Return the core that an EAL is read from, None if it is no core."""
    return next((p.core for p in e.holders if isinstance(p, DeadProcess)), None)


def _is_secondary(core: Core) -> bool:
    """Return whether its process was a secondary: these alone map shadows of the lists' arrays."""
    names = core.names()
    lists = [n for n in names if n.startswith("fbarray_memseg-")]
    return any(b.startswith(f"{a}_") for a, b in pairwise(lists))
