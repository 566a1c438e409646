"""`config` of a foreign EAL: decode it, find it in a process's memory, find its primary."""

from __future__ import annotations

import os
import re
from ctypes import sizeof

from pyeal import attached, builds, layout, releases
from pyeal.look.locks import lock_holder
from pyeal.look.sources import Folder, Memory, NotYet, Unreadable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyeal.releases import Release


class HeldConfig(attached.Copy):
    """The config of a runtime directory, and the primary that holds it.

    alive: whether a process holds its lock, as a primary does all its life.
    owner: that primary's pid, 0 if it cannot be seen; modified: seconds since the epoch.
    """

    def __init__(self, folder: Folder) -> None:
        fd = folder.open("config", attached.LIMIT)
        try:
            super().__init__(os.pread(fd, attached.LIMIT, 0))
            self.alive, self.owner = lock_holder(fd)
            self.modified = os.fstat(fd).st_mtime
        finally:
            os.close(fd)


MOST = max(layout.CONFIG_SIZES.values())  # bytes of a usual build


def find_config(memory: Memory, areas: list[tuple[int, int]]) -> tuple[int, int]:
    """Return (address, size) of `rte_mem_config` in these areas of a process, or (0, 0)."""
    word, step = layout.MAGIC.to_bytes(4, "little"), 4 << 20
    for start, end in areas:
        for at in range(start, end, step):
            try:
                data = memory.some(at, min(step, end - at) + MOST)
            except OSError:
                break
            i = data.find(word)
            while i >= 0:
                if i % 8 == 0 and (size := _size_of_config(data[i : i + MOST])):
                    return at + i, size
                i = data.find(word, i + 1)
    return 0, 0


def _size_of_config(data: bytes) -> int:
    """Return the size of the config with which these bytes of a process begin, 0 without one.

    Its heaps are there before its magic is; a process has no end of file that could tell more.
    """
    abi = builds.of_config(data, is_file=False)
    if abi is None or data[4] > 99:  # a release; candidates have less
        return 0
    try:
        c, _, _ = config_of(data[: abi.config_size], abi)
    except Unreadable:
        return 0
    return abi.config_size if c.memzones.name == b"memzone" and c.memzones.elt_sz == 72 else 0


def build_of(data: bytes) -> layout.Abi:
    """Return the facts of the build that wrote this config.

    Raises NotYet for a config that is cut off, Unreadable for a build with other limits.
    """
    try:
        abi = builds.of_config(data)
    except builds.OtherLimits as e:
        raise Unreadable(str(e)) from None
    if abi is None:
        sizes = sorted(layout.CONFIG_SIZES.values())
        most = next((n for n in sizes if n > len(data)), sizes[0])
        # a primary gives the file its size before it writes the first byte
        short = Unreadable if any(data) else NotYet
        raise short("config", f"{most} bytes", f"{len(data)}")
    return abi


def config_of(data: bytes, abi: layout.Abi | None = None) -> tuple[Any, Release, layout.Abi]:
    """Return (a copy of rte_mem_config, its release, its build) by the version word at offset 4.

    Raises NotYet before the word is written, Unreadable for anything else.
    """
    if len(data) < 8:
        short = Unreadable if any(data) else NotYet
        raise short("config", f"{layout.CONFIG_SIZE} bytes", f"{len(data)}")
    word = int.from_bytes(data[4:8], "little")
    abi = abi or build_of(data)
    if len(data) < abi.config_size:
        raise NotYet("config", f"{abi.config_size} bytes", f"{len(data)}")
    if not word:
        raise NotYet("config: no version word yet: its primary is at the very start, or died there")
    release = release_of(word)
    family = max("ABC", key=lambda f: (_names(data, f, abi), f == release.family))
    if family != release.family:
        release = _with_layout(release, family)
    return layout.config(family, abi).from_buffer_copy(data), release, abi


_QUEUE = re.compile(rb"[ -~]+\0+\Z")  # a whole field of a name


def _names(data: bytes, family: str, abi: layout.Abi) -> int:
    """Return how many names are where this layout has them: the zones' array, the tail queues."""
    kind, names = layout.config(family, abi), layout.tailq_head().name
    at = kind.memzones.offset + layout.Fbarray.name.offset
    first, each = kind.tailq_head.offset + names.offset, sizeof(layout.tailq_head())
    found = (data[i : i + names.size] for i in range(first, first + layout.MAX_TAILQ * each, each))
    queues = sum(bool(_QUEUE.match(name)) for name in found)
    return queues + 2 * layout.MAX_TAILQ * data.startswith(b"memzone\0", at)


def _with_layout(release: Release, family: str) -> Release:
    """Return the release with the facts of the nearest release of this layout, older ones first.

    A fork, or a candidate from before the layout changed, has the version word of another layout.
    """
    lines = sorted(name[:5] for name in (*releases.TESTED, *releases.BETWEEN))
    fit = [line for line in lines if releases.get(line).family == family]
    line = next((n for n in reversed(fit) if n <= release.line), fit[0])
    facts = dict(vars(releases.get(line)))
    for own in ("name", "word", "read_as"):
        del facts[own]
    return releases.Release(release.name, facts, line)


def release_of(word: int) -> Release:
    """Return the release of a version word; an unknown release is like the nearest older one.

    Its `note` says so. Raises Unreadable for a word that is of no release.
    """
    try:
        return releases.nearest(word)
    except ValueError:
        text = f"config: version word {word:#x} ({releases.name_of(word)})"
        raise Unreadable(text, f"{releases.SPAN.replace('..', 'to')} or later") from None
