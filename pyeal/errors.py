"""The one exception that leaves pyeal, the log that a caller gives it, and harmless text."""

from __future__ import annotations

from errno import EINVAL

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeAlias

Log: TypeAlias = "Callable[[str, str], object]"  # called with (level, text)


class EalError(Exception):
    """A stage of EAL failed.

    errno: what EAL leaves in rte_errno, a number of the errno module (0 if EAL leaves it alone).
    stage: "options", "runtime", "hugepages", "memzone", "memseg", "memalloc", "pages", ...
    what: what could not be done, in EAL's own words if it has any.
    expected, found: the two sides of the check that failed, if there was one.
    fix: the command or the change that helps.
    reason: a word for programs, stable between releases of pyeal; compare it, never the text.
    text: `what: expected A, found B. Fix: COMMAND`, of the fields that are given.
    """

    def __init__(
        self,
        errno: int,
        stage: str,
        what: str,
        *,
        expected: str = "",
        found: str = "",
        fix: str = "",
        reason: str = "",
    ) -> None:
        super().__init__(errno, stage, what)
        self.errno, self.stage, self.what = errno, stage, what
        self.expected, self.found, self.fix, self.reason = expected, found, fix, reason

    @property
    def text(self) -> str:
        sides = (("expected", self.expected), ("found", self.found))
        check = ", ".join(f"{name} {side}" for name, side in sides if side)
        text = ": ".join(part for part in (self.what, check) if part)
        return f"{text}. Fix: {self.fix}" if self.fix else text

    def within(self, what: str = "", errno: int | None = None, stage: str = "") -> EalError:
        """Return this failure as an outer step reports it: `what: ` in front, the fields kept."""
        what = ": ".join(part for part in (what, self.what) if part)
        errno = self.errno if errno is None else errno
        fields = {k: getattr(self, k) for k in ("expected", "found", "fix", "reason")}
        return EalError(errno, stage or self.stage, what, **fields)

    def __str__(self) -> str:
        return f"{self.stage}: {self.text}"


def printable(text: str) -> str:
    r"""Return a name that another user chose, with \x1b for an escape and \x0a for a newline."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)


class Closed:
    """Stands in place of memory that is not mapped any more: each use raises EalError(EINVAL)."""

    def _refuse(self, *_: object) -> Any:
        fix = "begin another one with pyeal.init()"
        raise EalError(EINVAL, "eal", "This EAL was cleaned up", fix=fix, reason="closed")

    use = __getattr__ = __iter__ = __len__ = __bytes__ = __index__ = __getitem__ = _refuse
    __setitem__ = __contains__ = __enter__ = _refuse

    def __exit__(self, *_: object) -> None:
        pass


CLOSED: Any = Closed()
