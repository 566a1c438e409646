"""The loop of a conformance target: JSON lines in, JSON lines out. conformance/PROTOCOL.md

It imports nothing of pyeal and runs on Python 3.9 and later: Debian 11's own Python serves that
release's librte_eal, with this file on its path.
"""

from __future__ import annotations

import ctypes
import errno
import json
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

PROT_NONE, MAP_PRIVATE_ANONYMOUS, MAP_FIXED_NOREPLACE = 0, 0x22, 0x100000


class Process:
    """Verbs that need no EAL, only its process."""

    def peek(self, va: int, n: int) -> str:
        return ctypes.string_at(va, n).hex()

    def poke(self, va: int, hex: str) -> None:
        ctypes.memmove(va, bytes.fromhex(hex), len(hex) // 2)

    def block(self, va: int, len: int) -> int:
        """Reserves addresses, so that EAL finds them in use."""
        mmap = ctypes.CDLL(None, use_errno=True).mmap
        mmap.restype = ctypes.c_void_p
        mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
        got = mmap(va, len, PROT_NONE, MAP_PRIVATE_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0)
        if got != va:
            no = ctypes.get_errno()
            raise OSError(no, f"mmap of {len} bytes at {va:#x}: {os.strerror(no)}")
        return va


def verbs(target: object) -> list[str]:
    """Returns the names of the target's public methods."""
    return [v for v in dir(target) if v[0] != "_" and callable(getattr(target, v))]


def serve(target: Any) -> None:
    """Replies to requests until the end of input, then cleans up.

    `target.target` and `target.release` are its names. An exception with an errno is the refusal
    of a request; any other is a fault of the target, and its reply has errno null.
    """
    replies = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # EAL prints its usage on stdout
    can = verbs(target)
    up = False

    def reply(word: str, value: object) -> None:
        replies.write(json.dumps({word: value}) + "\n")

    reply(
        "hello",
        {
            "target": target.target,
            "release": target.release,
            "pid": os.getpid(),
            "can": can,
        },
    )
    for line in sys.stdin:
        request = json.loads(line)
        verb = request.pop("verb")
        try:
            if verb not in can:
                raise OSError(errno.ENOSYS, f"no verb {verb}")
            reply("ok", getattr(target, verb)(**request))
            up = verb in ("init", "observe") or (up and verb != "cleanup")
        except Exception as e:
            no = getattr(e, "errno", None)
            reply(
                "error",
                {
                    "errno": no,
                    "stage": getattr(e, "stage", verb),
                    "text": f"{type(e).__name__}: {e}" if no is None else str(e),
                },
            )
    if up:
        target.cleanup()
