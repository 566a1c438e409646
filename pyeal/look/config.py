"""`config` of a foreign EAL: decode it, find it in a process's memory, find its primary."""

from __future__ import annotations

import os

from pyeal import config, layout, releases
from pyeal.look.locks import lock_holder
from pyeal.look.sources import Folder, NotYet, ProcessMemory, Unreadable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyeal.releases import Release


class HeldConfig(config.Copy):
    """The config of a runtime directory, and the primary that holds it.

    alive: whether a process holds its lock, as a primary does all its life.
    owner: that primary's pid, 0 if it cannot be seen; modified: seconds since the epoch.
    """

    def __init__(self, folder: Folder) -> None:
        fd = folder.open("config", config.LIMIT)
        try:
            super().__init__(os.pread(fd, layout.CONFIG_SIZE, 0))
            self.alive, self.owner = lock_holder(fd)
            self.modified = os.fstat(fd).st_mtime
        finally:
            os.close(fd)


def find_config(memory: ProcessMemory, areas: list[tuple[int, int]]) -> int:
    """Return the address of `rte_mem_config` in a process that shares nothing, 0 without one."""
    word, step = layout.MAGIC.to_bytes(4, "little"), 4 << 20
    for start, end in areas:
        for at in range(start, end, step):
            try:
                data = os.pread(memory.fd, min(step, end - at) + layout.CONFIG_SIZE, at)
            except OSError:
                break
            i = data.find(word)
            while i >= 0:
                if i % 8 == 0 and _looks_like_config(data[i : i + layout.CONFIG_SIZE]):
                    return at + i
                i = data.find(word, i + 1)
    return 0


def _looks_like_config(data: bytes) -> bool:
    if len(data) < layout.CONFIG_SIZE or data[4] > 99:  # a release; candidates have less
        return False
    try:
        c = config_of(data)[0]
    except Unreadable:
        return False
    return bool(c.memzones.name == b"memzone" and c.memzones.elt_sz == 72)


def config_of(data: bytes) -> tuple[Any, Release]:
    """Return (a copy of rte_mem_config, its release) by the version word at offset 4.

    Raises NotYet before the word is written, Unreadable for anything else.
    """
    if len(data) < layout.CONFIG_SIZE:
        raise NotYet("config", f"{layout.CONFIG_SIZE} bytes", f"{len(data)}")
    word = int.from_bytes(data[4:8], "little")
    if not word:
        raise NotYet("config: no version word yet: its primary is at the very start, or died there")
    release = release_of(word)
    return layout.config(release.family).from_buffer_copy(data), release


def release_of(word: int) -> Release:
    """Return the release of a version word; an unknown release is like the nearest older one.

    Its `note` says so. Raises Unreadable for a word that is of no release.
    """
    try:
        return releases.nearest(word)
    except ValueError:
        text = f"config: version word {word:#x} ({releases.name_of(word)})"
        raise Unreadable(text, f"{releases.SPAN.replace('..', 'to')} or later") from None
