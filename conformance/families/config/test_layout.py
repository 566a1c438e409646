"""CFG: the fields of the shared config, byte by byte."""

import struct
import threading

import pytest

from conformance import MB, SHARED, modes, needs, requirement, until
from conformance.harness.catalogue import holds
from conformance.harness.fake_host import CPUS, NODES, build

MAGIC = 19820526
LISTS, LIST = 128, 136
TAILQS, TAILQ = 32, 48
HEAPS = 32
FREELISTS = 13


def raw(eal):
    return (eal.run / "config").read_bytes()


def at(data, offset, form="I"):
    return struct.unpack_from("<" + form, data, offset)[0]


def text(data, offset, n):
    return data[offset : offset + n].split(b"\0")[0].decode()


def word(release):
    """RTE_VERSION of a release, or of a candidate."""
    numbers, _, candidate = release.partition("-rc")
    year, month, minor = map(int, (numbers + ".0").split(".")[:3])
    return year << 24 | month << 16 | minor << 8 | int(candidate or 99)


def heaps_at(eal):
    """Return offset and size of a build's heaps: 19136, 192 with lines of 64 bytes; 19200, 256."""
    m = eal.decode.member("rte_mem_config", "malloc_heaps")
    return m["offset"], m["size"] // HEAPS


def check_head(eal, locks, mp_status, memzones, memsegs, tailqs):
    """The offsets of everything before the heaps, each by something that must lie there."""
    data, lists = raw(eal), eal.lists()
    base = eal.config().mem_cfg_addr
    bases = [at(data, memsegs + LIST * i, "Q") for i in range(LISTS)]

    assert at(data, 0) == MAGIC
    assert at(data, 4) == word(eal.release)
    assert (at(data, 8), at(data, 12)) == (4, 2)
    assert [at(data, lock, "i") for lock in locks] == [0] * len(locks)
    assert data[mp_status] == 0
    assert text(data, memzones, 64) == "memzone"
    assert at(data, memzones + 68) == 2560
    assert {i: b for i, b in enumerate(bases) if b} == {m.index: m.base_va for m in lists}
    assert [text(data, memsegs + LIST * m.index + 40, 64) for m in lists] == [m.name for m in lists]
    for slot in range(tailqs, tailqs + TAILQS * TAILQ, TAILQ):
        first, last, name = at(data, slot, "Q"), at(data, slot + 8, "Q"), text(data, slot + 16, 32)
        assert (first, last) == (0, base + slot if name else 0)
    assert not any(data[tailqs + TAILQS * TAILQ : heaps_at(eal)[0]])


@requirement("CFG-006")
@needs(pages={"2M": 2})
@modes(*SHARED)
def test_head_of_the_config_up_to_22_11(start, evidence):
    """0 magic, version, channels, ranks | 16 five locks | 36 mp | 40 memzones | 136 lists.

    | 17544 tail queues ... 19080 | padding | heaps: 19136 with lines of 64 bytes, 19200 with 128
    """
    eal = start("-m", "2", "-n", "4", "-r", "2")
    evidence(raw(eal)[:40].hex(" ", 4))

    check_head(eal, range(16, 36, 4), 36, 40, 136, 17544)


@requirement("CFG-007")
@needs(pages={"2M": 2})
@modes(*SHARED)
def test_head_of_the_config_since_23_11(start, evidence):
    """A sixth lock at 32 moves all that follows; 26.07 has three words more before tail queues."""
    eal = start("-m", "2", "-n", "4", "-r", "2")
    evidence(raw(eal)[:48].hex(" ", 4))

    check_head(eal, range(16, 40, 4), 40, 48, 144, 17552 if holds("<26.07", eal.release) else 17576)


@requirement("CFG-008")
@needs(pages={"2M": 2})
@modes(*SHARED)
def test_tail_of_the_config_is_the_same_in_all_releases(start, mode, evidence):
    """0 next id | 8 address | 16 flags | 24 clock | 32 DMA bits, behind 32 heaps.

    19136 heaps of 192 bytes | 25280     19200 heaps of 256 bytes, with lines of 128 | 27392
    """
    eal = start("-m", "2", "--iova-mode=va")
    before, asked = raw(eal), eal.dma_mask(40).ret
    data = raw(eal)
    mapped = next(m for m in eal.maps() if m.path.endswith("/config"))
    first, heap = heaps_at(eal)
    tail = first + HEAPS * heap
    evidence(f"{data[tail : tail + 48].hex(' ', 8)}; DMA mask of 40 bits: {asked}")

    assert (first, heap) in ((19136, 192), (19200, 256))
    names = [text(data, first + heap * i + 144, 32) for i in range(HEAPS)]
    assert [n for n in names if n] == [f"socket_{n}" for n in eal.info().socket_ids]
    assert at(data, tail, "i") == 256
    assert at(data, tail + 8, "Q") == mapped.start
    assert (at(data, tail + 16), at(data, tail + 20)) == {
        "dynmem": (0, 0),
        "single-file": (0, 1),
        "legacy": (1, 0),
        "no-huge": (1, 0),
    }[mode]
    assert 10**6 < at(data, tail + 24, "Q") < 10**11
    assert (asked, before[tail + 32], data[tail + 32]) == (0, 0, 40)
    assert not any(data[tail + 33 :])


@requirement("CFG-010")
@needs(pages={"2M": 2})
@modes(*SHARED)
def test_version_word_is_the_whole_release(start, evidence):
    """22.11.11 is 0x160b0b63: year, month, minor number, and 99 for a final release."""
    eal = start("-m", "2")
    found = at(raw(eal), 4)
    evidence(f"{eal.release}: {found:#x}")

    assert found == word(eal.release)


@requirement("CFG-011")
@needs(pages={"2M": 2})
@pytest.mark.parametrize(
    ("args", "flags"),
    [
        ([], (0, 0)),
        (["--single-file-segments"], (0, 1)),
        (["--legacy-mem"], (1, 0)),
        (["--legacy-mem", "--single-file-segments"], (1, 1)),
        (["--no-huge"], (1, 0)),
    ],
    ids=["dynmem", "single-file", "legacy", "legacy-single-file", "no-huge"],
)
def test_flags_are_the_command_line_at_creation(start, args, flags, evidence):
    """(legacy_mem, single_file_segments): no-huge says legacy, and not that it is one file."""
    config = start("-m", "2", *args).config()
    evidence(f"{config.legacy_mem}, {config.single_file_segments}")

    assert (config.legacy_mem, config.single_file_segments) == flags


@requirement("CFG-013")
@needs(pages={"2M": 2})
@modes(*SHARED)
def test_config_at_rest(start, evidence):
    """After the start no lock is held, no message was sent, and there is no memzone."""
    eal = start("-m", "2")
    c, memzones = eal.config(), eal.array("memzone", 72, 2560)
    locks = {k: v for k, v in c.items() if k.endswith("lock")}
    evidence(f"{locks}, mp_status {c.mp_status}, tsc_hz {c.tsc_hz}")

    assert len(locks) == (5 if holds("<23.11", eal.release) else 6)
    assert not any(x for lock in locks.values() for x in numbers(lock))
    assert (c.mp_status, c.dma_maskbits, c.next_socket_id) == (0, 0, 256)
    assert c.tsc_hz > 0
    assert (c.memzones.count, memzones.used) == (0, [])


def numbers(value):
    """All numbers in a decoded member."""
    if isinstance(value, dict):
        return [n for v in value.values() for n in numbers(v)]
    return [value]


@requirement("CFG-015")
@needs(pages={"2M": 2})
@modes("dynmem", "single-file")
def test_config_describes_the_one_reservation(start, evidence):
    """mem_va_addr, _len, _page_sz: all lists lie in it."""
    eal = start("-m", "2")
    data, lists = raw(eal), eal.lists()
    va, length, page = (at(data, offset, "Q") for offset in (17552, 17560, 17568))
    evidence(f"{va:#x}, {length:#x}, {page:#x}")

    assert va == lists[0].base_va
    assert length == lists[-1].base_va + lists[-1].len - va
    assert page == max(m.page_sz for m in lists)


@requirement("CFG-017")
@needs(root=True)
def test_heap_slots_describe_the_detected_nodes_in_order(start, make_box, tmp_path, evidence):
    """CPUs on nodes 0 and 2: heaps socket_0 and socket_2, the rest of the 32 slots empty.

    Node 1 in place of 2 where the build has two nodes.

    0 lock | 8 free lists | 112 first | 120 last | 128 areas | 132 node | 136 bytes | 144 name
    """
    limit = start(mode="no-huge", init=False).decode.constants["RTE_MAX_NUMA_NODES"]
    far = min(2, limit - 1)
    box = make_box(binds=build(tmp_path, cpus={0: "0", far: "1-7"}, show=(CPUS, NODES)))
    eal = start("-m", "8", mode="no-huge", box=box)
    before, area = raw(eal), eal.malloc(MB).va
    data, (msl,) = raw(eal), eal.lists()
    first, heap = heaps_at(eal)
    slots = [first + heap * i for i in range(HEAPS)]
    found = [(text(data, s + 144, 32), at(data, s + 132), at(data, s + 136, "Q")) for s in slots]
    heads = [h for h in struct.unpack_from("<13Q", data, first + 8) if h]
    ends = [at(data, first + offset, "Q") for offset in (112, 120)]
    evidence(f"{found[:3]}, free {[hex(h) for h in heads]}, ends {[hex(e) for e in ends]}")

    assert eal.info().socket_ids == [0, far]
    assert found[:2] == [("socket_0", 0, 8 * MB), (f"socket_{far}", far, 0)]
    assert not any(data[slots[2] : slots[-1] + heap])
    assert [at(data, s) for s in slots[:2]] == [0, 0]
    assert len(heads) == 1
    assert ends[0] == msl.base_va
    assert all(msl.base_va <= va < msl.base_va + msl.len for va in [*heads, *ends])
    assert heads[0] < area
    assert at(data, first + 128) == at(before, first + 128) + 1


@requirement("CFG-018")
@modes("no-huge")
def test_tail_queues_stand_in_the_order_of_their_registration(start, mode, evidence):
    """Slots of 48 bytes: no first element, the last link is the slot itself, the name.

    [first 0 | last ->] [name, 32 bytes]   [first 0 | last ->] [name]   [0 ...
    """
    eal = start("-m", "16", init=False).init_with_tailqs("RTE_RING", "MINE")
    data, at = (
        (eal.run / "config").read_bytes(),
        eal.decode.offsetof("rte_mem_config", "tailq_head"),
    )
    slots = [struct.unpack_from("<2Q32s", data, at + 48 * i) for i in range(3)]
    base = eal.config().mem_cfg_addr
    evidence(f"{[name.rstrip(bytes(1)) for *_, name in slots]}")

    assert [(first, name.rstrip(b"\0")) for first, _, name in slots] == [
        (0, b"RTE_RING"),
        (0, b"MINE"),
        (0, b""),
    ]
    assert [last for _, last, _ in slots] == [base + at, base + at + 48, slots[2][1]]


@requirement("CFG-019")
@needs(pages={"2M": 6}, strace=True)
def test_lock_words_count_readers_and_mark_writers(start, evidence):
    """A walk reads: 4 (up to 21.11: 1); a growing heap writes: 2 (-1), seen while it is held up."""
    eal = start("-m", "2")
    seen = {v.lock for v in eal.walk("list").visits}
    page = f"{eal.prefix}map_{'2' if holds('<26.07', eal.release) else '0_2'}"
    eal.trace("flock", inject="flock:delay_enter=300000", path=f"{eal.box.hugedir('2M')}/{page}")
    growth = threading.Thread(target=eal.malloc, args=(3 * MB,))
    growth.start()
    held = set()

    def has_ended():
        held.add(eal.config().memory_hotplug_lock.cnt)
        return not growth.is_alive()

    until(has_ended)
    growth.join()
    evidence(f"in a walk {seen}, while growing {held}")

    old = holds("<=21.11", eal.release)
    assert seen == {1 if old else 4}
    assert held - {0} == {-1 if old else 2}
    assert eal.config().memory_hotplug_lock.cnt == 0
