"""The C structures of the shared files, as ctypes views. Offsets are checked against fixtures/abi.

Sizes are in bytes. Two things decide a structure: the release, of which `rte_mem_config` has three
families, and the build, whose facts are an Abi. `config(family, abi)`, `malloc_heap(abi)` and
`hugepage_info(nodes)` return the structures that differ.
"""

import ctypes
import os

TYPE_CHECKING = False  # importing typing costs more than all of pyeal
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar

    S = TypeVar("S", bound="ctypes.Structure")
    c_char = bytes
    u8 = int
    u32 = int
    i32 = int
    u64 = int
else:
    from ctypes import c_char, c_int32, c_uint8, c_uint32, c_uint64

    u8, u32, i32, u64 = c_uint8, c_uint32, c_int32, c_uint64

MAGIC = 19820526
MAX_MEMSEG_LISTS = 128
MAX_TAILQ = 32
# what the libraries of all releases register: a secondary must find its own among them
TAILQS = tuple(
    "UIO_RESOURCE_LIST VFIO_RESOURCE_LIST VMBUS_RESOURCE_LIST VFIO_CDX_RESOURCE_LIST RTE_RING"
    " RTE_MEMPOOL RTE_MBUF_DYNFIELD RTE_MBUF_DYNFLAG RTE_REORDER RTE_HASH RTE_FBK_HASH RTE_THASH"
    " RTE_ACL RTE_LPM RTE_LPM6 RTE_SWX_PIPELINE RTE_SWX_CTL_PIPELINE RTE_SWX_IPSEC RTE_STACK"
    " RTE_DIST_BURST RTE_DISTRIBUTOR RTE_EFD RTE_FIB RTE_FIB6 RTE_IPSEC_SAD RTE_KNI RTE_MEMBER"
    " RTE_RIB RTE_RIB6".split()
)
MAX_HEAPS = 32
MAX_MEMZONE = 2560
FBARRAY_NAME_LEN = 64
FREELISTS = 13
FREE, BUSY, PAD = range(3)  # enum elem_state, in the low three bits of a state word
PGSIZE_4K = 4096  # RTE_PGSIZE_4K: pages of --no-huge, whatever page size the kernel has
EXTERNAL_HEAP_MIN_SOCKET_ID = 256

FLAG_DO_NOT_FREE = 1
FLAG_DIRTY = 2
BAD_IOVA = 2**64 - 1


Struct = ctypes.Structure


CONFIG_SIZES = {64: 25344, 128: 27520}  # of rte_mem_config, by cache line


class Abi:
    """What a build decides of the structures: line is RTE_CACHE_LINE_SIZE, which aligns a heap and
    its elements; hugepage_sizes is MAX_HUGEPAGE_SIZES, the records of hugepage_info; lists is
    RTE_MAX_MEMSEG_LISTS; config_size is the size of rte_mem_config. Pointers have 8 bytes, the
    lowest byte first. builds.py has the builds of other machines.
    """

    def __init__(
        self, line: int, hugepage_sizes: int = 3, lists: int = MAX_MEMSEG_LISTS, size: int = 0
    ) -> None:
        self.line, self.hugepage_sizes, self.lists = line, hugepage_sizes, lists
        self.config_size = size or CONFIG_SIZES[line]


BUILDS = {  # RTE_CACHE_LINE_SIZE, RTE_MAX_NUMA_NODES, RTE_MAX_LCORE, MAX_HUGEPAGE_SIZES, base
    "x86_64": (64, 32, 128, 3, 0x100000000),
    "aarch64": (128, 4, 256, 4, 0x100000000),  # generic, as distributions build it
    "aarch64-soc": (64, 1, 16, 4, 0x100000000),  # -Dplatform=bluefield; others have other limits
    "ppc64le": (128, 16, 128, 3, 0x100000000),
    "riscv64": (64, 2, 128, 3, 0x100000000),
    "loongarch64": (64, 16, 64, 3, 0x7000000000),
}
# of what this process makes: the build that PYEAL_BUILD names, or a generic one for this machine
BUILD = os.environ.get("PYEAL_BUILD") or os.uname().machine
if BUILD not in BUILDS:
    if "PYEAL_BUILD" in os.environ:
        raise ValueError(f"PYEAL_BUILD={BUILD}: expected one of {', '.join(BUILDS)}")
    BUILD = "x86_64"
LINE, MAX_NODES, MAX_LCORE, MAX_HUGEPAGE_SIZES, BASE = BUILDS[BUILD]
ABI = Abi(LINE, MAX_HUGEPAGE_SIZES)
CONFIG_SIZE = ABI.config_size


def sized(size: int) -> "Callable[[type[S]], type[S]]":
    """Return a decorator that makes annotations the fields, in order, and asserts the size."""

    def make(cls: "type[S]") -> "type[S]":
        cls._fields_ = list(cls.__annotations__.items())
        return _of_size(cls, size)

    return make


def _of_size(cls: "type[S]", size: int) -> "type[S]":
    if (found := ctypes.sizeof(cls)) != size:
        raise TypeError(f"{cls.__name__}: expected {size} bytes, found {found}")
    return cls


@sized(48)
class Memseg(Struct):
    """One page of a memseg list. lib/eal/include/rte_memory.h: struct rte_memseg"""

    iova: u64
    addr: u64
    len: u64
    hugepage_sz: u64
    socket_id: i32
    nchannel: u32
    nrank: u32
    flags: u32


@sized(96)
class Fbarray(Struct):
    """Descriptor of a file-backed array. lib/eal/include/rte_fbarray.h: struct rte_fbarray"""

    name: c_char * FBARRAY_NAME_LEN  # type: ignore[valid-type]
    count: u32
    len: u32
    elt_sz: u32
    data: u64
    rwlock: i32


@sized(136)
class MemsegList(Struct):
    """lib/eal/include/rte_memory.h: struct rte_memseg_list"""

    base_va: u64
    page_sz: u64
    socket_id: i32
    version: u32
    len: u64
    external: u32
    heap: u32
    memseg_arr: Fbarray


@sized(72)
class Memzone(Struct):
    """lib/eal/include/rte_memzone.h: struct rte_memzone"""

    name: c_char * 32  # type: ignore[valid-type]
    iova: u64
    addr: u64
    len: u64
    hugepage_sz: u64
    socket_id: i32
    flags: u32


@sized(176)
class MallocHeap(Struct):
    """A heap without what fills its last cache line. lib/eal/common/malloc_heap.h: malloc_heap"""

    lock: i32
    free_head: u64 * FREELISTS  # type: ignore[valid-type]
    first: u64
    last: u64
    alloc_count: u32
    socket_id: u32
    total_size: u64
    name: c_char * 32  # type: ignore[valid-type]


@sized(128)
class MallocElem(Struct):
    """Header of a heap element. lib/eal/common/malloc_elem.h: struct malloc_elem"""

    heap: u64
    prev: u64
    next: u64
    free_next: u64
    free_prev: u64  # address of the pointer that points here
    msl: u64
    state: u32  # low 3 bits; bit 3 dirty
    pad: u32
    size: u64
    orig_elem: u64
    orig_size: u64
    rest: u64 * 6  # type: ignore[valid-type]


def hugepage_file() -> "Any":
    """Return a record of hugepage_data. lib/eal/common/eal_hugepages.h: struct hugepage_file"""
    words = [(name, u64) for name in ("orig_va", "final_va", "physaddr", "size")]
    rest = [("socket_id", i32), ("file_id", i32), ("filepath", c_char * 4096)]  # type: ignore[operator]
    return _structure("HugepageFile", 4136, [*words, *rest])


def hugepage_info(nodes: int) -> "Any":
    """Return a record of hugepage_info for RTE_MAX_NUMA_NODES `nodes`: 4240 bytes for 32.

    lib/eal/common/eal_internal_cfg.h: struct hugepage_info
    """
    fields = [
        ("hugepage_sz", u64),
        ("hugedir", c_char * 4096),  # type: ignore[operator]
        ("num_pages", u32 * nodes),  # type: ignore[operator]
        ("lock_descriptor", i32),
    ]
    return _structure(f"HugepageInfo{nodes}", 4108 + 4 * nodes + 7 & -8, fields)


def tailq_head() -> "Any":
    """Return struct rte_tailq_head. lib/eal/include/rte_tailq.h"""
    name = ("name", c_char * 32)  # type: ignore[operator]
    return _structure("TailqHead", 48, [("tqh_first", u64), ("tqh_last", u64), name])


def malloc_heap(abi: Abi = ABI) -> "Any":
    """Return struct malloc_heap as it lies in rte_mem_config: 192 bytes, 256 with lines of 128."""
    size = _up(ctypes.sizeof(MallocHeap), abi.line)
    pad = u64 * ((size - ctypes.sizeof(MallocHeap)) // 8)  # type: ignore[operator]
    return _structure(f"MallocHeap{size}", size, [*MallocHeap._fields_, ("pad", pad)])


# families that have the field, its name, its type or what makes it
_CONFIG: "tuple[tuple[str, str, Any], ...]" = (
    ("ABC", "magic", u32),
    ("ABC", "version", u32),
    ("ABC", "nchannel", u32),
    ("ABC", "nrank", u32),
    ("ABC", "mlock", i32),
    ("ABC", "qlock", i32),
    ("ABC", "mplock", i32),
    ("ABC", "tlock", i32),
    ("BC", "ethdev_lock", i32),
    ("ABC", "memory_hotplug_lock", i32),
    ("ABC", "mp_status", u8),
    ("ABC", "memzones", Fbarray),
    ("ABC", "memsegs", lambda abi: MemsegList * abi.lists),
    ("C", "mem_va_addr", u64),
    ("C", "mem_va_len", u64),
    ("C", "mem_va_page_sz", u64),
    ("ABC", "tailq_head", lambda abi: tailq_head() * MAX_TAILQ),
)
_CONFIG_REST = (  # behind malloc_heaps, which the build moves
    ("next_socket_id", i32),
    ("mem_cfg_addr", u64),
    ("legacy_mem", u32),
    ("single_file_segments", u32),
    ("tsc_hz", u64),
    ("dma_maskbits", u8),
    ("max_memzone", u64),
)


def config(family: str, abi: Abi = ABI) -> "Any":
    """Return `rte_mem_config` of layout family A (20.11-22.11), B (23.11-25.11) or C (26.07).

    lib/eal/common/eal_memcfg.h: struct rte_mem_config. The alignment of the heaps absorbs the
    fields that a family adds, so everything from malloc_heaps on has one offset for each build.
    """
    name = f"MemConfig{family}{abi.line}_{abi.lists}"
    if name in _made:
        return _made[name]
    head: list[Any] = [
        (field, kind if isinstance(kind, type) else kind(abi))
        for families, field, kind in _CONFIG
        if family in families
    ]
    heaps = [("malloc_heaps", malloc_heap(abi) * MAX_HEAPS), *_CONFIG_REST]
    fields = _padded([*_padded(head, abi.line, "pad"), *heaps], abi.line, "tail")
    end = ctypes.sizeof(type("Body", (Struct,), {"_fields_": fields}))
    size = CONFIG_SIZES[abi.line] if abi.lists == MAX_MEMSEG_LISTS else end
    return _structure(name, size, fields)


def _padded(fields: "list[Any]", line: int, name: str) -> "list[Any]":
    """Return fields that fill cache lines, by bytes behind them."""
    end = ctypes.sizeof(type("Head", (Struct,), {"_fields_": fields}))
    return [*fields, (name, u8 * (_up(end, line) - end))]  # type: ignore[operator]


_made: "dict[str, type[Struct]]" = {}  # one class for each name


def _structure(name: str, size: int, fields: "list[Any]") -> "Any":
    """Return the class of that name, whose size in bytes is asserted."""
    if name not in _made:
        _made[name] = _of_size(type(name, (Struct,), {"_fields_": fields}), size)
    return _made[name]


def _up(n: int, step: int) -> int:
    return -(-n // step) * step
