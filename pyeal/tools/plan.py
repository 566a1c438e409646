"""What EAL would do: its own stages on pretended pages. No file, page or lock is touched.

Lists, addresses, heap and errors come from eal.py as it is; only what backs a page is replaced, by
memory of no cost, and given out as far as the machine's limits would let the kernel.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from ctypes import sizeof

from pyeal import config, hugepages, layout, lcores, legacy, libc, options, releases
from pyeal.eal import Eal
from pyeal.errors import EalError
from pyeal.fbarray import bits, file_size, runs
from pyeal.hugepage_data import RECORD, Page
from pyeal.libc import MAP_ANONYMOUS, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED, PROT_RW
from pyeal.memseg import MemsegList
from pyeal.segments import Pages, Segments
from pyeal.tools import BOLD, CYAN, DIM, GREEN, RED, YELLOW, Patience, count, document, ink, size
from pyeal.tools.view import NO_LIMIT, View
from pyeal.vaspace import BASE, align, give_back

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import Any

TEXT = "What EAL would do with these arguments: pages, files, addresses, limits. Nothing is taken."
EXAMPLES = """\
  pyeal plan -- -l 0-3 --socket-mem 1024,0     would it start, and which limit is nearest
  pyeal plan --as 26.07 --json -- -m 64        the lists of another release, as JSON

exit code: 0 it would start, 1 it would not, 2 the request makes no sense"""
TAKES_EAL_ARGS = True
MADV_HUGEPAGE = 14
GAP = 1 << 24  # --base-virtaddr is a multiple of it
TOP = 1 << 47


class Cap:
    """So many pages, at most: of a size (0: any), on a node (None: any)."""

    __slots__ = ("link", "node", "page_sz", "pages", "what")

    def __init__(self, link: str, what: str, page_sz: int, node: int | None, pages: int) -> None:
        self.link, self.what, self.page_sz, self.node = link, what, page_sz, node
        self.pages = max(pages, 0)

    def covers(self, page_sz: int, node: int) -> bool:
        return self.page_sz in (0, page_sz) and self.node in (None, node)


class Survey(hugepages.Survey):
    """Discovery without a lock: what EAL would clear away is counted as free, and stays."""

    def __init__(
        self, opts: options.Options, release: releases.Release, nodes: list[int], view: View,
        log: Callable[[str, str], object],
    ) -> None:  # fmt: skip
        super().__init__(opts, release, nodes, view, log)
        self.view = view
        self.cleared: dict[int, int] = {}  # page size -> pages

    def enter(self, info: hugepages.HugepageInfo) -> None:
        if not self.view.access(info.hugedir, os.R_OK):
            raise EalError(
                13, "hugepages",
                f"Failed to lock hugepage directory! {info.hugedir}", found="Permission denied",
                fix="mount it for this user (uid=, mode=) or name another one with --huge-dir",
                reason="hugedir-lock",
            )  # fmt: skip
        try:
            files = self.view.page_files(info.hugedir)
        except OSError:
            files = []
        free = [f for f in files if not f.holders] if self.view.sees_all_locks else []
        if self.o.unlink_existing:
            self.cleared[info.page_sz] = sum(f.pages_bytes for f in free) // info.page_sz
        else:
            info.num_reusable = sum(f.size for f in free) // info.page_sz

    def overall(self, name: str, page_sz: int, reusable: int) -> int:
        return super().overall(name, page_sz, reusable) + self.cleared.get(page_sz, 0)

    def on_node(self, name: str, page_sz: int, node: int) -> int:
        more = self.cleared.get(page_sz, 0) if node == self.nodes[0] else 0
        return super().on_node(name, page_sz, node) + more


class Pretend(Segments):
    """Pages that cost nothing, as many as the caps allow."""

    caps: list[Cap]
    blocked: dict[str, Cap]  # names of files that are others' and cannot be replaced
    bit: Cap | None = None  # what kept a request from being met

    def _used(self, cap: Cap, msl: MemsegList) -> int:
        """What a cap counts: pages, or one for each list of a single-file start."""
        lists = [m for m in self.lists if cap.covers(m.page_sz, m.socket)]
        if cap.link == "descriptors" and self.single:
            return sum(bool(m.count) for m in lists if m is not msl)
        return sum(m.count for m in lists)

    def granted(self, msl: MemsegList, n: int) -> int:
        for cap in self.caps:
            if not cap.covers(msl.page_sz, msl.socket):
                continue
            left = cap.pages - self._used(cap, msl)
            if cap.link == "descriptors" and self.single:
                left = n if left > 0 else 0
            if left < n:
                n, self.bit = max(left, 0), cap
        return n

    def _alloc_run(
        self, info: Any, msl: MemsegList, start: int, n: int, policy: Any, exact: bool, extra: int
    ) -> int:
        found = self.granted(msl, n)
        names = [self.list_name(msl)] if self.single else self.page_names(msl, start, found)
        if taken := next((i for i, name in enumerate(names) if name in self.blocked), None):
            found, self.bit = taken, self.blocked[names[taken]]
        elif taken == 0:
            found, self.bit = 0, self.blocked[names[0]]
        if found < n:
            self._fail("DEBUG", f"{self.bit.what if self.bit else ''}")
        if not found or (found < n and exact):
            return 0
        self.back(msl, start, found)
        iovas = [msl.va(i) for i in range(start, start + found)]
        msl.fill(start, iovas, 0, 0, [extra] * found)
        return found

    @staticmethod
    def back(msl: MemsegList, start: int, n: int) -> None:
        """Memory that costs address space alone; the heap writes a few words into it."""
        length, fd, kind = n * msl.page_sz, -1, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE
        try:
            fd = os.memfd_create("plan")
            os.ftruncate(fd, length)
            kind = MAP_SHARED
        except OSError:
            pass
        backed = fd if kind == MAP_SHARED else -1
        libc.mmap(msl.va(start), length, PROT_RW, kind | MAP_FIXED, backed)
        if fd >= 0:
            os.close(fd)

    def free(self, pages: Pages) -> None:
        pages.msl.clear(pages.start, pages.n)
        give_back(pages.va, pages.len)


class PretendLegacy(legacy.Legacy):
    """Every free page, node by node, all of a node in one run."""

    def map_all(self, info: hugepages.HugepageInfo) -> None:
        assert isinstance(self.segments, Pretend)
        caps = [c for c in self.segments.caps if c.link != "descriptors"]
        wanted = info.num_pages[0]
        for msl in {m.socket: m for m in self.lists if m.page_sz == info.page_sz}.values():
            mine = [c for c in caps if c.covers(info.page_sz, msl.socket)]
            so_far = sum(p.size == info.page_sz for p in self.pages)
            left = [c.pages - (so_far if c.node is None else 0) for c in mine]
            n = min([wanted, *left])
            room = sum(m.n_segs for m in self.lists
                       if (m.page_sz, m.socket) == (info.page_sz, msl.socket))  # fmt: skip
            self.mapped += max(n, 0)
            for _ in range(min(max(n, 0), room + 1)):  # one too many is as bad as a million
                path = f"{info.hugedir}/{self.opts.file_prefix}map_{len(self.pages)}"
                page = Page(path, len(self.pages), info.page_sz, 0, -1)
                page.physaddr, page.node = self.pseudo, msl.socket
                self.pseudo += info.page_sz
                self.pages.append(page)
            wanted -= max(n, 0)
        if wanted:
            tight = min(
                (c for c in caps if c.covers(info.page_sz, 0)), key=lambda c: c.pages, default=None
            )
            self.why = tight.what if tight else ""

    def _place(self, msl: MemsegList, placed: dict[int, Page]) -> None:
        segments, n = self.segments, len(placed)
        assert isinstance(segments, Pretend)
        short = not segments.single and segments.granted(msl, n) < n
        if short and segments.bit and segments.bit.link == "descriptors":
            text = f"Couldn't remap pages of {msl.name}: {segments.bit.what}"
            raise EalError(12, "pages", text)
        for start, n in runs(bits(placed)):
            segments.back(msl, start, n)
        for seg, page in placed.items():
            page.final_va = msl.va(seg)
        msl.fill_some({seg: page.final_va for seg, page in placed.items()}, 0, 0)

    def unlink(self, pages: list[Page]) -> None:
        pass


class Rehearsal(Eal):
    """A primary's start without any trace. `error` is what it would end with, None if well.

    view: whose limits hold. close() gives the addresses back.
    """

    def __init__(
        self, args: list[str], release: str | None = None, view: View | None = None
    ) -> None:
        self.view = view or View()
        self.error: EalError | None = None
        self.said: list[tuple[str, str]] = []
        self.caps: list[Cap] = []
        self.blocked: dict[str, Cap] = {}
        self.writes = False  # files into the runtime directory
        self.work: PretendLegacy | None = None
        self.cleared: dict[int, int] = {}
        try:
            super().__init__(args, release, lambda level, text: self.said.append((level, text)))
        except EalError as e:
            self.error = e

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            for undo in reversed(self._undo):
                undo()

    def __enter__(self) -> Rehearsal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # what differs from a real start

    def _cpus(self) -> lcores.Cpus:
        return lcores.discover(self.release, self.view, self.log)

    def _affinity(self) -> set[int]:
        return self.view.affinity()

    def _joins(self) -> bool:
        opts = self.options
        self.runtime_dir = self.view.runtime_dir(opts.file_prefix, self.release)
        self.role, self.shared = opts.proc_type, not opts.no_shconf
        if self.role == "auto":
            held = self.view.config(self.runtime_dir)
            self.role = "secondary" if held and held.alive else "primary"
        if self.role == "secondary":
            raise EalError(
                0, "options", "a secondary takes the lists that its primary has: "
                "pyeal doctor -- --proc-type=secondary ... looks at whether it could",
            )  # fmt: skip
        return False

    def _open_runtime(self, opts: options.Options) -> config.Config:
        self.writes, self.shared = self.shared, False  # from here on nothing is written
        private = config.Config(self.release)
        if self.writes:
            private.va = config.reserve(self.space, opts.base_virtaddr)
        return private

    def _discover(self) -> None:
        survey = Survey(self.options, self.release, self.sockets, self.view, self.log)
        self.infos = survey.run(survey.enter)
        self.cleared = survey.cleared
        self.caps = find_caps(survey, self.infos)
        self.blocked = find_blocked(survey, self.infos)

    def _raise_nofile(self) -> None:
        """Memory comes next: of 4 kB pages the first records are enough here."""
        write = self.arrays.write

        def write_first(desc: layout.Fbarray, offset: int, data: bytes | memoryview) -> None:
            if not offset or offset >= desc.len * desc.elt_sz:  # the mask
                write(desc, offset, data)

        self.arrays.write = write_first  # type: ignore[method-assign]

    def _segments(self, *args: Any) -> Pretend:  # type: ignore[override]
        made = Pretend(*args)
        made.caps, made.blocked = self.caps, self.blocked
        return made

    def _legacy(self, *args: Any) -> PretendLegacy:
        self.work = PretendLegacy(*args)
        return self.work

    # what came of it

    @property
    def cap(self) -> Cap | None:
        """What a failed start met."""
        pages = getattr(self, "memalloc", None)
        return pages.bit if self.error and isinstance(pages, Pretend) else None

    @property
    def bit(self) -> str | None:
        """The link of that."""
        return self.cap.link if self.cap else None

    def pages(self) -> dict[tuple[int, int], int]:
        """(page size, node) -> pages in use at the end of the start."""
        found: dict[tuple[int, int], int] = {}
        for msl in self.lists:
            key = msl.page_sz, msl.socket
            found[key] = found.get(key, 0) + msl.count
        return found

    def page_files(self) -> list[str]:
        """Paths of the pages' files as they are when the start is over."""
        opts, paths = self.options, []
        if opts.no_huge or opts.in_memory or opts.unlink_before_mapping:
            return []
        if opts.legacy_mem:
            return [p.path for p in self.work.pages] if self.work else []
        dirs = {i.page_sz: i.hugedir for i in self.infos}
        for msl in self.lists:
            at = dirs[msl.page_sz]
            if opts.single_file_segments:
                paths += [f"{at}/{self.memalloc.list_name(msl)}"] if msl.count else []
                continue
            for start, n in msl.arr.runs():
                paths += [f"{at}/{name}" for name in self.memalloc.page_names(msl, start, n)]
        return paths

    def runtime_files(self) -> list[tuple[str, int]]:
        """(name, bytes) of the files in the runtime directory."""
        if not self.writes:
            return []
        arrays = [self.config.memzones, *(m.c.memseg_arr for m in self.lists)]
        found = [("config", layout.CONFIG_SIZE)]
        if not self.options.no_huge:
            kind = layout.hugepage_info(self.release.numa_nodes_max)
            found.append(("hugepage_info", layout.MAX_HUGEPAGE_SIZES * sizeof(kind)))
        found += [(f"fbarray_{a.name.decode()}", file_size(a.len, a.elt_sz)) for a in arrays]
        if self.work:
            found.append(("hugepage_data", self.work.mapped * RECORD))
        return [*found, ("mp_socket", 0)]

    def descriptors(self) -> dict[str, int]:
        """Of pages, and of shared files."""
        opts, lists = self.options, list(self.lists)
        if opts.no_huge or (opts.single_file_segments and not opts.legacy_mem):
            pages = sum(bool(m.count) for m in lists)
        else:
            pages = sum(m.count for m in lists)
        shared = (1 + 1 + 1 + len(lists)) if self.writes else 0  # config, socket, arrays
        return {"pages": pages, "shared": shared}

    def addresses(self) -> list[tuple[int, int, str]]:
        """(start, end, name) of what is reserved, in order."""
        found = [(m.base_va, m.base_va + m.len, m.name) for m in self.lists]
        found += [(va, va + n, "fbarray") for va, (n, _) in self.arrays.areas.items()]
        if self.writes:
            va = self._config_va()
            found.append((va, va + align(layout.CONFIG_SIZE, libc.PAGE), "config"))
        return sorted(found)

    def _config_va(self) -> int:
        return self.config_file.va

    def dma_entries(self) -> int:
        """Mappings that VFIO needs for the pages of the start."""
        runs = [n for m in self.lists for _, n in m.arr.runs()]
        whole = self.release.vfio_maps_runs and self.iova_mode == "VA"
        return len(runs) if whole else sum(runs)

    def limits(self) -> list[dict[str, Any]]:
        """Each cap with what the start needs of it, the tightest first."""
        used, found = self.pages(), []
        if self.options.no_huge:
            return []
        caps = [*self.caps, *self._compiled()]
        for cap in caps:
            need = sum(n for key, n in used.items() if cap.covers(*key))
            if cap.link == "descriptors":
                need = self.descriptors()["pages"]
            if cap.pages < NO_LIMIT:
                found.append(
                    {"link": cap.link, "what": cap.what, "page_sz": cap.page_sz, "node": cap.node,
                     "allows": cap.pages, "needs": need}
                )  # fmt: skip
        return sorted(found, key=lambda f: (f["needs"] == 0, f["allows"] - f["needs"]))

    def _compiled(self) -> list[Cap]:
        room: dict[tuple[int, int], int] = {}
        for m in self.lists:
            room[m.page_sz, m.socket] = room.get((m.page_sz, m.socket), 0) + m.n_segs
        return [
            Cap("lists", f"room in the lists of node {node}", sz, node, n)
            for (sz, node), n in room.items()
        ]


def find_caps(survey: Survey, infos: hugepages.Infos) -> list[Cap]:
    """Everything that limits how many pages the kernel gives, beside EAL's own counts."""
    view, opts, caps = survey.view, survey.o, []
    allowed = view.mems_allowed()
    names = {sz: name for name, sz in hugepages.sizes(view)}
    for info in infos:
        sz, word = info.page_sz, size(info.page_sz)
        back = survey.cleared.get(sz, 0) + info.num_reusable
        quiet = hugepages.Survey(opts, survey.release, survey.nodes, view)
        free = {node: quiet.on_node(names[sz], sz, node) for node in survey.nodes}
        if not os.path.isdir(f"{view.sys}/{hugepages.NODES}"):
            free = {0: quiet.overall(names[sz], sz, 1) - 1}
        for node, n in free.items():
            n += back if node == survey.nodes[0] else 0
            caps.append(Cap("pool", f"free {word} pages of node {node}", sz, node, n))
            if allowed is not None and node not in allowed and n:
                what = f"node {node} is not in Mems_allowed ({view.status['Mems_allowed_list']})"
                caps.append(Cap("policy", what, sz, node, 0))
        total = quiet.overall(names[sz], sz, 1) - 1 + back
        unreserved = f"free {word} pages that nobody reserved"
        if info.hugedir and not opts.in_memory:
            kept = view.kept_for(info.hugedir, sz)
            caps.append(Cap("pool", unreserved, sz, None, total + kept))
            pages, files = view.room(info.hugedir)
            what = f"size= of {info.hugedir}"
            if pages < NO_LIMIT:
                caps.append(Cap("mount", f"{what} leaves {pages} pages", sz, None, pages + back))
            if files < NO_LIMIT and not opts.single_file_segments:
                what = f"nr_inodes= of {info.hugedir} leaves {files} files"
                caps.append(Cap("mount", what, sz, None, files + back))
        else:
            caps.append(Cap("pool", unreserved, sz, None, total))
        for path, rsvd, limit, now in view.hugetlb_limits(sz):
            n = (limit - now) // sz
            what = f"{path}: {size(limit)}, {size(now)} in {'reservations' if rsvd else 'use'}"
            caps.append(Cap("cgroup", what, sz, None, n))
    hard = view.limit("Max open files")[1]
    caps.append(Cap("descriptors", f"ulimit -Hn {hard}", 0, None, hard - view.open_files() - FIXED))
    return caps


def find_blocked(survey: Survey, infos: hugepages.Infos) -> dict[str, Cap]:
    """Files of other users that this one can neither remove nor open."""
    view, prefix, found = survey.view, survey.o.file_prefix + "map_", {}
    for info in infos if not survey.o.in_memory else ():
        try:
            st = os.stat(view.path(info.hugedir))
            files = view.page_files(info.hugedir)
        except OSError:
            continue
        if view.uid in (0, st.st_uid) or not st.st_mode & stat.S_ISVTX:
            continue
        for f in files:
            if f.name.startswith(prefix) and f.uid != view.uid:
                what = f"{f.name} is of user {f.uid}"
                found[f.name] = Cap("permission", what, info.page_sz, None, 0)
    return found


FIXED = 12  # descriptors of EAL beside those of pages: config, sockets, epoll, arrays' directory


# --- time, and addresses free in two processes ----------------------------------------------------


def zeroing() -> float:
    """Bytes a second that this machine zeroes new pages with: the best of 8 MB of own memory."""
    sz, n = 2 << 20, 4
    va = libc.mmap(0, (n + 2) * sz, PROT_RW, MAP_PRIVATE | MAP_ANONYMOUS)
    try:
        at = align(va, sz)
        try:
            libc.madvise(at, n * sz, MADV_HUGEPAGE)
        except OSError:
            pass
        took = [_timed(libc.madvise, at + i * sz, sz, libc.MADV_POPULATE_WRITE) for i in range(n)]
    except OSError:  # a kernel from before 5.14
        took = [_timed(libc.zero, at + i * sz, sz) for i in range(n)]
    finally:
        libc.munmap(va, (n + 2) * sz)
    return sz / min(took)


def _timed(fn: Callable[..., object], *args: object) -> float:
    began = time.perf_counter()
    fn(*args)
    return time.perf_counter() - began


def per_file() -> float:
    """Seconds that making, locking and mapping a file costs here, without its memory."""
    import fcntl

    began, n = time.perf_counter(), 16
    for _ in range(n):
        fd = os.memfd_create("plan")
        os.ftruncate(fd, libc.PAGE)
        fcntl.flock(fd, fcntl.LOCK_SH)
        libc.munmap(libc.mmap(0, libc.PAGE, PROT_RW, MAP_SHARED, fd), libc.PAGE)
        os.close(fd)
    return (time.perf_counter() - began) / n


def free_base(length: int, views: list[View], bits: int = 47) -> int:
    """The lowest --base-virtaddr with length bytes free behind it in all processes; 0 if none."""
    taken = sorted((start, end) for v in views for start, end, _ in v.maps())
    at = align(BASE, GAP) + GAP  # config lies right before the base
    for start, end in taken:
        if start - at >= length:
            break
        at = max(at, align(end, GAP) + GAP)
    return at if at + length <= 1 << bits else 0


# --- the answer -----------------------------------------------------------------------------------


def facts(r: Rehearsal) -> dict[str, Any]:
    """All of it as plain data; without lists where it would fail before they are made."""
    e, o = r.error, getattr(r, "options", None)
    out: dict[str, Any] = {
        "release": r.release.name,
        "ok": e is None,
        "error": e and {"stage": e.stage, "errno": e.errno, "text": e.text, "limit": r.bit},
        "says": [text for level, text in r.said if level not in ("DEBUG", "INFO")],
    }
    if o is None or e:
        return out
    runtime_files = r.runtime_files()
    files, spans, fds = r.page_files(), r.addresses(), r.descriptors()
    pages = r.pages()
    rate, each = zeroing(), per_file()
    bytes_ = sum(sz * n for (sz, _), n in pages.items()) if not o.no_huge else 0
    mapped = r.work.mapped if r.work else sum(pages.values())
    if r.work:
        bytes_ = sum(p.size for p in [*r.work.pages, *r.work.surplus])
    hard = r.view.limit("Max open files")[1]
    return out | {
        "mode": r.mode, "iova_mode": r.iova_mode, "file_prefix": o.file_prefix,
        "runtime_dir": r.runtime_dir, "ignored": o.ignored,
        "lists": [
            {"name": m.name, "page_sz": m.page_sz, "socket_id": m.socket, "n_segs": m.n_segs,
             "count": m.count, "base_va": m.base_va, "len": m.len,
             "runs": [{"seg": i, "n": n, "va": m.va(i)} for i, n in m.arr.runs()]}
            for m in r.lists
        ],
        "pages": [{"page_sz": sz, "node": node, "n": n} for (sz, node), n in pages.items()],
        "bytes": sum(sz * n for (sz, _), n in pages.items()),
        "cleared": [{"page_sz": sz, "pages": n} for sz, n in r.cleared.items() if n],
        "files": {"n": len(files), "first": files[:1], "last": files[-1:]},
        "runtime": {"files": [{"name": n, "bytes": b} for n, b in runtime_files],
                    "bytes": sum(b for _, b in runtime_files)},
        "descriptors": fds | {"total": sum(fds.values()), "limit": hard % NO_LIMIT or None},
        "addresses": {"start": spans[0][0], "end": spans[-1][1],
                      "reserved": sum(b - a for a, b, _ in spans)} if spans else None,
        "dma_entries": r.dma_entries(),
        "limits": r.limits(),
        "seconds": round(bytes_ / rate + (0 if o.no_huge else mapped * each), 4),
        "measured": {"bytes_per_second": round(rate), "seconds_per_file": round(each, 7)},
    }  # fmt: skip


def arguments(p: argparse.ArgumentParser) -> None:
    p.usage = "pyeal plan [options] -- EAL-ARGS"
    p.add_argument("--as", dest="release", metavar="RELEASE", help=f"{releases.SPAN} (22.11)")
    p.add_argument("--pid", type=int, help="with that process's limits, mounts and groups")
    p.add_argument(
        "--for-peer", type=int, action="append", default=[], metavar="PID",
        help="name a --base-virtaddr that is free here and there; may be given more than once",
    )  # fmt: skip
    p.add_argument("--json", action="store_true", help="everything, as pyeal.plan/1")


def run(args: argparse.Namespace) -> int:
    if args.release:
        try:
            releases.get(args.release)
        except ValueError as e:
            print(f"pyeal: --as: {e}", file=sys.stderr)
            return 2
    view = View(args.pid)
    with Patience("rehearsing"), Rehearsal(args.eal_args, args.release, view) as r:
        found = facts(r)
        if args.for_peer and r.error is None:
            length = found["addresses"]["end"] - found["addresses"]["start"]
            found["base_virtaddr"] = length and free_base_for(r, length, args.for_peer)
    if args.json:
        print(document("plan", found))
    else:
        print(shown(found))
    if found["ok"]:
        return 0
    return 2 if found["error"]["stage"] == "options" else 1


def free_base_for(r: Rehearsal, length: int, peers: list[int]) -> int:
    r.close()  # its own addresses are free, then
    return free_base(length + GAP, [View(), *map(View, peers)])


def shown(f: dict[str, Any]) -> str:
    """For people."""
    if not f["ok"]:
        e = f["error"]
        head = ink("would fail", BOLD, RED) + f" in stage {e['stage']}, as {f['release']}"
        return "\n".join([head, "", *(f"  {line}" for line in e["text"].split("; ")), *_said(f)])
    rows: list[tuple[str, str]] = []
    rows.append(("release", f"{f['release']}, {f['mode']}, IOVA as {f['iova_mode']}"))
    for p in f["pages"]:
        if p["n"]:
            free = [x["allows"] for x in f["limits"] if x["link"] == "pool"
                    and (x["page_sz"], x["node"]) == (p["page_sz"], p["node"])]  # fmt: skip
            of = f" of {free[0]:,} free" if free else ""
            rows.append(("pages", f"node {p['node']}  {p['n']:>6,} x {size(p['page_sz'])}{of}"))
    for c in f["cleared"]:
        what = f"{count(c['pages'], 'page')} of dead processes are cleared away first"
        rows.append(("", f"{what} ({size(c['page_sz'])})"))
    for m in _folded(f["lists"]):
        rows.append(("lists", m))
    if a := f["addresses"]:
        span = f"{a['start']:#x} - {a['end']:#x}"
        rows.append(("addresses", f"{span}, {size(a['reserved'])} reserved"))
    if base := f.get("base_virtaddr"):
        rows.append(("", ink(f"--base-virtaddr={base:#x}", BOLD) + " is free in all processes"))
    elif base == 0:
        rows.append(("", ink("no base address is free in all processes", YELLOW)))
    files = f["files"]
    if files["n"]:
        names = files["first"][0]
        if files["n"] > 1:
            names += " .. " + files["last"][0].rpartition("/")[2]
        rows.append(("files", f"{files['n']:,}: {names}"))
    if n := len(f["runtime"]["files"]):
        rows.append(("" if files["n"] else "files",
                     f"{n} of {size(f['runtime']['bytes'])} in {f['runtime_dir']}"))  # fmt: skip
    d = f["descriptors"]
    of = f" of {d['limit']:,}" if d["limit"] else ""
    rows.append(("descriptors", f"{d['total']:,}{of}: {d['pages']:,} of pages"))
    rows.append(("DMA entries", f"{f['dma_entries']:,}, for devices behind VFIO"))
    rate = size(f["measured"]["bytes_per_second"])
    rows.append(("time", f"{_time(f['seconds'])} for memory: this machine zeroes {rate} a second"))
    near = [x for x in f["limits"] if x["needs"]]
    for i, x in enumerate(near[:4]):
        left = f"{x['allows'] - x['needs']:>9,} left of {x['allows']:,}  {x['link']}: {x['what']}"
        rows.append(("" if i else "limits", left + ink("  <- nearest", CYAN) * (i == 0)))
    total = size(f["bytes"])
    head = ink("would start", BOLD, GREEN) + f" with {total} in {_pages(f)}"
    body = [f"  {ink(name.ljust(12), DIM)}{text}" for name, text in rows]
    return "\n".join([head, "", *body, *_said(f)])


def _pages(f: dict[str, Any]) -> str:
    by_size: dict[int, int] = {}
    for p in f["pages"]:
        by_size[p["page_sz"]] = by_size.get(p["page_sz"], 0) + p["n"]
    named = [f"{n:,} x {size(sz)}" for sz, n in by_size.items() if n]
    return ", ".join(named) + " pages" if named else "no page"


def _folded(lists: list[dict[str, Any]]) -> list[str]:
    """A line for all lists of a page size, node and length."""
    alike: dict[tuple[int, int, int], list[dict[str, Any]]] = {}
    for m in lists:
        alike.setdefault((m["page_sz"], m["socket_id"], m["n_segs"]), []).append(m)
    out = []
    for (sz, _, n), group in alike.items():
        names = group[0]["name"] + (f" .. {group[-1]['name']}" if len(group) > 1 else "")
        out.append(f"{names}: {len(group)} of {n:,} segments, {size(sz * n * len(group))} in all")
    return out


def _time(seconds: float) -> str:
    return f"{seconds:.1f} s" if seconds >= 1 else f"{seconds * 1000:.1f} ms"


def _said(f: dict[str, Any]) -> list[str]:
    """EAL's own warnings."""
    return ["", *(f"  {ink('EAL:', DIM)} {text}" for text in f["says"])] if f["says"] else []
