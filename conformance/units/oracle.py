"""What a real librte_eal says to argument lists: one JSON list a line in, one answer a line out.

    python oracle.py           ->  {"version": "DPDK 22.11.11"}
    ["-m", "64"]               ->  {"accepted": true, "text": "..."}

Each list is tried in a forked child, since EAL keeps what it parsed. A driver that does not exist
stops the accepted ones right after the options, before any memory is touched. With arguments,

    python oracle.py discover -m 64

rte_eal_init runs as far as the hugepage_info file: its limit on address space (2 GiB) makes the
reservation fail that comes next, so that no page is touched.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import json
import os
import resource
import sys
import tempfile

NO_DRIVER = ["-d", "/nonexistent/driver.so"]
STOPPED = "Cannot init plugins"


def find() -> str:
    return ctypes.util.find_library("rte_eal") or "librte_eal.so.23"


def attempt(eal: ctypes.CDLL, args: list[str]) -> dict[str, object]:
    with tempfile.TemporaryFile() as said:
        if (pid := os.fork()) == 0:
            for fd in (0, 1, 2):
                os.dup2(said.fileno(), fd)
            init(eal, NO_DRIVER + args)
            ctypes.CDLL(None).fflush(None)
            os._exit(0)
        _, status = os.waitpid(pid, 0)
        said.seek(0)
        text = said.read().decode(errors="replace")
    return {"accepted": STOPPED in text, "status": status, "text": text}


def init(eal: ctypes.CDLL, args: list[str]) -> int:
    words = [b"oracle", *map(os.fsencode, args)]
    argv = (ctypes.c_char_p * (len(words) + 1))(*words, None)
    return int(eal.rte_eal_init(len(words), argv))


def main() -> None:
    eal = ctypes.CDLL(find())
    if sys.argv[1:]:
        resource.setrlimit(resource.RLIMIT_AS, (2 << 30, 2 << 30))
        init(eal, ["--no-pci", "--no-telemetry", "--log-level=lib.eal:debug", *sys.argv[2:]])
        ctypes.CDLL(None).fflush(None)
        os._exit(0)
    eal.rte_version.restype = ctypes.c_char_p
    print(json.dumps({"version": eal.rte_version().decode()}), flush=True)
    for line in sys.stdin:
        print(json.dumps(attempt(eal, json.loads(line))), flush=True)


if __name__ == "__main__":
    main()
