"""doctor, link "mount": the hugetlbfs that EAL takes its page files from."""

import os

from conformance import GB, needs
from conformance.harness import fake_host
from conformance.units.live.doctor.world import explain, problem

pytestmark = needs(root=True)


@problem(2)
def test_no_mount(world):
    """No hugetlbfs at all."""
    target = world.target(box=world.box())

    said = target.doctor("mount")
    assert "no hugetlbfs of these pages" in said
    assert "mount -t hugetlbfs -o pagesize=2M" in said
    assert 2 in explain(target.refused())


@problem(2)
@needs(pages={"2M": 1})
def test_a_huge_dir_that_is_none(world):
    """--huge-dir names an ordinary directory: doctor names the mount that there is."""
    target = world.target("--huge-dir", "/run", box=world.box({"2M": 1}))

    said = target.doctor("mount")
    assert "--huge-dir /run" in said
    assert "/run/hugepages/2M" in said
    assert 2 in explain(target.refused())


@problem(6)
@needs(pages={"2M": 2})
def test_a_mount_with_a_small_size(world):
    """size= of the mount leaves 2 pages of 8; the log is silent about it."""
    target = world.target("-m", "16", box=world.box({"2M": 2}))

    said = target.doctor("mount")
    assert "size= of /run/hugepages/2M leaves 2" in said
    assert "# then --huge-dir" in said
    target.refused()


@problem(6)
@needs(pages={"2M": 4})
def test_a_mount_with_few_inodes(world):
    """nr_inodes= allows one file; the log shows that files cannot be opened (11).

    With the mount that doctor gives, the start succeeds.
    """
    few = [
        ("2M", "/run/hugepages/few", "size=8M,min_size=8M,nr_inodes=2"),
        ("tmpfs", "/mnt", "mode=755"),
    ]
    box = world.box(mounts=few)
    target = world.target("-m", "8", box=box)

    said = target.doctor("mount")
    assert "nr_inodes" in said
    assert "# then --huge-dir" in said
    assert 11 in explain(target.refused())
    target.fix("mount")
    box.sh("umount /run/hugepages/few")  # its pages go back to the pool
    world.target("-m", "8", "--huge-dir", "/mnt/huge-2M", box=box).starts()


@problem(30, state="WARN")
@needs(pages={"2M": 2})
def test_two_mounts_of_a_size(world):
    """EAL takes the first one; the log is silent about the other."""
    box = world.box({"2M": 2}, mounts=[("2M", "/run/hugepages/b", "size=4M")])
    target = world.target("-m", "2", box=box)

    said = target.doctor("mount")
    assert "/run/hugepages/b" in said
    assert "--huge-dir" in said
    target.starts()
    assert target.eal.page_files("2M")
    assert os.listdir(box.path("/run/hugepages/b")) == []


@problem(29, state="OK")
@needs(pages={"1G": 1, "2M": 1})
def test_both_sizes_mounted(world):
    """The larger pages are used first."""
    target = world.target("-m", "1024", box=world.box({"1G": 1, "2M": 1}))

    assert "in the order 1G then 2M" in target.doctor("mount")
    target.starts()
    assert {s.len for s in target.eal.segments()} == {GB}


@problem(40)
def test_more_sizes_than_eal_holds(world, tmp_path):
    """Four page sizes, as an Arm kernel with 64 KB pages has them."""
    host = fake_host.load("arm-sizes")
    trees = host.binds(host.expand(tmp_path))
    binds = {at: tree for at, tree in trees.items() if "hugepages" in at or "node" in at}
    target = world.target("--in-memory", box=world.box(binds=binds))

    assert "at most 3 page sizes" in target.doctor("mount")
    assert 40 in explain(target.refused())
