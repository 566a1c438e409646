"""doctor, links "arguments" and "IOVA": what EAL refuses before it looks at the machine."""

from conformance import needs
from conformance.units.live.doctor.world import explain, problem

pytestmark = needs(root=True)


@problem(0)
def test_unknown_option(world):
    """An option that no release has."""
    target = world.target("--no-such-thing", box=world.box())

    assert "unrecognized option" in target.doctor("arguments")
    assert 0 in explain(target.refused())


@problem(0)
def test_missing_lcore(world):
    """A CPU that this machine lacks."""
    target = world.target("-l", "127", box=world.box())

    assert "lcore 127 unavailable" in target.doctor("arguments")
    assert 0 in explain(target.refused())


@problem(38)
def test_no_huge_with_huge_unlink(world):
    """Two options that exclude each other."""
    target = world.target("--no-huge", "--huge-unlink", box=world.box())

    assert "--no-huge" in target.doctor("arguments")
    assert 38 in explain(target.refused())


@problem(9)
@needs(pages={"2M": 1})
def test_no_physical_addresses(world):
    """--iova-mode=pa without CAP_SYS_ADMIN: pagemap shows no frame."""
    target = world.target(
        "-m",
        "2",
        "--iova-mode=pa",
        box=world.box({"2M": 1}),
        drop=["sys_admin"],
        target="librte_eal:24.11",
        release="24.11",
    )

    said = target.doctor("IOVA")
    assert "no physical address" in said
    assert "--iova-mode=va" in said
    assert 9 in explain(target.refused())
