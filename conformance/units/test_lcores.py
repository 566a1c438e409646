"""Lcores and nodes on fake hosts."""

from __future__ import annotations

import os
from errno import EINVAL, EPERM
from pathlib import Path

import pytest

from conformance.harness import fake_host
from pyeal import lcores, options, releases
from pyeal.errors import EalError
from pyeal.host import Host
from pyeal.look.fake_host import FakeHost

DETECTED = [
    pytest.param(host, d, release, id=f"{name}-{release}")
    for name in fake_host.names()
    for host in [fake_host.load(name)]
    for release in releases.RELEASES
    for d in host.detected
    if fake_host.holds(d.releases, release)
]


class Pinned(Host):
    """This machine, with another affinity; None if it cannot be asked for."""

    def __init__(self, cpus: set[int] | None) -> None:
        self.cpus = cpus

    def affinity(self) -> set[int]:
        if self.cpus is None:
            raise PermissionError(EPERM, os.strerror(EPERM))
        return self.cpus


@pytest.mark.parametrize(("host", "d", "release"), DETECTED)
def test_lcores_and_nodes_are_what_the_host_file_says(
    host: fake_host.HostTree, d: fake_host.Detected, release: str, tmp_path: Path
) -> None:
    r = releases.get(release)
    said: list[str] = []
    cpus = lcores.discover(
        r, FakeHost(host.expand(tmp_path)), lambda level, text: said.append(text)
    )

    assert [n for n, _ in cpus.lcores] == d.lcores
    assert cpus.nodes == d.nodes
    assert str(len(d.lcores)) in said[0] and str(len(d.nodes)) in said[1]
    if d.enabled:
        here = Pinned(host.affinity or os.sched_getaffinity(0))
        assert lcores.enabled(options.parse([], r), cpus, here) == d.enabled


@pytest.mark.parametrize(("release", "node_of_5"), [("20.11", 0), ("21.11", 5)])
def test_nodes_beyond_the_known_ones_are_node_0(
    release: str, node_of_5: int, tmp_path: Path
) -> None:
    root = fake_host.expand("six-nodes", tmp_path)

    assert lcores.discover(releases.get(release), FakeHost(root)).node_of[5] == node_of_5


def test_the_lowest_node_that_lists_a_cpu_has_it(tmp_path: Path) -> None:
    root = fake_host.expand("two-nodes-2M", tmp_path)
    (root / "sys/devices/system/node/node1/cpu0").mkdir()

    assert lcores.discover(releases.get("22.11"), FakeHost(root)).node_of == {
        0: 0,
        1: 1,
        2: 0,
        3: 1,
    }


CPUS = lcores.Cpus({0: 0, 1: 0, 2: 1, 3: 1, 130: 1}, [0, 1])
ENABLED: list[tuple[str, str, list[tuple[int, int]]]] = [
    ("", "22.11", [(0, 0), (1, 0), (3, 1)]),
    ("-l 2,0", "22.11", [(0, 0), (2, 1)]),
    ("-c 0xc", "22.11", [(2, 1), (3, 1)]),
    ("--main-lcore 3", "22.11", [(3, 1), (0, 0), (1, 0)]),
    ("-l 0-3 --main-lcore 2", "22.11", [(2, 1), (0, 0), (1, 0), (3, 1)]),
    ("--lcores 2@0,9@3", "22.11", [(2, 1), (9, 0)]),  # the node goes by the lcore's own number
    ("--lcores 5@130", "22.11", [(5, 0)]),
    ("-l 2-3 -R", "25.11", [(0, 0), (1, 0)]),
    ("-R2", "25.11", [(2, 1), (3, 1), (4, 0)]),
]
REFUSED = [
    ("-l 0,5", "22.11", "lcore 5 unavailable"),
    ("--lcores 0@5", "22.11", "lcore 5 unavailable"),
    ("--main-lcore 2", "22.11", "Main lcore is not enabled for DPDK"),
    ("--lcores 5@0 --main-lcore 0", "22.11", "Main lcore is not enabled for DPDK"),
    ("-R126", "25.11", "lcore 128 >= RTE_MAX_LCORE"),
]


@pytest.mark.parametrize(("args", "release", "want"), ENABLED)
def test_the_arguments_choose_the_lcores(
    args: str, release: str, want: list[tuple[int, int]]
) -> None:
    o = options.parse(args.split(), releases.get(release))

    assert lcores.enabled(o, CPUS, Pinned({0, 1, 3, 7})) == want


@pytest.mark.parametrize(("args", "release", "phrase"), REFUSED)
def test_what_is_not_there_is_refused(args: str, release: str, phrase: str) -> None:
    with pytest.raises(EalError, match=phrase) as e:
        lcores.enabled(
            options.parse(args.split(), releases.get(release)), CPUS, Pinned({0, 1, 3, 7})
        )

    assert (e.value.errno, e.value.stage) == (EINVAL, "options")


@pytest.mark.parametrize(("release", "high"), [("22.11", False), ("25.11", True)])
def test_a_high_cpu_is_passed_over_before_argparse(release: str, high: bool) -> None:
    o = options.parse([], releases.get(release))
    try:
        found = lcores.enabled(o, CPUS, Pinned({3, 130}))
    except EalError as e:
        assert high and "lcore 130 >= RTE_MAX_LCORE" in e.text
    else:
        assert not high and found == [(3, 1)]


def test_no_cpu_left_by_the_affinity() -> None:
    with pytest.raises(EalError, match="No detected lcore is enabled"):
        lcores.enabled(options.parse([], releases.get("22.11")), CPUS, Pinned({77}))


def test_an_affinity_that_cannot_be_asked_for_is_named() -> None:
    o = options.parse([], releases.get("22.11"))
    with pytest.raises(EalError, match=r"enabled.*no affinity: Operation not permitted") as e:
        lcores.enabled(o, CPUS, Pinned(None))

    assert (e.value.errno, e.value.reason) == (EINVAL, "lcores")
    given = options.parse(["-l", "1"], releases.get("22.11"))
    assert lcores.enabled(given, CPUS, Pinned(None)) == [(1, 0)]
