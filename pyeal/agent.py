"""pyeal as a target of the conformance suite: one JSON object a line.

The verbs are the public methods of Target; conformance/PROTOCOL.md specifies them, and serve.py is
the loop of every target. `python -m pyeal.agent [--as RELEASE]` serves pyeal.
"""

from __future__ import annotations

import ctypes
import errno
import sys

from . import layout, libc, releases
from .eal import Eal
from .errors import EalError
from .fbarray import Fbarray
from .serve import Process, serve

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any


LEVELS = "error", "warning", "notice", "info", "debug"


def _log(args: list[str]) -> Callable[[str, str], None]:
    """Returns a log that prints to stderr what --log-level=lib.eal:LEVEL allows, else all."""
    asked = [a.rpartition(":")[2] for a in args if a.startswith("--log-level=lib.eal:")]
    level = LEVELS.index(asked[-1]) if asked else len(LEVELS)
    shown = {w[:3].upper() for w in LEVELS[: level + 1]}

    def log(level: str, text: str) -> None:
        if level[:3] in shown:
            print(text, file=sys.stderr)

    return log


Answer = dict[str, object]
ZONE = "addr", "len", "iova", "socket_id"


def _answer(call: Callable[[], int | None], **more: object) -> Answer:
    """Returns what the C function would have: ret and errno."""
    try:
        return {"ret": call() or 0, "errno": 0, **more}
    except EalError as e:
        return {"ret": -1, "errno": e.errno, **more}


class Target(Process):
    """The verbs, on one Eal."""

    target = "pyeal"

    def __init__(self, release: str = releases.DEFAULT) -> None:
        self.release = releases.get(release).name
        self._eal: Eal
        self._arrays: list[tuple[layout.Fbarray, Fbarray | None]] = []
        self._events: list[Answer] = []

    def init(self, args: list[str], role: str | None = None, tailqs: Sequence[str] = ()) -> Answer:
        try:
            self._eal = eal = Eal(args, self.release, _log(args), role=role, tailqs=tailqs)
        except EalError as e:
            print(e.text, file=sys.stderr)  # EAL logs what ends it
            raise
        return {"ret": 0, "iova_mode": eal.iova_mode, "runtime_dir": eal.runtime_dir}

    def observe(self, args: list[str]) -> Answer:
        """Attaches read-only."""
        return self.init(args, "observer")

    def refresh(self) -> Answer:
        return _answer(self._eal.refresh)

    def cleanup(self) -> Answer:
        return _answer(self._eal.cleanup)

    def info(self) -> Answer:
        eal = self._eal
        return {
            "physmem_size": eal.physmem_size,
            "using_phys_addrs": eal.phys_addrs,
            "has_hugepages": not eal.options.no_huge,
            "iova_mode": eal.iova_mode,
            "socket_ids": eal.sockets,
        }

    def lists(self) -> list[Answer]:
        found: list[Answer] = []
        facts = ("base_va", "page_sz", "socket_id", "version", "len", "external", "heap")

        def visit(msl: Any) -> None:
            c = {f: getattr(msl.c, f) for f in facts}
            more = {"n_segs": msl.n_segs, "count": msl.count}
            found.append({"index": msl.index, "name": msl.name, **c, **more})

        self._eal.walk_lists(visit)
        return found

    def segments(self) -> list[Answer]:
        found: list[Answer] = []

        def visit(msl: Any, ms: Any) -> None:
            facts = {f: getattr(ms, f) for f, *_ in layout.Memseg._fields_}
            found.append({"list": msl.index, "seg": self._index(msl, ms), **facts})

        self._eal.walk_segments(visit)
        return found

    @staticmethod
    def _index(msl: Any, ms: Any) -> int:
        return int(msl.arr.index(ctypes.addressof(ms)))

    def walk(self, kind: str, unlocked: bool = False, answers: Sequence[int] = ()) -> Answer:
        visits: list[Answer] = []

        def visit(msl: Any, ms: Any = None, length: int | None = None) -> int:
            v: Answer = {"list": msl.index, "lock": self._eal.config.memory_hotplug_lock}
            if ms is None:
                v |= {"addr": msl.base_va, "len": msl.len}
            else:
                v |= {"seg": self._index(msl, ms), "addr": ms.addr}
                v["len"] = ms.len if length is None else length
            visits.append(v)
            return answers[len(visits) - 1] if len(visits) <= len(answers) else 0

        eal = self._eal
        walks = {"list": eal.walk_lists, "seg": eal.walk_segments, "contig": eal.walk_contig}
        return {"ret": walks[kind](visit, unlocked), "visits": visits}  # type: ignore[operator]

    def dump(self) -> str:
        return self._eal.dump()

    def malloc(self, size: int, align: int = 0, socket: int = -1) -> Answer:
        va = self._eal.malloc(size, align, socket)
        return {"va": va, "errno": 0 if va else errno.ENOMEM}

    def free(self, va: int) -> Answer:
        return _answer(lambda: self._eal.free(va))

    def alloc(self, page_size: int, socket: int, n: int, exact: bool = True) -> list[Answer]:
        pages = self._eal.alloc_pages(page_size, socket, n, exact)
        segs = range(pages.start, pages.start + pages.n)
        return [{"list": pages.msl.index, "seg": i, "addr": pages.msl.va(i)} for i in segs]

    def free_segs(self, segs: list[dict[str, int]]) -> Answer:
        """Frees one allocation as a whole, as `alloc` returned it."""
        first = (segs[0]["list"], segs[0]["seg"], len(segs))

        def free() -> None:
            held = self._eal.allocations()
            found = [p for p in held if (p.msl.index, p.start, p.n) == first]
            if not found:
                raise EalError(errno.EINVAL, "memalloc", f"{first} is not an allocation")
            self._eal.free_pages(found[0])

        return _answer(free)

    def memzone(self, op: str, name: str, size: int = 0, socket: int = -1) -> Answer:
        eal, zone = self._eal, None
        try:
            if op == "reserve":
                zone = eal.memzone_reserve(name, size, socket)
            elif op == "lookup":
                zone = eal.memzone_lookup(name)
            else:
                eal.memzone_free(name)
        except EalError as e:
            return {**dict.fromkeys(ZONE, 0), "errno": e.errno}
        missing = op == "lookup" and zone is None
        return {f: getattr(zone, f, 0) for f in ZONE} | {"errno": errno.ENOENT if missing else 0}

    def virt2memseg(self, addr: int) -> Answer | None:
        found = self._eal.memseg_of(addr)
        if found is None:
            return None
        msl, seg = found
        return {"list": msl.index, "seg": seg, "addr": msl.seg(seg).addr}

    def virt2iova(self, addr: int) -> int:
        return self._eal.iova(addr)

    def iova2virt(self, iova: int) -> int:
        return self._eal.virt(iova)

    def fd(self, addr: int, foreign: bool = False) -> Answer:
        offset = 0

        def ask() -> int:
            nonlocal offset
            fd, offset = self._eal.fd_of(None if foreign else addr)
            return fd

        answer = _answer(ask)
        return {**answer, "offset": offset}

    def dma_mask(self, bits: int) -> Answer:
        return {"ret": self._eal.check_dma_mask(bits), "errno": 0}

    def extmem_register(self, len: int, page_sz: int) -> Answer:
        flags = libc.MAP_PRIVATE | libc.MAP_ANONYMOUS
        va = -(-libc.mmap(0, len + page_sz, libc.PROT_RW, flags) // page_sz) * page_sz

        def register() -> None:
            self._eal.register_external(va, len, page_sz)

        return _answer(register, va=va)

    def extmem_unregister(self, va: int, len: int) -> Answer:
        return _answer(lambda: self._eal.unregister_external(va, len))

    def events_register(self) -> Answer:
        def event(kind: str, va: int, length: int) -> None:
            self._events.append({"type": kind.upper(), "va": va, "len": length})

        return _answer(lambda: self._eal.on_memory_event(event))

    def events(self) -> list[Answer]:
        return self._events

    def limit_register(self, socket: int, limit: int) -> Answer:
        return _answer(lambda: self._eal.limit(socket, limit))

    def fbarray(self, op: str, id: int = -1, null: bool = False, **p: Any) -> Answer:
        arrays = self._eal.arrays
        if op == "init":
            id = len(self._arrays)
            desc = layout.Fbarray()
            self._arrays.append((desc, None))

            def create() -> None:
                target = None if null else desc
                made = arrays.create(target, p["name"], p["length"], p["elt_sz"])
                self._arrays[id] = desc, made

            return {**_answer(create), **self._describe(id)}
        desc, arr = self._arrays[id] if not null else (None, None)  # type: ignore[assignment]
        if op == "describe":
            return self._describe(id)
        if op == "copy":
            other = layout.Fbarray.from_buffer_copy(desc)
            self._arrays.append((other, Fbarray(other)))
            return self._describe(len(self._arrays) - 1)
        if op in ("attach", "detach", "destroy"):

            def change() -> None:
                made = getattr(arrays, op)(desc)
                if not null:
                    self._arrays[id] = desc, made

            return _answer(change)
        done = _answer(lambda: self._element(Fbarray(desc) if arr is None else arr, op, p))
        if op == "get" and done["errno"]:
            done["ret"] = 0  # a pointer
        return done

    def _element(self, arr: Fbarray, op: str, p: dict[str, Any]) -> int:
        if op == "find":
            return self._find(arr, **p)
        if op == "find_idx":
            return arr.index(p["addr"])
        if op == "get":
            return arr.address(p["idx"])
        if op == "is_used":
            return int(arr.is_used(p["idx"]))
        arr.mark(p["idx"], used=op == "set_used")
        return 0

    @staticmethod
    def _find(arr: Fbarray, fn: str, start: int, n: int = 0) -> int:
        """Searches by the C library's name: find_next_n_free, find_rev_contig_used, ..."""
        words = fn.split("_")[1:]
        used, back = words.pop() == "used", words[0] in ("prev", "rev")
        if "contig" in words:
            return arr.contig(start, used, back)
        if "biggest" in words:
            found = arr.biggest(start, used, back)
        else:
            found = (
                arr.find_n(start, n, used, back) if "n" in words else arr.find(start, used, back)
            )
        if found < 0:
            no = errno.ENOENT if used else errno.ENOSPC
            raise EalError(no, "fbarray", "no such entries")
        return found

    def _describe(self, id: int) -> Answer:
        d = self._arrays[id][0]
        facts = {f: getattr(d, f) for f in ("data", "len", "elt_sz", "count")}
        return {"id": id, "name": d.name.decode(), **facts}


def main(args: list[str]) -> int:
    """Serves with the arguments `[--as RELEASE]` and returns the exit code."""
    if args in (["-h"], ["--help"]):
        print(f"usage: pyeal agent [--as RELEASE]\n\n{__doc__}")
    elif args[:1] == ["--as"] and len(args) == 2:
        serve(Target(args[1]))
    elif not args:
        serve(Target())
    else:
        print(f"pyeal agent: expected [--as RELEASE], found {' '.join(args)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
