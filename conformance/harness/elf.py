"""Write core files as the kernel does: ELF headers, notes and memory (linux/binfmt_elf.c)."""

from __future__ import annotations

from itertools import count
from struct import pack

PAGE = 4096
MACHINES = {"x86_64": 62, "aarch64": 183}


def note(kind, content):
    """Return a note of "CORE"."""
    head = pack("<III", 5, len(content), kind) + b"CORE\0\0\0\0"
    return head + content + bytes(-len(content) % 4)


def mapped(files):
    """Return the content of NT_FILE; files: (start, end, path)."""
    rows = b"".join(pack("<QQQ", start, end, 0) for start, end, _ in files)
    return pack("<QQ", len(files), PAGE) + rows + b"".join(p.encode() + b"\0" for *_, p in files)


def write(path, segments, files=(), *, machine="x86_64", pid=4711, command="app", signal=6):
    """Write a core file and return its path.

    segments: (address, content, length); zeros of the content become holes, and memory behind the
    content, up to the length, is not in the core.
    """
    process = bytes(24) + pack("<i", pid) + bytes(12) + command.encode().ljust(16, b"\0")
    notes = note(3, process + f"{command} -l 0".encode().ljust(80, b"\0"))
    notes += note(0x53494749, pack("<i", signal).ljust(128, b"\0"))
    if files:
        notes += note(0x46494C45, mapped(files))
    n = len(segments) + 1
    at = 64 + 56 * n
    heads = [pack("<IIQQQQQQ", 4, 0, at, 0, 0, len(notes), 0, 4)]
    offset = at + len(notes) + -(at + len(notes)) % PAGE
    places = []
    for va, content, length in segments:
        heads.append(pack("<IIQQQQQQ", 1, 6, offset, va, 0, len(content), length, PAGE))
        places.append(offset)
        offset += len(content) + -len(content) % PAGE
    ident = b"\x7fELF\2\1\1".ljust(16, b"\0")
    first = pack("<HHIQQQIHHHHHH", 4, MACHINES[machine], 1, 0, 64, 0, 0, 64, 56, n, 0, 0, 0)
    with open(path, "wb") as f:
        f.write(ident + first + b"".join(heads) + notes)
        for (_, content, _), place in zip(segments, places, strict=True):
            for i in count(0, 1 << 20):
                if not (part := bytes(content[i : i + (1 << 20)])):
                    break
                if part.count(0) != len(part):
                    f.seek(place + i)
                    f.write(part)
        f.truncate(offset)
    return path
