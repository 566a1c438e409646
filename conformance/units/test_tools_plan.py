"""plan: the rehearsal of a start, on fake hosts and without any trace."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from errno import EINVAL
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conformance import GB
from conformance.harness import fake_host
from conformance.units.fake_view import FakeView, view
from pyeal import dynmem, options, releases
from pyeal.look.process_view import ProcessView
from pyeal.tools import costs
from pyeal.tools.dryrun import DryRun

CASES = [
    pytest.param(host, e, r, id=f"{name}-{i}-{r}")
    for name in fake_host.names()
    for host in [fake_host.load(name)]
    for i, e in enumerate(host.expects)
    for r in ("22.11.11", "26.07")
    if fake_host.holds(e.releases, r)
]


@pytest.mark.parametrize(("host", "e", "release"), CASES)
def test_it_finds_the_pages_of_each_host(
    host: fake_host.HostTree, e: fake_host.Expect, release: str, tmp_path: Path
) -> None:
    if e.max_sizes == 4 or not e.locks:
        pytest.skip("of Arm, or about a lock that cannot be had")
    with DryRun([*e.args], release, FakeView(host, tmp_path)) as r:
        if e.fails or e.hangs:
            assert r.error and (e.fails in r.error.text or "on top of each other" in r.error.text)
            return
        found = {i.page_sz: [i.hugedir, *i.num_pages] for i in r.infos}

    nodes = r.release.numa_nodes_max
    assert found == {sz: [d, *n, *[0] * (nodes - len(n))] for sz, (d, *n) in e.counts.items()}


@pytest.mark.parametrize("release", ["22.11.11", "26.07"])
def test_stacks_of_workers_come_from_the_heap(release: str, tmp_path: Path) -> None:
    """Two workers of 3 MB each: two pages more for each, as for any malloc of this size."""
    host = fake_host.load("two-nodes-2M")
    args = ["-m", "2", "--lcores=0@0,1@0,2@0"]
    pages = []
    for more in ([], ["--huge-worker-stack=3072"]):
        with DryRun([*args, *more], release, FakeView(host, tmp_path / str(len(more)))) as r:
            assert r.error is None
            pages.append(sum(m.count for m in r.lists))

    assert pages[1] - pages[0] == 4


@pytest.mark.parametrize(
    ("release", "args", "megabytes"),
    [  # librte_eal 22.11.11 took as much
        ("22.11.11", ["--trace=mem"], 6),
        ("22.11.11", ["--trace=.*", "--trace-bufsz=4M"], 22),
        ("22.11.11", ["--trace=alarm", "--trace-bufsz=4G"], 6),  # EAL keeps 32 bits
        ("22.11.11", ["--trace=(mem)"], 4),  # a basic regular expression
        ("22.11.11", ["--trace=lib.eal.service"], 4),
        ("23.07", ["--trace=lib.eal.service"], 6),
    ],
    ids=["one", "size", "cut", "basic", "before", "since"],
)
def test_buffers_of_trace_points_come_from_the_heap(
    release: str, args: list[str], megabytes: int, tmp_path: Path
) -> None:
    """One of 1 MB for each of four lcores, if a trace point of EAL is enabled."""
    host = FakeView(fake_host.load("one-node-2M-1G"), tmp_path)
    args = ["-m", "4", "--lcores=0@0,1@0,2@0,3@0", "--huge-dir=/mnt/huge2M", *args]
    with DryRun(args, release, host) as r:
        assert r.error is None
        assert sum(r.pages().values()) * 2 == megabytes


@pytest.mark.parametrize(
    "bad", ["--trace-bufsz=0", "--trace-bufsz=x", "--trace-mode=x", "--trace-mode="]
)
def test_trace_options_that_eal_refuses(bad: str) -> None:
    with DryRun(["--no-huge", "-m", "16", bad], "22.11.11") as r:
        assert r.error and (r.error.stage, r.error.errno) == ("options", EINVAL)


def test_a_prefix_below_a_directory_that_is_missing_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """EAL creates two levels, not three. The fix is a name that a start takes."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))  # root's is /var/run
    args = ["--no-huge", "-m", "16"]
    with DryRun(["--file-prefix=missing/b", *args], "22.11.11") as r:
        assert r.error and (r.error.errno, r.error.stage) == (EINVAL, "runtime")
    with DryRun([*r.error.fix.split(), *args], "22.11.11") as r:
        assert r.error is None


def test_pyeal_alone_refuses_only_what_its_start_comes_to() -> None:
    """A socket's path over 107 bytes; the socket is opened last."""
    long = ["--file-prefix", "x" * 100]
    with DryRun(["--no-huge", "-m", "16", *long], "22.11.11") as r:
        assert r.error is None
        assert r.own_error and r.own_error.stage == "mp"
    with DryRun(["-m", "16", "--huge-dir=/missing", *long], "22.11.11") as r:
        assert r.error and r.error.stage == "hugepages"
        assert r.own_error is None


@pytest.mark.parametrize(
    ("name", "args", "link"),
    [
        ("cgroup-limit", ["-m", "8"], None),
        ("cgroup-limit", ["-m", "10"], "cgroup"),
        ("cpuset", ["--socket-mem", "0,8"], None),
        ("cpuset", ["--socket-mem", "8"], "policy"),
        ("reserved-beyond-free", ["-m", "2"], "pool"),
        ("two-nodes-2M", ["-m", "2"], None),
    ],
)
def test_the_limit_that_bites(name: str, args: list[str], link: str | None, tmp_path: Path) -> None:
    """What EAL never looks at, and finds out when it takes the pages."""
    with DryRun(args, None, view(name, tmp_path)) as r:
        assert (r.error is None) == (link is None), r.error
        assert r.binding_link == link


HOSTS = ["two-nodes-2M", "four-nodes-2M-1G", "one-node-2M-1G", "six-nodes", "cpuless-node-0"]


@given(
    name=st.sampled_from(HOSTS),
    release=st.sampled_from(list(releases.RELEASES)),
    mem=st.one_of(
        st.integers(1, 3000).map(lambda n: ["-m", str(n)]),
        st.lists(st.integers(0, 600), min_size=1, max_size=4).map(
            lambda n: ["--socket-mem", ",".join(map(str, n))]
        ),
    ),
    more=st.sampled_from([[], ["--single-file-segments"], ["--in-memory"], ["--huge-unlink"]]),
)
@settings(
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_pages_are_what_eal_counts(
    name: str,
    release: str,
    mem: list[str],
    more: list[str],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """It would start exactly where the counted pages, of which EAL does not subtract reserved ones,
    cover the request and nobody has reserved them; every page is on its node, within what is free
    there; the lists hold them."""
    v = view(name, tmp_path_factory.mktemp("host"))
    with DryRun([*mem, *more], release, v) as r:
        opts = options.parse([*mem, *more], releases.get(release))
        counted = [(i.page_sz, i.num_pages) for i in r.infos]
        nodes = [k for k in r.sockets for _ in range(1)]
        lcores = {k: sum(1 for n in v.affinity() if _node(v, n) == k) for k in nodes}
        try:
            wanted = dynmem.pages_per_socket(opts.memory, opts.socket_mem, counted, lcores)
        except Exception:
            assert r.error
            return
        if any(sum(row) > _unreserved(v, sz) for (sz, _), row in zip(counted, wanted, strict=True)):
            assert r.error and "no process reserved" in r.error.text
            return
        assert r.error is None, r.error
        used = r.pages()

    for (sz, free), row in zip(counted, wanted, strict=True):
        for node in nodes:
            assert row[node] <= used[sz, node] <= free[node]


def _unreserved(v: FakeView, page_sz: int) -> int:
    pool = Path(f"{v.sys}/kernel/mm/hugepages/hugepages-{page_sz >> 10}kB")
    free, reserved = (int((pool / f"{x}_hugepages").read_text()) for x in ("free", "resv"))
    return free - reserved


def _node(v: FakeView, cpu: int) -> int:
    return next(
        (int(k) for k, cpus in v.host.facts["cpus"].items() if cpu in fake_host.numbers(cpus)), 0
    )


def test_nothing_of_it_is_left(tmp_path: Path) -> None:
    """Addresses, descriptors and files are as before; the next one gets the same addresses."""
    v = view("four-nodes-2M-1G", tmp_path)

    def held() -> tuple[int, list[str]]:
        low = [m for m in ProcessView().maps() if m[0] < 1 << 44 and m[1] > 1 << 32]
        return len(os.listdir("/proc/self/fd")), [m[2] for m in low if m[0] >= 1 << 32]

    before, firsts = held(), []
    for args in (["-m", "64"], ["-m", "999999999"], ["--legacy-mem"], ["--no-huge"], ["--foo"]) * 2:
        with DryRun(args, None, v) as r:
            if r.error is None:
                firsts.append(r.addresses()[0][0])

    assert held() == before
    assert set(firsts) == {0x100000000}


def test_a_base_between_what_two_processes_have() -> None:
    """The lowest gap that is long enough in both."""

    class Taken(ProcessView):
        def __init__(self, *spans: tuple[int, int]) -> None:
            self.spans = spans

        def maps(self) -> list[tuple[int, int, str]]:
            return [(a, b, "") for a, b in self.spans]

    one, two = Taken((0x100000000, 0x140000000)), Taken((0x180000000, 0x190000000))

    assert costs.free_base(1 << 24, [one]) == 0x141000000
    assert costs.free_base(GB, [one, two]) == 0x191000000
    assert costs.free_base(1 << 48, [one]) == 0


def test_time_is_measured_here() -> None:
    assert costs.zeroing() > 1 << 26
    assert 0 < costs.per_file() < 0.1


def run(*args: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pyeal", "plan", *args], capture_output=True, text=True
    )
    return done.returncode, done.stdout + done.stderr


def test_the_command() -> None:
    """Exit codes, JSON with its schema, and words without colour for what is no terminal."""
    code, text = run("--json", "--", "--no-huge", "-m", "8")
    got = json.loads(text)
    assert (code, got["schema"], got["ok"]) == (0, "pyeal.plan/1", True)
    assert got["lists"][0]["n_segs"] == 2048
    code, text = run("--", "--no-huge", "-m", "8")
    assert code == 0 and "would start" in text and "\x1b" not in text
    assert run("--", "--no-such-option")[0] == 2
    assert run("--as", "1.2", "--", "--no-huge")[0] == 2
    code, text = run("--", "--huge-dir", "/nowhere")
    assert code == 1 and "would fail in stage hugepages" in text
