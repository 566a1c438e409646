"""Memory that --trace takes: a buffer for each lcore as soon as one trace point is enabled."""

from __future__ import annotations

import ctypes
from errno import EINVAL
from fnmatch import fnmatchcase

from pyeal.cparse import size_of
from pyeal.errors import EalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from pyeal.releases import Release

BUFFER, HEADER = 1 << 20, 64  # bytes; lib/eal/common/eal_common_trace_utils.c, eal_trace.h
# EAL's own, oldest first: a release has the first release.trace_points of them.
POINTS = """
    alarm.cancel alarm.set generic.double generic.float generic.func generic.i16 generic.i32
    generic.i64 generic.i8 generic.int generic.long generic.ptr generic.size_t generic.string
    generic.u16 generic.u32 generic.u64 generic.u8 generic.void intr.disable intr.enable
    intr.register intr.unregister mem.free mem.malloc mem.realloc mem.zmalloc memzone.free
    memzone.lookup memzone.reserve thread.lcore.ready thread.remote.launch
    generic.blob
    service.component.register service.lcore.start service.lcore.state.change service.lcore.stop
    service.map.lcore service.run.begin service.run.end service.run.state.set thread.lcore.running
    thread.lcore.stopped
""".split()


def _values(given: list[str], option: str) -> list[str]:
    return [text.partition("=")[2] for text in given if text.partition("=")[0] == option]


def enables(pattern: str, release: Release) -> bool:
    """Return whether a basic regular expression finds one of EAL's own names. rte_trace_regexp"""
    libc, compiled = ctypes.CDLL(None), ctypes.create_string_buffer(256)  # a regex_t has 64
    if libc.regcomp(compiled, pattern.encode(), 0):
        return False
    names = (f"lib.eal.{name}".encode() for name in POINTS[: release.trace_points])
    found = any(not libc.regexec(compiled, name, 0, None, 0) for name in names)
    libc.regfree(compiled)
    return found


def buffer(given: list[str], release: Release) -> int:
    """Return the bytes of each lcore's buffer, 0 if no trace point is enabled. trace_mem_sz

    given: options as Options.ignored has them.
    """
    if not any(enables(value, release) for value in _values(given, "--trace")):
        return 0
    sizes = [size_of(value) or 0 for value in _values(given, "--trace-bufsz")]
    return ((sizes or [0])[-1] & 0xFFFFFFFF or BUFFER) + HEADER


def uncounted(given: list[str], release: Release) -> list[str]:
    """Return a sentence for each pattern that only an application's trace points can match."""
    return [
        f"--trace={value} names no trace point of EAL itself: if a library of the application "
        "has one, each lcore takes a buffer of the heap (1 MB, or --trace-bufsz)"
        for value in _values(given, "--trace")
        if not buffer(given, release)
    ]


def errors(given: list[str], release: Release) -> Iterator[EalError]:
    """Yield what EAL refuses. eal_trace_bufsz_args_save, eal_trace_mode_args_save"""
    getopt = release.arguments == "getopt"
    for option, word, fits, expected in (
        ("--trace-bufsz", "buffer size", lambda v: bool(size_of(v)), "a size over 0, as 2M"),
        ("--trace-mode", "mode", _is_mode, "overwrite or discard"),
    ):
        for value in _values(given, option):
            if not fits(value):
                text = f"invalid parameters for {option}" if getopt else f"invalid trace {word}"
                sides = {"expected": expected, "found": value, "fix": f"leave out {option}"}
                yield EalError(EINVAL, "options", text, **sides)


def _is_mode(value: str) -> bool:
    return bool(value) and any(fnmatchcase(m, f"{value}*") for m in ("overwrite", "discard"))
