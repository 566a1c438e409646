"""One EAL's shared memory as it was when it was read: config, lists, zones, heaps.

From a runtime directory (of a living process or not), a copy of one, an archive, or the memory of
a process that shares nothing. Nothing is opened for writing, locked, mapped or attached to.
"""

from __future__ import annotations

import os
from errno import EINVAL
from struct import Struct, iter_unpack

from pyeal import layout, releases
from pyeal.errors import EalError
from pyeal.fbarray import file_size, n_words, runs
from pyeal.hugepage_data import RECORD
from pyeal.layout import BAD_IOVA, FREELISTS, MallocElem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from pyeal.releases import Release

    Dict = dict[str, Any]

MEMSEG = Struct("<QQQQiIII")  # layout.Memseg: iova, addr, len, hugepage_sz, socket, _, _, flags
STATES = {0: "Free", 1: "Busy", 2: "Pad"}
MOST_ELEMENTS = 1_000_000  # a heap that has more is taken for a loop
MOST_BYTES = 1 << 30  # of one array
TRIES = 3  # of a memory that changes while it is read


class Unreadable(EalError):
    """What was found is not what EAL writes; the text says what was wanted instead."""

    def __init__(self, text: str) -> None:
        super().__init__(EINVAL, "read", text)

    def __str__(self) -> str:
        return self.text


class NotYet(Unreadable):
    """A config as it is at the very start, before it says of which release it is."""


# --- where the bytes come from


class Folder:
    """A runtime directory, or a copy of one."""

    def __init__(self, path: str) -> None:
        self.path = path

    def names(self) -> list[str]:
        return sorted(os.listdir(self.path))

    def read(self, name: str) -> bytes:
        fd = os.open(f"{self.path}/{name}", os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with open(fd, "rb", buffering=0) as f:
            return f.read()

    def array(self, desc: layout.Fbarray) -> bytes:
        return self.read(f"fbarray_{desc.name.decode(errors='replace')}")


class Archive:
    """A runtime directory in a tar (also compressed) or zip file; inner: its path in there."""

    def __init__(self, path: str, inner: str | None = None) -> None:
        self.path = path
        self.files = _members(path)
        at = [n.rpartition("/")[0] for n in self.files if n.rpartition("/")[2] == "config"]
        if inner is None:
            inner = next(iter(at), "")
        self.inner = inner.strip("/")
        self.prefixes = at

    def names(self) -> list[str]:
        d = self.inner + "/" if self.inner else ""
        rest = (n[len(d) :] for n in self.files if n.startswith(d))
        return sorted(n for n in rest if n and "/" not in n)

    def read(self, name: str) -> bytes:
        name = f"{self.inner}/{name}".lstrip("/")
        if name not in self.files:
            raise FileNotFoundError(2, os.strerror(2), f"{self.path}:{name}")
        return self.files[name]()

    def array(self, desc: layout.Fbarray) -> bytes:
        return self.read(f"fbarray_{desc.name.decode(errors='replace')}")


def _members(path: str) -> dict[str, Callable[[], bytes]]:
    """{name without ./: a function that reads it} of a tar or zip file. Unreadable."""
    import tarfile
    import zipfile

    if zipfile.is_zipfile(path):
        z = zipfile.ZipFile(path)
        return {n: lambda n=n: z.read(n) for n in z.namelist() if not n.endswith("/")}  # type: ignore[misc]
    try:
        t = tarfile.open(path)
        members = [m for m in t.getmembers() if m.isreg()]
    except (tarfile.TarError, EOFError) as e:
        raise Unreadable(f"{path}: a directory, a tar or a zip file wanted: {e}") from None

    def take(m: tarfile.TarInfo) -> bytes:
        f = t.extractfile(m)
        return f.read() if f else b""

    return {m.name.removeprefix("./"): lambda m=m: take(m) for m in members}  # type: ignore[misc]


class ProcessMemory:
    """The memory of a process: of what it does not share, config and arrays too.

    /proc/PID/mem is read like a file; the process is not stopped.
    """

    def __init__(self, pid: int, config: int = 0) -> None:
        self.pid, self.config = pid, config
        self.fd = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)

    def close(self) -> None:
        os.close(self.fd)

    def at(self, va: int, n: int) -> bytes:
        if n > MOST_BYTES or va >> 63:
            raise OSError(14, f"{n} bytes at {va:#x} wanted: that is nonsense", "mem")
        data = os.pread(self.fd, n, va)
        if len(data) != n:
            raise OSError(14, f"{n} bytes at {va:#x} of process {self.pid} wanted", "mem")
        return data

    def names(self) -> list[str]:
        return ["config"]

    def read(self, name: str) -> bytes:
        if name != "config":
            raise FileNotFoundError(2, os.strerror(2), name)
        return self.at(self.config, layout.CONFIG_SIZE)

    def array(self, desc: layout.Fbarray) -> bytes:
        return self.at(desc.data, file_size(desc.len, desc.elt_sz))


def find_config(memory: ProcessMemory, areas: list[tuple[int, int]]) -> int:
    """Address of `rte_mem_config` in a process that keeps it to itself; 0 if there is none."""
    word, step = layout.MAGIC.to_bytes(4, "little"), 4 << 20
    for start, end in areas:
        for at in range(start, end, step):
            try:
                data = os.pread(memory.fd, min(step, end - at) + layout.CONFIG_SIZE, at)
            except OSError:
                break
            i = data.find(word)
            while i >= 0:
                if i % 8 == 0 and _looks_like_config(data[i : i + layout.CONFIG_SIZE]):
                    return at + i
                i = data.find(word, i + 1)
    return 0


def _looks_like_config(data: bytes) -> bool:
    if len(data) < layout.CONFIG_SIZE or data[4] > 99:  # a release; candidates have less
        return False
    try:
        c = config_of(data)[0]
    except Unreadable:
        return False
    return bool(c.memzones.name == b"memzone" and c.memzones.elt_sz == 72)


def config_of(data: bytes) -> tuple[Any, Release]:
    """(rte_mem_config as a copy, its release) by the version word at offset 4. Unreadable."""
    if len(data) < layout.CONFIG_SIZE:
        raise NotYet(f"config: {layout.CONFIG_SIZE} bytes wanted, {len(data)} found")
    word = int.from_bytes(data[4:8], "little")
    if not word:
        raise NotYet("config: no version word yet: its primary is at the very start, or died there")
    release = release_of(word)
    return layout.config(release.family).from_buffer_copy(data), release


def release_of(word: int) -> Release:
    """The release of a version word; one between two known ones is like the older. Unreadable."""
    try:
        return releases.by_word(word)
    except ValueError:
        year, month, minor = word >> 24, word >> 16 & 0xFF, word >> 8 & 0xFF
        name = f"{year:02}.{month:02}" + (f".{minor}" if minor else "")
        known = list(releases.RELEASES.values())
        older = [r for r in known if r.word <= word]
        if not older or not 1 <= month <= 12 or word >> 16 > known[-1].word >> 16:
            raise Unreadable(
                f"config: version word {word:#x} ({name}): "
                f"{known[0].line} to {known[-1].line} wanted"
            ) from None
        return releases.Release(name, {**older[-1].__dict__})


def text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


# --- what they say


class Array:
    """A file-backed array as bytes: which elements are used, and what they hold."""

    def __init__(self, desc: layout.Fbarray, data: bytes | None, why: str = "") -> None:
        self.name, self.len, self.elt_sz = text(desc.name), desc.len, desc.elt_sz
        self.count, self.data, self.why = desc.count, data, why
        self.used = 0
        end = desc.len * desc.elt_sz
        if data is not None and len(data) >= end + 8 + 8 * n_words(desc.len):
            self.used = int.from_bytes(data[end + 8 : end + 8 + 8 * n_words(desc.len)], "little")
        elif data is not None:
            self.data, self.why = None, f"{len(data)} bytes found, too short for {desc.len} entries"

    def runs(self) -> list[tuple[int, int]]:
        return runs(self.used)

    def element(self, i: int) -> bytes:
        return (self.data or b"")[i * self.elt_sz : (i + 1) * self.elt_sz]


class Snapshot:
    """All of one EAL's shared memory; numbers as telemetry would give them.

    memory: reads the process's own pages, for heap elements; None where there is none to read.
    """

    def __init__(self, source: Any, memory: Callable[[int, int], bytes] | None = None) -> None:
        self.source, self.memory = source, memory
        self.problems: list[str] = []
        self.c, self.release = config_of(source.read("config"))
        self._seen: tuple[dict[int, Array], list[Dict]] | None = None
        self._zones: Array | None = None
        self._heaps: list[Dict] | None = None

    def _look(self) -> tuple[dict[int, Array], list[Dict]]:
        """The arrays that belong to the lists, read when they are asked for: they may be large."""
        if self._seen:
            return self._seen
        for _ in range(TRIES):
            arrays = {i: self._array(m) for i, m in enumerate(self.c.memsegs) if sound(m)}
            again = self._config()
            if bytes(again.memsegs) == bytes(self.c.memsegs):
                break
            self.c = again
        else:
            self.problems.append("the lists changed while they were read: numbers may not agree")
        lists = [self._list(i, m, arrays[i]) for i, m in enumerate(self.c.memsegs) if i in arrays]
        bad = [i for i, m in enumerate(self.c.memsegs) if m.base_va and i not in arrays]
        if bad:
            self.problems.append(f"memsegs {bad}: sizes that contradict each other, left out")
        self._seen = arrays, lists
        return self._seen

    def _config(self) -> Any:
        """The config as it is now; as it was, if it has gone with its process meanwhile."""
        try:
            return config_of(self.source.read("config"))[0]
        except (OSError, Unreadable):
            return self.c

    @property
    def arrays(self) -> dict[int, Array]:
        """Index of a list -> which of its pages are used, and their records."""
        return self._look()[0]

    @property
    def lists(self) -> list[Dict]:
        """Each list as `Eal.layout()` has it."""
        return self._look()[1]

    @property
    def zones(self) -> Array:
        if self._zones is None:
            self._zones = self._read(self.c.memzones)
        return self._zones

    def _array(self, m: layout.MemsegList) -> Array:
        return (
            self._read(m.memseg_arr) if m.memseg_arr.count else Array(m.memseg_arr, None, "empty")
        )

    def _read(self, desc: layout.Fbarray) -> Array:
        try:
            return Array(desc, self.source.array(desc))
        except OSError as e:
            return Array(desc, None, e.strerror or str(e))

    @property
    def complete(self) -> bool:
        """Whether its primary has finished its start."""
        return bool(self.c.magic == layout.MAGIC)

    @property
    def mode(self) -> str:
        if any(m.memseg_arr.name == b"nohugemem" for m in self.c.memsegs):
            return "no-huge"
        if isinstance(self.source, ProcessMemory):
            return "in-memory"
        if self.c.legacy_mem:
            return "legacy"
        return "single-file" if self.c.single_file_segments else "dynmem"

    @property
    def iova_mode(self) -> str:
        """VA or PA as the pages say; "" where none does."""
        for ml in self.lists:
            for r in ml["runs"]:
                for i, va in zip(r["iova_runs"], _starts(r, ml["page_sz"]), strict=True):
                    if i["iova"] != BAD_IOVA and not ml["external"]:
                        return "VA" if i["iova"] == va else "PA"
        return ""

    def _list(self, i: int, m: layout.MemsegList, a: Array) -> Dict:
        ml: Dict = {"index": i, "name": a.name}
        for name in ("base_va", "len", "page_sz", "socket_id", "version", "external", "heap"):
            ml[name] = getattr(m, name)
        ml |= {"n_segs": a.len, "count": a.count}
        ml["runs"] = [run_layout(m, a, start, n) for start, n in a.runs()]
        if a.count and a.data is None:
            ml["unread"] = a.why
            self.problems.append(f"{a.name}: {a.count} pages, but its array: {a.why}")
        elif a.used.bit_count() != a.count:
            self.problems.append(
                f"{a.name}: {a.count} pages counted, {a.used.bit_count()} marked in its array"
            )
        return ml

    def find(self, va: int) -> tuple[Dict, int] | None:
        """(list, segment) that an address lies in."""
        for ml in self.lists:
            if ml["base_va"] <= va < ml["base_va"] + ml["len"]:
                return ml, (va - ml["base_va"]) // ml["page_sz"]
        return None

    def memseg(self, index: int, seg: int) -> layout.Memseg | None:
        a = self.arrays.get(index)
        if a is None or a.data is None or not 0 <= seg < a.len:
            return None
        return layout.Memseg.from_buffer_copy(a.element(seg))

    # zones and queues

    def memzone(self, i: int) -> layout.Memzone | None:
        if self.zones.data is None or not 0 <= i < self.zones.len or not self.zones.used >> i & 1:
            return None
        return layout.Memzone.from_buffer_copy(self.zones.element(i))

    def memzone_ids(self) -> list[int]:
        return [i for start, n in self.zones.runs() for i in range(start, start + n)]

    def tailqs(self) -> list[Dict]:
        return [
            {"name": text(q.name), "first": q.tqh_first, "empty": not q.tqh_first}
            for q in self.c.tailq_head
            if q.name
        ]

    # heaps

    def heaps(self) -> list[Dict]:
        """Each heap with the numbers of /eal/heap_info; they are None without its memory."""
        if self._heaps is None:
            self._heaps = [self._heap(i) for i, h in enumerate(self.c.malloc_heaps) if h.name]
        return self._heaps

    def _heap(self, i: int) -> Dict:
        h = self.c.malloc_heaps[i]
        facts: Dict = {
            "Heap_id": i, "Name": text(h.name), "Heap_size": h.total_size, "Free_size": None,
            "Alloc_size": None, "Greatest_free_size": None, "Alloc_count": h.alloc_count,
            "Free_count": None, "Socket_id": h.socket_id, "locked": bool(h.lock),
        }  # fmt: skip
        if self.memory is None:
            return facts | {"unread": "the pages are not there: only config and arrays"}
        why = "it changes all the time"
        for _ in range(TRIES):
            free = None
            try:
                free = [e.size for _, e in self._free_elements(i)]
            except (OSError, Unreadable) as e:
                why = str(e)
            before, h = bytes(h), self._config().malloc_heaps[i]
            if before == bytes(h) and free is not None:
                return facts | {
                    "Free_size": sum(free), "Alloc_size": h.total_size - sum(free),
                    "Greatest_free_size": max(free, default=0), "Free_count": len(free),
                }  # fmt: skip
            self.c.malloc_heaps[i] = h
            facts |= {"Heap_size": h.total_size, "Alloc_count": h.alloc_count}
        return facts | {"unread": why}

    def _element(self, heap: int, va: int) -> MallocElem:
        assert self.memory
        e = MallocElem.from_buffer_copy(self.memory(va, 128))
        if self.find(va) is None or e.state & 7 not in STATES or e.size < 64:
            raise Unreadable(f"no element of heap {heap} at {va:#x}: the memory changed meanwhile")
        return e

    def _chain(
        self, heap: int, va: int, following: str, seen: list[int]
    ) -> Iterator[tuple[int, MallocElem]]:
        while va:
            seen[0] += 1
            if seen[0] > MOST_ELEMENTS:
                raise Unreadable(f"the elements of heap {heap} form a loop")
            e = self._element(heap, va)
            yield va, e
            va = getattr(e, following)

    def _free_elements(self, heap: int) -> Iterator[tuple[int, MallocElem]]:
        seen = [0]
        for head in self.c.malloc_heaps[heap].free_head[:FREELISTS]:
            yield from self._chain(heap, head, "free_next", seen)

    def elements(self, heap: int) -> Iterator[Dict]:
        """Every element in order of address. OSError, Unreadable."""
        if self.memory is None:
            return
        for va, e in self._chain(heap, self.c.malloc_heaps[heap].first, "next", [0]):
            yield {
                "addr": va, "size": e.size, "state": STATES[e.state & 7],
                "dirty": bool(e.state & 8), "pad": e.pad,
            }  # fmt: skip

    # files

    def hugepage_info(self) -> list[Dict]:
        return self._records("hugepage_info", hugepage_info)

    def hugepage_data(self) -> list[Dict]:
        return self._records("hugepage_data", hugepage_data)

    def _records(self, name: str, decode: Callable[[bytes], list[Dict]]) -> list[Dict]:
        try:
            return decode(self._file(name))
        except Unreadable as e:
            if str(e) not in self.problems:
                self.problems.append(str(e))
            return []

    def _file(self, name: str) -> bytes:
        try:
            return bytes(self.source.read(name))
        except OSError:
            return b""

    def page_file(self, prefix: str, ml: Dict, seg: int) -> tuple[str, int] | None:
        """(path, offset) of a page's file; None where it has none that can be named."""
        dirs = {info["hugepage_sz"]: info["hugedir"] for info in self.hugepage_info()}
        d = dirs.get(ml["page_sz"])
        if d is None or self.mode in ("no-huge", "in-memory") or ml["external"]:
            return None
        if self.c.legacy_mem:
            va = ml["base_va"] + seg * ml["page_sz"]
            path = next((r["filepath"] for r in self.hugepage_data() if r["final_va"] == va), None)
            return (path, 0) if path else None
        if self.c.single_file_segments:
            return f"{d}/{prefix}map_{ml['index']}", seg * ml["page_sz"]
        head, per_list = self.release.page_file
        name = head.format(prefix=prefix, list=ml["index"])
        return f"{d}/{name}{ml['index'] * per_list + seg}", 0

    # what a tool shows

    def layout(self) -> Dict:
        """As `Eal.layout()` gives it: what picture.py draws."""
        return {
            "release": self.release.name,
            "mode": self.mode,
            "iova_mode": self.iova_mode,
            "lists": self.lists,
            "heaps": [
                {
                    "name": text(h.name),
                    "socket_id": h.socket_id,
                    "total_size": h.total_size,
                    "alloc_count": h.alloc_count,
                }
                for h in self.c.malloc_heaps
                if h.name
            ],
        }

    def pages(self) -> list[Dict]:
        """Used pages by size and node, external memory aside."""
        found: dict[tuple[int, int], int] = {}
        for m in self.c.memsegs:
            if sound(m) and m.memseg_arr.count and not m.external:
                key = m.page_sz, m.socket_id
                found[key] = found.get(key, 0) + m.memseg_arr.count
        return [
            {"page_sz": sz, "socket_id": node, "count": n}
            for (sz, node), n in sorted(found.items(), key=lambda x: (-x[0][0], x[0][1]))
        ]


def sound(m: layout.MemsegList) -> bool:
    """Whether a list is there, and its sizes fit each other."""
    sz, n = m.page_sz, m.memseg_arr.len
    fits = sz >= 4096 and not sz & sz - 1 and n * sz == m.len and m.base_va + m.len < 1 << 63
    return bool(m.base_va and fits and m.memseg_arr.elt_sz == MEMSEG.size)


def _starts(run: Dict, page_sz: int) -> Iterator[int]:
    """The address at which each IOVA run of a run begins."""
    va = run["va"]
    for i in run["iova_runs"]:
        yield va
        va += i["n"] * page_sz


def run_layout(m: layout.MemsegList, a: Array, start: int, n: int) -> Dict:
    """A run of used pages; within it, pieces that are contiguous in IO addresses or flags."""
    iovas: list[list[int]] = []
    flags: list[list[int]] = []
    following = last = -1
    data = memoryview(a.data or b"")[start * MEMSEG.size : (start + n) * MEMSEG.size]
    for iova, _, length, _, _, _, _, flag in iter_unpack(MEMSEG.format, data):
        if iova == following:
            iovas[-1][1] += 1
        else:
            iovas.append([iova, 1])
        # pages without an address stay together, pages with one must follow each other
        following = iova if iova == BAD_IOVA else iova + length
        if flag == last:
            flags[-1][1] += 1
        else:
            flags.append([flag, 1])
        last = flag
    return {
        "seg": start,
        "n": n,
        "va": m.base_va + start * m.page_sz,
        "len": n * m.page_sz,
        "flags": flags[0][0],
        "iova_runs": [{"iova": i, "n": k} for i, k in iovas],
        "flag_runs": [{"flags": f, "n": k} for f, k in flags],
    }


def hugepage_info(data: bytes) -> list[Dict]:
    """The records in use; the file's size says for how many nodes they are. Unreadable."""
    if not data:
        return []
    kind = layout.hugepage_info(nodes_of(len(data)))
    found = []
    for at in range(0, len(data), len(data) // layout.MAX_HUGEPAGE_SIZES):
        r = kind.from_buffer_copy(data, at)
        if r.hugedir:
            found.append({
                "hugepage_sz": r.hugepage_sz, "hugedir": os.fsdecode(r.hugedir),
                "num_pages": list(r.num_pages), "lock_descriptor": r.lock_descriptor,
            })  # fmt: skip
    return found


def nodes_of(size: int) -> int:
    """How many nodes the records of a hugepage_info file of that size have."""
    for nodes in sorted({r.numa_nodes_max for r in releases.RELEASES.values()}):
        if size == layout.MAX_HUGEPAGE_SIZES * (4112 + 4 * nodes):
            return nodes
    raise Unreadable(f"hugepage_info: {size} bytes are of no release's size")


def hugepage_data(data: bytes) -> list[Dict]:
    """The records up to the first of size 0. Unreadable."""
    if len(data) % RECORD:
        raise Unreadable(f"hugepage_data: records of {RECORD} bytes wanted, {len(data)} found")
    found = []
    for at in range(0, len(data), RECORD):
        r = layout.HugepageFile.from_buffer_copy(data, at)
        if not r.size:
            break
        found.append({
            "orig_va": r.orig_va, "final_va": r.final_va, "physaddr": r.physaddr, "size": r.size,
            "socket_id": r.socket_id, "file_id": r.file_id, "filepath": os.fsdecode(r.filepath),
        })  # fmt: skip
    return found
