"""The `config` of a primary as other processes find it: wait for it, attach to it, decode a copy.

linux/eal.c: rte_eal_config_attach, rte_eal_config_reattach
"""

from __future__ import annotations

import os
import time

from . import builds, files, layout, libc, releases
from .config import SIZE, is_ours, refused
from .errors import CLOSED
from .fbarray import retire
from .libc import MAP_SHARED, PROT_RW
from .pauses import signals_allowed
from .peers import change
from .vaspace import align, mappings, what_lies_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .releases import Release

MP_DISABLED, MP_ENABLED = 1, 2
LIMIT = 1 << 20  # bytes of a file that can be one: EAL has made them a little larger before


def find_release(path: str, timeout: float, wanted: Release | None) -> Release:
    """Waits for a primary's config to be complete and returns the primary's release.

    EalError(0): there is no config, it stays incomplete, or its version is not the wanted one.
    """
    try:
        for level in (os.path.dirname(os.path.dirname(path)), os.path.dirname(path)):
            files.check_directory(level)
        fd = files.open_shared(path, os.O_RDONLY)
    except OSError as e:
        what = f"Cannot open '{path}' for rte_mem_config: {e.filename}: {e.strerror}"
        fix = "start a primary with this --file-prefix first"
        raise refused(what, fix=fix, reason="no-primary") from None
    with files.closing(fd):
        deadline, pause = time.monotonic() + timeout, 0.001
        while not (copy := Copy(os.pread(fd, 8, 0))).complete:
            if time.monotonic() > deadline:
                what = f"the primary of '{path}' has not finished its start within {timeout:g} s"
                sides = {"expected": f"magic {layout.MAGIC:#x}", "found": f"{copy.magic:#x}"}
                fix = "end the primary if it hangs; if it is dead, start another one"
                raise refused(what, **sides, fix=fix, reason="incomplete")
            with signals_allowed():
                time.sleep(pause)
            pause = min(pause * 2, 0.1)
    found, fix = copy.release, ""
    if found and found.read_as and not wanted:  # a secondary writes: no guess without consent
        copy.unknown, fix, found = found.note, f"--as {found.name} attaches to it", None
    if found is None or (wanted and wanted.word != copy.word):
        where = f"{found.name if found else copy.unknown} in '{path}'"
        sides = {"expected": wanted.name if wanted else "a known release", "found": where}
        what = "Primary and secondary process DPDK version mismatch"
        raise refused(what, **sides, fix=fix, reason="version")
    return found


class AttachedConfig:
    """A primary's config, mapped at the primary's address. rte_eal_config_reattach"""

    flags, prot = os.O_RDWR, PROT_RW

    def __init__(self, path: str, release: Release) -> None:
        kind = layout.config(release.family)
        if is_ours(path):
            what = f"Cannot attach to '{path}': its primary is this process"
            raise refused(what, fix="attach from another process", reason="own-primary")
        with files.closing(files.open_shared(path, self.flags)) as fd:
            if os.fstat(fd).st_size != layout.CONFIG_SIZE:
                builds.check(path, os.pread(fd, LIMIT, 0))
            at = int.from_bytes(os.pread(fd, 8, kind.mem_cfg_addr.offset), "little")
            self.va = libc.mmap(at, SIZE, self.prot, MAP_SHARED, fd)
        self.c = kind.from_address(self.va)
        if self.va != at:
            end = max(m.base_va + m.len for m in self.c.memsegs)
            got, fits = self.va, free_base(max(end, at) - at)
            self.close()
            what = f"Cannot mmap memory for rte_config at [{at:#x}], got [{got:#x}]"
            what += " - please use '--base-virtaddr' option"
            found = f"that {what_lies_at(at, layout.CONFIG_SIZE)} in this process"
            fix = f"start the primary with --base-virtaddr={fits:#x}, which fits this process"
            raise refused(what, found=found, fix=fix, reason="address-taken")

    def join(self) -> None:
        """Records that there is a secondary. EalError if the primary accepts none."""

        def enabled(word: int) -> int | None:  # the status is the lowest byte of the word
            if word & 0xFF == MP_DISABLED:
                what = "Primary process refused secondary attachment"
                raise refused(what, reason="secondaries-refused")
            return None if word & 0xFF == MP_ENABLED else word & ~0xFF | MP_ENABLED

        change(self.va + type(self.c).mp_status.offset, enabled)

    def unmap(self) -> None:
        """Unmaps it at once: no caller of a start that failed has a view of it."""
        if self.va:
            libc.munmap(self.va, SIZE)
        self.va, self.c = 0, CLOSED

    def close(self) -> None:
        if self.va:
            retire(self.va, SIZE, self.c)
        self.va, self.c = 0, CLOSED


def free_base(length: int, step: int = 16 << 20, proc: str = "/proc") -> int:
    """Returns an address for --base-virtaddr with length bytes free behind it, 0 if none."""
    at = layout.BASE
    for start, end, _ in mappings(proc):
        if start - at >= length:
            return at
        at = max(at, align(end, step))
    return 0


class Copy:
    """The content of a config file: `magic`, `word` (the version), the release, or the nearest.

    c: a copy of the structure; None if `word` is of no release, the content is too short, or a
    build with other limits wrote it. abi: the facts of the build that wrote it, None without c.
    unknown: what is said about such a word or build.
    """

    def __init__(self, data: bytes) -> None:
        head = data[:8].ljust(8, b"\0")
        self.magic, self.word = (int.from_bytes(head[i : i + 4], "little") for i in (0, 4))
        self.release: Release | None = None
        self.abi: layout.Abi | None = None
        self.c: Any = None
        self.unknown = ""
        try:
            self.release = releases.nearest(self.word)
            if len(data) > len(head):
                self.abi = builds.of_config(data)
            if self.abi:  # None if there are too few bytes
                self.c = layout.config(self.release.family, self.abi).from_buffer_copy(data)
        except ValueError as e:  # no release has that word, or its build has other limits
            self.unknown = str(e)

    @property
    def complete(self) -> bool:
        """Whether the primary has finished its start."""
        return self.magic == layout.MAGIC


def read(path: str, dir_fd: int | None = None) -> Copy:
    """Decodes a config that any user may have made. Raises OSError.

    dir_fd: the descriptor of the directory that a relative path begins in.
    """
    return Copy(files.read_untrusted(path, LIMIT, dir_fd))
