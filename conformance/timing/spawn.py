"""Starts processes inside a box and times each from its start to its end.

One JSON request a line on stdin: {"argv": [...], "env": {...}, "cpus": [...], "input": ""}; one
answer: {"rc", "wall", "cpu", "waits", "out", "err"}.
"""

import json
import os
import sys
import tempfile
import time


def run(argv, env, cpus, text):
    """Nothing but the process itself runs meanwhile: its output goes to files."""
    home = os.sched_getaffinity(0)
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as out, \
            tempfile.TemporaryFile() as err:  # fmt: skip
        given.write(text.encode())
        given.seek(0)
        files = [(os.POSIX_SPAWN_DUP2, f.fileno(), n) for n, f in enumerate((given, out, err))]
        os.sched_setaffinity(0, cpus or home)
        try:
            begun = time.monotonic()
            pid = os.posix_spawn(argv[0], argv, env, file_actions=files)
            _, status, used = os.wait4(pid, 0)
            wall = time.monotonic() - begun
        finally:
            os.sched_setaffinity(0, home)
        out.seek(0)
        err.seek(0)
        return {
            "rc": os.waitstatus_to_exitcode(status), "wall": wall,
            "cpu": used.ru_utime + used.ru_stime, "waits": used.ru_nvcsw,
            "out": out.read().decode(errors="replace"),
            "err": err.read().decode(errors="replace")[-2000:],
        }  # fmt: skip


def come_first():
    """What is measured goes before others' load, where this user may say so."""
    try:
        os.setsid()  # a group of its own for the scheduler
        with open("/proc/self/autogroup", "w") as f:
            f.write("-20")
    except OSError:
        pass
    try:
        os.setpriority(os.PRIO_PROCESS, 0, -20)
    except OSError:
        pass


come_first()
for line in sys.stdin:
    r = json.loads(line)
    print(json.dumps(run(r["argv"], r["env"], r["cpus"], r["input"])), flush=True)
