"""Read DPDK's source at any release from a clone with its tags, bare or not."""

import re
import subprocess

TAG = re.compile(r"v(\d\d)\.(\d\d)(?:\.(\d+))?(?:-rc(\d+))?")


class Repository:
    """The files of a git repository at any revision, read by one `git cat-file --batch`."""

    def __init__(self, path):
        self.git = ["git", "-C", path]
        self.batch = subprocess.Popen(
            [*self.git, "cat-file", "--batch"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )

    def run(self, *arguments):
        return subprocess.run(
            [*self.git, *arguments], check=True, capture_output=True, text=True
        ).stdout

    def read(self, revision, path):
        """Return the text of the file, or None if the revision has no such file."""
        self.batch.stdin.write(f"{revision}:{path}\n".encode())
        self.batch.stdin.flush()
        words = self.batch.stdout.readline().split()
        if words[-1] == b"missing":
            return None
        return self.batch.stdout.read(int(words[2]) + 1).decode("utf-8", "replace")

    def tags(self, first, candidates=False):
        """Return the tags of releases from (year, month) on, each behind its candidates."""
        found = []
        for name in self.run("tag").split():
            if m := TAG.fullmatch(name):
                year, month, minor, rc = (int(g) if g else None for g in m.groups())
                if (year, month) >= first and (rc is None or candidates):
                    found.append(((year, month, minor or 0, rc or 99), name))
        return [name for _, name in sorted(found)]
