"""LEG: legacy memory never changes, and what other options make of it."""

import errno

import pytest

from conformance import MB, modes, needs, requirement
from conformance.harness.catalogue import holds

PAGE = 2 * MB


@requirement("LEG-022")
@needs(pages={"2M": 4})
@modes("legacy", "no-huge")
def test_memory_neither_grows_nor_tells_of_changes(start, evidence):
    """More than the heap has is refused; events and limits are ENOTSUP, and the pages stay."""
    eal = start("-m", "4")
    before = eal.segments()
    grown, events, limit = eal.malloc(8 * MB), eal.events_register(), eal.limit_register(0, 1)
    evidence(f"malloc {grown}, events {events}, limit {limit}")

    assert grown.va == 0
    assert (events.ret, events.errno) == (-1, errno.ENOTSUP)
    assert (limit.ret, limit.errno) == (-1, errno.ENOTSUP)
    assert eal.free(eal.malloc(MB).va).ret == 0
    assert eal.segments() == before


@requirement("LEG-023")
@needs(pages={"2M": 3})
@modes("legacy")
@pytest.mark.parametrize(
    ("option", "accepted"),
    [
        pytest.param("--in-memory", False, id="in-memory"),
        pytest.param("--match-allocations", False, id="match-allocations"),
        pytest.param("--socket-limit=64", True, id="limit", marks=needs(release="<25.11")),
        pytest.param("--socket-limit=64", False, id="limit-25.11", marks=needs(release=">=25.11")),
    ],
)
def test_options_of_dynamic_memory_do_not_go_with_legacy(start, option, accepted, evidence):
    """--in-memory and --match-allocations are EINVAL; --socket-limit is, or only said to be."""
    eal = start("-m", "2", option, init=False)
    if accepted:
        eal.init()
        evidence(eal.logged("socket-limit"))

        assert eal.logged("--socket-limit is only supported in non-legacy memory mode")
        assert len(eal.segments()) == 1
    else:
        assert eal.refused().errno == errno.EINVAL


@requirement("LEG-024")
@needs(pages={"2M": 3})
@modes("legacy", "no-huge")
def test_a_layout_without_a_size_is_announced(start, mode, evidence):
    """`Static memory layout is selected` stands in the log unless -m gives a size."""
    told = start("-m", "4")
    told.close()
    eal = start()
    evidence(eal.logged("Static memory"))

    assert not told.logged("Static memory layout is selected")
    said = bool(eal.logged("Static memory layout is selected"))
    assert said == (mode == "legacy" or holds("<25.11", eal.release))


@requirement("LEG-025")
@needs(pages={"2M": 4})
@modes("legacy")
def test_huge_unlink_takes_the_names_of_kept_pages(start, filled, evidence):
    """The pages stay mapped and locked at a file without a name."""
    eal = start("-m", "4", "--huge-unlink")
    paths = [eal.map_at(s.addr).path for s in eal.segments()]
    evidence(f"{paths}, files {filled(eal)}")

    assert filled(eal) == []
    assert len(paths) == 2 and all(p.endswith("(deleted)") for p in paths)


@requirement("LEG-026")
@needs(pages={"2M": 4})
@modes("legacy")
def test_single_file_segments_keep_a_file_a_page_but_no_descriptor(start, filled, evidence):
    """Two pages, two files, two complaints, and the descriptor of a segment is ENODEV."""
    eal = start("-m", "4", "--single-file-segments")
    said, segs = eal.logged("Could not store segment fd"), eal.segments()
    evidence(said)

    assert len(said) == len(segs) == len(filled(eal)) == 2
    assert [eal.fd(s.addr).ret for s in segs] == [-1, -1]
    assert eal.fd(segs[0].addr).errno == errno.ENODEV


@requirement("LEG-028")
@needs(pages={"2M": 4})
@modes("legacy")
def test_segments_have_no_flags_and_lists_version_0(start, evidence):
    """Legacy pages are not marked do-not-free, and their list has never changed."""
    eal = start("-m", "4")
    (msl,) = eal.lists()
    array = eal.array(msl.name)
    flags = [array[i].flags for i in array.used]
    evidence(f"flags {flags}, version {msl.version}")

    assert flags == [0, 0]
    assert msl.version == eal.config().memsegs[msl.index].version == 0
