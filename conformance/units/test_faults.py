"""A sample of what ci/faults does in whole: calls of a start that fail, and kills at a step."""

from __future__ import annotations

from typing import Any

import pytest

from conformance.campaigns.faults import compare, sweep
from conformance.harness import host

WANTED = host.lacks(root=True, strace=True, pages={"2M": sweep.PAGES})


@pytest.mark.skipif(bool(WANTED), reason=WANTED or "")
@pytest.mark.parametrize("mode", ["dynmem", "legacy", "dynmem+secondary"])
def test_a_call_that_fails(mode: str) -> None:
    """pyeal continues with all it was asked for, or names the cause and leaves nothing."""
    cases = list(sweep.sweep("pyeal", [mode], limit=12))

    assert [*sweep.complaints([c for c in cases if c.wrong])] == []
    assert len(cases) == 12
    assert {c.outcome for c in cases} == {"goes on", "ends"}


@pytest.mark.skipif(bool(WANTED), reason=WANTED or "")
@pytest.mark.parametrize("mode", sweep.KILLED)
def test_a_kill_at_a_step(mode: str) -> None:
    """The next start with that prefix works, and gives all pages back."""
    cases = list(sweep.sweep("pyeal", [mode], kill=True, limit=2))

    assert [*sweep.complaints([c for c in cases if c.wrong])] == []
    assert [c.outcome for c in cases] == ["died"] * 2


def test_the_calls_of_a_trace() -> None:
    """What is the interpreter's own is told from what the start does."""
    from conformance.harness.trace import parse

    text = """\
1 read(0<pipe:[1]>, "{}", 8192) = 2
1 mmap(NULL, 1048576, PROT_READ|PROT_WRITE, MAP_PRIVATE|MAP_ANONYMOUS, -1, 0) = 0x7f0000000000
1 openat(AT_FDCWD</work>, "/run/dpdk/faults/config", O_RDWR|O_CREAT, 0600) = 4</run/dpdk/faults/config>
1 mmap(0x100000000, 28672, PROT_READ|PROT_WRITE, MAP_SHARED|MAP_FIXED, 4</run/dpdk/faults/config>, 0) = 0x100000000
1 munmap(0x7f0000000000, 1048576) = 0
1 munmap(0x100000000, 28672) = 0
1 openat(5</run/hugepages/2M>, "faultsmap_7", O_RDWR, 0600) = 6</run/hugepages/2M/faultsmap_7>
1 write(1<pipe:[2]>, "{\\"ok\\": 0}", 9) = 9
1 close(6</run/hugepages/2M/faultsmap_7>) = 0
"""  # noqa: E501
    steps = sweep.steps_of(parse(text))

    assert [(s.label, s.n, bool(sweep.skipped(s))) for s in steps] == [
        ("read stdin", 1, True),
        ("mmap anon rw", 1, True),
        ("openat /run/dpdk/PREFIX/config", 1, False),
        ("mmap /run/dpdk/PREFIX/config", 2, False),
        ("munmap own", 1, True),
        ("munmap", 2, False),
        ("openat /run/hugepages/2M/PREFIXmap_N", 2, False),
    ]
    assert len(sweep.sample(list(range(100)), 7)) == 7


def case(n: int, on: str, outcome: str, error: str = "EIO", mode: str = "dynmem") -> dict[str, Any]:
    facts = {"target": "t", "mode": mode, "n": n, "on": on, "errno": error}
    return facts | {"outcome": outcome, "text": f"{outcome}: {on}", "wrong": ""}


def test_two_targets_beside_each_other() -> None:
    """First with first, last with last; a difference needs an entry, an entry a difference."""
    one = [
        case(1, "read a", "ends"),
        case(9, "read a", "goes on"),
        case(2, "read b", "goes on"),
        case(3, "only here", "ends"),
    ]
    other = [
        case(4, "read a", "ends"),
        case(2, "read b", "ends"),
        case(1, "read b", "died") | {"wrong": compare.NOT_REACHED},
    ]
    entry = {"on": "read b", "outcomes": ["goes on", "ends"], "why": "it is kinder"}
    stale = {"on": "read c", "outcomes": ["goes on", "ends"], "why": "nothing"}
    last = {"on": "read a", "errno": "EIO", "outcomes": ["goes on", "ends"], "why": "the last"}

    out, good = compare.lines(one, other, [entry], ["dynmem"])
    assert not good and out[-3] == "dynmem: last read a, EIO: goes on, the other ends"
    assert out[2].split() == ["all", "4", "1", "2", "1"]
    assert out[3] == "without a partner: 2 of t, 0 of t"
    assert compare.lines(one, other, [entry, last], ["dynmem"])[1]
    assert compare.lines(one, other, [entry, last, stale], ["dynmem", "legacy"])[1]
    out, good = compare.lines(one, other, [entry, last, stale], ["dynmem"])
    assert not good and out[-1] == f"differs.toml: no pair needs {stale}"


def test_every_difference_has_a_date_and_a_reason() -> None:
    for entry in compare.entries():
        assert set(entry) <= {"mode", "on", "errno", "outcomes", "since", "why"}
        assert entry["why"] and entry["since"].year >= 2026
        assert entry["outcomes"][0] != entry["outcomes"][1]


def test_every_skip_has_a_reason_and_every_errno_a_name() -> None:
    import errno

    tables: dict[str, Any] = sweep.tables()
    assert all(tables["skipped"].values())
    assert all(hasattr(errno, e) for names in tables["errnos"].values() for e in names)
    assert set(tables["stays"]) | set(tables["named"]) <= set(tables["errnos"])
