"""hugepage_data: a record for each page of legacy memory, by which secondaries map them."""

from __future__ import annotations

import os

from . import layout

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

RECORD = 4136
PATH = 4096
_HEAD = "=QQQQii"  # first VA, final VA, physical address, size, node, file id; then the path
_BATCH = 512  # records a call: two pieces each, and the kernel takes 1024


class Page:
    """A page as legacy mode knows it: addresses and size in bytes, fd -1 when closed."""

    __slots__ = ("fd", "file_id", "final_va", "node", "orig_va", "path", "physaddr", "size")

    def __init__(self, path: str, file_id: int, size: int, orig_va: int, fd: int) -> None:
        self.path, self.file_id, self.size, self.orig_va, self.fd = path, file_id, size, orig_va, fd
        self.final_va = self.physaddr = self.node = 0


def write(path: str, pages: list[Page], records: int) -> None:
    """Writes the pages' records from the first on; the file has room for `records`, zeroed.

    linux/eal_memory.c: create_shared_memory, copy_hugepages_to_shared_mem, remap_segment
    """
    from struct import Struct

    pack = Struct(_HEAD).pack
    fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.ftruncate(fd, 0)
        os.ftruncate(fd, records * RECORD)
        zeros = memoryview(bytes(PATH))
        for at in range(0, len(pages), _BATCH):
            pieces: list[bytes | memoryview] = []
            for p in pages[at : at + _BATCH]:
                name = os.fsencode(p.path)
                pieces += (
                    pack(0, p.final_va, p.physaddr, p.size, p.node, p.file_id) + name,
                    zeros[len(name) :],
                )
            os.pwritev(fd, pieces, at * RECORD)
    finally:
        os.close(fd)


def read(path: str) -> Iterator[layout.HugepageFile]:
    """The records up to the first of size 0, as views onto a private copy.

    ValueError for a file that is not a whole number of records.
    """
    with open(path, "rb") as f:
        data = bytearray(f.read())
    if len(data) % RECORD:
        raise ValueError(f"{path}: records of {RECORD} bytes wanted, {len(data)} bytes found")
    for at in range(0, len(data), RECORD):
        record = layout.HugepageFile.from_buffer(data, at)
        if not record.size:
            return
        yield record
