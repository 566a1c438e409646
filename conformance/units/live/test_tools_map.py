"""`pyeal map` of living processes: the pages, and what others have where they lie."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import pytest

from conformance import needs


@pytest.mark.parametrize("kind", ["librte_eal:22.11", "pyeal:26.07"])
@needs(pages={"2M": 4})
def test_secondary_lies_over_its_primary(start, join, kind, facts, tool, tmp_path):
    """The secondary maps what the primary uses; nothing of it is in the way."""
    eal = start("-m", "8", target=kind)
    second = join(target=kind)
    got = facts("map", eal.prefix)
    tool("map", eal.prefix, "--svg", tmp_path / "m.svg", "--html", tmp_path / "m.html")
    drawn = tool("map", eal.prefix)
    page = (tmp_path / "m.html").read_text()

    (run,) = got["lists"][0]["runs"]
    assert (run["n"], run["va"], run["seg"]) == (4, eal.segments()[0].addr, 0)
    (over,) = got["overlays"]
    assert over["pid"] == second.pid and over["label"].startswith("secondary ")
    assert over["pages"] == [[run["va"], run["va"] + run["len"]]]
    assert over["foreign"] == []
    assert f"secondary {second.pid}" in drawn and "████" in drawn
    ET.parse(tmp_path / "m.svg")
    assert eal.prefix in page and "src=" not in page and "@import" not in page


@needs(pages={"2M": 2})
def test_what_is_in_the_way_of_a_process_that_would_join(start, facts, tool):
    """Another primary lies at the same addresses: each of its lists is a collision."""
    eal = start("-m", "2", target="librte_eal:24.11")
    other = start("-m", "2", target="pyeal:24.11", prefix=f"{eal.prefix}_o")
    (over,) = facts("map", eal.prefix, "--beside", other.pid)["overlays"]
    drawn = tool("map", eal.prefix, "--beside", other.pid)

    assert over["label"] == f"process {other.pid} python"
    assert not over["pages"] and not over["kept"]
    first = other.segments()[0].addr
    assert [a for a, _, what in over["foreign"] if "map_" in what] == [first]
    assert f"✗ process {other.pid} python: /run/hugepages/2M/{other.prefix}map_0" in drawn
