"""The builds of EAL: what an architecture or an SoC decides, and which build wrote a file.

A release does not tell the build: 22.11.11 writes the same version word with cache lines of 64 and
of 128 bytes. The files do, and of_config() and hugepage_shape() are the only places that ask them.
The facts are those of each architecture's meson files; fixtures/abi holds them as builds have them.
"""

from __future__ import annotations

import re

from . import layout, releases
from .errors import EalError
from .layout import MAX_HEAPS, MAX_MEMSEG_LISTS, MAX_TAILQ, Abi

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

PAGE = 4096  # the smallest of a kernel: addresses of mappings are multiples of it
LINES = 64, 128
MOST_NODES, MOST_LISTS = 256, 1024  # compiled in, of builds with other limits
_HEAP, _HEAP_NAME, _TAIL = 176, 144, 48  # bytes: malloc_heap, up to its name, behind the heaps
_NAME = re.compile(rb"socket_\d+\0")


def _up(n: int, step: int) -> int:
    return -(-n // step) * step


class Build:
    """One build: its name and facts.

    line: RTE_CACHE_LINE_SIZE. nodes: RTE_MAX_NUMA_NODES. lcores: RTE_MAX_LCORE. hugepage_sizes:
    MAX_HUGEPAGE_SIZES. base: eal_get_baseaddr().
    """

    __slots__ = ("abi", "base", "hugepage_sizes", "lcores", "line", "name", "nodes")

    def __init__(
        self, name: str, line: int, nodes: int, lcores: int, hugepage_sizes: int, base: int
    ) -> None:
        self.name, self.line, self.nodes, self.lcores = name, line, nodes, lcores
        self.hugepage_sizes, self.base = hugepage_sizes, base
        self.abi = abi(line, hugepage_sizes=hugepage_sizes)

    def nodes_of(self, release: releases.Release) -> int:
        """Return RTE_MAX_NUMA_NODES of that release: 20.11 has at most 4."""
        return min(self.nodes, release.numa_nodes_max)


def config_size(line: int, lists: int = MAX_MEMSEG_LISTS, family: str = "A") -> int:
    """Return the size of rte_mem_config: 25344 bytes, or 27520 with lines of 128."""
    return _up(_heaps_at(line, lists, family) + MAX_HEAPS * _up(_HEAP, line) + _TAIL, line)


def _heaps_at(line: int, lists: int, family: str) -> int:
    """Return the offset of malloc_heaps."""
    before = {"A": 136, "B": 144, "C": 168}[family]  # bytes of scalars and of memzones
    return _up(before + 136 * lists + 48 * MAX_TAILQ, line)


def abi(
    line: int, lists: int = MAX_MEMSEG_LISTS, family: str = "A", hugepage_sizes: int = 3
) -> Abi:
    """Return the facts by which layout.py makes the structures."""
    own = layout.ABI
    if (line, lists, hugepage_sizes) == (own.line, own.lists, own.hugepage_sizes):
        return own
    return Abi(line, hugepage_sizes, config_size(line, lists, family), lists)


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


def of_config(data: bytes, is_file: bool = True) -> Abi | None:
    """Return the facts of the build that wrote this config, None if its bytes are too few.

    What it contains decides. A config that has no heap yet is told by its size, which EAL sets
    before it writes anything; is_file: False for memory, whose length is of the reader's choice.
    Raises OtherLimits if neither size nor bytes are those of a build.
    """
    sizes = {line: config_size(line) for line in LINES}
    votes = {line: _votes(data, line, MAX_MEMSEG_LISTS, "A") for line in LINES}
    most = [line for line in LINES if votes[line] == max(votes.values())]
    usual = not is_file or len(data) in sizes.values()
    if len(most) == 1 and (usual or votes[most[0]] >= 2):
        return abi(most[0]) if len(data) >= sizes[most[0]] else None
    if not is_file:
        return layout.ABI if len(data) >= layout.CONFIG_SIZE else None
    for line in LINES:
        if len(data) == sizes[line]:
            return abi(line)
    family = _family(data)
    for line, lists in _by_size(len(data), family):
        if _votes(data, line, lists, family) >= 2:
            return abi(line, lists, family)
    if len(data) < sizes[LINES[0]]:
        return None
    text = " or ".join(map(str, sizes.values()))
    raise OtherLimits(
        f"built with other limits: config has {len(data)} bytes, and {text} in every known build"
    )


def _family(data: bytes) -> str:
    try:
        return releases.nearest(int.from_bytes(data[4:8], "little")).family
    except ValueError:
        return "A"


def _by_size(size: int, family: str) -> Iterator[tuple[int, int]]:
    """Yield (line, lists) of the builds whose config has that size."""
    for line in LINES:
        lists = (size - config_size(line, 0, family)) // 136
        for n in range(max(lists - 1, 1), min(lists + 2, MOST_LISTS + 1)):
            if config_size(line, n, family) == size:
                yield line, n


def _votes(data: bytes, line: int, lists: int, family: str) -> int:
    """Return what the facts behind the tail queues that are where this build has them weigh.

    Two for the name of the first heap, which EAL writes before `magic`; one for mem_cfg_addr, which
    is page-aligned, and 0 with --no-shconf.
    """
    at = _heaps_at(line, lists, family)
    found = 2 * bool(_NAME.match(data, at + _HEAP_NAME))
    at += MAX_HEAPS * _up(_HEAP, line) + 8
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
    what, own = f"Cannot attach to '{path}'", layout.ABI
    try:
        abi = of_config(data)
    except OtherLimits as e:
        raise EalError(0, "config", f"{what}: {e}", reason="build") from None
    if abi is None:
        what = f"'{path}' is damaged"
        fields = {"expected": f"{own.config_size} bytes", "found": str(len(data))}
        raise EalError(0, "config", what, reason="damaged", **fields)
    if abi.line != own.line:
        raise EalError(
            0,
            "config",
            f"{what}: it is written by a build with {abi.line}-byte cache lines",
            expected=f"{own.line}-byte cache lines",
            found=f"{abi.line}-byte: {' or '.join(like(abi.line))}",
            fix="attach on the machine, and with the build, of the primary",
            reason="build",
        )
    if abi.lists != own.lists:
        raise EalError(
            0,
            "config",
            f"{what}: built with other limits",
            expected=f"{own.lists} memseg lists",
            found=str(abi.lists),
            reason="build",
        )


def facts(abi: Abi) -> dict[str, Any]:
    """Return what a tool's JSON has as `build`, of a config."""
    return {"line": abi.line, "lists": abi.lists}
