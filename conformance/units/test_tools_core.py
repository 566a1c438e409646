"""Core files: each says what the files of its EAL say; bad ones cost a line and little time."""

from __future__ import annotations

import bz2
import gzip
import lzma
import random
import re
import resource
import shutil
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from conformance import FIXTURES, MB
from conformance.harness import elf
from conformance.harness.child import environment
from conformance.units.recorded import facts, pyeal
from conformance.units.test_archives import PEAK
from pyeal.look import packed
from pyeal.look.config import config_of

RUN, HUGE = "/run/dpdk/core", "/dev/hugepages/coremap_"
RECORDINGS = (
    "recordings/20.11-dynmem",
    "recordings/22.11-legacy",
    "recordings/24.11-single-file",
    "recordings/25.11-dynmem",
    "recordings-arm64/22.11-vm-dynmem-64K",
    "recordings-arm64/25.11-vm-dynmem",
)


def recording(name: str) -> dict[str, bytes]:
    """The files of a recording's runtime directory."""
    with zipfile.ZipFile(FIXTURES / f"{name}.zip") as z:
        return {n[4:]: z.read(n) for n in z.namelist() if n.startswith("run/")}


def core_of(path: Path, name: str, layout: bool = True, notes: bool = True) -> Path:
    """The core of a process that had mapped a recording, and three pages whose bytes it lacks.

    layout: whether it has config and arrays; notes: the list of mapped files.
    """
    run = recording(name)
    c, _, _ = config_of(run["config"])
    rows = [(c.mem_cfg_addr, run["config"], f"{RUN}/config")]
    for desc in (c.memzones, *(m.memseg_arr for m in c.memsegs)):
        file = f"fbarray_{desc.name.decode()}"
        if desc.data and file in run:
            rows.append((desc.data, run[file], f"{RUN}/{file}"))
    first = next(m.base_va for m in c.memsegs if m.memseg_arr.count)
    rows += [(first + i * 2 * MB, b"", f"{HUGE}{i}") for i in range(3)]
    segments, files = [], []
    for va, data, file in sorted(rows):
        length = len(data) + -len(data) % 4096 or 2 * MB
        segments.append((va, data if layout else b"", length))
        files.append((va, va + length, file))
    machine = "aarch64" if "arm64" in name else "x86_64"
    return elf.write(path, segments, files if notes else [], machine=machine)


@pytest.fixture
def core(tmp_path: Path) -> Path:
    return core_of(tmp_path / "core", "recordings/24.11-dynmem")


@pytest.mark.parametrize("name", RECORDINGS)
@pytest.mark.parametrize("notes", [True, False], ids=["by-name", "by-content"])
def test_it_says_what_the_files_say(tmp_path: Path, name: str, notes: bool) -> None:
    """Lists, pages, IOVAs, zones and queues, of x86-64 and arm64, whichever way config is found."""
    files = facts("inspect", FIXTURES / f"{name}.zip")
    found = facts("inspect", core_of(tmp_path / "core", name, notes=notes))
    same = ["release", "iova_mode", "config", "locks", "lists", "memzones", "tailqs", "pages"]

    assert {k: found[k] for k in same} == {k: files[k] for k in same}
    assert (found["health"], found["pid"]) == ("core", 4711)
    if notes:
        assert (found["file_prefix"], found["mode"]) == ("core", files["mode"])
        assert found["build"]["kernel_page"] == files["build"]["kernel_page"]
        assert sum(h["mapped_bytes"] for h in found["holders"]) == 6 * MB
    assert "0x7f" in " ".join(found["problems"])


def test_without_data_the_map_is_there(tmp_path: Path) -> None:
    """Filter 0x33: which page files were mapped, and the filter that keeps the rest."""
    core = core_of(tmp_path / "core", "recordings/22.11-dynmem", layout=False)
    for tool in "inspect", "map":
        found = facts(tool, core, code=1)
        (run,) = found["mapped"]
        text = pyeal(tool, core, code=1)

        assert (run["len"], run["files"], run["stored"]) == (6 * MB, 3, 0)
        assert found["file_prefix"] == "core" and "0x3b" in " ".join(found["problems"])
        assert "coremap_*" in text and "echo 0x3b" in text


def test_map_dump_diff(core: Path) -> None:
    """What the other tools print of the files is printed of a core."""
    files = FIXTURES / "recordings/24.11-dynmem.zip"
    names = facts("dump", core)["files"]
    a, b = facts("dump", f"{core}:config"), facts("dump", f"{files}:run/config")

    assert len(names) == 6 and f"{core}:fbarray_memzone" in names
    assert a["fields"] == b["fields"]
    assert facts("map", core)["lists"] == facts("map", files)["lists"]
    assert facts("diff", f"{core}:fbarray_memzone", f"{files}:run/fbarray_memzone") == {
        "schema": "pyeal.diff/1",
        "a": f"{core}:fbarray_memzone",
        "b": f"{files}:run/fbarray_memzone",
        "differences": [],
    }
    assert "no such" not in pyeal("diff", f"{core}:nothing", f"{core}:config", code=1)


def by_program(name: str):  # type: ignore[no-untyped-def]
    def pack(data: bytes) -> bytes:
        if not shutil.which(name):
            pytest.skip(f"wanted the program {name}, found none")
        return subprocess.run([name, "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout

    return pack


PACKERS = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": by_program("zstd"),
    "lz4": by_program("lz4"),
}


@pytest.mark.parametrize("kind", PACKERS)
def test_compressed(core: Path, kind: str) -> None:
    """As coredumpctl keeps them; cut off, what is in front is read."""
    whole = facts("inspect", core)
    small = core.with_suffix(f".{kind}")
    small.write_bytes(PACKERS[kind](core.read_bytes()))
    found = facts("inspect", small)
    assert {k: found[k] for k in found if k != "path"} == {
        k: whole[k] for k in whole if k != "path"
    }

    data = small.read_bytes()
    for cut in 20, len(data) // 2:
        small.write_bytes(data[:cut])
        assert "Traceback" not in pyeal("inspect", small, code=1)


def test_a_missing_program_is_named(core: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = core.with_suffix(".zst")
    small.write_bytes(b"\x28\xb5\x2f\xfd" + bytes(100))
    monkeypatch.setenv("PATH", str(core.parent))

    assert "install the package zstd" in pyeal("inspect", small, code=1)


def test_what_is_unpacked_is_limited(core: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small = core.with_suffix(".gz")
    small.write_bytes(gzip.compress(core.read_bytes()))
    monkeypatch.setattr(packed, "MOST_WRITTEN", 4096)
    monkeypatch.setattr(packed, "STEP", 4096)

    assert "not zero" in pyeal("inspect", small, code=1)


def test_ten_gigabytes_cost_little(tmp_path: Path) -> None:
    """2 s and 100 MB: only the segments that are asked for are read."""
    core = core_of(tmp_path / "core", "recordings/24.11-dynmem")
    data = bytearray(core.read_bytes())
    # the pages' own segments, as long as 10 GB of holes behind all else
    n, end, far = struct.unpack_from("<H", data, 56)[0], len(data), 10 << 30
    for i in range(n):
        kind, _, _, va, _, stored, _, _ = struct.unpack_from("<IIQQQQQQ", data, 64 + 56 * i)
        if kind == 1 and not stored:
            struct.pack_into("<QQQQQ", data, 64 + 56 * i + 8, end, va, 0, 2 * MB, 2 * MB)
    core.write_bytes(data)
    with core.open("r+b") as f:
        f.truncate(far)
    argv = [sys.executable, "-c", PEAK, "inspect", "--elements", str(core)]
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=environment())
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    took = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    peak, code = re.findall(r"^peak (\d+) code (\d)$", done.stdout, re.M)[0]

    assert (code, int(peak) < 100, took < 2) == ("0", True, True), (peak, took, done.stdout)


def word(at: int, value: int, size: int):  # type: ignore[no-untyped-def]
    def change(data: bytearray) -> bytes:
        data[at : at + size] = value.to_bytes(size, "little")
        return bytes(data)

    return change


NOTES = 64 + 32  # offset of the length of the first segment, the notes
BAD = {  # name: what makes it of a core, what is said
    "garbage": (lambda data: random.Random(1).randbytes(9000), "zip file"),
    "text": (lambda data: b"not a core\n" * 1000, "zip file"),
    "empty": (lambda data: b"", "zip file"),
    "elf32": (word(4, 1, 1), "found ELF32"),
    "big-endian": (word(5, 2, 1), "big-endian"),
    "program": (word(16, 2, 2), "a program or a library"),
    "head-cut": (lambda data: data[:40], "cut off"),
    "segments-cut": (lambda data: data[:100], "cut off before its memory"),
    "many-segments": (word(56, 0xFFFF, 2), "segments"),
    "other-size": (word(54, 32, 2), "segments of 32 bytes"),
    "segments-beyond": (word(32, 1 << 62, 8), "cut off before its memory"),
}


@pytest.mark.parametrize("how", BAD)
def test_what_is_no_core_is_refused_in_a_line(core: Path, how: str) -> None:
    change, words = BAD[how]
    core.write_bytes(change(bytearray(core.read_bytes())))
    said = pyeal("inspect", core, code=1)

    assert words in said and said.count("\n") == 1, said


def test_a_truncated_core_says_so(core: Path) -> None:
    """The kernel stops where a limit or a full disk stops it: what is in front is shown."""
    data = core.read_bytes()
    core.write_bytes(data[:300_000])
    found = facts("inspect", core)

    said = " ".join(found["problems"])
    assert f"expected {len(data)} bytes, found 300000" in said
    assert "memseg-2048k-0-0: 4 pages, but its array: the core is truncated" in said
    assert found["release"].startswith("24.11")


def test_a_debugger_is_no_crash(tmp_path: Path) -> None:
    """gcore writes SIGSTOP or no signal: the process lived on."""
    run = recording("recordings/24.11-dynmem")
    at = config_of(run["config"])[0].mem_cfg_addr
    files = [(at, at + 28672, f"{RUN}/config")]
    for signal, words in ((11, "ended by signal 11"), (19, "(app)"), (0, "(app)")):
        segments = [(at, run["config"], 28672)]
        core = elf.write(tmp_path / "core", segments, files, signal=signal)
        assert facts("inspect", core)["why"].endswith(words)


def test_changed_words_cost_no_traceback(core: Path) -> None:
    """Headers and notes with random words and lengths, 120 times; each within 2 s."""
    whole, rng = core.read_bytes(), random.Random(21)
    head = int.from_bytes(whole[64 + 8 : 64 + 16], "little") + 900
    for i in range(120):
        data = bytearray(whole)
        for _ in range(rng.choice((1, 1, 2, 5))):
            at, size = rng.randrange(4, head), rng.choice((1, 2, 4, 8))
            value = rng.choice((0, 1, 0xFF, rng.getrandbits(8 * size), (1 << 8 * size) - 1))
            data[at : at + size] = (value & (1 << 8 * size) - 1).to_bytes(size, "little")
        core.write_bytes(data)
        begun = resource.getrusage(resource.RUSAGE_SELF).ru_utime
        tool = ("inspect", "map", "dump")[i % 3]
        out = _code_and_text(tool, core)
        took = resource.getrusage(resource.RUSAGE_SELF).ru_utime - begun

        assert out[0] in (0, 1) and "Traceback" not in out[1] and took < 2, (i, out)


def _code_and_text(*args: object) -> tuple[int, str]:
    import io
    from contextlib import redirect_stderr, redirect_stdout

    from pyeal import cli

    out = io.StringIO()
    with redirect_stdout(out), redirect_stderr(out):
        code = cli.main(list(map(str, args)))
    return code, out.getvalue()
