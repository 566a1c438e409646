"""Reserves address space by a rising cursor, so that addresses are the same in every process."""

from __future__ import annotations

import os
from _thread import allocate_lock
from errno import E2BIG, EADDRNOTAVAIL

from . import libc
from .errors import EalError, Log
from .host import parse_maps
from .layout import BASE
from .libc import MADV_DONTDUMP, MAP_FIXED, MAP_FIXED_NOREPLACE, PAGE, PROT_RW

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


TRIES = 5  # moves of the cursor before the kernel's own choice is taken
MUCH = 1 << 30  # bytes: more than any thread maps while there is a gap

choosing = allocate_lock()  # an address; all EALs of the process begin at the same ones


def align(n: int, to: int) -> int:
    """Returns n rounded up to a multiple of a power of two."""
    return (n + to - 1) & -to


class VaSpace:
    """The address cursor of one EAL. common/eal_common_memory.c: eal_get_virtual_area

    base: --base-virtaddr, 0 for the architecture's own; primary: only a primary has a cursor.
    """

    def __init__(
        self,
        base: int = 0,
        log: Log = lambda level, text: None,
        hint_warning: str = "asked",
        primary: bool = True,
    ) -> None:
        self.cursor = (base or BASE) if primary else 0
        self.asked, self.hint_warning, self.log = bool(base), hint_warning, log
        self.missed: tuple[int, int] | None = None  # the last hint, and the address instead of it

    def reserve(self, size: int, page_sz: int = PAGE, addr: int = 0) -> int:
        """Reserves size bytes (a multiple of page_sz), aligned to page_sz; returns their address.

        Without addr the cursor is the hint and moves behind the area. With addr the area is there,
        or EalError(EADDRNOTAVAIL) names what is mapped there. EalError(ENOMEM) if nothing fits.
        """
        hint = not addr and bool(self.cursor)
        wanted = align(self.cursor, page_sz) if hint else addr
        exact = (bool(wanted) and wanted % page_sz == 0 and not hint) or page_sz == PAGE
        length = size if exact else size + page_sz
        if length > 2**64 - 1:
            raise _refused(E2BIG, f"Map size too big: {length:#x} bytes")
        with choosing:
            for left in range(TRIES, -1, -1):
                got = _map(wanted, length)
                if not hint or got == wanted:
                    break
                self.cursor += page_sz
                if left:
                    libc.munmap(got, length)
                    wanted = self.cursor
            va = got if exact else align(got, page_sz)
            if wanted and va != wanted:
                if not hint:
                    libc.munmap(got, length)
                    what = "Cannot get a virtual area at requested address"
                    why = f"{wanted:#x} (got {va:#x}); {what_lies_at(wanted, size)}"
                    raise _refused(EADDRNOTAVAIL, f"{what}: {why}", reason="address-taken")
                self._not_respected(wanted, va)
            elif self.cursor:
                self.cursor = va + size
            if before := va - got:
                libc.munmap(got, before)
            if after := got + length - va - size:
                libc.munmap(va + size, after)
        try:
            libc.madvise(va, size, MADV_DONTDUMP)
        except OSError as e:  # the only cost is a bigger core dump
            self.log("ERR", f"{e}")
        return va

    def _not_respected(self, wanted: int, got: int) -> None:
        self.missed = wanted, got
        level = "WARNING" if self.hint_warning == "always" or self.asked else "DEBUG"
        what = f"WARNING! Base virtual address hint ({wanted:#x} != {got:#x}) not respected!"
        self.log(level, what)
        self.log(level, "   This may cause issues with mapping memory into secondary processes")


def _map(wanted: int, length: int) -> int:
    try:
        return libc.reserve(wanted, length)
    except OSError as e:
        what, errno = "Cannot get a virtual area", e.errno or 0
        area, why = f"{length:#x} bytes at {wanted:#x}", os.strerror(errno)
        fix = "raise ulimit -v, or set vm.overcommit_memory to 0"
        raise _refused(errno, what, expected=area, found=why, fix=fix) from None


def _refused(errno: int, what: str, reason: str = "address-space", **fields: str) -> EalError:
    return EalError(errno, "vaspace", what, reason=reason, **fields)


def make_gap(va: int, length: int, between: Sequence[tuple[int, int]] = ()) -> int:
    """Removes a reservation, as over it each page that is mapped costs more; `choosing` is held.

    Returns the flag for those mappings. between: (address, bytes) of what no page is mapped to,
    which stays reserved. Nothing else is mapped into the gap meanwhile: other EALs of this process
    wait, and the kernel chooses higher addresses, whether it searches from the top down or from the
    bottom up. If it does not, all of the range stays reserved. OSError.
    """
    much = _chosen(MUCH)
    if much < va:
        return MAP_FIXED
    libc.munmap(va, length)
    if _chosen(PAGE) < much:
        libc.reserve(va, length, MAP_FIXED_NOREPLACE)
        return MAP_FIXED
    if between:
        vas, lengths = zip(*between, strict=True)
        kind = libc.MAP_PRIVATE | libc.MAP_ANONYMOUS | MAP_FIXED_NOREPLACE
        got = libc.syscall_batch("mmap", len(vas), vas, lengths, libc.PROT_NONE, kind, -1, 0)
        if got[-1] < 0:
            give_back(va, length)
            raise OSError(-got[-1], f"{len(vas)} gaps between pages: {os.strerror(-got[-1])}")
        try:
            libc.madvise(va, length, MADV_DONTDUMP)
        except OSError:  # which names what is not mapped yet, after doing it to the rest
            pass
    return MAP_FIXED_NOREPLACE


def _chosen(length: int) -> int:
    """Returns where the kernel maps that much now, 0 if nowhere: a limit on address space."""
    try:
        va = libc.reserve(0, length)
    except OSError:
        return 0
    libc.munmap(va, length)
    return va


def map_into_gap(
    fds: list[int], vas: Sequence[int], page_sz: int, kind: int, prot: int = PROT_RW
) -> tuple[int, OSError | None]:
    """Maps the start of each file at its address, ascending, in place of a reservation.

    Returns how many are mapped, and the error of the one behind them if it failed. The gaps between
    them and the range from that one on stay reserved.
    """
    if len(vas) < 2:
        return libc.mmap_batch(fds, vas, page_sz, kind | MAP_FIXED, prot)
    va, end, between = vas[0], vas[-1] + page_sz, []
    if end - va > len(vas) * page_sz:
        both = zip(vas, vas[1:], strict=False)
        between = [(a + page_sz, b - a - page_sz) for a, b in both if b - a > page_sz]
    with choosing:
        try:
            fixed = make_gap(va, end - va, between)
        except OSError as e:
            return 0, e
        n, error = libc.mmap_batch(fds, vas, page_sz, kind | fixed, prot)
        if error:
            give_back(vas[n], end - vas[n])
        return n, error


def give_back(va: int, length: int) -> None:
    """Makes pages a reservation again: no access, no memory, not in core dumps."""
    libc.reserve(va, length, MAP_FIXED)
    try:
        libc.madvise(va, length, MADV_DONTDUMP)
    except OSError:  # a filter forbids it: a core dump is bigger
        pass


def what_lies_at(va: int, length: int, proc: str = "/proc") -> str:
    """Returns the first mapping of this process that overlaps the range, as a phrase."""
    for start, end, name in mappings(proc):
        if start < va + length and end > va:
            return f"{start:#x}-{end:#x} is {name or 'anonymous memory'}"
    return "nothing lies there now"


def mappings(proc: str = "/proc") -> Iterator[tuple[int, int, str]]:
    """Yields (start, end, name) of this process's mappings, ascending."""
    with open(f"{proc}/self/maps", errors="replace") as f:
        for start, end, _, name in parse_maps(f.read()):
            yield start, end, name
