"""All tools only look: strace sees no lock, no write, no attach and nothing opened for writing."""

from __future__ import annotations

import re

from conformance import needs
from conformance.harness.passive import calls


@needs(pages={"2M": 4}, strace=True)
def test_nothing_but_looking(start, join, facts, tmp_path, evidence):
    """A primary and its secondary are up: no tool leaves a trace with them."""
    eal = start("-m", "4", target="librte_eal:22.11")
    join(target="librte_eal:22.11")
    dead = start("-m", "2", target="librte_eal:24.11", prefix=f"{eal.prefix}_dead")
    dead.kill()
    runs = {
        "ps": ["ps", "-a"],
        "inspect": ["inspect", eal.pid, "--elements", "--json"],
        "inspect of the dead": ["inspect", dead.prefix, "--elements"],
        "telemetry": ["inspect", eal.prefix, "/eal/heap_info,0"],
        "map": ["map", eal.prefix, "--beside", eal.pid],
        "stale": ["stale", eal.prefix, dead.prefix, "-a", "-v"],
        "dump": ["dump", eal.run / "config"],
        "diff": ["diff", eal.run / "config", dead.run / "config"],
    }
    seen = {name: calls(argv, tmp_path) for name, argv in runs.items()}
    evidence(", ".join(f"{name}: {n} calls" for name, (n, _) in seen.items()))

    assert {name: bad for name, (_, bad) in seen.items() if bad} == {}
    assert all(n > 100 for n, _ in seen.values())
    assert eal.malloc(64).va


@needs(pages={"2M": 2}, strace=True)
def test_what_deletes_is_seen(start, tmp_path):
    """The check above can fail: stale --delete locks and unlinks."""
    eal = start("-m", "2", target="librte_eal:22.11")
    eal.kill()
    _, bad = calls(["stale", eal.prefix, "--delete", "-y"], tmp_path)
    words = [x.partition("(")[0] for x in bad]
    page = next(i for i, x in enumerate(bad) if x.startswith("unlinkat") and "map_0" in x)

    assert {"flock", "unlinkat", "fcntl"} <= set(words)
    assert re.match(r"flock\(.*map_0>, LOCK_EX\|LOCK_NB\) += 0", bad[page - 1])
    assert any(re.match(r"flock\(.*hugepages/2M>, LOCK_EX", x) for x in bad[:page])
