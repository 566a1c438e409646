"""A folder in place of a machine."""

from __future__ import annotations

from pyeal.host import Host

TYPE_CHECKING = False
if TYPE_CHECKING:
    import os
    from collections.abc import Callable


class FakeHost(Host):
    """A folder with `sys` and `proc` in it.

    statfs: what statfs(2) would return there; that of the real path if it is not given.
    """

    def __init__(
        self,
        root: str | os.PathLike[str],
        statfs: Callable[[str], tuple[int, int]] | None = None,
    ) -> None:
        self.sys, self.proc, self.mounts = f"{root}/sys", f"{root}/proc", f"{root}/proc/mounts"
        self._statfs = statfs or super().statfs

    def statfs(self, path: str) -> tuple[int, int]:
        return self._statfs(path)
