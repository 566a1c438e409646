"""`pyeal explain` on logs of each release: the same problem in its wording."""

from __future__ import annotations

import pytest

from conformance import GB, needs
from conformance.harness.child import TargetDied, TargetHung
from pyeal.tools.explain import read

WAYS = {  # the problem, EAL's arguments, pages of the box
    "no-mount": (2, [], {}),
    "unknown-option": (0, ["--no-such-thing"], {}),
    "more-than-there-is": (6, ["-m", "99999999"], {"2M": 1}),
    "prefix-taken": (5, ["-m", "2"], {"2M": 2}),
    "few-inodes": (11, ["-m", "8", "--huge-dir", "/run/hugepages/few"], {}),
    "no-primary": (18, ["--proc-type=secondary"], {}),
    "no-address-space": (45, ["-m", "2"], {"2M": 1}),
}


def end_of(eal):
    """The log of a start that comes to nothing: refused, exited (25.11), or going on (20.11)."""
    try:
        return eal.refused(within=3).log
    except (TargetDied, TargetHung):
        return eal.log[:100_000]


@pytest.mark.parametrize("way", WAYS)
@needs(root=True, pages={"2M": 4})
def test_each_release_in_its_words(way, kind, start, make_box):
    """Certain, whatever the release calls it."""
    row, args, pages = WAYS[way]
    few = [("2M", "/run/hugepages/few", "size=8M,min_size=8M,nr_inodes=2")]
    box = make_box(pages, mounts=few if way == "few-inodes" else [])
    if way == "prefix-taken":
        start("-m", "2", target=kind, box=box)
    limits = {"as": GB} if way == "no-address-space" else {}
    log = end_of(start(*args, target=kind, box=box, init=False, rlimits=limits))
    told = {p.id: line for p, line, certain in read(log.splitlines()) if certain}

    assert row in told, (told, log[-600:])


@needs(root=True, pages={"2M": 4})
def test_a_good_start_is_no_problem(kind, start, box):
    """A whole log at debug level: nothing is certain, but what is harmless."""
    log = start("-m", "4", target=kind, box=box).log

    assert [
        (p.id, line) for p, line, certain in read(log.splitlines()) if certain and not p.harmless
    ] == []
