"""Recordings of builds for other machines, decoded here to what their library answered: no root."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from conformance.harness import decode, recordings
from pyeal.cli import main
from pyeal.look.find import copied
from pyeal.look.foreign import ForeignEal
from pyeal.look.process import Process
from pyeal.look.snapshot import Snapshot

LIST = "index name base_va n_segs count page_sz socket_id version len external heap".split()
ALL = sorted(recordings.OTHER_BUILDS.glob("*.zip"))
WITH_FILES = [p for p in ALL if "in-memory" not in p.name]
RUN, HUGE = "/run/dpdk/recording", "/run/hugepages"


class Recording(NamedTuple):
    path: Path
    seen: Any
    files: dict[str, bytes]

    @property
    def riscv64(self) -> bool:
        return "riscv64" in self.path.name

    @property
    def abi(self) -> decode.Decoder:
        return decode.release(self.seen["release"], "riscv64" if self.riscv64 else "aarch64")

    @property
    def mode(self) -> str:
        """dynmem-64K is dynmem, with other pages."""
        return str(self.seen["mode"]).replace("-64K", "").replace("-four-sizes", "")


@pytest.fixture(params=WITH_FILES, ids=lambda p: p.stem)
def rec(request: pytest.FixtureRequest) -> Recording:
    return Recording(request.param, *recordings.read(request.param))


@pytest.fixture(params=["archive", "directory"])
def eal(rec: Recording, request: pytest.FixtureRequest, tmp_path: Path) -> ForeignEal:
    """The recording as a user has it: an archive, or a copied directory."""
    if request.param == "archive":
        return copied(str(rec.path))
    for name, data in rec.files.items():
        (tmp_path / name).write_bytes(data)
    return copied(str(tmp_path))


HOLD = """if True:
    import json, sys
    from pathlib import Path
    from pyeal import libc
    flags = libc.MAP_PRIVATE | libc.MAP_ANONYMOUS | libc.MAP_FIXED
    for va, path in json.loads(sys.argv[1]):
        data = Path(path).read_bytes()
        libc.mmap(va, len(data), libc.PROT_RW, flags)
        libc.memory(va, len(data))[:] = data
    print("holds", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def in_memory(rec: Recording, tmp_path: Path) -> Iterator[Snapshot]:
    """The recording in a process that shares nothing: no file tells sizes there."""
    at = {path.rpartition("/")[2]: start for start, *_, path in reversed(rec.seen["maps"])}
    c = rec.abi.config(rec.files["config"])
    at |= {f"fbarray_{m.memseg_arr.name}": m.memseg_arr.data for m in c.memsegs if m.base_va}
    held = []
    for name in rec.files:
        if name == "config" or name.startswith("fbarray_"):
            (tmp_path / name).write_bytes(rec.files[name])
            held.append((at[name], str(tmp_path / name)))
    argv = [sys.executable, "-c", HOLD, json.dumps(held)]
    child = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        assert child.stdout and child.stdout.readline() == b"holds\n"
        memory = Process(child.pid).own_config()
        assert memory
        yield Snapshot(memory, memory.at)
        memory.close()
    finally:
        child.communicate(timeout=20)


def described(capsys: Any, *argv: str) -> Any:
    main([*argv])
    return json.loads(capsys.readouterr().out)


def test_all_are_there() -> None:
    assert len(ALL) == 15 and len(WITH_FILES) == 14


def test_mode_and_release(rec: Recording, eal: ForeignEal) -> None:
    assert (eal.mode, eal.release) == (rec.mode, rec.seen["release"])


def test_lists_and_segments(rec: Recording, eal: ForeignEal) -> None:
    """Every list, and every used page with its address, IO address, size, node and flags."""
    s = eal.snapshot
    assert s
    segments = [
        {"list": ml["index"], "seg": i} | {f: getattr(m, f) for f, *_ in m._fields_}
        for ml in s.lists
        for r in ml["runs"]
        for i in range(r["seg"], r["seg"] + r["n"])
        if (m := s.memseg(ml["index"], i))
    ]

    assert [{k: ml[k] for k in LIST} for ml in s.lists] == rec.seen["lists"]
    assert segments == rec.seen["segments"]
    assert s.problems == []


def test_iova_runs_are_those_of_the_segments(rec: Recording, eal: ForeignEal) -> None:
    assert eal.snapshot
    runs = [(r, ml) for ml in eal.snapshot.lists for r in ml["runs"]]
    iovas = [
        i["iova"] + k * ml["page_sz"]
        for r, ml in runs
        for i in r["iova_runs"]
        for k in range(i["n"])
    ]

    assert iovas == [s["iova"] for s in rec.seen["segments"]]
    assert eal.snapshot.iova_mode == rec.seen["init"]["iova_mode"]


def test_heaps_and_zones(rec: Recording, eal: ForeignEal) -> None:
    s, c = eal.snapshot, rec.abi.config(rec.files["config"])
    assert s
    zones = rec.abi.fbarray(rec.files["fbarray_memzone"], 72, 2560)
    heaps = [(h["Name"], h["Heap_size"], h["Alloc_count"]) for h in s.heaps()]
    theirs = [(h.name, h.total_size, h.alloc_count) for h in c.malloc_heaps if h.name]

    assert heaps == theirs and heaps[0][:2] == ("socket_0", rec.seen["info"]["physmem_size"])
    assert s.memzone_ids() == zones.used
    assert (s.c.tsc_hz, s.c.mem_cfg_addr) == (c.tsc_hz, c.mem_cfg_addr)
    assert s.c.mem_cfg_addr == rec.seen["maps"][0][0]


def test_build(rec: Recording, eal: ForeignEal) -> None:
    s = eal.snapshot
    assert s
    build = s.build()
    hugepages = rec.mode != "no-huge"

    assert build["line"] == (64 if rec.riscv64 else 128)
    assert ("riscv64" if rec.riscv64 else "aarch64") in build["like"]
    assert (build["nodes"], build["hugepage_sizes"]) == ((4, 4) if hugepages else (None, None))
    assert s.kernel_page == (16384 if "vm16k" in rec.path.name else 4096)


def test_memory_of_a_process_tells_the_same(rec: Recording, in_memory: Snapshot) -> None:
    """--in-memory and --no-shconf: config is found in the process, and its bytes tell the build."""
    s, mode = in_memory, "no-huge" if rec.mode == "no-huge" else "in-memory"

    assert (s.mode, s.release.name) == (mode, rec.seen["release"])
    assert s.build()["line"] == (64 if rec.riscv64 else 128)
    assert [{k: ml[k] for k in LIST} for ml in s.lists] == rec.seen["lists"]
    assert s.c.malloc_heaps[0].total_size == rec.seen["info"]["physmem_size"]
    assert s.iova_mode == rec.seen["init"]["iova_mode"]


def test_hugepage_info_names_every_mounted_size(rec: Recording, eal: ForeignEal) -> None:
    assert eal.snapshot
    records = eal.snapshot.hugepage_info()
    sizes = {m["page_sz"] for m in rec.seen["lists"]} if rec.mode != "no-huge" else set()

    assert {r["hugepage_sz"] for r in records} == sizes
    assert all(r["hugedir"].startswith(HUGE) for r in records)
    assert {len(r["num_pages"]) for r in records} <= {4}


def test_page_files_are_those_of_the_process(rec: Recording, eal: ForeignEal) -> None:
    """Those that it has locked: a legacy start leaves the file of a page that it did not get."""
    s = eal.snapshot
    assert s
    where = [
        s.page_file("recording", ml, i)
        for ml in s.lists
        for r in ml["runs"]
        for i in range(r["seg"], r["seg"] + r["n"])
    ]
    paths = {w[0] for w in where if w}

    assert paths == {f for f, *_ in rec.seen["locks"] if f.startswith(f"{HUGE}/")}


def test_tools_name_the_build(rec: Recording, capsys: Any) -> None:
    """inspect, map and dump of each file, as JSON."""
    line = 64 if rec.riscv64 else 128
    inspected = described(capsys, "inspect", str(rec.path), "--json")
    drawn = described(capsys, "map", str(rec.path), "--json")
    dumps = {
        name: described(capsys, "dump", f"{rec.path}:run/{name}", "--json") for name in rec.files
    }

    assert inspected["build"]["line"] == drawn["build"]["line"] == line
    assert dumps["config"]["build"] == {"line": line, "lists": 128}
    assert all("build" in d for name, d in dumps.items() if name != "hugepage_data")
    arrays = [d["build"]["kernel_page"] for n, d in dumps.items() if n.startswith("fbarray")]
    assert set(arrays) == {inspected["build"]["kernel_page"]}


def test_fields_of_config_lie_as_in_the_build(rec: Recording, capsys: Any) -> None:
    found = described(capsys, "dump", f"{rec.path}:run/config", "--json")["fields"]
    at = {f["name"]: f["offset"] for f in found}

    assert at["mem_cfg_addr"] == rec.abi.offsetof("rte_mem_config", "mem_cfg_addr")
    assert at["malloc_heaps[0].name"] == (19280 if rec.riscv64 else 19344)


def test_every_size_has_its_word(capsys: Any) -> None:
    main(["inspect", str(recordings.OTHER_BUILDS / "22.11-vm-dynmem-four-sizes.zip"), "--json"])
    sizes = {m["page_sz"] for m in json.loads(capsys.readouterr().out)["lists"]}
    main(["map", str(recordings.OTHER_BUILDS / "22.11-vm-dynmem-64K.zip")])

    assert sizes == {1 << 30, 32 << 20, 2 << 20, 64 << 10}
    assert "64K" in capsys.readouterr().out


def test_diff_compares_files_of_two_builds(capsys: Any) -> None:
    theirs = recordings.OTHER_BUILDS / "22.11-vm-dynmem.zip"
    ours = recordings.FOLDER / "22.11-dynmem.zip"
    found = described(capsys, "diff", f"{ours}:run/config", f"{theirs}:run/config", "--json")
    rows = {d["name"]: (d["a"], d["b"]) for d in found["differences"]}

    assert rows["build.line"] == (64, 128)
    assert "legacy_mem" not in rows and "malloc_heaps[0].name" not in rows


def test_diff_shows_what_cache_lines_of_128_bytes_move(capsys: Any) -> None:
    found = described(capsys, "diff", "22.11", "22.11:aarch64", "--json")
    rows = {(d["of"], d["name"]): (d["a"], d["b"]) for d in found["differences"]}

    assert rows["rte_mem_config", "size"] == (25344, 27520)
    assert rows["malloc_heap", "size"] == (192, 256)
    assert rows["build", "line"] == (64, 128)
    assert found["attach"].endswith("the cache lines differ")


def test_an_archive_without_files_is_refused_in_plain_words(capsys: Any) -> None:
    assert main(["inspect", str(recordings.OTHER_BUILDS / "22.11-vm-in-memory.zip")]) == 1
    assert "expected a directory with a config" in capsys.readouterr().err
