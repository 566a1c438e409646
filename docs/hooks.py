"""What the site shows otherwise than the files: links that leave docs/, and the rows of rules."""

import re
from fnmatch import fnmatchcase
from pathlib import Path

from mkdocs.exceptions import PluginError

from conformance.harness import catalogue

ROOT = Path(__file__).parents[1]
LINK = re.compile(r"\[([^]]*)\]\(\.\./([^)#\s]+)[^)]*\)")
RULE = re.compile(r"^- .*(?:\n  .*)*", re.M)
ROW = re.compile(r"\[([A-Z]+\d?-\d+)\]")
SENTENCE = re.compile(r"(?<=\.)\s+(?=[A-Z`])")


def without_row(text):
    """Return the sentences of a page of rules that name no row, or a row that no test checks."""
    gone = [*catalogue.untested()]
    tested = {i for i in catalogue.rows() if not any(fnmatchcase(i, p) for p in gone)}
    rules = (" ".join(r[2:].split()) for r in RULE.findall(text))
    sentences = [s for r in rules for s in SENTENCE.split(r)]
    named = [(s, ROW.findall(s)) for s in sentences]
    return [s for s, ids in named if not ids or not tested.issuperset(ids)]


def on_config(config, **_):
    """Add the page of each command, which docs/make.py writes, to the tools."""
    tools = next(part["Tools"] for part in config.nav if "Tools" in part)
    pages = sorted((ROOT / "docs/tools").glob("*.md"))
    tools.insert(1, {"By command": [f"tools/{p.name}" for p in pages]})
    return config


def on_page_markdown(markdown, page, **_):
    """Replace links that leave docs/ by the path of the file: the site does not contain it."""
    here = (ROOT / "docs" / page.file.src_path).parent

    def path(m):
        if (here / ".." / m[2]).resolve().is_relative_to(ROOT / "docs"):
            return m[0]
        if not (ROOT / m[2]).exists():
            raise PluginError(f"{page.file.src_path}: no file {m[2]}")
        return f"{m[1]}" if m[2] in m[1] else f"{m[1]} (`{m[2]}`)"

    if page.file.src_path == "rules.md":
        if bad := without_row(markdown):
            raise PluginError(f"rules.md: no row of the catalogue checks {bad}")
        markdown = ROW.sub(lambda m: f"[{m[1]}](catalogue.md#{m[1].lower()})", markdown)
    return LINK.sub(path, markdown)
