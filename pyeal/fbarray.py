"""File-backed arrays: elements of one size, then a bit mask of the used ones.

    file: elements (len * elt_sz) | u32 n_masks, pad | n_masks u64 words | up to a page

The descriptor (layout.Fbarray, 96 bytes) is in `config`, for lists and memzones. Fbarray is a view
of a mapped array, Arrays maps them; pyeal.look.arrays reads what this process does not map.
common/eal_common_fbarray.c
"""

from __future__ import annotations

import fcntl
import os
from _weakref import ref
from ctypes import addressof, memset, sizeof
from errno import (
    EBUSY,
    EEXIST,
    EINVAL,
    ENAMETOOLONG,
    ENOENT,
    ENOSYS,
    EOPNOTSUPP,
    EPERM,
    EWOULDBLOCK,
)

from . import files, layout, libc
from .errors import CLOSED, EalError
from .libc import MAP_ANONYMOUS, MAP_FIXED, MAP_PRIVATE, MAP_SHARED, PAGE, PROT_RW
from .vaspace import VaSpace, align

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

INT_MAX = 2**31 - 1


def n_words(length: int) -> int:
    """Return the words of the mask."""
    return (length + 63) // 64


def file_size(length: int, elt_sz: int, page: int = PAGE) -> int:
    """Return the bytes of the file on a kernel with that page. calc_data_size"""
    return align(length * elt_sz + 8 + 8 * n_words(length), page)


def _invalid(what: str, expected: str, found: object) -> EalError:
    sides = {"expected": expected, "found": str(found)}
    return EalError(EINVAL, "fbarray", what, reason="bad-argument", **sides)


def runs(bits: int) -> list[tuple[int, int]]:
    """Return the runs of set bits of a number as (start, n), ascending."""
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
    """Return the number that has these bits set."""
    text = bytearray(b"0" * (max(indices, default=0) + 1))
    for i in indices:
        text[~i] = 0x31
    return int(text, 2)


def all_set(words: bytearray | memoryview, start: int, n: int) -> bool:
    """Return whether n bits from start on are set."""
    last = start + n - 1
    found = bytearray(words[start >> 3 : (last >> 3) + 1])
    found[0] |= (1 << (start & 7)) - 1  # other bits of the same bytes
    found[-1] |= 0xFF ^ (2 << (last & 7)) - 1
    return found == b"\xff" * len(found)


def set_bits(words: bytearray | memoryview, start: int, n: int, used: bool) -> int:
    """Set n bits from start on, or clear them; return how many more are set then."""
    first, last = start >> 3, (start + n + 7) >> 3
    old = int.from_bytes(words[first:last], "little")
    ones = (1 << n) - 1 << (start & 7)
    new = old | ones if used else old & ~ones
    words[first:last] = new.to_bytes(last - first, "little")
    return new.bit_count() - old.bit_count()


class Fbarray:
    """A view of one mapped array through its descriptor. It owns nothing.

    Searches return an index, or -1 without a match (EAL's errno is then ENOENT for used, ENOSPC for
    free entries); they raise EalError(EINVAL) for bad arguments.
    """

    def __init__(
        self, desc: layout.Fbarray | None, fd: int = -1, shape: tuple[int, int, int] | None = None
    ) -> None:
        self.desc = desc = _given(desc)
        self.fd = fd  # of the file, if there is one
        # copies: any process of the prefix can write to the descriptor
        self.data, self.len, self.elt_sz = shape or (desc.data, desc.len, desc.elt_sz)
        end = self.data + self.len * self.elt_sz
        self.words = libc.memory(end + 8, 8 * n_words(self.len))
        self.elements: Any = None  # a ctypes array, which each element refers to

    def allocate(self, start: int, n: int = 1) -> None:
        """Give elements their blocks in the file, as is required before they are stored to.

        A store that finds no room ends the process with SIGBUS. Raises EalError(ENOSPC).
        """
        if self.fd < 0:
            return
        size = self.elt_sz
        try:
            libc.fallocate(self.fd, libc.FALLOC_KEEP_SIZE, start * size, n * size)
        except OSError as e:
            if e.errno not in (EOPNOTSUPP, ENOSYS, EPERM):  # then there is no way to know
                what = f"Cannot extend array {_name(self.desc)}"
                raise _as_eal(e, what) from None

    def view(self, kind: Any, i: int) -> Any:
        """Return element i as a structure in place, which release() knows of."""
        self._check(i)
        if self.elements is None:
            self.elements = (kind * self.len).from_address(self.data)
        return self.elements[i]

    def release(self) -> Any:
        """Release the view, as is required before the memory is unmapped; each use raises then.

        Returns a weak reference to the elements, or None if no caller keeps the view of one.
        """
        self.words.release()
        kept = ref(self.elements) if self.elements is not None else None
        self.desc = self.words = self.elements = CLOSED
        return kept if kept and kept() is not None else None

    def used(self, used: bool = True) -> int:
        """Return the mask as one number: bit i is set if entry i is used, or free.

        The last word may have more bits than there are entries.
        """
        bits = int.from_bytes(self.words, "little")
        return (bits if used else ~bits) & (1 << self.len) - 1

    def _check(self, i: int) -> None:
        if not 0 <= i < self.len:
            raise _invalid("bad index", f"0 to {self.len - 1}", i)

    def address(self, i: int) -> int:
        """Return the address of element i. rte_fbarray_get"""
        self._check(i)
        return self.data + i * self.elt_sz

    def index(self, va: int) -> int:
        """Return the index of the element at an address. rte_fbarray_find_idx"""
        i = (va - self.data) // self.elt_sz
        if not va or not 0 <= i < self.len:
            raise _invalid("bad address", "an address of the array's elements", f"{va:#x}")
        return i

    def is_used(self, i: int) -> bool:
        self._check(i)
        return bool(self.words[i >> 3] >> (i & 7) & 1)

    def all_used(self, start: int, n: int) -> bool:
        """Return whether n entries from start on are used."""
        self._check(start)
        return 0 < n <= self.len - start and all_set(self.words, start, n)

    def mark(self, start: int, n: int = 1, used: bool = True) -> None:
        """Mark n entries from start as used, or as free. rte_fbarray_set_used, _set_free"""
        self._check(start)
        self._check(start + n - 1)
        self.desc.count = self.desc.count + set_bits(self.words, start, n, used) & 0xFFFFFFFF

    def mark_all(self, mask: int) -> None:
        """Mark all entries of a mask as used."""
        new = self.used() | mask
        self.words[:] = new.to_bytes(len(self.words), "little")
        self.desc.count = new.bit_count()

    def _ahead(self, start: int, used: bool, back: bool) -> int:
        """Return the mask from an entry on, which is bit 0; back: down to entry 0."""
        self._check(start)
        bits = self.used(used)
        if back:
            return int(f"{bits & (2 << start) - 1:0{start + 1}b}"[::-1], 2)
        return bits >> start

    def find(self, start: int, used: bool, back: bool = False) -> int:
        """Return the next such entry from start on, or with back the previous one."""
        return self.find_n(start, 1, used, back)

    def find_n(self, start: int, n: int, used: bool, back: bool = False) -> int:
        """Return the lowest start of n such entries from start on.

        back: the highest start of n entries that end at start or before.
        """
        bits = self._ahead(start, used, back)
        if not 0 < n <= self.len:
            raise _invalid("bad number of entries", f"1 to {self.len}", n)
        have = 1
        while have < n:  # a bit stays where `have` entries from it on match
            step = min(have, n - have)
            bits &= bits >> step
            have += step
        k = (bits & -bits).bit_length() - 1
        return k if k < 0 else start - k - n + 1 if back else start + k

    def contig(self, start: int, used: bool, back: bool = False) -> int:
        """Return how many such entries follow each other, from start on or with back down to it."""
        others = self._ahead(start, not used, back)
        if others:
            return (others & -others).bit_length() - 1
        return start + 1 if back else self.len - start

    def biggest(self, start: int, used: bool, back: bool = False) -> int:
        """Return the start of the longest run from start on, or with back of those before.

        Of equally long runs it is the first that the search meets.
        """
        text = f"{self._ahead(start, used, back):b}"[::-1]  # text[k] is bit k
        best = max(map(len, text.split("0")))
        if not best:
            return -1
        k = text.index("1" * best)
        return start - k - best + 1 if back else start + k

    def runs(self, used: bool = True) -> list[tuple[int, int]]:
        """Return all maximal runs as (start, n), ascending."""
        if self.desc.count == self.len:  # as EAL's searches do
            return [(0, self.len)] if used else []
        return runs(self.used(used))


def retire(va: int, size: int, view: object) -> None:
    """Replace shared memory by zeros of this process, as long as a caller keeps a view of it."""
    libc.mmap(va, size, PROT_RW, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS)
    _zeros[va] = ref(view, lambda _: _unmap_zeros(va, size))


def _unmap_zeros(va: int, size: int) -> None:
    del _zeros[va]
    libc.munmap(va, size)


_zeros: dict[int, Any] = {}  # addresses of former memory -> what a caller's records view


class Arrays:
    """The arrays that this process has mapped.

    directory: of their files; None keeps arrays in private memory (--no-shconf).
    """

    flags, prot = os.O_RDWR, PROT_RW  # of those that another process made

    def __init__(self, space: VaSpace, directory: str | None) -> None:
        self.space, self.directory = space, directory
        self.areas: dict[int, tuple[int, int]] = {}  # data address -> (bytes, fd or -1)
        self.viewed: dict[
            int, Any
        ] = {}  # data address -> reference to what a caller's records view

    def path(self, name: str) -> str:
        return f"{self.directory}/fbarray_{name}"

    def create(self, desc: layout.Fbarray | None, name: str, length: int, elt_sz: int) -> Fbarray:
        """Make an empty array. rte_fbarray_init

        Raises EalError: EINVAL, ENAMETOOLONG, EBUSY if another process has the file locked.
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
                    _zero(fd, va, size)
                files.write_all(fd, masks, length * elt_sz)
        except (OSError, EalError) as e:
            if mine:
                files.discard(self.path(name))
            _undo(va, size, fd)
            raise _as_eal(e, f"Cannot create array {name}") from None
        self.areas[va] = size, fd
        memset(addressof(desc), 0, sizeof(desc))
        desc.name, desc.len, desc.elt_sz, desc.data = name.encode(), length, elt_sz, va
        return Fbarray(desc, fd)

    def attach(self, desc: layout.Fbarray | None, elt_sz: int = 0) -> Fbarray:
        """Map an array of another process at the same address. rte_fbarray_attach

        Raises EalError: EEXIST if it overlaps a mapped array, ENOENT without a file, EADDRNOTAVAIL,
        EINVAL for a file of another size, which EAL would cut or extend.
        """
        shared = _given(desc)
        desc = layout.Fbarray.from_buffer_copy(shared)  # which no process changes meanwhile
        size, name = checked_size(desc, elt_sz), _name(desc)
        for va, (length, _) in self.areas.items():
            if desc.data < va + length and va < desc.data + size:
                what = f"Cannot attach array {name}: another array is mapped at {va:#x}"
                raise EalError(EEXIST, "fbarray", what, reason="address-taken")
        va, fd = self.space.reserve(size, addr=desc.data), -1
        try:
            fd = files.open_shared(self.path(name), self.flags)
            self._lock_attached(fd)
            if (found := os.fstat(fd).st_size) != size:
                raise _invalid(f"Cannot use {self.path(name)}", f"{size} bytes", found)
            libc.mmap(va, size, self.prot, MAP_SHARED | MAP_FIXED, fd)
        except (OSError, EalError) as e:
            _undo(va, size, fd)
            raise _as_eal(e, f"Cannot attach array {name}") from None
        self.areas[va] = size, fd
        shape = desc.data, desc.len, desc.elt_sz
        return Fbarray(shared, fd if self.prot == PROT_RW else -1, shape)

    def _lock_attached(self, fd: int) -> None:
        """Keep the array's owner from removing it. EAL: eal_file_lock"""
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)

    def _area(self, desc: layout.Fbarray | None) -> tuple[layout.Fbarray, int, int]:
        desc = _given(desc)
        size, fd = self.areas.get(desc.data, (0, -1))
        if not size or size != file_size(desc.len, desc.elt_sz):
            raise EalError(ENOENT, "fbarray", f"array {desc.name!r} is not mapped")
        return desc, size, fd

    def write(self, desc: layout.Fbarray, offset: int, data: bytes | memoryview) -> None:
        """Copy data into the elements, through the file: that saves a fault for each page."""
        _, _, fd = self._area(desc)
        if fd >= 0:
            try:
                files.write_all(fd, data, offset)
            except OSError as e:
                raise _as_eal(e, f"Cannot extend array {_name(desc)}") from None
        else:
            libc.memory(desc.data + offset, len(data))[:] = data

    def use_all(self, desc: layout.Fbarray) -> None:
        """Mark every entry as used, through the file."""
        whole, rest = divmod(desc.len, 8)
        mask = b"\xff" * whole + bytes([(1 << rest) - 1]) * bool(rest)
        words = mask.ljust(8 * n_words(desc.len), b"\0")
        self.write(desc, desc.len * desc.elt_sz + 8, words)
        desc.count = desc.len

    def detach(self, desc: layout.Fbarray | None) -> None:
        """Unmap an array; file and descriptor stay. EalError(ENOENT). rte_fbarray_detach"""
        desc, size, fd = self._area(desc)
        del self.areas[desc.data]
        _undo(desc.data, size, fd)

    def destroy(self, desc: layout.Fbarray | None) -> None:
        """Remove file, mapping and descriptor. rte_fbarray_destroy

        Raises EalError: EBUSY while another process has it attached, ENOENT without its file; the
        array stays then.
        """
        desc, size, fd = self._area(desc)
        name = _name(desc)
        if fd >= 0:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)  # the refusal dropped this lock
                what = f"Cannot remove array {name}: another process uses it"
                raise EalError(EBUSY, "fbarray", what, reason="in-use") from None
            try:
                os.unlink(self.path(name))
            except OSError as e:
                fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
                raise _as_eal(e, f"Cannot remove array {name}") from None
        del self.areas[desc.data]
        self._drop(desc.data, size, fd)
        memset(addressof(desc), 0, sizeof(desc))

    def close(self, remove: bool = False) -> None:
        """Detach all arrays; remove: also delete their files, after a failed start."""
        for va, (size, fd) in self.areas.items():
            if remove and fd >= 0:
                name = os.readlink(f"/proc/self/fd/{fd}")
                if not name.endswith(" (deleted)"):
                    os.unlink(name)
            self._drop(va, size, fd)
        self.areas.clear()

    def release(self, arr: Fbarray) -> None:
        """Release a view of an array before the array is unmapped."""
        va = arr.data
        if kept := arr.release():
            self.viewed[va] = kept

    def _drop(self, va: int, size: int, fd: int) -> None:
        """Unmap an array; zeros of this process replace it as long as a caller keeps a view."""
        elements = self.viewed.pop(va, bool)()
        if elements:
            retire(va, size, elements)
            if fd >= 0:
                os.close(fd)
        else:
            _undo(va, size, fd)


def _given(desc: layout.Fbarray | None) -> layout.Fbarray:
    if desc is None:
        raise _invalid("no descriptor", "that of an array", desc)
    return desc


def _name(desc: layout.Fbarray) -> str:
    """Return an array's name, which is part of a path. EalError(EINVAL) if it leads elsewhere."""
    name: str = desc.name.decode("latin-1")
    if not name.isascii() or not name.isprintable() or "/" in name:
        raise _invalid("bad array name", "printable ASCII without /", repr(name))
    return name


def _validate(name: str, length: int, elt_sz: int) -> None:
    if not name or not 0 < length <= INT_MAX or elt_sz <= 0:
        expected = f"a name, 1 to {INT_MAX} elements of at least 1 byte"
        raise _invalid("bad array", expected, f"{name!r}, {length} of {elt_sz} bytes")
    if len(name) >= layout.FBARRAY_NAME_LEN:
        what, most = "array name too long", f"at most {layout.FBARRAY_NAME_LEN - 1} characters"
        raise EalError(ENAMETOOLONG, "fbarray", what, expected=most, found=repr(name))


def checked_size(desc: layout.Fbarray, elt_sz: int = 0) -> int:
    """Return the bytes of the file of an array that another process describes.

    elt_sz: of its elements, 0 for any. Raises EalError(EINVAL) if the numbers cannot be true.
    """
    name = _name(desc)
    _validate(name, desc.len, desc.elt_sz)
    if not desc.data or desc.data % PAGE or desc.count > desc.len:
        found = f"{desc.count} of {desc.len} elements used, at {desc.data:#x}"
        raise _invalid(f"bad descriptor of array {name}", "a count and a page's address", found)
    if elt_sz and desc.elt_sz != elt_sz:
        found = f"{desc.elt_sz} bytes"
        raise _invalid(f"bad descriptor of array {name}", f"elements of {elt_sz} bytes", found)
    return file_size(desc.len, desc.elt_sz)


def _lock_new(fd: int, path: str) -> None:
    """Lock exclusively for a moment, to see that no process has it; then shared for good."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as e:
        if e.errno != EWOULDBLOCK:
            raise
        what, found = f"couldn't lock {path}", "a lock of another process"
        fix = "end the primary and secondaries of this --file-prefix"
        raise EalError(EBUSY, "fbarray", what, found=found, fix=fix, reason="in-use") from None
    fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)


def _zero(fd: int, va: int, size: int) -> None:
    try:
        libc.fallocate(fd, libc.PUNCH_HOLE, 0, size)
    except OSError:  # the file system has no holes
        memset(va, 0, size)


def _undo(va: int, size: int, fd: int) -> None:
    libc.munmap(va, size)
    if fd >= 0:
        os.close(fd)


def _as_eal(e: OSError | EalError, what: str) -> EalError:
    if isinstance(e, EalError):
        return e
    found = f"{e.strerror} ({e.filename})" if e.filename else e.strerror or ""
    return EalError(e.errno or 0, "fbarray", what, found=found)
