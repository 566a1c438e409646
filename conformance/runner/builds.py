"""Revisions of a source tree as targets: checked out, built by the user's command, kept.

    --source REPO[@REV] --build COMMAND --library PATH

The cache has one folder for each revision and command; the repository is only read:

    builds/KEY/tree/       a clone of its own at the revision, with what the command built in it
    builds/KEY/build.json  written last: a folder without it is no build, and goes
    builds/KEY.lock        held while the command runs, by one process
    builds/KEY.log         what the command printed

How a tree is built is the command's business: /bin/sh runs it in the tree, and a non-zero exit is a
failure.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

from conformance import SUITE
from conformance.harness import library, peers
from conformance.runner.git import Commit, GitError, Repository

SCHEMA = "pyeal.build/1"
LAST_WORDS = 12  # lines of a build that failed
SAID_EVERY = 10  # seconds between two lines of progress
PREFIX = "source:"
ELF64 = {"sections": (0x28, 8), "size": (0x3A, 2), "count": (0x3C, 2), "names": (0x3E, 2)}


class BuildFailed(Exception):
    """The command failed, or left no library; its last words."""


class Build(NamedTuple):
    """A revision that is built."""

    tree: Path
    repository: str
    commit: Commit
    command: str
    seconds: float  # that the command took, when it ran

    def target(self, where):
        """Return the target that `--library` names: a library or folder of one, or a program.

        Raises BuildFailed if the command left none.
        """
        name, at, release = where.rpartition("@")
        if not (at and library.RELEASE.fullmatch(release)):
            name, at, release = where, "", ""
        path = self.tree / name
        try:
            if path.is_dir() or ".so" in path.name:
                return f"librte_eal:{library.find(f'{path}{at}{release}').path}{at}{release}"
        except library.Unusable as e:
            raise BuildFailed(f"{self.commit.short}: {self.command}: {e}") from None
        if not os.access(path, os.X_OK):
            raise BuildFailed(
                f"{self.commit.short}: {self.command} left no {name}: expected a library, a folder "
                "with one, or a program that speaks the protocol. Fix: --library PATH"
            )
        return f"cmd:{path}"

    def facts(self, target):
        """Return what a report says of it."""
        path = target.partition(":")[2].partition("@")[0]
        return {
            "repository": self.repository,
            "revision": self.commit.sha,
            "date": self.commit.date,
            "subject": self.commit.subject,
            "command": self.command,
            "compiler": compiler(path),
        }


class Cache:
    """Builds that are kept, in `folder`; by default in this user's cache."""

    def __init__(self, folder=None, say=None):
        self.folder = Path(folder) if folder else peers.cache() / "builds"
        # rows that start a target as another user read root's builds, as they read its peers
        self.mode = 0o755 if os.geteuid() == 0 else 0o700
        self.folder.mkdir(mode=self.mode, parents=True, exist_ok=True)
        self.made = 0  # builds that were not there
        self.say = say or (lambda text: print(text, file=sys.stderr, flush=True))

    def build(self, repository, revision, command) -> Build:
        """Return a revision built by a command: the one that is kept, or a new one.

        Raises GitError or BuildFailed; what was interrupted or failed is removed.
        """
        repo = Repository(repository)
        commit = repo.commit(revision)
        key = hashlib.sha256(f"{commit.sha}\0{command}".encode()).hexdigest()[:20]
        top = self.folder / key
        self._sweep()
        with locked(self.folder / f"{key}.lock", wait=True):
            if not (done := top / "build.json").exists():
                shutil.rmtree(top, ignore_errors=True)
                try:
                    self._make(repo, commit, command, top)
                except BaseException:
                    shutil.rmtree(top, ignore_errors=True)
                    raise
            seconds = json.loads(done.read_text())["seconds"]
        return Build(top / "tree", str(repo.path), commit, command, seconds)

    def _make(self, repo, commit, command, top):
        top.mkdir(mode=self.mode)
        begun = time.monotonic()
        repo.check_out(commit.sha, top / "tree")
        log = top.with_suffix(".log")
        self.say(f"build {commit}: {command}")
        code = self._run(command, top / "tree", log)
        if code:
            ended = f"exits {code}" if code > 0 else f"is killed by {signal.Signals(-code).name}"
            words = log.read_text(errors="replace").strip().splitlines()[-LAST_WORDS:]
            text = "".join(f"\n  | {line}" for line in words) or "\n  | (it printed nothing)"
            raise BuildFailed(f"{commit.short} does not build: {command!r} {ended}{text}")
        took = round(time.monotonic() - begun, 1)
        self.say(f"build {commit.short}: {took:.0f} s")
        self.made += 1
        record = {"schema": SCHEMA, "revision": commit.sha, "command": command, "seconds": took}
        new = top / "build.json.new"
        new.write_text(json.dumps(record) + "\n")
        new.rename(top / "build.json")

    def _run(self, command, tree, log):
        """Return how the command exits; it and its children end when this process is ended."""
        with open(log, "wb") as out:
            sh = subprocess.Popen(
                ["/bin/sh", "-c", command],
                cwd=tree,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                env=environment(),
                start_new_session=True,
                preexec_fn=die_with_parent,
            )
        said = time.monotonic()
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return sh.wait(max(0, said + SAID_EVERY - time.monotonic()))
                said = time.monotonic()
                last = log.read_bytes()[-400:].decode(errors="replace").strip().splitlines()[-1:]
                self.say(f"  ... {''.join(last)[:100]}")
        finally:
            if sh.returncode is None:
                end_session(sh)

    def _sweep(self):
        """Remove what a process that was killed has left half-made."""
        for lock in self.folder.glob("*.lock"):
            top = lock.with_suffix("")
            if top.exists() and not (top / "build.json").exists():
                with locked(lock) as free:
                    if free and not (top / "build.json").exists():
                        shutil.rmtree(top, ignore_errors=True)


@contextlib.contextmanager
def locked(path, wait=False):
    """Hold a lock file; yields False if another process holds it and wait is not set."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
        else:
            yield True
    finally:
        os.close(fd)


def die_with_parent():
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def end_session(process):
    """End a process and those that it started, and wait for it."""
    for sig, limit in ((signal.SIGTERM, 5), (signal.SIGKILL, None)):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sig)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(limit)
            return


def environment():
    """Return the user's environment: without what the suite has put in front for itself."""
    own = {str(SUITE.parent), str(SUITE.parent.parent)}
    path = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and p not in own]
    env = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    return env | ({"PYTHONPATH": os.pathsep.join(path)} if path else {})


def compiler(path):
    """Return what an ELF file says compiled it (its section .comment), "" if it says nothing."""
    try:
        data = Path(path).read_bytes()
    except OSError:
        return ""
    if data[:5] != b"\x7fELF\x02":
        return ""
    order = "big" if data[5] == 2 else "little"

    def number(at, size):
        return int.from_bytes(data[at : at + size], order)

    table, size, count, names = (number(*ELF64[k]) for k in ("sections", "size", "count", "names"))

    def section(n):
        """(offset of its name, offset, size)"""
        at = table + n * size
        return number(at, 4), number(at + 0x18, 8), number(at + 0x20, 8)

    _, strings, _ = section(names)
    for n in range(count):
        name, offset, length = section(n)
        if data[strings + name :].startswith(b".comment\0") and length:
            said = data[offset : offset + length].decode(errors="replace").split("\0")
            return ", ".join(dict.fromkeys(filter(None, said)))
    return ""


def add_options(p, source="append"):
    """The options of a source tree; `source`: may it be repeated."""
    g = p.add_argument_group("a source tree as target")
    what = {"action": "append", "default": []} if source == "append" else {"required": True}
    g.add_argument(
        "--source",
        metavar="REPO[@REV]" if source == "append" else "REPO",
        help="a git repository that is only read: the revision (default HEAD) is checked out in a "
        "clone of its own, built once by --build, and kept",
        **what,
    )
    g.add_argument("--build", metavar="COMMAND", help="builds the tree in which it runs")
    g.add_argument(
        "--library",
        metavar="PATH",
        help="what the command makes, in the tree: a library, a folder with one, or a program that "
        "speaks the protocol; PATH@20.11.10 as for --target",
    )
    g.add_argument("--cache", type=Path, metavar="DIR", help="where builds are kept")


def split(text):
    """REPO[@REV] -> (REPO, REV); a path that exists has no revision in it."""
    repo, at, revision = text.rpartition("@")
    return (
        (text, "HEAD") if not at or os.path.exists(os.path.expanduser(text)) else (repo, revision)
    )


__all__ = ["PREFIX", "Build", "BuildFailed", "Cache", "GitError", "add_options", "split"]
