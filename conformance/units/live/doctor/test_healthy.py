"""doctor where nothing is wrong: it reports OK, and leaves everything as it is."""

import pytest

from conformance import needs
from conformance.harness.child import environment
from conformance.units.live.doctor import (
    test_addresses,
    test_arguments,
    test_cgroup,
    test_files_of_others,
    test_mount,
    test_namespace,
    test_permission,
    test_pool,
    test_primary,
)
from conformance.units.live.doctor.world import tool

CHAIN = [
    test_addresses,
    test_arguments,
    test_cgroup,
    test_files_of_others,
    test_mount,
    test_namespace,
    test_permission,
    test_pool,
    test_primary,
]
HEALTHY = {
    "dynmem": (["-m", "4"], {"2M": 2}),
    "single-file": (["-m", "4", "--single-file-segments"], {"2M": 2}),
    "in-memory": (["-m", "4", "--in-memory"], {}),
    "huge-unlink": (["-m", "4", "--huge-unlink"], {"2M": 2}),
    "legacy": (["-m", "4", "--legacy-mem"], {"2M": 2}),
    "no-huge": (["-m", "4", "--no-huge"], {}),
    "nothing-asked": ([], {"2M": 2}),
    "both-sizes": (["-m", "4"], {"2M": 2, "1G": 1}),
}


def states(answer):
    return {x["state"] for x in answer["links"]}


@needs(root=True, pages={"2M": 2})
@pytest.mark.parametrize("name", HEALTHY)
def test_nothing_is_found_where_all_is_well(name, world):
    """No FAIL and no WARN for what then starts, neither in its place nor by --pid."""
    args, pages = HEALTHY[name]
    target = world.target(*args, box=world.box(pages, lease={} if pages else {"2M": 2}))
    answers = [target.ask(), target.ask(by_pid=True)]
    target.starts()

    for code, answer in answers:
        assert (code, answer["verdict"]) == (0, "OK"), answer
        assert states(answer) == {"OK"}, answer


@needs(root=True, pages={"2M": 2})
def test_a_secondary_is_well_too(world):
    """Beside a living primary."""
    box = world.box({"2M": 2})
    world.eal("-m", "4", box=box)
    target = world.target("--proc-type=secondary", box=box)
    code, answer = target.ask()
    target.starts()

    assert (code, answer["verdict"], answer["first"]) == (0, "OK", None), answer
    assert states(answer) == {"OK"}, answer


@needs(root=True, pages={"2M": 4})
def test_a_process_that_is_up_is_not_in_its_own_way(world):
    """Neither its lock nor its memory."""
    target = world.target("-m", "4", box=world.box({"2M": 4}))
    target.starts()
    code, answer = target.ask(by_pid=True)
    said = [f["text"] for x in answer["links"] for f in x["findings"]]

    assert (code, answer["verdict"]) == (0, "OK"), answer
    assert [t for t in said if f"process {target.eal.pid} is this primary, and up" in t]


@needs(root=True, strace=True, pages={"2M": 2})
def test_it_only_looks(world, tmp_path):
    """No lock, nothing written, nothing opened for writing, no page taken."""
    box = world.box({"2M": 2})
    world.eal("-m", "4", box=box)
    out = tmp_path / "calls"
    calls = "flock,fcntl,open,openat,creat,unlink,unlinkat,mkdir,mkdirat,rename,ftruncate,fallocate"
    strace = ["strace", "-f", "-qq", "-y", "-e", f"trace={calls}", "-o", str(out)]
    env = environment() | box.environment() | {"PYTHONDONTWRITEBYTECODE": "1"}
    args = ["-m", "4", "--file-prefix", "eal_other"]
    tool([*box.enter, *strace], "doctor", "--json", "--", *args, env=env)
    told = out.read_text().splitlines()
    words = "O_WRONLY O_RDWR O_CREAT flock( F_SETLK unlink mkdir rename".split()
    bad = [c for c in told if any(w in c for w in words)]
    truncated = [c for c in told if "ftruncate" in c and "memfd:" not in c]

    assert told
    assert bad == []
    assert truncated == []


def test_thirty_of_the_problems_are_made_with_a_real_librte_eal():
    """Problems that stop or harm a start: not 0 (EAL's own words), not 13 (made with pyeal).

    More is better: count again.
    """
    made = [
        test.problem for link in CHAIN for test in vars(link).values() if hasattr(test, "problem")
    ]
    harmful = {number for number, state in made if state != "OK"} - {0, 13}
    refused = {number for number, state in made if state == "FAIL"} - {0, 13}

    assert (len(harmful), len(refused)) == (33, 29)
