"""What the model tests share: how many examples, targets that live as long as nothing is wrong."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, Phase, settings

from conformance.harness.child import Child, TargetDied, command

NIGHTLY = os.environ.get("HYPOTHESIS_PROFILE") == "nightly"


def bounds(examples: int, steps: int) -> settings:
    """The same few examples in every ordinary run; 50 times as many others, and what fails made
    short, with HYPOTHESIS_PROFILE=nightly."""
    return settings(
        deadline=None,
        database=None,
        derandomize=not NIGHTLY,
        report_multiple_bugs=False,
        max_examples=examples * (50 if NIGHTLY else 1),
        stateful_step_count=steps,
        suppress_health_check=list(HealthCheck),
        phases=list(Phase) if NIGHTLY else [Phase.generate],
    )


class World:
    """The processes that a machine drives, started again after an example that failed.

    make: starts them, {name: Eal}; librte_eal is left out where it is not installed.
    """

    def __init__(self, make: Callable[[], dict[str, Any]]) -> None:
        self.make, self.sound = make, False
        self.eals: dict[str, Any] = {}
        self.n = 0

    def enter(self) -> dict[str, Any]:
        if not self.sound:
            for eal in self.eals.values():
                eal.kill()
            self.eals = self.make()
        self.sound, self.n = False, self.n + 1
        return self.eals

    def leave(self) -> None:
        """The end of an example that left everything as it was."""
        self.sound = True


def installed(target: str) -> bool:
    """Whether that target starts here."""
    try:
        Child(command(target), Path(os.devnull)).close()
    except TargetDied:
        return False
    return True


def both(start: Callable[..., Any], *args: str, **more: Any) -> dict[str, Any]:
    """pyeal and, where it is installed, librte_eal, each with a prefix of its own."""
    return {
        name: start(*args, target=name, **{k: v[i] for k, v in more.items()})
        for i, name in enumerate(("pyeal", "librte_eal"))
        if name == "pyeal" or installed(name)
    }
