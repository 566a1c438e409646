"""A fake host as the tools see it."""

from __future__ import annotations

from pathlib import Path

from conformance.harness import fake_host
from pyeal.look.process_view import ProcessView


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
