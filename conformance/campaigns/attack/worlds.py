"""Runtime directories of real and of small EALs, as files in a folder, for tools to look at."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import os
from collections.abc import Iterator
from ctypes import string_at
from pathlib import Path
from typing import Any

from conformance.campaigns.fuzz import small
from conformance.campaigns.fuzz.attach import PREFIX, WorkFolder
from conformance.harness import recordings
from pyeal import layout
from pyeal.fbarray import file_size
from pyeal.look import machine

HEAPS = "20.11.10", "22.11.11", "26.07"  # a release of each family of layouts


def names() -> list[str]:
    """Return every recording of x86-64 and of other builds, and a small EAL of each layout."""
    found = sorted(
        f"{folder.name}/{p.name}"
        for folder in (recordings.FOLDER, recordings.OTHER_BUILDS)
        for p in folder.glob("*.zip")
    )
    return [*found, *(f"heap/{release}" for release in HEAPS)]


@functools.cache
def files(name: str, hugedir: str) -> dict[str, bytes]:
    """Return {path: content} of an EAL: run/ is its runtime directory, huge/ its pages."""
    folder, _, inner = name.partition("/")
    if folder == "heap":
        return _small(inner, hugedir)
    _, content = recordings.read(recordings.FOLDER.parent / name)
    return {f"run/{file}": data for file, data in content.items()}


def _small(release: str, hugedir: str) -> dict[str, bytes]:
    """Return an EAL of 64 pages of 64 kB with a heap of several areas, as a dead primary's."""
    words = small.Words()
    eal = words.small(release)
    try:
        words.lay(eal)
        info = layout.hugepage_info(eal.release.numa_nodes_max)
        records = (info * layout.MAX_HUGEPAGE_SIZES)()
        records[0].hugepage_sz, records[0].hugedir = small.PAGE, os.fsencode(hugedir)
        eal.config.magic, eal.config.version = layout.MAGIC, eal.release.word
        eal.config.mem_cfg_addr = eal.va
        (msl,) = eal.lists
        found = {"run/config": bytes(eal.config), "run/hugepage_info": bytes(records)}
        found[f"run/fbarray_{msl.name}"] = string_at(msl.arr.desc.data, file_size(msl.n_segs, 48))
        head = eal.release.page_file[0].format(prefix=PREFIX, list=0)
        for i in range(msl.n_segs):
            if msl.arr.is_used(i):
                found[f"huge/{head}{i}"] = string_at(msl.va(i), small.PAGE)
        return found
    finally:
        eal.close()
        words.tmp.cleanup()


def put(folder: Path, content: dict[str, bytes]) -> None:
    """Write files into a folder."""
    for path, data in content.items():
        (folder / path).parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / path).write_bytes(data)


def only(base: Path) -> None:
    """Let this process's tools see no process, and no directory but those below `base`."""
    mine: Any = machine
    mine.pids = list
    mine.Machine._list = lambda self, path: os.listdir(path) if path == f"{base}/dpdk" else []
    mine.Machine.locks = lambda self, kind="": []
    mine.Machine.hugetlbfs = lambda self: [(str(base / "huge"), str(base / "huge"))]
    os.environ["RUNTIME_DIRECTORY"] = str(base)


# --- live ones ------------------------------------------------------------------------------------

PAGES = 16  # of 2 MB, that a live trial has
CLONE_NEWNS, MS_REC, MS_PRIVATE, MNT_DETACH = 0x20000, 0x4000, 0x40000, 2


@contextlib.contextmanager
def private_hugetlbfs() -> Iterator[tuple[Path, str]]:
    """Give this process mounts of its own; yields its base of runtime directories, a hugedir."""
    libc = ctypes.CDLL(None, use_errno=True)
    with WorkFolder() as tmp:
        at, size = f"{tmp}/pages", f"size={PAGES * 2}M"
        os.mkdir(at, 0o700)
        failed = libc.unshare(CLONE_NEWNS)
        failed = failed or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None)
        if failed or libc.mount(b"none", at.encode(), b"hugetlbfs", 0, size.encode()):
            raise OSError(ctypes.get_errno(), "no private hugetlbfs")
        os.environ["RUNTIME_DIRECTORY"] = tmp
        try:
            yield Path(tmp), at
        finally:
            libc.umount2(at.encode(), MNT_DETACH)
