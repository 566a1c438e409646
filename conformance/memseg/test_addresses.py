"""MSL: where memseg lists lie."""

from conformance import modes, needs, requirement

CONFIG, MEMZONE = 0x100000000, 0x100007000
ARRAYS = [0x100035000, 0x500200000]
LISTS = [0x100200000, 0x500400000]


@requirement("MSL-011")
@needs(pages={"2M": 2})
@modes("dynmem", "single-file")
def test_clean_run_lays_out_the_same_addresses(start, evidence):
    """Config, memzones, then list array and list by turns, from 4 GiB upwards."""
    eal = start("-m", "2")
    at = {m.path.rpartition("/")[2]: m for m in reversed(eal.maps())}
    lists = eal.lists()[:2]
    evidence(" ".join(f"{m.start:#x}:{name}" for name, m in at.items() if "fbarray" in name))

    assert (at["config"].start, at["config"].len) == (CONFIG, 0x7000)
    assert (at["fbarray_memzone"].start, at["fbarray_memzone"].len) == (MEMZONE, 0x2E000)
    assert [at[f"fbarray_memseg-2048k-0-{i}"].start for i in (0, 1)] == ARRAYS
    assert at["fbarray_memseg-2048k-0-0"].len == 0x61000
    assert [(m.base_va, m.len) for m in lists] == [(va, 0x400000000) for va in LISTS]
