"""`pyeal ps` beside living processes: all of them are there, and their health is what it is."""

from __future__ import annotations

from conformance import needs


def of(facts, prefix):
    (found,) = [e for e in facts("ps", "-a")["eals"] if e["file_prefix"] == prefix]
    return found


@needs(pages={"2M": 4})
def test_alive_and_after_kill_9(start, kind, facts):
    """Release, pages and pid as the process has them; its files are stale once it is killed."""
    eal = start("-m", "6", target=kind)
    got = of(facts, eal.prefix)
    eal.kill()
    dead = of(facts, eal.prefix)

    assert (got["pid"], got["release"], got["mode"]) == (eal.pid, eal.release, "dynmem")
    assert got["pages"] == [{"page_sz": 2 << 20, "socket_id": 0, "count": 3}]
    assert got["health"] == "running" and got["other_namespace"]
    assert (dead["pid"], dead["health"], dead["bytes"]) == (None, "stale", 6 << 20)
