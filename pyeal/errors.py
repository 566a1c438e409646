"""The one exception that leaves pyeal."""

from __future__ import annotations


class EalError(Exception):
    """A stage of EAL failed.

    errno: what EAL leaves in rte_errno, a number of the errno module (0 where EAL leaves it alone).
    stage: "options", "runtime", "hugepages", "memzone", "memseg", "memalloc", "pages", ...
    text: what was wanted, what was found and what to do.
    """

    def __init__(self, errno: int, stage: str, text: str) -> None:
        super().__init__(errno, stage, text)
        self.errno, self.stage, self.text = errno, stage, text

    def __str__(self) -> str:
        return f"{self.stage}: {self.text}"
