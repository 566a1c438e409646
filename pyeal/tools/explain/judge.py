"""Judge one start of EAL: which of the lines that speak are causes, and which are harmless.

The stage that the start had reached and how it ended exclude causes. An error of EAL before its
last, fatal line is the reason; the fatal line alone is quoted with its place in the source.
"""

from __future__ import annotations

import re
from collections import deque

from pyeal.tools.explain import messages, places
from pyeal.tools.explain.causes import (
    COMPLAINT,
    ENDED_SO,
    FIRST,
    HUGE,
    NO_DEVICE,
    UNMOUNTED_HARMLESS,
    ZONE_EXISTS,
)
from pyeal.tools.explain.facts import Facts, page_size
from pyeal.tools.explain.line import MOUNT_NOTE, OTHER, PASSED, POOL_NOTE, SIGNAL, UNSAID
from pyeal.tools.explain.problems import BY_ID, CERTAIN, GAVE_UP, HINT, WRAPPER, Problem

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyeal.tools.explain.line import Line

MOST = 64  # notes of a start that are kept
NONE_FAILED = re.compile(r"\b(?:0|no|without) (?:error|fail)\w*|(?:error|fail)\w*\W{1,3}0\b", re.I)
Told = tuple[Problem, str, bool]  # the problem, the line that shows it, whether it is certain

SECONDARY = "proc-type secondary"
HUGEPAGES_STAGE = frozenset((1, 2, 3, 10, 12, 22, 28, 40, 41))  # what fails before memory does
LAST = 2_000  # EAL's lines at the end of a log in which its last word is looked for
EALS = re.compile(r"\b(?:EAL|ARGPARSE|PANIC|Cause)\b")
ENDS, ERRORS = ("FATAL", "PANIC", "EXIT", "CRITICAL"), ("ERR", "stderr")
RESERVED = re.compile(r"cannot (?:reserve|allocate) memory", re.I)
HUGEPAGE_END = re.compile(r"hugepage info|hugepage memory limits", re.I)


class Seen:
    """A problem or note, the line that shows it, and whether the start went on after it."""

    __slots__ = ("at", "level", "line", "on", "passed")

    def __init__(self, line: str, level: int, at: int) -> None:
        self.line, self.level, self.at, self.on, self.passed = line, level, at, False, False


class Start:
    """One start of EAL in a log."""

    def __init__(self) -> None:
        self.hits: dict[Problem, Seen] = {}
        self.notes: dict[tuple[Any, ...], Seen] = {}
        self.wrapped: set[int | None] = set()
        self.ended = self.gave_up = self.fatal = self.last = self.complaint = ""
        self.pending = False  # whether something was seen that a start may outlive
        self.passed = self.went_on = False  # whether any line shows so, in whatever order they are
        self.tail: deque[str] = deque(maxlen=LAST)
        self.facts = Facts()

    def goes_on(self, failing: bool = False) -> None:
        """Note that the start went on after all that was seen so far, unless it ended before.

        failing: a device fails, which EAL probes after its memory; what the pools lacked was no
        reason, other failures may be.
        """
        if self.pending and not self.ended:
            hits = () if failing else self.hits.values()
            for seen in (*hits, *self.notes.values()):
                seen.on = True
        self.pending = self.pending and failing

    def add(self, line: str, says: Line, at: int) -> None:
        if says.on:
            self.went_on = True
            self.goes_on(failing=True)
        for p, level in says.hits:
            if level == WRAPPER:
                self.wrapped.add(p.id)
            if p not in self.hits or level < self.hits[p].level:
                self.hits[p] = Seen(line, level, at)
                self.pending = True
        if says.note and len(self.notes) < MOST:
            key = (*says.note, page_size(line)) if len(says.note) == 1 else says.note
            self.notes[key] = Seen(line, CERTAIN, at)
            self.pending = True
        self.passed = self.passed or says.passed
        if says.passed:
            for seen in self.notes.values():
                seen.passed = True
        if says.end:
            self.ended = self.ended or line
            self.last = line
            if "FATAL" in line or "PANIC" in line:
                self.fatal = self.fatal or line
        elif self.last and "Cause:" in line:
            self.last = line
        if says.gave_up and "FATAL" not in self.gave_up:
            self.gave_up = line

    def forget(self, at: int) -> None:
        """Forget what a line said alone: together with its continuation it says more."""
        self.hits = {p: seen for p, seen in self.hits.items() if seen.at != at}
        self.notes = {key: seen for key, seen in self.notes.items() if seen.at != at}

    def fatal_about(self, *parts: str) -> bool:
        """Whether the line that ended it is about one of the parts of EAL."""
        m = messages.find(self.fatal) if self.fatal else None
        return m is not None and m.about in parts

    def about_memory(self) -> bool:
        """Whether the line that ended it may mean memory: it says so, or does not say."""
        m = messages.find(self.fatal) if self.fatal else None
        return m is None or m.about in ("memory", "EAL", "services")


class Judge:
    """The verdict on one start."""

    def __init__(self, start: Start) -> None:
        self.start = start
        self.memory = bool(start.ended) and start.about_memory()
        self.secondary = SECONDARY in start.facts.modes

    def told(self) -> list[Told]:
        s = self.start
        hits = sorted(s.hits.items(), key=lambda h: (h[1].on, h[1].at))
        if "no vfio" in s.facts.modes:
            hits = [
                (NO_DEVICE, x) if p is BY_ID[24] and "region" in x.line else (p, x) for p, x in hits
            ]
        if ZONE_EXISTS in s.hits:  # a name was taken, no memory was lacking
            hits = [(p, x) for p, x in hits if p.id != 34 or not RESERVED.search(x.line)]
        if FIRST in s.hits:  # EAL itself asked for the memory
            hits = [(p, x) for p, x in hits if p.id != 34]
        if self.secondary:
            hits = [(BY_ID[37] if p is FIRST else p, x) for p, x in hits]
        at_hugepages = HUGEPAGE_END.search(s.fatal) is not None
        sure = [
            (p, x.line, not x.on or bool(s.ended) or p.id == 34)
            for p, x in hits
            if x.level == CERTAIN
        ]
        later = [t for t in sure if at_hugepages and t[0].id not in HUGEPAGES_STAGE]
        sure = [t for t in sure if t not in later]
        if sure and sure[0][0].id != 34:  # a pool of the application lacks what EAL lacked before
            sure = [t for t in sure if t[0].id != 34]
        causes, harmless = self._notes(_ids(sure))
        harmless += [t for t in sure if t[0].harmless]
        sure = [t for t in sure if not t[0].harmless]
        certain = [
            *sure,
            *(t for t in causes if t[2]),
            *((p, x.line, True) for p, x in hits if x.level == HINT and p.id in s.wrapped),
        ]
        if certain and certain[0][0].id == 1 and not sure and 2 not in _ids(certain):
            certain.append((BY_ID[2], certain[0][1], False))  # another size may lack a mount
        wrappers = [(p, x.line, False) for p, x in hits if x.level == WRAPPER]
        if _ids(certain) == [34]:
            certain = wrappers + certain
        if certain:
            return certain + [(p, line, False) for p, line, _ in later] + harmless
        signals = [(p, x.line) for p, x in hits if x.level == SIGNAL]
        others = [(p, x.line, True) for p, x in hits if x.level == OTHER]
        found = [
            *((p, line, len(signals) == 1) for p, line in signals),
            *(
                (p, x.line, p.id == 0 and x.level == WRAPPER)
                for p, x in hits
                if x.level in (HINT, WRAPPER)
            ),
            *causes,
            *others,
            *((p, line, False) for p, line, _ in later),
        ]
        if not signals:
            explained = {x.line for x in (*s.hits.values(), *s.notes.values())}
            tail = [
                t
                for t in s.tail
                if ("FATAL" in t or t.strip() not in explained) and not PASSED.search(t.lower())
            ]
            word = last_word(tail, quiet=not (found or harmless or s.ended))
            if word and wrappers:
                if word[2] and "FATAL" not in word[1] and not word[0].harmless:
                    found.insert(0, (*word[:2], all("FATAL" in line for _, line, _ in wrappers)))
            elif word and word[0].harmless:
                harmless.append(word)
            elif word and (word[2] or not (others or found)):
                found.insert(0, word)
            elif s.gave_up:
                found.insert(0, (GAVE_UP, s.gave_up, True))
        if s.ended and not found:
            found = [(ENDED_SO, s.last, True)]
        if not found and (s.went_on or not harmless) and self._complains():
            found = [(COMPLAINT, s.complaint.strip(), False)]
        return found + harmless

    def _complains(self) -> bool:
        """Whether a line that no problem explains tells of a failure."""
        text = self.start.complaint.strip()
        explained = (x.line for x in (*self.start.hits.values(), *self.start.notes.values()))
        return bool(text) and not NONE_FAILED.search(text) and text not in explained

    def _notes(self, told: list[int | None]) -> tuple[list[Told], list[Told]]:
        """Return the notes that are causes, and those that are harmless."""
        s = self.start
        causes: list[Told] = []
        harmless: dict[Problem, Told] = {}
        notes = sorted(s.notes.items(), key=lambda n: (n[0][-1] == HUGE, -n[1].at))
        for key, x in notes:
            went_on = x.on or bool(told) or (bool(s.ended) and not self.memory)
            kind = key[0]
            if kind == POOL_NOTE and key[1] != HUGE and {1, 6} & set(told):
                continue
            if kind == POOL_NOTE:
                p, certain = self._pool(x, key[1], went_on)
            elif kind == MOUNT_NOTE and told and "in-memory" not in s.facts.modes:
                continue
            elif kind == MOUNT_NOTE:
                p, certain = self._mount(x, went_on)
            else:
                p, certain = self._hint(key[1], key[2], went_on)
            if p.harmless:
                if p.id not in told:
                    harmless.setdefault(p, (p, x.line, True))
            elif p not in [c[0] for c in causes]:
                causes.append((p, x.line, certain))
        return causes, list(harmless.values())

    def _pool(self, x: Seen, sz: int | None, went_on: bool) -> tuple[Problem, bool]:
        """Judge a size without a free page: the last one before EAL ended is the cause.

        EAL that comes as far as VFIO, or gives up for another reason, has pages of some size.
        """
        s = self.start
        if went_on:
            return BY_ID[35], True
        if s.ended:
            elsewhere = s.fatal and not HUGEPAGE_END.search(s.fatal) and not s.wrapped & {1}
            if sz == HUGE and (elsewhere or ((s.passed or s.went_on) and not s.fatal)):
                return BY_ID[35], True
            return BY_ID[1], 1 in s.wrapped
        if sz is None or sz == HUGE or s.passed or s.went_on:
            return BY_ID[35], True
        return BY_ID[27 if Facts(x.line).node else 1], True

    def _mount(self, x: Seen, went_on: bool) -> tuple[Problem, bool]:
        s = self.start
        if went_on or "in-memory" in s.facts.modes or ((s.passed or s.went_on) and not s.ended):
            return UNMOUNTED_HARMLESS, True
        return BY_ID[2], 2 in s.wrapped

    def _hint(self, cause: Problem, good: Problem, went_on: bool) -> tuple[Problem, bool]:
        s = self.start
        fine = s.facts.alone if cause.id == 14 else "va" in s.facts.modes
        if cause.id == 9 and s.ended and not s.fatal_about("IOVA", "devices"):
            fine = True
        if went_on or fine or not (s.ended or (cause.id == 14 and self.secondary)):
            return good, True
        return cause, False


def _ids(told: list[Told]) -> list[int | None]:
    return [p.id for p, _, _ in told]


def last_word(lines: list[str], quiet: bool = False) -> Told | None:
    """Return the last error of EAL before the line that is fatal, else that line, else an error.

    With where it is in EAL's source. A fatal line reports that something failed before; an error
    before it of the same part, or of EAL's memory, is what failed. quiet: whether a warning, or a
    quieter line about a failure, counts if there is no error.
    """
    fatal: tuple[messages.Message | None, str] | None = None
    error: Told | None = None
    warning: Told | None = None
    for line in reversed(lines[-LAST:]):
        if not EALS.search(line):
            continue
        line = line.strip()
        m = messages.find(line)
        level = "FATAL" if "FATAL" in line else m.level if m else ""
        if level == "FATAL" or (level in ENDS and not fatal):
            if fatal and m and fatal[0] is not m:
                break  # of another start
            fatal = m, line
        elif m and level in (*ERRORS, *ENDS) and not _repeats(line, fatal):
            if not fatal:
                error = error or (_word(m, line), line, False)
            elif _explains(m, fatal[0]) and not (word := _word(m, line)).harmless:
                return word, line, True
        elif m and quiet:
            warning = warning or (_word(m, line), line, False)
    if fatal:
        return _word(*fatal), fatal[1], True
    return error or warning


def _repeats(line: str, fatal: tuple[messages.Message | None, str] | None) -> bool:
    """Whether a line repeats the fatal one, as rte_eal_init() does in the log and on stderr."""
    return fatal is not None and line.rpartition("EAL: ")[2] in fatal[1]


def _explains(m: messages.Message, fatal: messages.Message | None) -> bool:
    """Whether an error is the reason of a fatal line after it."""
    return m.about in messages.OURS or (fatal is not None and m.about == fatal.about)


def _word(m: messages.Message | None, line: str) -> Problem:
    """Return a line of EAL's log that no problem explains, as a problem without a number."""
    if m is None:
        means = "No release of EAL since 16.11 prints this line."
        return Problem(None, "EAL gave up; its last line is not known", "", (), means, GAVE_UP.fix)
    ends = m.level in ENDS or "FATAL" in line
    what = "EAL gave up" if ends else f"a{'n error' if m.level in ERRORS else ' warning'} of EAL"
    if m.about in messages.OURS:
        if UNSAID.search(line.lower()):
            return GAVE_UP
        if (p := places.at(m.file, m.function, line)) is not None:
            means = f"{p.means} The line is {m.text()}."
            return Problem(p.id, p.title, ", ".join(p.links), (), means, p.fix, harmless=p.harmless)
        title, fix, reach = f"{what}, about its {m.about}", GAVE_UP.fix, ""
    else:
        title, reach = f"{what}, not about memory: {m.about}", "doctor checks EAL's memory"
        fix = "look at the lines before it, and at that part's own documentation"
    return Problem(None, title, "", (), f"It is {m.text()}.", fix, reach)
