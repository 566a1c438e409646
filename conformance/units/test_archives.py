"""Archives that anyone may have made: what is refused, and what that costs."""

from __future__ import annotations

import io
import re
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from conformance import MB
from conformance.harness.child import environment
from pyeal.look import archives
from pyeal.look.sources import Unreadable

PEAK = """
import re, sys
from pyeal import cli
code = cli.main(sys.argv[1:])
status = open("/proc/self/status").read()  # ru_maxrss counts the process before exec, too
print("peak", int(re.search(r"VmHWM:\\s+(\\d+)", status)[1]) // 1024, "code", code)
"""


class Zeros(io.RawIOBase):
    def __init__(self, n: int) -> None:
        self.n = n

    def readable(self) -> bool:
        return True

    def read(self, n: int = -1) -> bytes:
        n = min(n, self.n) if n >= 0 else self.n
        self.n -= n
        return bytes(n)


def tar_of_zeros(path: Path, name: str, size: int) -> None:
    with tarfile.open(path, "w:gz", compresslevel=1) as t:
        m = tarfile.TarInfo(name)
        m.size = size
        t.addfile(m, Zeros(size))  # type: ignore[arg-type]


def zip_of_zeros(path: Path, name: str, size: int) -> None:
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as z,
        z.open(name, "w", force_zip64=True) as f,
    ):
        for _ in range(size // MB):
            f.write(bytes(MB))


def header_of_zeros(path: Path, name: str, size: int) -> None:
    """A long name of that many bytes, which tarfile reads at once."""
    import gzip

    m = tarfile.TarInfo(name)
    m.size, m.type = size, tarfile.GNUTYPE_LONGNAME
    with gzip.open(path, "wb", compresslevel=1) as f:
        f.write(m.tobuf(tarfile.GNU_FORMAT))
        for _ in range(size // MB):
            f.write(bytes(MB))


@pytest.mark.parametrize(
    "make", [tar_of_zeros, zip_of_zeros, header_of_zeros], ids=["tar", "zip", "header"]
)
@pytest.mark.parametrize("size", [30 * MB, 256 * MB], ids=["30-MB", "256-MB"])
@pytest.mark.parametrize("tool", ["inspect", "dump"])
def test_zeros_cost_less_than_100_mb(tmp_path: Path, make, size: int, tool: str) -> None:  # type: ignore[no-untyped-def]
    """An archive of 2 MB with 2 GB of zeros cost 3 GB of memory."""
    path = tmp_path / ("a.zip" if make is zip_of_zeros else "a.tar.gz")
    make(path, "run/fbarray_x", size)
    what = f"{path}:run/fbarray_x" if tool == "dump" else path
    argv = [sys.executable, "-c", PEAK, tool, str(what)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=environment())
    said = done.stdout + done.stderr
    peak, code = re.findall(r"^peak (\d+) code (\d)$", said, re.M)[0]

    assert "Traceback" not in said and code == "1", said
    assert int(peak) < 100, said


@pytest.mark.parametrize("kind", ["zip", "tar"])
@pytest.mark.parametrize(
    ("limit", "words"), [("MOST_MEMBERS", "members"), ("MOST_DEPTH", "folders")]
)
def test_numbers_are_limited(
    tmp_path: Path, kind: str, limit: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archives, limit, 2)
    path = tmp_path / f"a.{kind}"
    names = [f"a/b/c/d{i}" for i in range(4)] if limit == "MOST_DEPTH" else list("abcd")
    if kind == "zip":
        with zipfile.ZipFile(path, "w") as z:
            for name in names:
                z.writestr(name, b"x")
    else:
        with tarfile.open(path, "w") as t:
            for name in names:
                t.addfile(tarfile.TarInfo(name))

    with pytest.raises(Unreadable, match=words):
        archives.members(str(path))


@pytest.mark.parametrize("cut", [10, 100, 600, 5000])
@pytest.mark.parametrize("kind", ["zip", "tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_a_broken_archive_is_refused_in_a_line(tmp_path: Path, kind: str, cut: int) -> None:
    path = tmp_path / f"a.{kind}"
    content = bytes(range(256)) * 100
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as z:
            z.writestr("run/config", content)
    else:
        with tarfile.open(path, f"w:{kind[4:]}") as t:  # type: ignore[call-overload]
            m = tarfile.TarInfo("run/config")
            m.size = len(content)
            t.addfile(m, io.BytesIO(content))
    whole = path.read_bytes()
    assert archives.members(str(path))["run/config"]() == content
    path.write_bytes(whole[: min(cut, len(whole) - 30)])
    try:
        archives.members(str(path))["run/config"]()
    except (Unreadable, KeyError):
        pass


def test_a_pipe_is_no_archive(tmp_path: Path) -> None:
    import os

    os.mkfifo(tmp_path / "a.tar")
    with pytest.raises(OSError):
        archives.members(str(tmp_path / "a.tar"))
