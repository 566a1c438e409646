"""Other users of hugepages: what they did while a test ran, and whether the test is run again.

A neighbour adds pages to a pool or returns some, or its processes take and give back pages. A test
that failed meanwhile says nothing yet: it is disturbed, and repeated. Processes of this run are no
neighbours; they agree by the ledger (host.py).
"""

from __future__ import annotations

import atexit
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path

from pyeal import records

TRIES = 6  # of one test; each is made only if a neighbour disturbed the one before
NOT_JUDGED = "not judged: other users of hugepages disturbed each try"
RUN, FOLDER = "CONFORM_RUN", "CONFORM_FOLDER"  # of the environment: pid of the run, its own folder


def begin():
    """Say to all processes of this run which run it is, and where its files lie."""
    os.environ.setdefault(RUN, str(os.getpid()))
    own_folder()


def own_folder():
    """A folder that no other user can write, shared by this user's runs if the machine has one."""
    runtime = os.environ.get("XDG_RUNTIME_DIR")
    for base in ["/run"] if root() else [runtime] if runtime else []:
        if private(base) and (at := _made(Path(base, "pyeal"))):
            return at
    if not (at := os.environ.get(FOLDER)) or not private(at):
        at = os.environ[FOLDER] = tempfile.mkdtemp(prefix="pyeal-")
        atexit.register(_remove, at, os.getpid())
    return Path(at)


def root():
    return os.geteuid() == 0


def private(path):
    """Whether this user owns a directory, and no other user can write there."""
    try:
        st = os.lstat(path)
    except OSError:
        return False
    return stat.S_ISDIR(st.st_mode) and st.st_uid == os.geteuid() and not st.st_mode & 0o022


def _made(path):
    try:
        path.mkdir(exist_ok=True)
    except OSError:
        return None
    return path if private(path) and os.access(path, os.W_OK) else None


def _remove(at, pid):
    if os.getpid() == pid:
        shutil.rmtree(at, ignore_errors=True)


# What they do


def holders():
    """Processes of others that have hugepages: {pid: (kB, page faults so far)}."""
    found, ours = {}, int(os.environ.get(RUN) or os.getpid())
    parents = {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            fields = records.process(pid)
            parents[pid] = int(fields[1])
            kb = re.search(r"HugetlbPages:\s+(\d+)", Path(f"/proc/{pid}/status").read_text())
        except OSError:
            continue
        if kb and kb[1] != "0":
            found[pid] = int(kb[1]), int(fields[7])
    return {pid: held for pid, held in found.items() if not _descends(pid, ours, parents)}


def _descends(pid, from_, parents):
    while pid and pid != from_:
        pid = parents.get(pid, 0)
    return pid == from_


class Watch:
    """One try of a test: what was there when it began.

    near: look at other processes from the beginning, which costs a walk through /proc. The first
    try of a test does without: then any process that is there at its end may have disturbed it.
    """

    def __init__(self, pools, near):
        self.pools, self.before = pools(), holders() if near else None
        self._pools = pools

    def changes(self):
        """What neighbours did since, as sentences; {size: pages} that pools grew by."""
        said, grown = [], {}
        now = self._pools()
        for sz in {*self.pools, *now}:
            b, a = self.pools.get(sz), now.get(sz)
            was, found = ((p.total, p.surplus) if p else (0, 0) for p in (b, a))
            if was != found:
                grown[sz] = found[0] - was[0]
                said.append(f"the {sz} pool changed from {was[0]} to {found[0]} pages")
        after = holders()
        changed = (
            after
            if self.before is None
            else {pid for pid in {*after, *self.before} if after.get(pid) != self.before.get(pid)}
        )
        if changed:
            n = len(changed)
            said.append(f"{n} other process{'es' * (n > 1)} used hugepages, as {min(changed)}")
        return said, grown


repeats = True  # a campaign that expects failures repeats them in its own way


class Tries:
    """The tries of one test, and what disturbed them."""

    def __init__(self, pools):
        self.pools, self.said, self.grown = pools, [], []
        self.watch = Watch(pools, near=False)

    def again(self, failed, most=TRIES):
        """Whether to repeat this try: it failed, and a neighbour did something meanwhile."""
        if not failed or not repeats:
            return False
        said, grown = self.watch.changes()
        self.grown.append(grown if len(said) == 1 and grown else None)
        if not said or self._always_the_same():
            self.judged = True
            return False
        self.said.append("; ".join(said))
        self.judged = False
        self.watch = Watch(self.pools, near=True)
        return len(self.said) < most

    judged = True  # the last try says something about the target

    def _always_the_same(self):
        """A pool that grows by the same number in each of three tries: by the test itself."""
        last = self.grown[-3:]
        return len(last) == 3 and last[0] is not None and last[0] == last[1] == last[2]

    def __str__(self):
        n = len(self.said)
        return f"{n} time{'s' * (n > 1)}: {self.said[-1]}"
