"""LEG, HPD: legacy mode maps every page it can get, and keeps a list of them."""
from conformance import modes, needs, requirement

RECORD = 4136


@requirement("LEG-001")
@modes("no-huge")
def test_no_huge_is_64_megabytes_unless_told(start, evidence):
    """Fixed size, 64 MB by default and for -m 0, otherwise what -m says."""
    sizes = [start(*m, prefix=f"leg{i}").info().physmem_size
             for i, m in enumerate(([], ["-m", "0"], ["-m", "8"]))]
    evidence(f"no -m, -m 0, -m 8: {sizes}")

    assert sizes == [64 << 20, 64 << 20, 8 << 20]


@requirement("HPD-003")
@needs(pages={"2M": 8})
@modes("legacy")
def test_hugepage_data_has_a_record_for_each_page_mapped(start, evidence):
    """8 pages in the pool and 2 kept: 8 records."""
    eal = start("-m", "4")
    records, kept = eal.hugepage_data(), len(eal.segments())
    evidence(f"{len(records)} records, {kept} pages kept")

    assert (eal.run / "hugepage_data").stat().st_size == 8 * RECORD
    assert (len(records), kept) == (8, 2)
