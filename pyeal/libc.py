"""Every kernel and libc call that Python's os lacks. Each raises OSError naming what was asked for.

os.* is faster than ctypes wherever os has the call, so only mappings, memory policies and a few
flags live here, and `syscall_batch`, which makes one call for thousands of pages. Lengths and
offsets are bytes, addresses are ints.
"""

from __future__ import annotations

import ctypes
import errno
import itertools
import os
import struct
import time
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
FALLOC_KEEP_SIZE, FALLOC_PUNCH_HOLE = 0x1, 0x2
RLIMIT_NOFILE = 7
MPOL_DEFAULT, MPOL_PREFERRED, MPOL_LOCAL = 0, 1, 4
ADDR_NO_RANDOMIZE = 0x0040000
HUGETLBFS_MAGIC = 0x958458F6
PAGE = 4096
MAX_NODES = 1024

_NR = {  # get_mempolicy, set_mempolicy, move_pages: libc has no wrapper for them
    "x86_64": (239, 238, 279),
    "aarch64": (236, 237, 239),
    "ppc64le": (260, 261, 301),
    "riscv64": (236, 237, 239),
}.get(os.uname().machine, (-1, -1, -1))

# CDLL lets other threads run during the call, which is what populating pages in parallel needs;
# PyDLL does not, and is what a call of a few microseconds wants.
_long = ctypes.CDLL(None, use_errno=True)
_short = ctypes.PyDLL(None, use_errno=True)


def _bind(lib: ctypes.CDLL, name: str, result: type, *args: type) -> ctypes._FuncPointer:
    fn = lib[name]  # indexing gives each user a function object of its own
    fn.restype, fn.argtypes = result, args
    return fn


_personality = _bind(_short, "personality", c_int, c_ulong)
_mmap_args = c_void_p, c_size_t, c_int, c_int, c_int, c_long
_mmap = _bind(_short, "mmap", c_void_p, *_mmap_args)
_mmap_populate = _bind(_long, "mmap", c_void_p, *_mmap_args)
_mprotect = _bind(_short, "mprotect", c_int, c_void_p, c_size_t, c_int)
_munmap = _bind(_long, "munmap", c_int, c_void_p, c_size_t)
_madvise = _bind(_long, "madvise", c_int, c_void_p, c_size_t, c_int)
_fallocate = _bind(_long, "fallocate", c_int, c_int, c_int, c_long, c_long)
_prlimit = _bind(_short, "prlimit", c_int, c_int, c_int, c_void_p, c_void_p)
_statfs = _bind(_short, "statfs", c_int, ctypes.c_char_p, c_void_p)
_policy = _bind(_short, "syscall", c_long, c_long, c_void_p, c_void_p, c_ulong, c_void_p, c_ulong)
_set_policy = _bind(_short, "syscall", c_long, c_long, c_int, c_void_p, c_ulong)
_move_pages = _bind(
    _short, "syscall", c_long, c_long, c_int, c_ulong, c_void_p, c_void_p, c_void_p, c_int
)


_inotify_init = _bind(_short, "inotify_init1", c_int, c_int)
_inotify_add = _bind(_short, "inotify_add_watch", c_int, c_int, ctypes.c_char_p, ctypes.c_uint32)
IN_CREATE = 0x100


# an array type of ctypes, for each length anew, costs more than what is done with it
PYBUF_WRITE = 0x200
_view = ctypes.pythonapi["PyMemoryView_FromMemory"]
_view.restype, _view.argtypes = ctypes.py_object, (c_void_p, ctypes.c_ssize_t, c_int)


def fail(what: str) -> OSError:
    """The OSError of the call just made, with what was asked for in its text."""
    no = ctypes.get_errno()
    return OSError(no, f"{what}: {os.strerror(no)}")


def mmap(addr: int, length: int, prot: int, flags: int, fd: int = -1, offset: int = 0) -> int:
    """mmap(2); the address. OSError names range, descriptor and offset."""
    call = _mmap_populate if flags & MAP_POPULATE else _mmap
    va = call(addr, length, prot, flags, fd, offset)
    if va == MAP_FAILED:
        e = fail(f"mmap of {length:#x} bytes at {addr:#x} (fd {fd}, offset {offset:#x})")
        if flags & MAP_FIXED:
            _close_gap(addr, length)
        raise e
    return va or 0


def _close_gap(addr: int, length: int) -> None:
    """A MAP_FIXED mapping that fails can take away what was there (Linux 6.12 does).

    Whoever still counts the range as his would later unmap what others got there.
    """
    kind = MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE
    va = _mmap(addr, length, PROT_NONE, kind, -1, 0)  # fails where all is as it was
    if va not in (MAP_FAILED, addr):
        _munmap(va, length)  # before Linux 4.17 the address is only a hint


# The same system call again and again, as a function of C: rows of six arguments, how many, the
# call's number, and the highest result, unsigned, after which it goes on. Each result goes where
# the first argument was; the function answers where it ended.
_LOOP_CODE = bytes.fromhex(
    "f30f1efa 53 55 4154 4155"  # endbr64; push rbx, rbp, r12, r13
    "4889fb 4889f5 4989d4 4989cd"  # mov rbx, rdi; mov rbp, rsi; mov r12, rdx; mov r13, rcx
    "48ffcd 7828"  # next: dec rbp; js end
    "488b3b 488b7308 488b5310"  # mov rdi, [rbx]; mov rsi, [rbx + 8]; mov rdx, [rbx + 16]
    "4c8b5318 4c8b4320 4c8b4b28"  # mov r10, [rbx + 24]; mov r8, [rbx + 32]; mov r9, [rbx + 40]
    "4c89e0 0f05 488903"  # mov rax, r12; syscall; mov [rbx], rax
    "4883c330 4c39e8 76d3"  # add rbx, 48; cmp rax, r13; jbe next
    "4889d8 415d 415c 5d 5b c3"  # end: mov rax, rbx; pop r13, r12, rbp, rbx; ret
)
_LOOP_CALLS = {  # those that `syscall_batch` is used for, by their numbers on x86_64
    "flock": 73, "lseek": 8, "memfd_create": 319, "mmap": 9, "openat": 257, "pread": 17,
}  # fmt: skip
AT_FDCWD = -100


# A 4-byte word is made new if it is old; whether it was.
_CAS_CODE = bytes.fromhex(
    "f30f1efa 89f0 f00fb117"  # endbr64; mov eax, esi; lock cmpxchg [rdi], edx
    "0f94c0 0fb6c0 c3"  # sete al; movzx eax, al; ret
)
# Rising numbers go into 8-byte words: where, how many, the first, the step, bytes from word to
# word, and how far behind each it stands once more.
_COUNT_CODE = bytes.fromhex(
    "f30f1efa 48ffce 780f"  # endbr64; next: dec rsi; js end
    "488917 4a89140f"  # mov [rdi], rdx; mov [rdi + r9], rdx
    "4801ca 4c01c7 ebec c3"  # add rdx, rcx; add rdi, r8; jmp next; end: ret
)


def _function(code: bytes, result: type, *args: type) -> Callable[..., Any] | Literal[False]:
    """That code where it can run; False elsewhere, and where no memory may become code."""
    if os.uname().machine != "x86_64" or ctypes.sizeof(c_void_p) != 8:
        return False
    try:
        va = mmap(0, PAGE, PROT_RW, MAP_PRIVATE | MAP_ANONYMOUS)
    except OSError:
        return False
    ctypes.memmove(va, code, len(code))
    if _mprotect(va, PAGE, PROT_READ | PROT_EXEC):
        munmap(va, PAGE)
        return False
    fn = _short._FuncPtr(va)  # PYFUNCTYPE would make a class
    fn.restype, fn.argtypes = result, args
    return fn


_loop: Callable[..., int] | Literal[False] | None = None  # not tried yet


def syscall_batch(
    call: str, n: int, *args: int | Sequence[int] | Sequence[str], go_on: bool = False
) -> list[int]:
    """The same system call n times: the results, -errno for one that fails.

    By machine code: what Python needs for a call, 1 to 3 µs, is a good part of what a page costs.

    args: what is the same for all, or a number or a file's name for each. After the first that
    fails no more are made, and the results are fewer, unless go_on.
    """
    global _loop
    if _loop is None:
        _loop = _function(_LOOP_CODE, c_long, c_void_p, c_long, c_long, c_long)
    row = [a if isinstance(a, int) else 0 for a in args]
    buffer = bytearray(struct.pack("=6q", *row, *[0] * (6 - len(row)))) * n
    rows, kept = memoryview(buffer).cast("q"), list[bytes]()
    for i, column in enumerate(args):
        if isinstance(column, int):
            continue
        values: Sequence[Any] = column
        if column and isinstance(column[0], str):
            values, names = _addresses(values)
            kept.append(names)  # until the calls are made
        rows[i::6] = packed("q", values)
    if _loop:
        start = ctypes.addressof(ctypes.c_char.from_buffer(buffer)) if n else 0
        end = _loop(start, n, _LOOP_CALLS[call], -1 if go_on else -4096)
        return rows[: (end - start) // 8 : 6].tolist()
    kind = c_long if call in ("lseek", "mmap", "pread") else c_int
    fn, done = _bind(_short, call, kind, *[c_long] * len(args)), 0
    while done < n and (go_on or not done or rows[6 * (done - 1)] >= 0):
        result = fn(*rows[6 * done : 6 * done + len(args)])
        rows[6 * done] = -ctypes.get_errno() if result == -1 else result
        done += 1
    return rows[: 6 * done : 6].tolist()


def _addresses(names: Sequence[str]) -> tuple[list[int], bytes]:
    """Where each of the names is as C's string, and the memory that they are in."""
    data = os.fsencode("\0".join(names) + "\0")
    at = ctypes.cast(ctypes.c_char_p(data), c_void_p).value
    before = names[:-1] if data.isascii() else data.split(b"\0")[:-2]
    lengths = [len(name) + 1 for name in before]
    return list(itertools.accumulate(lengths, initial=at)), data


def pread_batch(fd: int, size: int, offsets: range) -> bytearray:
    """As many bytes from each offset, one piece after the other. OSError, also for a short piece.

    A call for each costs less than all that lies between them.
    """
    found = bytearray(size * len(offsets))
    to = ctypes.addressof(ctypes.c_char.from_buffer(found)) if found else 0
    got = syscall_batch("pread", len(offsets), fd, range(to, to + len(found), size), size, offsets)
    if got and min(got) < size:
        n, at = next((n, at) for n, at in zip(got, offsets, strict=False) if n < size)
        if n < 0:
            raise OSError(-n, os.strerror(-n))
        raise OSError(errno.EIO, f"{size} bytes at {at} wanted, {n} found")
    return found


def mmap_batch(
    fds: list[int], vas: Sequence[int], page_sz: int, flags: int, done: list[int],
    prot: int = PROT_RW,
) -> None:  # fmt: skip
    """Maps the start of each file at its address; one call a page, nothing else.

    done[0] counts the pages mapped so far, so that a failing one is known. Raises OSError.
    """
    got = syscall_batch("mmap", len(fds), vas, page_sz, prot, flags, fds, 0)
    done[0] = len(got)
    if got and got[-1] < 0:
        done[0] -= 1
        fd, at = fds[done[0]], vas[done[0]]
        if flags & MAP_FIXED:
            _close_gap(at, page_sz)
        why = os.strerror(-got[-1])
        raise OSError(-got[-1], f"mmap of {page_sz:#x} bytes at {at:#x} (fd {fd}): {why}")


def munmap(addr: int, length: int) -> None:
    if _munmap(addr, length):
        raise fail(f"munmap of {length:#x} bytes at {addr:#x}")


def madvise(addr: int, length: int, advice: int) -> None:
    if _madvise(addr, length, advice):
        raise fail(f"madvise({advice}) of {length:#x} bytes at {addr:#x}")


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    if _fallocate(fd, mode, offset, length):
        raise fail(f"fallocate({mode}) of {length:#x} bytes at {offset:#x} of fd {fd}")


def raise_open_files() -> int:
    """Lets this process have as many files open as it may, and answers how many. OSError.

    linux/eal_memory.c: rte_eal_memseg_init. `resource` would cost more than all of the call.
    """
    limits = (c_ulong * 2)()  # soft, hard
    if not _prlimit(0, RLIMIT_NOFILE, None, limits):
        limits[0] = limits[1]
        if not _prlimit(0, RLIMIT_NOFILE, limits, None):
            return limits[1]
    raise fail("prlimit(RLIMIT_NOFILE)")


def reserve(addr: int, length: int, flags: int = 0) -> int:
    """Address space without memory, near or (MAP_FIXED) at addr. unix/eal_unix_memory.c"""
    return mmap(addr, length, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | flags)


def statfs(path: str) -> tuple[int, int]:
    """(file system type, block size) of the file system at path."""
    buf = (c_long * 32)()
    if _statfs(os.fsencode(path), buf):
        raise fail(f"statfs of {path}")
    return buf[0], buf[1]


def log2_flag(page_sz: int) -> int:
    """The page size as MAP_HUGE_*/MFD_HUGE_* flag."""
    return (page_sz.bit_length() - 1) << HUGE_SHIFT


def get_mempolicy() -> tuple[int, bytes]:
    """The calling thread's memory policy and its node mask. OSError(ENOSYS) without NUMA."""
    mode, mask = c_int(), ctypes.create_string_buffer(MAX_NODES // 8)
    if _policy(_NR[0], ctypes.addressof(mode), ctypes.addressof(mask), MAX_NODES, 0, 0):
        raise fail("get_mempolicy")
    return mode.value, mask.raw


def set_mempolicy(mode: int, mask: bytes = b"") -> None:
    """Sets the calling thread's policy; the mask holds one bit a node."""
    buf = ctypes.create_string_buffer(mask, len(mask)) if mask else None
    # the kernel ignores the highest bit that it is told of
    if _set_policy(_NR[1], mode, buf and ctypes.addressof(buf), len(mask) * 8 + 1 if mask else 0):
        raise fail(f"set_mempolicy({mode}, {mask.hex()})")


def page_nodes(va: int, page_sz: int, n: int) -> list[int]:
    """The node of each of n pages, a negative errno where there is none. One call.

    OSError(ENOSYS) where the kernel knows no nodes.
    """
    addrs = packed("Q", range(va, va + n * page_sz, page_sz)).tobytes()
    status = ctypes.create_string_buffer(4 * n)
    if _move_pages(_NR[2], 0, n, addrs, None, status, 0) < 0:
        raise fail(f"move_pages query of {n} pages at {va:#x}")
    return memoryview(status).cast("B").cast("i").tolist()


def personality() -> int:
    """This process's execution domain flags."""
    return int(_personality(0xFFFFFFFF))


def memory(va: int, length: int) -> memoryview:
    """The bytes at va as a writable view. It must go before the mapping does."""
    view: memoryview = _view(va, length, PYBUF_WRITE)
    return view


def packed(kind: Literal["I", "Q", "q"], values: Sequence[int]) -> memoryview:
    """Numbers as C's, to assign to such a view: kind "I" are 4 bytes each, "Q" and "q" are 8."""
    return memoryview(struct.pack(f"={len(values)}{kind}", *values)).cast(kind)


_store: Callable[[int, int, int, int, int, int], object] | None = None  # not looked for yet


def store_sequence(at: int, n: int, first: int, step: int, every: int, again: int = 0) -> None:
    """Writes n numbers, first, first + step and so on, as 8-byte words `every` bytes apart.

    again: each once more so many bytes behind.
    """
    global _store
    if _store is None:
        _store = _function(_COUNT_CODE, c_long, c_void_p, *[c_long] * 5) or _store_plain
    _store(at, n, first, step, every, again)


def _store_plain(at: int, n: int, first: int, step: int, every: int, again: int) -> None:
    values = packed("Q", range(first, first + n * step, step))
    for start in {at, at + again} if n else ():
        memory(start, (n - 1) * every + 8).cast("Q")[:: every // 8] = values


_cas: Callable[[int, int, int], int] | None = None  # not looked for yet


def compare_exchange(va: int, old: int, new: int) -> bool:
    """Atomically makes the signed 4-byte word at va new if it is old.

    Python has no atomic operation on memory. Where no code can be made gcc's run-time library has
    one; where that is missing, too, a plain store is made, which is right as long as no other
    process shares the word.
    """
    global _cas
    if _cas is None:
        _cas = _function(_CAS_CODE, c_int, c_void_p, c_int, c_int) or _cas_of_gcc() or _cas_plain
    return bool(_cas(va, old, new))


def _cas_of_gcc() -> Callable[[int, int, int], int] | None:
    try:
        fn = ctypes.PyDLL("libatomic.so.1")["__atomic_compare_exchange_4"]
    except OSError:
        return None
    fn.restype, fn.argtypes = ctypes.c_bool, (c_void_p, c_void_p, c_int, c_int, c_int)
    return lambda va, old, new: fn(va, ctypes.byref(c_int(old)), new, 5, 5)


def _cas_plain(va: int, old: int, new: int) -> int:
    word = c_int.from_address(va)
    if word.value != old:
        return False
    word.value = new
    return True


def lock_word(va: int, free: Callable[[int], bool], add: int, wait: float) -> None:
    """Adds to the lock word at va once it is free; OSError(ETIMEDOUT) when it never is."""
    word, pause, left = c_int.from_address(va), 1e-5, wait
    while True:
        value = word.value
        if free(value):
            if compare_exchange(va, value, value + add):
                return
        elif left > 0:
            time.sleep(pause)
            left, pause = left - pause, min(pause * 2, 0.01)
        else:
            raise OSError(
                errno.ETIMEDOUT,
                f"the lock word at {va:#x} holds {value}, for {wait} s; its holder may be dead",
            )


def watcher() -> int:
    """A descriptor that becomes readable when something is made in a directory it watches."""
    fd = int(_inotify_init(os.O_NONBLOCK | os.O_CLOEXEC))
    if fd < 0:
        raise fail("inotify_init1")
    return fd


def watch(fd: int, path: str) -> None:
    """Has that watcher watch the directory, too."""
    if _inotify_add(fd, os.fsencode(path), IN_CREATE) < 0:
        raise fail(f"inotify_add_watch of {path}")


def made(fd: int) -> list[str]:
    """Names of what was made there since the last call."""
    data, at, names = os.read(fd, 1 << 16), 0, []
    while at < len(data):  # int wd, uint32_t mask, cookie, len; char name[len]
        end = at + 16 + int.from_bytes(data[at + 12 : at + 16], "little")
        names.append(os.fsdecode(data[at + 16 : end].rstrip(b"\0")))
        at = end
    return names


def break_word(va: int) -> None:
    """Frees a lock word whose holders are dead."""
    word = c_int.from_address(va)
    while not compare_exchange(va, word.value, 0):
        pass


def zero(va: int, length: int) -> None:
    ctypes.memset(va, 0, length)
