"""The builds of EAL: what an architecture or an SoC decides, and which build wrote a file.

A release does not tell the build: 22.11.11 writes the same version word with cache lines of 64 and
of 128 bytes. The files do, and of_config() and hugepage_shape() are the only places that ask them.
The facts are those of each architecture's meson files; fixtures/abi holds them as builds have them.
"""

from __future__ import annotations

import re
from ctypes import sizeof

from . import layout, releases
from .errors import EalError
from .layout import CONFIG_SIZES, MAX_MEMSEG_LISTS, Abi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

PAGE = 4096  # the smallest of a kernel: addresses of mappings are multiples of it
MOST_NODES, MOST_LISTS = 256, 1024  # compiled in, of builds with other limits
_NAME = re.compile(rb"socket_\d+\0")


class Build:
    """One build: its name and facts.

    line: RTE_CACHE_LINE_SIZE. nodes: RTE_MAX_NUMA_NODES. lcores: RTE_MAX_LCORE. hugepage_sizes:
    MAX_HUGEPAGE_SIZES. base: eal_get_baseaddr().
    """

    def __init__(self, name: str, *facts: int) -> None:
        self.name = name
        self.line, self.nodes, self.lcores, self.hugepage_sizes, self.base = facts
        self.abi = Abi(self.line, self.hugepage_sizes)

    def nodes_of(self, release: releases.Release) -> int:
        """Return RTE_MAX_NUMA_NODES of that release: 20.11 has at most 4."""
        return min(self.nodes, int(release.numa_nodes_max))


BUILDS = {name: Build(name, *facts) for name, facts in layout.BUILDS.items()}


def like(line: int, hugepage_sizes: int | None = None, nodes: int | None = None) -> list[str]:
    """Return the names of the builds that may have written files with these facts.

    None is a fact that is not known. 20.11 has 4 nodes where later releases have more, and each
    SoC has its own.
    """
    return [
        b.name
        for b in BUILDS.values()
        if b.line == line
        and hugepage_sizes in (None, b.hugepage_sizes)
        and (nodes in (None, b.nodes, min(b.nodes, 4)) or b.name.endswith("-soc"))
    ]


# --- which build wrote it -------------------------------------------------------------------------


class OtherLimits(ValueError):
    """A file of a build with compile-time limits that pyeal does not decode."""


def abi(line: int, lists: int = MAX_MEMSEG_LISTS, family: str = "A") -> Abi:
    """Return the facts of a build with other limits."""
    size = sizeof(layout.config(family, Abi(line, lists=lists)))
    return Abi(line, lists=lists, size=size)


def of_config(data: bytes, is_file: bool = True) -> Abi | None:
    """Return the facts of the build that wrote this config, None if its bytes are too few.

    What it contains decides. A config that has no heap yet is told by its size, which EAL sets
    before it writes anything; is_file: False for memory, whose length is of the reader's choice.
    Raises OtherLimits if neither size nor bytes are those of a build.
    """
    sizes = CONFIG_SIZES.items()
    votes = {line: _votes(data, Abi(line), "A") for line in CONFIG_SIZES}
    most = [line for line in votes if votes[line] == max(votes.values())]
    usual = not is_file or len(data) in CONFIG_SIZES.values()
    if len(most) == 1 and (usual or votes[most[0]] >= 2):
        line = most[0]
    elif is_file:
        line = next((line for line, size in sizes if len(data) == size), 0)
    else:
        line = layout.LINE
    if line:
        return Abi(line) if len(data) >= CONFIG_SIZES[line] else None
    try:
        family = str(releases.nearest(int.from_bytes(data[4:8], "little")).family)
    except ValueError:
        family = "A"
    for found in _by_size(len(data), family):
        if _votes(data, found, family) >= 2:
            return found
    if len(data) < min(CONFIG_SIZES.values()):
        return None
    text = " or ".join(map(str, CONFIG_SIZES.values()))
    raise OtherLimits(
        f"built with other limits: config has {len(data)} bytes, and {text} in every known build"
    )


def _by_size(size: int, family: str) -> Iterator[Abi]:
    """Yield the facts of the builds whose config has that size."""
    for line, usual in CONFIG_SIZES.items():
        lists = MAX_MEMSEG_LISTS + (size - usual) // sizeof(layout.MemsegList)
        for n in range(max(lists - 1, 1), min(lists + 2, MOST_LISTS + 1)):
            if (found := abi(line, n, family)).config_size == size:
                yield found


def _votes(data: bytes, abi: Abi, family: str) -> int:
    """Return what the facts behind the tail queues that are where this build has them weigh.

    Two for the name of the first heap, which EAL writes before `magic`; one for mem_cfg_addr, which
    is page-aligned, and 0 with --no-shconf.
    """
    kind, heap = layout.config(family, abi), layout.MallocHeap.name.offset
    found = 2 * bool(_NAME.match(data, kind.malloc_heaps.offset + heap))
    at = kind.mem_cfg_addr.offset
    va = int.from_bytes(data[at : at + 8], "little")
    return found + (len(data) >= at + 8 and va > 0 and not va % PAGE and va >> 47 == 0)


def hugepage_shape(size: int) -> tuple[int, int]:
    """Return (records, nodes) of a hugepage_info of that size: (3, 32) for 12720 bytes.

    Raises OtherLimits if no number of records and nodes has that size.
    """
    counts = [n for n in range(MOST_NODES + 1) if n.bit_count() == 1]
    for nodes in (*counts, *range(1, MOST_NODES + 1)):
        for records in (3, 4):
            if size == records * (4108 + 4 * nodes + 7 & -8):
                return records, nodes
    raise OtherLimits(
        f"built with other limits: hugepage_info: no release has a file of {size} bytes"
    )


def check(path: str, data: bytes) -> None:
    """Refuse to attach to the config of another build: nothing here could write to its heaps.

    Raises EalError(0), as EAL leaves errno alone.
    """
    own = layout.ABI
    try:
        abi = of_config(data)
    except OtherLimits as e:
        raise _refused(path, str(e)) from None
    if abi is None:
        sizes = {"expected": f"{own.config_size} bytes", "found": str(len(data))}
        raise _refused(path, "it is damaged", reason="damaged", **sizes)
    if abi.line != own.line:
        lines = {
            "expected": f"{own.line}-byte cache lines",
            "found": f"{abi.line}-byte: {' or '.join(like(abi.line))}",
        }
        why = f"it is written by a build with {abi.line}-byte cache lines"
        fix = "attach on the machine, and with the build, of the primary"
        raise _refused(path, why, fix=fix, **lines)
    if abi.lists != own.lists:
        limits = {"expected": f"{own.lists} memseg lists", "found": str(abi.lists)}
        raise _refused(path, "built with other limits", **limits)


def _refused(path: str, why: str, reason: str = "build", **fields: str) -> EalError:
    return EalError(0, "config", f"Cannot attach to '{path}': {why}", reason=reason, **fields)


def facts(abi: Abi) -> dict[str, Any]:
    """Return what a tool's JSON has as `build`, of a config."""
    return {"line": abi.line, "lists": abi.lists}
