"""File-backed arrays: fixed-size elements, then a bit mask of the used ones.

    file: elements (len * elt_sz) | u32 n_masks, pad | n_masks u64 words | up to a page

The descriptor (layout.Fbarray, 96 bytes) lives elsewhere: in `config` for lists and memzones.
"""

from __future__ import annotations

import fcntl
import os
from ctypes import addressof, memset, sizeof
from errno import EBUSY, EEXIST, EINVAL, ENAMETOOLONG, ENOENT, EWOULDBLOCK

from . import files, layout, libc
from .errors import EalError
from .libc import MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, MAP_SHARED, PAGE, PROT_READ, PROT_RW
from .vaspace import VaSpace, align

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection

INT_MAX = 2**31 - 1


def n_words(length: int) -> int:
    return (length + 63) // 64


def file_size(length: int, elt_sz: int) -> int:
    """Bytes of the file. common/eal_common_fbarray.c: calc_data_size"""
    return align(length * elt_sz + 8 + 8 * n_words(length), PAGE)


def _invalid(text: str) -> EalError:
    return EalError(EINVAL, "fbarray", text)


def runs(bits: int) -> list[tuple[int, int]]:
    """The runs of set bits of a number as (start, n), ascending."""
    skip = (bits & -bits).bit_length() - 1
    ones = bits >> max(skip, 0)
    if not ones & ones + 1:  # one run, or none
        return [(skip, ones.bit_length())] if ones else []
    text, found, end = f"{bits:b}"[::-1] + "0", [], 0  # text[i] is bit i
    while (start := text.find("1", end)) >= 0:
        end = text.find("0", start)
        found.append((start, end - start))
    return found


def bits(indices: Collection[int]) -> int:
    """The number with these bits set."""
    text = bytearray(b"0" * (max(indices, default=0) + 1))
    for i in indices:
        text[~i] = 0x31
    return int(text, 2)


class Fbarray:
    """One array through its descriptor: a view, it owns nothing.

    Searches answer an index, or -1 where there is no match (EAL's errno is then ENOENT for used,
    ENOSPC for free entries); bad arguments raise EalError(EINVAL).
    """

    __slots__ = ("desc", "words")

    def __init__(self, desc: layout.Fbarray | None) -> None:
        self.desc = desc = _given(desc)
        end = desc.data + desc.len * desc.elt_sz
        self.words = libc.memory(end + 8, 8 * n_words(desc.len))

    def release(self) -> None:
        """Lets go of the memory; to be called before it is unmapped."""
        self.words.release()

    @property
    def ones(self) -> int:
        """All entries' bits: what lies behind them in the last word is nobody's."""
        return (1 << self.desc.len) - 1

    def used(self) -> int:
        """The mask as one number: bit i says whether entry i is used."""
        return int.from_bytes(self.words, "little") & self.ones

    def _bits(self, used: bool) -> int:
        bits = self.used()
        return bits if used else ~bits & self.ones

    def _check(self, i: int) -> None:
        if not 0 <= i < self.desc.len:
            raise _invalid(f"index 0 to {self.desc.len - 1} wanted, {i} found")

    def address(self, i: int) -> int:
        """Address of element i. rte_fbarray_get"""
        self._check(i)
        return self.desc.data + i * self.desc.elt_sz

    def index(self, va: int) -> int:
        """Index of the element that the address lies in. rte_fbarray_find_idx"""
        i = (va - self.desc.data) // self.desc.elt_sz
        if not va or not 0 <= i < self.desc.len:
            raise _invalid(f"an address of the array's elements wanted, {va:#x} found")
        return i

    def is_used(self, i: int) -> bool:
        self._check(i)
        return bool(self.words[i >> 3] >> (i & 7) & 1)

    def all_used(self, start: int, n: int) -> bool:
        """Whether n entries from start on are used."""
        self._check(start)
        if not 0 < n <= self.desc.len - start:  # of a damaged heap, perhaps any number
            return False
        last = start + n - 1
        found = bytearray(self.words[start >> 3 : (last >> 3) + 1])
        found[0] |= (1 << (start & 7)) - 1  # bits of the same bytes that were not asked for
        found[-1] |= 0xFF ^ (2 << (last & 7)) - 1
        return found == b"\xff" * len(found)

    def mark(self, start: int, n: int = 1, used: bool = True) -> None:
        """Marks n entries from start. rte_fbarray_set_used, rte_fbarray_set_free"""
        self._check(start)
        self._check(start + n - 1)
        first, last = start >> 3, (start + n + 7) >> 3
        old = int.from_bytes(self.words[first:last], "little")
        ones = (1 << n) - 1 << (start & 7)
        new = old | ones if used else old & ~ones
        self.words[first:last] = new.to_bytes(last - first, "little")
        self.desc.count += new.bit_count() - old.bit_count()

    def mark_all(self, mask: int) -> None:
        """Marks all entries of a mask as used."""
        new = self.used() | mask
        self.words[:] = new.to_bytes(len(self.words), "little")
        self.desc.count = new.bit_count()

    def find(self, start: int, used: bool, back: bool = False) -> int:
        """The next (or previous) entry at or after (before) start."""
        self._check(start)
        bits = self._bits(used)
        if back:
            return (bits & (2 << start) - 1).bit_length() - 1
        bits >>= start
        return start + (bits & -bits).bit_length() - 1 if bits else -1

    def find_n(self, start: int, n: int, used: bool, back: bool = False) -> int:
        """Lowest start of n such entries from start on; back: highest of those that end by it."""
        self._check(start)
        if not 0 < n <= self.desc.len:
            raise _invalid(f"1 to {self.desc.len} entries wanted, {n} found")
        if back and start < n - 1:
            return -1
        bits = self._bits(used)
        bits = bits & (2 << start) - 1 if back else bits >> start << start
        have = 1
        while have < n:  # a bit stays where `have` entries from it on match
            step = min(have, n - have)
            bits &= bits >> step
            have += step
        if back:
            return bits.bit_length() - 1
        return (bits & -bits).bit_length() - 1

    def contig(self, start: int, used: bool, back: bool = False) -> int:
        """How many such entries follow each other from start on (or back)."""
        self._check(start)
        others = self._bits(not used)
        if back:
            return start + 1 - (others & (2 << start) - 1).bit_length()
        others >>= start
        return (others & -others).bit_length() - 1 if others else self.desc.len - start

    def biggest(self, start: int, used: bool, back: bool = False) -> int:
        """Start of the longest run from start on (or back); the first met of equally long ones."""
        self._check(start)
        bits = self._bits(used)
        if back:
            text = format(bits & (2 << start) - 1, f"0{start + 1}b")  # text[k] is entry start - k
        else:
            bits >>= start
            end = bits.bit_length()
            last = end - (bits ^ (1 << end) - 1).bit_length()
            if 2 * last > bits.bit_count():  # more than all others: no need to look at them
                return start + end - last
            text = format(bits, "b")[::-1]  # text[k] is entry start + k
        best = max(map(len, text.split("0")))
        if not best:
            return -1
        k = text.index("1" * best)
        return start - k - best + 1 if back else start + k

    def runs(self, used: bool = True) -> list[tuple[int, int]]:
        """All maximal runs as (start, n), ascending."""
        if self.desc.count == self.desc.len:  # EAL's searches go by the count, too
            return [(0, self.desc.len)] if used else []
        return runs(self._bits(used))


class Arrays:
    """The arrays that this process has mapped: makes, attaches, detaches and destroys them.

    directory: where the files go, None to keep arrays in private memory (--no-shconf); look_only:
    attach without a lock and without the right to write.
    """

    def __init__(self, space: VaSpace, directory: str | None, look_only: bool = False) -> None:
        self.space, self.directory, self.look_only = space, directory, look_only
        self.areas: dict[int, tuple[int, int]] = {}  # data address -> (bytes, fd or -1)

    def path(self, name: str) -> str:
        return f"{self.directory}/fbarray_{name}"

    def create(self, desc: layout.Fbarray | None, name: str, length: int, elt_sz: int) -> Fbarray:
        """Makes an empty array. common/eal_common_fbarray.c: rte_fbarray_init

        EalError: EINVAL, ENAMETOOLONG; EBUSY when another process has the file open.
        """
        desc = _given(desc)
        _validate(name, length, elt_sz)
        size = file_size(length, elt_sz)
        va, fd, mine = self.space.reserve(size), -1, False
        masks = n_words(length).to_bytes(4, "little").ljust(size - length * elt_sz, b"\0")
        try:
            if self.directory is None:
                libc.mmap(va, size, PROT_RW, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED)
                libc.memory(va + length * elt_sz, 4)[:] = masks[:4]
            else:
                path = self.path(name)
                fd = files.open_shared(path, os.O_RDWR | os.O_CREAT)
                _lock_new(fd, path)
                mine = True
                stale = os.fstat(fd).st_size
                os.ftruncate(fd, size)
                libc.mmap(va, size, PROT_RW, MAP_SHARED | MAP_FIXED, fd)
                if stale:
                    _clear(fd, va, size)
                files.write_all(fd, masks, length * elt_sz)
        except (OSError, EalError) as e:
            if mine:
                files.discard(self.path(name))
            _undo(va, size, fd)
            raise _as_eal(e, f"array {name} could not be made") from None
        self.areas[va] = size, fd
        memset(addressof(desc), 0, sizeof(desc))
        desc.name, desc.len, desc.elt_sz, desc.data = name.encode(), length, elt_sz, va
        return Fbarray(desc)

    def attach(self, desc: layout.Fbarray | None, elt_sz: int = 0) -> Fbarray:
        """Maps an array that another process made, where it is there. rte_fbarray_attach

        EalError: EEXIST when it overlaps a mapped array, ENOENT without file, EADDRNOTAVAIL, EINVAL
        for a file of another size: EAL would cut it, or make it longer.
        """
        desc = _given(desc)
        name = _name(desc)
        _validate(name, desc.len, desc.elt_sz)
        if not desc.data or desc.data % PAGE or desc.count > desc.len:
            raise _invalid(f"array {name} of {desc.count} in {desc.len} lies at {desc.data:#x}")
        if desc.elt_sz != (elt_sz or desc.elt_sz):
            raise _invalid(f"array {name}: elements of {elt_sz} bytes wanted, {desc.elt_sz} found")
        size = file_size(desc.len, desc.elt_sz)
        for va, (length, _) in self.areas.items():
            if desc.data < va + length and va < desc.data + size:
                raise EalError(
                    EEXIST, "fbarray", f"array {name} wants {desc.data:#x}, where one is mapped"
                )
        va, fd = self.space.reserve(size, addr=desc.data), -1
        try:
            if self.look_only:
                fd, prot = files.open_shared(self.path(name), os.O_RDONLY), PROT_READ
            else:
                fd, prot = files.open_shared(self.path(name), os.O_RDWR), PROT_RW
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
            if (found := os.fstat(fd).st_size) != size:
                raise _invalid(f"{self.path(name)}: {size} bytes wanted, {found} found")
            libc.mmap(va, size, prot, MAP_SHARED | MAP_FIXED, fd)
        except (OSError, EalError) as e:
            _undo(va, size, fd)
            raise _as_eal(e, f"array {name} could not be attached") from None
        self.areas[va] = size, fd
        return Fbarray(desc)

    def _area(self, desc: layout.Fbarray | None) -> tuple[int, int, int]:
        desc = _given(desc)
        size, fd = self.areas.get(desc.data, (0, -1))
        if not size or size != file_size(desc.len, desc.elt_sz):
            raise EalError(ENOENT, "fbarray", f"array {desc.name!r} is not mapped here")
        return desc.data, size, fd

    def write(self, desc: layout.Fbarray, offset: int, data: bytes | memoryview) -> None:
        """Copies data into the elements; through the file, which saves a fault for each page."""
        va, _, fd = self._area(desc)
        if fd >= 0:
            os.pwrite(fd, data, offset)
        else:
            libc.memory(va + offset, len(data))[:] = data

    def use_all(self, desc: layout.Fbarray) -> None:
        """Marks every entry as used, through the file as well."""
        whole, rest = divmod(desc.len, 8)
        mask = b"\xff" * whole + bytes([(1 << rest) - 1]) * bool(rest)
        words = mask.ljust(8 * n_words(desc.len), b"\0")
        self.write(desc, desc.len * desc.elt_sz + 8, words)
        desc.count = desc.len

    def detach(self, desc: layout.Fbarray | None) -> None:
        """Unmaps it; file and descriptor stay. rte_fbarray_detach. EalError(ENOENT)."""
        va, size, fd = self._area(desc)
        del self.areas[va]
        _undo(va, size, fd)

    def destroy(self, desc: layout.Fbarray | None) -> None:
        """Removes file, mapping and descriptor. rte_fbarray_destroy

        EalError: EBUSY while others have it attached (it stays), ENOENT when the file is gone.
        """
        va, size, fd = self._area(desc)
        desc = _given(desc)
        name = _name(desc)
        if fd >= 0:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # the refusal took it away
                raise EalError(EBUSY, "fbarray", f"another process uses array {name}") from None
            try:
                os.unlink(self.path(name))
            except OSError as e:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                raise _as_eal(e, f"array {name} could not be removed") from None
        del self.areas[va]
        _undo(va, size, fd)
        memset(addressof(desc), 0, sizeof(desc))

    def close(self, remove: bool = False) -> None:
        """Detaches all arrays; remove takes their files too, after a failed start."""
        for va, (size, fd) in self.areas.items():
            if remove and fd >= 0:
                name = os.readlink(f"/proc/self/fd/{fd}")
                if not name.endswith(" (deleted)"):
                    os.unlink(name)
            _undo(va, size, fd)
        self.areas.clear()


def _given(desc: layout.Fbarray | None) -> layout.Fbarray:
    if desc is None:
        raise _invalid("an array's descriptor wanted, none found")
    return desc


def _name(desc: layout.Fbarray) -> str:
    """An array's name, which is part of a file's: without the letters that lead elsewhere."""
    name: str = desc.name.decode("latin-1")
    if not name.isascii() or not name.isprintable() or "/" in name:
        raise _invalid(f"the name of an array wanted, {name!r} found")
    return name


def _validate(name: str, length: int, elt_sz: int) -> None:
    if not name or not 0 < length <= INT_MAX or elt_sz <= 0:
        raise _invalid(
            f"a name, 1 to {INT_MAX} elements of at least 1 byte wanted; "
            f"{name!r}, {length} of {elt_sz} found"
        )
    if len(name) >= layout.FBARRAY_NAME_LEN:
        raise EalError(
            ENAMETOOLONG, "fbarray",
            f"a name of at most {layout.FBARRAY_NAME_LEN - 1} characters wanted, {name!r} found",
        )  # fmt: skip


def _lock_new(fd: int, path: str) -> None:
    """Exclusive for a moment, which proves that nobody has it; then shared for good."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        if e.errno != EWOULDBLOCK:
            raise
        raise EalError(
            EBUSY, "fbarray",
            f"couldn't lock {path}: another process has it; is a primary or secondary alive?",
        ) from None  # fmt: skip
    fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)


def _clear(fd: int, va: int, size: int) -> None:
    """Zeroes the file, by a hole where the file system can."""
    try:
        libc.fallocate(fd, libc.FALLOC_PUNCH_HOLE | libc.FALLOC_KEEP_SIZE, 0, size)
    except OSError:
        memset(va, 0, size)


def _undo(va: int, size: int, fd: int) -> None:
    libc.munmap(va, size)
    if fd >= 0:
        os.close(fd)


def _as_eal(e: OSError | EalError, what: str) -> EalError:
    if isinstance(e, EalError):
        return e
    return EalError(
        e.errno or 0, "fbarray", f"{what}: {e.strerror}" + f" ({e.filename})" * bool(e.filename)
    )
