"""MEMFD: whether hugepages can come from memfd_create is tried once."""

import errno

import pytest

from conformance import ALL, GB, MB, modes, needs, requirement, sizes
from conformance.harness import host

LOG2 = {2 * MB: "21", GB: "30"}


@requirement("MEMFD-001")
@needs(pages={"2M": 4}, strace=True)
@modes(*ALL)
def test_only_in_memory_probes(start, mode, evidence):
    """memfd_create("test") is called in in-memory mode alone; no-huge makes one other memfd."""
    eal = start("-m", "4", init=False)
    trace = eal.trace("memfd_create")
    eal.init()
    names = [c.args[0].strip('"') for c in trace.stop()]
    evidence(f"memfd_create: {names}")

    if mode == "in-memory":
        assert names[0] == "test" and names.count("test") == 1
    else:
        assert names == (["nohuge"] if mode == "no-huge" else [])


@requirement("MEMFD-002")
@needs(strace=True)
@modes("in-memory")
@sizes({"2M": 1, "1G": 1})
def test_probe_tries_the_largest_size_and_closes_at_once(start, page, fake_host, evidence):
    """One memfd "test" of the largest size that sysfs lists, whatever size the memory has.

    flags = MFD_HUGETLB | log2(size) << 26        sizes up to `page` are listed
    """
    listed = {host.name(sz): 1 for sz in LOG2 if sz <= page}
    box = fake_host({}, free=listed, lease={"2M": 1})
    eal = start("-m", "2", box=box, init=False)
    trace = eal.trace("memfd_create,close")
    eal.init()
    calls = trace.stop()
    at = next(i for i, c in enumerate(calls) if c.name == "memfd_create")
    probe, after = calls[at : at + 2]
    evidence(f"listed: {list(listed)}; {probe.text}; {after.text}")

    assert probe.args == ('"test"', f"MFD_HUGETLB|{LOG2[page]}<<MFD_HUGE_SHIFT")
    assert (after.name, int(after.args[0].partition("<")[0])) == ("close", probe.ret)
    assert {s.hugepage_sz for s in eal.segments()} == {2 * MB}


@requirement("MEMFD-003")
@needs(pages={"2M": 4}, strace=True)
@modes("in-memory")
def test_einval_means_anonymous_hugepages(start, evidence):
    """Init continues without memfd: pages are private anonymous mappings."""
    eal = start("-m", "4", init=False)
    trace = eal.trace("memfd_create", inject="memfd_create:error=EINVAL:when=1")
    eal.init()
    probe = trace.stop()
    pages = [eal.map_at(s.addr) for s in eal.segments()]
    evidence(f"{probe[0].text}; pages are {pages[0].path} {pages[0].perms}")

    assert [c.injected for c in probe] == [True]
    assert eal.logged("falling back to anonymous hugepages")
    assert {(m.path, m.perms) for m in pages} == {("/anon_hugepage (deleted)", "rw-p")}


@requirement("MEMFD-004")
@needs(pages={"2M": 1}, strace=True)
@modes("in-memory")
@pytest.mark.parametrize("error", ["ENOSYS", "EPERM", "ENOMEM"])
def test_any_other_error_of_the_probe_is_fatal(start, error, evidence):
    """No memfd_create at all, or not for us: rte_eal_init fails with ENOMEM."""
    eal = start("-m", "2", init=False)
    trace = eal.trace("memfd_create", inject=f"memfd_create:error={error}:when=1")
    refused = eal.refused()
    calls = trace.stop()
    evidence(f"{calls[0].text}; errno {refused.errno}")

    assert [c.injected for c in calls] == [True]
    assert refused.errno == errno.ENOMEM
    assert "Unable to check if memfd is supported" in refused.log


@requirement("MEMFD-005")
@needs(pages={"2M": 1})
@modes("in-memory")
def test_use_of_memfd_is_logged(start, evidence):
    """DEBUG tells that memfd is used, with or without a probe."""
    eal = start("-m", "2")
    lines = eal.logged("Using memfd for anonymous memory")
    evidence(f"logged {len(lines)} time(s)")

    assert len(lines) == 1
    assert not eal.logged("falling back to anonymous")


@requirement("MEMFD-006")
@needs(pages={"2M": 1}, strace=True)
@modes("in-memory")
def test_single_file_segments_need_memfd(start, evidence):
    """--in-memory with --single-file-segments and no memfd for hugepages: ENOMEM."""
    eal = start("-m", "2", "--single-file-segments", init=False)
    trace = eal.trace("memfd_create", inject="memfd_create:error=EINVAL:when=1")
    refused = eal.refused()
    calls = trace.stop()
    evidence(f"{calls[0].text}; errno {refused.errno}")

    assert [c.injected for c in calls] == [True]
    assert refused.errno == errno.ENOMEM
    assert "Single-file segments mode cannot be used without memfd support" in refused.log


@requirement("MEMFD-012")
@needs(pages={"2M": 2}, strace=True)
@modes("in-memory")
def test_anonymous_pages_have_no_descriptor(start, evidence):
    """After the fallback the query is ENOTSUP for each page, and so says the dump (-95)."""
    eal = start("-m", "4", init=False)
    trace = eal.trace("memfd_create", inject="memfd_create:error=EINVAL:when=1")
    eal.init()
    trace.stop()
    answers = [eal.fd(s.addr) for s in eal.segments()]
    dumped = [line.rpartition("fd:")[2] for line in eal.dump().splitlines() if "fd:" in line]
    evidence(f"query {answers[0].ret}, errno {answers[0].errno}; dump fd:{dumped[0]}")

    assert [(a.ret, a.errno) for a in answers] == [(-1, errno.ENOTSUP)] * 2
    assert dumped == [str(-errno.ENOTSUP)] * 2


@requirement("MEMFD-015")
@needs(pages={"2M": 1}, strace=True)
@modes("in-memory")
@pytest.mark.parametrize("error", ["EINVAL", "ENOSYS"])
def test_without_a_probe_the_first_error_is_final(start, error, evidence):
    """No fallback to anonymous hugepages: the first page's memfd fails, and init with ENOMEM."""
    eal = start("-m", "2", init=False)
    trace = eal.trace("memfd_create", inject=f"memfd_create:error={error}")
    refused = eal.refused()
    calls = trace.stop()
    evidence(f"{calls[0].text}; errno {refused.errno}")

    assert calls[0].injected and calls[0].args[0].startswith('"seg_')
    assert refused.errno == errno.ENOMEM
    assert "falling back to anonymous" not in refused.log
