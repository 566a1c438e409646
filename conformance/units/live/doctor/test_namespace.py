"""doctor, link "namespace": what a container's mounts and processes hide."""

from conformance import needs
from conformance.harness.box import user
from conformance.harness.child import environment
from conformance.units.live.doctor.world import LIBRTE_EAL, Inner, explain, problem, tool

pytestmark = needs(root=True)


@problem(19)
@needs(pages={"2M": 1})
def test_hugepage_directory_not_shared(world):
    """The secondary's container lacks the primary's hugetlbfs."""
    box = world.box({"2M": 1})
    world.eal("-m", "2", box=box)
    inner = Inner(box, "umount /run/hugepages/2M; rmdir /run/hugepages/2M")
    target = world.target("--proc-type=secondary", box=inner)

    said = target.doctor("namespace")
    assert "under the same path" in said
    assert "-v /run/hugepages/2M:/run/hugepages/2M" in said
    assert 19 in explain(target.refused())


@needs(pages={"2M": 2})
def test_in_a_process_namespace_it_does_not_guess(world):
    """Holders of locks outside are not visible: UNKNOWN, and kept files are not doomed."""
    box = world.box({"2M": 2})
    world.eal("-m", "2", "--huge-unlink=never", box=box, prefix=f"{world.prefix}_kept").close()
    env = environment() | box.environment()
    args = ["-m", "2", "--file-prefix", "eal_inside"]
    inner = [*box.enter, "unshare", "--pid", "--fork", "--mount-proc"]
    code, got = tool(inner, "doctor", "--json", "--", *args, env=env)
    states = {x["link"]: x["state"] for x in got["links"] if x["state"] != "OK"}

    assert (code, got["verdict"]) == (0, "OK")
    assert states == {"namespace": "UNKNOWN"}


@needs(pages={"2M": 2})
def test_without_the_right_to_look_it_says_so(world):
    """As nobody at a process of root: its mounts are UNKNOWN."""
    box = world.box({"2M": 2})
    eal = world.start("-m", "2", target=LIBRTE_EAL, init=False, box=box)
    got = tool(user("nobody"), "doctor", "--json", "--pid", eal.pid, "--", "--in-memory")[1]
    (told,) = [x for x in got["links"] if x["link"] == "namespace"]

    assert told["state"] == "UNKNOWN"
    assert f"as root: pyeal doctor --pid {eal.pid}" in [f["do"] for f in told["findings"]]
