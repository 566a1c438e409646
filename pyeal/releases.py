"""What differs between DPDK releases, in one table. Nothing else in pyeal tests a version.

A row states what became true with a release. It holds until a later row states otherwise.
"""

from __future__ import annotations

DEFAULT = "22.11.11"

_CHANGES: tuple[tuple[str, dict[str, object]], ...] = (
    ("20.11.10", {
        "abi": "21",                         # librte_eal.so.21, or with the part behind the dot
        "family": "A",                       # offsets in rte_mem_config: layout.py
        "numa_nodes_max": 4,                 # RTE_MAX_NUMA_NODES of a meson default build
        "lists": "per-list",                 # several memseg lists a type, each reserved by itself
        "page_file": ("{prefix}map_", 8192), # then list * 8192 + segment
        "probes_memfd": True,                # --in-memory tries memfd_create("test", MFD_HUGETLB)
        "huge_dir_rule": "exact",            # --huge-dir against the mount point
        "arguments": "getopt",               # who reads the arguments: getopt_long or rte_argparse
        "cpus_looked_at": 128,               # for nodes; RTE_MAX_LCORE, later CPU_SETSIZE
        "detected": ("Detected {} lcore(s)", "Detected {} NUMA nodes"),
        "none_free": "No free hugepages reported in {dir}",
        "none_available": "No available hugepages reported in {dir}",
        "none_available_if_reusable": False, # 22.11 says so only when it is not so
        "mounts_decoded": False,             # reads /proc/mounts with getmntent
        "runtime_directory_env": False,      # $RUNTIME_DIRECTORY decides the base
        "runtime_dir_without_shconf": False, # made although no file goes into it
        "hint_warning": "always",            # when "hint not respected" is a WARNING
        "rwlock": (1, -1),                   # a reader adds, a writer holds
        "dirty_flag": False,                 # RTE_MEMSEG_FLAG_DIRTY
        "zeroes_released": False,            # legacy: length of a list that it released
        "free_list_rule": "closed",          # 256 * 4^k belongs to the lower free list
        "service_tables": (8192, 81920),     # bytes that rte_service_init takes from the heap
        "shadow_suffix": "{pid}",
        "alloc_names_heap_by_address": True, # in a secondary's request to grow
        "message_size": 332,
        "message_fds": 8,
        "total_line_in_dump": False,
        "vfio_maps_runs": True,              # IOVA as VA: one entry for a run of pages
    }),
    ("21.11.9", {
        "abi": "22",
        "numa_nodes_max": 32,
        "huge_dir_rule": "parent",
        "cpus_looked_at": 1024,
        "detected": ("Detected CPU lcores: {}", "Detected NUMA nodes: {}"),
        "none_free": "No free {kb} kB hugepages reported on node {node}",
        "none_available": "No available {kb} kB hugepages reported",
        "runtime_dir_without_shconf": True,
        "alloc_names_heap_by_address": False,
    }),
    ("22.11.11", {
        "abi": "23",
        "none_available_if_reusable": True,
        "runtime_directory_env": True,
        "hint_warning": "asked",
        "rwlock": (4, 2),
        "dirty_flag": True,
        "zeroes_released": True,
        "service_tables": (8192, 147456),
    }),
    ("23.11.7", {
        "abi": "24",
        "family": "B",
        "free_list_rule": "open",
        "shadow_suffix": "{pid}_{tsc:x}",
        "vfio_maps_runs": False,
    }),
    ("24.11.6", {
        "abi": "25",
        "service_tables": (8192,),
        "message_fds": 253,
        "total_line_in_dump": True,
    }),
    ("25.11.2", {
        "abi": "26",
        "probes_memfd": False,
        "arguments": "argparse",
        "message_size": 340,
    }),
    ("26.07", {
        "abi": "26.2",
        "family": "C",
        "lists": "per-type",
        "page_file": ("{prefix}map_{list}_", 0),
        "huge_dir_rule": "statfs",
        "mounts_decoded": True,
    }),
)
# Facts that a minor release changed as a fix: the value before it, and the first releases with it.
_FIXES: tuple[tuple[str, object, tuple[str, ...]], ...] = (
    ("shadow_suffix", "{pid}", ("23.11.7", "24.11.5", "25.11.1")),
)


class Release:
    """One DPDK release: its name, version word, and the facts of the table as attributes."""

    name: str
    word: int
    abi: str
    family: str
    numa_nodes_max: int
    lists: str
    page_file: tuple[str, int]
    probes_memfd: bool
    huge_dir_rule: str
    arguments: str
    cpus_looked_at: int
    detected: tuple[str, str]
    none_free: str
    none_available: str
    none_available_if_reusable: bool
    mounts_decoded: bool
    runtime_directory_env: bool
    runtime_dir_without_shconf: bool
    hint_warning: str
    rwlock: tuple[int, int]
    dirty_flag: bool
    zeroes_released: bool
    free_list_rule: str
    service_tables: tuple[int, ...]
    shadow_suffix: str
    alloc_names_heap_by_address: bool
    message_size: int
    message_fds: int
    total_line_in_dump: bool
    vfio_maps_runs: bool

    def __init__(self, name: str, facts: dict[str, object]) -> None:
        self.__dict__.update(facts, name=name, word=word_of(name))

    def __repr__(self) -> str:
        return f"Release({self.name})"

    @property
    def line(self) -> str:
        """The release line: "22.11" for 22.11.11."""
        return self.name[:5]


def word_of(name: str) -> int:
    """Return the version word in `config`. lib/eal/include/rte_version.h: RTE_VERSION"""
    year, month, minor = (*map(int, name.split(".")), 0)[:3]
    return year << 24 | month << 16 | minor << 8 | 99


def _table() -> dict[str, Release]:
    facts: dict[str, object] = {}
    table = {}
    for name, change in _CHANGES:
        facts = {**facts, **change}
        table[name] = Release(name, facts)
    return table


RELEASES = _table()
_LINES = {r.line: r for r in RELEASES.values()}
SPAN = f"{min(_LINES)} .. {max(_LINES)}"  # for --help


def get(name: str) -> Release:
    """Return the release of that name: "22.11.11", "22.11", or a minor one of a known line.

    Raises ValueError that names the known releases.
    """
    if name in RELEASES:
        return RELEASES[name]
    parts = name.split(".")
    line = _LINES.get(".".join(parts[:2]))
    if line is None or len(parts) > 3 or not all(p.isdigit() for p in parts):
        raise ValueError(f"release {name!r} is not known; known: {', '.join(RELEASES)}")
    if len(parts) == 2:
        return line
    facts = {**line.__dict__}
    for fact, before, fixed in _FIXES:
        if any(first.startswith(line.line) and word_of(name) < word_of(first) for first in fixed):
            facts[fact] = before
    return Release(name, facts)


def by_word(word: int) -> Release:
    """Return the release of a version word in `config`. ValueError if it is unknown."""
    year, month, minor = word >> 24, word >> 16 & 0xFF, word >> 8 & 0xFF
    return get(f"{year:02}.{month:02}" + (f".{minor}" if minor else ""))
