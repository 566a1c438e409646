"""Structures of pyeal.layout against real builds: each release, cache lines of 64 and 128 bytes.

The facts are DWARF of builds for x86-64 and, in layouts-arm64.json, for generic arm64.
"""

from __future__ import annotations

import ctypes
import json
from typing import Any

import pytest

from conformance import FIXTURES
from pyeal import builds, layout, releases

FILES = {"x86_64": "layouts.json", "aarch64": "layouts-arm64.json"}
SAME = {  # C's structure, pyeal's where no build changes it
    "rte_memseg": layout.Memseg,
    "rte_fbarray": layout.Fbarray,
    "rte_memseg_list": layout.MemsegList,
    "rte_memzone": layout.Memzone,
    "rte_tailq_head": layout.tailq_head(),
    "malloc_elem": layout.MallocElem,
    "hugepage_file": layout.hugepage_file(),
}
# padding; members of a nested structure of another name; what 23.11 added to the tail
NOT_IN_C = set("pad tail rest free_next free_prev tqh_first tqh_last max_memzone".split())


def built(machine: str) -> dict[str, Any]:
    with open(FIXTURES / "abi" / FILES[machine]) as f:
        return {name: block["structs"] for name, block in json.load(f)["releases"].items()}


BUILT = {machine: built(machine) for machine in FILES}


def flat(members: list[dict[str, Any]], at: int = 0) -> dict[str, tuple[int, int]]:
    """Offset and size by name; members of anonymous unions count as the structure's own."""
    found = {}
    for m in members:
        here = at + m["offset"]
        found |= {m["name"]: (here, m["size"])} if m["name"] else flat(m["members"], here)
    return found


def differences(cls: Any, c: dict[str, Any]) -> list[str]:
    """What of the class is not as in C."""
    members = flat(c["members"])
    found = [] if ctypes.sizeof(cls) == c["size"] else [f"{ctypes.sizeof(cls)} != {c['size']}"]
    for name, *_ in cls._fields_:
        field = getattr(cls, name)
        ours = field.offset, field.size
        if name in NOT_IN_C and name not in members:
            continue
        if members.get(name) != ours:
            found.append(f"{name}: {ours} != {members.get(name)}")
    return found


@pytest.mark.parametrize("machine", FILES)
@pytest.mark.parametrize("name", releases.RELEASES)
def test_structures_lie_as_in_a_build(machine: str, name: str) -> None:
    """Size, and offset and size of every member, of each shared structure."""
    structs, release, abi = BUILT[machine][name], releases.get(name), builds.BUILDS[machine].abi
    nodes = len(layout.hugepage_info(1)._fields_) and next(
        m["dims"][0] for m in structs["hugepage_info"]["members"] if m["name"] == "num_pages"
    )
    ours = {
        **SAME,
        "rte_mem_config": layout.config(release.family, abi),
        "malloc_heap": layout.malloc_heap(abi),
        "hugepage_info": layout.hugepage_info(nodes),
    }

    assert {n: bad for n, cls in ours.items() if (bad := differences(cls, structs[n]))} == {}


@pytest.mark.parametrize("machine", FILES)
def test_a_line_of_a_build_decides_the_heaps(machine: str) -> None:
    """Heaps begin on a cache line, and each fills whole ones."""
    abi = builds.BUILDS[machine].abi
    for family in "ABC":
        heaps = layout.config(family, abi).malloc_heaps

        assert heaps.offset % abi.line == 0
        assert heaps.size // layout.MAX_HEAPS % abi.line == 0


@pytest.mark.parametrize(
    ("nodes", "size"), [(1, 4112), (2, 4120), (4, 4128), (16, 4176), (32, 4240)]
)
def test_a_record_of_hugepage_info_for_a_number_of_nodes(nodes: int, size: int) -> None:
    assert ctypes.sizeof(layout.hugepage_info(nodes)) == size


def test_a_size_that_is_not_the_declared_one_is_refused() -> None:
    with pytest.raises(TypeError, match="Odd: expected 9 bytes, found 8"):
        layout._structure("Odd", 9, [("word", ctypes.c_uint64)])
