"""What one line of a log says: problems, notes, an end; found by the words that are in it."""

from __future__ import annotations

import re

from pyeal.tools.explain import log
from pyeal.tools.explain.causes import (
    AGAIN,
    CAUSES,
    END,
    HINTS,
    OTHERS,
    POOL,
    SIGNALS,
    UNMOUNTED,
)
from pyeal.tools.explain.problems import CERTAIN, GAVE_UP, HINT, PROBLEMS, Problem
from pyeal.tools.explain.table import Table, closest, words_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection
    from typing import Any

    from pyeal.tools.explain.table import Match

SIGNAL, OTHER = 3, 4  # levels, after those of problems.py
POOL_NOTE, MOUNT_NOTE = "pool", "mount"
PASSED = re.compile(r"vfio support|probing vfio")  # EAL logs it after it found hugepages
UNSAID = re.compile(GAVE_UP.patterns[0][1])
ALL = Table((*CAUSES, *PROBLEMS, *SIGNALS, *OTHERS, END))
KINDS = {
    **dict.fromkeys(CAUSES, CERTAIN),
    **dict.fromkeys(PROBLEMS, HINT),
    **dict.fromkeys(SIGNALS, SIGNAL),
    **dict.fromkeys(OTHERS, OTHER),
}
EALS_WORDS = frozenset((b"eal", b"argparse", b"panic", b"cause"))


# Words in each line that is a note or begins a start, and in lines with facts of one.
NOTE_WORDS = frozenset(
    b"reported mounted hint issues aslr pagemap physical init vfio detected".split()
)
FACT_WORDS = frozenset(
    b"iova args parameters params arguments prefix pagesize hugepages vfio detected socket"
    b" requested attempted".split()
)
FOREIGN = log.foreign_words()
SPEAKING = frozenset().union(ALL.by_word, EALS_WORDS, NOTE_WORDS, FACT_WORDS, FOREIGN)
# Words with which an error's text begins, of which the end may be cut off.
CUT_WORDS = frozenset(
    b"permission operation cannot invalid such many space only connection name device".split()
)


class Line:
    """What one line says."""

    __slots__ = ("again", "end", "gave_up", "hits", "note", "on", "passed")

    def __init__(self, low: str, found: Collection[bytes], matches: list[Match]) -> None:
        self.end = bool(matches) and any(p is END or KINDS[p] == SIGNAL for p, _, _ in matches)
        self.hits = _hits([m for m in matches if m[0] is not END]) if matches else []
        self.note: tuple[Any, ...] = ()
        if not NOTE_WORDS.isdisjoint(found):
            if POOL.search(low):
                self.note = (POOL_NOTE,)
            elif UNMOUNTED.search(low):
                self.note = (MOUNT_NOTE,)
            else:
                self.note = next((h for h in HINTS if h[0].search(low)), ())
        self.gave_up = b"init" in found and UNSAID.search(low) is not None
        self.passed = b"vfio" in found and PASSED.search(low) is not None
        self.again = b"detected" in found and AGAIN.search(low) is not None
        self.on = bool(self.hits) and not self.end and all(k == OTHER for _, k in self.hits)

    @property
    def speaks(self) -> bool:
        return bool(
            self.hits
            or self.note
            or self.end
            or self.on
            or self.passed
            or self.again
            or self.gave_up
        )

    @property
    def sure(self) -> bool:
        return bool(self.note) or any(level == CERTAIN for _, level in self.hits)


SILENT = Line("", (), [])


def line_of(line: str, words: list[bytes], found: Collection[bytes]) -> Line:
    """Return what a line says. found: its words that are in SPEAKING."""
    low = line.lower()
    matches = ALL.matches(low, found, words)
    if not matches:
        if not EALS_WORDS.isdisjoint(found) and not CUT_WORDS.isdisjoint(words):
            whole = log.completed(line)
            if whole != line:
                low, words = whole.lower(), words_of(whole)
                found = SPEAKING.intersection(words)
                matches = ALL.matches(low, found, words)
        if not matches and NOTE_WORDS.isdisjoint(found):
            return SILENT
    says = Line(low, found, matches)
    return says if says.speaks else SILENT


def _hits(matches: list[Match]) -> list[tuple[Problem, int]]:
    """Return (problem, level) for a line: the closest that is certain, else all."""
    causes = [m for m in matches if KINDS[m[0]] == CERTAIN]
    if sure := next((p for p, level, _ in causes if level == CERTAIN), None):
        return [(sure, CERTAIN)]
    found = closest(m for m in matches if KINDS[m[0]] == HINT)
    if causes:
        found = [f for f in found if f[1] == CERTAIN] or closest(causes)
    if found and found[0][1] == CERTAIN:
        return found[:1]
    for p, level, _ in matches:
        if KINDS[p] in (SIGNAL, OTHER):
            found.append((p, KINDS[p] if level == CERTAIN else HINT))
    return found
