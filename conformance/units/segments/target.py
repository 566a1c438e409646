"""pyeal as a target with small chunks, so that few pages cross their bounds and go to threads.

python target.py [helper] [plain]: with "helper" only helper threads populate; with "plain"
Python makes each system call, as on machines without native code.
"""

from __future__ import annotations

import os
import sys
from _thread import get_ident
from collections.abc import Callable

from pyeal import libc, populate
from pyeal.agent import Target, serve


class HelpersOnly(populate.PopulateThreads):
    def together(self, work: Callable[[], object]) -> None:
        main = get_ident() if self.started else 0
        super().together(lambda: get_ident() == main or work())


class Probe(Target):
    """Also return what other processes cannot see: the memory policy of the main thread."""

    def policy(self) -> list[object]:
        mode, mask = libc.get_mempolicy()
        return [mode, mask.hex()]


populate.CHUNK = 8 << 20
if "helper" in sys.argv:
    populate.PopulateThreads = HelpersOnly  # type: ignore[misc]
if "plain" in sys.argv:
    os.environ["PYEAL_NATIVE"] = "0"
serve(Probe())
