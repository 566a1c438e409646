"""What each work costs each arm. All arms of a work run side by side in one run."""

from __future__ import annotations

from conformance.campaigns.timing.conftest import stages


class Clock:
    """Time as other processes measured it: a call that took so long lets so much pass."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_cost(cost, benchmark):
    """The rounds of one arm, as pytest-benchmark keeps them."""
    (work, pages, measure, role), runs, seconds = cost
    benchmark.group = f"{work} {pages} pages, {measure}" if pages else f"{work}, {measure}"
    benchmark.extra_info |= {"work": work, "pages": pages, "measure": measure, "role": role}
    if measure == "init-wall":
        benchmark.extra_info["stages_ms"] = stages(runs)
    clock, left = Clock(), iter(seconds)
    benchmark._timer = clock

    def passes():
        clock.now += next(left)

    benchmark.pedantic(passes, rounds=len(seconds), iterations=1)

    assert min(seconds) > 0
