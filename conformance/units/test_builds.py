"""builds.py against the builds in fixtures/abi, and which build a file is of: no root."""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from conformance.harness import decode, recordings
from conformance.units.fake_view import case_beside
from pyeal import attached, builds, hugepages, layout, memseg, releases
from pyeal.cli import main
from pyeal.errors import EalError
from pyeal.look import snapshot
from pyeal.tools.doctor import model, primary

NAMES = {  # of builds.py: of fixtures/abi
    "x86_64": "x86_64",
    "aarch64": "aarch64",
    "aarch64-soc": "arm64 bluefield",
    "ppc64le": "ppc64el",
    "riscv64": "riscv64",
}
CASES = [
    pytest.param(ours, theirs, release, id=f"{ours}-{release}")
    for ours, theirs in NAMES.items()
    for release in decode.layouts(theirs)
]
SHAPES = {  # bytes of hugepage_info: (records, nodes)
    12336: (3, 1),
    12360: (3, 2),
    12384: (3, 4),
    12432: (3, 8),
    12528: (3, 16),
    12720: (3, 32),
    16448: (4, 1),
    16480: (4, 2),
    16512: (4, 4),
    16576: (4, 8),
    16704: (4, 16),
    16960: (4, 32),
    3 * 4160: (3, 12),
    3 * 4368: (3, 64),
}
LINES = pytest.mark.parametrize("line", layout.CONFIG_SIZES)


def made(line: int, lists: int = 128, release: str = "22.11", va: int = 1 << 32) -> Any:
    """A config as a build writes it, as far as it tells which."""
    r = releases.get(release)
    c = layout.config(r.family, builds.abi(line, lists, r.family))()
    c.magic, c.version, c.mem_cfg_addr = layout.MAGIC, r.word, va
    c.memzones.name, c.memzones.elt_sz = b"memzone", 72
    c.malloc_heaps[0].name = b"socket_0"
    return c


@pytest.mark.parametrize(("ours", "theirs", "release"), CASES)
def test_facts_are_those_of_the_build(ours: str, theirs: str, release: str) -> None:
    b, abi = builds.BUILDS[ours], decode.release(release, theirs)
    r, c = releases.get(release), abi.constants

    assert (b.line, b.hugepage_sizes) == (c["RTE_CACHE_LINE_SIZE"], c["MAX_HUGEPAGE_SIZES"])
    assert (b.nodes_of(r), b.lcores) == (c["RTE_MAX_NUMA_NODES"], c["RTE_MAX_LCORE"])
    assert b.base == c["eal_get_baseaddr()"]
    assert b.abi.config_size == abi.sizeof("rte_mem_config")
    assert builds.hugepage_shape(abi.files["hugepage_info"]["size"]) == (
        b.hugepage_sizes,
        b.nodes_of(r),
    )


@pytest.mark.parametrize(("ours", "theirs", "release"), CASES)
def test_structures_lie_as_in_the_build(ours: str, theirs: str, release: str) -> None:
    b, abi, family = builds.BUILDS[ours], decode.release(release, theirs), releases.get(release)
    kind = layout.config(family.family, b.abi)
    names = (
        "memsegs tailq_head malloc_heaps next_socket_id mem_cfg_addr legacy_mem"
        " single_file_segments tsc_hz dma_maskbits"
    ).split()

    assert {n: getattr(kind, n).offset for n in names} == {
        n: abi.offsetof("rte_mem_config", n) for n in names
    }
    assert ctypes.sizeof(layout.malloc_heap(b.abi)) == abi.sizeof("malloc_heap")
    assert ctypes.sizeof(layout.hugepage_info(b.nodes_of(family))) == abi.sizeof("hugepage_info")


def test_loongarch64_has_a_base_address_of_its_own() -> None:
    b = builds.BUILDS["loongarch64"]

    assert (b.line, b.nodes, b.lcores, b.base) == (64, 16, 64, 0x7000000000)


@pytest.mark.parametrize("size", SHAPES)
def test_hugepage_info_tells_records_and_nodes_by_its_size(size: int) -> None:
    assert builds.hugepage_shape(size) == SHAPES[size]


@pytest.mark.parametrize("size", [0, 1, 4240, 12721, 1 << 20])
def test_other_sizes_of_hugepage_info_are_other_limits(size: int) -> None:
    with pytest.raises(builds.OtherLimits, match=f"built with other limits: .* of {size} bytes"):
        builds.hugepage_shape(size)


@pytest.mark.parametrize("nodes", [2, 3, 4, 5, 7, 8, 31, 32, 33])
def test_the_descriptor_tells_nodes_of_one_size_apart(nodes: int) -> None:
    kind = layout.hugepage_info(nodes)
    records = [kind() for _ in range(3)]
    for r in records:
        r.num_pages[nodes - 1], r.lock_descriptor = 7, -1

    assert snapshot.shape_of(b"".join(map(bytes, records))) == (3, nodes)


@LINES
@pytest.mark.parametrize("release", ["22.11", "25.11", "26.07"])
def test_a_config_tells_its_cache_lines(line: int, release: str) -> None:
    whole = bytes(made(line, release=release))
    early = bytes(len(whole))  # no heap yet: only the size tells

    assert builds.of_config(whole).line == line  # type: ignore[union-attr]
    assert builds.of_config(early).line == line  # type: ignore[union-attr]


@LINES
def test_memory_tells_its_cache_lines_without_an_end(line: int) -> None:
    """Of --no-shconf mem_cfg_addr is 0: the name of the first heap is all that there is."""
    data = bytes(made(line, va=0)).ljust(40000, b"\0")

    assert builds.of_config(data, is_file=False).line == line  # type: ignore[union-attr]


@LINES
@pytest.mark.parametrize("lists", [32, 64, 127, 129, 256])
@pytest.mark.parametrize("release", ["22.11", "25.11", "26.07"])
def test_a_config_tells_how_many_lists_its_build_has(line: int, lists: int, release: str) -> None:
    data = bytes(made(line, lists, release))
    abi = builds.of_config(data)

    assert abi and (abi.line, abi.lists) == (line, lists)
    assert attached.Copy(data).c.malloc_heaps[0].name == b"socket_0"


def test_a_config_that_is_cut_off_is_no_config_of_another_build() -> None:
    data = bytes(made(128))

    assert builds.of_config(data[:26000]) is None
    assert builds.of_config(data[:25344]) is None
    assert builds.of_config(data[:8]) is None


def test_a_config_of_another_size_is_of_other_limits() -> None:
    with pytest.raises(builds.OtherLimits, match="built with other limits: config has 30000"):
        builds.of_config(bytes(30000))


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (bytes(made(128)), "build with 128-byte cache lines: expected 64-byte cache lines"),
        (bytes(made(64, 64)), "built with other limits: expected 128 memseg lists, found 64"),
        (bytes(30000), "built with other limits: config has 30000 bytes"),
        (bytes(made(64))[:20000], "is damaged: expected 25344 bytes, found 20000"),
    ],
    ids=["lines", "lists", "other", "cut"],
)
def test_a_secondary_refuses_another_build_in_plain_words(
    tmp_path: Path, data: bytes, words: str
) -> None:
    (tmp_path / "config").write_bytes(data)
    os.chmod(tmp_path / "config", 0o600)
    with pytest.raises(EalError, match=words):
        attached.AttachedConfig(str(tmp_path / "config"), releases.get("22.11"))


PRIMARY = """if True:
    import os, shutil, sys
    import pyeal
    prefix = f"build{os.getpid()}"
    eal = pyeal.init(["--no-huge", "-m", "8", "--file-prefix", prefix], release=sys.argv[1])
    for name in "config", "fbarray_nohugemem":
        shutil.copy(f"{eal.runtime_dir}/{name}", sys.argv[2])
    eal.cleanup()
    shutil.rmtree(eal.runtime_dir, ignore_errors=True)
"""


@pytest.mark.parametrize(
    ("build", "release", "name"),
    [
        ("aarch64", "20.11", "20.11-vm-no-huge"),
        ("aarch64", "22.11", "22.11-vm-no-huge"),
        ("riscv64", "24.11", "other-riscv64-no-huge"),
    ],
)
def test_a_primary_of_a_build_writes_its_words(
    build: str, release: str, name: str, tmp_path: Path
) -> None:
    """Word by word those of librte_eal, but for the clock and the minor release."""
    _, files = recordings.read(recordings.OTHER_BUILDS / f"{name}.zip")
    env = os.environ | {"PYEAL_BUILD": build, "XDG_RUNTIME_DIR": str(tmp_path)}
    env["PYTHONPATH"] = os.pathsep.join(sys.path)
    argv = [sys.executable, "-c", PRIMARY, release, str(tmp_path)]
    subprocess.run(argv, env=env, check=True, timeout=60)
    abi = decode.release(release, "riscv64" if build == "riscv64" else "aarch64")
    ours, theirs = (abi.config(d) for d in ((tmp_path / "config").read_bytes(), files["config"]))
    differ = [k for k in ours if ours[k] != theirs[k]]

    assert set(differ) <= {"tsc_hz", "version"}
    assert (tmp_path / "fbarray_nohugemem").read_bytes() == files["fbarray_nohugemem"]


def test_plan_for_another_build(capfd: Any) -> None:
    assert main(["plan", "--build", "aarch64", "--json", "--", "--no-huge", "-m", "8"]) == 0
    found = json.loads(capfd.readouterr().out)
    sizes = {f["name"]: f["bytes"] for f in found["runtime"]["files"]}

    assert found["build"] == {"line": 128, "lists": 128, "nodes": 4, "hugepage_sizes": 4}
    assert sizes["config"] == 27520


def test_a_build_that_is_not_known_is_refused() -> None:
    env = os.environ | {"PYEAL_BUILD": "vax", "PYTHONPATH": os.pathsep.join(sys.path)}
    argv = [sys.executable, "-c", "from pyeal import layout"]
    done = subprocess.run(argv, env=env, capture_output=True, text=True)

    assert "PYEAL_BUILD=vax: expected one of x86_64, aarch64, " in done.stderr


@pytest.fixture
def other_limits(tmp_path: Path) -> Path:
    """The runtime directory of an x86-64 build with 64 memseg lists and for eight nodes."""
    info = layout.hugepage_info(8)
    records = (info * 3)()
    records[0].hugepage_sz, records[0].hugedir = 2 << 20, b"/mnt/huge"
    (tmp_path / "config").write_bytes(bytes(made(64, 64)))
    (tmp_path / "hugepage_info").write_bytes(bytes(records))
    return tmp_path


def test_tools_decode_a_build_with_other_limits(other_limits: Path, capsys: Any) -> None:
    assert main(["inspect", str(other_limits)]) == 0
    assert " for 64 lists, 64-byte cache lines and 8 nodes " in capsys.readouterr().out
    assert main(["dump", str(other_limits / "hugepage_info")]) == 0
    assert "nodes 8" in capsys.readouterr().out


def test_tools_refuse_limits_that_they_do_not_decode(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "config").write_bytes(bytes(made(64))[:8] + bytes(30000))
    assert main(["inspect", str(tmp_path)]) == 1
    said = capsys.readouterr().err

    assert "built with other limits: config has 30008 bytes" in said and "damaged" not in said


def test_doctor_names_the_build_of_the_primary() -> None:
    release = releases.get("22.11")
    abi = builds.BUILDS["aarch64"].abi
    case = case_beside(word=release.word, c=made(128), release=release, abi=abi)
    *_, last = primary.check(case)

    assert (last.state, last.text) == (
        model.FAIL,
        "the primary is written by a build with 128-byte cache lines",
    )
    assert last.found == "a build for aarch64 or ppc64le"


@pytest.mark.parametrize(
    "path", sorted(recordings.OTHER_BUILDS.glob("*.zip")), ids=lambda p: p.stem
)
def test_recordings_tell_their_build(path: Path) -> None:
    seen, files = recordings.read(path)
    if not files:
        pytest.skip("in-memory: a recording without files")
    line = 64 if "riscv64" in path.name else 128

    assert builds.of_config(files["config"]).line == line  # type: ignore[union-attr]
    assert builds.of_config(files["config"].ljust(1 << 16, b"\0"), False).line == line  # type: ignore[union-attr]
    assert seen["files"]["/run/dpdk/recording/config"] == len(files["config"])


@pytest.mark.parametrize(
    ("page_sz", "lengths", "refused"),
    [(2 << 20, [8192] * 4, ""), (1 << 30, [32] * 2, ""), (2 << 20, [2048] * 32, "found 2048")],
)
def test_a_secondary_refuses_lists_of_another_length(
    page_sz: int, lengths: list[int], refused: str
) -> None:
    """The number in a page file's name is list times RTE_MAX_MEMSEG_PER_LIST plus segment."""
    lists = memseg.MemsegLists.__new__(memseg.MemsegLists)
    lists.slots = {
        i: cast(Any, SimpleNamespace(page_sz=page_sz, socket=0, n_segs=n))
        for i, n in enumerate(lengths)
    }
    if not refused:
        lists._must_be_planned()
        return
    with pytest.raises(EalError, match=f"built with other limits: .*{refused}") as e:
        lists._must_be_planned()
    assert e.value.reason == "build"


def test_hugepage_info_of_other_limits_is_not_called_damaged(tmp_path: Path) -> None:
    path = tmp_path / "hugepage_info"
    path.write_bytes(bytes(12720 + 4))
    with pytest.raises(EalError, match="built with other limits") as e:
        hugepages.read_info(str(path), 32)

    assert e.value.reason == "build" and "damaged" not in e.value.text
