"""The table of releases: lines, minor releases, version words."""

import pytest

from pyeal import releases


def test_a_release_is_found_by_name_line_and_word():
    for name, r in releases.RELEASES.items():
        assert releases.get(name) is releases.get(r.line) is r
        assert releases.by_word(r.word).name == name
    assert releases.get("22.11.11").word == 0x160B0B63


@pytest.mark.parametrize(
    ("before", "since"),
    [("23.11.6", "23.11.7"), ("24.11.4", "24.11.5"), ("25.11.0", "25.11.1"), ("22.11.99", "26.07")],
)
def test_a_minor_release_lacks_what_came_after_it(before, since):
    """Shadow arrays got a time stamp in their names as a fix, line by line."""
    old, new = releases.get(before), releases.get(since)

    assert (old.shadow_suffix, new.shadow_suffix) == ("{pid}", "{pid}_{tsc:x}")
    assert old.family == releases.get(old.line).family


@pytest.mark.parametrize("name", ["19.11", "22.12", "22.11.x", "22.11.1.1", ""])
def test_an_unknown_release_names_the_known_ones(name):
    with pytest.raises(ValueError, match=r"not known; known: 20\.11\.10, .*26\.07"):
        releases.get(name)
