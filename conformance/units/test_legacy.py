"""Legacy mode of pyeal when a call fails: fewer pages do, or nothing is left behind."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conformance import MB, modes, needs, sizes
from pyeal import EalError, hugepage_data, legacy, releases

pytestmark = needs(root=True, strace=True)
HUGE, RUN = "/run/hugepages/2M", "/var/run/dpdk"
EXTRA = pytest.mark.parametrize(
    "extra",
    [
        pytest.param([], id="plain"),
        pytest.param(["--single-file-segments"], id="S"),
        pytest.param(["--no-shconf"], id="no-shconf"),
        pytest.param(["--huge-unlink"], id="always"),
    ],
)


def left(eal: Any) -> list[str]:
    """Files, pages, descriptors, mappings and address space that eal's start still holds."""
    st = os.statvfs(eal.hugedir())
    found = eal.page_files() + [str(p) for p in eal.box.path(RUN).rglob("*")]
    found += [f"{st.f_blocks - st.f_bavail} pages"] * (st.f_bavail < st.f_blocks)
    names = eal.prefix, "hugepages", "fbarray", "memfd"
    found += [f.path for f in eal.fds().values() if any(n in f.path for n in names)]
    maps = [m for m in eal.maps() if "pyeal-native" not in m.path]  # code stays as long as pyeal
    found += [m.path for m in maps if any(n in m.path for n in names) or m.len > 1 << 32]
    return found


@needs(pages={"2M": 6})
@modes("legacy")
@EXTRA
@pytest.mark.parametrize(
    ("call", "error", "path"),
    [
        pytest.param("openat", "EACCES", f"{HUGE}/{{}}map_3", id="open"),
        pytest.param("mmap", "ENOMEM", f"{HUGE}/{{}}map_3", id="mmap"),
    ],
)
def test_a_page_that_fails_is_the_last(
    start: Any, call: Any, error: Any, path: Any, extra: Any
) -> None:
    """Page 3 of 6 fails: pages 0 to 2 are memory, and there is no file of another."""
    eal = start("--iova-mode=va", *extra, init=False)
    trace = eal.trace(call, inject=f"{call}:error={error}:when=1", path=path.format(eal.prefix))
    eal.init()

    assert any(c.injected for c in trace.stop())
    assert eal.logged("3 not ")
    assert [s.seg for s in eal.segments()] == [0, 1, 2]
    assert len(eal.page_files()) == (0 if "--huge-unlink" in extra else 3)
    assert os.statvfs(eal.hugedir()).f_bavail == 3


@needs(pages={"2M": 6})
@modes("legacy")
@EXTRA
@pytest.mark.parametrize(
    ("call", "error", "when", "path"),
    [
        pytest.param("openat", "EACCES", 1, f"{HUGE}/{{}}map_0", id="open"),
        pytest.param("mmap", "ENOMEM", 1, f"{HUGE}/{{}}map_0", id="mmap"),
        pytest.param("mmap", "ENOMEM", 2, f"{HUGE}/{{}}map_1", id="remap"),
        pytest.param("flock", "ENOLCK", 1, f"{HUGE}/{{}}map_1", id="lock"),
        pytest.param("openat", "ENOSPC", 1, f"{RUN}/{{}}/hugepage_data", id="data"),
        pytest.param("fallocate", "ENOSPC", 1, "/run/dpdk/{}/hugepage_data", id="room"),
        pytest.param("pread64", "EIO", 2, None, id="pagemap"),
    ],
)
def test_a_failed_start_leaves_nothing(
    start: Any, call: Any, error: Any, when: Any, path: Any, extra: Any
) -> None:
    """No file, page, descriptor, mapping or reservation, whatever failed."""
    if "--no-shconf" in extra and call in ("fallocate", "openat") and "map_" not in (path or ""):
        pytest.skip("there is no hugepage_data without shared configuration")
    mode = "pa" if call == "pread64" else "va"
    eal = start("-m", "4", f"--iova-mode={mode}", *extra, init=False)
    inject = f"{call}:error={error}:when={when}"
    trace = eal.trace(call, inject=inject, path=path and path.format(eal.prefix))
    refused = eal.refused()

    assert any(c.injected for c in trace.stop())
    assert left(eal) == []
    assert refused.errno == 12


@needs(pages={"2M": 6})
@modes("legacy")
@pytest.mark.parametrize(
    ("call", "error", "run"),
    [
        pytest.param("flock", "EAGAIN:when=3", "/run/dpdk", id="lock"),
        pytest.param("unlink", "EBUSY", RUN, id="unlink"),
    ],
)
def test_an_unused_list_that_cannot_be_removed_leaves_nothing(
    start: Any, call: Any, error: Any, run: Any
) -> None:
    """List 1 is unmapped, then its array is in use: the other lists are unmapped."""
    eal = start("-m", "4", "--iova-mode=va", init=False)
    path = f"{run}/{eal.prefix}/fbarray_memseg-2048k-0-1"
    trace = eal.trace(call, inject=f"{call}:error={error}", path=path)
    refused = eal.refused()

    assert any(c.injected for c in trace.stop())
    assert left(eal) == []
    assert refused.stage == "fbarray"


@modes("legacy")
@EXTRA
@sizes({"2M": 6, "1G": 1})
def test_a_start_that_fails_with_all_pages_mapped_leaves_nothing(
    start: Any, fake_host: Any, page: Any, extra: Any
) -> None:
    """No memory is wanted, so that the heap has none: the stages behind legacy memory fail."""
    size = "2M" if page == 2 * MB else "1G"
    box = fake_host({size: {"2M": 6, "1G": 1}[size], "2M": 6})
    eal = start("--socket-mem", "0", *extra, box=box, init=False)
    eal.refused()

    assert left(eal) == []
    assert os.statvfs(eal.hugedir(size)).f_bavail == os.statvfs(eal.hugedir(size)).f_blocks


@needs(pages={"2M": 8}, cgroup="hugetlb")
@modes("legacy")
@EXTRA
def test_more_than_a_cgroup_allows_leaves_nothing(start: Any, cgroup: Any, extra: Any) -> None:
    """3 of 8 pages can be touched, and 4 are wanted."""
    eal = start("-m", "8", *extra, cgroup=cgroup("2M", 6 * MB), init=False)
    refused = eal.refused()

    assert "Requested: 8MB, available: 6MB" in refused.text and "cgroup" in refused.text
    assert left(eal) == []


@needs(pages={"2M": 24})
@modes("legacy")
@EXTRA
def test_more_pages_kept_than_descriptors_leave_nothing(start: Any, extra: Any) -> None:
    """24 pages need 24 descriptors, and 20 are allowed."""
    eal = start(*extra, rlimits={"nofile": 20}, init=False)
    refused = eal.refused()

    assert "ulimit -n" in refused.text
    assert left(eal) == []


@needs(pages={"2M": 4})
@modes("legacy")
@pytest.mark.parametrize(("call", "error"), [("mmap", "ENOMEM"), ("flock", "ENOLCK")])
def test_what_never_had_kept_survives_a_failed_start(start: Any, call: Any, error: Any) -> None:
    """Four pages with their data; a start over them fails, the next one finds all of it."""
    args = "--huge-unlink=never", "--iova-mode=va"
    first = start(*args)
    at = first.segments()[3].addr + MB
    first.poke(at, b"pyeal")
    first.close()
    eal = start("-m", "4", *args, init=False)
    path = f"{HUGE}/{eal.prefix}map_1"
    trace = eal.trace(call, inject=f"{call}:error={error}:when=2", path=path)
    eal.refused()

    assert any(c.injected for c in trace.stop())
    assert eal.page_files() == [f"{eal.prefix}map_{i}" for i in range(4)]
    assert start(*args).peek(at, 5) == b"pyeal"


@needs(pages={"2M": 4})
@modes("legacy")
def test_a_page_file_that_was_cut_is_refused_and_stays_as_it_is(start: Any) -> None:
    """Its mapping would make it longer again, and the page would be another one."""
    eal = start()
    path = next(r.filepath for r in eal.hugepage_data() if r.size)
    at = eal.box.path(path)
    os.truncate(at, 0)
    refused = start("--proc-type=secondary", init=False).refused()
    eal.kill()  # its heap may have an element in what was cut

    assert f"Could not open {path}: " in refused.text
    assert "2097152 bytes wanted, 0 found" in refused.text
    assert at.stat().st_size == 0


@pytest.mark.parametrize("length", [10, 255, 256, 257, 4095, 4096])
def test_records_have_paths_of_any_length(tmp_path: Path, length: int) -> None:
    """Of 4096 bytes, whose end is that of the record; zeros behind them end the file's records."""
    path, file = "/" + "a" * (length - 1), tmp_path / "hugepage_data"
    record = struct.pack("=8xQ8xQ4xi4096s", 0x100200000, 2 * MB, 7, path.encode())
    file.write_bytes(record + record + bytes(hugepage_data.RECORD))

    assert [*hugepage_data.read(str(file))] == [(0x100200000, 2 * MB, 7, path)] * 2


@modes("no-huge")
@pytest.mark.parametrize("mb", [8, 64, 150])  # a part of a block of records, one, two and a part
def test_every_no_huge_record_has_its_address(start: Any, mb: int) -> None:
    eal = start("-m", str(mb))
    base, n = eal.lists()[0].base_va, mb << 8
    records = (eal.run / "fbarray_nohugemem").read_bytes()[: n * 48]
    found = list(struct.iter_unpack("=QQQQiIII", records))
    channels = {record[5:7] for record in found}
    vas = range(base, base + n * 4096, 4096)

    assert [record[:5] for record in found] == [(va, va, 4096, 4096, 0) for va in vas]
    assert len(channels) == 1 and {record[7] for record in found} == {0}
    assert eal.lists()[0].count == n


@pytest.mark.parametrize("release", ["20.11.9", "21.11.5", "22.11.3", "23.07"])
def test_a_run_longer_than_a_list_is_split_since(release: str) -> None:
    """Six contiguous pages for two lists of four; the releases before refuse them."""
    before = {"20.11.9": "20.11.8", "21.11.5": "21.11.4", "22.11.3": "22.11.2", "23.07": "23.03"}
    pages = [hugepage_data.Page(f"map_{i}", i, 2 * MB, 0, -1) for i in range(6)]
    for page in pages:
        page.physaddr = page.file_id * 2 * MB

    assert segments_of(release, pages) == [[0, 1, 2, 3], [0, 1]]
    with pytest.raises(EalError, match="Could not find space for memseg: 6 pages"):
        segments_of(before[release], pages)


def segments_of(release: str, pages: list[hugepage_data.Page]) -> list[list[int]]:
    """Return which segments of each of two lists these pages become."""

    class Lists(list[Any]):
        pass

    class Msl(SimpleNamespace):
        __hash__ = object.__hash__  # type: ignore[assignment]

    lists: Any = Lists(Msl(page_sz=2 * MB, socket=0, external=False, n_segs=4) for _ in range(2))
    lists.release = releases.get(release)
    return [[*placed] for placed in legacy.places(lists, pages).values()]
