"""A release that the table does not know: read as the nearest older one, and each tool says so."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from conformance.units.fake_view import case_beside
from conformance.units.recorded import facts, pyeal, unpack
from pyeal import attached, layout, releases
from pyeal.errors import EalError
from pyeal.look.config import config_of
from pyeal.tools.doctor import primary

NAME, NOTE = "25.11.3-rc1", "25.11.3-rc1: not known, read as 25.11.3"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The runtime directory of a primary of 25.11, whose version word is a candidate's."""
    run = unpack("25.11", "dynmem", tmp_path)
    with open(run / "config", "r+b") as f:
        f.seek(4)
        f.write(releases.word_of(NAME).to_bytes(4, "little"))
    return run


@pytest.mark.parametrize(("tool", "file"), [("inspect", ""), ("map", ""), ("dump", "config")])
def test_a_tool_says_what_it_reads_it_as(tool: str, file: str, run: Path) -> None:
    assert NOTE in pyeal(tool, run / file)
    assert facts(tool, run / file)["release"] == NAME


@pytest.mark.parametrize(
    ("name", "queue", "read_as"),
    [
        ("23.11.0-rc1", "25.11", "23.11"),
        ("22.11.200", "25.11", "23.11"),  # a fork that took over the layout of a later release
        ("26.07.0-rc1", "25.11", "26.03"),  # a candidate from before the layout changed
        ("23.11.0-rc0", "22.11", "23.07"),
    ],
    ids=["own", "fork", "queues", "before"],
)
def test_the_layout_is_that_of_the_bytes(
    name: str, queue: str, read_as: str, tmp_path: Path
) -> None:
    """The zones' array and the tail queues have their names where a release has them."""
    data = bytearray((unpack(queue, "dynmem", tmp_path) / "config").read_bytes())
    data[4:8] = releases.word_of(name).to_bytes(4, "little")
    written = layout.config(releases.get(queue).family).from_buffer(data)
    written.tailq_head[0].name = b"VFIO_RESOURCE_LIST"

    c, release, _ = config_of(bytes(data))

    assert release.note == f"{name}: not known, read as {read_as}"
    assert (c.memzones.name, c.tailq_head[0].name) == (b"memzone", b"VFIO_RESOURCE_LIST")
    assert [m.len for m in c.memsegs] == [m.len for m in written.memsegs]


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A complete config of a candidate, as far as its first two words."""
    words = layout.MAGIC, releases.word_of(NAME)
    (tmp_path / "rte").mkdir(mode=0o700)
    config = tmp_path / "rte/config"
    config.write_bytes(b"".join(w.to_bytes(4, "little") for w in words))
    return str(config)


def test_a_secondary_refuses_it_and_names_the_way(path: str) -> None:
    with pytest.raises(EalError, match=f"found {NOTE} in ") as caught:
        attached.find_release(path, 0, None)

    assert (caught.value.stage, caught.value.reason) == ("config", "version")
    assert caught.value.fix == f"--as {NAME} attaches to it"


def test_a_secondary_that_names_it_follows_it(path: str) -> None:
    found = attached.find_release(path, 0, releases.get(NAME))

    assert (found.name, found.read_as, found.family) == (NAME, "25.11.3", "B")


def test_doctor_says_what_the_primary_is_read_as() -> None:
    word = releases.word_of(NAME)
    case = case_beside(word=word, c=True, release=releases.nearest(word), modified=0)
    said = [f.text for f in itertools.islice(primary.check(case), 2)]

    assert said[0].startswith(f"primary of {NAME} ({NOTE}), ")
    assert said[1] == f"a secondary must be exactly {NAME}, and name it: --as {NAME}"
