"""Options and the fixture of the stress test: only known when this folder is named."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from conformance.campaigns.stress.walk import Walk
from conformance.campaigns.stress.world import World

PAGES = 48
EVERY = 2.0  # seconds between lines of progress


def pytest_addoption(parser):
    group = parser.getgroup("stress")
    group.addoption(
        "--stress-seconds",
        type=float,
        default=20,
        metavar="S",
        help="how long each scenario walks (default 20)",
    )
    group.addoption(
        "--seed",
        type=int,
        metavar="N",
        help="where the walk's choices start: as a failure printed it",
    )
    group.addoption(
        "--steps", metavar="FILE", help="replay this list of steps (JSON), as a failure printed it"
    )


def pytest_collection_modifyitems(config, items):
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(config.getoption("stress_seconds") + 240))


@pytest.fixture
def stress(request, start, join, make_box, capsys, evidence):
    """stress(deadly): walks until the time is over; a failure prints what replays it."""
    config = request.config

    def stress(deadly):
        kinds = {
            config.stash[key].target: config.getoption(option) or config.getoption("target")
            for key, option in _targets()
        }
        box = make_box({"2M": PAGES})
        seconds, begun = config.getoption("stress_seconds"), time.monotonic()
        seed, steps = config.getoption("seed"), None
        if file := config.getoption("steps"):
            steps = json.loads(Path(file).read_text())
        if seed is None:
            seed = time.time_ns() // 1_000_000 % 1_000_000_000
        world = World(start, join, box, kinds, PAGES)
        shown = begun

        def tick(round, last=False):
            nonlocal shown
            now = time.monotonic()
            if last or now - shown >= EVERY:
                shown = now
                with capsys.disabled():
                    n = sum(world.counts.values())
                    print(
                        f"\n{now - begun:5.0f} s  round {round}  step {n}  {world.status()}",
                        end="",
                        file=sys.stderr,
                        flush=True,
                    )
            return now - begun < seconds

        walk = Walk(world, seed, deadly, steps)
        try:
            walk.run(tick)
        except BaseException:
            print(
                f"seed {walk.seed}: replay with --seed={walk.seed}, or save the steps for --steps:"
            )
            print(json.dumps(world.steps))
            raise
        counts = ", ".join(f"{n} {verb}" for verb, n in sorted(world.counts.items()))
        evidence(f"seed {seed}, {walk.rounds} rounds: {counts}")

    return stress


def _targets():
    from conformance.conftest import HELLO, SECOND

    return (SECOND, "secondary"), (HELLO, "target")
