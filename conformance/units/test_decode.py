"""pyeal's shared files of every release, read by fixtures/abi/layouts.json alone."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conformance import MB, MODES, SHARED
from conformance.harness import decode, host
from conformance.harness.eal import Eal
from conformance.harness.fake_host import build

RELEASES = list(decode.layouts())
PAGES = 3
Start = Callable[[str, str], Eal]


@pytest.fixture
def start(make_box: Any, tmp_path: Path, prefix: str) -> Iterator[Start]:
    """start(release, mode): a pyeal with 2 pages in a box of its own, or without any."""
    started: list[Eal] = []

    def start(release: str, mode: str) -> Eal:
        if mode == "no-huge":
            box = make_box()
        elif why := host.lacks(root=True, pages={"2M": PAGES}):
            pytest.skip(why)
        else:
            binds = build(tmp_path, {"2M": PAGES}, {0: "0-63"})
            box = make_box({"2M": PAGES}, binds=binds)
        args = [*MODES[mode], "-m", "4", "-n", "4", "-r", "2", "--file-prefix", f"{prefix}_d"]
        started.append(Eal(f"pyeal:{release}", args, box, tmp_path, f"{prefix}_d"))
        return started[-1].init()

    yield start
    for eal in started:
        eal.close()


@pytest.mark.parametrize("mode", SHARED)
@pytest.mark.parametrize("release", RELEASES)
def test_shared_files_decode(start: Start, release: str, mode: str) -> None:
    eal = start(release, mode)

    assert eal.decode.name == release
    check_config(eal, mode)
    check_arrays(eal)
    if mode == "no-huge":
        assert not eal.run_files("hugepage_*")
    else:
        check_hugepage_info(eal)
    if mode == "legacy":
        check_hugepage_data(eal)
    else:
        assert "hugepage_data" not in eal.run_files()


def check_config(eal: Eal, mode: str) -> None:
    abi, lists, data = eal.decode, eal.lists(), (eal.run / "config").read_bytes()
    c = abi.config(data)
    version = decode.layouts()[abi.name]["RTE_VERSION_fields"]

    assert len(data) == abi.sizeof("rte_mem_config") == abi.files["config"]["size"]
    assert c.magic == abi.constants["RTE_MAGIC"]
    assert c.version == version["value"]
    assert (c.nchannel, c.nrank) == (4, 2)
    zones = abi.files["fbarray"]["examples"]["memzone"]
    assert (c.memzones.name, c.memzones.elt_sz, c.memzones.len) == (
        "memzone",
        zones["elt_sz"],
        zones["len"],
    )
    assert len(c.memsegs) == abi.constants["RTE_MAX_MEMSEG_LISTS"]
    assert [i for i, m in enumerate(c.memsegs) if m.base_va] == [m.index for m in lists]
    for m in lists:
        slot = c.memsegs[m.index]
        fields = "base_va", "page_sz", "socket_id", "version", "len", "external", "heap"
        assert [slot[f] for f in fields] == [m[f] for f in fields]
        arr = slot.memseg_arr
        assert (arr.name, arr.len, arr.count) == (m.name, m.n_segs, m.count)
        assert arr.elt_sz == abi.sizeof("rte_memseg")
    heaps = [h for h in c.malloc_heaps if h.name]
    assert [(h.name, h.socket_id) for h in heaps] == [("socket_0", 0)]
    assert heaps[0].total_size == sum(m.count * m.page_sz for m in lists)
    assert c.next_socket_id == abi.constants["EXTERNAL_HEAP_MIN_SOCKET_ID"]
    assert c.legacy_mem == (mode in ("legacy", "no-huge"))
    assert c.single_file_segments == (mode == "single-file")
    assert c.mem_cfg_addr == next(m.start for m in eal.maps() if m.path.endswith("/config"))
    if "mem_va_addr" in c:
        assert bool(c.mem_va_addr) == (mode != "no-huge")
    if os.geteuid() == 0:
        lock = abi.files["config"]["lock"]
        held = [(x.start, x.end) for x in eal.locks(eal.run / "config")]
        assert held == [(lock["start"], lock["start"] + lock["len"] - 1)]


def check_arrays(eal: Eal) -> None:
    abi, lists = eal.decode, eal.lists()
    examples = abi.files["fbarray"]["examples"]
    segs = {m.index: [s for s in eal.segments() if s.list == m.index] for m in lists}

    assert eal.run_files("fbarray_*") == sorted(
        f"fbarray_{n}" for n in ["memzone", *(m.name for m in lists)]
    )
    assert (eal.run / "fbarray_memzone").stat().st_size == examples["memzone"]["file_size"]
    for m in lists:
        array, mask = eal.array(m.name), -(-m.n_segs // 64)
        size = abi.sizeof("rte_memseg") * m.n_segs + abi.sizeof("used_mask") + 8 * mask
        if example := examples.get(f"memseg_{m.page_sz >> 10}k"):
            assert m.n_segs == example["len"]
            assert len(array.data) == example["file_size"]
        assert len(array.data) == -(-size // 4096) * 4096
        assert array.n_masks == mask
        assert not any(array.tail)
        assert array.used == [s.seg for s in segs[m.index]]
        for s in segs[m.index][:3]:
            fields = {k: v for k, v in s.items() if k not in ("list", "seg")}
            assert array[s.seg] == fields | {"addr_64": s.addr}


def check_hugepage_info(eal: Eal) -> None:
    abi, size = eal.decode, (eal.run / "hugepage_info").stat().st_size
    (info,), records = (
        eal.hugepage_info(),
        abi.records("hugepage_info", (eal.run / "hugepage_info").read_bytes()),
    )

    assert size == abi.files["hugepage_info"]["size"]
    assert len(records) == abi.constants["MAX_HUGEPAGE_SIZES"]
    assert (info.hugepage_sz, info.hugedir) == (2 * MB, eal.box.hugedir("2M"))
    assert info.num_pages == [PAGES] + [0] * (abi.constants["RTE_MAX_NUMA_NODES"] - 1)
    assert {r.lock_descriptor for r in records} == {-1}


def check_hugepage_data(eal: Eal) -> None:
    abi = eal.decode
    data, segs = eal.hugepage_data(), eal.segments()
    kept = [r for r in data if r.size]
    assert (eal.run / "hugepage_data").stat().st_size == PAGES * abi.sizeof("hugepage_file")
    assert (len(data), len(kept)) == (PAGES, len(segs))
    assert {(r.final_va, r.physaddr, r.size, r.socket_id) for r in kept} == {
        (s.addr, s.iova, s.len, s.socket_id) for s in segs
    }
    files = {f"{eal.box.hugedir('2M')}/{eal.prefix}map_{r.file_id}" for r in kept}
    assert {r.filepath for r in kept} == files
