"""Add the manual page and the completions to a wheel, as this checkout's commands print them."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

MADE = {
    "share/man/man1/pyeal.1": ("man",),
    "share/bash-completion/completions/pyeal": ("completion", "bash"),
    "share/zsh/site-functions/_pyeal": ("completion", "zsh"),
    "share/fish/vendor_completions.d/pyeal.fish": ("completion", "fish"),
}


class Hook(BuildHookInterface):
    def initialize(self, version, build_data):
        self.folder = tempfile.TemporaryDirectory()
        env = os.environ | {"PYTHONPATH": self.root, "PYTHONDONTWRITEBYTECODE": "1"}
        for i, (where, words) in enumerate(MADE.items()):
            file = Path(self.folder.name, str(i))
            with open(file, "wb") as f:
                argv = [sys.executable, "-P", "-m", "pyeal", *words]
                subprocess.run(argv, env=env, stdout=f, check=True)
            file.chmod(0o644)
            build_data["shared_data"][str(file)] = where

    def finalize(self, version, build_data, artifact_path):
        self.folder.cleanup()
