"""LEG: memory without hugepages, which is legacy memory of 4 kB pages."""

import errno

import pytest

from conformance import MB, modes, needs, requirement

REASONS = "specified together", "not compatible", "can't be used at the same time"


@requirement("LEG-001")
@modes("no-huge")
def test_no_huge_is_64_megabytes_unless_told(start, evidence):
    """Fixed size, 64 MB by default and for -m 0, otherwise what -m says."""
    sizes = [
        start(*m, prefix=f"leg{i}").info().physmem_size
        for i, m in enumerate(([], ["-m", "0"], ["-m", "8"]))
    ]
    evidence(f"no -m, -m 0, -m 8: {sizes}")

    assert sizes == [64 * MB, 64 * MB, 8 * MB]


@requirement("LEG-002")
@modes("no-huge")
def test_no_huge_memory_is_4k_pages_and_one_heap_element(start, evidence):
    """A list of 16384 pages of 4 kB, and 60 MB of it can be allocated in one piece."""
    eal = start()
    (msl,) = eal.lists()
    (run,) = eal.walk("contig").visits
    va = eal.malloc(60 * MB).va
    evidence(f"{msl.name}: {msl.count} pages of {msl.page_sz} bytes, 60 MB at {va:#x}")

    assert (msl.name, msl.index, msl.page_sz, msl.count) == ("nohugemem", 0, 4096, 16384)
    assert (run.addr, run.len) == (msl.base_va, 64 * MB)
    assert msl.base_va < va < msl.base_va + 4 * MB


@requirement("LEG-003")
@modes("no-huge")
def test_no_huge_entries_have_their_address_as_iova(start, evidence):
    """Each of the 4096 records: iova = address, 4 kB, socket 0, no flags.

    page i: addr = iova = base + i * 4096
    """
    eal = start("-m", "16")
    base, array = eal.lists()[0].base_va, eal.array("nohugemem")
    evidence(f"first {array[0]}, last iova {array[4095].iova:#x}")

    assert eal.iova_mode == "VA"
    assert array.used == list(range(4096))
    for i in range(4096):
        va, ms = base + i * 4096, array[i]
        assert (ms.addr, ms.iova, ms.len, ms.hugepage_sz) == (va, va, 4096, 4096)
        assert (ms.socket_id, ms.flags) == (0, 0)


@requirement("LEG-004")
@needs(strace=True)
@modes("no-huge")
def test_no_huge_memory_is_mapped_over_its_reservation(start, evidence):
    """Address space without access first, then MAP_FIXED over all 16 MB of it."""
    eal = start("-m", "16", init=False)
    trace = eal.trace("mmap")
    eal.init()
    calls = trace.stop("mmap")
    base = eal.lists()[0].base_va
    over = next(c for c in calls if c.ret == base and "MAP_FIXED" in c.args[3])
    before = [c for c in calls[: calls.index(over)] if c.args[2] == "PROT_NONE"]
    evidence(over.text)

    assert int(over.args[1]) == 16 * MB
    assert "MAP_SHARED" in over.args[3] and "nohuge" in over.args[4]
    assert any(c.ret <= base and base + 16 * MB <= c.ret + int(c.args[1]) for c in before)


@requirement("LEG-005")
@modes("no-huge")
@pytest.mark.parametrize(
    "option",
    [
        pytest.param(["--socket-mem", "64"], id="socket-mem"),
        pytest.param(["--huge-unlink"], id="huge-unlink"),
        pytest.param(["--in-memory"], id="in-memory", marks=needs(release="<25.11")),
        pytest.param(["--match-allocations"], id="match-allocations"),
        pytest.param(
            ["--huge-worker-stack"], id="huge-worker-stack", marks=needs(release=">=22.07")
        ),
    ],
)
def test_no_huge_excludes_what_is_about_hugepages(start, option, evidence):
    """Each of these options beside --no-huge is EINVAL, and the log names it."""
    refused = start(*option, init=False).refused()
    said = [x for x in refused.log.splitlines() if any(why in x for why in REASONS)]
    name = option[0].removeprefix("--")
    evidence(said)

    assert refused.errno == errno.EINVAL
    assert any(name in x or (name == "socket-mem" and "numa-mem" in x) for x in said)
