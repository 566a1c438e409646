"""`config`, the file of rte_mem_config: create it, and tell whether a primary has it.

linux/eal.c: rte_eal_config_create; common/eal_common_mcfg.c
"""

from __future__ import annotations

import fcntl
import os
from errno import ENODEV

from . import files, layout, libc
from .errors import CLOSED, EalError
from .fbarray import retire
from .libc import MAP_FIXED, MAP_SHARED, PAGE, PROT_RW
from .vaspace import VaSpace, align

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from .releases import Release

SIZE = align(layout.CONFIG_SIZE, PAGE)  # bytes of its mapping

# POSIX locks do not exclude within a process, and closing any descriptor of a file drops them: a
# second EAL of this process must not even open a config that a primary of this process has locked.
_ours: dict[tuple[int, int], int] = {}  # and that process: a child by fork has none


def refused(what: str, **fields: str) -> EalError:
    """Returns an error of this stage; EAL leaves errno alone here."""
    return EalError(0, "config", what, **fields)


def is_ours(path: str) -> bool:
    """Returns whether a primary of this very process has that config locked."""
    try:
        st = os.stat(path)
    except FileNotFoundError:
        return False
    return _ours.get((st.st_dev, st.st_ino)) == os.getpid()


def has_primary(path: str, release: Release) -> bool:
    """Returns whether a live primary has that config locked. linux/eal.c: eal_proc_type_detect"""
    if is_ours(path):
        return True
    try:
        fd = files.open_shared(path, os.O_RDWR)
    except OSError:
        return False
    with files.closing(fd):
        try:
            return not _lock(fd, layout.config(release.family).memsegs)
        except OSError:
            return True


def _lock(fd: int, memsegs: Any) -> bool:
    """Locks those bytes of config, which marks a live primary; returns whether they were free."""
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, memsegs.size, memsegs.offset)
    except (BlockingIOError, PermissionError):
        return False
    return True


# --- a primary's ----------------------------------------------------------------------------------


class Config:
    """A primary's rte_mem_config in private memory (--no-shconf); `c` is the structure."""

    va = 0  # of the mapping, if there is one
    _inode = 0, 0

    def __init__(self, release: Release) -> None:
        self.c: Any = layout.config(release.family)()

    def complete(self) -> None:
        """Writes the last word: secondaries may attach from now on. eal_mcfg_complete"""
        self.c.magic = layout.MAGIC

    def unmap(self) -> None:
        """Unmaps it at once: no caller of a start that failed has a view of it."""

    def close(self) -> None:
        """Unmaps it and drops the lock; the file stays."""


class SharedConfig(Config):
    """A primary's rte_mem_config in its file, of which it holds a lock all its life."""

    def __init__(self, path: str, release: Release, space: VaSpace, base: int) -> None:
        kind = layout.config(release.family)
        self.fd, made, self.c = -1, False, None
        try:
            self._open(path, kind.memsegs)
            _spare_survivors(f"{os.path.dirname(path)}/fbarray_memzone")
            made = True
            os.ftruncate(self.fd, layout.CONFIG_SIZE)
            files.write_all(self.fd, bytes(layout.CONFIG_SIZE), 0)
            self.va = reserve(space, base)
            libc.mmap(self.va, SIZE, PROT_RW, MAP_SHARED | MAP_FIXED, self.fd)
        except (OSError, EalError) as e:
            if made:  # and no secondary of an earlier primary needs it
                files.discard(path)
            self.close()
            if isinstance(e, EalError):
                raise
            raise refused(f"Cannot open '{path}' for rte_mem_config: {e}") from None
        self.c = kind.from_address(self.va)
        self.c.mem_cfg_addr = self.va

    def _open(self, path: str, memsegs: Any) -> None:
        if not is_ours(path):
            self.fd = files.open_shared(path, os.O_RDWR | os.O_CREAT)
            if _lock(self.fd, memsegs):
                st = os.fstat(self.fd)
                self._inode = st.st_dev, st.st_ino
                _ours[self._inode] = os.getpid()
                return
        what = f"Cannot create lock on '{path}'. Is another primary process running?"
        fix = "choose another --file-prefix, or --proc-type=secondary to join it"
        raise refused(what, fix=fix, reason="primary-exists")

    def unmap(self) -> None:
        if self.va:
            libc.munmap(self.va, SIZE)
        self.va, self.c = 0, CLOSED

    def close(self) -> None:
        if self.va and self.c:
            retire(self.va, SIZE, self.c)
            self.va = 0
        self.unmap()
        if self.fd >= 0:
            _ours.pop(self._inode, None)
            os.close(self.fd)
        self.fd = -1


def reserve(space: VaSpace, base: int) -> int:
    """Returns the address of config: right before --base-virtaddr, else at the cursor."""
    return space.reserve(SIZE, addr=(base - layout.CONFIG_SIZE & -PAGE) if base else 0)


def _spare_survivors(path: str) -> None:
    """Refuses to overwrite what secondaries of a dead primary still map.

    They hold shared locks on its arrays. EAL overwrites config first and fails at the arrays then;
    the error is the one that it reports. EalError(ENODEV)
    """
    try:
        fd = files.open_shared(path, os.O_RDONLY)
    except OSError:
        return
    with files.closing(fd):
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            what, found = f"couldn't lock {path}", "secondaries of a dead primary that still map it"
            fix, reason = "end them first, or choose another --file-prefix", "survivors"
            e = EalError(ENODEV, "memzone", what, found=found, fix=fix, reason=reason)
            raise e.within("Cannot init memzone") from None
