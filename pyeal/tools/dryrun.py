"""A primary's start without any trace: its stages on fake pages, and its steps examined."""

from __future__ import annotations

from pyeal.errors import EalError
from pyeal.tools import steps
from pyeal.tools.fakestart import FakeStart

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyeal.look.process_view import ProcessView


class DryRun(FakeStart):
    """A primary's start without any trace.

    error: what rte_eal_init would end with, of all stages and steps the first; None if well.
    own_error: what pyeal alone refuses, before that. close() gives the addresses back.
    """

    own_error: EalError | None = None

    def __init__(
        self, args: list[str], release: str | None = None, view: ProcessView | None = None
    ) -> None:
        super().__init__(args, release, view)
        if not hasattr(self, "options") or (self.error and self.error.reason == "role"):
            return
        found = [*steps.errors(self), *filter(None, [self.error])]
        self.error = steps.earliest(found)
        own = steps.own_errors(self)
        first = steps.earliest([*own, *found], steps.OWN_ORDER)
        self.own_error = first if first in own else None
