"""Damage in the shared memory of the EAL that a start meets: read without a lock or an attach."""

from __future__ import annotations

from contextlib import ExitStack

from pyeal.look.hugedir import PageFileMemory
from pyeal.look.runtime_dir import RuntimeDir
from pyeal.look.snapshot import Snapshot
from pyeal.look.sources import Folder, ProcessMemory, Unreadable
from pyeal.tools import fixes
from pyeal.tools.doctor.model import OK, WARN, Case, Finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def check(c: Case) -> Iterator[Finding]:
    """Report the words of lists and heaps that contradict the others, with their elements."""
    if c.view.root:  # a fake host has no memory
        return
    said, found = [], None
    try:
        with ExitStack() as stack:
            found = _Eal(c, stack)
            if s := found.snapshot:
                said = [h["unread"] for h in s.heaps() if "unread" in h] + s.problems
    except (OSError, Unreadable) as e:
        said = [str(e)]
    wrong = [text for text in said if text.startswith("damaged")]
    if wrong and found:
        more = f" (and {len(wrong) - 1} more)" if wrong[1:] else ""
        text = f"{found.whose}{wrong[0]}{more}"
        yield Finding(WARN, text, do=fixes.to("inspect", what=found.name))
    for text in said:
        if text not in wrong:
            yield Finding(OK, f"its heaps are not examined: {text}", harmless=True)


class _Eal:
    """The EAL that a case is about: that of the process it names, or that of its prefix.

    name: by which `pyeal inspect` finds it.
    """

    snapshot: Snapshot | None = None
    name = whose = ""

    def __init__(self, c: Case, stack: ExitStack) -> None:
        if c.view.own:
            self._in_directory(c, c.directory, stack)
            return
        self.name = str(c.view.pid)
        if memory := c.view.process.own_config():  # it shares nothing
            stack.callback(memory.close)
            self.snapshot = Snapshot(memory, memory.at)
            return
        mapped = (shown for _, _, shown, deleted in c.view.process.configs() if not deleted)
        self._in_directory(c, next(mapped, c.directory), stack)

    def _in_directory(self, c: Case, directory: str, stack: ExitStack) -> None:
        """Take the pages as the primary has them, or as its files do if it has ended."""
        path, config = c.view.real(directory), c.view.config(directory)
        if not config or not config.c:
            return
        s = Snapshot(Folder(path))
        memory: ProcessMemory | PageFileMemory
        try:
            memory = ProcessMemory(config.owner if config.alive else 0)
        except OSError:  # dead, or this user may not read it
            memory = PageFileMemory(s, RuntimeDir(path, directory, c.view.at))
        stack.callback(memory.close)
        self.snapshot, s.memory = s, memory.at
        if config.alive and config.owner:
            self.name = str(config.owner)
        else:
            self.name = path
            self.whose = "" if config.alive else "files of a dead primary, "
