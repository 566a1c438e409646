"""doctor, link "pool": hugepages that are missing, taken, or on the other node."""

from conformance import needs
from conformance.harness import fake_host
from conformance.units.live.doctor.world import explain, held_by_the_dead, problem

pytestmark = needs(root=True)


@problem(1)
@needs(pages={"2M": 1})
def test_nothing_reserved(world, tmp_path):
    """A mount and an empty pool."""
    box = world.box({"2M": 1}, binds=fake_host.build(tmp_path, {"2M": [0]}))
    target = world.target(box=box)

    said = target.doctor("pool")
    assert "no hugepages are reserved" in said
    assert "/hugepages-2048kB/nr_hugepages" in said
    assert 1 in explain(target.refused())


@problem(3)
@needs(pages={"2M": 4})
def test_all_held_by_a_killed_process(world, tmp_path):
    """The page files of a killed process hold the pool; its log shows an empty pool (1)."""
    box, _ = held_by_the_dead(world, tmp_path)
    target = world.target(box=box)

    said = target.doctor("pool")
    assert "all hugepages are taken" in said
    assert "pyeal stale --delete" in said
    assert 1 in explain(target.refused())


@problem(6)
@needs(pages={"2M": 1})
def test_more_than_there_is(world):
    """-m above the pool."""
    target = world.target("-m", "99999999", box=world.box({"2M": 1}))

    said = target.doctor("pool")
    assert "asked for" in said
    assert "/hugepages-2048kB/nr_hugepages" in said
    assert 6 in explain(target.refused())


@problem(6)
@needs(pages={"2M": 1})
def test_more_than_a_node_has(world):
    """--socket-mem above the pool of node 0."""
    target = world.target("--socket-mem", "99999", box=world.box({"2M": 1}))

    said = target.doctor("pool")
    assert "asked for on node 0" in said
    assert "node0/hugepages" in said
    assert 6 in explain(target.refused())


@problem(27)
@needs(pages={"2M": 4})
def test_all_on_the_other_node(world, tmp_path):
    """Enough pages, all on node 0 of two; the log shows too few pages (6)."""
    box = world.box({"2M": 4}, binds=fake_host.build(tmp_path, {"2M": [4, 0]}))
    target = world.target("--socket-mem", "2,2", box=box)

    said = target.doctor("pool")
    assert "on node 1" in said
    assert "node1/hugepages" in said
    assert 6 in explain(target.refused())


@problem(26)
@needs(pages={"2M": 1})
def test_too_fragmented_for_more(world, tmp_path):
    """No free block of the kernel is as long as a hugepage; the log shows too few pages (6)."""
    buddyinfo = tmp_path / "buddyinfo"
    buddyinfo.write_text("Node 0, zone   Normal" + "    900" * 9 + "      0" * 2 + "\n")
    box = world.box({"2M": 1}, binds={"/proc/buddyinfo": buddyinfo})
    target = world.target("-m", "99999999", box=box)

    assert "the kernel has 0 free blocks" in target.doctor("pool")
    assert 6 in explain(target.refused())


@problem(35, state="OK")
@needs(pages={"2M": 2})
def test_a_size_without_pages(world, tmp_path):
    """EAL warns that no 1 GB page is reserved, and starts."""
    box = world.box(
        {"2M": 2},
        binds=fake_host.build(tmp_path, {"2M": [2], "1G": [0]}),
        mounts=[("1G", "/run/hugepages/1G", "size=1G")],
    )
    target = world.target("-m", "2", box=box)

    assert "no 1G pages reserved: not a problem" in target.doctor("pool")
    assert 35 in explain(target.starts())


@problem(41)
def test_kernel_without_hugepages(world, tmp_path):
    """/sys/kernel/mm has no hugepages folder."""
    target = world.target(box=world.box(binds={"/sys/kernel/mm": tmp_path}))

    said = target.doctor("pool")
    assert "no hugepages" in said
    assert "--no-huge" in said
    assert 41 in explain(target.refused())
