"""Find the causes in a log: what its lines say, and what the end of the start makes of them.

A line that EAL also prints in a start that goes on is a cause only if the start ended after it
because memory ran out. A wrapper, which only reports that something before it failed, never hides a
cause; a hint never hides that EAL gave up.
"""

from __future__ import annotations

import re
from collections import deque

from pyeal.tools.explain import log, messages
from pyeal.tools.explain.causes import (
    AGAIN,
    CAUSES,
    END,
    GENERAL,
    HINTS,
    HUGE,
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
    WRAPPER,
    Problem,
    Table,
    of_line,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from typing import Any

    Told = tuple[Problem, str, bool]  # the problem, the line that shows it, whether it is certain

SIGNAL, OTHER = 3, 4  # levels, after those of problems.py
POOL_NOTE, MOUNT_NOTE = "pool", "mount"

LAST = 2_000  # EAL's lines at the end of a log in which its last word is looked for
CAUSE_TABLE, SIGNAL_TABLE, OTHER_TABLE = Table(CAUSES), Table(SIGNALS), Table(OTHERS)
LOOKS = 8_000  # lines that differ
END_WORDS = tuple(
    "fatal panic exit emer init start setup with status= dumped off crashloop".split()
)
TEMPLATES, MOST = 4096, 64  # lines that are remembered, notes of a start
EALS_WORDS = frozenset((b"eal", b"argparse", b"panic", b"cause"))
LAST_WORDS = frozenset((b"fatal", b"panic", b"exit", b"exited", b"exiting", b"denied"))
EALS = re.compile(r"\b(?:EAL|ARGPARSE|PANIC|Cause)\b")
ENDS, ERRORS = ("FATAL", "PANIC", "EXIT", "CRITICAL"), ("ERR", "stderr")

# Words of which a line that says anything about a failure has one.
SPEAKING = frozenset(
    b"""
    fail failed fails failure failing cannot cant couldnt could unable error errors fatal panic emer
    emerg denied refused invalid unavailable unrecognized unknown ambiguous requires mismatch wrong
    only attempted increase enough permitted allowed no not t exhausted insufficient already many
    another reserved exceeding range exceeds timed responded synchronize interleaves
    addresssanitizer
    threadsanitizer anonymously aslr space free hint respected issues virtual physical pagemap
    mempolicy sigbus bus signal killed kill sigkill aborted sigabrt segfault segmentation sigsegv
    dumped oom exit exited exits exiting code status rc return returned crashloopbackoff backoff
    illegal sigill virt2phys support demote apparmor avc waiting complete relevant clearing detected
    shconf prefix iova args parameters params shadow lock unsupported virtualalloc2 hugepages must
    selockmemoryprivilege privilege memseg increased terminated cause main master out larger long
    probe probing telemetry incompatible compatible disable randomization
    please specified missing mapping wsl
    """.split()
)
GOING = frozenset(
    b"""
    probe probing interactive testpmd telemetry port ports up listening started ready running press
    done complete completed successful successfully forwarding serving link reactor polling core
    initialized ok
    """.split()
)
LETTERS = bytes(ord(chr(c).lower()) if c < 128 and chr(c).isalnum() else 32 for c in range(256))
NUMBER = re.compile(r"(?<![\da-z])(?!(?:\d|1048576|13[24579]|11)(?!\d))\d+|0x[0-9a-f]+", re.I)
SENTENCE = re.compile(r"[.!:;?]$")


def words_of(line: str) -> list[bytes]:
    """Return the ASCII words of a line, lower case."""
    return line.encode("ascii", "replace").translate(LETTERS).split()


class Line:
    """What one line says."""

    __slots__ = ("again", "end", "hits", "note", "on")

    def __init__(self, line: str) -> None:
        text = log.english(line)
        self.hits = _hits(text)
        if not self.hits and (whole := log.completed(text)) != text:
            self.hits, text = _hits(whole), whole
        self.note: tuple[Any, ...] = ()
        if POOL.search(text):
            self.note = (POOL_NOTE,)
        elif UNMOUNTED.search(text):
            self.note = (MOUNT_NOTE,)
        else:
            self.note = next((h for h in HINTS if h[0].search(text)), ())
        signal = any(level == SIGNAL for _, level in self.hits)
        low = text.lower()
        ends = any(w in low for w in END_WORDS)
        self.end = signal or (ends and bool(END.search(low) or GENERAL.search(low)))
        self.again = "detected" in low and AGAIN.search(low) is not None
        self.on = not self.end and not self.hits and ON.search(low) is not None

    @property
    def sure(self) -> bool:
        return bool(self.note) or any(level == CERTAIN for _, level in self.hits)


def _hits(text: str) -> list[tuple[Problem, int]]:
    matches = CAUSE_TABLE.matches(text)
    levels = {p: min(level for level, _ in matches[p]) for p in CAUSES if p in matches}
    if sure := next((p for p, level in levels.items() if level == CERTAIN), None):
        return [(sure, CERTAIN)]
    found = list(levels.items()) or of_line(text)
    if found and found[0][1] == CERTAIN:
        return found[:1]
    for level, table in ((SIGNAL, SIGNAL_TABLE), (OTHER, OTHER_TABLE)):
        matches = table.matches(text)
        found += [(p, level) for p in table.problems if p in matches]
    return found


class Seen:
    """A problem or note, the line that shows it, and whether the start went on after it."""

    __slots__ = ("at", "level", "line", "on")

    def __init__(self, line: str, level: int, at: int) -> None:
        self.line, self.level, self.at, self.on = line, level, at, False


class Start:
    """One start of EAL in a log."""

    def __init__(self) -> None:
        self.hits: dict[Problem, Seen] = {}
        self.notes: dict[tuple[Any, ...], Seen] = {}
        self.wrapped: set[int | None] = set()
        self.ended = self.gave_up = self.fatal = ""
        self.pending = False  # whether something was seen that a start may outlive
        self.looks = LOOKS  # how many lines are looked at for whether it went on
        self.facts = Facts()

    def goes_on(self) -> None:
        """Note that the start went on after all that was seen so far, unless it ended before."""
        if self.pending and not self.ended:
            for seen in (*self.hits.values(), *self.notes.values()):
                seen.on = True
        self.pending = False

    def add(self, line: str, says: Line, at: int) -> None:
        if says.on:
            self.goes_on()
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
        if says.end:
            self.ended = self.ended or line
            if "FATAL" in line or "PANIC" in line:
                self.fatal = self.fatal or line
        if GAVE_UP.patterns[0][1].search(line) and "FATAL" not in self.gave_up:
            self.gave_up = line

    def about_memory(self) -> bool:
        """Whether the line that ended it may mean memory: it says so, or does not say."""
        m = messages.find(self.fatal) if self.fatal else None
        return m is None or m.about in ("memory", "EAL", "services")


class Reading:
    """The starts of a log, read line by line."""

    def __init__(self) -> None:
        self.start = Start()
        self.last_ended: Start | None = None
        self.tail: deque[str] = deque(maxlen=LAST)
        self.n = self.looked = 0
        self._known: dict[str, Line] = {}

    def read(self, lines: Iterable[str]) -> None:
        """Read the lines; each that speaks is looked at with those that a wrap made of it."""
        before, ahead = "", deque[tuple[str, list[bytes]]]()
        for line in lines:
            self.n += 1
            if not line:
                continue
            words = words_of(line)
            if not EALS_WORDS.isdisjoint(words):
                self.tail.append(line)
            ahead.append((line, words))
            if len(ahead) == 3:
                before = self._look(before, ahead)
        while ahead:
            before = self._look(before, ahead)

    def _look(self, before: str, ahead: deque[tuple[str, list[bytes]]]) -> str:
        """Look at the first line ahead and return it."""
        line, words = ahead.popleft()
        start = self.start
        if SPEAKING.isdisjoint(words) and line.isascii():
            if start.pending and not GOING.isdisjoint(words) and start.looks > 0:
                start.looks -= 1
                if ON.search(line.lower()):
                    start.goes_on()
            return line
        text, says = line, self._says(line, words)
        if says is None:
            return line
        signal = any(level == SIGNAL for _, level in says.hits)
        if not (says.sure or signal) and (not EALS_WORDS.isdisjoint(words) or "EAL" in before):
            for whole in _joined(before, line, [text for text, _ in ahead]):
                other = self._says(whole, words)
                if not other:
                    break
                if other.sure or (other.hits and not says.hits):
                    text, says = whole, other
                    break
        if says.again and start.ended:
            self.last_ended, self.start = start, Start()
            self.start.facts = start.facts
        self.start.add(text.strip(), says, self.n)
        return line

    def _says(self, line: str, words: list[bytes]) -> Line | None:
        """Return what a line says; None after too many lines that differ, unless one may end it."""
        template = NUMBER.sub("5555", line)
        found = self._known.get(template)
        if found is None:
            if self.looked >= LOOKS and LAST_WORDS.isdisjoint(words):
                return None
            if len(self._known) >= TEMPLATES:
                self._known.clear()
            self.looked += 1
            self.start.facts.add(line, sized=not POOL.search(line))
            found = self._known[template] = Line(line)
        return found

    def told(self) -> list[Told]:
        """Return each problem of the last start that ended, else of the last; causes first."""
        if self.last_ended and not self.start.ended:
            self.start = self.last_ended
        return Judge(self.start, self.tail).told()


def _joined(before: str, line: str, after: list[str]) -> Iterator[str]:
    """Yield a line with those around it of which a wrap may have made it."""
    if before and _continues(line) and not SENTENCE.search(before):
        yield f"{before.strip()} {line.strip()}"
        yield f"{before.strip()}{line.strip()}"
    whole = [line.strip()]
    for text in after:
        if not _continues(text) or len(whole[0]) < 20:
            break
        whole = [f"{w}{gap}{text.strip()}" for w in whole for gap in (" ", "")]
        yield from whole


def _continues(line: str) -> bool:
    return not log.RECORD.search(line)


class Judge:
    """The verdict on one start."""

    def __init__(self, start: Start, tail: Iterable[str]) -> None:
        self.start, self.tail = start, list(tail)
        self.memory = bool(start.ended) and start.about_memory()

    def told(self) -> list[Told]:
        s = self.start
        hits = sorted(s.hits.items(), key=lambda h: (h[1].on, h[1].at))
        sure = [(p, x.line, not x.on or bool(s.ended)) for p, x in hits if x.level == CERTAIN]
        causes, harmless = self._notes(_ids(sure))
        certain = [
            *sure,
            *(t for t in causes if t[2]),
            *((p, x.line, True) for p, x in hits if x.level == HINT and p.id in s.wrapped),
        ]
        if certain and certain[0][0].id == 1 and not sure and 2 not in _ids(certain):
            certain.append((BY_ID[2], certain[0][1], False))  # another size may lack a mount
        if certain:
            return certain + harmless
        signals = [(p, x.line) for p, x in hits if x.level == SIGNAL]
        found = [
            *((p, line, len(signals) == 1) for p, line in signals),
            *causes,
            *((p, x.line, False) for p, x in hits if x.level in (HINT, WRAPPER)),
            *((p, x.line, True) for p, x in hits if x.level == OTHER),
        ]
        if not signals and (s.ended or s.gave_up or not found):
            hinted = all(x.level != WRAPPER for _, x in hits)
            if s.gave_up and hinted:
                found.insert(0, (GAVE_UP, s.gave_up, True))
            elif hinted:
                word = last_word(self.tail, quiet=not (found or harmless))
                if word and (word[2] or not any(x.level == OTHER for _, x in hits)):
                    found.insert(0, word)
        return found + harmless

    def _notes(self, told: list[int | None]) -> tuple[list[Told], list[Told]]:
        """Return the notes that are causes, and those that are harmless."""
        s = self.start
        causes: list[Told] = []
        harmless: dict[Problem, Told] = {}
        for key, x in sorted(s.notes.items(), key=lambda n: -n[1].at):
            went_on = x.on or bool(told) or (bool(s.ended) and not self.memory)
            kind = key[0]
            if kind == POOL_NOTE and key[1] != HUGE and {1, 6} & set(told):
                continue
            if kind == POOL_NOTE:
                p, certain = self._pool(x.line, went_on)
            elif kind == MOUNT_NOTE and told:
                continue
            elif kind == MOUNT_NOTE:
                p, certain = self._mount(went_on)
            else:
                p, certain = self._hint(key[1], key[2], went_on)
            if p.harmless:
                if p.id not in told:
                    harmless.setdefault(p, (p, x.line, True))
            elif p not in [c[0] for c in causes]:
                causes.append((p, x.line, certain))
        return causes, list(harmless.values())

    def _pool(self, line: str, went_on: bool) -> tuple[Problem, bool]:
        """Judge a size without a free page: the last one before EAL ended is the cause."""
        sz, node = page_size(line), Facts(line).node
        if went_on:
            return BY_ID[35], True
        if self.start.ended:
            return BY_ID[1], 1 in self.start.wrapped
        if sz is None or sz == HUGE:
            return BY_ID[35], True
        return BY_ID[27 if node else 1], True

    def _mount(self, went_on: bool) -> tuple[Problem, bool]:
        if went_on:
            return UNMOUNTED_HARMLESS, True
        return BY_ID[2], 2 in self.start.wrapped

    def _hint(self, cause: Problem, good: Problem, went_on: bool) -> tuple[Problem, bool]:
        modes = self.start.facts.modes
        fine = self.start.facts.alone if cause.id == 14 else "va" in modes
        secondary = cause.id == 14 and "proc-type secondary" in modes
        if went_on or fine or not (self.start.ended or secondary):
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
    """Return the last line that is fatal, else the last error, with where it is in EAL's source.

    quiet: whether a warning, or a quieter line about a failure, counts if there is no error. What
    is known of the line is which part of EAL it is about: the table of messages.txt.
    """
    error = warning = None
    for line in reversed(lines[-LAST:]):
        if not EALS.search(line):
            continue
        line = line.strip()
        m = messages.find(line)
        if "FATAL" in line or (m and m.level in ENDS):
            return _word(m, line), line, True
        if m and m.level in ERRORS:
            error = error or (_word(m, line), line, False)
        elif m and quiet:
            warning = warning or (_word(m, line), line, False)
    return error or warning


def _word(m: messages.Message | None, line: str) -> Problem:
    """Return a line of EAL's log that no problem explains, as a problem without a number."""
    if m is None:
        means = "No release of EAL since 16.11 prints this line."
        return Problem(None, "EAL gave up; its last line is not known", "", (), means, GAVE_UP.fix)
    ends = m.level in ENDS or "FATAL" in line
    what = "EAL gave up" if ends else f"a{'n error' if m.level in ERRORS else ' warning'} of EAL"
    if m.about in messages.OURS:
        title, fix, reach = f"{what}, about its {m.about}", GAVE_UP.fix, ""
    else:
        title, reach = f"{what}, not about memory: {m.about}", "doctor checks EAL's memory"
        fix = "look at the lines before it, and at that part's own documentation"
    return Problem(None, title, "", (), f"It is {m.text()}.", fix, reach)
