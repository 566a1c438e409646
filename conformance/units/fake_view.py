"""A fake host as the tools see it."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

from conformance.harness import fake_host
from pyeal import releases
from pyeal.look.process_view import ProcessView
from pyeal.tools.doctor.model import Case


class FakeView(ProcessView):
    """The ProcessView of a host of fixtures/hosts, expanded at root."""

    def __init__(self, host: fake_host.HostTree, root: Path) -> None:
        host.expand(root)
        (root / "proc/cpuinfo").write_text("bogomips\t: 4000.00\n")
        super().__init__(root=str(root))
        self.host = host

    def statfs(self, inside: str) -> tuple[int, int]:
        return self.host.statfs(inside)

    def affinity(self) -> set[int]:
        return self.host.affinity or {n for d in self.host.detected for n in d.lcores}

    def access(self, inside: str, mode: int) -> bool:
        return True


def view(name: str, root: Path) -> FakeView:
    return FakeView(fake_host.load(name), root)


def case_beside(**primary: Any) -> Case:
    """What doctor examines for a secondary of 22.11 beside a live primary with these facts."""
    case = SimpleNamespace(
        secondary=True,
        config=SimpleNamespace(alive=True, complete=True, owner=1, **primary),
        config_error="",
        named=False,
        directory="/run/dpdk/rte",
        release=releases.get("22.11"),
        o=SimpleNamespace(file_prefix="rte"),
        opts=True,
    )
    return cast(Case, case)
