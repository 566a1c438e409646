"""doctor on fake hosts: no false alarm where EAL starts, the right link where it does not."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from conformance.harness import fake_host
from conformance.units.fake_view import FakeView, view
from pyeal import options, releases
from pyeal.tools import doctor, steps
from pyeal.tools.doctor.chain import LINKS, as_root, examine
from pyeal.tools.doctor.model import FAIL, OK, WARN, state_of
from pyeal.tools.explain.problems import PROBLEMS
from pyeal.tools.touch import touch

CASES = [
    pytest.param(host, e, r, id=f"{name}-{i}-{r}")
    for name in fake_host.names()
    for host in [fake_host.load(name)]
    for i, e in enumerate(host.expects)
    for r in ("22.11.11", "26.07")
    if fake_host.holds(e.releases, r)
]
NOT_EVEN_ONE_PAGE = {
    "cgroup-limit": False,
    "reserved-beyond-free": True,
    "cpuset": False,
    "garbled-counters": True,
    "missing-files": True,
}


@pytest.mark.parametrize(("host", "e", "release"), CASES)
def test_each_host_has_the_verdict_that_eal_comes_to(
    host: fake_host.HostTree, e: fake_host.Expect, release: str, tmp_path: Path
) -> None:
    """FAIL where discovery fails, in a link of pages; none where it does not."""
    if e.max_sizes == 4 or not e.locks:
        pytest.skip("of Arm, or about a lock that cannot be had")
    found = examine(FakeView(host, tmp_path), e.args, release)
    states = {link: state_of(fs) for link, fs in found.items()}
    failing = [link for link, s in states.items() if s == FAIL]

    assert list(found) == list(LINKS)
    if e.fails or e.hangs:
        assert failing and failing[0] in ("pool", "mount")
        bad = next(f for f in found[failing[0]] if f.state == FAIL)
        assert bad.wanted and bad.found and bad.do and bad.problems
    elif not NOT_EVEN_ONE_PAGE.get(host.name):
        assert failing == [], {link: [f.text for f in found[link]] for link in failing}


@pytest.mark.parametrize(
    ("name", "args", "link", "row", "words"),
    [
        ("cgroup-limit", ["-m", "16"], "cgroup", 4, "hugetlb.2MB.max"),
        ("cpuset", ["--socket-mem", "8"], "policy", 8, "Mems_allowed_list: 1"),
        ("empty-pool", [], "pool", 1, "echo 32 > /sys/kernel/mm/hugepages/hugepages-2048kB"),
        ("no-mounts", [], "mount", 2, "mount -t hugetlbfs"),
        ("no-hugetlb", [], "pool", 41, "--no-huge"),
        ("two-nodes-2M", ["--socket-mem", "9999,0"], "pool", 6, "echo "),
        ("stacked-mounts", [], "mount", 44, "umount"),
        ("arm-sizes", ["--in-memory"], "mount", 40, "at most 3"),
        ("two-nodes-2M", ["-m", "1", "--socket-mem", "1"], "arguments", 0, "-m and --socket-mem"),
        ("two-nodes-2M", ["--numa-mem", "1"], "arguments", 0, "--as 25.11"),
    ],
)
def test_the_first_link_that_fails(
    name: str, args: list[str], link: str, row: int, words: str, tmp_path: Path
) -> None:
    found = examine(view(name, tmp_path), args, "22.11")
    first = next(k for k, fs in found.items() if state_of(fs) == FAIL)
    bad = next(f for f in found[first] if f.state == FAIL)

    assert first == link
    assert row in bad.problems
    assert words in f"{bad.text} {bad.wanted} {bad.found} {bad.do}"


def test_harmless_things_are_called_so(tmp_path: Path) -> None:
    """Two mounts of a size: a warning that names the one that is not used."""
    found = examine(view("two-mounts-of-a-size", tmp_path), ["-m", "2"], None)
    (told,) = [f for f in found["mount"] if 30 in f.problems]

    assert told.state == WARN and "--huge-dir" in told.do
    assert state_of(found["pool"]) == OK


def test_every_problem_is_looked_for_or_named_as_out_of_reach() -> None:
    """The rows that a check of doctor can report, by its source."""
    files = sorted(Path(doctor.__path__[0]).glob("*.py"))
    tree = ast.parse("\n".join(f.read_text() for f in files))
    reported = {
        c.value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "Finding"
        for arg in call.args[2:]
        for c in ast.walk(arg)
        if isinstance(c, ast.Constant) and type(c.value) is int
    } | {
        c.value
        for assign in ast.walk(tree)
        if isinstance(assign, ast.Assign) and getattr(assign.targets[0], "id", "") == "rows"
        for c in ast.walk(assign.value)
        if isinstance(c, ast.Constant) and type(c.value) is int
    }

    assert {p.id for p in PROBLEMS} - reported == {p.id for p in PROBLEMS if p.reach} - reported
    assert {p.id for p in PROBLEMS if p.reach} - reported == {34, 46}


def test_the_command(tmp_path: Path) -> None:
    """Exit codes, JSON with its schema, no colour in a pipe, a line for each link."""
    env = os.environ | {"RUNTIME_DIRECTORY": str(tmp_path)}

    def run(*args: str) -> tuple[int, str]:
        argv = [sys.executable, "-P", "-m", "pyeal", "doctor", *args]
        done = subprocess.run(argv, capture_output=True, text=True, env=env)
        return done.returncode, done.stdout + done.stderr

    code, text = run("--", "--no-huge")
    assert code == 0 and "would start" in text and "\x1b" not in text
    assert [link for link in LINKS if f" {link} " not in text] == []
    code, text = run("--json", "--", "--no-huge")
    got = json.loads(text)
    assert (code, got["schema"], got["verdict"], got["first"]) == (0, "pyeal.doctor/1", OK, None)
    assert [x["link"] for x in got["links"]] == list(LINKS)
    code, text = run("--", "--huge-dir", "/nowhere")
    assert code == 1 and "would not start: " in text
    assert run("--", "--no-such-option")[0] == 2
    assert run("--pid", "999999999")[0] == 2


def test_what_only_root_may_do_says_so() -> None:
    assert as_root("mount -t hugetlbfs none /mnt", sudo=True) == "sudo mount -t hugetlbfs none /mnt"
    assert as_root("echo 1 > /proc/sys/x", sudo=True) == "sudo sh -c 'echo 1 > /proc/sys/x'"
    assert as_root("--file-prefix x", sudo=True) == "--file-prefix x"
    assert as_root("umount /mnt", sudo=False) == "as root of the host: umount /mnt"


def test_touch_without_pages_says_so() -> None:
    assert touch(["--no-huge"], None) == [("nothing: --no-huge", "")]
    assert touch(["--no-such-option"], None)[-1][1]


@pytest.mark.parametrize(
    ("cmdline", "args"),
    [
        (["/bin/dpdk-testpmd", "-l", "0", "-m", "64", "--", "-i"], ["-l", "0", "-m", "64"]),
        (["/bin/dpdk-testpmd", "--in-memory"], ["--in-memory"]),
        (["/usr/bin/python3", "-m", "pyeal", "init", "--", "-m", "4"], ["-m", "4"]),
        (["/usr/bin/python3", "-P", "-m", "pyeal", "init"], []),
        (["/opt/pypy", "/usr/bin/pyeal", "init", "--", "-m", "4"], ["-m", "4"]),
        (["/usr/bin/python3", "-m", "64", "--", "-l", "0"], ["-m", "64"]),
        (["/bin/app.py", "-l", "0", "--", "-i"], ["-l", "0"]),
        (["/bin/ovs-vswitchd", "--pidfile", "--detach"], []),
        ([], []),
    ],
    ids=[
        "testpmd",
        "no-dashes",
        "pyeal",
        "pyeal-bare",
        "other-python",
        "named-python",
        "script",
        "own-options",
        "kernel-thread",
    ],
)
def test_the_arguments_of_a_process(cmdline: list[str], args: list[str]) -> None:
    """--pid judges what the process was started with; a command line that is no EAL's is left."""
    seen = SimpleNamespace(process=SimpleNamespace(cmdline=cmdline))

    assert steps.args_of(seen, releases.get("22.11")) == args  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (["-m", "1G"], "-m 1024"),
        (["-m512M"], "-m 512"),
        (["-m", "sixty"], "-m 64 for 64 megabytes"),
        (["--socket-mem", "4,0,8"], "--socket-mem 4"),
        (["--socket-limit", "0,16"], "--socket-limit 0"),
        (["-m", "64"], ""),
        (["--socket-mem", "4,0"], ""),
    ],
    ids=["unit", "joined", "word", "node", "limit", "right", "zero"],
)
def test_values_that_eal_reads_otherwise(given: list[str], says: str) -> None:
    """In silence: 1 MB for 1G, 0 for a word, nothing for a node that does not exist."""
    found = steps.misread(given, options.parse(given, releases.get("22.11")), [0])

    assert [do for _, do in found] == ([says] if says else [])
