"""Find which message of EAL a log line is: its level, function, releases, and what it is about.

messages.txt has each fatal, error and warning message of EAL since 16.11 by the few words that
identify it; ci/messages writes it from DPDK's history.
"""

from __future__ import annotations

import re
from collections import Counter
from functools import cache

from pyeal.tools import text_beside

LEVELS = {
    "F": "FATAL",
    "P": "PANIC",
    "X": "EXIT",
    "C": "CRITICAL",
    "E": "ERR",
    "W": "WARNING",
    "S": "stderr",
    "N": "NOTICE",
    "I": "INFO",
    "D": "DEBUG",
}

# What a message is about: the first that matches "FILE FUNCTION WORDS".
OURS = ("memory", "options", "runtime directory", "channel", "process")
ABOUT: tuple[tuple[str, str], ...] = (
    ("runtime directory", r"runtime dir|runtime_dir|eal_filesystem"),
    ("drivers", r"plugin|dlopen|verify_perms|is_shared_build"),
    ("devices", r"eal_option_device|devargs"),
    ("log", r"eal_parse_log|eal_log"),
    ("CPUs", r"rte_vect_set|lcore|coremask|corelist|core_list|cpuset|cpuflags|thread|_mmu"),
    ("memory", r"eal_check_mem_on_local_socket|rte_extmem"),
    ("process", r"linux/eal\.c (rte_)?(eal_)?config_|proc_type|eal_adjust_config"),
    ("options", r"eal_common_options|argparse/|parse_args|parse_socket_arg|rte_option"),
    ("channel", r"eal_common_proc|malloc_mp"),
    ("devices", r"hotplug|eal_pci|eal_vfio|eal_dev\.c|common_(bus|dev|pci|vdev|uio)|sigbus|module"),
    ("interrupts", r"interrupts|alarm"),
    ("clocks", r"timer|hpet|cycles"),
    ("trace", r"trace"),
    ("services", r"rte_service"),
    ("firmware", r"firmware"),
    ("assertions", r"assert"),
    ("memory", r"mem|malloc|fbarray|hugepage|hugedir|tailq"),
)
# Functions that report for all of EAL: the first that matches the words of the message.
MIXED = ("rte_eal_init", "rte_eal_cleanup", "eal_set_runtime_dir")
TOPICS: tuple[tuple[str, str], ...] = (
    ("runtime directory", r"runtime"),
    ("interrupts", r"interrupt|alarm|pipe"),
    ("clocks", r"tsc|timers|hpet"),
    ("IOVA", r"iova|physical|\bpa\b|\bva\b|kni"),
    ("memory", r"memory|memzone|hugepage|heap|tail"),
    ("channel", r"\bmp\b"),
    ("options", r"command line|parsing|arguments"),
    ("drivers", r"plugins|pmd"),
    ("devices", r"pci|vfio|buses|probe|devices"),
    ("CPUs", r"lcore|affinity|cpu|mmu|thread"),
    ("log", r"log"),
    ("trace", r"trace"),
    ("services", r"service"),
    ("process", r"config|already called|initialization|disabled"),
)
WORD = re.compile(r"(?:/[\w.-]+)+|\b[A-Za-z_]\w*(?:'[a-z]+)?")  # a path is one word
COLOURS = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")
LONGEST = 8192  # characters of a line that are looked at: two paths and a sentence
FUNCTION = re.compile(r"(\w+)\(\)")
EALS = re.compile(r"\b(EAL|ARGPARSE|PANIC|Cause)\b")


class Message:
    """A message of EAL: where it is in the source of the newest release that has it."""

    __slots__ = ("file", "fixed", "function", "level", "since", "until", "words")

    def __init__(self, place: str, row: str) -> None:
        self.file, self.function = place.split(" ")
        level, fixed, self.since, until, *words = row.split(" ")
        self.level, self.fixed, self.words = LEVELS[level], int(fixed), words
        self.until = "" if until == "-" else until

    def __repr__(self) -> str:
        return f"Message({self.level} {self.file}: {self.function}, {' '.join(self.words)})"

    @property
    def about(self) -> str:
        """What it is about, in a word or two: "memory", "devices"."""
        if self.function in MIXED:
            text, table = " ".join(self.words), TOPICS
        else:
            text, table = f"{self.file} {self.function} {' '.join(self.words)}", ABOUT
        return next((name for name, pattern in table if re.search(pattern, text)), "EAL")

    def text(self) -> str:
        """Return where it comes from and what it is about, for a person."""
        releases = f"{self.since} to {self.until}" if self.until else f"since {self.since}"
        about = f"about {self.about}" if self.about in OURS else f"not about memory: {self.about}"
        return f"{self.level} of {self.file}: {self.function}, {releases}; {about}"


@cache
def table() -> dict[str, list[Message]]:
    """Return {the rarest of the words that identify it: messages}."""
    found = []
    place = ""
    for row in text_beside(__file__, "messages.txt").splitlines():
        if row[0] == "=":
            place = row[1:]
        elif row[0] != "#":
            found.append(Message(place, row))
    often = Counter(w for m in found for w in m.words)
    index: dict[str, list[Message]] = {}
    for m in found:
        index.setdefault(min(m.words, key=often.__getitem__), []).append(m)
    return index


def find_all(line: str) -> list[Message]:
    """Return the messages that the line can be, best first; the same words in several functions.

    A message fits if its words are in the line, in order. First come those of the function that
    the line names, of a FATAL line those that are fatal, then those with the most fixed words, then
    the newest.
    """
    line = COLOURS.sub("", line[:LONGEST])
    words = [w.lower() for w in WORD.findall(line)]
    eals = EALS.search(line) is not None
    fits = [
        m
        for w in set(words)
        for m in table().get(w, ())
        if m.fixed <= len(words) and _within(m.words, words) and _enough(m, words, eals)
    ]
    fatal, functions = "FATAL" in line, FUNCTION.findall(line)
    fits.sort(key=lambda m: (m.until or "99", m.level == "ERR"), reverse=True)
    fits.sort(key=lambda m: (fatal and m.level != "FATAL", m.function not in functions, -m.fixed))
    return fits


def find(line: str) -> Message | None:
    """Return the message that the line most probably is, or None."""
    return next(iter(find_all(line)), None)


def _enough(m: Message, words: list[str], eals: bool) -> bool:
    """Whether the message is more than two words, which anybody could print, or EAL's line."""
    if m.fixed == 1:
        return words[:2] == ["eal", *m.words]
    return m.fixed > 2 or eals


def _within(key: list[str], words: list[str]) -> bool:
    rest = iter(words)
    return all(w in rest for w in key)
