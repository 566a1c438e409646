"""`pyeal dump` and `diff`, held to fixtures/abi: which member lies where, and what it says."""

from __future__ import annotations

import ctypes
import tarfile
from pathlib import Path
from typing import Any

import pytest

from conformance.harness import decode, recordings
from conformance.units.recorded import RELEASES, facts, pyeal, unpack
from pyeal import releases
from pyeal.look.arrays import shape
from pyeal.tools import diff, dump

every = pytest.mark.parametrize("release", RELEASES)


def plain(name: str) -> str:
    """A name of an array's element without what is in it."""
    return name.partition("]")[2].lstrip(".") if name.startswith("[") else name


@every
@pytest.mark.parametrize("mode", ["dynmem", "legacy"])
def test_config_as_abi_has_it(release: str, mode: str) -> None:
    seen, files = recordings.load(release, mode)
    abi = decode.release(seen["release"])
    said, fields = dump.decode("config", files["config"])
    shown = [f for f in fields if f[3]]

    assert said["release"] == seen["release"] and len(shown) > 25
    for offset, size, name, value in shown:
        there = abi.name_at("rte_mem_config", offset)
        assert there.replace("[0].", ".").partition("[")[0].startswith(name.partition("[")[0])
        raw = files["config"][offset : offset + size]
        if isinstance(value, str):
            assert raw.split(b"\0")[0].decode() == value
        else:
            assert int.from_bytes(raw, "little") == value % (1 << 8 * size)  # type: ignore[operator]


@every
def test_arrays_tell_their_own_length(release: str) -> None:
    """The config has the descriptor; the file alone gives the same."""
    seen, files = recordings.load(release, "dynmem")
    c = decode.release(seen["release"]).config(files["config"])
    descs = [c.memzones, *(m.memseg_arr for m in c.memsegs if m.base_va)]

    assert [shape(files[f"fbarray_{d.name}"], dump.SIZES) for d in descs] == [
        (d.elt_sz, d.len) for d in descs
    ]
    said, fields = dump.decode("fbarray", files["fbarray_memseg-2048k-0-0"])
    addresses = [v for _, _, name, v in fields if plain(name) == "addr"]
    assert addresses == [s["addr"] for s in seen["segments"] if s["list"] == 0]
    assert said["count"] == len(addresses)


@every
def test_hugepage_files(release: str) -> None:
    seen, files = recordings.load(release, "legacy")
    abi = decode.release(seen["release"])
    info = dump.decode("hugepage_info", files["hugepage_info"])
    data = dump.decode("hugepage_data", files["hugepage_data"])
    theirs = abi.records("hugepage_file", files["hugepage_data"])

    assert info[0]["nodes"] == (4 if release == "20.11" else 32)
    assert next(v for _, _, n, v in info[1] if plain(n) == "hugedir") == "/run/hugepages/2M"
    paths = [v for _, _, n, v in data[1] if plain(n) == "filepath"]
    assert paths == [r.filepath for r in theirs if r.size]


def test_in_an_archive(tmp_path: Path) -> None:
    run = unpack("22.11", "dynmem", tmp_path)
    with tarfile.open(tmp_path / "sos.tar.gz", "w:gz") as t:
        t.add(run, "./var/run/dpdk/rte")
    archive = tmp_path / "sos.tar.gz"
    listed = pyeal("dump", archive).splitlines()
    got = facts("dump", f"{archive}:var/run/dpdk/rte/config")

    assert f"{archive}:var/run/dpdk/rte/config" in listed and len(listed) == 7
    assert got["schema"] == "pyeal.dump/1" and got["release"] == "22.11.11"
    assert got["fields"][0] == {"offset": 0, "size": 4, "name": "magic", "value": 19820526}
    assert got["fields"] == facts("dump", run / "config")["fields"]


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("config", b"", "expected 25344 bytes, found 0"),
        ("config", bytes(25344), "no version word yet"),
        ("config", b"\xee\x6f\x2e\x01" + b"\xff" * 25340, "255.255.255): expected 20.11 to "),
        ("hugepage_info", b"x", "no release has a file of 1 bytes"),
        ("hugepage_data", b"x", "expected records of 4136 bytes"),
        ("fbarray_x", b"x" * 4096, "no array"),
        ("notes", b"x", "--kind"),
    ],
)
def test_what_is_none_of_it_is_refused(name: str, data: bytes, words: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(data)
    said = pyeal("dump", tmp_path / name, code=1)

    assert words in said and said.count("\n") == 1


@pytest.mark.parametrize("release", releases.RELEASES)
def test_layouts_that_diff_compares_are_those_of_abi(release: str) -> None:
    r, abi = releases.get(release), decode.release(release)
    for name, kind_of in dump.STRUCTS.items():
        if name == "malloc_elem":  # not shared as such: pyeal names its members
            continue
        kind = kind_of(r.family, r.numa_nodes_max)
        members = dump.members(kind).items()
        ours = {n.partition("[")[0]: at for n, (at, _) in members if "." not in n}
        theirs = {m: abi.offsetof(name, m) for m in ours if _has(abi, name, m)}

        assert {m: ours[m] for m in theirs} == theirs and len(theirs) >= len(ours) - 2
        assert ctypes.sizeof(kind) == abi.sizeof(name)


def _has(abi: Any, struct: str, member: str) -> bool:
    try:
        abi.offsetof(struct, member)
    except StopIteration:
        return False
    return True


def test_diff_of_releases() -> None:
    got = diff.of_releases(releases.get("22.11"), releases.get("23.11"))
    rows = {d["name"]: (d["a"], d["b"]) for d in got["differences"]}

    assert [x["offset"] for x in rows["memsegs[128]"]] == [136, 144]
    assert rows["ethdev_lock"] == (None, {"offset": 32, "size": 4})
    assert "memsegs[128].base_va" not in rows and "cannot join" in got["attach"]
    assert diff.of_releases(releases.get("24.11"), releases.get("24.11"))["differences"] == []
    assert pyeal("diff", "24.11", "24.11") == "nothing differs\n"
    assert "26.07" in pyeal("diff", "22.11", "19.11", code=1)


def test_diff_of_files(tmp_path: Path) -> None:
    one, two = (unpack("22.11", m, tmp_path / m) for m in ("dynmem", "legacy"))
    got = facts("diff", one / "config", two / "config", code=1)
    rows = {d["name"]: (d["a"], d["b"]) for d in got["differences"]}

    assert rows["legacy_mem"] == (0, 1) and rows["memsegs[1].base_va"][1] == 0
    assert facts("diff", one / "config", one / "config")["differences"] == []
    pyeal("diff", one / "config", one / "hugepage_info", code=1)
