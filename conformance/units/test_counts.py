"""System calls a page: the slope between a start of 20 pages and one of 52."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from conformance import modes, needs

FEW, MANY = 20, 52
CALLS = {  # at most so many, and what they are
    "dynmem": 3.06,  # open, flock, mmap
    "single-file": 0.05,
    "in-memory": 2.05,  # memfd_create, mmap
    "legacy": 5.5,  # open, flock, mmap twice, a mapping and a populate for each physical run
}
SLACK = 0.5


@needs(pages={"2M": MANY}, root=True, strace=True)
@modes(*CALLS)
def test_each_page_costs_few_system_calls(
    start: Callable[..., Any], make_box: Callable[..., Any], mode: str, request: Any
) -> None:
    """What does not depend on the pages cancels out."""
    if request.config.getoption("target").partition(":")[0] != "pyeal":
        pytest.skip("counts are pyeal's own")
    seen = {}
    for n in FEW, MANY:
        pages = {"2M": n}
        box = make_box(lease=pages) if mode == "in-memory" else make_box(pages)
        eal = start("-m", str(2 * n), box=box, init=False)
        trace = eal.trace()
        eal.init()
        assert len(eal.segments()) == n
        # but for the agent's log: a line or two for each physical run
        seen[n] = Counter(c.name for c in trace.stop() if not c.text.startswith("write(2"))
        eal.close()
    more = {name: (k - seen[FEW][name]) / (MANY - FEW) for name, k in seen[MANY].items()}
    slope = sum(more.values())

    assert slope <= CALLS[mode] + SLACK, {k: v for k, v in more.items() if abs(v) > 0.02}
    assert abs(slope - CALLS[mode]) <= SLACK or mode == "legacy"
