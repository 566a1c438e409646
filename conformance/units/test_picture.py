"""The memory map: nothing lost, nothing wider than asked, for 4 pages and for 32,768."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest

from conformance import MB
from conformance.units.layouts import ALL, EMPTY, FOUR, FULL, HOLES, LEGACY, NO_HUGE, TWO_NODES
from pyeal.tools import picture, picture_svg

shapes = pytest.mark.parametrize("layout", ALL.values(), ids=ALL)


@shapes
def test_svg_is_one_well_formed_self_contained_picture(layout):
    s = picture_svg.svg(layout)
    root = ET.fromstring(s)

    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert "href" not in s and "url(http" not in s
    assert len(s) < 400_000


@shapes
@pytest.mark.parametrize("width", [40, 80, 200])
def test_terminal_keeps_the_width(layout, width):
    plain = picture.terminal(layout, width, colour=False)
    ink = picture.terminal(layout, width, colour=True)

    assert max(map(len, plain.splitlines())) <= width
    assert re.sub(r"\x1b\[[\d;]*m", "", ink) == plain


@shapes
def test_every_list_is_named_in_table_and_svg(layout):
    table, svg = picture.table(layout), picture_svg.svg(layout)

    for ml in layout["lists"]:
        assert ml["name"] in table
        assert f">{ml['name']}<" in svg


def test_every_page_has_a_mark_where_they_are_few():
    text = picture.terminal(FOUR, 80, colour=False)

    assert re.search(r"0x100200000   ████\n +╰─╯╵\n", text)


@pytest.mark.parametrize(("layout", "most"), [(NO_HUGE, 512), (FULL, 512), (LEGACY, 512)])
def test_cells_cover_all_pages_and_stay_few(layout, most):
    ml = layout["lists"][0]
    k, seq = picture.cells(ml, most)
    seq = list(seq)
    got = [c for c in seq if isinstance(c, picture.Cell)]

    assert sum(c.n for c in got) == ml["count"]
    assert sum(c for c in seq if isinstance(c, int)) == ml["n_segs"] - ml["count"]
    assert len(got) <= most and max(c.n for c in got) <= k


def test_iova_runs_of_a_cell():
    ml = TWO_NODES["lists"][2]
    _, seq = picture.cells(ml, 512)
    got = [c for c in seq if isinstance(c, picture.Cell)]

    assert [len(c.iovas) for c in got] == [1] * 40
    assert [c.iovas[0][0] for c in got] == [0] * 9 + [1] + [2] * 22 + [3] * 8


def test_missing_iova_is_said():
    assert "no IOVA" in picture.table(HOLES)
    assert "no IOVA" in picture_svg.svg(HOLES)
    assert "no IOVA" not in picture_svg.svg(FOUR)


def test_layout_without_lists():
    assert "0B in 0 pages" in picture.terminal(EMPTY, 80, colour=False)


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0, "0B"),
        (4096, "4K"),
        (2 * MB, "2M"),
        (3 << 29, "1.5G"),
        (790528, "772K"),
        (1 << 40, "1T"),
    ],
)
def test_sizes(n, text):
    assert picture.size(n) == text
