"""The commands of `pyeal`, one module each, and what all of them print with.

The core never imports this package. commands.py lists the commands; docs/json.md describes their
JSON.
"""

from __future__ import annotations

import os
import sys

from pyeal.errors import printable as printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import Any

BOLD, DIM, RED, GREEN, YELLOW, CYAN = 1, 2, 31, 32, 33, 36


class UsageError(Exception):
    """Arguments that the command's parser cannot refuse: one line on stderr, exit code 2."""


def text_beside(module: str, name: str) -> str:
    """Return a text that lies beside a module's file, in a folder or in an archive (pyeal.pyz)."""
    path = os.path.join(os.path.dirname(os.path.abspath(module)), name)
    data: bytes = __spec__.loader.get_data(path)  # type: ignore[union-attr]
    return data.decode()


def check_release(name: str | None) -> None:
    """Raise UsageError unless pyeal knows the release that --as names."""
    from pyeal import releases

    try:
        releases.get(name or releases.DEFAULT)
    except ValueError as e:
        raise UsageError(f"--as: {e}") from None


def coloured() -> bool:
    """Return whether to print colours: on a terminal that has them, or if FORCE_COLOR is set.

    NO_COLOR switches them off before all else (no-color.org, force-color.org).
    """
    env = os.environ
    if env.get("NO_COLOR"):
        return False
    return bool(env.get("FORCE_COLOR")) or (sys.stdout.isatty() and env.get("TERM") != "dumb")


def ink(text: str, *sgr: object, colour: bool | None = None) -> str:
    """Return the text in a colour or weight; sgr: BOLD, RED, ... or "38;5;69"."""
    if not text or not (coloured() if colour is None else colour):
        return text
    codes = ";".join(str(code) for code in sgr)  # map is a module here
    return f"\x1b[{codes}m{text}\x1b[0m"


def coloured_word(line: str, colours: dict[str, int]) -> str:
    """Return a line of a table with its last column's word in the colour that it has."""
    if coloured():
        import re

        words = "|".join(re.escape(w) for w in sorted(colours, key=len, reverse=True))
        if m := re.search(rf"(?:  |[A-Z] )({words})(?=:|$)", line):
            line = line[: m.start(1)] + ink(m[1], colours[m[1]]) + line[m.end(1) :]
    return line


def columns(most: int = 160, none: int = 100) -> int:
    """Return $COLUMNS or the width of the terminal, `none` without either.

    shutil has the same, but costs more to import than most commands take.
    """
    word = os.environ.get("COLUMNS", "")
    try:
        n = int(word) if word.isdecimal() else os.get_terminal_size(1).columns
    except OSError:
        n = 0
    return min(n or none, most)


class Progress:
    """Show on a terminal what the command is doing, once that has taken over two seconds."""

    def __init__(self, doing: str, after: float = 2.0) -> None:
        self.doing, self.after, self.shown = doing, after, False

    def __enter__(self) -> None:
        import time

        self.began = time.monotonic()
        self.terminal = sys.stderr.isatty()
        if self.terminal:
            import signal

            self.before = signal.signal(signal.SIGALRM, self._show)
            signal.setitimer(signal.ITIMER_REAL, self.after, 1)

    def _show(self, *_: object) -> None:
        import time

        self.shown = True
        sys.stderr.write(f"\r{self.doing}: {time.monotonic() - self.began:.0f} s ")
        sys.stderr.flush()

    def __exit__(self, *_: object) -> None:
        if self.terminal:
            import signal

            signal.setitimer(signal.ITIMER_REAL, 0)
            signal.signal(signal.SIGALRM, self.before)
        if self.shown:
            sys.stderr.write("\r\x1b[K")


def size(n: int) -> str:
    """Return 64M, 1.5G, 772K: the largest unit, at most one decimal."""
    for shift, unit in ((40, "T"), (30, "G"), (20, "M"), (10, "K")):
        if n >> shift:
            return f"{n / (1 << shift):.1f}".removesuffix(".0") + unit
    return f"{n}B"


def count(n: int, noun: str, nouns: str = "") -> str:
    """Return "1 page" or "8,192 pages"; nouns: a plural other than noun + s."""
    return f"{n:,} {noun if n == 1 else nouns or noun + 's'}"


def age(seconds: float) -> str:
    """Return 12s, 5m, 3h, 4d: the largest unit."""
    for unit, name in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= unit:
            return f"{seconds / unit:.0f}{name}"
    return f"{seconds:.0f}s"


def printable_facts(facts: Any) -> Any:
    """Return facts in which each text is printable: what a command draws for a terminal."""
    if isinstance(facts, str):
        return printable(facts)
    if isinstance(facts, dict):
        return {printable_facts(k): printable_facts(v) for k, v in facts.items()}
    if isinstance(facts, (list, tuple)):
        return type(facts)(printable_facts(x) for x in facts)
    return facts


def table(rows: Iterable[Sequence[str]], right: str = "", fit: bool = False) -> str:
    """Return rows as text; right: the columns to align right, by their names in the first row.

    fit: a row has as many columns as the terminal has room for; the others follow it on lines of
    their own, indented, each after its name. Without a terminal a row is one line.
    """
    rows = [[printable(c) for c in r] for r in rows]
    head = rows[0]
    w = [max(len(r[i]) for r in rows) for i in range(len(head))]
    far = [name in right.split() for name in head]
    width = columns(most=10_000, none=10_000) if fit else 10_000
    fits = next((n for n in range(len(w), 2, -1) if sum(w[:n]) + 2 * (n - 1) <= width), 2)
    lines = []
    for row in rows:
        cells = zip(row[:fits], w, far, strict=False)
        lines.append("  ".join(c.rjust(n) if r else c.ljust(n) for c, n, r in cells).rstrip())
        more = list(zip(head, row, strict=True))[fits:] if row is not head else []
        lines += _filled([f"{name} {c}" for name, c in more if c not in ("", "-")], width)
    return "\n".join(lines)


def _filled(words: list[str], width: int) -> Iterator[str]:
    """Yield lines of a width with as many of the words as fit, indented; a long one is wrapped."""
    import textwrap

    line = ""
    for word in words:
        if line and len(line) + len(word) + 2 <= width:
            line += f"  {word}"
            continue
        if line:
            yield line
        *before, line = textwrap.wrap(
            word, width, initial_indent=" " * 4, subsequent_indent=" " * 6
        )
        yield from before
    if line:
        yield line


def document(name: str, facts: dict[str, object], version: int = 1, indent: int | None = 2) -> str:
    """Return a command's JSON: the schema, then the facts."""
    import json

    return json.dumps({"schema": f"pyeal.{name}/{version}", **facts}, indent=indent)
