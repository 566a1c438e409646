"""What differs between DPDK releases, in one table. Nothing else in pyeal tests a version.

A row states what became true with a release. It holds until a later row states otherwise.
"""

from __future__ import annotations

from . import layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

DEFAULT = "22.11.11"
# Each line's release that the suite runs against; others of the line differ by _FIXES alone.
TESTED = "20.11.10", "21.11.9", "22.11.11", "23.11.7", "24.11.6", "25.11.2", "26.07"

# What became true with each release. ci/facts reads it from DPDK's history, a test compares.
_CHANGES: tuple[tuple[str, dict[str, object]], ...] = (
    ("20.11", {
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
        "none_available_if_reusable": False, # 22.03 says so only when it is not so
        "mounts_decoded": False,             # reads /proc/mounts with getmntent
        "runtime_directory_env": False,      # $RUNTIME_DIRECTORY decides the base
        "runtime_dir_without_shconf": False, # made although no file goes into it
        "hint_warning": "always",            # when "hint not respected" is a WARNING
        "rwlock": (1, -1),                   # a reader adds, a writer holds
        "dirty_flag": False,                 # RTE_MEMSEG_FLAG_DIRTY
        "zeroes_released": False,            # legacy: length of a list that it released
        "legacy_splits_runs": False,         # legacy: a run of pages that no list has room for
        "free_list_rule": "closed",          # 256 * 4^k belongs to the lower free list
        "service_tables": (8192, 81920),     # bytes that rte_service_init takes from the heap
        "shadow_suffix": "{pid}",
        "alloc_names_heap_by_address": True, # in a secondary's request to grow
        "message_size": 332,
        "message_fds": 8,
        "total_line_in_dump": False,
        "vfio_maps_runs": True,              # IOVA as VA: one entry for a run of pages
        "misses_control_threads": True,      # a start ends if one cannot be made
        "clock_step": 10_000_000,            # Hz to which config's tsc_hz is rounded
        "trace_points": 32,                  # of EAL itself: tools/traces.py has their names
    }),
    ("21.02", {
        "abi": "21.1",
        "numa_nodes_max": 32,
        "none_free": "No free {kb} kB hugepages reported on node {node}",
        "none_available": "No available {kb} kB hugepages reported",
        "alloc_names_heap_by_address": False,
    }),
    ("21.05", {"abi": "21.2"}),
    ("21.08", {"abi": "21.3", "runtime_dir_without_shconf": True}),
    ("21.11", {
        "abi": "22",
        "huge_dir_rule": "prefix",           # of a mount point, also without a slash behind it
        "detected": ("Detected CPU lcores: {}", "Detected NUMA nodes: {}"),
    }),
    ("22.03", {
        "abi": "22.1",
        "none_available_if_reusable": True,
        "runtime_directory_env": True,
        "hint_warning": "asked",
        "dirty_flag": True,
    }),
    ("22.07", {"abi": "22.2"}),
    ("22.11", {"abi": "23", "rwlock": (4, 2), "service_tables": (8192, 147456)}),
    ("23.03", {
        "abi": "23.1",
        "huge_dir_rule": "parent",
        "free_list_rule": "open above 256",
        "trace_points": 33,
    }),
    ("23.07", {
        "abi": "23.2",
        "free_list_rule": "open",
        "vfio_maps_runs": False,
        "legacy_splits_runs": True,
        "trace_points": 43,
    }),
    ("23.11", {"abi": "24", "family": "B", "misses_control_threads": False}),
    ("24.03", {"abi": "24.1"}),
    ("24.07", {"abi": "24.2"}),
    ("24.11", {
        "abi": "25",
        "service_tables": (8192,),
        "message_fds": 253,
        "total_line_in_dump": True,
        "clock_step": 100_000,
    }),
    ("25.03", {"abi": "25.1", "cpus_looked_at": 1024, "zeroes_released": True}),
    ("25.07", {"abi": "25.2"}),
    ("25.11", {
        "abi": "26",
        "probes_memfd": False,
        "arguments": "argparse",
        "message_size": 340,
    }),
    ("26.03", {
        "abi": "26.1",
        "huge_dir_rule": "statfs",
        "mounts_decoded": True,
        "shadow_suffix": "{pid}_{tsc:x}",
    }),
    ("26.07", {
        "abi": "26.2",
        "family": "C",
        "lists": "per-type",
        "page_file": ("{prefix}map_{list}_", 0),
    }),
)
# What a minor release brought to its own line as a fix.
_FIXES: tuple[tuple[str, dict[str, object]], ...] = (
    ("20.11.9", {"legacy_splits_runs": True}),
    ("21.11.4", {"huge_dir_rule": "parent"}),
    ("21.11.5", {"legacy_splits_runs": True}),
    ("22.11.2", {"huge_dir_rule": "parent"}),
    ("22.11.3", {"legacy_splits_runs": True}),
    ("22.11.8", {"cpus_looked_at": 1024, "zeroes_released": True}),
    ("23.11.4", {"cpus_looked_at": 1024, "zeroes_released": True}),
    ("23.11.7", {"shadow_suffix": "{pid}_{tsc:x}"}),
    ("24.11.2", {"cpus_looked_at": 1024, "zeroes_released": True}),
    ("24.11.5", {"shadow_suffix": "{pid}_{tsc:x}"}),
    ("25.11.1", {"shadow_suffix": "{pid}_{tsc:x}"}),
)


class Release:
    """One DPDK release: its name, version word, and the facts of the table as attributes."""

    if TYPE_CHECKING:

        def __getattr__(self, fact: str) -> Any: ...

    name: str
    word: int
    read_as: str  # the release whose facts these are, if this one is not known; else ""

    def __init__(self, name: str, facts: dict[str, object], read_as: str = "") -> None:
        self.__dict__.update(facts, name=name, word=word_of(name), read_as=read_as)

    def __repr__(self) -> str:
        return f"Release({self.name})"

    @property
    def line(self) -> str:
        """The release line: "22.11" for 22.11.11."""
        return self.name[:5]

    @property
    def note(self) -> str:
        """What a tool says of an unknown release; "" if the release is known."""
        return f"{self.name}: not known, read as {self.read_as}" if self.read_as else ""


def word_of(name: str) -> int:
    """Return the version word in `config`. lib/eal/include/rte_version.h: RTE_VERSION"""
    numbers, _, candidate = name.partition("-rc")
    year, month, minor = (*map(int, numbers.split(".")), 0)[:3]
    return year << 24 | month << 16 | minor << 8 | (int(candidate) if candidate else 99)


_NEWEST = {name[:5]: name for name in TESTED}
BETWEEN = tuple(line for line, _ in _CHANGES if line not in _NEWEST)
SPAN = f"{_CHANGES[0][0]} .. {_CHANGES[-1][0]}"  # for --help
_made: dict[str, Release] = {}
RELEASES: dict[str, Release]  # those of TESTED by name, made when they are asked for


def __getattr__(name: str) -> dict[str, Release]:
    if name != "RELEASES":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    made = globals()[name] = {n: get(n) for n in TESTED}
    return made


def _facts(name: str) -> dict[str, Any]:
    """Return the facts of a release: all changes up to its line, and the line's fixes up to it."""
    facts: dict[str, Any] = {}
    line = name[:5]
    for since, change in _CHANGES:
        if since <= line:
            facts |= change
    for fixed, change in _FIXES:
        if fixed[:5] == line and word_of(fixed) <= word_of(name):
            facts |= change
    # the table is that of x86-64: the build has the last word
    facts["numa_nodes_max"] = min(facts["numa_nodes_max"], layout.MAX_NODES)
    if facts["cpus_looked_at"] == 128:  # RTE_MAX_LCORE
        facts["cpus_looked_at"] = layout.MAX_LCORE
    first, *of_lcores = facts["service_tables"]
    facts["service_tables"] = first, *(n // 128 * layout.MAX_LCORE for n in of_lcores)
    return facts


def abis() -> dict[str, str]:
    """Return {number of librte_eal.so: line}."""
    return {str(change["abi"]): line for line, change in _CHANGES}


def get(name: str) -> Release:
    """Return the release of that name: "22.11.11", "22.11" (its newest), "23.07", "22.11.3".

    A candidate ("26.07-rc1") is not known: it has the facts of the release that it was for.
    Raises ValueError that names the known releases.
    """
    name = _NEWEST.get(name, name)
    if name in _made:
        return _made[name]
    numbers, rc, candidate = name.partition("-rc")
    parts = numbers.split(".")
    if 2 <= len(parts) <= 3 and all(p.isdecimal() for p in parts):
        if rc and candidate.isdecimal():
            return nearest(word_of(name))
        if not rc and (numbers[:5] in _NEWEST or numbers[:5] in BETWEEN):
            return _made.setdefault(name, Release(name, _facts(name)))
    raise ValueError(
        f"release {name!r} is not known; known: {', '.join(TESTED)}; "
        f"between them {', '.join(BETWEEN)}"
    )


def name_of(word: int) -> str:
    """Return the name of the release of a version word, known or not."""
    year, month, minor, candidate = word.to_bytes(4, "big")
    line = f"{year:02}.{month:02}"
    minors = line in _NEWEST and _NEWEST[line] != line  # its first release is X.Y.0
    name = f"{line}.{minor}" if minor or minors or candidate < 99 else line
    return f"{name}-rc{candidate}" if candidate < 99 else name


def nearest(word: int) -> Release:
    """Return the release of a version word, or one of its name with the facts of an older one.

    Of a line that is not known, the nearest older line's; of a candidate, those of the release
    that it was for. `note` tells. Raises ValueError if the word cannot be a version, or is older
    than all that are known.
    """
    name = name_of(word)
    older = [line for line, _ in _CHANGES if word_of(line) <= word | 0xFF]
    if not older or not 1 <= word >> 16 & 0xFF <= 12 or word & 0xFF > 99:
        raise ValueError(f"version word {word:#x} ({name}) is of no release since {SPAN[:5]}")
    if older[-1] != name[:5]:
        return Release(name, _facts(older[-1]), older[-1])
    if word & 0xFF == 99:
        return get(name)
    numbers = name.partition("-rc")[0]
    return Release(name, _facts(numbers), numbers.removesuffix(".0"))
