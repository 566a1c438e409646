"""The stages of a primary's start on pages that cost nothing.

Lists, addresses, heap and errors come from eal.py as it is. Only what holds the pages is replaced:
FakePages are given out as far as the machine's limits would let the kernel.
"""

from __future__ import annotations

import os
import stat
from ctypes import sizeof

from pyeal import config, hugepages, layout, libc, options, releases
from pyeal.backing.base import Backing, ListPerFd
from pyeal.backing.legacy import LegacyFiles
from pyeal.backing.memory import NoHuge
from pyeal.eal import Eal, Primary
from pyeal.errors import EalError, Log
from pyeal.fbarray import bits, file_size, runs
from pyeal.hugepage_data import RECORD, Page
from pyeal.libc import MAP_ANONYMOUS, MAP_FIXED, MAP_NORESERVE, MAP_PRIVATE, MAP_SHARED, PROT_RW
from pyeal.look.process import NO_LIMIT
from pyeal.look.process_view import ProcessView
from pyeal.memseg import MemsegList
from pyeal.populate import PopulateThreads, Population, PreferredNode
from pyeal.tools import fixes, size, traces
from pyeal.vaspace import VaSpace, align

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Self

FIXED = 12  # descriptors of EAL beside those of pages: config, sockets, epoll, arrays' directory


class PageLimit:
    """At most so many pages of a size (0: any) on a node (None: any).

    option: the mount option that sets it, if it has one. A limit of files or descriptors counts
    those: one for each list if the pages of a list have one file.
    """

    __slots__ = ("files", "link", "node", "option", "page_sz", "pages", "what")

    def __init__(
        self, link: str, what: str, page_sz: int, node: int | None, pages: int, option: str = ""
    ) -> None:
        self.link, self.what, self.page_sz, self.node = link, what, page_sz, node
        self.pages, self.option = max(pages, 0), option
        self.files = link == "descriptors" or option == "nr_inodes"

    def covers(self, page_sz: int, node: int) -> bool:
        return self.page_sz in (0, page_sz) and self.node in (None, node)


class Survey(hugepages.Survey):
    """Discovery without a lock: what EAL would clear away is counted as free, and stays."""

    def __init__(
        self, opts: options.Options, nodes: list[int], view: ProcessView, log: Log | None = None
    ) -> None:
        super().__init__(opts, nodes, view, log)
        self.view = view
        self.cleared: dict[int, int] = {}  # page size -> pages

    def enter(self, info: hugepages.HugepageInfo) -> None:
        if not self.view.access(info.hugedir, os.R_OK):
            raise hugepages.not_locked(info.hugedir, "Permission denied")
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


class FakePopulation(Population):
    """Nothing is populated, and every page lies on the node that was asked for."""

    def __init__(self, real: Population) -> None:
        super().__init__(real.pagemap, False, real.log)

    def threads(self, length: int, policy: PreferredNode) -> PopulateThreads:
        return PopulateThreads(0, lambda: None)

    def populate(self, va: int, size: int, n: int, threads: PopulateThreads) -> list[int]:
        return list(range(va, va + n * size, size))

    def on_its_node(self, va: int, size: int, n: int, policy: PreferredNode) -> int:
        return n


class FakePages(Backing):
    """Pages that cost nothing, as many as the limits allow, in the place of a real backing."""

    binding_limit: PageLimit | None = None  # what kept a request from being met

    def __init__(
        self, real: Backing, limits: list[PageLimit], blocked: dict[str, PageLimit]
    ) -> None:
        self.real, self.limits, self.blocked = real, limits, blocked
        self.lists, self.infos = real.lists, real.infos
        self.population = FakePopulation(real.population)
        self.failure, self.log = self.population.failure, real.log

    def _used(self, limit: PageLimit, msl: MemsegList) -> int:
        """Returns what a limit counts: pages, or one for each list that has one descriptor."""
        lists = [m for m in self.lists if limit.covers(m.page_sz, m.socket)]
        if limit.files and isinstance(self.real, ListPerFd):
            return sum(bool(m.count) for m in lists if m is not msl)
        return sum(m.count for m in lists)

    def granted(self, msl: MemsegList, n: int) -> int:
        """Returns how many of n more pages of a list the limits allow."""
        for limit in self.limits:
            if not limit.covers(msl.page_sz, msl.socket):
                continue
            left = limit.pages - self._used(limit, msl)
            if limit.files and isinstance(self.real, ListPerFd):
                left = n if left > 0 else 0
            if left < n:
                n, self.binding_limit = max(left, 0), limit
        return n

    def map(self, msl: MemsegList, start: int, flags: list[int], dir_fd: int) -> int:
        found = self.granted(msl, len(flags))
        names = self.file_names(msl, start, found)
        if taken := [i for i, name in enumerate(names) if name in self.blocked]:
            found, self.binding_limit = taken[0], self.blocked[names[taken[0]]]
        if found < len(flags) and self.binding_limit:
            self.failure("DEBUG", self.binding_limit.what)
        if found:
            self.hold(msl, start, found)
        return found

    @staticmethod
    def hold(msl: MemsegList, start: int, n: int) -> None:
        """Maps memory that costs address space alone; the heap writes a few words into it."""
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

    def file_names(self, msl: MemsegList, start: int, n: int) -> list[str]:
        return self.real.file_names(msl, start, n)

    def paths(self) -> list[str]:
        """Returns the paths of the files of all pages."""
        found: dict[str, None] = {}
        for msl in self.lists:
            for start, n in msl.arr.runs():
                for name in self.file_names(msl, start, n):
                    found[f"{self.infos[msl.page_sz].hugedir}/{name}"] = None
        return [*found]


class FakeNoHuge(FakePages):
    """Memory of 4 kB pages, of which the first record is enough."""

    fixed = True
    create = NoHuge.create

    def map_list(self, msl: MemsegList) -> None:
        self.hold(msl, 0, msl.n_segs)

    def fill(self, msl: MemsegList) -> None:
        msl.fill(0, [msl.base_va], 0, 0, [0])
        msl.note(0, msl.n_segs)
        self.lists.arrays.use_all(msl.c.memseg_arr)


class FakeLegacyPages(FakePages):
    """Every free page, node by node, all of a node in one run."""

    fixed = True

    def __init__(self, real: LegacyFiles, *args: Any) -> None:
        super().__init__(real, *args)
        self.prefix = real.prefix
        self.pages: list[Page] = []
        self.mapped = self.pseudo = 0  # pages, and the next one's address

    def map_all(self, info: hugepages.HugepageInfo) -> list[Page]:
        first, wanted = len(self.pages), info.num_pages[0]
        limits = [x for x in self.limits if x.link != "descriptors"]
        for msl in {m.socket: m for m in self.lists if m.page_sz == info.page_sz}.values():
            mine = [x for x in limits if x.covers(info.page_sz, msl.socket)]
            so_far = len(self.pages) - first
            left = [x.pages - (so_far if x.node is None else 0) for x in mine]
            n = max(min([wanted, *left]), 0)
            key = info.page_sz, msl.socket
            room = sum(m.n_segs for m in self.lists if (m.page_sz, m.socket) == key)
            self.mapped += n
            for _ in range(min(n, room + 1)):  # one too many is as bad as a million
                path = f"{info.hugedir}/{self.prefix}map_{len(self.pages)}"
                page = Page(path, len(self.pages), info.page_sz, 0, -1)
                page.physaddr, page.node = self.pseudo, msl.socket
                self.pseudo += info.page_sz
                self.pages.append(page)
            wanted -= n
        if wanted:
            mine = [x for x in limits if x.covers(info.page_sz, 0)]
            if mine:
                self.binding_limit = min(mine, key=lambda x: x.pages)
                self.population.why = self.binding_limit.what
        return self.pages[first:]

    def place(self, msl: MemsegList, placed: dict[int, Page]) -> None:
        short = self.granted(msl, len(placed)) < len(placed)
        limit = self.binding_limit
        if short and limit and limit.link == "descriptors":
            what = f"Couldn't remap pages of {msl.name}"
            raise EalError(12, "pages", what, found=limit.what)
        for start, n in runs(bits(placed)):
            self.hold(msl, start, n)
        for seg, page in placed.items():
            page.final_va = msl.va(seg)
        msl.fill_some({seg: page.final_va for seg, page in placed.items()}, 0, 0)

    def paths(self) -> list[str]:
        return [page.path for page in self.pages if page.final_va]

    def unmap_first(self) -> None:
        pass

    def unlink_unnamed(self, kept: list[Page], surplus: list[Page]) -> None:
        pass


def fake(real: Backing, limits: list[PageLimit], blocked: dict[str, PageLimit]) -> FakePages:
    """Returns the fake of a real backing."""
    if isinstance(real, LegacyFiles):
        return FakeLegacyPages(real, limits, blocked)
    return (FakeNoHuge if isinstance(real, NoHuge) else FakePages)(real, limits, blocked)


class FakeConfig(config.Config):
    """A config in private memory whose address space is reserved as a shared one's is."""

    def __init__(self, release: releases.Release, space: VaSpace, base_virtaddr: int) -> None:
        super().__init__(release)
        self.va = config.reserve(space, base_virtaddr)

    def close(self) -> None:
        libc.munmap(self.va, config.SIZE)


class FakePrimary(Primary):
    """A primary that takes nothing from the machine and leaves nothing there.

    limits, blocked: what kept pages from being given; cleared: {page size: pages} of dead
    processes that a real start would remove; writes: whether it would write files.
    """

    def __init__(self, eal: Eal, view: ProcessView) -> None:
        super().__init__(eal)
        self.view, self.writes = view, False
        self.limits: list[PageLimit] = []
        self.blocked: dict[str, PageLimit] = {}
        self.cleared: dict[int, int] = {}
        self.held: FakePages | None = None

    def shares_files(self) -> bool:
        self.writes = super().shares_files()
        return False

    def make_directory(self) -> str:
        return self.view.runtime_dir(self.eal.options.file_prefix, self.eal.release)

    def make_config(self) -> config.Config:
        e = self.eal
        if self.writes:
            return FakeConfig(e.release, e.space, e.options.base_virtaddr)
        return config.Config(e.release)

    def discover(self) -> hugepages.Infos:
        e = self.eal
        survey = Survey(e.options, e.sockets, self.view, e.log)
        infos = survey.run()
        self.cleared = survey.cleared
        self.limits = find_limits(survey, infos)
        self.blocked = find_blocked(survey, infos)
        return infos

    def start_threads(self, workers: list[int]) -> None:
        """Allocates the buffers of trace points as well. __rte_trace_mem_per_thread_alloc

        If the heap has no room for one, EAL takes other memory.
        """
        e, n = self.eal, traces.buffer(self.eal.options.ignored, self.eal.release)
        e.heaps.malloc(n)
        super().start_threads(workers)
        for node in workers:
            _ = e.heaps.malloc(n, 0, node) or e.heaps.malloc(n)

    def backing(self) -> FakePages:
        self.held = fake(super().backing(), self.limits, self.blocked)
        return self.held


class FakeStart(Eal):
    """The stages of a primary's start. `error` is what they would end with, None if well.

    view: whose limits hold. close() gives the addresses back.
    """

    def __init__(
        self, args: list[str], release: str | None = None, view: ProcessView | None = None
    ) -> None:
        self.view, self.args = view or ProcessView(), args
        self.error: EalError | None = None
        self.said: list[tuple[str, str]] = []
        self.none = FakePrimary(self, self.view)
        self.closed = True  # nothing is to be taken back yet
        self.infos = hugepages.Infos()  # none, if the options are refused
        self.release = releases.get(release or releases.DEFAULT)
        try:
            self._refuse_secondary(args)
            super().__init__(
                args,
                release,
                lambda level, text: self.said.append((level, text)),
                role="primary",
                host=self.view,
                primary=lambda _: self.none,
            )
        except EalError as e:
            self.error = e

    def _refuse_secondary(self, args: list[str]) -> None:
        opts = options.parse(args, self.release)
        role = opts.proc_type
        if role == "auto":
            held = self.view.config(self.view.runtime_dir(opts.file_prefix, self.release))
            role = "secondary" if held and held.alive else "primary"
        if role == "secondary":
            self.options = opts
            raise EalError(
                0,
                "options",
                "Cannot plan a secondary: it has the lists that its primary has",
                fix=fixes.doctor(args),
                reason="role",
            )

    def close(self) -> None:
        if not self.closed:
            self.closed = True
            self.undo()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # what came of it

    @property
    def page_limits(self) -> list[PageLimit]:
        """What limits how many pages the kernel would give."""
        return self.none.limits

    @property
    def cleared(self) -> dict[int, int]:
        """{page size: pages} of dead processes that a real start would remove."""
        return self.none.cleared

    @property
    def binding_limit(self) -> PageLimit | None:
        """The limit that made the start fail."""
        return self.none.held.binding_limit if self.error and self.none.held else None

    @property
    def binding_link(self) -> str | None:
        """The link of doctor's chain that it belongs to."""
        return self.binding_limit.link if self.binding_limit else None

    @property
    def legacy(self) -> FakeLegacyPages | None:
        return self.none.held if isinstance(self.none.held, FakeLegacyPages) else None

    def pages(self) -> dict[tuple[int, int], int]:
        """(page size, node) -> pages in use at the end of the start."""
        found: dict[tuple[int, int], int] = {}
        for msl in self.lists:
            key = msl.page_sz, msl.socket
            found[key] = found.get(key, 0) + msl.count
        return found

    def page_files(self) -> list[str]:
        """Paths of the pages' files as they are when the start is over."""
        return (
            self.none.held.paths()
            if self.none.held and not self.options.unlink_before_mapping
            else []
        )

    def files_of_discovery(self) -> list[tuple[str, int]]:
        """(name, bytes) of the files that are made before the lists are known."""
        found = [("config", layout.CONFIG_SIZE)]
        if not self.options.no_huge:
            kind = layout.hugepage_info(self.release.numa_nodes_max)
            found.append(("hugepage_info", layout.MAX_HUGEPAGE_SIZES * sizeof(kind)))
        return found

    def runtime_files(self) -> list[tuple[str, int]]:
        """(name, bytes) of the files in the runtime directory."""
        if not self.none.writes:
            return []
        arrays = [self.config.memzones, *(m.c.memseg_arr for m in self.lists)]
        found = self.files_of_discovery()
        found += [(f"fbarray_{a.name.decode()}", file_size(a.len, a.elt_sz)) for a in arrays]
        if self.legacy:
            found.append(("hugepage_data", self.legacy.mapped * RECORD))
        return [*found, ("mp_socket", 0)]

    def descriptors(self) -> dict[str, int]:
        """Of pages, and of shared files."""
        lists = list(self.lists)
        if self.none.held and isinstance(self.none.held.real, ListPerFd):
            pages = sum(bool(m.count) for m in lists)
        else:
            pages = sum(m.count for m in lists)
        shared = (1 + 1 + 1 + len(lists)) if self.none.writes else 0  # config, socket, arrays
        return {"pages": pages, "shared": shared}

    def addresses(self) -> list[tuple[int, int, str]]:
        """(start, end, name) of what is reserved, in order."""
        found = [(m.base_va, m.base_va + m.len, m.name) for m in self.lists]
        found += [(va, va + n, "fbarray") for va, (n, _) in self.arrays.areas.items()]
        if self.none.writes:
            va = self.config_file.va
            found.append((va, va + align(layout.CONFIG_SIZE, libc.PAGE), "config"))
        return sorted(found)

    def dma_entries(self) -> int:
        """Mappings that VFIO needs for the pages of the start."""
        runs = [n for m in self.lists for _, n in m.arr.runs()]
        whole = self.release.vfio_maps_runs and self.iova_mode == "VA"
        return len(runs) if whole else sum(runs)

    def limits(self) -> list[dict[str, Any]]:
        """Each limit with what the start needs of it, the tightest first."""
        used, found = self.pages(), []
        if self.options.no_huge:
            return []
        found_limits = [*self.none.limits, *self._compiled()]
        for limit in found_limits:
            need = sum(n for key, n in used.items() if limit.covers(*key))
            if limit.link == "descriptors":
                need = self.descriptors()["pages"]
            if limit.pages < NO_LIMIT:
                found.append(
                    {
                        "link": limit.link,
                        "what": limit.what,
                        "page_sz": limit.page_sz,
                        "node": limit.node,
                        "allows": limit.pages,
                        "needs": need,
                    }
                )
        return sorted(found, key=lambda f: (f["needs"] == 0, f["allows"] - f["needs"]))

    def _compiled(self) -> list[PageLimit]:
        room: dict[tuple[int, int], int] = {}
        for m in self.lists:
            room[m.page_sz, m.socket] = room.get((m.page_sz, m.socket), 0) + m.n_segs
        return [
            PageLimit("lists", f"room in the lists of node {node}", sz, node, n)
            for (sz, node), n in room.items()
        ]


def find_limits(survey: Survey, infos: hugepages.Infos) -> list[PageLimit]:
    """Everything that limits how many pages the kernel gives, beside EAL's own counts."""
    view, opts, limits = survey.view, survey.o, list[PageLimit]()
    allowed = view.mems_allowed()
    names = {sz: name for name, sz in hugepages.sizes(view)}
    for info in infos:
        sz, word = info.page_sz, size(info.page_sz)
        back = survey.cleared.get(sz, 0) + info.num_reusable
        quiet = hugepages.Survey(opts, survey.nodes, view)
        extra = quiet.on_demand(names[sz])
        free = {node: quiet.on_node(names[sz], sz, node) for node in survey.nodes}
        if not os.path.isdir(f"{view.sys}/{hugepages.NODES}"):
            free, extra = {0: quiet.overall(names[sz], sz, 1) - 1}, 0
        for node, n in free.items():
            n += extra + (back if node == survey.nodes[0] else 0)
            limits.append(PageLimit("pool", f"free {word} pages of node {node}", sz, node, n))
            if allowed is not None and node not in allowed and n:
                what = f"node {node} is not in Mems_allowed ({view.status['Mems_allowed_list']})"
                limits.append(PageLimit("policy", what, sz, node, 0))
        total = quiet.overall(names[sz], sz, 1) - 1 + back
        unreserved = f"free {word} pages that no process reserved"
        if info.hugedir and not opts.in_memory:
            kept = view.kept_for(info.hugedir, sz)
            limits.append(PageLimit("pool", unreserved, sz, None, total + kept))
            pages, files = view.room(info.hugedir)
            what = f"size= of {info.hugedir}"
            if pages < NO_LIMIT:
                what = f"{what} leaves {pages} pages"
                limits.append(PageLimit("mount", what, sz, None, pages + back, "size"))
            if files < NO_LIMIT:
                what = f"nr_inodes= of {info.hugedir} leaves {files} files"
                limits.append(PageLimit("mount", what, sz, None, files + back, "nr_inodes"))
        else:
            limits.append(PageLimit("pool", unreserved, sz, None, total))
        for path, rsvd, limit, now in view.hugetlb_limits(sz):
            n = (limit - now) // sz
            what = f"{path}: {size(limit)}, {size(now)} in {'reservations' if rsvd else 'use'}"
            limits.append(PageLimit("cgroup", what, sz, None, n))
    hard = view.limit("Max open files")[1]
    limits.append(
        PageLimit("descriptors", f"ulimit -Hn {hard}", 0, None, hard - view.open_files() - FIXED)
    )
    return limits


def find_blocked(survey: Survey, infos: hugepages.Infos) -> dict[str, PageLimit]:
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
                found[f.name] = PageLimit("permission", what, info.page_sz, None, 0)
    return found
