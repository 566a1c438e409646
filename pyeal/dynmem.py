"""Dynamic memory: how many pages of which size on which node, and their allocation at the start."""

from __future__ import annotations

from errno import ENOMEM

from .errors import EalError
from .layout import FLAG_DO_NOT_FREE
from .populate import more_pages

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .options import Options
    from .segments import Segments

MB = 1 << 20


def pages_per_socket(
    memory: int,
    socket_mem: dict[int, int] | None,
    available: list[tuple[int, list[int]]],
    lcores: dict[int, int],
) -> list[list[int]]:
    """Returns how many pages a request needs, by size (as in available) and node.

    memory: bytes in all; socket_mem: bytes by node, which then decides alone; available: (page
    size, free pages by node), sizes descending; lcores: how many run on each node.
    common/eal_common_dynmem.c: eal_dynmem_calc_num_pages_per_socket. EalError(ENOMEM).
    """
    nodes = max((len(counts) for _, counts in available), default=0)
    if socket_mem is None:
        wanted = _spread(memory, available, lcores, nodes)
    else:
        memory = sum(socket_mem.values())
        wanted = [socket_mem.get(node, 0) for node in range(nodes)]
    used = [[0] * nodes for _ in available]
    missing = memory
    for node in range(nodes):
        if not missing:
            break
        rest = wanted[node]
        for i, (size, counts) in enumerate(available):
            if not rest:
                break
            n = min(rest // size, counts[node])
            if n < counts[node] and rest - n * size > 0:
                smaller = sum(s * c[node] for s, c in available[i + 1 :])
                # less than a page remains: another page, unless smaller ones can hold it
                n += smaller < rest - n * size
            used[i][node] = n
            taken = min(rest, n * size)
            rest -= taken
            missing -= taken
        if rest and socket_mem and socket_mem.get(node):
            raise _short(node, socket_mem[node], rest, available)
    if missing:
        raise _short(None, memory, missing, available)
    return used


def _spread(
    memory: int, available: list[tuple[int, list[int]]], lcores: dict[int, int], nodes: int
) -> list[int]:
    """Returns -m shared among the nodes by their lcores, the rest on the first that have room."""
    has = [sum(size * counts[node] for size, counts in available) for node in range(nodes)]
    total = sum(lcores.values()) or 1
    wanted, rest = [0] * nodes, memory
    for node in range(nodes):
        if rest:
            wanted[node] = min(memory * lcores.get(node, 0) // total, has[node])
            rest -= wanted[node]
    for node in range(nodes):
        more = min(has[node] - wanted[node], rest)
        wanted[node] += more
        rest -= more
    return wanted


def _short(
    node: int | None, wanted: int, missing: int, available: list[tuple[int, list[int]]]
) -> EalError:
    where, of_node = ("", "") if node is None else (f" on socket {node}", f"-on-node-{node}")
    got = wanted // MB - missing // MB
    what = f"Not enough memory available{where}! Requested: {wanted // MB}MB, available: {got}MB"
    fix = more_pages(available[-1][0], node) if available else ""
    return EalError(ENOMEM, "pages", what, fix=fix, reason=f"too-few-pages{of_node}")


def init(segments: Segments, opts: Options, lcores: dict[int, int]) -> None:
    """Allocates what -m or --socket-mem ask for, not to be freed. eal_dynmem_hugepage_init

    EalError(ENOMEM) when a round gets no page.
    """
    available = [(info.page_sz, info.num_pages) for info in segments.backing.infos.values()]
    used = pages_per_socket(opts.memory, opts.socket_mem, available, lcores)
    for (size, _), counts in zip(available, used, strict=True):
        for node, n in enumerate(counts):
            if n:
                text = f"Allocating {n} pages of size {size // MB}M on socket {node}"
                segments.log("DEBUG", text)
            while n:  # a list may have room for a part only
                n -= len(segments.alloc(size, node, n, exact=False, flags=FLAG_DO_NOT_FREE))
