"""`hugepage_data`: a record for each page of legacy memory, by which secondaries map it."""

from __future__ import annotations

import os
from errno import ENOMEM, ENOSYS, EPERM
from struct import Struct

from . import files
from .errors import EalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

RECORD = 4136
PATH = 4096
_HEAD = Struct("=QQQQii")  # first VA, final VA, physical address, size, node, file id; the path
_BATCH = 512  # records a call: two pieces each, and the kernel takes 1024
_READ = 64 * RECORD  # bytes a call


class Page:
    """A page as legacy mode knows it: addresses and size in bytes, fd -1 when closed.

    preexisting: its file was there with a page before, left by --huge-unlink=never.
    """

    __slots__ = tuple("fd file_id final_va node orig_va path physaddr preexisting size".split())

    def __init__(self, path: str, file_id: int, size: int, orig_va: int, fd: int) -> None:
        self.path, self.file_id, self.size, self.orig_va, self.fd = path, file_id, size, orig_va, fd
        self.final_va = self.physaddr = self.node = 0
        self.preexisting = False

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
        self.fd = -1


def write(path: str, pages: list[Page], records: int) -> None:
    """Writes the pages' records from the first on, into a zeroed file for `records` of them.

    EalError(ENOMEM) if there is no room for all of them; the file is removed then.
    linux/eal_memory.c: create_shared_memory, copy_hugepages_to_shared_mem, remap_segment
    """
    fd, zeros = -1, memoryview(bytes(PATH))
    try:
        fd = files.open_shared(path, os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, 0)
        if records:
            _make_room(fd, records * RECORD)
        for at in range(0, len(pages), _BATCH):
            pieces: list[bytes | memoryview] = []
            for p in pages[at : at + _BATCH]:
                name = os.fsencode(p.path)
                head = _HEAD.pack(0, p.final_va, p.physaddr, p.size, p.node, p.file_id)
                pieces += head + name, zeros[len(name) :]
            os.pwritev(fd, pieces, at * RECORD)
    except OSError as e:
        if fd >= 0:
            os.unlink(path)
        what, room = "Failed to create shared memory!", f"{records * RECORD} bytes for {path}"
        fix, found = "make room there, or start with --no-shconf", e.strerror or ""
        raise EalError(ENOMEM, "pages", what, expected=room, found=found, fix=fix) from None
    finally:
        if fd >= 0:
            os.close(fd)


def records(data: bytes) -> Iterator[tuple[int, int, int, int, int, int, str]]:
    """The words of the records up to the first of size 0, in the file's order, and their paths."""
    for at in range(0, len(data) - RECORD + 1, RECORD):
        words, path = _HEAD.unpack_from(data, at), at + _HEAD.size
        if not words[3]:
            return
        end = data.find(b"\0", path, at + RECORD)
        yield *words, os.fsdecode(data[path : at + RECORD if end < 0 else end])


def read(path: str) -> Iterator[tuple[int, int, int, str]]:
    """(address, size, file id, path) of the records up to the first of size 0.

    ValueError for a file that is not a whole number of records.
    """
    with files.closing(files.open_shared(path, os.O_RDONLY)) as fd:
        if (length := os.fstat(fd).st_size) % RECORD:
            raise ValueError(f"{path}: records of {RECORD} bytes wanted, {length} bytes found")
        while data := os.read(fd, _READ):
            found = [*records(data)]
            yield from [(va, size, number, name) for _, va, _, size, _, number, name in found]
            if len(found) * RECORD < len(data):
                return


def _make_room(fd: int, n: int) -> None:
    """Gives a file n bytes of zeros that it keeps. Raises OSError(ENOSPC)."""
    try:
        os.posix_fallocate(fd, 0, n)
    except OSError as e:
        if e.errno not in (EPERM, ENOSYS):  # a filter forbids it
            raise
        files.write_all(fd, bytes(n), 0)
