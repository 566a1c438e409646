"""The memory of one EAL described: as text for people, as plain data for tools."""

from __future__ import annotations

from .errors import EalError
from .layout import BAD_IOVA

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from .backing import Backing
    from .heap import Heap
    from .layout import Memseg
    from .memseg import MemsegList


def segments(used: Iterator[tuple[MemsegList, int, Memseg]], backing: Backing) -> str:
    """Returns a line for each used segment. rte_dump_physmem_layout"""
    lines = []
    for msl, i, ms in used:
        try:
            fd = backing.fd(msl, i)[0]
        except EalError as e:
            fd = -e.errno
        lines.append(
            f"Segment {msl.index}-{i}: IOVA:{ms.iova:#x}, len:{ms.len}, virt:{ms.addr:#x}, "
            f"socket_id:{ms.socket_id}, hugepage_sz:{ms.hugepage_sz}, "
            f"nchannel:{ms.nchannel:x}, nrank:{ms.nrank:x} fd:{fd}\n"
        )
    return "".join(lines)


def memseg_list(msl: MemsegList) -> dict[str, object]:
    """Returns a list and its runs of used segments as plain data, for JSON."""
    facts = ("base_va", "len", "page_sz", "socket_id", "version", "external", "heap")
    return {
        "index": msl.index,
        "name": msl.name,
        **{name: getattr(msl.c, name) for name in facts},
        "n_segs": msl.n_segs,
        "count": msl.count,
        "runs": [_run(msl, start, n) for start, n in msl.arr.runs()],
    }


def heap(heap: Heap) -> dict[str, object]:
    """Returns the sums of a heap as plain data."""
    return {
        "name": heap.c.name.decode("ascii", "replace"),
        "socket_id": heap.socket,
        "total_size": heap.c.total_size,
        "alloc_count": heap.c.alloc_count,
    }


def _run(msl: MemsegList, start: int, n: int) -> dict[str, object]:
    """A run of used segments; within it, pieces that are contiguous in IO addresses."""
    iova_runs: list[dict[str, int]] = []
    following = -1
    for i in range(start, start + n):
        ms = msl.seg(i)
        if iova_runs and ms.iova == following:
            iova_runs[-1]["n"] += 1
        else:
            iova_runs.append({"iova": ms.iova, "n": 1})
        # pages without an address stay together, pages with one must follow each other
        following = ms.iova if ms.iova == BAD_IOVA else ms.iova + ms.len
    return {
        "seg": start,
        "n": n,
        "va": msl.va(start),
        "len": n * msl.page_sz,
        "flags": msl.seg(start).flags,
        "iova_runs": iova_runs,
    }
