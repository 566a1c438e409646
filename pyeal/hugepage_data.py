"""`hugepage_data`: a record for each page of legacy memory, by which secondaries map it."""

from __future__ import annotations

import os
from errno import ENOMEM
from struct import Struct

from . import files
from .errors import EalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

RECORD = 4136
PATH = 4096
HEAD = RECORD - PATH
_HEAD = "=QQQQii"  # first VA, final VA, physical address, size, node, file id; then the path
_BATCH = 512  # records a call: two pieces each, and the kernel takes 1024
_READ = 64 * RECORD  # bytes a call
_SHORT = 256  # bytes, which nearly all paths have


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
    pack = Struct(_HEAD).pack
    fd = -1
    try:
        fd = files.open_shared(path, os.O_RDWR | os.O_CREAT)
        os.ftruncate(fd, 0)
        if records:
            os.posix_fallocate(fd, 0, records * RECORD)
        rest, zeros = dict[int, memoryview](), memoryview(bytes(PATH))
        for at in range(0, len(pages), _BATCH):
            pieces: list[bytes | memoryview] = []
            some = pages[at : at + _BATCH]
            names = os.fsencode("\0".join([p.path for p in some])).split(b"\0")
            for p, name in zip(some, names, strict=True):
                if (n := len(name)) not in rest:
                    rest[n] = zeros[n:]
                head = pack(0, p.final_va, p.physaddr, p.size, p.node, p.file_id)
                pieces += head + name, rest[n]
            os.pwritev(fd, pieces, at * RECORD)
    except OSError as e:
        if fd >= 0:
            os.unlink(path)
        raise EalError(
            ENOMEM,
            "pages",
            "Failed to create shared memory!",
            expected=f"{records * RECORD} bytes for {path}",
            found=e.strerror or "",
            fix="make room there, or start with --no-shconf",
        ) from None
    finally:
        if fd >= 0:
            os.close(fd)


def read(path: str) -> Iterator[tuple[int, int, int, str]]:
    """(address, size, file id, path) of the records up to the first of size 0.

    ValueError for a file that is not a whole number of records.
    """
    fd = files.open_shared(path, os.O_RDONLY)
    try:
        if (length := os.fstat(fd).st_size) % RECORD:
            raise ValueError(f"{path}: records of {RECORD} bytes wanted, {length} bytes found")
        data, records = bytearray(_READ), Struct(f"=8xQ8xQ4xi{_SHORT}s{PATH - _SHORT}x").iter_unpack
        while got := os.readv(fd, [data]):
            whole = memoryview(data)[: got - got % RECORD]
            vas, sizes, ids, fields = zip(*records(whole), strict=True) if whole else [()] * 4
            names = [field.partition(b"\0")[0] for field in fields]
            for i in (i for i, name in enumerate(names) if len(name) == _SHORT):
                names[i] = bytes(whole[i * RECORD + HEAD : (i + 1) * RECORD]).partition(b"\0")[0]
            paths = os.fsdecode(b"\0".join(names)).split("\0")
            used = sizes.index(0) if 0 in sizes else len(sizes)
            yield from zip(vas[:used], sizes, ids, paths, strict=False)
            if used < len(sizes):
                return
    finally:
        os.close(fd)
