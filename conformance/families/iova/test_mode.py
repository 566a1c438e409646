"""IOVA: by which addresses devices are told where memory is."""

import errno
import resource

import pytest

from conformance import ALL, HUGE, modes, needs, requirement

GROUPS = "/sys/kernel/iommu_groups"
HIDDEN = ["sys_admin"]  # without this capability pagemap shows no frame numbers


@pytest.fixture
def iommu(make_box, tmp_path, mode):
    """iommu("0", "7"): a box with these IOMMU groups and a page of 2 MB."""
    boxes = []

    def box(*groups):
        tree = tmp_path / f"groups{len(boxes)}"
        for g in groups:
            (tree / g / "devices").mkdir(parents=True)
        tree.mkdir(exist_ok=True)
        leased = mode == "in-memory"
        pages = None if mode == "no-huge" or leased else {"2M": 1}
        boxes.append(make_box(pages, binds={GROUPS: tree}, lease={"2M": 1} if leased else {}))
        return boxes[-1]

    return box


@requirement("IOVA-001")
@needs(pages={"2M": 1}, root=True, phys=True)
@modes(*ALL)
def test_physical_addresses_want_hugepages_and_frame_numbers(start, mode, evidence):
    """Root with hugepages has them; without CAP_SYS_ADMIN, or without hugepages, no user has.

    The answer is kept: it is the same when no file can be opened any more.
    """
    root = start("-m", "2")
    first = root.info().using_phys_addrs
    limits = resource.prlimit(root.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(root.pid, resource.RLIMIT_NOFILE, (0, limits[1]))
    again = root.info().using_phys_addrs
    resource.prlimit(root.pid, resource.RLIMIT_NOFILE, limits)
    root.close()
    capless = start("-m", "2", drop=HIDDEN).info().using_phys_addrs
    evidence(f"root: {first}, then {again}; without CAP_SYS_ADMIN: {capless}")

    assert (first, again, capless) == (mode != "no-huge", mode != "no-huge", False)


@requirement("IOVA-002")
@needs(pages={"2M": 1}, root=True, phys=True, path=GROUPS)
@modes(*ALL)
def test_mode_follows_frame_numbers_and_iommu(start, mode, iommu, evidence):
    """Without frame numbers VA; with them VA if there is an IOMMU group, otherwise PA."""
    none, one = iommu(), iommu("0")
    chosen = {}
    for what, box, drop in (
        ("no group", none, []),
        ("one group", one, []),
        ("no frames", none, HIDDEN),
    ):
        eal = start("-m", "2", box=box, drop=drop)
        chosen[what] = eal.iova_mode
        assert eal.logged(f"Selected IOVA mode '{eal.iova_mode}'")
        eal.close()
    evidence(" ".join(f"{what}: {m}" for what, m in chosen.items()))

    huge = "VA" if mode == "no-huge" else "PA"
    assert chosen == {"no group": huge, "one group": "VA", "no frames": "VA"}


@requirement("IOVA-003")
@needs(pages={"2M": 1}, root=True, phys=True, path=GROUPS)
@modes(*ALL)
def test_option_overrides_the_choice(start, mode, iommu, evidence):
    """va where PA would be chosen, pa where VA would; any other word is EINVAL."""
    va = start("-m", "2", "--iova-mode=va", box=iommu())
    chosen = {"va": va.iova_mode}
    va.close()
    group = iommu("0")
    if mode != "no-huge":
        pa = start("-m", "2", "--iova-mode=pa", box=group)
        chosen["pa"] = pa.iova_mode
        pa.close()
    refused = {
        w: start("-m", "2", box=group, init=False).refused(f"--iova-mode={w}") for w in ("PA", "dc")
    }
    said = [line for line in refused["dc"].log.splitlines() if "iova" in line]
    evidence(f"{chosen}; {said}")

    assert chosen == {w: w.upper() for w in chosen}
    assert {e.errno for e in refused.values()} == {errno.EINVAL}
    assert any(
        "invalid parameters for --iova-mode" in line or "invalid iova mode parameter 'dc'" in line
        for line in said
    )


@requirement("IOVA-004")
@needs(pages={"2M": 1}, root=True)
@modes(*HUGE)
def test_pa_without_frame_numbers_is_refused(start, evidence):
    """--iova-mode=pa for a process to which pagemap shows zeros: EINVAL."""
    refused = start("-m", "2", drop=HIDDEN, init=False).refused("--iova-mode=pa")
    evidence(f"errno {refused.errno}")

    assert refused.errno == errno.EINVAL
    assert "Cannot use IOVA as 'PA' since physical addresses are not available" in refused.log


@requirement("IOVA-005")
@modes("no-huge")
@pytest.mark.parametrize("asked", ["nothing", "va", "pa"])
def test_no_huge_is_va(start, asked, evidence):
    """For each user: VA by default and on request; pa is refused."""
    eal = start("-m", "2", init=False)
    if asked == "pa":
        refused = eal.refused("--iova-mode=pa")
        evidence(f"errno {refused.errno}")

        assert refused.errno == errno.EINVAL
    else:
        eal.init(*[f"--iova-mode={asked}"] * (asked != "nothing"))
        evidence(f"mode {eal.iova_mode}")

        assert eal.iova_mode == "VA"
        assert eal.logged("Selected IOVA mode 'VA'")


@requirement("IOVA-007")
@needs(pages={"2M": 1}, root=True)
@modes("dynmem")
def test_an_ordinary_user_gets_va_without_complaint(start, make_box, evidence):
    """User nobody with a hugetlbfs that all may use: VA, and not a word of pagemap."""
    box = make_box(mounts=[("2M", "/run/hugepages/all", "size=2M,min_size=2M,mode=1777")])
    eal = start("-m", "2", "--huge-dir", "/run/hugepages/all", box=box, as_user="nobody")
    segs = eal.segments()
    evidence(f"mode {eal.iova_mode}, iova {segs[0].iova:#x} at {segs[0].addr:#x}")

    assert eal.iova_mode == "VA"
    assert not eal.logged("pagemap")
    assert [s.iova for s in segs] == [s.addr for s in segs]
