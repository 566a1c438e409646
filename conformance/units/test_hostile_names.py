"""Names that other users choose, through each tool and each form of output."""

from __future__ import annotations

import html.parser
import io
import json
import os
import re
import shutil
import subprocess
import sys
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
    ("doctor", "-v", "--", "--file-prefix", "/nowhere/{}"),
    ("doctor", "--", "--huge-dir", "/nowhere/{}", "--no-shconf"),
    ("doctor", "--", "/nowhere/{}"),
    ("plan", "--", "--file-prefix", "/nowhere/{}"),
    ("plan", "--", "--huge-dir", "/nowhere/{}"),
    ("plan", "--", "--socket-mem", "/nowhere/{}"),
    ("lease", "/nowhere/{}", "--", "true"),
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
    assert code in (0, 1, 2) and "Traceback" not in out.getvalue(), out.getvalue()
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


@pytest.mark.parametrize("words", [("inspect", "{}"), ("ps", "-a")], ids=" ".join)
def test_prometheus_has_one_sample_a_line(
    hostile: tuple[str, Path], words: tuple[str, ...]
) -> None:
    name, run = hostile
    text = said(run, name, *words, "--prometheus")
    sample = re.compile(
        r'dpdk_eal_\w+\{(\w+="(\\[\\"n]|[^"\\\n])*",?)*\} -?[\d.]+|# (HELP|TYPE) .*'
    )

    assert [x for x in text.splitlines() if not sample.fullmatch(x)] == []
    assert control(text) == []


def test_the_names_of_processes(capsys: pytest.CaptureFixture[str]) -> None:
    """Of a process that holds a page: doctor, ps and stale show it."""
    name = "\x1b[31m\n4711 ok"
    code = (
        "import ctypes, mmap, sys\n"
        f"ctypes.CDLL(None).prctl(15, {name[:15].encode()!r})\n"
        "m = mmap.mmap(-1, 2 << 20, flags=0x40022)\nm[0] = 1; print('has', flush=True); input()"
    )
    argv = [name, "-c", code, name]
    with subprocess.Popen(
        argv, executable=sys.executable, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as p:
        try:
            if p.stdout is None or p.stdout.readline() != "has\n":
                pytest.skip("wanted 1 free 2M page, found 0")
            for words in ["doctor", "-v", "--", "-m", "999999"], ["ps", "-a"], ["stale", "-a"]:
                capsys.readouterr()
                cli.main(words)
                text = "".join(capsys.readouterr())
                assert control(text) == [] and "\n4711" not in text, text
        finally:
            p.kill()


def test_leases_of_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Empty records, and a record of a mount that no lease makes."""
    from pyeal import loans

    monkeypatch.setattr(loans, "STATE", tmp_path / "state")
    loans.STATE.mkdir()
    for name in NAMES.values():
        (loans.STATE / (name.replace("/", "_") + ".json")).touch()
    mounts = [f"{tmp_path}/x/{NAMES['row']}"]
    loan = {"pid": 1, "lock": True, "took": {"2M": 1}, "mounts": mounts}
    (loans.STATE / "1.json").write_text(json.dumps(loan))
    for words in ["lease", "--show"], ["lease", "--show", "--json"]:
        out = io.StringIO()
        with redirect_stdout(out):
            assert cli.main(words) == 0
        assert control(out.getvalue()) == []
        assert "\n4711" not in out.getvalue()


PREFIXES = "fine_1", "$(touch x)", "a;b", "`id`", "\x1b[31m", "x\n4711", "-rf", "a b", "*", "~root"
COMPLETE = {
    "bash": """
COMP_CWORD=2
COMP_WORDS=(pyeal stale ''); _pyeal 2>/dev/null; printf '%s\\n' "${COMPREPLY[@]}"
""",
    "zsh": """
compadd() { shift; print -l -- "$@" }
setopt extendedglob
_pyeal_prefix
""",
    "fish": "\n__pyeal_prefixes\n",
}


@pytest.mark.parametrize("shell", COMPLETE)
def test_completion_offers_no_command(tmp_path: Path, shell: str) -> None:
    """bash expands $(...) in a list of words, and inserts what it offers as it is."""
    if not shutil.which(shell):
        pytest.skip(f"wanted {shell}, found none")
    for name in PREFIXES:
        (tmp_path / "dpdk" / name).mkdir(parents=True)
        (tmp_path / "dpdk" / name / "config").touch()
    script = completion.SHELLS[shell]()
    if shell == "zsh":  # its functions, without the call at the end
        script = script.rpartition("_pyeal ")[0]
    env = {"PATH": os.environ["PATH"], "XDG_RUNTIME_DIR": str(tmp_path), "HOME": str(tmp_path)}
    done = subprocess.run(
        [shell, "-c", script + COMPLETE[shell]],
        capture_output=True,
        text=True,
        env=env,
        cwd=tmp_path,
        timeout=60,
    )
    offered = done.stdout.split("\n")

    assert "fine_1" in offered, done.stderr
    assert not [x for x in offered if not re.fullmatch(r"([\w][\w.:-]*)?|--?[a-z-]+", x)]
    assert not set(offered) & {"-rf", "4711"}
    assert not (tmp_path / "x").exists()


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_markdown_keeps_its_cells(name: str) -> None:
    """Names of hosts and targets in a summary: a cell stays one, without HTML or a link."""
    from conformance.runner.report.pages import cell

    text = cell(name + "![x](http://host)")

    assert control(text + "\n") == [] and "\n" not in text and "<" not in text
    assert not re.search(r"(?<!\\)[|`\[\]]", text)
