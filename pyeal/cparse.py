"""Numbers, sizes and lists of cores as C's library and EAL read them.

Each function raises ValueError, or returns None, for a text that EAL refuses.
"""

from __future__ import annotations

from .layout import MAX_LCORE as MAX_LCORE

CPU_SETSIZE = 1024  # glibc's
U64 = (1 << 64) - 1
BLANK, DIGITS = " \t", "0123456789abcdef"


def strto(text: str, base: int = 10) -> tuple[int, str]:
    """Return the number at the start of text, 0 if there is none, and the rest. strtol"""
    s = text.lstrip(" \t\n\v\f\r")
    sign = -1 if s[:1] == "-" else 1
    s = s[1:] if s[:1] in ("-", "+") and s else s
    hexed = s[:2] in ("0x", "0X") and s[2:3] != "" and s[2].lower() in DIGITS
    if base == 0:
        base = 16 if hexed else 8 if s[:1] == "0" else 10
    if base == 16 and hexed:
        s = s[2:]
    digits, n = DIGITS[:base], 0
    while n < len(s) and s[n].lower() in digits:
        n += 1
    return (sign * int(s[: min(n, 999)], base), s[n:]) if n else (0, text)


def atoi(text: str) -> int:
    """Return the number as glibc's atoi does: strtol's, clamped to 64 bits, cut to 32."""
    n = max(-(1 << 63), min(strto(text)[0], (1 << 63) - 1)) & 0xFFFFFFFF
    return n - (1 << 32) if n >> 31 else n


def whole(text: str, base: int = 10) -> int | None:
    """Return strtoull of the whole text, negative numbers wrapped; None if a rest remains."""
    n, rest = strto(text, base)
    return None if not text or rest or abs(n) > U64 else n & U64


def size_of(text: str) -> int | None:
    """Return the bytes of "2M", "1 G", "2048kB"; None without a number. rte_str_to_size"""
    s = text.lstrip()
    n, rest = strto(s, 0)
    if rest == s or s[:1] == "-" or n > U64:
        return None
    rest = rest[1:] if rest[:1] == " " else rest
    return n << 10 * (1 + "kmgtpe".find((rest[:1] or "?").lower())) & U64


def core_mask(text: str) -> list[int]:
    """Return the cores of a hexadecimal mask. rte_eal_parse_coremask"""
    s = text.strip(BLANK)
    s = s[2:] if s[:2] in ("0x", "0X") else s
    mask = 0 if any(c.lower() not in DIGITS for c in s) else int(s or "0", 16)
    if not mask:
        raise ValueError(text)
    return [i for i in range(mask.bit_length()) if mask >> i & 1]


def core_list(text: str) -> list[int]:
    """Return the cores of "0-3,8": a missing number is 0, a falling range is empty.

    eal_parse_service_corelist, rte_eal_parse_corelist
    """
    cores: set[int] = set()
    low, s, more = None, text, True
    while more:
        n, rest = strto(s)
        rest = rest.lstrip(BLANK)
        more = rest != ""
        if not s.strip(BLANK) or not 0 <= n <= 0xFFFF or (more and rest[0] not in "-,"):
            raise ValueError(s)
        if rest[:1] == "-":
            low = n
        else:
            cores.update(range(n if low is None else low, n + 1))
            low = None
        s = rest[1:]
    if not cores:
        raise ValueError(text)
    return sorted(cores)


def argparse_core_list(text: str) -> list[int]:
    """Return the same, but a falling range is turned round. rte_argparse.c: parse_arg_corelist"""
    cores: set[int] = set()
    for part in text.split(","):
        ends = [e.lstrip(BLANK) for e in part.split("-")]
        if len(ends) > 2 or not all(e.isdecimal() and int(e) <= 0xFFFF for e in ends):
            raise ValueError(part)
        low, high = sorted((int(ends[0]), int(ends[-1])))
        cores.update(range(low, min(high + 1, CPU_SETSIZE)))
    if not cores:
        raise ValueError(text)
    return sorted(cores)


def lcore_map(text: str) -> tuple[list[int], list[int]]:
    """Return lcores and CPUs of "<lcores>[@<cpus>],..."; ( ) encloses a group. eal_parse_lcores"""
    lcores: set[int] = set()
    cpus: set[int] = set()
    s = "," + text
    while s:
        ids, s = _core_set(s[1:])
        on, s = _core_set(s[1:]) if s[:1] == "@" else (ids, s)
        if s[:1] not in ("", ",") or max(ids) >= MAX_LCORE:
            raise ValueError(s)
        lcores, cpus = lcores | ids, cpus | on
    return sorted(lcores), sorted(cpus)


def _core_set(text: str) -> tuple[set[int], str]:
    """Return the cores of "3", "2-6" or "(0,2-4)", and the rest. eal_parse_set"""
    ids: set[int] = set()
    s = text.lstrip(BLANK)
    group = s[:1] == "("
    s = s if group else "(" + s
    while s[:1] == "(" or (group and s[:1] == ","):
        low, s = _core(s[1:])
        dash = s[:1] == "-"
        high, s = _core(s[1:]) if dash else (low, s)
        if s[:1] not in ((",", ")") if group else ("", ",") if dash else ("", ",", "@")):
            raise ValueError(s)
        ids.update(range(min(low, high), max(low, high) + 1))
    return ids, s[1:].lstrip(BLANK) if group else s


def _core(s: str) -> tuple[int, str]:
    s = s.lstrip(BLANK)
    n, rest = strto(s)
    if not s[:1].isdecimal() or n >= CPU_SETSIZE:
        raise ValueError(s)
    return n, rest.lstrip(BLANK)
