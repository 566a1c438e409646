"""Members of zip and tar files that anyone may have made: their number, size and depth are limited.

Limits are compared before anything is unpacked: 2 MB can contain 2 GB of zeros.
"""

from __future__ import annotations

import io
import os
from errno import ENOENT
from functools import partial

from pyeal import attached, files
from pyeal.look.packed import File, unpacked
from pyeal.look.sources import Unreadable, array_file

TYPE_CHECKING = False
if TYPE_CHECKING:
    import tarfile
    import zipfile
    from collections.abc import Callable, Iterator
    from typing import IO

    from pyeal import layout

MOST_UNPACKED = 1 << 30  # bytes of an archive, packed or unpacked
MOST_MEMBERS = 50_000
MOST_MEMBER = 32 << 20  # bytes of a member that is read
MOST_DEPTH = 32  # folders above a member
MOST_DIRECTORY = 8 << 20  # bytes of the list of members that a zip file has
MOST_READ = 1 << 20  # bytes that are read at once: a header of a tar file, a piece of a member


def _refuse(path: str, most: str, found: str) -> Unreadable:
    return Unreadable(path, f"an archive of at most {most}", found)


def members(path: str) -> dict[str, Callable[[], bytes]]:
    """Return {name without ./: a function that reads it} of a tar or zip file.

    Raises Unreadable if it is neither, or exceeds a limit; OSError.
    """
    import zipfile

    f = io.BufferedReader(File(files.open_untrusted(os.path.realpath(path), MOST_UNPACKED)))
    found: dict[str, Callable[[], bytes]] = {}
    try:
        reader = _zip(path, f) if zipfile.is_zipfile(f) else _tar(path, f)
        unpacked = 0
        for name, size, read in reader:
            unpacked += size
            if unpacked > MOST_UNPACKED:
                raise _refuse(path, f"{MOST_UNPACKED >> 20} MB unpacked", f"{unpacked} bytes")
            if len(found) >= MOST_MEMBERS:
                raise _refuse(path, f"{MOST_MEMBERS:,} members", "more")
            if name.count("/") > MOST_DEPTH:
                raise _refuse(path, f"{MOST_DEPTH} folders above a member", f"{name.count('/')}")
            if read:
                found[name.removeprefix("./")] = _limited(path, name, size, read)
    except Unreadable:
        f.close()
        raise
    except Exception as e:  # decoders of the library raise what they like for bad bytes
        f.close()
        raise Unreadable(path, "a directory, a tar or a zip file", f"{e}") from None
    return found


def _limited(path: str, name: str, size: int, read: Callable[[], bytes]) -> Callable[[], bytes]:
    """Return a function that reads a member, and raises Unreadable if it is too large or broken."""

    def take() -> bytes:
        limit = attached.LIMIT if name.rpartition("/")[2] == "config" else MOST_MEMBER
        if size > limit:
            most = f"a file of at most {limit >> 20} MB"
            raise Unreadable(f"{path}:{name}", most, f"{size} bytes")
        try:
            return read()
        except Unreadable:
            raise
        except Exception as e:
            raise Unreadable(f"{path}:{name}", "a member that can be unpacked", f"{e}") from None

    return take


def _zip(path: str, f: IO[bytes]) -> Iterator[tuple[str, int, Callable[[], bytes] | None]]:
    import zipfile

    size = f.seek(0, os.SEEK_END)
    f.seek(max(size - 65557, 0))  # the record at the end, with the longest comment
    tail = f.read()
    at = tail.rfind(b"PK\5\6")
    listed = int.from_bytes(tail[at + 12 : at + 16], "little")
    if listed > MOST_DIRECTORY or b"PK\6\7" in tail[max(at - 64, 0) : at]:
        raise _refuse(path, f"{MOST_MEMBERS:,} members", f"a list of {listed} bytes")
    z = zipfile.ZipFile(f)
    known = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2)

    def take(m: zipfile.ZipInfo) -> bytes:
        if m.compress_type not in known:
            raise Unreadable(f"{path}:{m.filename}", "deflate or bzip2", f"{m.compress_type}")
        with z.open(m) as member:
            return member.read(m.file_size)

    for m in z.infolist():
        yield m.filename, m.file_size, None if m.is_dir() else partial(take, m)


def _tar(path: str, f: IO[bytes]) -> Iterator[tuple[str, int, Callable[[], bytes] | None]]:
    import tarfile

    t = tarfile.open(fileobj=_Bounded(path, unpacked(f)), mode="r:")  # type: ignore[call-overload]

    def take(m: tarfile.TarInfo) -> bytes:
        member = t.extractfile(m)
        if member is None:
            return b""
        data = bytearray(m.size)
        at = 0
        while at < m.size and (piece := member.read(min(m.size - at, MOST_READ))):
            data[at : at + len(piece)] = piece
            at += len(piece)
        return bytes(memoryview(data)[:at])

    while m := t.next():
        # the data before a sparse member's end is not in the archive
        regular = m.isreg() and not m.issparse()
        yield m.name, m.size, partial(take, m) if regular else None
        t.members.clear()  # TarFile keeps each


class _Bounded:
    """A file whose single reads and whose whole length are limited.

    tarfile reads a header of whatever length the header says at once.
    """

    def __init__(self, path: str, f: IO[bytes]) -> None:
        self.path, self.f = path, f

    def read(self, n: int = -1) -> bytes:
        if not 0 <= n <= MOST_READ:
            raise _refuse(self.path, f"{MOST_READ >> 20} MB a header", f"{n} bytes")
        return self.f.read(n)

    def tell(self) -> int:
        return self.f.tell()

    def seek(self, at: int, whence: int = 0) -> int:
        if whence or at > MOST_UNPACKED:
            raise _refuse(self.path, f"{MOST_UNPACKED >> 20} MB unpacked", f"{at} bytes")
        return self.f.seek(at)


class Archive:
    """A runtime directory in a zip or tar file, compressed or not; inner: its path in there."""

    private = False

    def __init__(self, path: str, inner: str | None = None) -> None:
        self.path = path
        self.files = members(path)
        at = [n.rpartition("/")[0] for n in self.files if n.rpartition("/")[2] == "config"]
        if inner is None:
            inner = next(iter(at), "")
        self.inner = inner.strip("/")
        self.prefixes = at

    def names(self) -> list[str]:
        d = self.inner + "/" if self.inner else ""
        rest = (n[len(d) :] for n in self.files if n.startswith(d))
        return sorted(n for n in rest if n and "/" not in n)

    def read(self, name: str) -> bytes:
        name = f"{self.inner}/{name}".lstrip("/")
        if name not in self.files:
            raise FileNotFoundError(ENOENT, os.strerror(ENOENT), f"{self.path}:{name}")
        return self.files[name]()

    def array(self, desc: layout.Fbarray) -> bytes:
        return self.read(array_file(desc))

    def array_bytes(self, desc: layout.Fbarray) -> int:
        return len(self.array(desc))
