r"""Read the lines of a log, whatever it was copied through, in bounded memory.

A log comes coloured, as JSON of a container or of journald, quoted, wrapped and encoded by mail,
with prefixes, with NUL, CRLF and bytes that are not UTF-8, with errors in another language. The
lines that come out have none of that, and no character that moves a terminal's cursor.
"""

from __future__ import annotations

import re
from functools import cache

from pyeal.tools import text_beside

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import Any, BinaryIO

CHUNK = 1 << 20
SCREENS = (60, 72, 80, 100, 120, 132, 160)  # characters in a line of a screen
LONGEST = 8192  # characters of a line that are kept

ESCAPES = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|\x1b[ -/]*[0-~]?"
    r"|(?:\^\[|#033|\\x1b|\\u001b|\\033|\\e)\[[0-9;]*[A-Za-z]|\[(?:[01];)?(?:[39][0-7]|[01])m(?=\S)|\[0?m$",
    re.I | re.M,
)
ESCAPED = ("\x1b", "\x9b", "[0m", "[m", "^[[", "#033", r"\x1b", r"\u001b", r"\033", r"\e[")
SOFT_BREAK = re.compile(r"=\r?\n(?:(?:> ?)+(?=\S))?")
CONTROLS = dict.fromkeys((*range(9), *range(11, 32), *range(127, 160))) | {
    0xA0: " ",
    0x2018: "'",
    0x2019: "'",
    0x201C: '"',
    0x201D: '"',
    0x200B: None,
    0xFEFF: None,
    **dict.fromkeys((*range(0x200E, 0x2010), *range(0x202A, 0x202F), *range(0x2066, 0x206A))),
}
QUOTED = re.compile(r"^(?:[>|] ?)+", re.M)
CRI = re.compile(r"^\S+Z? std(?:out|err) ([FP]) (.*)")
MARKED = re.compile(r"[\[&#\\]|^[>|]")  # what a line needs that was quoted, coloured or encoded
KEYS = ("log", "MESSAGE", "message", "msg", "text", "line", "body", "content")
MESSAGE_FIRST = re.compile(r'\{ ?"log" ?: ?"((?:[^"\\]|\\.)*)"')
BROKEN_JSON = re.compile(r'"(?:log|MESSAGE|message|msg)"\s*:\s*"((?:[^"\\]|\\.)*)')
ENTITIES = {
    "&#39;": "'",
    "&#x27;": "'",
    "&apos;": "'",
    "&quot;": '"',
    "&lt;": "<",
    "&gt;": ">",
    "&nbsp;": " ",
    "&amp;": "&",
}

# A line with one of these begins a record; one without may continue the line before.
RECORD = re.compile(
    r"^\W*(?:EAL\b|PANIC\b|Cause\b|[\w./-]+(?:\[\d+\])?: |\d{4}-\d\d|[A-Z][a-z]{2} +\d+ \d\d:"
    r"|[\[{]|\d\d:\d\d:\d\d)"
)

DATED = re.compile(r"\W*(?:\d{4}[-/]\d\d|[A-Z][a-z]{2} +\d+ \d\d:|\d\d:\d\d:\d\d)")
HEAD = re.compile(r"(?<![^\s:;,.('\"`\u2018\u201c\uff1a\uff08])\S..")
CUT = re.compile(r"(?:\.\.\.|…|[>$])?$")
FULL = (
    "Permission denied",
    "Operation not permitted",
    "Cannot allocate memory",
    "Invalid argument",
    "No such file or directory",
    "Too many open files",
    "No space left on device",
    "Read-only file system",
    "Connection refused",
    "File name too long",
    "Device or resource busy",
    "Cannot get hugepage information",
    "Cannot init memory",
    "Cannot init config",
)


@cache
def languages() -> dict[str, list[tuple[str, str]]]:
    """Return C's error words in other languages by their first three characters, longest first.

    languages.txt, which ci/languages writes, has them: what C libraries of 37 languages print.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    words = ""
    for row in text_beside(__file__, "languages.txt").splitlines():
        if row[0] == "=":
            words = row[1:]
        elif row[0] != "#":
            text = row.translate(CONTROLS)
            found.setdefault(text[:3], []).append((text, words))
    for phrases in found.values():
        phrases.sort(key=lambda p: -len(p[0]))
    return found


@cache
def foreign_words() -> frozenset[bytes]:
    """Return a word of each phrase that is ASCII: a line with it may be foreign.

    The longest that no English phrase has.
    """
    phrases = [p for found in languages().values() for p in found if p[0].isascii()]
    ours = {w for _, words in phrases for w in words.lower().split()} | {"error", "operation"}
    return frozenset(
        max(re.findall(r"[a-z]+", text.lower()), key=lambda w: (w not in ours, len(w))).encode()
        for text, _ in phrases
    )


def english(line: str) -> str:
    """Return the line with C's error words in English."""
    known = languages()
    heads = HEAD.findall(line)
    if known.keys().isdisjoint(heads):
        return line
    for head in heads:
        for text, words in known.get(head, ()):
            line = line.replace(text, words)
    return line


def completed(line: str) -> str:
    """Return the line with its last words as EAL has them, if the line was cut within them."""
    text = CUT.sub("", line).rstrip()
    for words in (w for w in FULL if w[:10] in text):
        for n in range(len(words) - 1, 9, -1):
            if text.endswith(words[:n]) and text[:-n][-2:] in (": ", ""):
                return text[:-n] + words
    return line


def lines(stream: BinaryIO | Iterable[str]) -> Iterator[str]:
    """Yield the lines of a binary stream, or of a list, as an EAL printed them."""
    partial = cut = ""
    pieces, width = 0, LONGEST
    for text in _chunks(stream):
        for line in _plain(text).split("\n"):
            line = line[:LONGEST]
            if cut:
                cut += line if len(cut) % width == 0 else f" {line}"
                pieces += 1
                if line[-1:] != "}" and pieces < 4:
                    continue
                line, cut = cut, ""
            elif line[:1] == "{" and line[-1:] != "}" and '":' in line:
                cut, pieces = line, 1  # mail wrapped it at a space, or a screen at its width
                width = len(line) if len(line) in SCREENS else LONGEST
                continue
            if '"' in line and (found := _json(line)) is not None:
                whole = found.endswith("\n") or '"log"' not in line
                partial += found
            elif " std" in line and (m := CRI.match(line)):
                whole = m[1] == "F"
                partial += m[2]
            else:
                if partial:
                    yield from _split(partial)
                    partial = ""
                yield line.rstrip()
                continue
            if whole or len(partial) > LONGEST:
                yield from _split(partial[:LONGEST])
                partial = ""
    if cut and (found := _json(cut)) is not None:
        partial += found
    if partial:
        yield from _split(partial)


def _chunks(stream: BinaryIO | Iterable[str]) -> Iterator[str]:
    """Yield text that ends at the end of a line."""
    read: Any = getattr(stream, "read", None)
    if read is None:
        yield "\n".join(stream)  # type: ignore[arg-type]
        return
    rest = b""
    while data := read(CHUNK):
        if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
            data = data.replace(b"\0", b"")[2:]
        head, newline, tail = data.rpartition(b"\n")
        if newline and not head.endswith((b"=", b"=\r")):
            yield (rest + head).decode("utf-8", "replace")
            rest = tail[:LONGEST]
        elif len(rest) < CHUNK:
            rest += data
    if rest:
        yield rest.decode("utf-8", "replace")


def _plain(text: str) -> str:
    """Return text without escape sequences, quotes of mail, encodings, control characters."""
    if "=\n" in text or "=\r\n" in text or "=3D" in text:
        text = SOFT_BREAK.sub("", text).replace("=3D", "=").replace("=20\n", "\n")
        text = text.replace("=E2=80=98", "'").replace("=E2=80=99", "'").replace("=C2=A0", " ")
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if any(mark in text for mark in ESCAPED):
        text = ESCAPES.sub("", text)
    if "#012" in text:
        text = text.replace("#012", "\n").replace("#015", "").replace("#011", " ")
    if "&" in text:
        for name, character in ENTITIES.items():
            text = text.replace(name, character)
    if not text.isascii() or not text.replace("\n", "").isprintable():
        text = text.translate(CONTROLS).replace("\t", " ")
    if text[:1] in ">|" or "\n>" in text or "\n|" in text:
        text = QUOTED.sub("", text)
    return text


def _json(line: str) -> str | None:
    """Return the message of a line that is, or contains, a JSON object; None for others."""
    start = line.find('{"')
    if start < 0:
        start = line.find('{ "')
    if start < 0:
        m = BROKEN_JSON.search(line)
        return _unescaped(m[1]) if m else None
    if m := MESSAGE_FIRST.match(line, start):
        return _unescaped(m[1])
    try:
        found, _ = decoder()(line, start)
    except (ValueError, RecursionError):
        m = BROKEN_JSON.search(line)
        return _unescaped(m[1]) if m else None
    for key in KEYS:
        value = found.get(key)
        if isinstance(value, str):
            return value
        if isinstance(value, list) and all(isinstance(b, int) and 0 <= b < 256 for b in value):
            return bytes(value).decode("utf-8", "replace")  # journald's form of a coloured line
    return None


@cache
def decoder() -> Callable[[str, int], tuple[Any, int]]:
    """Return what decodes a JSON value in a string."""
    import json

    return json.JSONDecoder(strict=False).raw_decode


def _unescaped(text: str) -> str:
    """Return the text of a JSON string, broken or not."""
    if "\\" not in text:
        return text
    if text.endswith("\\n") and text.count("\\") == 1:
        return text[:-2] + "\n"
    try:
        return str(decoder()(f'"{text}"', 0)[0])
    except ValueError:
        return text.replace("\\n", "\n").replace('\\"', '"').replace("\\u001b", "\x1b")


def _split(text: str) -> Iterator[str]:
    line = text.removesuffix("\n")
    if line.isascii() and line.isprintable() and not MARKED.search(line):
        if line:
            yield line.rstrip()
        return
    for line in _plain(text).split("\n"):
        if line:
            yield line.rstrip()
