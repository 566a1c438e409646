"""Find the causes in a log: what its lines say, and what the end of the start makes of them.

A line that EAL also prints in a start that goes on is a cause only if the start ended after it
because memory ran out. A wrapper, which only reports that something before it failed, never hides a
cause; a hint never hides that EAL gave up.
"""

from __future__ import annotations

import re
from collections import deque

from pyeal.tools.explain import log, messages, places
from pyeal.tools.explain.causes import (
    AGAIN,
    CAUSES,
    COMPLAINT,
    END,
    ENDED_SO,
    FIRST,
    HINTS,
    HUGE,
    NO_DEVICE,
    ON,
    OTHERS,
    POOL,
    SIGNALS,
    UNMOUNTED,
    UNMOUNTED_HARMLESS,
)
from pyeal.tools.explain.facts import Facts, page_size
from pyeal.tools.explain.problems import (
    BY_ID,
    CERTAIN,
    GAVE_UP,
    HINT,
    PROBLEMS,
    WRAPPER,
    Problem,
)
from pyeal.tools.explain.table import Table, closest, words_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from typing import Any

    from pyeal.tools.explain.table import Match

    Told = tuple[Problem, str, bool]  # the problem, the line that shows it, whether it is certain

SIGNAL, OTHER = 3, 4  # levels, after those of problems.py
POOL_NOTE, MOUNT_NOTE = "pool", "mount"
SECONDARY = "proc-type secondary"
HUGEPAGES_STAGE = frozenset((1, 2, 3, 10, 12, 22, 28, 40, 41))  # what fails before memory does

LAST = 2_000  # EAL's lines at the end of a log in which its last word is looked for
ALL = Table((*CAUSES, *PROBLEMS, *SIGNALS, *OTHERS, END))
KINDS = {
    **dict.fromkeys(CAUSES, CERTAIN),
    **dict.fromkeys(PROBLEMS, HINT),
    **dict.fromkeys(SIGNALS, SIGNAL),
    **dict.fromkeys(OTHERS, OTHER),
}
WRAPPED = 40  # characters of a line that mail or a screen may have wrapped
TEMPLATES, MOST = 4096, 64  # lines that are remembered, notes of a start
EALS = re.compile(r"\b(?:EAL|ARGPARSE|PANIC|Cause)\b")
EALS_WORDS = frozenset((b"eal", b"argparse", b"panic", b"cause"))
ENDS, ERRORS = ("FATAL", "PANIC", "EXIT", "CRITICAL"), ("ERR", "stderr")
HUGEPAGE_END = re.compile(r"hugepage info|hugepage memory limits", re.I)
PASSED = re.compile(r"vfio support|probing vfio")  # EAL logs it after it found hugepages

# What DPDK logs of devices, after its memory.
PROBED = re.compile(r"probe (?:pci )?driver|testpmd>|TELEMETRY: No|\bport \d+\b", re.I)

# Words in each line that is a note or begins a start, and in lines with facts of one.
NOTE_WORDS = frozenset(
    b"reported mounted hint issues aslr pagemap physical init vfio detected".split()
)
FACT_WORDS = frozenset(
    b"iova args parameters params arguments dpdk prefix pagesize hugepages vfio detected socket"
    b" requested attempted".split()
)
GOING = frozenset(
    b"probe probing interactive testpmd telemetry port ports up listening started ready running"
    b" press done complete completed successful successfully forwarding serving link reactor"
    b" polling core initialized ok".split()
)
FOREIGN = log.foreign_words()
SPEAKING = frozenset().union(ALL.by_word, EALS_WORDS, NOTE_WORDS, FACT_WORDS, FOREIGN)
FAILING = frozenset(
    b"fail failed fails failure failing error errors cannot couldn unable fatal critical".split()
)
# Words with which an error's text begins, of which the end may be cut off.
CUT_WORDS = frozenset(
    b"permission operation cannot invalid such many space only connection name device".split()
)
# Lines with one of these differ in what they say if they differ in a number.
EXACT = frozenset(
    b"exit exited exits exiting code status signal socket sockets node nodes init 11 132 134 135"
    b" 139 sigbus bus".split()
)
DIGITS = bytes(53 if 48 <= c < 57 else c for c in range(256))  # all of them but 9 are one


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
        self.gave_up = b"init" in found and GAVE_UP.patterns[0][1].search(low) is not None
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


class Reading:
    """The starts of a log, read line by line; a line that does not speak costs a few words."""

    def __init__(self) -> None:
        self.start = Start()
        self.last_ended: Start | None = None
        self.n = 0
        self._known: dict[bytes, Line] = {}
        self._held: list[str] = []  # EAL's last line, with what may continue it, in each way
        self._parts = self._held_at = 0
        self._spoke = False  # whether the line before may have been wrapped within a message

    def read(self, lines: Iterable[str]) -> None:
        """Read the lines; what continues EAL's line is looked at together with it."""
        for line in lines:
            self.n += 1
            if not line:
                continue
            if not line.isascii():
                line = log.english(line)
            words = words_of(line)
            found = SPEAKING.intersection(words)
            if not FOREIGN.isdisjoint(found):
                line = log.english(line)
                words = words_of(line)
                found = SPEAKING.intersection(words)
            if found:
                self._look(line, words, found)
            elif self._parts:
                self._continue(line)
            if (
                (self.start.pending or not self.start.went_on)
                and not GOING.isdisjoint(words)
                and ON.search(line.lower())
                and not (self._spoke and _continues(line))
            ):
                says = self._says(line, words, found) if found else None
                if not says or not (says.end or says.hits or says.note):
                    self.start.went_on = self.start.went_on or PROBED.search(line) is not None
                    self.start.goes_on()
            self._spoke = bool(found) and len(line) > WRAPPED

    def _look(self, line: str, words: list[bytes], found: frozenset[bytes]) -> None:
        """Look at a line that has a word which may matter."""
        eals = not EALS_WORDS.isdisjoint(found)
        says = self._says(line, words, found)
        wrapped = self._parts and not eals and (self._panic or not says.sure)
        if wrapped and self._continue(line, says):
            return
        start = self.start
        self._parts = 0
        if not FAILING.isdisjoint(words):
            start.complaint = line
        if says is SILENT:
            if eals:
                start.tail.append(line)
            if eals or len(line) > WRAPPED:
                self._held, self._held_at, self._parts = [line.strip()], self.n, 1
            elif start.last and "Cause:" in line:
                start.last = line
            return
        if says.again and start.ended:
            self.last_ended, self.start = start, Start()
            self.start.facts = start.facts
            start = self.start
        if eals:
            start.tail.append(line)
        start.add(line.strip(), says, self.n)
        whole = says.sure and says.note != (POOL_NOTE,)
        if not whole and (eals or says.end or len(line) > WRAPPED):
            self._held, self._held_at, self._parts = [line.strip()], self.n, 1

    @property
    def _panic(self) -> bool:
        """Whether EAL's line is "PANIC in FUNCTION():", of which the next line is the message."""
        return self._parts == 1 and self._held[0].endswith("():") and "PANIC in" in self._held[0]

    def _continue(self, line: str, alone: Line = SILENT) -> bool:
        """Look at EAL's line with what a wrap made of its end. Return whether that says more."""
        held = self._held[0]
        more = self._panic or (
            held[:8] != line[:8]  # it begins as that one did
            and self._parts < 3
            and len(held) > 19
            and (_continues(line) or (log.DATED.match(held) and not log.DATED.match(line)))
            and (not line.startswith(("  ", " at ")) or EALS.search(held))
        )
        if not more:
            self._parts = 0
            return False
        text = line.strip()
        self._held = [f"{held}{gap}{text}" for held in self._held for gap in (" ", "")]
        self._parts += 1
        both = []
        for whole in self._held:
            words = words_of(whole)
            both.append((self._says(whole, words, SPEAKING.intersection(words)), whole))
        says, whole = max(both, key=lambda b: (b[0].sure, bool(b[0].hits), b[0].speaks))
        if says.sure:
            self.start.forget(self._held_at)
            self.start.tail.append(whole)
        if says.sure or (says.speaks and not alone.hits):
            self.start.add(whole, says, self._held_at if says.sure else self.n)
        return says.sure

    def _says(self, line: str, words: list[bytes], found: frozenset[bytes]) -> Line:
        """Return what a line says: the same as a line with other numbers."""
        template = line.encode("utf-8", "replace")
        if EXACT.isdisjoint(found):
            template = template.translate(DIGITS)
        says = self._known.get(template)
        if says is None:
            if len(self._known) >= TEMPLATES:
                self._known.clear()
            says = self._known[template] = line_of(line, words, found)
            if "--" in line or (
                not EALS_WORDS.isdisjoint(found)
                and (says.hits or says.note or not FACT_WORDS.isdisjoint(found))
            ):
                told = bool(says.hits or says.note)
                self.start.facts.add(line, says.note != (POOL_NOTE,), told)
        return says

    def told(self) -> list[Told]:
        """Return each problem of the last start that ended, else of the last; causes first."""
        if self.last_ended and not self.start.ended:
            self.start = self.last_ended
        return Judge(self.start).told()


def _continues(line: str) -> bool:
    return not log.RECORD.search(line)


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
            *((p, x.line, False) for p, x in hits if x.level in (HINT, WRAPPER)),
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
            word = last_word(tail, quiet=not (found or harmless))
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
        if not (found or harmless) and s.complaint:
            found = [(COMPLAINT, s.complaint.strip(), False)]
        return found + harmless

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


def read(lines: Iterable[str]) -> list[Told]:
    """(problem, the line that shows it, whether that is certain), each problem once."""
    reading = Reading()
    reading.read(log.lines(lines))
    return reading.told()


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
        if GAVE_UP.patterns[0][1].search(line.lower()):
            return GAVE_UP
        if (p := places.at(m.file, m.function, line)) is not None:
            means = f"{p.means} The line is {m.text()}."
            return Problem(p.id, p.title, ", ".join(p.links), (), means, p.fix, harmless=p.harmless)
        title, fix, reach = f"{what}, about its {m.about}", GAVE_UP.fix, ""
    else:
        title, reach = f"{what}, not about memory: {m.about}", "doctor checks EAL's memory"
        fix = "look at the lines before it, and at that part's own documentation"
    return Problem(None, title, "", (), f"It is {m.text()}.", fix, reach)
