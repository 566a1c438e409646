"""A secondary: attaches to the memory of a primary and follows its changes.

The shared config, arrays and pages lie where the primary has them. What this process has mapped of
each list stands in an array of its own, the shadow. linux/eal.c: rte_eal_config_attach;
linux/eal_memory.c: eal_legacy_hugepage_attach; linux/eal_memalloc.c: eal_memalloc_sync_with_primary
"""

from __future__ import annotations

import os
import time
from ctypes import sizeof
from errno import EACCES, ENOMEM

from . import files, layout, libc, releases, runtime
from .errors import EalError
from .fbarray import Arrays, Fbarray, bits, runs
from .host import LOCAL, Host
from .hugepages import HugepageInfo
from .layout import Memseg
from .libc import MAP_SHARED, PAGE, PROT_READ, PROT_RW
from .locks import SharedWord
from .memseg import MemsegList, MemsegLists
from .segments import Locked, Segments
from .vaspace import align, free_base, what_lies_at

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .releases import Release

    Log = Callable[[str, str], object]

MP_DISABLED, MP_ENABLED = 1, 2
MAX_RECORDS = 4  # of hugepage_info: 3, and on Arm 4


def find_release(path: str, wait: float, wanted: Release | None) -> Release:
    """The primary's release, once its config is complete.

    EalError(0), as EAL leaves errno alone here: no config, one that stays incomplete, a version
    that is not the one wanted.
    """
    try:
        for level in (os.path.dirname(os.path.dirname(path)), os.path.dirname(path)):
            runtime.check_directory(level)
        fd = files.open_shared(path, os.O_RDONLY)
    except OSError as e:
        raise EalError(
            0, "config",
            f"Cannot open '{path}' for rte_mem_config: {e.filename}: {e.strerror}; "
            "start a primary with this --file-prefix first",
        ) from None  # fmt: skip
    try:
        deadline, pause = time.monotonic() + wait, 0.001
        while True:
            words = os.pread(fd, 8, 0).ljust(8, b"\0")
            magic, word = (int.from_bytes(words[i : i + 4], "little") for i in (0, 4))
            if magic == layout.MAGIC:
                break
            if time.monotonic() > deadline:
                raise EalError(
                    0, "config",
                    f"the primary of '{path}' has not finished its start within {wait:g} s: "
                    f"magic {layout.MAGIC:#x} wanted, {magic:#x} found; "
                    "it hangs, or it died and the file is stale",
                )  # fmt: skip
            time.sleep(pause)
            pause = min(pause * 2, 0.1)
    finally:
        os.close(fd)
    try:
        found = releases.by_word(word)
    except ValueError as e:
        found, unknown = None, str(e)
    if found is None or (wanted and wanted.word != word):
        raise EalError(
            0, "config",
            "Primary and secondary process DPDK version mismatch: "
            f"{wanted.name if wanted else 'a known release'} wanted, "
            f"{found.name if found else unknown} found in '{path}'",
        )  # fmt: skip
    return found


class AttachedConfig:
    """A primary's `config`, mapped where the primary has it. rte_eal_config_reattach

    look_only: not to be written to.
    """

    def __init__(self, path: str, release: Release, look_only: bool = False) -> None:
        kind = layout.config(release.family)
        if runtime.is_mine(path):
            raise EalError(0, "config", f"the primary of '{path}' is this very process")
        prot = PROT_READ if look_only else PROT_RW
        fd = files.open_shared(path, os.O_RDONLY if look_only else os.O_RDWR)
        try:
            if (size := os.fstat(fd).st_size) < layout.CONFIG_SIZE:
                wanted = f"{layout.CONFIG_SIZE} bytes wanted, {size} found"
                raise EalError(0, "config", f"'{path}': {wanted}; the file is damaged")
            at = int.from_bytes(os.pread(fd, 8, kind.mem_cfg_addr.offset), "little")
            self.va = libc.mmap(at, align(layout.CONFIG_SIZE, PAGE), prot, MAP_SHARED, fd)
        finally:
            os.close(fd)
        self.c = kind.from_address(self.va)
        if self.va != at:
            end = max(m.base_va + m.len for m in self.c.memsegs)
            got, fits = self.va, free_base(max(end, at) - at)
            self.close()
            raise EalError(
                0, "config",
                f"Cannot mmap memory for rte_config at [{at:#x}], got [{got:#x}] - please use "
                f"'--base-virtaddr' option: here {what_lies_at(at, layout.CONFIG_SIZE)}; "
                f"--base-virtaddr={fits:#x} in the primary would fit this process",
            )  # fmt: skip

    def join(self) -> None:
        """Says that there is a secondary; EalError when the primary wants none."""

        def enabled(word: int) -> int | None:
            if word & 0xFF == MP_DISABLED:
                raise EalError(0, "config", "Primary process refused secondary attachment")
            return None if word & 0xFF == MP_ENABLED else word & ~0xFF | MP_ENABLED

        # the status is the lowest byte of the word
        SharedWord(self.va + type(self.c).mp_status.offset).change(enabled)

    def close(self) -> None:
        if self.va:
            libc.munmap(self.va, align(layout.CONFIG_SIZE, PAGE))
        self.va = 0


def read_hugepage_info(path: str, nodes: int) -> list[HugepageInfo]:
    """Page sizes and directories of the primary. eal_hugepage_info_read. EalError(EACCES)."""
    kind = layout.hugepage_info(nodes)
    try:
        fd = files.open_shared(path, os.O_RDONLY)
        try:
            data = bytearray(os.read(fd, MAX_RECORDS * sizeof(kind) + 1))
        finally:
            os.close(fd)
    except OSError as e:
        raise EalError(
            EACCES, "hugepages",
            f"Failed to open shared memory! Cannot get hugepage information: {path}: "
            f"{e.strerror}; a primary with --no-huge cannot be joined",
        ) from None  # fmt: skip

    def damaged(why: str) -> EalError:
        text = f"Cannot get hugepage information: {path}: {why}; the file is damaged"
        return EalError(EACCES, "hugepages", text)

    if not data or len(data) % sizeof(kind) or len(data) > MAX_RECORDS * sizeof(kind):
        raise damaged(f"1 to {MAX_RECORDS} records of {sizeof(kind)} bytes wanted")
    infos = []
    for at in range(0, len(data), sizeof(kind)):
        record = kind.from_buffer(data, at)
        if record.hugedir:
            sz, hugedir = record.hugepage_sz, os.fsdecode(record.hugedir)
            if sz < PAGE or sz & sz - 1 or not hugedir.startswith("/"):
                raise damaged(f"pages of {sz} bytes in {hugedir!r}")
            infos.append(HugepageInfo(sz, hugedir, nodes))
            infos[-1].num_pages = list(record.num_pages)
    return infos


class Follower:
    """This process's mappings of a primary's lists, and what keeps them in line.

    suffix: of the shadow arrays' names; None for an observer, who leaves no trace and takes no
    lock, and for whom a page that went meanwhile is no error.
    """

    def __init__(
        self,
        lists: MemsegLists,
        arrays: Arrays,
        segments: Segments,
        suffix: str | None,
        log: Log,
    ) -> None:
        self.lists, self.arrays, self.segments, self.log = lists, arrays, segments, log
        self.on_event: list[Callable[[str, int, int], object]] = []
        self.mapped = {msl.index: 0 for msl in lists}  # bit i: segment i is mapped here
        self.versions = dict(self.mapped)
        self.shadows: dict[int, tuple[layout.Fbarray, Fbarray]] = {}
        try:
            for msl in lists if suffix is not None else ():
                desc, name = layout.Fbarray(), f"{msl.name}_{suffix}"
                made = arrays.create(desc, name, msl.n_segs, sizeof(Memseg))
                self.shadows[msl.index] = desc, made
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Removes the shadow arrays. secondary_msl_destroy_walk"""
        for desc, arr in self.shadows.values():
            arr.release()
            self.arrays.destroy(desc)
        self.shadows.clear()

    def follow(self) -> None:
        """Maps what the primary has and this process lacks, and unmaps the opposite. sync_walk

        EalError(ENOMEM) when a page cannot be had; what is mapped by then stays.
        """
        for msl in self.lists:
            version = msl.c.version
            if self.versions[msl.index] == version:
                continue
            info = self.segments.infos.get(msl.page_sz)
            if info is None:
                size = msl.page_sz >> 10
                raise EalError(
                    ENOMEM, "sync", f"no hugepage directory is known for {size} kB pages"
                )
            if self.segments.look_only:
                dir_fd = os.open(info.hugedir, os.O_RDONLY | os.O_DIRECTORY)
                try:
                    self._align(msl, dir_fd)
                finally:
                    os.close(dir_fd)
            else:
                with Locked(info, False) as dir_fd:
                    self._align(msl, dir_fd)
            self.versions[msl.index] = version

    def _align(self, msl: MemsegList, dir_fd: int) -> None:
        theirs, mine = msl.arr.used(), self.mapped[msl.index]
        for start, n in runs(theirs & ~mine):
            self._map(msl, start, n, dir_fd)
        for start, n in runs(mine & ~theirs):
            self._tell("free", msl, start, n)
            self.segments.unmap(msl, start, n, -1 if self.segments.look_only else dir_fd)
            self._mark(msl, start, n, False)
        if self.segments.single and not self.mapped[msl.index]:
            self.segments.close_list(msl)

    def _map(self, msl: MemsegList, start: int, n: int, dir_fd: int) -> None:
        try:
            self.segments.map_existing(msl, start, n, dir_fd)
        except EalError as e:
            if self.segments.look_only and not msl.arr.is_used(start):
                self.log("DEBUG", f"gone before it was mapped: {e.text}")
                return
            raise
        self._mark(msl, start, n, True)
        self._tell("alloc", msl, start, n)

    def _mark(self, msl: MemsegList, start: int, n: int, used: bool) -> None:
        """Enters what is mapped, also into the shadow array where there is one."""
        bits = (1 << n) - 1 << start
        old = self.mapped[msl.index]
        self.mapped[msl.index] = old | bits if used else old & ~bits
        if msl.index in self.shadows:
            _, shadow = self.shadows[msl.index]
            at, size = start * sizeof(Memseg), n * sizeof(Memseg)
            records = libc.memory(msl.arr.desc.data + at, size)
            self.arrays.write(shadow.desc, at, records if used else bytes(size))
            shadow.mark(start, n, used)

    def _tell(self, what: str, msl: MemsegList, start: int, n: int) -> None:
        for fn in self.on_event:
            fn(what, msl.va(start), n * msl.page_sz)

    def map_legacy(self, path: str) -> None:
        """Maps each page that hugepage_data records. eal_legacy_hugepage_attach

        EalError(ENOMEM) that names the file that is missing.
        """
        if aslr_enabled():
            self.log(
                "WARNING",
                "WARNING: Address Space Layout Randomization (ASLR) is enabled in the kernel.",
            )
            self.log(
                "WARNING", "   This may cause issues with mapping memory into secondary processes"
            )
        try:
            for (msl, directory), pages in self._places(path).items():
                if self.mapped[msl.index]:
                    raise ValueError(f"pages of {msl.name} lie in two directories")
                self.mapped[msl.index] = bits(pages)
                self.segments.map_files(msl, directory, pages)
        except (OSError, ValueError) as e:
            what = getattr(e, "filename", None) or path
            raise EalError(ENOMEM, "legacy", f"Could not open {what}: {e}") from None

    def _places(self, path: str) -> dict[tuple[MemsegList, str], dict[int, str]]:
        """The recorded pages, {(list, directory): {segment: file}}. ValueError if it cannot be."""
        from . import hugepage_data

        dirs = {info.hugedir.rstrip("/") for info in self.segments.infos.values()}
        dirs |= {f"{d}/" for d in dirs}  # of a directory that was named with a slash
        found: dict[tuple[MemsegList, str], dict[int, str]] = {}
        vas, where, pages = range(0), "", dict[int, str]()  # of the pages before, mostly
        for va, size, file_id, file in hugepage_data.read(path):
            directory, _, name = file.rpartition("/")
            if directory != where or va not in vas:
                where = directory
                if dirs and where not in dirs:
                    raise ValueError(f"page {file_id} lies in no hugepage directory: {file!r}")
                if (at := self.lists.of(va)) is None:
                    raise ValueError(f"page {file_id} lies in no memseg list: {va:#x}")
                msl = at[0]
                vas = range(msl.base_va, msl.base_va + msl.len, msl.page_sz)
                pages = found.setdefault((msl, where), {})
                first, page_sz, fits = msl.base_va, msl.page_sz, va in vas
            seg = (va - first) // page_sz
            if size != page_sz or not fits or seg in pages:
                raise ValueError(f"page {file_id} is not segment {seg} of {msl.name}, or again")
            pages[seg] = name
        return found


def aslr_enabled(host: Host = LOCAL) -> bool:
    """Whether this process's addresses are random. linux/eal_memory.c: aslr_enabled"""
    if libc.personality() & libc.ADDR_NO_RANDOMIZE:
        return False
    try:
        with open(f"{host.proc}/sys/kernel/randomize_va_space") as f:
            return f.read().strip() != "0"
    except OSError:
        return False
