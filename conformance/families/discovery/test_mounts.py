"""HPI: which mount serves a page size, by itself and with --huge-dir."""

import errno

import pytest

from conformance import GB, HUGE, HUGE_FILES, MB, modes, needs, requirement

M2 = 2 * MB
NO_PAGE_1G = ("1G", "/run/hugepages/1G", "size=0")
TWO_PAGES = f"size={2 * M2},min_size={2 * M2}"


def found(eal):
    return {r.hugepage_sz: r.hugedir for r in eal.hugepage_info()}


@requirement("HPI-005")
@needs(pages={"2M": 4})
@modes(*HUGE)
def test_first_mount_of_a_size_serves_it(start, mode, machine, evidence):
    """Of two mounts of 2 MB pages the first line of /proc/mounts counts: only that one is cleared.

    /run/hugepages/1G pagesize=1G | /run/hugepages/2M pagesize=2M | /run/second pagesize=2M
    A line without pagesize= stands for the default size: HPI-029 has hosts with such lines.
    """
    ours = [("2M", at, TWO_PAGES) for at in ("/run/hugepages/2M", "/run/second")]
    lease = {"2M": 2} if mode == "in-memory" else {}
    box = machine({"2M": {"free": 2}}, {}, mounts=[NO_PAGE_1G, *ours], lease=lease)
    first, second = box.path(box.hugedir("2M")), box.path("/run/second")
    for d in (first, second):
        (d / "othermap_0").touch()
    eal = start("-m", "2", box=box)
    there = [(d / "othermap_0").exists() for d in (first, second)]
    evidence(f"stale file in the first: {there[0]}, in the second: {there[1]}")

    assert there == [False, True]
    if mode != "in-memory":
        assert found(eal) == {M2: box.hugedir("2M")}
        assert eal.page_files() and len(list(second.iterdir())) == 1


@requirement("HPI-006")
@needs(pages={"2M": 4})
@modes(*HUGE_FILES)
@pytest.mark.parametrize("into", ["equal", "below", "nested", "missing", "beside"])
def test_huge_dir_is_a_mount_point_or_below_one(start, machine, into, evidence):
    """Files go into that very directory; a missing one, and one beside the mount, are refused.

    /run/hugepages/2M | .../2M/a/b | .../2M/deep/c, with another mount on deep | .../2Mb
    """
    top = "/run/hugepages/2M"
    box = machine({"2M": {"free": 2}}, {"2M": 2}, mounts=[("2M", f"{top}/deep", TWO_PAGES)])
    box.sh(f"mkdir -p {top}/a/b {top}/deep/c {top}b")
    at = {
        "equal": top,
        "below": f"{top}/a/b",
        "nested": f"{top}/deep/c",
        "missing": f"{top}/none",
        "beside": f"{top}b",
    }[into]
    eal = start("-m", "2", f"--huge-dir={at}", box=box, init=False)
    if into in ("missing", "beside"):
        refused = eal.refused()
        evidence(f"{at}: errno {refused.errno}")

        assert refused.errno == errno.EACCES
        return
    eal.init()
    files = [f.name for f in box.path(at).iterdir() if f.is_file()]
    evidence(f"{at}: {files}")

    assert found(eal) == {M2: at}
    assert [f for f in files if f.startswith(f"{eal.prefix}map_")]


@requirement("HPI-007")
@needs(pages={"2M": 1})
@modes(*HUGE_FILES)
def test_huge_dir_equals_the_mount_point(start, machine, evidence):
    """Before 21.11 neither a directory below it nor a slash behind it will do."""
    top = "/run/hugepages/2M"
    box = machine({"2M": {"free": 1}}, {"2M": 1})
    box.sh(f"mkdir {top}/a")
    errors = []
    for at in (f"{top}/a", f"{top}/"):
        eal = start("-m", "2", f"--huge-dir={at}", box=box, init=False)
        errors.append(eal.refused().errno)
        eal.close()  # or it keeps the prefix
    evidence(f"errnos {errors}, then {top} itself")

    assert errors == [errno.EACCES] * 2
    assert found(start("-m", "2", f"--huge-dir={top}", box=box)) == {M2: top}


@requirement("HPI-008")
@needs(pages={"2M": 1})
@modes(*HUGE_FILES)
def test_huge_dir_is_judged_by_its_file_system(start, machine, evidence):
    """A link to a hugetlbfs will do, a tmpfs mounted below one will not: statfs decides.

    /run/link -> /run/hugepages/2M      /run/hugepages/2M/x is a tmpfs
    """
    top = "/run/hugepages/2M"
    box = machine({"2M": {"free": 1}}, {"2M": 1})
    box.sh(f"ln -s {top} /run/link; mkdir {top}/x; mount -t tmpfs none {top}/x")
    other = start("-m", "2", f"--huge-dir={top}/x", box=box, init=False)
    refused = other.refused()
    other.close()  # or it keeps the prefix
    eal = start("-m", "2", "--huge-dir=/run/link", box=box)
    evidence(f"tmpfs: errno {refused.errno}; link: {found(eal)}")

    assert refused.errno == errno.EACCES
    assert found(eal) == {M2: "/run/link"}


@requirement("HPI-009")
@needs(pages={"2M": 1, "1G": 1})
@modes(*HUGE_FILES)
def test_huge_dir_excludes_other_sizes(start, machine, evidence):
    """--huge-dir on the 2 MB mount: pages of 1 GB have a mount, and are not counted."""
    box = machine({"2M": {"free": 1}, "1G": {"free": 1}}, {"2M": 1}, mounts=[NO_PAGE_1G])
    one = start("-m", "2", f"--huge-dir={box.hugedir('2M')}", box=box)
    sizes = found(one), {m.page_sz for m in one.lists()}
    one.close()
    both = found(start("-m", "2", box=box))
    evidence(f"with: {sizes[0]}; without: {both}")

    assert sizes == ({M2: box.hugedir("2M")}, {M2})
    assert both == {GB: "/run/hugepages/1G", M2: box.hugedir("2M")}


@requirement("HPI-010")
@needs(pages={"2M": 1})
@modes(*HUGE)
def test_pages_without_a_mount_are_told_and_dropped(start, mode, machine, evidence):
    """Three 1 GB pages and no hugetlbfs for them: a NOTICE; in-memory mode counts them still."""
    pools = {"2M": {"free": 1}, "1G": {"free": 5, "resv": 2}}
    eal = start("-m", "2", box=machine(pools, {"2M": 1}))
    told = eal.logged("hugepages of size")
    sizes = {m.page_sz for m in eal.lists()}
    evidence(f"{told[0] if told else 'nothing said'}; lists of {sizes}")

    text = "3 hugepages of size 1073741824 reserved, but no mounted hugetlbfs found for that size"
    assert [line for line in told if text in line]
    assert sizes == ({M2, GB} if mode == "in-memory" else {M2})
    assert mode == "in-memory" or found(eal) == {M2: "/run/hugepages/2M"}
