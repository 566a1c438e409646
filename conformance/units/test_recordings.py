"""Recordings of real runs, read by fixtures/abi alone and by pyeal's own structures: no root."""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

import pytest

from conformance import HUGE_FILES, MB, SHARED
from conformance.harness import decode, recordings
from pyeal import fbarray, layout, releases

RELEASES = "20.11", "22.11", "24.11", "25.11"
LIST = "base_va", "page_sz", "socket_id", "version", "len", "external", "heap"
RUN, HUGE = "/run/dpdk/recording", "/run/hugepages/2M"


class Recording(NamedTuple):
    mode: str
    seen: Any
    files: dict[str, bytes]


@pytest.fixture(params=SHARED)
def mode(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(params=RELEASES)
def rec(request: pytest.FixtureRequest, mode: str) -> Recording:
    return Recording(mode, *recordings.load(request.param, mode))


def test_all_are_there() -> None:
    wanted = {f"{r}-{m}.zip" for r in RELEASES for m in SHARED}

    assert {f.name for f in recordings.FOLDER.glob("*.zip")} == wanted
    assert tuple(recordings.RECORDED) == SHARED


def test_abi_reads_what_the_library_answered(rec: Recording) -> None:
    abi = decode.release(rec.seen["release"])
    c = abi.config(rec.files["config"])
    by_index = {m["index"]: m for m in rec.seen["lists"]}

    assert c.magic == abi.constants["RTE_MAGIC"]
    assert [i for i, m in enumerate(c.memsegs) if m.base_va] == list(by_index)
    for i, said in by_index.items():
        m = c.memsegs[i]
        arr = abi.fbarray(rec.files[f"fbarray_{said['name']}"], 48, said["n_segs"])
        segs = [s for s in rec.seen["segments"] if s["list"] == i]
        assert {f: m[f] for f in LIST} == {f: said[f] for f in LIST}
        assert (m.memseg_arr.name, m.memseg_arr.count) == (said["name"], said["count"])
        assert arr.used == [s["seg"] for s in segs]
        assert [(arr[s["seg"]].addr, arr[s["seg"]].iova, arr[s["seg"]].flags) for s in segs] == [
            (s["addr"], s["iova"], s["flags"]) for s in segs
        ]


def test_pyeal_reads_what_the_library_answered(rec: Recording) -> None:
    release = releases.get(rec.seen["release"])
    cls = layout.config(release.family)
    c = cls.from_buffer_copy(rec.files["config"])

    assert (c.magic, c.version) == (layout.MAGIC, release.word)
    assert releases.nearest(c.version).name == rec.seen["release"]
    assert (c.legacy_mem, c.single_file_segments) == (
        rec.mode in ("legacy", "no-huge"),
        rec.mode == "single-file",
    )
    heap = c.malloc_heaps[0]
    assert heap.name == b"socket_0"
    assert heap.total_size == rec.seen["info"]["physmem_size"]
    for said in rec.seen["lists"]:
        m = c.memsegs[said["index"]]
        data = ctypes.create_string_buffer(rec.files[f"fbarray_{said['name']}"])
        m.memseg_arr.data = ctypes.addressof(data)  # where it lies here
        arr = fbarray.Fbarray(m.memseg_arr)
        segs = [s for s in rec.seen["segments"] if s["list"] == said["index"]]
        used = [i for start, n in arr.runs() for i in range(start, start + n)]
        views = [layout.Memseg.from_address(arr.address(i)) for i in used]
        assert {f: getattr(m, f) for f in LIST} == {f: said[f] for f in LIST}
        assert [
            {"list": said["index"], "seg": i} | {f: getattr(v, f) for f, *_ in v._fields_}
            for i, v in zip(used, views, strict=True)
        ] == segs
        arr.release()


def test_files_have_the_sizes_of_the_release(rec: Recording) -> None:
    release = releases.get(rec.seen["release"])
    sizes = {name: len(data) for name, data in rec.files.items()}
    arrays = {f"fbarray_{m['name']}": fbarray.file_size(m["n_segs"], 48) for m in rec.seen["lists"]}
    wanted = {"config": layout.CONFIG_SIZE, "fbarray_memzone": 188416} | arrays
    if rec.mode != "no-huge":
        info = layout.hugepage_info(release.numa_nodes_max)
        wanted["hugepage_info"] = layout.MAX_HUGEPAGE_SIZES * ctypes.sizeof(info)
    if rec.mode == "legacy":
        wanted["hugepage_data"] = recordings.PAGES * ctypes.sizeof(layout.hugepage_file())

    assert sizes == wanted


@pytest.mark.parametrize("mode", HUGE_FILES, indirect=True)
def test_hugepage_info_names_the_mount(rec: Recording) -> None:
    release = releases.get(rec.seen["release"])
    data = rec.files["hugepage_info"]
    ours = layout.hugepage_info(release.numa_nodes_max).from_buffer_copy(data)
    theirs = decode.release(rec.seen["release"]).records("hugepage_info", data)

    assert (ours.hugepage_sz, ours.hugedir) == (2 * MB, HUGE.encode())
    assert (theirs[0].hugepage_sz, theirs[0].hugedir) == (2 * MB, HUGE)
    assert theirs[0].num_pages[0] == ours.num_pages[0] == recordings.PAGES
    assert {r.lock_descriptor for r in theirs} == {-1}


@pytest.mark.parametrize("mode", ["legacy"], indirect=True)
def test_hugepage_data_lists_the_pages(rec: Recording) -> None:
    data, size = rec.files["hugepage_data"], ctypes.sizeof(layout.hugepage_file())
    theirs = decode.release(rec.seen["release"]).records("hugepage_file", data)
    ours = [layout.hugepage_file().from_buffer_copy(data, i) for i in range(0, len(data), size)]
    wanted = {(s["addr"], s["iova"], s["len"]) for s in rec.seen["segments"]}

    assert {(r.final_va, r.physaddr, r.size) for r in theirs} == wanted
    assert {(r.final_va, r.physaddr, r.size) for r in ours} == wanted
    assert {r.filepath.decode() for r in ours} == {
        f for f in rec.seen["files"] if f.startswith(HUGE)
    }


def test_mappings_are_where_the_config_says(rec: Recording) -> None:
    c = decode.release(rec.seen["release"]).config(rec.files["config"])
    at = {path: start for start, _, _, _, path in reversed(rec.seen["maps"])}
    where = {(start, off): path for start, _, _, off, path in rec.seen["maps"]}
    step = releases.get(rec.seen["release"]).page_file

    assert at[f"{RUN}/config"] == c.mem_cfg_addr
    assert at[f"{RUN}/fbarray_memzone"] == c.memzones.data
    for m in c.memsegs[: len(rec.seen["lists"])]:
        assert at[f"{RUN}/fbarray_{m.memseg_arr.name}"] == m.memseg_arr.data
        inside = [x for x in rec.seen["maps"] if m.base_va <= x[0] < m.base_va + m.len]
        assert sum(end - start for start, end, *_ in inside) == m.len
    for s in rec.seen["segments"] if rec.mode in ("dynmem", "single-file") else ():
        if rec.mode == "dynmem":
            name, off = f"{step[0].format(prefix='recording')}{step[1] * s['list'] + s['seg']}", 0
        else:
            name, off = f"recordingmap_{s['list']}", s["seg"] * s["len"]
        if rec.mode == "dynmem" or not s["seg"]:  # neighbours of one file are one mapping
            assert where[s["addr"], off] == f"{HUGE}/{name}"


def test_locks_are_those_of_the_release(rec: Recording) -> None:
    abi = decode.release(rec.seen["release"])
    lock = abi.files["config"]["lock"]
    shared = {f for f in rec.seen["files"] if "/fbarray_" in f or f.startswith(f"{HUGE}/")}
    wanted = [[f, "FLOCK", "READ", 0, None] for f in sorted(shared)]
    bounds = [lock["start"], lock["start"] + lock["len"] - 1]

    assert rec.seen["locks"] == [[f"{RUN}/config", "POSIX", "WRITE", *bounds], *wanted]
