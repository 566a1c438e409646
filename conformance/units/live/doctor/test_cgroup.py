"""doctor, link "cgroup": limits on the hugepages of a container or a pod."""

import os

from conformance import MB, needs
from conformance.units.live.doctor.world import explain, problem

pytestmark = needs(root=True, cgroup="hugetlb")


@problem(4)
@needs(pages={"2M": 4})
def test_cgroup_limit(world):
    """A limit on pages: SIGBUS at the first touch above it."""
    target = world.target("-m", "8", box=world.box({"2M": 4}), cgroup=world.cgroup("2M", 2 * MB))

    said = target.doctor("cgroup")
    assert "SIGBUS" in said
    assert "hugetlb.2MB.max" in said
    assert 4 in explain(target.refused())


@problem(4)
@needs(pages={"2M": 4})
def test_cgroup_limit_of_reservations(world):
    """A limit on reservations: mmap fails; the log is silent about the limit."""
    limit = world.cgroup("2M", 4 * MB, reserve=True)
    target = world.target("-m", "8", "--in-memory", box=world.box(lease={"2M": 4}), cgroup=limit)

    said = target.doctor("cgroup")
    assert "mmap fails" in said
    assert "rsvd" in said
    target.refused()


@problem(32)
@needs(pages={"2M": 2})
def test_pod_that_asks_for_no_hugepages(world):
    """Kubernetes gives such a pod a limit of 0; the log shows a cgroup's limit (4)."""
    pod = world.cgroup("2M", 0, label="kubepods_")
    target = world.target("-m", "4", box=world.box({"2M": 2}), cgroup=pod)

    assert "requests and limits of the pod" in target.doctor("cgroup")
    assert 4 in explain(target.refused())


@needs(pages={"2M": 2})
def test_touch_names_the_call_that_fails(world):
    """A cgroup limit of 0 shows when the page is touched, and nowhere before."""
    box = world.box({"2M": 2})
    free = world.target("-m", "2", box=box)
    limited = world.target("-m", "2", box=box, cgroup=world.cgroup("2M", 0))
    good = free.ask("--touch")[1]["touch"]
    bad = limited.ask("--touch")[1]["touch"]

    assert {s["error"] for s in good} == {""}
    assert bad[-1] == {"step": "touch the page", "error": "SIGBUS"}
    assert {s["error"] for s in bad[:-1]} == {""}
    assert os.listdir(box.path("/run/hugepages/2M")) == []
