"""Starts processes inside a box and times each from its start to its end.

One JSON request a line on stdin: {"argv": [...], "env": {...}, "cpus": [...], "input": ""}; one
answer: {"rc", "wall", "cpu", "waits", "out", "err"}.
"""

import json
import os
import sys
import tempfile
import time


def run(argv, env, cpus, text, files):
    """Nothing but the process itself runs meanwhile: its input and output are files."""
    home = os.sched_getaffinity(0)
    for f in files:
        f.truncate(0)
        f.seek(0)
    files[0].write(text.encode())
    files[0].seek(0)
    os.sched_setaffinity(0, cpus or home)
    try:
        begun = time.monotonic()
        given = [(os.POSIX_SPAWN_DUP2, f.fileno(), n) for n, f in enumerate(files)]
        pid = os.posix_spawn(argv[0], argv, env, file_actions=given)
        _, status, used = os.wait4(pid, 0)
        wall = time.monotonic() - begun
    finally:
        os.sched_setaffinity(0, home)
    for f in files:
        f.seek(0)
    out, err = (f.read().decode(errors="replace") for f in files[1:])
    return {
        "rc": os.waitstatus_to_exitcode(status),
        "wall": wall,
        "cpu": used.ru_utime + used.ru_stime,
        "waits": used.ru_nvcsw,
        "out": out,
        "err": err[-2000:],
    }


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
streams = [tempfile.TemporaryFile() for _ in range(3)]  # once: deleted ones cost, rig.py: _spread
for line in sys.stdin:
    r = json.loads(line)
    print(json.dumps(run(r["argv"], r["env"], r["cpus"], r["input"], streams)), flush=True)
