"""--legacy-mem: which of all free pages are kept, and as which segments. It never changes.

linux/eal_memory.c: eal_legacy_hugepage_init
"""

from __future__ import annotations

from errno import ENOMEM

from . import hugepage_data
from .dynmem import pages_per_socket
from .errors import EalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .backing.legacy import LegacyFiles
    from .hugepage_data import Page
    from .memseg import MemsegList, MemsegLists
    from .options import Options

MB = 1 << 20


def init(
    backing: LegacyFiles, opts: Options, lcores: dict[int, int], data_path: str | None
) -> None:
    """Maps all free pages of every size, keeps what is asked for, contiguous ones side by side.

    lcores: how many run on each node. data_path: hugepage_data, None to write none.
    EalError(ENOMEM); what was mapped is removed then, except pages that --huge-unlink=never kept.
    """
    backing.data_path = data_path
    pages: list[Page] = []  # sizes descending, addresses ascending
    try:
        for info in backing.infos.values():
            if info.num_pages[0]:
                pages += backing.map_all(info)
        kept, surplus = choose(pages, opts, lcores, backing)
        if not kept:  # create_shared_memory
            what, found = "Failed to create shared memory!", backing.population.why
            raise EalError(ENOMEM, "memory", what, found=found or "no page could be mapped")
        backing.unmap_first()  # mapped twice, they could be too many mappings
        for msl, placed in places(backing.lists, kept).items():
            backing.place(msl, placed)
        if data_path:
            hugepage_data.write(data_path, kept, backing.mapped)
        backing.unlink_unnamed(kept, surplus)
    except BaseException:
        backing.abandon()  # while the directories are locked
        raise
    finally:
        backing.unmap_first()
    backing.lists.release_unused()


def choose(
    pages: list[Page], opts: Options, lcores: dict[int, int], backing: LegacyFiles
) -> tuple[list[Page], list[Page]]:
    """Returns the lowest pages of each size and node that the request needs, and the rest, closed.

    EalError(ENOMEM).
    """
    infos = backing.infos.values()
    nodes = max([p.node for p in pages] + [len(i.num_pages) - 1 for i in infos]) + 1
    counts = {info.page_sz: [0] * nodes for info in infos}
    for page in pages:
        counts[page.size][page.node] += 1
    memory = opts.memory
    if not memory and opts.socket_mem is None:
        memory = sum(p.size for p in pages)
    try:
        used = pages_per_socket(memory, opts.socket_mem, [*counts.items()], lcores)
    except EalError as e:
        e.found = backing.population.why
        raise
    left = dict(zip(counts, used, strict=True))
    for size, row in left.items():
        for node, n in enumerate(row):
            if n:
                text = f"Requesting {n} pages of size {size // MB}MB from socket {node}"
                backing.log("DEBUG", text)
    kept, surplus = [], []
    for page in pages:
        if left[page.size][page.node]:
            left[page.size][page.node] -= 1
            kept.append(page)
        else:
            page.close()
            surplus.append(page)
    return kept, surplus


def places(lists: MemsegLists, pages: list[Page]) -> dict[MemsegList, dict[int, Page]]:
    """Returns the segments that pages become, {list: {segment: page}}, neighbours side by side.

    Runs follow each other, as the roomiest place is behind the last one; one segment stays free
    before each. EalError(ENOMEM). remap_needed_hugepages
    """
    found: dict[MemsegList, dict[int, Page]] = {}
    start = 0
    for i in range(1, len(pages) + 1):
        if i == len(pages) or not _neighbours(pages[i - 1], pages[i]):
            while start < i:
                msl, at = _room(lists, found, pages[start], i - start)
                run = pages[start : min(i, start + msl.n_segs - at)]
                found.setdefault(msl, {}).update(enumerate(run, at))
                start += len(run)
    return found


def _room(
    lists: MemsegLists, found: dict[MemsegList, dict[int, Page]], first: Page, n: int
) -> tuple[MemsegList, int]:
    """Returns the list with room for a run, or for some of it, and from which segment on."""
    size, node = first.size, first.node
    for msl in lists:
        if (msl.page_sz, msl.socket, msl.external) == (size, node, False):
            at = next(reversed(found[msl])) + 2 if msl in found else 0
            room = msl.n_segs - at
            if room > (at == 0) if lists.release.legacy_splits_runs else room >= n:
                return msl, at
    limits = "RTE_MAX_MEMSEG_PER_LIST RTE_MAX_MEMSEG_PER_TYPE and/or RTE_MAX_MEM_MB_PER_TYPE"
    what = f"Could not find space for memseg: {n} pages of {size // MB} MB on node {node}"
    what += f". Please increase {limits} in configuration."
    raise EalError(ENOMEM, "pages", what, reason="lists-full")


def _neighbours(a: Page, b: Page) -> bool:
    return a.physaddr + a.size == b.physaddr and a.size == b.size and a.node == b.node
