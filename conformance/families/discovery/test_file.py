"""HPI: the file hugepage_info, in which secondaries find what was discovered."""

import errno
import struct

import pytest

from conformance import GB, HUGE, HUGE_FILES, MB, modes, needs, requirement

M2 = 2 * MB
NO_PAGE_1G = ("1G", "/run/hugepages/1G", "size=0")


def raw(eal):
    """The file cut into its records, and the number of nodes that a record has."""
    data, size = (eal.run / "hugepage_info").read_bytes(), eal.decode.sizeof("hugepage_info")
    nodes = eal.decode.constants["RTE_MAX_NUMA_NODES"]
    return [data[i : i + size] for i in range(0, len(data), size)], nodes


@requirement("HPI-021")
@needs(pages={"2M": 2})
@modes(*HUGE_FILES)
def test_file_is_records_of_fixed_layout(start, mode, machine, evidence):
    """12720 bytes on x86-64: three times 4240, for 32 nodes; four times 4128 on arm64, for 4.

    0 page size | 8 directory ... | 4104 pages of node 0, 1 ... | 4232 lock descriptor | 4240
    """
    box = machine({"2M": {"free": 5, "nodes": {0: 3, 1: 2}}}, {"2M": 2})
    eal = start("--socket-mem=2,0", box=box)
    records, nodes = raw(eal)
    size, path = struct.unpack_from("Q4096s", records[0])
    pages = struct.unpack_from(f"{nodes}I", records[0], 4104)
    evidence(f"{len(records)} records of {len(records[0])} bytes: {size}, {path[:20]}, {pages[:2]}")

    most = eal.decode.constants["MAX_HUGEPAGE_SIZES"]
    assert [len(r) for r in records] == [4108 + 4 * nodes + 7 & -8] * most
    assert (size, path.rstrip(b"\0").decode()) == (M2, box.hugedir("2M"))
    assert pages == ((5, 0) if mode == "legacy" else (3, 2)) + (0,) * (nodes - 2)


@requirement("HPI-022")
@needs(pages={"2M": 1})
@modes(*HUGE_FILES)
def test_lock_descriptors_are_minus_one(start, machine, evidence):
    """In all records, though only one is of a page size."""
    records, nodes = raw(start("-m", "2", box=machine({"2M": {"free": 1}}, {"2M": 1})))
    fds = [struct.unpack_from("i", r, 4104 + 4 * nodes)[0] for r in records]
    evidence(fds)

    assert fds == [-1] * len(records)


@requirement("HPI-023")
@needs(pages={"2M": 3}, strace=True)
@modes(*HUGE_FILES)
def test_counts_are_those_of_discovery(start, machine, evidence):
    """The file is written before the first page is taken, and not again: 3 free, 2 of them taken.

    counters read, hugepage_info, page files
    """
    eal = start("-m", "4", box=machine({"2M": {"free": 3}}, {"2M": 3}), init=False)
    trace = eal.trace("openat")
    eal.init()
    paths = [c.args[1] for c in trace.stop()]
    read = [i for i, p in enumerate(paths) if "free_hugepages" in p]
    wrote = [i for i, p in enumerate(paths) if p.endswith('/hugepage_info"')]
    pages = [i for i, p in enumerate(paths) if f"{eal.prefix}map_" in p]
    (record,) = eal.hugepage_info()
    evidence(f"counters {read}, hugepage_info {wrote}, page files {pages}")

    assert max(read) < wrote[0] < min(pages)
    assert len(wrote) == 1
    assert record.num_pages[0] == 3


@requirement("HPI-024")
@needs(pages={"2M": 1})
@modes(*HUGE_FILES)
@pytest.mark.parametrize("last", ["1G", "2M"])
def test_record_behind_the_counted_ones_may_name_a_dropped_size(
    start, machine, ordered, last, evidence
):
    """1 GB without a mount: read last, it stays in the second record, without a directory.

    2M, 1G     [2M /run/hugepages/2M] [1G ""] [0 ""]
    1G, 2M     [2M /run/hugepages/2M] [0 ""]  [0 ""]
    """
    box = machine({"2M": {"free": 1}, "1G": {"free": 1}}, {"2M": 1})
    ordered(box, ["2M", "1G"] if last == "1G" else ["1G", "2M"])
    eal = start("-m", "2", box=box)
    kept = [struct.unpack_from("Q64s", r) for r in raw(eal)[0]]
    found = [(sz, path.rstrip(b"\0").decode()) for sz, path in kept]
    evidence(f"{last} last: {found}")

    dropped = (GB if last == "1G" else 0, "")
    assert found == [(M2, box.hugedir("2M")), dropped, *[(0, "")] * (len(found) - 2)]
    assert [r.hugepage_sz for r in eal.hugepage_info()] == [M2]


@requirement("HPI-025")
@needs(pages={"2M": 1})
@modes(*HUGE_FILES)
def test_file_is_private_and_replaces_a_longer_one(start, machine, evidence):
    """Mode 0600; 20000 bytes of noise from before leave no trace."""
    box = machine({"2M": {"free": 1}}, {"2M": 1})
    eal = start("-m", "2", box=box)
    path = eal.run / "hugepage_info"
    clean, mode = path.read_bytes(), path.stat().st_mode & 0o777
    eal.close()
    path.write_bytes(b"\xa5" * 20000)
    again = start("-m", "2", box=box)
    evidence(f"mode {mode:o}, {len(clean)} bytes, then {path.stat().st_size}")

    assert mode == 0o600
    assert again.run / "hugepage_info" == path
    assert path.read_bytes() == clean


@requirement("HPI-026")
@needs(pages={"2M": 1})
@modes(*HUGE)
def test_without_a_page_init_is_refused(start, mode, machine, evidence):
    """EACCES, and no hugepage_info: a mounted size has no page; nothing is mounted (not in M)."""
    empty = machine({"2M": {"free": 0}}, {"2M": 1})
    no_mount = machine({"2M": {"free": 1}}, {})
    for why, box in [("empty", empty), ("no mount", no_mount)][: 1 if mode == "in-memory" else 2]:
        eal = start("-m", "2", box=box, init=False)
        refused = eal.refused()
        evidence(f"{why}: errno {refused.errno}, {refused.text}")

        assert refused.errno == errno.EACCES
        assert "Cannot get hugepage information" in refused.log
        assert not box.path(f"/run/dpdk/{eal.prefix}/hugepage_info").exists()
