"""Copies of config and hugepage_info that are short, damaged, or of no known release."""

from __future__ import annotations

import ctypes
import os
from errno import EACCES, EPERM
from pathlib import Path

import pytest

from conformance import MB
from pyeal import attached, hugepages, layout, releases
from pyeal.errors import EalError

RELEASE = releases.get("22.11.11")
NODES = RELEASE.numa_nodes_max
RECORD = ctypes.sizeof(layout.hugepage_info(NODES))


def words(magic: int, version: int) -> bytes:
    return magic.to_bytes(4, "little") + version.to_bytes(4, "little")


def test_the_first_two_words_are_enough_to_know_the_release() -> None:
    copy = attached.Copy(words(layout.MAGIC, RELEASE.word))

    assert (copy.complete, copy.release, copy.c) == (True, RELEASE, None)


def test_a_whole_copy_has_the_structure() -> None:
    data = words(0, RELEASE.word).ljust(layout.CONFIG_SIZE, b"\0")
    copy = attached.Copy(data)

    assert not copy.complete
    assert copy.c.version == RELEASE.word


@pytest.mark.parametrize("data", [b"", b"\1", words(layout.MAGIC, 0xFFFFFFFF)])
def test_no_release_is_no_error(data: bytes) -> None:
    copy = attached.Copy(data)

    assert (copy.release, copy.c) == (None, None)
    assert copy.unknown


def test_a_pipe_called_config_is_refused_without_a_wait(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config")
    with pytest.raises(OSError) as e:
        attached.read(str(tmp_path / "config"))

    assert e.value.errno == EPERM


def test_a_missing_config_names_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "dpdk/x").mkdir(parents=True)
    with pytest.raises(EalError, match="Fix: start a primary") as e:
        attached.find_release(str(tmp_path / "dpdk/x/config"), 0, None)

    assert (e.value.errno, e.value.reason) == (0, "no-primary")


def test_an_incomplete_config_costs_the_timeout(tmp_path: Path) -> None:
    (tmp_path / "config").write_bytes(words(0, RELEASE.word))
    with pytest.raises(EalError, match="has not finished its start within 0 s") as e:
        attached.find_release(str(tmp_path / "config"), 0, None)

    assert e.value.reason == "incomplete"


def test_what_write_info_writes_is_read(tmp_path: Path) -> None:
    infos = hugepages.Infos([hugepages.HugepageInfo(2 * MB, "/mnt/huge", NODES)])
    infos[0].num_pages[0] = 5
    hugepages.write_info(str(tmp_path / "hugepage_info"), infos, NODES)
    (info,) = hugepages.read_info(str(tmp_path / "hugepage_info"), NODES)

    assert (info.page_sz, info.hugedir, info.num_pages[0]) == (2 * MB, "/mnt/huge", 5)


@pytest.mark.parametrize("nodes", [1, 2, 4, 8, 16, 64])
def test_hugepage_info_of_a_build_for_other_nodes_is_read(tmp_path: Path, nodes: int) -> None:
    """A secondary takes the number of nodes from its primary's file."""
    infos = hugepages.Infos([hugepages.HugepageInfo(2 << 20, "/mnt/huge", nodes)])
    hugepages.write_info(str(tmp_path / "hugepage_info"), infos, nodes)
    (info,) = hugepages.read_info(str(tmp_path / "hugepage_info"), NODES)

    assert (info.page_sz, info.hugedir, len(info.num_pages)) == (2 << 20, "/mnt/huge", nodes)


def test_more_page_sizes_than_records_are_an_error(tmp_path: Path) -> None:
    """Discovery refuses them before: none is dropped without a word."""
    infos = [hugepages.HugepageInfo(1 << n, "/mnt/huge", NODES) for n in (16, 21, 25, 29, 30)]
    with pytest.raises(ValueError, match="zip"):
        hugepages.write_info(str(tmp_path / "hugepage_info"), hugepages.Infos(infos), NODES)


@pytest.mark.parametrize("size", [0, 1, RECORD - 1, 5 * RECORD])
def test_hugepage_info_of_a_wrong_size_is_of_another_build(tmp_path: Path, size: int) -> None:
    (tmp_path / "hugepage_info").write_bytes(bytes(size))
    with pytest.raises(EalError, match="no release has a file of") as e:
        hugepages.read_info(str(tmp_path / "hugepage_info"), NODES)

    assert (e.value.errno, e.value.reason) == (EACCES, "build")


@pytest.mark.parametrize(("size", "hugedir"), [(3 * MB, b"/mnt/huge"), (2 * MB, b"mnt/huge")])
def test_a_record_that_cannot_be_is_damaged(tmp_path: Path, size: int, hugedir: bytes) -> None:
    record = layout.hugepage_info(NODES)()
    record.hugepage_sz, record.hugedir = size, hugedir
    with pytest.raises(ValueError, match="found pages of"):
        hugepages.decode_info(bytes(record), NODES)
