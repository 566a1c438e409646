"""pyeal explain: a line that no problem explains is quoted, with its place in EAL's source."""

from __future__ import annotations

import json

import pytest

from conformance.units.recorded import pyeal
from pyeal.tools.explain import last_word, read
from pyeal.tools.explain.problems import PROBLEMS

QUIET = "EAL: Detected NUMA nodes: 1"


@pytest.mark.parametrize(
    ("line", "title"),
    [
        ("EAL: FATAL: Cannot init VFIO", "EAL gave up, not about memory: devices"),
        ("EAL: FATAL: unsupported cpu type.", "EAL gave up, not about memory: CPUs"),
        ("EAL: FATAL: a line of a later release", "EAL gave up; its last line is not known"),
        (
            "EAL: Error enabling interrupts for fd 9",
            "an error of EAL, not about memory: interrupts",
        ),
    ],
)
def test_a_line_without_a_problem_is_quoted(line: str, title: str) -> None:
    p, quoted, _ = last_word([QUIET, line, QUIET]) or pytest.fail("nothing found")

    assert (p.id, p.title, quoted) == (None, title, line)


def test_a_line_of_a_known_place_has_its_problem() -> None:
    line = "EAL: FATAL: failed to init mp channel"
    p, quoted, sure = last_word([QUIET, line]) or pytest.fail("nothing found")

    assert (p.id, p.title, quoted, sure) == (
        21,
        "the multi-process socket could not be made",
        line,
        True,
    )
    assert "FATAL of linux/eal.c: rte_eal_init" in p.means


def test_an_error_before_the_fatal_line_is_the_reason() -> None:
    error, fatal = "EAL: Cannot resize memfd: Invalid argument", "EAL: FATAL: Cannot init memory"

    assert last_word([error, fatal, "EAL: Cannot init memory"])[1:] == (error, True)  # type: ignore[index]


def test_the_last_fatal_line_is_taken_before_a_later_error() -> None:
    lines = ["EAL: FATAL: Cannot init VFIO", "EAL: Error enabling interrupts for fd 9"]

    assert last_word(lines)[1:] == (lines[0], True)  # type: ignore[index]
    assert last_word(lines[1:])[1:] == (lines[1], False)  # type: ignore[index]


def test_a_warning_counts_if_there_is_nothing_else() -> None:
    lines = ["EAL: libarchive not linked, /lib/firmware/x cannot be decompressed"]

    assert [(p.title, sure) for p, _, sure in read(lines)] == [
        ("a warning of EAL, not about memory: firmware", False)
    ]
    assert last_word(lines) is None


def test_a_known_problem_comes_without_it() -> None:
    lines = ["EAL: get_seg_fd(): open '/mnt/rtemap_40' failed: Too many open files"]

    assert [p.id for p, _, _ in read([*lines, "EAL: FATAL: Cannot init VFIO"])] == [12]
    assert all(p.id is not None for p in PROBLEMS)


def test_a_log_without_an_error_says_nothing() -> None:
    assert (
        last_word([QUIET, "the application failed to start", "FATAL: of another program"]) is None
    )


def test_the_command_says_where_it_is() -> None:
    line = "EAL: FATAL: Cannot init VFIO"
    text, got = pyeal("explain", line), json.loads(pyeal("explain", "--json", line))

    assert "FATAL of linux/eal.c: rte_eal_init, since" in " ".join(text.split())
    assert [(p["problem"], p["line"], p["here"]) for p in got["problems"]] == [(None, line, [])]
