"""The files of pages in a hugetlbfs: their names, their holders, their content."""

from __future__ import annotations

import os
import re
from errno import EFAULT

from pyeal import files
from pyeal.look.process import inside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyeal.look.runtime_dir import RuntimeDir
    from pyeal.look.snapshot import Snapshot


NAME = re.compile(r"(.+)map_(\d+)(?:_(\d+))?$")  # prefix, number, segment
MOST_BYTES = 1 << 47  # of a page file: a list of a single-file start


class PageFile:
    """A page's file in a hugepage directory; holders: [(lock mode, pid)].

    stat is called when it is first needed: of thousands of files few are asked for more.
    """

    __slots__ = ("entry", "holders", "name")

    def __init__(self, entry: os.DirEntry[str], holders: list[tuple[str, int]]) -> None:
        self.entry, self.name, self.holders = entry, entry.name, holders

    @property
    def prefix(self) -> str:
        return self.name.rpartition("map_")[0]

    @property
    def uid(self) -> int:
        return self._stat()[0]

    @property
    def size(self) -> int:
        return self._stat()[1]

    @property
    def pages_bytes(self) -> int:
        return self._stat()[2]

    def _stat(self) -> tuple[int, int, int]:
        """Return (owner, size, bytes of its pages); (-1, 0, 0) if it is gone meanwhile."""
        try:
            st = self.entry.stat(follow_symlinks=False)
        except FileNotFoundError:
            return -1, 0, 0
        return st.st_uid, st.st_size, st.st_blocks * 512


class PageFileMemory:
    """The memory of an EAL whose processes are gone, read from its page files."""

    def __init__(self, snapshot: Snapshot, directory: RuntimeDir) -> None:
        self.snapshot, self.directory = snapshot, directory
        self.files: dict[str, int] = {}

    def close(self) -> None:
        while self.files:
            os.close(self.files.popitem()[1])

    def at(self, va: int, n: int) -> bytes:
        found = self.snapshot.find(va)
        where = found and self.snapshot.page_file(self.directory.prefix, *found)
        if not found or not where:
            raise OSError(EFAULT, "it is in no page file", hex(va))
        ml, seg = found
        path, offset = where
        if path not in self.files:
            self.files[path] = files.open_untrusted(inside(self.directory.root, path), MOST_BYTES)
        data = os.pread(self.files[path], n, offset + va - ml["base_va"] - seg * ml["page_sz"])
        if len(data) != n:
            raise OSError(EFAULT, f"expected {n} bytes at {va:#x}, found {len(data)}", path)
        return data
