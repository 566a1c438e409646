"""What a real librte_eal says to argument lists: one JSON list a line in, one answer a line out.

    python oracle.py [PATH]    ->  {"version": "DPDK 22.11.11"}
    ["-m", "64"]               ->  {"accepted": true, "text": "..."}

Each list is tried in a forked child, since EAL keeps what it parsed. A driver that does not exist
stops the accepted ones right after the options, before any memory is touched.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import os
import sys
import tempfile

NO_DRIVER = ["-d", "/nonexistent/driver.so"]
STOPPED = "Cannot init plugins"


def find() -> str | None:
    return ctypes.util.find_library("rte_eal") or next(
        (name for name in ("librte_eal.so.23", "librte_eal.so.26") if _loads(name)), None
    )


def _loads(name: str) -> bool:
    try:
        ctypes.CDLL(name)
    except OSError:
        return False
    return True


def attempt(eal: ctypes.CDLL, args: list[str]) -> dict[str, object]:
    with tempfile.TemporaryFile() as said:
        if (pid := os.fork()) == 0:
            for fd in (0, 1, 2):
                os.dup2(said.fileno(), fd)
            words = [b"oracle", *(os.fsencode(a) for a in (*NO_DRIVER, *args))]
            argv = (ctypes.c_char_p * (len(words) + 1))(*words, None)
            eal.rte_eal_init(len(words), argv)
            ctypes.CDLL(None).fflush(None)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        said.seek(0)
        text = said.read().decode(errors="replace")
    return {"accepted": STOPPED in text, "status": status, "text": text}


def main() -> None:
    eal = ctypes.CDLL(sys.argv[1] if len(sys.argv) > 1 else find())
    eal.rte_version.restype = ctypes.c_char_p
    print(json.dumps({"version": eal.rte_version().decode()}), flush=True)
    for line in sys.stdin:
        print(json.dumps(attempt(eal, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
