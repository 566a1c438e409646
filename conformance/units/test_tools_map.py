"""`pyeal map`: the page has all that is drawn, nothing from outside, and no way out of its text."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from conformance import GB, MB
from conformance.harness import recordings
from conformance.units.layouts import ALL, FULL, TWO_NODES
from conformance.units.recorded import facts, pyeal
from pyeal.tools import map as maps
from pyeal.tools import picture, picture_svg

RECORDING = recordings.FOLDER / "24.11-dynmem.zip"
shapes = pytest.mark.parametrize("layout", ALL.values(), ids=ALL)


def overlaid() -> dict[str, Any]:
    """Two processes over it: one follows, the other is in the way."""
    layout = copy.deepcopy(TWO_NODES)
    ml = layout["lists"][2]
    a = ml["base_va"]
    kept = [[m["base_va"], m["base_va"] + m["len"]] for m in layout["lists"]]
    way = [[a + 8 * GB, a + 9 * GB, "/usr/lib/a <b>.so"]]
    return layout | {
        "overlays": [
            {
                "pid": 7,
                "label": "secondary 7 app",
                "pages": [[a, a + 60 * MB]],
                "kept": kept,
                "foreign": [],
            },
            {"pid": 8, "label": "process 8 nginx", "pages": [], "kept": [], "foreign": way},
        ]
    }


def data(page: str) -> Any:
    m = re.search(r"^const D = (.*);$", page, re.M)
    assert m
    return json.loads(m[1])


@shapes
def test_page_holds_every_page_of_memory(layout: dict[str, Any]) -> None:
    page = maps.html(layout)
    d = data(page)

    assert [(ml["name"], ml["count"]) for ml in d["lists"]] == [
        (ml["name"], ml["count"]) for ml in layout["lists"]
    ]
    for ml in d["lists"]:
        assert sum(n for _, n, _, _ in ml["runs"]) == ml["count"]
        for _, n, iovas, flags in ml["runs"]:
            assert sum(k for _, k in iovas) == n == sum(k for _, k in flags)
    assert not re.search(r"https?://(?!www\.w3\.org/)|src=|@import|url\(http", page)
    assert len(page) < 700_000


def test_names_cannot_become_markup() -> None:
    evil = TWO_NODES | {"file_prefix": "</script><script>alert(1)</script>"}
    page = maps.html(evil)

    assert page.count("</script>") == 1 and "<script>alert" not in page
    assert data(page)["title"] == evil["file_prefix"]
    ET.fromstring(picture_svg.svg(evil))


def test_others_lie_over_it() -> None:
    layout = overlaid()
    svg, plain = picture_svg.svg(layout), picture.terminal(layout, 80, colour=False)
    texts = "".join(ET.fromstring(svg).itertext())

    assert "secondary 7 app" in texts and "mapped here, too" in texts
    assert "process 8 nginx: /usr/lib/a <b>.so lies at 0x1380200000" in texts
    assert max(map(len, plain.splitlines())) <= 80
    assert "✗ process 8 nginx" in plain and plain.count("━") == 1
    assert "secondary 7 app: 60M of it mapped" in plain
    assert [o["label"] for o in data(maps.html(layout))["over"]] == [
        "secondary 7 app",
        "process 8 nginx",
    ]


def test_flags_are_drawn_page_by_page() -> None:
    """Pages of one run that differ: dirty ones are seen, also in a mark of several."""
    layout = copy.deepcopy(FULL)
    run = layout["lists"][0]["runs"][0]
    n = run["n"]
    run["flag_runs"] = [{"flags": 0, "n": 9}, {"flags": 2, "n": 1}, {"flags": 0, "n": n - 10}]
    k, seq = picture.cells(layout["lists"][0], 512)
    dirty = [c for c in seq if isinstance(c, picture.Cell) and c.flags & 2]

    assert [(c.seg, c.n) for c in dirty] == [(0, k)]


def test_files_and_terminal(tmp_path: Path) -> None:
    pyeal("map", RECORDING, "--svg", tmp_path / "m.svg", "--html", tmp_path / "m.html")

    ET.parse(tmp_path / "m.svg")
    assert (tmp_path / "m.html").read_text().startswith("<!doctype html>")
    assert pyeal("map", RECORDING, "--svg", "-").startswith("<svg ")
    assert "████" in pyeal("map", RECORDING)
    assert facts("map", RECORDING)["schema"] == "pyeal.map/1"
    pyeal("inspect", RECORDING, "--html", tmp_path / "i.html")
    assert data((tmp_path / "i.html").read_text())["heaps"][0]["size"] == 8 * MB


@pytest.mark.skipif(not shutil.which("chromium"), reason="wanted chromium, found none")
@pytest.mark.parametrize("shape", ["full"])
def test_script_runs_without_a_fault(shape: str, tmp_path: Path) -> None:
    """In a browser: every list has its card, the legend is filled, nothing is thrown."""
    page = maps.html(ALL[shape]).replace(
        "<script>\nconst D",
        "<script>onerror = (m) => document.title = 'FAULT ' + m</script><script>\nconst D",
    )
    (tmp_path / "m.html").write_text(page)
    argv = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--virtual-time-budget=2000"]
    argv += [f"--user-data-dir={tmp_path}/profile", "--dump-dom", f"file://{tmp_path}/m.html"]
    dom = subprocess.run(argv, capture_output=True, text=True, timeout=60).stdout

    assert "<title>FAULT" not in dom
    assert dom.count("<canvas width=") == sum(1 for ml in ALL[shape]["lists"] if ml["count"])
    assert "one square is one page of 2M" in dom
