"""A repository that a test makes: a source tree whose revisions are targets."""

from __future__ import annotations

from pathlib import Path

from conformance.runner import git


class Tree:
    """A repository with one file, `number`, that each commit changes."""

    def __init__(self, path: Path):
        self.path = path
        git.git(path.parent, "init", "-q", "-b", "main", path)

    def commit(self, subject: str, **files: str) -> str:
        for name, text in ({"number": subject} | files).items():
            (self.path / name).write_text(text)
        who = ["-c", "user.name=T", "-c", "user.email=t@example.org"]
        git.git(self.path, "add", "-A")
        git.git(self.path, *who, "commit", "-q", "-m", subject)
        return git.git(self.path, "rev-parse", "HEAD")

    def everything(self) -> dict[str, bytes]:
        """Every file of the repository, its own ones included."""
        found = (p for p in sorted(self.path.rglob("*")) if p.is_file())
        return {str(p.relative_to(self.path)): p.read_bytes() for p in found}
