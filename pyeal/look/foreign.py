"""One EAL seen from outside: its runtime directory, its processes, its memory, its health."""

from __future__ import annotations

from pyeal.look.process import ANONYMOUS, Process

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyeal.look.runtime_dir import RuntimeDir
    from pyeal.look.snapshot import Snapshot
    from pyeal.look.warm import Warm, WarmFile

    Dict = dict[str, Any]

SLOW = 10  # seconds after which a start that waits for something is stuck


class ForeignEal:
    """An EAL: its runtime directory if it has one, its processes, what is known of its memory."""

    def __init__(self, directory: RuntimeDir | None) -> None:
        self.directory = directory
        self.primary: Process | None = None
        self.primary_pid = 0  # known even if nothing else of it can be seen
        self.locked = False  # a process holds the primary's lock
        self.secondaries: list[Process] = []
        self.observers: list[Process] = []
        self.snapshot: Snapshot | None = None
        self.why = ""  # why there is none
        self.needs_root = False  # this user may not see more of it
        self.early = False  # its config does not name a release yet
        self.age = 0.0
        self.record: Warm | None = None  # of pyeal warm
        self.warm: list[WarmFile] = []  # what it kept that no process has taken since
        self.core = ""  # of a core file: which process it is of
        self.copy = False  # a copy of a directory: no process of this machine belongs to it

    @property
    def prefix(self) -> str:
        if self.directory:
            return self.directory.prefix
        return (self.primary and self.primary.option("--file-prefix")) or ""

    @property
    def release(self) -> str:
        if self.is_warm and self.record:
            return self.record.release
        if self.snapshot:
            return self.snapshot.release.name
        return next((p.library() for p in self.holders), "")

    @property
    def mode(self) -> str:
        if self.directory is None and self.primary and not ANONYMOUS.search(self.primary.maps):
            return "no-shconf"  # pages with files, all else for itself
        if self.is_warm and self.record:
            return self.record.mode
        if self.snapshot:
            return self.snapshot.mode
        return "" if self.directory else "in-memory"

    @property
    def pages(self) -> list[Dict]:
        if self.is_warm:
            found: dict[tuple[int, int], int] = {}
            for f in self.warm:
                found[f.page_sz, f.node] = found.get((f.page_sz, f.node), 0) + f.pages
            return [{"page_sz": k[0], "socket_id": k[1], "count": n} for k, n in found.items()]
        if self.snapshot:
            return self.snapshot.pages()
        return self.primary.private_pages() if self.primary and not self.directory else []

    @property
    def is_warm(self) -> bool:
        """Whether no process has it, and all that pyeal warm kept is there for the next start."""
        gone = not (self.locked or self.holders)
        return bool(gone and self.record and len(self.warm) == len(self.record.files))

    @property
    def holders(self) -> list[Process]:
        return [p for p in (self.primary, *self.secondaries, *self.observers) if p]

    @property
    def health(self) -> tuple[str, str]:
        """(word, why). The words: running, initialising, stopped, stuck, dead primary, stale,
        warm, ended, unknown, copy, core.
        """
        word, why = self._health()
        note = self.snapshot.release.note if self.snapshot else ""
        return word, "; ".join(filter(None, (why, note)))

    def _health(self) -> tuple[str, str]:
        if self.core:
            return "core", self.core
        if self.copy:
            return "copy", "nothing on this machine belongs to it"
        if self.directory is None:
            return ("stopped", "by a signal") if self._stopped else ("running", "")
        if self.locked:
            return self._of_living()
        if self.secondaries:
            pids = ", ".join(str(p.pid) for p in self.secondaries)
            return "dead primary", f"secondaries {pids} live on its memory"
        if self.is_warm:
            return "warm", "kept on purpose for its next start, by pyeal warm"
        if self.why and self.snapshot is None:
            return "unknown", self.why
        if self.snapshot and not self.snapshot.complete:
            return "stale", "its primary died while it started"
        if self.pages and self.mode != "no-huge":
            return "stale", "its primary is gone and counts pages as used: see pyeal stale"
        return "ended", "only files of the runtime directory are left"

    @property
    def _stopped(self) -> bool:
        return bool(self.primary and self.primary.state in "tT")

    def _of_living(self) -> tuple[str, str]:
        p = self.primary
        if self._stopped:
            return "stopped", "by a signal"
        if self.snapshot and self.snapshot.complete:
            return "running", "" if p else "as a process that is not visible from here"
        if self.snapshot is None and not self.early:
            return "running" if self.primary_pid else "unknown", self.why
        age = p.age if p else self.age
        if p and age > SLOW and p.state in "SD":
            waits = p.waits_in
            return "stuck", f"started {age:.0f}s ago" + (f", sleeps in {waits}" if waits else "")
        return "initialising", f"for {age:.0f}s"
