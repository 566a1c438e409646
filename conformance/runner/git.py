"""git, as the suite uses it: repositories are only read, builds have clones of their own."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import NamedTuple

SHORT = 10  # digits of a revision that people read


class GitError(Exception):
    """git is missing, or refuses; its words."""


class Commit(NamedTuple):
    sha: str
    date: str  # of the committer, YYYY-MM-DD
    subject: str

    @property
    def short(self):
        return self.sha[:SHORT]

    def __str__(self):
        return f'{self.short} ("{self.subject}", {self.date})'


def git(folder, *argv):
    """Return what git prints. Raises GitError with its last line."""
    if not shutil.which("git"):
        raise GitError("no git: expected the program git. Fix: apt-get install git")
    # another user's repository is only read; what a hook has exported is not about this one
    env = {k: v for k, v in os.environ.items() if not k.startswith("GIT_")}
    done = subprocess.run(
        ["git", "-c", "safe.directory=*", "-C", folder, *argv],
        capture_output=True,
        text=True,
        errors="replace",
        env=env | {"LC_ALL": "C"},
    )
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"git {argv[0]} exits {done.returncode}"]
        raise GitError(said[-1].removeprefix("fatal: "))
    return done.stdout.strip()


def describe(folder):
    """Return the name of a checkout's commit, "+" behind it if files differ; "" if unknown."""
    try:
        return git(folder, "describe", "--always", "--dirty=+")
    except GitError:
        return ""


class Repository:
    """A repository of the user, bare or not. Nothing here writes to it."""

    def __init__(self, path):
        self.path = Path(os.path.abspath(os.path.expanduser(path)))
        if not self.path.is_dir():
            raise GitError(f"no repository {path}: expected a folder. Fix: git clone it first")
        git(self.path, "rev-parse", "--git-dir")

    def commit(self, revision) -> Commit:
        """Return the commit that a revision names: a tag, a branch, a number, HEAD~3."""
        try:
            sha = git(self.path, "rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}")
        except GitError:
            raise GitError(f"{self.path} has no revision {revision}") from None
        date, subject = git(self.path, "log", "-1", "--format=%cs %s", sha, "--").split(" ", 1)
        return Commit(sha, date, subject)

    def parents(self, sha) -> list[str]:
        return git(self.path, "rev-list", "--parents", "-1", sha).split()[1:]

    def merge_base(self, a, b) -> str:
        """Return the commit from which two part, "" if they have none in common."""
        try:
            return git(self.path, "merge-base", a, b)
        except GitError:
            return ""

    def is_ancestor(self, old, new):
        return self.merge_base(old, new) == old

    def between(self, olds, new) -> list[str]:
        """Return the commits from `olds`, without them, to `new`: those that halve them first.

        `new` itself is the last of a list of one alone: with merges this is what git bisect uses.
        """
        lines = git(self.path, "rev-list", "--bisect-all", new, *(f"^{o}" for o in olds))
        return [line.split()[0] for line in lines.splitlines()]

    def check_out(self, sha, folder):
        """Make `folder` a clone of its own with this revision checked out.

        Objects are shared, not copied. A `git worktree` would leave entries in the repository
        that a process which is killed does not remove.
        """
        git(self.path, "clone", "-q", "--shared", "--no-checkout", "--", self.path, folder)
        git(folder, "-c", "advice.detachedHead=false", "checkout", "-q", "--detach", sha)
