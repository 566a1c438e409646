"""The telemetry requests of EAL's memory, answered from a snapshot with the same keys and values.

C: common/eal_common_memory.c: handle_eal_*_request
"""

from __future__ import annotations

from errno import EINVAL

from pyeal import layout
from pyeal.errors import EalError
from pyeal.layout import BAD_IOVA
from pyeal.look.snapshot import Snapshot, text
from pyeal.look.sources import Unreadable
from pyeal.tools import count

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Dict = dict[str, Any]


def _memseg_lists(s: Snapshot) -> list[int]:
    return [ml["index"] for ml in s.lists if ml["count"]]


def _memseg_list_info(s: Snapshot, i: int) -> list[int]:
    a = s.arrays.get(i)
    return [k for start, n in a.runs() for k in range(start, start + n)] if a else []


def _memseg_info(s: Snapshot, i: int, seg: int) -> Dict | None:
    ms = s.memseg(i, seg)
    if ms is None:
        return None
    return {
        "Memseg_list_index": i,
        "Memseg_index": seg,
        "IOVA_addr": "Bad IOVA" if ms.iova == BAD_IOVA else hex(ms.iova),
        "Start_addr": hex(ms.addr),
        "End_addr": hex(ms.addr + ms.len),
        "Size": ms.len,
        "Hugepage_size": ms.hugepage_sz,
        "Socket_id": ms.socket_id,
        "flags": ms.flags,
    }


def memzone_info(s: Snapshot, i: int) -> Dict | None:
    z = s.memzone(i)
    if z is None:
        return None
    info: Dict = {
        "Zone": i,
        "Name": text(z.name),
        "Length": z.len,
        "Address": hex(z.addr),
        "Socket": z.socket_id,
        "Flags": z.flags,
    }
    found = s.find(z.addr)
    if found and z.hugepage_sz:
        page, base = z.hugepage_sz, z.addr & -z.hugepage_sz
        info |= {"Hugepage_size": page, "Hugepage_base": hex(base)}
        info["Hugepage_used"] = max(-(-z.len // page), 1)
    return info


HEAP = (
    "Heap_id",
    "Name",
    "Heap_size",
    "Free_size",
    "Alloc_size",
    "Greatest_free_size",
    "Alloc_count",
    "Free_count",
)


def _heap_info(s: Snapshot, i: int) -> Dict | None:
    heap = next((h for h in s.heaps() if h["Heap_id"] == i), None)
    return heap and {k: heap[k] for k in HEAP}


def _within(s: Snapshot, heap: int, i: int, seg: int) -> tuple[layout.Memseg | None, list[Dict]]:
    """Return a page's record and the elements of a heap that lie completely in that page."""
    ms = s.memseg(i, seg)
    if ms is None:
        return None, []
    end = ms.addr + ms.len
    return ms, [
        e for e in s.elements(heap) if ms.addr <= e["addr"] and e["addr"] + e["size"] <= end
    ]


def _element_list(s: Snapshot, heap: int, i: int, seg: int) -> Dict | None:
    ms, found = _within(s, heap, i, seg)
    return {"Element_count": len(found)} if ms else None


def _element_info(s: Snapshot, heap: int, i: int, seg: int, first: int, last: int) -> Dict | None:
    ms, found = _within(s, heap, i, seg)
    if ms is None or last < first:
        return None
    said: Dict = {
        f"element_{k}": {
            "msl_id": i,
            "ms_id": seg,
            "memseg_start_addr": hex(ms.addr),
            "memseg_end_addr": hex(ms.addr + ms.len),
            "element_start_addr": hex(e["addr"]),
            "element_end_addr": hex(e["addr"] + e["size"]),
            "element_size": e["size"],
            "element_state": e["state"],
        }
        for k, e in list(enumerate(found))[first : last + 1]
    }
    return said | {"Element_count": len(said)}


REQUESTS = {  # name: (number of parameters, the function that answers)
    "memseg_lists": (0, _memseg_lists),
    "memseg_list_info": (1, _memseg_list_info),
    "memseg_info": (2, _memseg_info),
    "memzone_list": (0, Snapshot.memzone_ids),
    "memzone_info": (1, memzone_info),
    "heap_list": (0, lambda s: [h["Heap_id"] for h in s.heaps() if h["Heap_size"]]),
    "heap_info": (1, _heap_info),
    "mem_element_list": (3, _element_list),
    "mem_element_info": (5, _element_info),
}


def answer(s: Snapshot, request: str) -> Dict:
    """Return {"/eal/heap_info": {...}} for the request "/eal/heap_info,0".

    Raises EalError(EINVAL) for an unknown request or wrong parameters.
    """
    name, *params = request.split(",")
    n, function = REQUESTS.get(name.removeprefix("/eal/"), (-1, None))
    if function is None:
        raise EalError(EINVAL, "telemetry", name, expected=f"one of {', '.join(REQUESTS)}")
    if len(params) != n or not all(p.isdecimal() for p in params):
        expected = f"{count(n, 'number')} after {name}"
        raise EalError(EINVAL, "telemetry", request, expected=expected)
    try:
        return {name: function(s, *map(int, params))}  # type: ignore[operator]
    except (OSError, Unreadable) as e:
        raise EalError(EINVAL, "telemetry", f"{request}: {e}") from None
