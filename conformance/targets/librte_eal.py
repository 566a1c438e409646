"""DPDK's own librte_eal as a target: python librte_eal.py [PATH [RELEASE]]

Runs under the Python of the library's own system: 3.9 and later. 20.11 has no function that returns
its release: RELEASE, or what it prints for -v.
"""

from __future__ import annotations

import ctypes as C
import errno
import glob
import mmap
import os
import re
import sys
from collections.abc import Sequence

from pyeal.serve import Process, serve  # one of the files that Python 3.9 reads

u32, u64, i32, ptr, size = C.c_uint32, C.c_uint64, C.c_int32, C.c_void_p, C.c_size_t

# No devices, no telemetry, and a log that says all: what a test is about comes after these.
ARGS = ["conformance", "--no-pci", "--no-telemetry", "--log-level=lib.eal:debug"]
MAGIC = 19820526


class Fbarray(C.Structure):
    """lib/eal/include/rte_fbarray.h: struct rte_fbarray"""

    _fields_ = [
        ("name", C.c_char * 64),
        ("count", u32),
        ("len", u32),
        ("elt_sz", u32),
        ("data", ptr),
        ("rwlock", i32),
    ]


class MemsegList(C.Structure):
    """lib/eal/include/rte_memory.h: struct rte_memseg_list"""

    _fields_ = [
        ("base_va", ptr),
        ("page_sz", u64),
        ("socket_id", i32),
        ("version", u32),
        ("len", size),
        ("external", u32),
        ("heap", u32),
        ("memseg_arr", Fbarray),
    ]


class Memseg(C.Structure):
    """lib/eal/include/rte_memory.h: struct rte_memseg"""

    _fields_ = [
        ("iova", u64),
        ("addr", ptr),
        ("len", size),
        ("hugepage_sz", u64),
        ("socket_id", i32),
        ("nchannel", u32),
        ("nrank", u32),
        ("flags", u32),
    ]


class Memzone(C.Structure):
    """lib/eal/include/rte_memzone.h: struct rte_memzone"""

    _fields_ = [
        ("name", C.c_char * 32),
        ("iova", u64),
        ("addr", ptr),
        ("len", size),
        ("hugepage_sz", u64),
        ("socket_id", i32),
        ("flags", u32),
    ]


assert [C.sizeof(x) for x in (Fbarray, MemsegList, Memseg, Memzone)] == [96, 136, 48, 72]

pMsl, pMs, pArr = C.POINTER(MemsegList), C.POINTER(Memseg), C.POINTER(Fbarray)
CALLBACKS = {
    "list": ("rte_memseg_list_walk", C.CFUNCTYPE(C.c_int, pMsl, ptr)),
    "seg": ("rte_memseg_walk", C.CFUNCTYPE(C.c_int, pMsl, pMs, ptr)),
    "contig": ("rte_memseg_contig_walk", C.CFUNCTYPE(C.c_int, pMsl, pMs, size, ptr)),
}
EVENT = C.CFUNCTYPE(None, C.c_int, ptr, size, ptr)
VALIDATOR = C.CFUNCTYPE(C.c_int, C.c_int, size, size)

SIGNATURES = {  # name: result, arguments; what is not here takes ints and answers an int
    "rte_version": (C.c_char_p,),
    "rte_eal_get_runtime_dir": (C.c_char_p,),
    "rte_eal_get_physmem_size": (u64,),
    "rte_malloc_socket": (ptr, C.c_char_p, size, u32, C.c_int),
    "rte_free": (None, ptr),
    "rte_memzone_reserve": (C.POINTER(Memzone), C.c_char_p, size, C.c_int, u32),
    "rte_memzone_lookup": (C.POINTER(Memzone), C.c_char_p),
    "rte_memzone_free": (C.c_int, C.POINTER(Memzone)),
    "rte_mem_virt2memseg": (pMs, ptr, pMsl),
    "rte_mem_virt2memseg_list": (pMsl, ptr),
    "rte_mem_virt2iova": (u64, ptr),
    "rte_mem_iova2virt": (ptr, u64),
    "rte_mem_check_dma_mask": (C.c_int, C.c_uint8),
    "rte_memseg_get_fd": (C.c_int, pMs),
    "rte_memseg_get_fd_offset": (C.c_int, pMs, C.POINTER(size)),
    "rte_extmem_register": (C.c_int, ptr, size, ptr, u32, size),
    "rte_extmem_unregister": (C.c_int, ptr, size),
    "rte_mem_event_callback_register": (C.c_int, C.c_char_p, EVENT, ptr),
    "rte_mem_alloc_validator_register": (C.c_int, C.c_char_p, VALIDATOR, C.c_int, size),
    "rte_dump_physmem_layout": (None, ptr),
    "rte_fbarray_init": (C.c_int, pArr, C.c_char_p, u32, u32),
    "rte_fbarray_get": (ptr, pArr, u32),
    "rte_fbarray_find_idx": (C.c_int, pArr, ptr),
}

ZONE = dict.fromkeys(("addr", "len", "iova", "socket_id"), 0)


def find() -> str:
    """The system's library: the newest that the linker or the usual places know."""
    places = (
        "/usr/lib",
        "/usr/lib/*",
        "/usr/local/lib",
        "/usr/local/lib/*",
        "/usr/lib64",
        "/usr/local/lib64",
        *os.environ.get("LD_LIBRARY_PATH", "").split(":"),
    )
    found = [p for d in places if d for p in glob.glob(f"{d}/librte_eal.so.*")]
    by_abi = {tuple(map(int, re.findall(r"\d+", p.rpartition(".so.")[2]))): p for p in found}
    if not by_abi:
        raise FileNotFoundError(
            errno.ENOENT,
            "no librte_eal.so.* found: install DPDK's librte-eal,"
            " or give its path: --target librte_eal:PATH",
        )
    return by_abi[max(by_abi)]


def load_needed(path: str, seen: tuple[str, ...] = ()) -> None:
    """Load DPDK's other libraries that a library needs and that are in its folder.

    They are found without a RUNPATH, and before a system's, which may be of the same ABI.
    """
    folder, own = os.path.split(os.path.realpath(path))
    seen = (*seen, own)
    with open(path, "rb") as f:
        names = set(re.findall(rb"\0(librte_\w+\.so\.[\d.]+)(?=\0)", f.read()))
    for name in sorted(n.decode() for n in names):
        other = os.path.join(folder, name)
        if os.path.exists(other) and os.path.basename(os.path.realpath(other)) not in seen:
            load_needed(other, seen)
            C.CDLL(other, C.RTLD_GLOBAL)


def why_unloadable(said: str) -> str:
    """What the loader says, and what would help."""
    if m := re.match(r"(\S+\.so\S*): cannot open shared object file", said):
        return (
            f"expected {m[1]}, found none. Fix: build or install it beside, or name its "
            "folder: LD_LIBRARY_PATH=FOLDER"
        )
    if "GLIBC_" in said:
        return f"it needs a newer C library than this machine's ({said})"
    return said


class Eal(Process):
    """The verbs over one loaded library."""

    target = "librte_eal"

    def __init__(self, path: str = "", release: str = "") -> None:
        self._path = path or find()
        try:
            if path:
                load_needed(path)
            self._lib = lib = C.CDLL(self._path)
        except OSError as e:
            raise OSError(f"{self._path} does not load: {why_unloadable(str(e))}") from None
        for name, (res, *args) in SIGNATURES.items():
            if fn := getattr(lib, name, None):
                fn.restype, fn.argtypes = res, args
        self._rte_errno = C.c_int.in_dll(lib, "per_lcore__rte_errno")
        self.release = self._version() or release or self._printed_version()
        if not self.release:
            raise ValueError(
                f"{self._path} does not report its release: --target librte_eal:PATH@RELEASE"
            )
        if release not in ("", self.release):
            raise ValueError(f"{self._path} is {self.release}: expected {release}, as given")
        self._keep: list[object] = []  # callbacks and buffers that EAL holds on to
        self._arrays: list[Fbarray] = []
        self._events: list[dict] = []
        self._mcfg = 0

    def _version(self) -> str:
        fn = getattr(self._lib, "rte_version", None)  # a function only since 21.11
        return fn().decode().removeprefix("DPDK ") if fn else ""

    def _printed_version(self) -> str:
        """What a process of its own prints for -v, before it fails for the option after that."""
        r, w = os.pipe()
        pid = os.fork()
        if not pid:
            for fd in (1, 2):
                os.dup2(w, fd)
            argv = (C.c_char_p * 4)(b"version", b"-v", b"--no-such-option", None)
            self._lib.rte_eal_init(3, argv)
            os._exit(0)
        os.close(w)
        with open(r, encoding="utf-8", errors="replace") as out:
            said = out.read()
        os.waitpid(pid, 0)
        found = re.search(r"RTE Version: 'DPDK ([^']+)'", said)
        return found[1] if found else ""

    @property
    def _errno(self) -> int:
        return self._rte_errno.value

    def _ret(self, ret: int | None, **more: object) -> dict:
        return {"ret": ret or 0, "errno": self._errno, **more}

    # start and end

    def init(self, args: list[str]) -> dict:
        argv = [a.encode() for a in ARGS + args]
        array = (C.c_char_p * (len(argv) + 1))(*argv, None)
        self._keep.append(array)  # EAL keeps pointers into it
        ret = self._lib.rte_eal_init(len(argv), array)
        if ret < 0:
            e = OSError(self._errno, f"rte_eal_init: {os.strerror(self._errno)}")
            e.errno = self._errno
            raise e
        return {
            "ret": 0,
            "iova_mode": self._iova_mode(),
            "runtime_dir": self._lib.rte_eal_get_runtime_dir().decode(),
        }

    def tailq(self, name: str) -> dict:
        """Registers a tail queue before init, as a library does when it is loaded."""
        elem = C.create_string_buffer(24 + 32)  # struct rte_tailq_elem: head, two links, name
        C.memmove(C.addressof(elem) + 24, name.encode(), len(name))
        self._keep.append(elem)
        return self._ret(self._lib.rte_eal_tailq_register(elem))

    def cleanup(self) -> dict:
        return self._ret(self._lib.rte_eal_cleanup())

    def _iova_mode(self) -> str:
        return {1: "PA", 2: "VA"}.get(self._lib.rte_eal_iova_mode(), "DC")

    def info(self) -> dict:
        lib = self._lib
        return {
            "physmem_size": lib.rte_eal_get_physmem_size(),
            "using_phys_addrs": bool(lib.rte_eal_using_phys_addrs()),
            "has_hugepages": bool(lib.rte_eal_has_hugepages()),
            "iova_mode": self._iova_mode(),
            "socket_ids": [lib.rte_socket_id_by_idx(i) for i in range(lib.rte_socket_count())],
            "path": self._path,
        }

    # lists and segments

    def _slot(self, msl: int) -> int:
        """Index of a list. The config is the magic word that lies before slot 0: searched from
        the list downwards, so never below the config."""
        b = tuple(map(int, self.release.split(".")[:2])) >= (23, 11)
        if not self._mcfg:
            for p in (msl - (144 if b else 136) - i * 136 for i in range(128)):
                if u32.from_address(p).value == MAGIC:
                    self._mcfg = p
                    self._lock = i32.from_address(p + (36 if b else 32))  # memory_hotplug_lock
                    break
        return (msl - self._mcfg - (144 if b else 136)) // 136

    def _seg(self, msl: MemsegList, ms: object) -> int:
        return (C.addressof(ms) - msl.memseg_arr.data) // C.sizeof(Memseg)  # type: ignore[arg-type]

    def _walk(self, kind: str, fn: object, unlocked: bool = False) -> int:
        name, callback = CALLBACKS[kind]
        raised: list[Exception] = []

        def call(*args):  # an exception must not be lost in C
            try:
                return fn(*(a.contents if hasattr(a, "contents") else a for a in args[:-1]))
            except Exception as e:
                raised.append(e)
                return -1

        ret = getattr(self._lib, name + "_thread_unsafe" * unlocked)(callback(call), None)
        if raised:
            raise raised[0]
        return ret

    def lists(self) -> list[dict]:
        found = []

        def visit(m):
            found.append(
                {
                    "index": self._slot(C.addressof(m)),
                    "name": m.memseg_arr.name.decode(),
                    "base_va": m.base_va,
                    "n_segs": m.memseg_arr.len,
                    "count": m.memseg_arr.count,
                }
                | {
                    f: getattr(m, f)
                    for f in ("page_sz", "socket_id", "version", "len", "external", "heap")
                }
            )
            return 0

        self._walk("list", visit)
        return found

    def segments(self) -> list[dict]:
        found = []

        def visit(m, s):
            found.append(
                {"list": self._slot(C.addressof(m)), "seg": self._seg(m, s)}
                | {f: getattr(s, f) for f, _ in Memseg._fields_}
            )
            return 0

        self._walk("seg", visit)
        return found

    def walk(self, kind: str, unlocked: bool = False, answers: Sequence[int] = ()) -> dict:
        visits: list[dict] = []

        def visit(m, s=None, length=None):
            i = self._slot(C.addressof(m))
            v = {"list": i, "lock": self._lock.value if self._mcfg else None}
            if s is None:
                v |= {"addr": m.base_va, "len": m.len}
            else:
                v |= {
                    "seg": self._seg(m, s),
                    "addr": s.addr,
                    "len": s.len if length is None else length,
                }
            visits.append(v)
            return answers[len(visits) - 1] if len(visits) <= len(answers) else 0

        ret = self._walk(kind, visit, unlocked)
        return {"ret": ret, "visits": visits}

    def dump(self) -> str:
        libc = C.CDLL(None)
        libc.open_memstream.restype = ptr
        libc.fclose.argtypes = libc.free.argtypes = [ptr]
        buf, n = ptr(), size()
        f = libc.open_memstream(C.byref(buf), C.byref(n))
        self._lib.rte_dump_physmem_layout(f)
        libc.fclose(f)
        text = C.string_at(buf, n.value).decode()  # type: ignore[arg-type]
        libc.free(buf)
        return text

    # addresses and descriptors

    def virt2memseg(self, addr: int) -> dict | None:
        msl = self._lib.rte_mem_virt2memseg_list(addr)
        ms = self._lib.rte_mem_virt2memseg(addr, None)
        if not msl or not ms:
            return None
        return {
            "list": self._slot(C.addressof(msl.contents)),
            "addr": ms.contents.addr or 0,
            "seg": self._seg(msl.contents, ms.contents),
        }

    def virt2iova(self, addr: int) -> int:
        return self._lib.rte_mem_virt2iova(addr)

    def iova2virt(self, iova: int) -> int:
        return self._lib.rte_mem_iova2virt(iova) or 0

    def fd(self, addr: int, foreign: bool = False) -> dict:
        ms = C.pointer(Memseg()) if foreign else addr and self._lib.rte_mem_virt2memseg(addr, None)
        ms = ms or None
        offset = size()
        ret = self._lib.rte_memseg_get_fd(ms)
        if ret >= 0 and (bad := self._lib.rte_memseg_get_fd_offset(ms, C.byref(offset))):
            ret = bad
        return self._ret(ret, offset=offset.value)

    def dma_mask(self, bits: int) -> dict:
        return self._ret(self._lib.rte_mem_check_dma_mask(bits))

    # heap, external memory, callbacks

    def malloc(self, size: int, align: int = 0, socket: int = -1) -> dict:
        va = self._lib.rte_malloc_socket(b"conformance", size, align, socket)
        return {"va": va or 0, "errno": self._errno}

    def free(self, va: int) -> dict:
        return self._ret(self._lib.rte_free(va))

    def memzone(self, op: str, name: str, size: int = 0, socket: int = -1) -> dict:
        lib, zone, key = self._lib, None, name.encode()
        if op == "reserve":
            zone = lib.rte_memzone_reserve(key, size, socket, 0)
        elif op == "lookup":
            zone = lib.rte_memzone_lookup(key)
        elif found := lib.rte_memzone_lookup(key):
            return ZONE | {"errno": -lib.rte_memzone_free(found)}
        if not zone:
            return ZONE | {"errno": self._errno}
        return {f: getattr(zone.contents, f) for f in ZONE} | {"errno": 0}

    def extmem_register(self, len: int, page_sz: int) -> dict:
        m = mmap.mmap(-1, len + page_sz)
        self._keep.append(m)
        va = -(-C.addressof(C.c_char.from_buffer(m)) // page_sz) * page_sz
        return self._ret(self._lib.rte_extmem_register(va, len, None, 0, page_sz), va=va)

    def extmem_unregister(self, va: int, len: int) -> dict:
        return self._ret(self._lib.rte_extmem_unregister(va, len))

    def events_register(self) -> dict:
        fn = EVENT(
            lambda kind, addr, n, _: self._events.append(
                {"type": ("ALLOC", "FREE")[kind], "va": addr, "len": n}
            )
        )
        self._keep.append(fn)
        return self._ret(self._lib.rte_mem_event_callback_register(b"conformance", fn, None))

    def events(self) -> list[dict]:
        return self._events

    def limit_register(self, socket: int, limit: int) -> dict:
        fn = VALIDATOR(lambda socket, limit, new: -1)
        self._keep.append(fn)
        return self._ret(
            self._lib.rte_mem_alloc_validator_register(b"conformance", fn, socket, limit)
        )

    # file-backed arrays: a descriptor is an index into self._arrays

    def fbarray(self, op: str, id: int | None = None, null: bool = False, **p) -> object:
        if op == "init":
            self._arrays.append(Fbarray())
            id = len(self._arrays) - 1
            name = p["name"]
            return self._ret(
                self._lib.rte_fbarray_init(
                    None if null else self._arrays[id],
                    None if name is None else name.encode(),
                    p["length"],
                    p["elt_sz"],
                ),
                **self._descriptor(id),
            )
        arr = None if null else self._arrays[id]  # type: ignore[index]
        if op == "describe":
            return self._descriptor(id)  # type: ignore[arg-type]
        if op == "copy":
            self._arrays.append(Fbarray.from_buffer_copy(arr))  # type: ignore[arg-type]
            return self._descriptor(len(self._arrays) - 1)
        if op == "find":
            fn = getattr(self._lib, "rte_fbarray_" + p["fn"])
            n = (u32(p["n"]),) if "_n_" in p["fn"] else ()
            return self._ret(fn(C.byref(arr) if arr else None, u32(p["start"]), *n))
        args = [u32(p["idx"])] if "idx" in p else [ptr(p["addr"])] if "addr" in p else []
        return self._ret(
            getattr(self._lib, "rte_fbarray_" + op)(C.byref(arr) if arr else None, *args)
        )

    def _descriptor(self, id: int) -> dict:
        a = self._arrays[id]
        return {
            "id": id,
            "name": a.name.decode(),
            "data": a.data or 0,
            "len": a.len,
            "elt_sz": a.elt_sz,
            "count": a.count,
        }


if __name__ == "__main__":
    serve(Eal(*sys.argv[1:3]))
