"""FBA: the file of an array, and the descriptor that is not in it."""

import fcntl
import os
import struct
from concurrent.futures import ThreadPoolExecutor

import pytest

from conformance import MB, SHARED, modes, needs, requirement, until
from conformance.harness.catalogue import holds
from conformance.harness.proc import PAGE, rounded

DESCRIPTOR = struct.Struct("=64sIII4xQi4x")  # name, count, len, elt_sz, data, lock


def words(eal, a):
    """The mask's words as the target has them in memory."""
    now = a.now
    n = -(-now.len // 64)
    return list(struct.unpack(f"={n}Q", eal.peek(now.data + now.len * now.elt_sz + 8, 8 * n)))


def descriptors(eal):
    """Slot (None: memzones) and the raw descriptor of every array in RUN/config."""
    raw, at, size = (eal.run / "config").read_bytes(), eal.decode.offsetof, eal.decode.sizeof
    arr = at("rte_memseg_list", "memseg_arr")
    first, step = at("rte_mem_config", "memsegs") + arr, size("rte_memseg_list")
    places = {None: at("rte_mem_config", "memzones")} | {
        i: first + i * step for i, m in enumerate(eal.config().memsegs) if m.base_va
    }
    return {i: DESCRIPTOR.unpack_from(raw, p) for i, p in places.items()}


@requirement("FBA-001")
@needs(pages={"2M": 2})
@modes(*SHARED)
def test_file_is_elements_then_header_then_mask_words(start, evidence):
    """100 elements of 3 bytes: the mask follows them at byte 300, unaligned.

    0 ... 299 elements | 300 n_masks=2 | 304 pad | 308 word 0 | 316 word 1 | 324 ... 4095 zeroes
    """
    eal = start("-m", "4")
    a = eal.fbarray(length=100, elt_sz=3)
    a.set_used(1, 64)
    eal.poke(a.get(99), b"end")
    data = a.path.read_bytes()
    lists = {
        m.name: ((eal.run / f"fbarray_{m.name}").stat().st_size, m.n_segs) for m in eal.lists()
    }
    evidence(f"{data[297:324].hex(' ', 4)}; {lists}")

    assert data[:297] == bytes(297) and data[297:300] == b"end"
    assert data[300:308] == struct.pack("=II", 2, 0)
    assert data[308:324] == struct.pack("=QQ", 2, 1)
    assert data[324:] == bytes(PAGE - 324)
    for name, (size, n) in lists.items():
        n_masks = -(-n // 64)
        want = rounded(48 * n + 8 + 8 * n_masks)
        assert (size, eal.array(name, length=n).n_masks) == (want, n_masks)


@requirement("FBA-002")
@needs(pages={"2M": 1})
@modes("in-memory", "no-huge")
def test_entry_is_used_iff_its_bit_is_set(start, evidence):
    """Bits at the ends of words, then all: the unused tail of the last word stays 0.

    100 entries: word 0 [0 ........... 63]   word 1 [64 ..... 99 | tail: 28 bits of 0]
    """
    eal = start("-m", "2")
    a = eal.fbarray(length=100, elt_sz=4)
    a.set_used(0, 63, 64, 99)
    some = words(eal, a)
    used = [i for i in range(100) if a.is_used(i)]
    a.set_used(*range(100))
    full = words(eal, a)
    a.set_free(*range(1, 100))
    evidence(f"{some[0]:#x} {some[1]:#x}, full {full[1]:#x}")

    assert some == [1 << 63 | 1, 1 << 35 | 1]
    assert used == [0, 63, 64, 99]
    assert full == [(1 << 64) - 1, (1 << 36) - 1]
    assert words(eal, a) == [1, 0]


@requirement("FBA-003")
@needs(pages={"2M": 2})
@modes(*SHARED)
def test_descriptor_is_in_the_config_not_in_the_file(start, evidence):
    """96 bytes: name@0, count@64, len@68, elt_sz@72, data@80, lock@88; none of it in the file."""
    eal = start("-m", "4")
    found = descriptors(eal)
    lists = {m.index: m for m in eal.lists()}
    mapped = {m.path.rpartition("/")[2]: m.start for m in eal.maps() if "fbarray_" in m.path}

    assert DESCRIPTOR.size == 96
    assert set(found) == {None, *lists}
    for i, (name, count, length, elt_sz, data, lock) in found.items():
        name = name.rstrip(b"\0").decode()
        evidence(f"{name}: {count} of {length}, {elt_sz} bytes each, {data:#x}")
        m = lists.get(i)
        assert (name, length) == ((m.name, m.n_segs) if m else ("memzone", 2560))
        assert elt_sz == eal.decode.sizeof("rte_memseg" if m else "rte_memzone")
        assert m is None or count == m.count
        assert (data, lock) == (mapped[f"fbarray_{name}"], 0)
        content = (eal.run / f"fbarray_{name}").read_bytes()
        assert name.encode() not in content
        array = eal.array(name, elt_sz, length)
        assert not any(array.tail)


@requirement("FBA-004")
@needs(pages={"2M": 8})
@modes(*SHARED)
def test_count_is_the_number_of_set_bits(start, evidence):
    """All lists and memzones, before and after the heap grew by 5 MB and shrank again."""
    eal = start("-m", "4")

    def counts():
        now = {d[0].rstrip(b"\0").decode(): d[1:4] for d in descriptors(eal).values()}
        return {
            name: (count, len(eal.array(name, elt_sz, length).used))
            for name, (count, length, elt_sz) in now.items()
        }

    seen = [counts()]
    if va := eal.malloc(5 * MB).va:
        seen.append(counts())
        eal.free(va)
        seen.append(counts())
    evidence("; ".join(str({k: v for k, v in c.items() if any(v)}) for c in seen))

    assert all(count == bits for c in seen for count, bits in c.values())
    assert any(count for name, (count, _) in seen[0].items() if name != "memzone")
    if va and not {"--legacy-mem", "--no-huge"} & set(eal.args):
        assert seen[0] != seen[1]


@requirement("FBA-005")
@needs(pages={"2M": 2})
@modes(*SHARED)
def test_path_is_the_name_in_the_runtime_directory(start, evidence):
    """RUN/fbarray_<name>, mode 0600, one for memzones, one a list, one for an array of ours."""
    eal = start("-m", "4")
    a = eal.fbarray(length=10, elt_sz=1, name="of our own")
    found = eal.run_files("fbarray_*")
    evidence(f"{eal.runtime_dir}: {' '.join(found)}")

    names = ["memzone", "of our own", *(m.name for m in eal.lists())]
    assert found == sorted(f"fbarray_{n}" for n in names)
    assert {(eal.run / f).stat().st_mode & 0o7777 for f in found} == {0o600}
    assert a.path.stat().st_size == PAGE


@requirement("FBA-006")
@needs(strace=True)
def test_creation_proves_exclusive_use_then_shares(eal, evidence):
    """open, flock EX then SH (neither waits), ftruncate, mmap shared and fixed, zeroes.

    A stale file keeps its inode (no O_TRUNC, no O_EXCL), not its content.
    """
    path = eal.run / "fbarray_suite"
    path.write_bytes(b"stale" * 1000)
    inode = path.stat().st_ino
    trace = eal.trace("openat,flock,ftruncate,mmap", path=f"{eal.runtime_dir}/fbarray_suite")
    a = eal.fbarray(length=64, elt_sz=8)
    calls = trace.stop()
    evidence("; ".join(c.text for c in calls))

    opened, exclusive, shared, resized, mapped = calls
    flags = set(opened.args[2].split("|"))
    assert {"O_RDWR", "O_CREAT"} <= flags and not {"O_TRUNC", "O_EXCL"} & flags
    assert opened.args[3] == "0600"
    assert (exclusive.name, exclusive.args[1]) == ("flock", "LOCK_EX|LOCK_NB")
    assert (shared.name, shared.args[1]) == ("flock", "LOCK_SH|LOCK_NB")
    assert (resized.name, resized.args[1]) == ("ftruncate", str(PAGE))
    assert mapped.ret == a.made.data == int(mapped.args[0], 16)
    assert {"MAP_SHARED", "MAP_FIXED"} <= set(mapped.args[3].split("|"))
    assert path.stat().st_ino == inode
    assert path.read_bytes() == bytes(512) + b"\1" + bytes(PAGE - 513)


@requirement("FBA-007")
@needs(pages={"2M": 2})
@modes(*SHARED)
def test_shared_lock_and_descriptor_are_kept(start, evidence):
    """Each array: one descriptor, one FLOCK READ over the whole file, until it is detached."""
    eal = start("-m", "4")
    detached, destroyed = (eal.fbarray(length=4, elt_sz=4, name=n) for n in ("one", "two"))
    files = [eal.run / f for f in eal.run_files("fbarray_*")]
    inodes = {f.name: f.stat().st_ino for f in files}

    def fds(path):
        return [n for n, fd in eal.fds().items() if fd.inode == inodes[path.name]]

    locks = {f.name: [(k.kind, k.mode, k.start, k.end) for k in eal.locks(f)] for f in files}
    opened = {f.name: len(fds(f)) for f in files}
    evidence(f"{len(locks)} arrays: {locks['fbarray_memzone']}")
    detached.detach()
    destroyed.destroy()

    assert len(files) >= 4
    assert set(opened.values()) == {1}
    assert all(found == [("FLOCK", "READ", 0, None)] for found in locks.values())
    assert eal.locks(detached.path) == []
    assert fds(detached.path) == fds(destroyed.path) == []
    assert detached.path.exists()


@requirement("FBA-008")
@pytest.mark.parametrize("kind", [fcntl.LOCK_SH, fcntl.LOCK_EX], ids=["shared", "exclusive"])
def test_locked_file_is_refused_and_a_stale_one_reused(eal, evidence, kind):
    """Any flock of others: EBUSY, the file untouched; without it: resized and zeroed."""
    path, junk = eal.run / "fbarray_suite", bytes(range(256)) * 1000
    path.write_bytes(junk)
    with open(path) as other:
        fcntl.flock(other, kind)
        refused = eal.fbarray(length=100, elt_sz=4)
        after = path.read_bytes()
    a = eal.fbarray(length=100, elt_sz=4)
    evidence(f"held: errno {refused.errno}; released: {path.stat().st_size} bytes")

    assert (refused.ret, refused.errno) == (-1, 16) and after == junk
    assert a.ret == 0
    assert path.read_bytes() == bytes(400) + b"\2" + bytes(PAGE - 401)


@requirement("FBA-019")
@needs(pages={"2M": 2, "1G": 1})
@modes("dynmem", "no-huge")
def test_sizes_of_files(start, mode, evidence):
    """memzone 188416; 8192 pages 397312, 32768 pages 1581056, 32 pages 4096 bytes; and no-huge.

    More where the kernel's pages are larger than 4 kB.
    """
    runs = [["-m", "2"]] if mode == "dynmem" else [["-m", m] for m in ("1", "4", "64")]
    sizes = {}
    for args in runs:
        eal = start(*args)
        sizes |= {
            (m.name.split("-")[0], m.n_segs): (eal.run / f"fbarray_{m.name}").stat().st_size
            for m in eal.lists()
        }
        memzone = (eal.run / "fbarray_memzone").stat().st_size
        eal.close()
    evidence(f"memzone {memzone}; {sizes}")

    assert memzone == rounded(188416)
    if mode == "no-huge":
        assert sizes == {
            ("nohugemem", n): rounded(size)
            for n, size in [(256, 16384), (1024, 53248), (16384, 790528)]
        }
    elif holds(">=26.07", eal.release):
        assert sizes == {("memseg", 64): PAGE, ("memseg", 32768): rounded(1581056)}
    else:
        assert sizes == {("memseg", 32): PAGE, ("memseg", 8192): rounded(397312)}


@requirement("FBA-020")
def test_end_of_init_sweeps_arrays_that_nobody_holds(start, evidence):
    """A stale fbarray_* is removed, a locked one stays; the sweep waits for a lock on RUN first."""
    first = start("-m", "2", mode="no-huge")
    run = first.run
    first.close()
    files = [run / n for n in ("fbarray_stale", "fbarray_held", "no_array")]
    for f in files:
        f.write_bytes(b"from yesterday")
    eal = start("-m", "2", mode="no-huge", init=False)
    with open(files[1]) as keep, ThreadPoolExecutor() as pool:
        fcntl.flock(keep, fcntl.LOCK_SH)
        fd = os.open(run, os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH)
            done = pool.submit(eal.init)
            waiting = until(lambda: [k for k in eal.locks(run) if k.waits] or done.done())
            before = [f.exists() for f in files]
        finally:
            os.close(fd)
        done.result()
    evidence(f"waits: {waiting}; left: {[f.name for f in files if f.exists()]}")

    assert [(k.kind, k.mode) for k in waiting] == [("FLOCK", "WRITE")]
    assert before == [True] * 3
    assert [f.exists() for f in files] == [False, True, True]
