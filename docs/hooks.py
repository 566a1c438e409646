"""Replace links that leave docs/ by the path of the file: the site does not contain it."""

import re
from pathlib import Path

from mkdocs.exceptions import PluginError

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\[([^]]*)\]\(\.\./([^)#\s]+)[^)]*\)")


def on_page_markdown(markdown, page, **_):
    def path(m):
        if not (ROOT / m[2]).exists():
            raise PluginError(f"{page.file.src_path}: no file {m[2]}")
        return f"{m[1]}" if m[2] in m[1] else f"{m[1]} (`{m[2]}`)"

    return LINK.sub(path, markdown)
