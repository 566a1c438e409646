"""What is paused for a block: Python's garbage collector, and its signal handlers."""

from __future__ import annotations

import gc
from _signal import NSIG, getsignal, signal  # type: ignore[import-not-found]
from _thread import get_ident

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any


class gc_paused:  # reads as a function: `with gc_paused():`
    """Pauses Python's garbage collector for a block.

    Imports and starts create many objects, none of which is garbage. At the end of the block they
    belong to the oldest generation, which is rarely collected. Has no effect while the collector is
    disabled.
    """

    def __enter__(self) -> None:
        self.collects = gc.isenabled()
        gc.disable()

    def __exit__(self, *_: object) -> None:
        if self.collects:
            # Python itself freezes up to 375 objects (3.12); more were frozen by the program
            if gc.get_freeze_count() < 1000:
                gc.freeze()
                gc.unfreeze()
            gc.enable()


class signals_deferred:
    """Defers Python's signal handlers to the end of a block, so that none raises within it.

    Only the main thread runs handlers: elsewhere, and within such a block, this does nothing.
    """

    active: signals_deferred | None = None  # the main thread's
    last: tuple[list[Any], list[int]] = ([], [])  # all handlers, and which are Python's

    def __enter__(self) -> signals_deferred:
        self.handlers: dict[int, Any] = {}
        self.pending: list[tuple[int, Any]] = []
        self.allowed, self.thread = False, get_ident()
        if signals_deferred.active:
            return self
        try:
            found = list(map(getsignal, range(1, NSIG)))
            seen, numbers = signals_deferred.last
            if found != seen:
                numbers = [n for n, handler in enumerate(found, 1) if callable(handler)]
                signals_deferred.last = found, numbers
            for n in numbers:
                self.handlers[n] = found[n - 1]
                signal(n, self._defer)
            signals_deferred.active = self if self.handlers else None
        except ValueError:  # not the main thread
            self.handlers.clear()
        except BaseException:
            self._restore()
            raise
        return self

    def _defer(self, n: int, frame: Any) -> None:
        if not self.allowed:
            self.pending.append((n, frame))
            return
        self.allowed = False  # for the clean-up, if the handler raises
        self.handlers[n](n, frame)
        self.allowed = True

    @staticmethod
    def pending_now() -> bool:
        """Returns whether a signal arrived that this thread's block defers."""
        return signals_deferred.active is not None and bool(signals_deferred.active.pending)

    def deliver(self) -> None:
        """Runs the handlers of the signals that arrived since. Raises what they raise."""
        while self.pending:
            n, frame = self.pending.pop(0)
            self.handlers[n](n, frame)

    def _restore(self) -> None:
        if signals_deferred.active is self:
            signals_deferred.active = None
        for n, handler in self.handlers.items():
            if getsignal(n) == self._defer:
                signal(n, handler)

    def __exit__(self, *_: object) -> None:
        try:
            self._restore()
        finally:
            self._restore()  # the rest, if the first handler ran at once and raised
            self.deliver()


class signals_allowed:
    """Runs signal handlers at once again: around a wait without a bound, and a caller's function.

    Only in the thread that defers them, and if `within` is given, only if that block does.
    """

    def __init__(self, within: signals_deferred | None = None) -> None:
        self.within = within

    def __enter__(self) -> None:
        active = signals_deferred.active
        ours = active and active.thread == get_ident() and self.within in (None, active)
        self.block = active if ours else None
        if self.block:
            self.block.allowed = True
            self.block.deliver()

    def __exit__(self, *_: object) -> None:
        if self.block:
            self.block.allowed = False
