"""The kernel and libc calls that Python's os module lacks, and native code for batches of them.

Where os has a call, os is faster than ctypes. This module therefore holds mappings, memory
policies, some flags, and what native.c does: one system call for thousands of pages, atomic
exchange, rising numbers. Lengths and offsets are in bytes, addresses are int. Each function raises
OSError with the path, address or size that it was called with.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from _thread import allocate_lock
from ctypes import c_int, c_long, c_size_t, c_ulong, c_void_p

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Any, Literal

PROT_NONE, PROT_READ, PROT_WRITE, PROT_EXEC = 0, 1, 2, 4
PROT_RW = PROT_READ | PROT_WRITE
MAP_SHARED, MAP_PRIVATE, MAP_FIXED, MAP_ANONYMOUS = 0x01, 0x02, 0x10, 0x20
MAP_POPULATE, MAP_HUGETLB, MAP_FIXED_NOREPLACE = 0x8000, 0x40000, 0x100000
MAP_NORESERVE = 0x4000
MAP_FAILED = c_void_p(-1).value
HUGE_SHIFT = 26  # log2 of the page size goes here, for mmap and memfd_create alike
MADV_DONTDUMP, MADV_POPULATE_READ, MADV_POPULATE_WRITE = 16, 22, 23
MFD_HUGETLB = 0x4
FALLOC_KEEP_SIZE, PUNCH_HOLE = 0x1, 0x3  # the latter with the former, which it needs
RLIMIT_NOFILE = 7
MPOL_DEFAULT, MPOL_PREFERRED, MPOL_LOCAL = 0, 1, 4
ADDR_NO_RANDOMIZE = 0x0040000
HUGETLBFS_MAGIC = 0x958458F6
PAGE = os.sysconf("SC_PAGESIZE")  # the kernel's; files and mappings are rounded up to it
MAX_NODES = 1024
MACHINE = os.uname().machine if ctypes.sizeof(c_void_p) == 8 else ""
if MACHINE.startswith("ppc"):
    MAP_NORESERVE = 0x40

# numbers of the calls that libc has no wrapper for, and of those that are made in batches
_CALLS = "flock get_mempolicy lseek memfd_create mmap move_pages openat pread set_mempolicy".split()
_GENERIC = 32, 236, 62, 279, 222, 239, 56, 67, 237  # include/uapi/asm-generic/unistd.h
_NUMBERS = {
    "aarch64": _GENERIC,
    "loongarch64": _GENERIC,
    "ppc64le": (143, 260, 19, 360, 90, 301, 286, 179, 261),
    "riscv64": _GENERIC,
    "x86_64": (73, 239, 8, 319, 9, 279, 257, 17, 238),
}
_NR = dict(zip(_CALLS, _NUMBERS.get(MACHINE, ()), strict=False))

# CDLL releases the interpreter during the call, so that threads populate pages in parallel. PyDLL
# keeps it, which is faster for a call of a few microseconds.
_long = ctypes.CDLL(None, use_errno=True)
short = ctypes.PyDLL(None, use_errno=True)


def bind(lib: ctypes.CDLL, name: str, result: type, *args: type) -> ctypes._FuncPointer:
    fn = lib[name]  # indexing returns a new function object each time
    fn.restype, fn.argtypes = result, args
    return fn


_personality = bind(short, "personality", c_int, c_ulong)
_mmap_args = c_void_p, c_size_t, c_int, c_int, c_int, c_long
_mmap = bind(short, "mmap", c_void_p, *_mmap_args)
_mmap_populate = bind(_long, "mmap", c_void_p, *_mmap_args)
_munmap = bind(_long, "munmap", c_int, c_void_p, c_size_t)
_madvise = bind(_long, "madvise", c_int, c_void_p, c_size_t, c_int)
_fallocate = bind(_long, "fallocate", c_int, c_int, c_int, c_long, c_long)
_prlimit = bind(short, "prlimit", c_int, c_int, c_int, c_void_p, c_void_p)
_memfd_create = bind(short, "memfd_create", c_int, ctypes.c_char_p, ctypes.c_uint)
_statfs = bind(short, "statfs", c_int, ctypes.c_char_p, c_void_p)
_policy = bind(short, "syscall", c_long, c_long, c_void_p, c_void_p, c_ulong, c_void_p, c_ulong)
_set_policy = bind(short, "syscall", c_long, c_long, c_int, c_void_p, c_ulong)
_move_pages = bind(
    short, "syscall", c_long, c_long, c_int, c_ulong, c_void_p, c_void_p, c_void_p, c_int
)


# faster than an array type of ctypes, which has to be made for each length
PYBUF_WRITE = 0x200
_view = ctypes.pythonapi["PyMemoryView_FromMemory"]
_view.restype, _view.argtypes = ctypes.py_object, (c_void_p, ctypes.c_ssize_t, c_int)


def thread_stack() -> int:
    """Return the bytes of the stack of a new thread. pthread_attr_getstacksize"""
    attr, size = ctypes.create_string_buffer(128), c_size_t()
    short.pthread_attr_init(attr)
    short.pthread_attr_getstacksize(attr, ctypes.byref(size))
    return size.value


def os_error(what: str) -> OSError:
    """Returns the OSError of the call that was just made, with `what` in its text."""
    no = ctypes.get_errno()
    return OSError(no, f"{what}: {os.strerror(no)}")


def mmap(addr: int, length: int, prot: int, flags: int, fd: int = -1, offset: int = 0) -> int:
    """Maps memory and returns its address. OSError has range, descriptor and offset. mmap(2)"""
    call = _mmap_populate if flags & MAP_POPULATE else _mmap
    va = call(addr, length, prot, flags, fd, offset)
    if va == MAP_FAILED:
        e = os_error(f"mmap of {length:#x} bytes at {addr:#x} (fd {fd}, offset {offset:#x})")
        if flags & MAP_FIXED:
            _reserve_again(addr, length)
        raise e
    return va or 0


def _reserve_again(addr: int, length: int) -> None:
    """Reserves the range of a failed MAP_FIXED, if the failure unmapped it as in Linux 6.12.

    The caller still owns the range. If it stayed free, another mapping could be placed there, and
    the caller would unmap that one later.
    """
    kind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE
    va = _mmap(addr, length, PROT_NONE, kind, -1, 0)  # fails if the range is still mapped
    if va not in (MAP_FAILED, addr):
        _munmap(va, length)  # before Linux 4.17 the address is only a hint


AT_FDCWD = -100
BATCH = 1024  # calls for which the interpreter is kept, so that other threads wait some ms at most
MFD_CLOEXEC, MFD_ALLOW_SEALING, MFD_NOEXEC_SEAL = 0x1, 0x2, 0x8
ADD_SEALS, ALL_SEALS = 1033, 0xF  # F_ADD_SEALS; F_SEAL_SEAL, SHRINK, GROW, WRITE

_code: tuple[int, dict[str, int]] | None = None  # address, offset of each function; None: not tried


def load_native() -> bool:
    """Maps the functions of native.c if needed. Returns whether this process has them.

    They are missing if native_code.py has no object file for this architecture, if the kernel
    refuses to map one as code, and if PYEAL_NATIVE=0 is set. Python then does the same, more
    slowly, except for compare_exchange.
    """
    global _code
    if _code is None:
        _code = _map_native() or (0, {})
    return bool(_code[0])


def _map_native() -> tuple[int, dict[str, int]] | None:
    """Maps the object file read-only, so that it works where writable memory may not become code.

    That is the case with PR_SET_MDWE and with systemd's MemoryDenyWriteExecute=.
    """
    if os.environ.get("PYEAL_NATIVE") == "0":
        return None
    from . import native_code

    if MACHINE not in native_code.OBJECTS:
        return None
    data = bytes.fromhex(native_code.OBJECTS[MACHINE])
    for where in ("", "/dev/shm", "/tmp", "/var/tmp"):  # a memfd first
        try:
            fd = _unnamed(data, where)
        except OSError:
            continue
        try:
            va = mmap(0, len(data), PROT_READ | PROT_EXEC, MAP_PRIVATE, fd)
            return va, native_code.OFFSETS[MACHINE]
        except OSError:  # a file system mounted noexec, or a policy
            continue
        finally:
            os.close(fd)
    return None


def _unnamed(data: bytes, folder: str) -> int:
    """Returns a descriptor of a new file without a name: in that folder, or a sealed memfd."""
    if folder:
        fd = os.open(folder, os.O_RDWR | os.O_TMPFILE | os.O_EXCL | os.O_CLOEXEC, 0o600)
    else:
        kind = MFD_CLOEXEC | MFD_ALLOW_SEALING
        fd = _memfd_create(b"pyeal-native", kind | MFD_NOEXEC_SEAL)  # no program: not for exec
        if fd < 0:
            fd = _memfd_create(b"pyeal-native", kind)  # before Linux 6.3
        if fd < 0:
            raise os_error("memfd_create of pyeal-native")
    try:
        if os.write(fd, data) < len(data):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), folder)
        if not folder:
            fcntl.fcntl(fd, ADD_SEALS, ALL_SEALS)
        return fd
    except OSError:
        os.close(fd)
        raise


def _native(name: str, result: type | None, *args: type) -> Callable[..., Any] | None:
    """Returns that function of native.c, or None if this process has no native code."""
    if not load_native() or not _code:
        return None
    fn = short._FuncPtr(_code[0] + _code[1][name])  # PYFUNCTYPE would make a class
    fn.restype, fn.argtypes = result, args
    return fn


_batch: Callable[..., int] | Literal[False] | None = None  # None: not tried


def syscall_batch(
    call: str, n: int, *args: int | Sequence[int] | Sequence[str], go_on: bool = False
) -> list[int]:
    """Makes the same system call n times and returns the results; -errno of a call that failed.

    Each of args is an int for all calls, or a sequence with an int or a file name for each. Stops
    after the first failure unless go_on is set; the list is then shorter than n.

    Native code makes the calls, because Python needs 1 to 3 microseconds for each. Other threads
    run after every 1024 calls.
    """
    global _batch
    if _batch is None:
        _batch = _native("syscall_batch", c_long, c_void_p, c_long, c_long, c_long) or False
    row = [a if isinstance(a, int) else 0 for a in args]
    buffer = bytearray(struct.pack("=6q", *row, *[0] * (6 - len(row)))) * n
    rows, strings = memoryview(buffer).cast("q"), list[bytes]()
    for i, column in enumerate(args):
        if isinstance(column, int):
            continue
        values: Sequence[Any] = column
        if column and isinstance(column[0], str):
            values, names = _addresses(values)
            strings.append(names)  # referenced until the calls are made
        rows[i::6] = packed("q", values)
    done = 0
    if _batch:
        start = ctypes.addressof(ctypes.c_char.from_buffer(buffer)) if n else 0
        number, last = _NR[call], -1 if go_on else -4096
        while done < n:
            some = min(n - done, BATCH)
            made = (_batch(start + 48 * done, some, number, last) - start) // 48 - done
            done += made
            if made < some or (not go_on and rows[6 * done - 6] < 0):
                break
    else:
        kind = c_long if call in ("lseek", "mmap", "pread") else c_int
        fn = bind(short, call, kind, *[c_long] * len(args))
        while done < n and (go_on or not done or rows[6 * done - 6] >= 0):
            result = fn(*rows[6 * done : 6 * done + len(args)])
            rows[6 * done] = -ctypes.get_errno() if result == -1 else result
            done += 1
    return rows[: 6 * done : 6].tolist()


def _addresses(names: Sequence[str]) -> tuple[list[int], bytes]:
    """Returns the address of each name as a C string, and the memory that holds them all."""
    data = os.fsencode("\0".join(names) + "\0")
    at = first = ctypes.cast(ctypes.c_char_p(data), c_void_p).value or 0
    before = names[:-1] if data.isascii() else data.split(b"\0")[:-2]
    return [first, *[at := at + len(name) + 1 for name in before]], data


def counter_hz() -> int:
    """Returns the frequency of this machine's time stamp counter as a register has it, or 0."""
    native = _native("counter_hz", c_ulong) if MACHINE == "aarch64" else None
    return native() if native else 0


def pread_batch(fd: int, size: int, offsets: range) -> bytearray:
    """Returns `size` bytes from each offset, joined. OSError also if the file ends in a piece.

    One call for each offset costs less than reading all that lies between them.
    """
    found = bytearray(size * len(offsets))
    to = ctypes.addressof(ctypes.c_char.from_buffer(found)) if found else 0
    got = syscall_batch("pread", len(offsets), fd, range(to, to + len(found), size), size, offsets)
    if got and min(got) < size:
        n, at = next((n, at) for n, at in zip(got, offsets, strict=False) if n < size)
        what = f"pread of {size} bytes at {at:#x} of fd {fd}"
        if n < 0:
            raise OSError(-n, f"{what}: {os.strerror(-n)}")
        raise OSError(errno.EIO, f"{what}: expected {size} bytes, found {n}")
    return found


def mmap_batch(
    fds: list[int], vas: Sequence[int], page_sz: int, flags: int, prot: int = PROT_RW
) -> tuple[int, OSError | None]:
    """Maps the first page of each file at its address, with one system call a page.

    Returns how many are mapped, and the error of the one behind them if it failed.
    """
    got = syscall_batch("mmap", len(fds), vas, page_sz, prot, flags, fds, 0)
    if not got or got[-1] >= 0:
        return len(got), None
    n = len(got) - 1
    if flags & MAP_FIXED:
        _reserve_again(vas[n], page_sz)
    what = f"mmap of {page_sz:#x} bytes at {vas[n]:#x} (fd {fds[n]})"
    return n, OSError(-got[n], f"{what}: {os.strerror(-got[n])}")


def munmap(addr: int, length: int) -> None:
    if _munmap(addr, length):
        raise os_error(f"munmap of {length:#x} bytes at {addr:#x}")


def madvise(addr: int, length: int, advice: int) -> None:
    if _madvise(addr, length, advice):
        raise os_error(f"madvise({advice}) of {length:#x} bytes at {addr:#x}")


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    if _fallocate(fd, mode, offset, length):
        raise os_error(f"fallocate({mode}) of {length:#x} bytes at {offset:#x} of fd {fd}")


def raise_open_files() -> int:
    """Raises the limit of open files to the hard limit, and returns it.

    Importing `resource` would cost more than this. linux/eal_memory.c: rte_eal_memseg_init
    """
    limits = (c_ulong * 2)()  # soft, hard
    if not _prlimit(0, RLIMIT_NOFILE, None, limits):
        limits[0] = limits[1]
        if not _prlimit(0, RLIMIT_NOFILE, limits, None):
            return limits[1]
    raise os_error("prlimit(RLIMIT_NOFILE)")


def reserve(addr: int, length: int, flags: int = 0) -> int:
    """Reserves address space near addr, or at it with MAP_FIXED. unix/eal_unix_memory.c"""
    return mmap(addr, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | flags)


def statfs(path: str) -> tuple[int, int]:
    """Returns type and block size of the file system at path. statfs(2)"""
    buf = (c_long * 32)()
    if _statfs(os.fsencode(path), buf):
        raise os_error(f"statfs of {path}")
    return buf[0], buf[1]


def log2_flag(page_sz: int) -> int:
    """Returns the page size as a flag, MAP_HUGE_* and MFD_HUGE_* alike."""
    return (page_sz.bit_length() - 1) << HUGE_SHIFT


def get_mempolicy() -> tuple[int, bytes]:
    """Returns the calling thread's memory policy and node mask. OSError(ENOSYS) without NUMA."""
    mode, mask = c_int(), ctypes.create_string_buffer(MAX_NODES // 8)
    where = ctypes.addressof(mode), ctypes.addressof(mask)
    if _policy(_NR.get("get_mempolicy", -1), *where, MAX_NODES, 0, 0):
        raise os_error("get_mempolicy")
    return mode.value, mask.raw


def set_mempolicy(mode: int, mask: bytes = b"") -> None:
    """Sets the calling thread's memory policy; the mask has a bit for each node."""
    buf = ctypes.create_string_buffer(mask, len(mask)) if mask else None
    bits = len(mask) * 8 + 1 if mask else 0  # the kernel ignores the highest of them
    if _set_policy(_NR.get("set_mempolicy", -1), mode, buf and ctypes.addressof(buf), bits):
        raise os_error(f"set_mempolicy({mode}, {mask.hex()})")


def page_nodes(va: int, page_sz: int, n: int) -> list[int]:
    """Returns the node of each of n pages, or a negative errno, by one call.

    OSError(ENOSYS) if the kernel has no NUMA. move_pages(2)
    """
    addrs = packed("Q", range(va, va + n * page_sz, page_sz)).tobytes()
    status = ctypes.create_string_buffer(4 * n)
    if _move_pages(_NR.get("move_pages", -1), 0, n, addrs, None, status, 0) < 0:
        raise os_error(f"move_pages query of {n} pages at {va:#x}")
    return memoryview(status).cast("B").cast("i").tolist()


def personality() -> int:
    """Returns the execution domain flags of this process. personality(2)"""
    return int(_personality(0xFFFFFFFF))


def memory(va: int, length: int) -> memoryview:
    """Returns the bytes at va as a writable view. Release it before the memory is unmapped."""
    return _view(va, length, PYBUF_WRITE)  # type: ignore[no-any-return]


def packed(kind: Literal["I", "Q", "q"], values: Sequence[int]) -> memoryview:
    """Returns numbers in C's form, to assign to a view: 4 bytes each ("I"), or 8 ("Q", "q")."""
    return memoryview(struct.pack(f"={len(values)}{kind}", *values)).cast(kind)


_store: Callable[[int, int, int, int, int, int], object] | None = None  # None: not tried


def store_sequence(at: int, n: int, first: int, step: int, every: int, again: int = 0) -> None:
    """Stores first, first + step and so on as n words of 8 bytes, `every` bytes apart.

    If `again` is set, stores each word a second time that many bytes behind the first place.
    """
    global _store
    if _store is None:
        _store = _native("store_sequence", None, c_void_p, *[c_long] * 5) or _store_by_python
    _store(at, n, first, step, every, again)


def _store_by_python(at: int, n: int, first: int, step: int, every: int, again: int) -> None:
    values = packed("Q", [first + i * step for i in range(n)])
    for start in {at, at + again} if n else ():
        memory(start, (n - 1) * every + 8).cast("Q")[:: every // 8] = values


_exchange: Callable[[int, int, int], int] | None = None  # None: not tried


def compare_exchange(va: int, old: int, new: int) -> bool:
    """Atomically makes the signed 4-byte word at va new if it is old. Returns whether it did.

    By native code, or by libatomic. OSError(ENOTSUP) if this process has neither: a plain store
    would overwrite what another process stores at the same time.
    """
    global _exchange
    if _exchange is None:
        native = _native("compare_exchange", c_int, c_void_p, c_int, c_int)
        _exchange = native or _exchange_of_libatomic() or _no_exchange
    return bool(_exchange(va, old, new))


def _exchange_of_libatomic() -> Callable[[int, int, int], int] | None:
    try:
        fn = ctypes.PyDLL("libatomic.so.1")["__atomic_compare_exchange_4"]
    except OSError:
        return None
    fn.restype, fn.argtypes = ctypes.c_bool, (c_void_p, c_void_p, c_int, c_int, c_int)
    return lambda va, old, new: fn(va, ctypes.byref(c_int(old)), new, 5, 5)


def _no_exchange(va: int, old: int, new: int) -> int:
    raise OSError(
        errno.ENOTSUP,
        f"Cannot change the word at {va:#x}, which other processes share: expected native code or "
        "libatomic.so.1, found neither. Fix: apt-get install libatomic1",
    )


_private = allocate_lock()


def compare_exchange_private(va: int, old: int, new: int) -> bool:
    """Does the same for a word that no other process maps, on every machine."""
    word = c_int.from_address(va)
    with _private:
        if word.value != old:
            return False
        word.value = new
    return True


def zero(va: int, length: int) -> None:
    ctypes.memset(va, 0, length)
