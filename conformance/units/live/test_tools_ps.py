"""`pyeal ps` beside living processes: all of them are there, and their health is what it is."""

from __future__ import annotations

import fcntl
import os
import signal
from pathlib import Path

import pytest

from conformance import MB, needs, until
from conformance.harness.box import user

PAGE = {"page_sz": 2 * MB, "socket_id": 0}


def of(facts, key, **more):
    """The one EAL of a prefix or pid."""
    name = "pid" if isinstance(key, int) else "file_prefix"
    (found,) = [e for e in facts("ps", "-a", **more)["eals"] if e[name] == key]
    return found


@needs(pages={"2M": 4})
def test_alive_and_after_kill_9(start, kind, facts):
    """Release, pages and pid as the process has them; its files are stale once it is killed."""
    eal = start("-m", "6", target=kind)
    got = of(facts, eal.prefix)
    eal.kill()
    dead = of(facts, eal.prefix)

    assert (got["pid"], got["release"], got["mode"]) == (eal.pid, eal.release, "dynmem")
    assert got["pages"] == [PAGE | {"count": 3}]
    assert got["health"] == "running" and got["other_namespace"]
    assert (dead["pid"], dead["health"], dead["bytes"]) == (None, "stale", 6 * MB)


def test_in_memory_is_found_by_its_memory(start, make_box, kind, facts):
    """No file tells of it: its config is found in the process, and says all the same."""
    eal = start("-m", "4", mode="in-memory", target=kind, box=make_box(lease={"2M": 4}))
    got, all_of_it = of(facts, eal.pid), facts("inspect", eal.pid)

    assert (got["release"], got["mode"], got["health"]) == (eal.release, "in-memory", "running")
    assert got["pages"] == [PAGE | {"count": 2}] and got["runtime_dir"] is None
    assert [ml["name"] for ml in all_of_it["lists"]] == [ml.name for ml in eal.lists()]
    runs = [r["va"] for ml in all_of_it["lists"] for r in ml["runs"]]
    assert runs == [eal.segments()[0].addr]
    assert all_of_it["heaps"][0]["Free_size"] > MB and not all_of_it["problems"]


@pytest.mark.parametrize("mode", ["single-file", "no-huge"])
def test_modes(start, make_box, mode, facts):
    eal = start("-m", "4", mode=mode, target="librte_eal:24.11", box=make_box({"2M": 2}))
    got = of(facts, eal.prefix)

    assert (got["mode"], got["bytes"], got["health"]) == (mode, 4 * MB, "running")


@needs(pages={"2M": 4})
def test_secondary_of_a_dead_primary(start, join, facts):
    eal = start("-m", "4", target="librte_eal:22.11")
    second = join(target="librte_eal:22.11")
    before = of(facts, eal.prefix)
    eal.kill()
    after = of(facts, eal.prefix)

    assert (before["health"], before["secondaries"]) == ("running", [second.pid])
    assert (after["health"], after["secondaries"]) == ("dead primary", [second.pid])
    assert str(second.pid) in after["why"]


@needs(pages={"2M": 4})
def test_starting_and_stopped(start, facts):
    """Held up by a lock on the hugepage directory: initialising; by a signal: stopped."""
    eal = start("-m", "4", target="librte_eal:22.11", init=False)
    fd = os.open(eal.hugedir(), os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        eal.begin("init", args=eal.args)
        got = until(lambda: [e for e in facts("ps")["eals"] if e["pid"] == eal.pid])
    finally:
        os.close(fd)
    eal.answer()
    os.kill(eal.pid, signal.SIGSTOP)
    try:
        status = Path(f"/proc/{eal.pid}/status")
        assert until(lambda: "\nState:\tT" in status.read_text())
        stopped = of(facts, eal.pid)
    finally:
        os.kill(eal.pid, signal.SIGCONT)

    assert [e["health"] for e in got] == ["initialising"]
    assert stopped["health"] == "stopped" and of(facts, eal.pid)["health"] == "running"


@needs(pages={"2M": 2})
def test_an_ordinary_user_sees_that_it_is_there(start, facts, tool):
    """/proc/locks names its pid to everybody; what needs root is said, not guessed."""
    eal = start("-m", "2", target="librte_eal:22.11")
    nobody = user("nobody")
    got = of(facts, eal.pid, prefix=nobody)
    said = tool("ps", prefix=nobody)

    assert (got["health"], got["release"], got["pages"]) == ("running", None, [])
    assert "root" in got["why"] and "could not be looked into: run as root" in said
