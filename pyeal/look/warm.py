"""What `pyeal warm` keeps for a start: its record in the runtime directory of the prefix.

The record names page files with inode and ctime, and their atime is that of 1970. EAL truncates
each page file that it takes to the size that the file has, which changes its ctime; and a process
that maps a file changes an atime that is older than the mtime. A file whose times are these holds
zeros, and is kept on purpose. eal_memalloc.c: alloc_seg, resize_hugefile_in_filesystem
"""

from __future__ import annotations

import os

from pyeal import files
from pyeal.look.process import inside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

RECORD = "pyeal_warm"  # a start removes fbarray_* and mp_socket_* there, and leaves all else
SCHEMA = "pyeal.warm-record/1"
LIMIT = 1 << 26
UNUSED = 0  # the atime of a file that no process has mapped, in nanoseconds
KEPT = "kept on purpose by pyeal warm, and zero; pyeal warm --drop returns it"


class WarmFile:
    """A page file that holds zeros: its path, its device and inode, and its ctime then.

    pages: how many pages of page_sz bytes it holds, all of that node.
    """

    __slots__ = ("ctime_ns", "dev", "inode", "node", "page_sz", "pages", "path")

    def __init__(
        self, path: str, dev: int, inode: int, ctime_ns: int, page_sz: int, node: int, pages: int
    ) -> None:
        self.path, self.dev, self.inode, self.ctime_ns = path, dev, inode, ctime_ns
        self.page_sz, self.node, self.pages = page_sz, node, pages

    def is_as_recorded(self, st: os.stat_result) -> bool:
        """Return whether no process has mapped the file since then."""
        same = (st.st_dev, st.st_ino, st.st_ctime_ns) == (self.dev, self.inode, self.ctime_ns)
        return same and st.st_atime_ns == UNUSED


class Warm:
    """A record: the release and mode of the start, and its files, {path: WarmFile}.

    uid: the owner of the record, whose files alone it can speak of.
    """

    def __init__(self, release: str, mode: str, kept: Iterable[WarmFile], uid: int = -1) -> None:
        self.release, self.mode, self.uid = release, mode, uid
        self.files = {f.path: f for f in kept}

    def write(self, directory: str) -> None:
        """Write the record into a runtime directory. Raises OSError."""
        import json

        rows = [[getattr(f, name) for name in FIELDS] for f in self.files.values()]
        facts = {"schema": SCHEMA, "release": self.release, "mode": self.mode, "files": rows}
        files.write_file(f"{directory}/{RECORD}", json.dumps(facts).encode())

    def clean(self, root: str = "") -> list[WarmFile]:
        """Return the files that are still as recorded; root: of the tree that the paths are in."""
        found, folders = [], {f.path.rpartition("/")[0] for f in self.files.values()}
        at = {folder: inside(root, folder) for folder in folders}
        for f in self.files.values():
            folder, _, name = f.path.rpartition("/")
            try:
                st = os.lstat(f"{at[folder]}/{name}")
            except OSError:
                continue
            if st.st_uid == self.uid and f.is_as_recorded(st):
                found.append(f)
        return found


FIELDS = "path", "dev", "inode", "ctime_ns", "page_sz", "node", "pages"


def read(directory: str) -> Warm | None:
    """Return the record of a runtime directory; None if it has none, or a damaged one."""
    try:
        fd = files.open_untrusted(f"{directory}/{RECORD}", LIMIT)
    except OSError:
        return None
    import json

    with files.closing(fd):
        uid, data = os.fstat(fd).st_uid, os.pread(fd, LIMIT, 0)
    try:
        facts = json.loads(data)
        if facts["schema"] != SCHEMA:
            return None
        rows = facts["files"]
        release, mode = facts["release"], facts["mode"]
        kinds = [str, *[int] * 6]
        whole = all(list(map(type, row)) == kinds and row[4] > 0 < row[6] for row in rows)
        if not whole or (type(release), type(mode)) != (str, str):
            return None
        return Warm(release, mode, [WarmFile(*row) for row in rows], uid)
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
