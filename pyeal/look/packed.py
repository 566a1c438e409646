"""Large files that may be compressed: bytes at any place, unpacked as far as they are asked for.

gzip, bzip2 and xz are read by the standard library, zstd and lz4 by their programs.
"""

from __future__ import annotations

import io
import os
from errno import EFBIG

from pyeal import files
from pyeal.errors import EalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import IO, Any

MOST_LENGTH = 1 << 44  # bytes of a file, of which only some are read
MOST_UNPACKED = 1 << 38  # bytes up to which a compressed one is unpacked
MOST_WRITTEN = 8 << 30  # bytes of them that are not zero, and at most half of what is free
STEP = 1 << 20
XZ_MEMORY = 80 << 20  # what xz -9 needs
PROGRAMS = {b"\x28\xb5\x2f\xfd": "zstd", b"\x04\x22\x4d\x18": "lz4"}
HEADS = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x5d\0\0", *PROGRAMS)


class File(io.RawIOBase):
    """An open file that is closed with the last function that reads from it."""

    def __init__(self, fd: int) -> None:
        self.fd, self.at = fd, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = os.pread(self.fd, len(buffer), self.at)
        buffer[: len(data)] = data
        self.at += len(data)
        return len(data)

    def seek(self, at: int, whence: int = 0) -> int:
        size = os.fstat(self.fd).st_size
        self.at = max((0, self.at, size)[whence] + at, 0)
        return self.at

    def close(self) -> None:
        if not self.closed:
            super().close()
            os.close(self.fd)


def unpacked(f: IO[bytes]) -> IO[bytes]:
    """Return a reader of what a gzip, bzip2 or xz file contains, or the file itself."""
    f.seek(0)
    head = f.read(1 << 16)
    f.seek(0)
    if head.startswith(b"\x1f\x8b"):
        import gzip

        return gzip.GzipFile(fileobj=f)  # type: ignore[return-value]
    if head.startswith(b"BZh"):
        import bz2

        return bz2.BZ2File(f)
    if head.startswith((b"\xfd7zXZ", b"\x5d\0\0")):
        import lzma

        lzma.LZMADecompressor(memlimit=XZ_MEMORY).decompress(head, 1)  # refuses a larger window
        return lzma.LZMAFile(f)
    return f


class Plain:
    """A file as it is."""

    broken = ""

    def __init__(self, path: str, fd: int) -> None:
        self.path, self.fd = path, fd

    def pread(self, n: int, at: int) -> bytes:
        """Return n bytes at an offset, fewer at the end."""
        return os.pread(self.fd, n, at) if at < MOST_LENGTH else b""

    def __del__(self) -> None:
        os.close(self.fd)


class Packed(Plain):
    """A compressed file. What was unpacked is in a temporary file without a name, zeros as holes.

    broken: why its end could not be unpacked, "" if it could.
    """

    program: Any = None

    def __init__(self, path: str, fd: int, head: bytes) -> None:
        import tempfile

        where = os.environ.get("TMPDIR") or "/var/tmp"
        copy, name = tempfile.mkstemp(dir=where if os.path.isdir(where) else None)
        os.unlink(name)
        super().__init__(path, copy)
        self.end, self.whole = 0, False
        st = os.fstatvfs(copy)
        self.left = min(MOST_WRITTEN, st.f_bavail * st.f_frsize // 2)
        packer = next((p for magic, p in PROGRAMS.items() if head.startswith(magic)), "")
        self.f = self._by_program(packer, fd) if packer else unpacked(io.BufferedReader(File(fd)))

    def _by_program(self, name: str, fd: int) -> IO[bytes]:
        import shutil
        import subprocess

        if not (program := shutil.which(name)):
            os.close(fd)
            what = f"{self.path} is compressed with {name}"
            fix = f"install the package {name}, or unpack it elsewhere"
            raise EalError(2, "read", what, found=f"no program {name} here", fix=fix)
        os.lseek(fd, 0, os.SEEK_SET)
        self.program = subprocess.Popen(
            [program, "-dcq"], stdin=fd, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )
        os.close(fd)
        assert self.program.stdout
        return self.program.stdout  # type: ignore[no-any-return]

    def pread(self, n: int, at: int) -> bytes:
        """Return n bytes at an offset, fewer at the end. Raises OSError beyond the limits."""
        while self.end < at + n and not self.whole:
            self._more()
        return os.pread(self.fd, max(min(n, self.end - at), 0), at)

    def _more(self) -> None:
        if self.end >= MOST_UNPACKED or self.left <= 0:
            most = f"{MOST_UNPACKED >> 30} GB, {MOST_WRITTEN >> 30} GB of them not zero"
            text = f"expected at most {most}, and twice the room in the temporary directory"
            raise OSError(EFBIG, text, self.path)
        try:
            data = self.f.read(STEP)
        except Exception as e:  # decoders raise what they like for bad bytes
            data, self.broken = b"", str(e)
        if not data:
            self.whole = True
            if self.program and self.program.wait():
                self.broken = self.broken or f"{self.program.args[0]} ended with an error"
            os.ftruncate(self.fd, self.end)
        elif data.count(0) != len(data):
            self.left -= os.pwrite(self.fd, data, self.end)
        self.end += len(data)
        if data:
            os.ftruncate(self.fd, self.end)

    def __del__(self) -> None:
        super().__del__()
        if self.program:
            self.program.kill()
            self.program.wait()
            self.program.stdout.close()


def open_large(path: str) -> Plain:
    """Open a file that the user named, links followed. Raises OSError, EalError(ENOENT)."""
    fd = files.open_untrusted(os.path.realpath(path), MOST_LENGTH)
    head = os.pread(fd, 8, 0)
    return Packed(path, fd, head) if head.startswith(HEADS) else Plain(path, fd)
