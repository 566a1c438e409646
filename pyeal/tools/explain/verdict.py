"""Find the causes in a log: what its lines say, and what the end of the start makes of them.

A line that EAL also prints in a start that goes on is a cause only if the start ended after it
because memory ran out. A wrapper, which only reports that something before it failed, never hides a
cause; a hint never hides that EAL gave up.
"""

from __future__ import annotations

import re
from collections import deque

from pyeal.tools.explain import log
from pyeal.tools.explain.causes import ON
from pyeal.tools.explain.judge import EALS, Judge, Start, Told
from pyeal.tools.explain.line import (
    EALS_WORDS,
    FACT_WORDS,
    FOREIGN,
    POOL_NOTE,
    SILENT,
    SPEAKING,
    Line,
    line_of,
)
from pyeal.tools.explain.table import words_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

TEMPLATES = 4096  # lines that are remembered
# After so many lines that differ from all others, only some are looked at: those that end or begin
# a start, a few before each of them, and the last ones.
LOOKS, BEFORE, LAST = 8_000, 200, 2_000
URGENT = frozenset(b"fatal panic detected exiting".split())
WRAPPED = 40  # characters of a line that mail or a screen may have wrapped
# What DPDK logs of devices, after its memory.
PROBED = re.compile(r"probe (?:pci )?driver|testpmd>|TELEMETRY: No|\bport \d+\b", re.I)
GOING = frozenset(
    b"probe probing interactive testpmd telemetry port ports up listening started ready running"
    b" press done complete completed successful successfully forwarding serving link reactor"
    b" polling core initialized ok".split()
)
FAILING = frozenset(
    b"fail failed fails failure failing error errors cannot couldn unable fatal critical".split()
)
# Lines with one of these differ in what they say if they differ in a number.
EXACT = frozenset(
    b"exit exited exits exiting code status signal socket sockets node nodes init 11 132 134 135"
    b" 139 sigbus bus".split()
)
ADDRESS = re.compile(rb"0x[0-9a-f]{5,}")
DIGITS = bytes(53 if 48 <= c < 57 else c for c in range(256))  # all of them but 9 are one


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
        self._looks = 0
        self._waiting: deque[tuple[int, str, list[bytes], frozenset[bytes]]] = deque(maxlen=LAST)

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
            if self._looks < LOOKS:
                self._line(line, words, found)
            elif EALS_WORDS.isdisjoint(found) or URGENT.isdisjoint(found):
                self._waiting.append((self.n, line, words, found))
            else:
                self._catch_up(BEFORE)
                self._line(line, words, found)

    def _catch_up(self, last: int) -> None:
        """Look at the last of the lines that wait, and forget the others."""
        now = self.n
        for n, line, words, found in list(self._waiting)[-last:]:
            self.n = n
            self._line(line, words, found)
        self._waiting.clear()
        self.n = now

    def _line(self, line: str, words: list[bytes], found: frozenset[bytes]) -> None:
        """Take one line, in English."""
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
            template = ADDRESS.sub(b"0x5", template).translate(DIGITS)
        says = self._known.get(template)
        if says is None:
            self._looks += 1
            if len(self._known) >= TEMPLATES:
                self._known.clear()
            says = self._known[template] = line_of(line, words, found)
            if "--" in line or (
                not EALS_WORDS.isdisjoint(found)
                and (says.hits or says.note or not FACT_WORDS.isdisjoint(found))
            ):
                told = bool(says.hits or says.note)
                self.start.facts.add(line, says.note != (POOL_NOTE,), told)
            elif "DPDK" in line and not self.start.facts.release:
                self.start.facts.of_release(line)
        return says

    def told(self) -> list[Told]:
        """Return each problem of the last start that ended, else of the last; causes first."""
        self._catch_up(LAST)
        if self.last_ended and not self.start.ended:
            self.start = self.last_ended
        return Judge(self.start).told()


def _continues(line: str) -> bool:
    return not log.RECORD.search(line)


def read(lines: Iterable[str]) -> list[Told]:
    """(problem, the line that shows it, whether that is certain), each problem once."""
    reading = Reading()
    reading.read(log.lines(lines))
    return reading.told()
