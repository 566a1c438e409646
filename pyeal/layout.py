"""The C structures of the shared files, as ctypes views. Offsets are checked against fixtures/abi.

Sizes are in bytes. Only `rte_mem_config` and `hugepage_info` differ between releases:
`config(family)` and `hugepage_info(nodes)` give the right one.
"""

import ctypes

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
    from ctypes import c_char
    from ctypes import c_int32 as i32
    from ctypes import c_uint8 as u8
    from ctypes import c_uint32 as u32
    from ctypes import c_uint64 as u64

MAGIC = 19820526
MAX_MEMSEG_LISTS = 128
MAX_TAILQ = 32
# fmt: off
TAILQS = (  # what the libraries of all releases register: a secondary must find its own among them
    "UIO_RESOURCE_LIST", "VFIO_RESOURCE_LIST", "VMBUS_RESOURCE_LIST", "VFIO_CDX_RESOURCE_LIST",
    "RTE_RING", "RTE_MEMPOOL", "RTE_MBUF_DYNFIELD", "RTE_MBUF_DYNFLAG", "RTE_REORDER", "RTE_HASH",
    "RTE_FBK_HASH", "RTE_THASH", "RTE_ACL", "RTE_LPM", "RTE_LPM6", "RTE_SWX_PIPELINE",
    "RTE_SWX_CTL_PIPELINE", "RTE_SWX_IPSEC", "RTE_STACK", "RTE_DIST_BURST", "RTE_DISTRIBUTOR",
    "RTE_EFD", "RTE_FIB", "RTE_FIB6", "RTE_IPSEC_SAD", "RTE_KNI", "RTE_MEMBER", "RTE_RIB",
    "RTE_RIB6",
)
# fmt: on
MAX_HEAPS = 32
MAX_MEMZONE = 2560
MAX_HUGEPAGE_SIZES = 3
FBARRAY_NAME_LEN = 64
FREELISTS = 13
CONFIG_SIZE = 25344
EXTERNAL_HEAP_MIN_SOCKET_ID = 256

FLAG_DO_NOT_FREE = 1
FLAG_DIRTY = 2
BAD_IOVA = 2**64 - 1


Struct = ctypes.Structure


def sized(size: int) -> "Callable[[type[S]], type[S]]":
    """Makes a class' annotations its fields, in order, and holds it to its size in bytes."""

    def make(cls: "type[S]") -> "type[S]":
        cls._fields_ = list(cls.__annotations__.items())
        if ctypes.sizeof(cls) != size:
            raise TypeError(f"{cls.__name__}: {ctypes.sizeof(cls)} bytes, wanted {size}")
        return cls

    return make


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


@sized(48)
class TailqHead(Struct):
    """lib/eal/include/rte_tailq.h: struct rte_tailq_head"""

    tqh_first: u64
    tqh_last: u64
    name: c_char * 32  # type: ignore[valid-type]


@sized(192)
class MallocHeap(Struct):
    """lib/eal/common/malloc_heap.h: struct malloc_heap"""

    lock: i32
    free_head: u64 * FREELISTS  # type: ignore[valid-type]
    first: u64
    last: u64
    alloc_count: u32
    socket_id: u32
    total_size: u64
    name: c_char * 32  # type: ignore[valid-type]
    pad: u64 * 2  # type: ignore[valid-type]


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


@sized(4136)
class HugepageFile(Struct):
    """One record of hugepage_data. lib/eal/common/eal_hugepages.h: struct hugepage_file"""

    orig_va: u64
    final_va: u64
    physaddr: u64
    size: u64
    socket_id: i32
    file_id: i32
    filepath: c_char * 4096  # type: ignore[valid-type]


_made: dict[object, "type[Struct]"] = {}  # one class for each family and node count


def hugepage_info(nodes: int) -> "Any":
    """A record of hugepage_info for RTE_MAX_NUMA_NODES `nodes`: 4240 bytes for 32, 4128 for 4.

    lib/eal/common/eal_internal_cfg.h: struct hugepage_info
    """
    if nodes in _made:
        return _made[nodes]

    @sized(4112 + 4 * nodes)
    class HugepageInfo(Struct):
        hugepage_sz: u64
        hugedir: c_char * 4096  # type: ignore[valid-type]
        num_pages: u32 * nodes  # type: ignore[valid-type]
        lock_descriptor: i32

    return _made.setdefault(nodes, HugepageInfo)


def config(family: str) -> "Any":
    """`rte_mem_config` of layout family A (20.11-22.11), B (23.11-25.11) or C (26.07).

    lib/eal/common/eal_memcfg.h: struct rte_mem_config. The heaps' 64-byte alignment swallows
    what the families insert, so the size and everything from malloc_heaps on never move.
    """
    if family in _made:
        return _made[family]
    b, c = family in "BC", family == "C"
    head = 144 if b else 136
    tailqs = head + MAX_MEMSEG_LISTS * 136 + (24 if c else 0)

    @sized(CONFIG_SIZE)
    class MemConfig(Struct):
        magic: u32
        version: u32
        nchannel: u32
        nrank: u32
        mlock: i32
        qlock: i32
        mplock: i32
        tlock: i32
        if b:
            ethdev_lock: i32
        memory_hotplug_lock: i32
        mp_status: u8
        memzones: Fbarray
        memsegs: MemsegList * MAX_MEMSEG_LISTS  # type: ignore[valid-type]
        if c:
            mem_va_addr: u64
            mem_va_len: u64
            mem_va_page_sz: u64
        tailq_head: TailqHead * MAX_TAILQ  # type: ignore[valid-type]
        pad: u8 * (19136 - tailqs - MAX_TAILQ * 48)  # type: ignore[valid-type]
        malloc_heaps: MallocHeap * MAX_HEAPS  # type: ignore[valid-type]
        next_socket_id: i32
        mem_cfg_addr: u64
        legacy_mem: u32
        single_file_segments: u32
        tsc_hz: u64
        dma_maskbits: u8
        max_memzone: u64
        tail: u64 * 2  # type: ignore[valid-type]

    return _made.setdefault(family, MemConfig)
