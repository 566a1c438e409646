"""Runs that are ended in the middle: pages, mounts, processes and folders are returned."""

from __future__ import annotations

import fcntl
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conformance import needs, until
from conformance.harness.box import lifeline
from conformance.harness.child import environment
from pyeal import loans

RUN = [sys.executable, "-P", "-m", "conformance", "run", "--target", "pyeal", "-n", "2"]


def below(pid):
    """Processes that descend from this one."""
    found, todo = [], [pid]
    while todo:
        for task in Path(f"/proc/{todo.pop()}/task").glob("*/children"):
            try:
                pids = list(map(int, task.read_text().split()))
            except OSError:
                continue
            found += pids
            todo += pids
    return found


def boxes(pids):
    """Those in a mount namespace with pages that a box reserves."""
    found = []
    for pid in pids:
        try:
            mounts = Path(f"/proc/{pid}/mounts").read_text()
        except OSError:
            continue
        if re.search(r"/run/hugepages/2M hugetlbfs .*min_size=", mounts):
            found.append(pid)
    return found


def folders():
    """Working folders that no living run has locked."""
    for d in (*Path("/dev/shm").glob("pyeal-run-*"), *Path("/tmp").glob("pyeal-run-*")):
        try:
            fd = os.open(d, os.O_RDONLY)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield d
        except BlockingIOError:
            pass
        finally:
            os.close(fd)


@needs(root=True, pages={"2M": 64})
@pytest.mark.timeout(600)
@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_a_run_that_is_ended_leaves_nothing(tmp_path, sign):
    """Processes end with it and with them their mounts; the lease at once, or by the next run."""
    argv = [*lifeline(), *RUN, "--reserve", "2M:8", "--report", tmp_path / "report", "SEG", "MSL"]
    env, before = environment(), set(folders())
    with subprocess.Popen(
        list(map(str, argv)),
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        process_group=0,
    ) as p:
        assert until(lambda: boxes(below(p.pid)) or p.poll() is not None, 100)
        pids = below(p.pid)
        starts = {pid: loans.started(pid) for pid in pids}
        assert [x for x in loans.all_loans() if x[1] and x[1]["pid"] == p.pid and x[2]]
        os.kill(p.pid, sign)
        code = p.wait()
    gone = until(lambda: not [x for x, at in starts.items() if at and loans.started(x) == at])
    next_one = subprocess.run(
        [*map(str, RUN), "--report", str(tmp_path / "next"), "-n", "0", "FBA-001"],
        env=env,
        capture_output=True,
        text=True,
    )

    assert code == (-sign if sign == signal.SIGKILL else 130)
    assert gone, "processes are left"
    assert next_one.returncode == 0, next_one.stdout + next_one.stderr
    assert not [x for x in loans.all_loans() if x[1] and x[1]["pid"] == p.pid]
    assert set(folders()) <= before
