"""Problems, and which of them a line matches: found by a word that each of their patterns needs.

A table of a few hundred patterns is tried on a line of a log in some microseconds, because most
lines have no word of most patterns.
"""

from __future__ import annotations

import re
from functools import cache, cached_property

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from collections.abc import Set as AbstractSet


def lowered(pattern: str) -> str:
    """Return a pattern for lines in lower case: without IGNORECASE, re skips to literal text."""
    return re.sub(r"\\.|[A-Z]+", lambda m: m[0] if m[0][0] == "\\" else m[0].lower(), pattern)


CERTAIN, HINT, WRAPPER = 0, 1, 2


class Problem:
    """One problem; id is None for a line that gives no reason, or is not about EAL's memory."""

    def __init__(
        self,
        id: int | None,
        title: str,
        links: str,
        says: tuple[str, ...],
        means: str,
        fix: str,
        reach: str = "",
        harmless: bool = False,
    ) -> None:
        self.harmless = harmless
        self.id, self.title, self.means, self.fix, self.reach = id, title, means, fix, reach
        self.links = tuple(filter(None, links.split(", ")))
        self.says = says

    @cached_property
    def patterns(self) -> list[tuple[int, str]]:
        """Each pattern as (CERTAIN, HINT or WRAPPER, its text for a line in lower case)."""
        levels = {"?": HINT, "~": WRAPPER}
        return [(levels.get(s[0], CERTAIN), lowered(s[s[0] in levels :])) for s in self.says]


Match = tuple[Problem, int, re.Match[str]]  # a problem, CERTAIN, HINT or WRAPPER, where
Entry = tuple[Problem, int, str]

compiled = cache(re.compile)  # a pattern costs 0.3 ms, and most logs need few


class Table:
    """Problems in order, whose patterns are tried only on a line that has words of theirs."""

    def __init__(self, problems: tuple[Problem, ...]) -> None:
        self.order = {p: i for i, p in enumerate(problems)}
        # {word: {words of which one must be there as well, or none: the patterns}}
        self.by_word: dict[bytes, dict[frozenset[bytes], list[Entry]]] = {}
        for p in problems:
            for level, pattern in p.patterns:
                for branch, keys, others in branches(pattern):
                    for word in keys:
                        groups = self.by_word.setdefault(word, {})
                        groups.setdefault(others, []).append((p, level, branch))
        self.others = {  # for words that are too common: what any of their patterns needs
            word: frozenset().union(*groups) for word, groups in self.by_word.items() if all(groups)
        }

    def matches(self, low: str, keys: Iterable[bytes], words: Iterable[bytes]) -> list[Match]:
        """Return each pattern that a line in lower case matches, in the order of the problems.

        keys: words of the line that may be in the index; words: all of them.
        """
        found: list[Match] = []
        tried: set[Entry] = set()
        for word in keys:
            if word not in self.by_word or (
                word in self.others and self.others[word].isdisjoint(words)
            ):
                continue
            for others, group in self.by_word[word].items():
                if not others or not others.isdisjoint(words):
                    for entry in group:
                        if entry not in tried:
                            tried.add(entry)
                            if m := compiled(entry[2]).search(low):
                                found.append((entry[0], entry[1], m))
        if len(found) > 1:
            found.sort(key=lambda f: (self.order[f[0]], f[1]))
        return found


LETTERS = bytes(ord(chr(c).lower()) if c < 128 and chr(c).isalnum() else 32 for c in range(256))
COMMON = frozenset(
    b"""
    a an and any are as at be by can cannot code could do eal error exit exited exiting exits failed
    fail for from get has have in init invalid is it line lock memory name no not of on only open or
    out packet port process set start status table than that the this to unable up use used with
    """.split()
)
TOKEN = re.compile(r"\\.|\[\^?\]?[^\]]*\]|\{[^}]*\}|\(\?(?:[:!=]|<[!=]|P<\w+>)|.", re.S)
ENDINGS = ("", "s", "es", "d", "ed", "ing", "ure")
BOUNDARIES = (r"\b", r"\W", r"\D", r"\s", "^", "$")
EDGES = re.compile(r"\[[^a-zA-Z0-9\\^]+\]|\[\\[sWD][^a-zA-Z0-9]*\]")


def words_of(line: str) -> list[bytes]:
    """Return the ASCII words of a line, lower case."""
    return line.encode("ascii", "replace").translate(LETTERS).split()


def branches(
    pattern: str,
) -> Iterator[tuple[str, frozenset[bytes], frozenset[bytes]]]:
    """Yield each alternative of a pattern, and words of which a line has one if it matches.

    Where those are common words: others, of which it has one as well.
    """
    for branch in _split(TOKEN.findall(pattern)):
        choices = sorted(_choices(branch), key=_rank)
        if not choices:
            raise ValueError(f"no word stands in each line that matches {pattern}")
        keys, *rest = (frozenset(w.encode() for w in ws) for ws in choices)
        others = rest[0] if rest and _rank(choices[0])[0] else frozenset()
        yield "".join(branch), keys, others


def _rank(words: AbstractSet[str]) -> tuple[bool, int, int]:
    """Order sets of words by how seldom a line has one of them."""
    common = any(w.encode() in COMMON or (w.isdigit() and len(w) < 3) for w in words)
    return common, len(words), -min(map(len, words))


def _keys(tokens: list[str]) -> set[str]:
    """Return the best words of each alternative; empty if one has none."""
    found: set[str] = set()
    for branch in _split(tokens):
        choices = list(_choices(branch))
        if not choices:
            return set()
        found |= min(choices, key=_rank)
    return found


def _split(tokens: list[str]) -> list[list[str]]:
    branches: list[list[str]] = [[]]
    depth = 0
    for t in tokens:
        depth += (t[0] == "(") - (t == ")")
        if t == "|" and not depth:
            branches.append([])
        else:
            branches[-1].append(t)
    return branches


def _choices(branch: list[str]) -> Iterator[set[str]]:
    """Yield sets of words of which each match of a branch has one: literal words, and groups."""
    run, i = "", 0
    while i < len(branch):
        t = branch[i]
        after = branch[i + 1] if i + 1 < len(branch) else ""
        if t[0] == "(":
            depth, end = 1, i + 1
            while depth:
                depth += (branch[end][0] == "(") - (branch[end] == ")")
                end += 1
            yield from _whole(run)
            optional = end < len(branch) and branch[end][0] in "?*{"
            if not optional and not t.startswith(("(?!", "(?<")):
                inner = _keys(branch[i + 1 : end - 1])
                if inner:
                    yield inner
            run, i = "\0", end
            continue
        plain = t[-1] if len(t) == 2 and not t[-1].isalnum() else t
        if t in BOUNDARIES or (t[0] == "[" and EDGES.fullmatch(t)):
            run += " "
        elif t[0] == "{" or (t in "*+?" and run.endswith(" ")):
            pass
        elif (after and after[0] in "?*{") or len(plain) > 1 or t in ".?*+":
            yield from _whole(run + "\0")
            run = "\0"
        else:
            run += plain.lower()
        i += 1
    yield from _whole(run)


def _whole(run: str) -> Iterator[set[str]]:
    """Yield each word of literal text that is whole; what may go on at the end, in its forms."""
    words = re.finditer(r"[a-z0-9]+", run)
    for m in words:
        left, right = run[m.start() - 1 : m.start()], run[m.end() : m.end() + 1]
        if left != "\0" and right != "\0" and len(m[0]) > 1:
            yield {m[0]} if right else {m[0] + end for end in ENDINGS}


def closest(matches: Iterable[Match]) -> list[tuple[Problem, int]]:
    """Return (problem, level) of each problem, the surest and closest match first."""
    best: dict[Problem, tuple[int, int]] = {}
    for p, level, m in matches:
        best[p] = min(best.get(p, (9, 0)), (level, m.start() - m.end()))
    return [(p, best[p][0]) for p in sorted(best, key=lambda p: (*best[p], p.id or 0))]
