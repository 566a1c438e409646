"""Add manual page and completions to the wheel, generated from the commands' parsers."""

import sys
import tempfile
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class Hook(BuildHookInterface):
    def initialize(self, version, build_data):
        sys.path.insert(0, self.root)
        try:
            from pyeal.tools import completion, man
        finally:
            sys.path.remove(self.root)
        made = {
            "share/man/man1/pyeal.1": man.page(),
            "share/bash-completion/completions/pyeal": completion.bash(),
            "share/zsh/site-functions/_pyeal": completion.zsh(),
            "share/fish/vendor_completions.d/pyeal.fish": completion.fish(),
        }
        self.folder = tempfile.TemporaryDirectory()
        for i, (where, text) in enumerate(made.items()):
            file = Path(self.folder.name, str(i))
            file.write_text(text + "\n", encoding="utf-8")
            file.chmod(0o644)
            build_data["shared_data"][str(file)] = where

    def finalize(self, version, build_data, artifact_path):
        self.folder.cleanup()
