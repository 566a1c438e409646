"""Names that other users choose, through each tool and each form of output."""

from __future__ import annotations

import html.parser
import io
import json
import os
import re
import subprocess
import xml.etree.ElementTree as ET
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest

from conformance.units.recorded import unpack
from pyeal import cli
from pyeal.look.config import config_of
from pyeal.tools import completion

NAMES = {
    "escape": "\x1b[2J\x1b[31m",
    "csi": "\x9b31m",
    "row": "x\n4711  running",
    "return": "x\rok",
    "script": "<img src=x onerror=1>",
    "end": "]]></svg></title></script>",
    "quote": '"\'><b a="',
    "entity": "&amp;&#60;",
    "bidi": "\u202ex\u2066",
    "null": "a\x01\x08b",
    "utf8": "\udcff\udc80",
    "table": "|a|`b`|",
}
ESCAPES = re.compile(r"\x1b\[[0-9;]*m")
TEXTS: tuple[tuple[str, ...], ...] = (
    ("ps", "-a"),
    ("stale", "-a", "-v"),
    ("inspect", "{}"),
    ("inspect", "--elements", "{}"),
    ("map", "{}"),
    ("dump", "{}/config"),
    ("dump", "{}"),
    ("diff", "{}/config", "{}/fbarray_memzone"),
    ("diff", "{}/config", "{}/other"),
    ("explain", "EAL: Cannot init memory {}"),
    ("explain", "EAL: Cannot open '{}': Permission denied"),
    ("inspect", "/nowhere/{}"),
    ("dump", "/nowhere/{}"),
)


@pytest.fixture(params=NAMES)
def hostile(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    """(the name, a runtime directory): prefix, list, zone, heap and queue are called so."""
    name = NAMES[request.param]
    raw = os.fsencode(name)
    old = unpack("22.11", "dynmem", tmp_path)
    c, _, _ = config_of((old / "config").read_bytes())
    ml = next(m for m in c.memsegs if m.memseg_arr.count)
    array = f"fbarray_{ml.memseg_arr.name.decode()}"
    (old / array).rename(old / f"fbarray_{name.replace('/', '_')}")
    ml.memseg_arr.name = raw.replace(b"/", b"_")[:63]
    c.malloc_heaps[0].name = raw[:31]
    c.tailq_head[0].name = raw[:31]
    (old / "config").write_bytes(bytes(c))
    c.malloc_heaps[0].name = b"other" + raw[:20]
    (old / "other").write_bytes(bytes(c))
    zones = bytearray((old / "fbarray_memzone").read_bytes())
    zones[:32] = raw[:31].ljust(32, b"\0")
    (old / "fbarray_memzone").write_bytes(zones)
    (tmp_path / "dpdk").mkdir()
    run = tmp_path / "dpdk" / name.replace("/", "_")
    old.rename(run)
    return name, run


def said(run: Path, name: str, *words: str) -> str:
    """What a command prints; its exit code is of no interest here."""
    full = [w.format(name if "/nowhere" in w or "EAL" in w else run) for w in words]
    env = {"RUNTIME_DIRECTORY": str(run.parent.parent)}
    out = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(out):
        for key, value in env.items():
            patch.setenv(key, value)
        code = cli.main(full)
    assert code in (0, 1) and "Traceback" not in out.getvalue(), out.getvalue()
    return out.getvalue()


def control(text: str) -> list[str]:
    """Characters that a terminal obeys, or that hide or reorder text."""
    return sorted({c for c in text if not c.isprintable() and c != "\n"})


@pytest.mark.parametrize("words", TEXTS, ids=" ".join)
def test_a_terminal_obeys_no_name(hostile: tuple[str, Path], words: tuple[str, ...]) -> None:
    name, run = hostile
    text = said(run, name, *words)

    assert control(text) == [], text
    assert "\n4711  running" not in text


@pytest.mark.parametrize("colour", [False, True])
def test_the_same_with_colours(
    hostile: tuple[str, Path], colour: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left after the colours of the tool itself."""
    from pyeal import tools
    from pyeal.tools import map as maps

    monkeypatch.setattr(tools, "coloured", lambda: colour)
    monkeypatch.setattr(maps, "coloured", lambda: colour)
    name, run = hostile
    for words in TEXTS[:5]:
        text = said(run, name, *words)
        assert control(ESCAPES.sub("", text)) == [], words
        assert "\x1b[2J" not in text and "\n4711  running" not in text


def test_svg_is_well_formed(hostile: tuple[str, Path]) -> None:
    name, run = hostile
    root = ET.fromstring(said(run, name, "map", "--svg", "-", "{}"))
    tags = {e.tag.rpartition("}")[2] for e in root.iter()}

    assert not tags & {"script", "img", "b", "a", "foreignObject"}
    assert not [k for e in root.iter() for k in e.attrib if k.startswith("on")]


class Page(html.parser.HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs


@pytest.mark.parametrize(
    "words", [("map", "--html", "-"), ("inspect", "--html", "-")], ids=" ".join
)
def test_html_runs_no_name(hostile: tuple[str, Path], words: tuple[str, ...]) -> None:
    name, run = hostile
    text = said(run, name, *words, "{}")
    page = Page()
    page.feed(text)
    data = re.search(r"^const D = (.*);$", text, re.M)

    assert data and json.loads(data[1]) and "<" not in data[1]
    assert page.tags.count("script") == 1 and "img" not in page.tags
    assert not [k for k, _ in page.attributes if k.startswith("on")]
    assert control(text.replace("\t", "")) == []


def test_a_tooltip_is_text() -> None:
    """What an attribute gave is decoded once: as HTML, a name in it would be one more time."""
    from pyeal.tools import map as maps

    source = (Path(maps.__file__).parent / "map.html").read_text()
    (show,) = re.findall(r"^const show = .*(?:\n  .*)*", source, re.M)

    assert "innerHTML" not in show and "replaceChildren" in show
    assert "tip.innerHTML" not in source


JSON = ("ps", "-a"), ("stale", "-a"), ("inspect", "{}"), ("map", "{}"), ("dump", "{}/config")


@pytest.mark.parametrize("words", JSON, ids=" ".join)
def test_json_is_json(hostile: tuple[str, Path], words: tuple[str, ...]) -> None:
    name, run = hostile
    text = said(run, name, *words, "--json")

    assert json.loads(text) and control(text) == [] and text.isascii()


def test_prometheus_has_one_sample_a_line(hostile: tuple[str, Path]) -> None:
    name, run = hostile
    text = said(run, name, "inspect", "--prometheus", "{}")
    sample = re.compile(
        r'dpdk_eal_\w+\{(\w+="(\\[\\"n]|[^"\\\n])*",?)*\} -?[\d.]+|# (HELP|TYPE) .*'
    )

    assert [x for x in text.splitlines() if not sample.fullmatch(x)] == []
    assert control(text) == []


def test_completion_offers_no_command(tmp_path: Path) -> None:
    """bash expands $(...) in a list of words, and inserts what it offers as it is."""
    for name in ("fine_1", f"$(touch {tmp_path.name})", "a;b", "`id`"):
        (tmp_path / "dpdk" / name).mkdir(parents=True)
        (tmp_path / "dpdk" / name / "config").touch()
    script = (
        completion.SHELLS["bash"]()
        + """
COMP_CWORD=2
COMP_WORDS=(pyeal stale ''); _pyeal 2>/dev/null; printf '%s\\n' "${COMPREPLY[@]}"
"""
    )
    env = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, env=env, cwd=tmp_path, timeout=20
    )
    offered = done.stdout.split("\n")

    assert "fine_1" in offered
    assert not [x for x in offered if "$" in x or ";" in x or "`" in x]
    assert not (tmp_path / tmp_path.name).exists()


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_markdown_keeps_its_cells(name: str) -> None:
    """Names of hosts and targets in a summary: a cell stays one, without HTML or a link."""
    from conformance.runner.report.pages import cell

    text = cell(name + "![x](http://host)")

    assert control(text + "\n") == [] and "\n" not in text and "<" not in text
    assert not re.search(r"(?<!\\)[|`\[\]]", text)
