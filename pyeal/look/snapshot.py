"""The shared memory of one EAL as it was when it was read: lists, zones, heaps."""

from __future__ import annotations

import os
import time
from struct import Struct, iter_unpack

from pyeal import builds, hugepages, layout
from pyeal.fbarray import file_size, runs
from pyeal.hugepage_data import RECORD, records
from pyeal.layout import BAD_IOVA, FREELISTS, MallocElem
from pyeal.look.arrays import KERNEL_PAGES, ArrayContent
from pyeal.look.config import config_of
from pyeal.look.sources import MOST_BYTES, Damaged, Folder, Memory, ProcessMemory, Unreadable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Any

    from pyeal.look.archives import Archive
    from pyeal.look.heap import HeapCheck

    Dict = dict[str, Any]

MEMSEG = Struct("<QQQQiIII")  # layout.Memseg: iova, addr, len, hugepage_sz, socket, _, _, flags
STATES = {0: "Free", 1: "Busy", 2: "Pad"}
MOST_ELEMENTS = 1_000_000  # of one heap
MEMZONE_SIZE = 72  # layout.Memzone
TRIES = 3  # of a memory that changes while it is read
PASSES, SECONDS = 8, 0.5  # in which a heap of a process that contradicts itself is read again
LARGEST = 8 << 30  # bytes of an array: 512 GB in pages of 4 kB have 6 GB of records


def text(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


class Array:
    """A copy of a file-backed array: which elements are used, and what they contain."""

    def __init__(self, desc: layout.Fbarray, data: bytes | None, why: str = "") -> None:
        self.name, self.len, self.elt_sz = text(desc.name), desc.len, desc.elt_sz
        self.count, self.data, self.why = desc.count, data, why
        self.used = 0
        self._content: ArrayContent | None = None
        if data is not None and desc.len:
            try:
                self._content = ArrayContent(data, desc.len, desc.elt_sz)
                self.used = self._content.used
            except ValueError as e:
                self.data, self.why = None, str(e)

    def runs(self) -> list[tuple[int, int]]:
        return runs(self.used)

    def element(self, i: int) -> bytes:
        return self._content.element(i) if self._content else b""


class Snapshot:
    """The shared memory of one EAL; numbers are those that telemetry reports.

    source: where config and arrays come from.
    memory: reads the pages, in which the heap elements are; None if there are none to read.
    """

    def __init__(
        self,
        source: Folder | Archive | Memory,
        memory: Callable[[int, int], bytes] | None = None,
    ) -> None:
        self.source, self.memory = source, memory
        self.problems: list[str] = []
        self._of_lists: list[str] = []  # those of the last look at the lists
        self.c, self.release, self.abi = config_of(source.read("config"))
        self._seen: tuple[dict[int, Array], list[Dict]] | None = None
        self._zones: Array | None = None
        self._heaps: list[Dict] | None = None
        self._room = MOST_BYTES  # for the arrays that are still to be read

    def _look(self) -> tuple[dict[int, Array], list[Dict]]:
        """Return the arrays of the lists, and the lists. They may be large."""
        if self._seen:
            return self._seen
        self.problems = [p for p in self.problems if p not in self._of_lists]
        others, self.problems = self.problems, []
        for _ in range(TRIES):
            self._room = MOST_BYTES
            arrays = {i: self._array(m) for i, m in enumerate(self.c.memsegs) if sound(m)}
            again = self.latest()
            if bytes(again.memsegs) == bytes(self.c.memsegs):
                break
            self.c = again
        else:
            self.problems.append("the lists changed while they were read: numbers may not agree")
        lists = [self._list(i, m, arrays[i]) for i, m in enumerate(self.c.memsegs) if i in arrays]
        bad = [i for i, m in enumerate(self.c.memsegs) if m.base_va and i not in arrays]
        if bad:
            text = f"damaged: memsegs {bad}: sizes that contradict each other, left out"
            self.problems.append(text)
        self._of_lists, self.problems = self.problems, [*others, *self.problems]
        self._seen = arrays, lists
        return self._seen

    def latest(self) -> Any:
        """Return the config as it is now, or as it was if it has gone with its process."""
        try:
            return config_of(self.source.read("config"), self.abi)[0]
        except (OSError, Unreadable):
            return self.c

    @property
    def arrays(self) -> dict[int, Array]:
        """The array of each list, by the list's index."""
        return self._look()[0]

    @property
    def lists(self) -> list[Dict]:
        """Each list as `Eal.layout()` has it."""
        return self._look()[1]

    @property
    def zones(self) -> Array:
        if self._zones is None:
            desc, size = self.c.memzones, MEMZONE_SIZE
            if desc.len and desc.elt_sz != size:
                why = f"elt_sz: expected {size}, found {desc.elt_sz}"
                self.problems.append(f"damaged: memzones.{why}")
                self._zones = Array(desc, None, why)
            else:
                self._zones = self._read(desc)
                if self._zones.why.startswith("damaged"):
                    self.problems.append(f"{self._zones.why}: memzones.len {desc.len}")
                elif self._zones.why and desc.count:
                    self.problems.append(f"{desc.count} zones, but their array: {self._zones.why}")
        return self._zones

    def _array(self, m: layout.MemsegList) -> Array:
        return (
            self._read(m.memseg_arr) if m.memseg_arr.count else Array(m.memseg_arr, None, "empty")
        )

    def _read(self, desc: layout.Fbarray) -> Array:
        wanted = file_size(desc.len, desc.elt_sz)
        if wanted > self._room:
            most = f"arrays of at most {MOST_BYTES >> 20} MB together"
            word = "damaged" if wanted > LARGEST else "too large to be read"
            return Array(desc, None, f"{word}: expected {most}, found {wanted} bytes more")
        self._room -= wanted
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
        if self.source.private:
            return "in-memory"
        if self.c.legacy_mem:
            return "legacy"
        return "single-file" if self.c.single_file_segments else "dynmem"

    @property
    def iova_mode(self) -> str:
        """VA or PA, as the addresses of the pages show; "" if no page has one."""
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
        """Return (list, segment) of an address, None if it is in no list."""
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
        """Return each heap with the numbers of /eal/heap_info, None without its memory."""
        if self._heaps is None:
            self._heaps = [self._heap(i) for i, h in enumerate(self.c.malloc_heaps) if h.name]
        return self._heaps

    def _heap(self, i: int) -> Dict:
        h = self.c.malloc_heaps[i]
        facts: Dict = {
            "Heap_id": i,
            "Name": text(h.name),
            "Heap_size": h.total_size,
            "Free_size": None,
            "Alloc_size": None,
            "Greatest_free_size": None,
            "Alloc_count": h.alloc_count,
            "Free_count": None,
            "Socket_id": h.socket_id,
            "locked": bool(h.lock),
        }
        if self.memory is None:
            return facts | {"unread": "the pages are not there: only config and arrays"}
        for ml in self.lists:  # without its array it is not known where elements may be
            if ml["socket_id"] == h.socket_id and ml.get("unread"):
                return facts | {"unread": f"the array of {ml['name']}: {ml['unread']}"}
        return facts | heap_numbers(self, i)

    def renew(self) -> None:
        """Forget the lists: a process may have changed them. The next look reads them again."""
        self.c, self._seen = self.latest(), None

    def _element(self, heap: int, va: int) -> MallocElem:
        assert self.memory
        e = MallocElem.from_buffer_copy(self.memory(va, 128))
        found = self.find(va)
        if found is None or e.state & 7 not in STATES or e.size < 64:
            raise Damaged(f"heap {heap}: no element at {va:#x}, or the memory changed meanwhile")
        end = found[0]["base_va"] + found[0]["len"]
        if va + e.size > end:
            raise Damaged(
                f"heap {heap}: element at {va:#x}: size", f"at most {end - va}", f"{e.size}"
            )
        return e

    def _chain(
        self, heap: int, va: int, following: str, seen: set[int]
    ) -> Iterator[tuple[int, MallocElem]]:
        while va:
            if va in seen:
                raise Damaged(f"heap {heap}: `{following}` forms a loop at {va:#x}")
            seen.add(va)
            if len(seen) > MOST_ELEMENTS:
                raise Damaged(f"heap {heap}: over {MOST_ELEMENTS:,} elements")
            e = self._element(heap, va)
            yield va, e
            va = getattr(e, following)

    def free_elements(self, heap: int) -> Iterator[tuple[int, MallocElem]]:
        seen: set[int] = set()
        for head in self.c.malloc_heaps[heap].free_head[:FREELISTS]:
            yield from self._chain(heap, head, "free_next", seen)

    def elements(self, heap: int) -> Iterator[Dict]:
        """Yield every element in order of address. Raises OSError, Unreadable."""
        if self.memory is None:
            return
        for va, e in self._chain(heap, self.c.malloc_heaps[heap].first, "next", set()):
            yield {
                "addr": va,
                "size": e.size,
                "state": STATES[e.state & 7],
                "dirty": bool(e.state & 8),
                "pad": e.pad,
            }

    # files

    def build(self) -> Dict:
        """Return the facts of the build that wrote it; None is a fact that no file tells."""
        records: int | None = None
        nodes: int | None = None
        try:
            records, nodes = shape_of(self._file("hugepage_info"))
        except Unreadable:
            pass
        return {
            **builds.facts(self.abi),
            "nodes": nodes,
            "hugepage_sizes": records,
            "like": builds.like(self.abi.line, records, nodes),
        }

    @property
    def kernel_page(self) -> int | None:
        """The page to which the kernel of its machine rounds files, as its arrays tell."""
        found = []
        for a in (self.c.memzones, *(m.memseg_arr for m in self.c.memsegs if sound(m))):
            try:
                found.append((self.source.array_bytes(a), a.len, a.elt_sz))
            except OSError:
                continue
        for page in KERNEL_PAGES:
            if any(size for size, *_ in found) and all(
                size in (0, file_size(n, elt, page)) for size, n, elt in found
            ):
                return page
        return None

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
        """Return (path, offset) of a page's file, None if it has none with a name."""
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
        """Return the same as `Eal.layout()`, which picture.py draws."""
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
        """Return the used pages by size and node, without external memory."""
        found: dict[tuple[int, int], int] = {}
        for m in self.c.memsegs:
            if sound(m) and m.memseg_arr.count and not m.external:
                key = m.page_sz, m.socket_id
                found[key] = found.get(key, 0) + m.memseg_arr.count
        return [
            {"page_sz": sz, "socket_id": node, "count": n}
            for (sz, node), n in sorted(found.items(), key=lambda x: (-x[0][0], x[0][1]))
        ]


def heap_numbers(s: Snapshot, i: int) -> dict[str, Any]:
    """Return what telemetry reports of a heap, or `unread`: why its numbers are not known.

    A process may change the heap meanwhile; what that looks like differs the next time. What each
    look finds is damage: the first is the value of `unread`, the others are added to s.problems.
    """
    facts: dict[str, Any] = {}
    why, begun, check = "it changes all the time", time.monotonic(), None
    common: set[str] | None = None  # what each look found
    living = isinstance(getattr(s.memory, "__self__", None), ProcessMemory)
    for n in range(PASSES if living else TRIES):
        if n:
            time.sleep(0.001 * n * living)
            s.renew()
        h, lists = bytes(s.c.malloc_heaps[i]), bytes(s.c.memsegs)
        facts["Heap_size"] = s.c.malloc_heaps[i].total_size
        facts["Alloc_count"] = s.c.malloc_heaps[i].alloc_count
        try:
            check = _check(s, i)
            whole = check.complete or check.problems
            free = check.free if whole else [e.size for _, e in s.free_elements(i)]
        except (OSError, Unreadable) as e:
            if n == TRIES - 1 and common is None:
                return facts | {"unread": str(e)}
            continue
        then = s.latest()
        if (bytes(then.malloc_heaps[i]), bytes(then.memsegs)) == (h, lists):
            if not check.problems:
                return facts | {
                    "Free_size": sum(free),
                    "Alloc_size": facts["Heap_size"] - sum(free),
                    "Greatest_free_size": max(free, default=0),
                    "Free_count": len(free),
                }
            common = {*check.problems} if common is None else common & {*check.problems}
        if n and time.monotonic() - begun > SECONDS:
            break
    found = [p for p in check.problems if p in common] if check and common else []
    if found and s.c.malloc_heaps[i].lock:
        change = found[0].removeprefix("damaged: ")
        why = f"its lock is taken, and it is in the middle of a change: {change}"
    elif found:
        why = found[0]
        s.problems += found[1:]
    return facts | {"unread": why}


def _check(s: Snapshot, i: int) -> HeapCheck:
    from pyeal.look.heap import HeapCheck

    at = s.source.config if isinstance(s.source, Memory) else s.c.mem_cfg_addr
    pages = [(m["index"], r["va"], r["len"], m["page_sz"]) for m in s.lists for r in m["runs"]]
    assert s.memory
    return HeapCheck(s.c, i, s.abi, s.release, at, pages, s.memory)


def sound(m: layout.MemsegList) -> bool:
    """Return whether a list exists and its sizes fit each other."""
    sz, n = m.page_sz, m.memseg_arr.len
    fits = sz >= 4096 and not sz & sz - 1 and n * sz == m.len and m.base_va + m.len < 1 << 63
    return bool(m.base_va and fits and m.memseg_arr.elt_sz == MEMSEG.size)


def _starts(run: Dict, page_sz: int) -> Iterator[int]:
    """Yield the address at which each IOVA run of a run begins."""
    va = run["va"]
    for i in run["iova_runs"]:
        yield va
        va += i["n"] * page_sz


def run_layout(m: layout.MemsegList, a: Array, start: int, n: int) -> Dict:
    """Return a run of used pages, with the pieces of it that share IO addresses or flags."""
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
    """Return the records in use; the size of the file tells for how many nodes they are.

    Raises Unreadable if it is no size of a known release.
    """
    return [
        {
            "hugepage_sz": r.hugepage_sz,
            "hugedir": os.fsdecode(r.hugedir),
            "num_pages": list(r.num_pages),
            "lock_descriptor": r.lock_descriptor,
        }
        for r in (hugepages.info_records(data, shape_of(data)[1]) if data else ())
        if r.hugedir
    ]


def shape_of(data: bytes) -> tuple[int, int]:
    """Return (records, nodes) of a hugepage_info file. Raises Unreadable for any other size.

    Two and three nodes have one size, as each record fills 8 bytes: the descriptor behind the
    nodes' counts, which is -1 in the file, tells them apart.
    """
    try:
        records, nodes = builds.hugepage_shape(len(data))
    except builds.OtherLimits as e:
        raise Unreadable(str(e)) from None
    each, at = len(data) // records, layout.hugepage_info(nodes).lock_descriptor.offset + 4
    odd = all(data[i + at : i + each] == b"\xff" * 4 for i in range(0, len(data), each))
    return records, nodes + odd


def hugepage_data(data: bytes) -> list[Dict]:
    """Return the records up to the first of size 0. Raises Unreadable."""
    if len(data) % RECORD:
        raise Unreadable("hugepage_data", f"records of {RECORD} bytes", f"{len(data)} bytes")
    names = "orig_va final_va physaddr size socket_id file_id filepath".split()
    return [dict(zip(names, record, strict=True)) for record in records(data)]
