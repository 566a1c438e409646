"""MEMFD: whether hugepages can come from memfd_create is tried once."""
from conformance import modes, needs, requirement


@requirement("MEMFD-001")
@needs(pages={"2M": 4}, strace=True)
@modes("dynmem", "single-file", "legacy", "in-memory", "no-huge")
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


@requirement("MEMFD-003")
@needs(pages={"2M": 4}, strace=True)
@modes("in-memory")
def test_einval_means_anonymous_hugepages(start, evidence):
    """Init goes on without memfd: pages are private anonymous mappings."""
    eal = start("-m", "4", init=False)
    trace = eal.trace("memfd_create", inject="memfd_create:error=EINVAL:when=1")
    eal.init()
    probe = trace.stop()
    pages = [eal.map_at(s.addr) for s in eal.segments()]
    evidence(f"{probe[0].text}; pages are {pages[0].path} {pages[0].perms}")

    assert [c.injected for c in probe] == [True]
    assert eal.logged("falling back to anonymous hugepages")
    assert {(m.path, m.perms) for m in pages} == {("/anon_hugepage (deleted)", "rw-p")}
