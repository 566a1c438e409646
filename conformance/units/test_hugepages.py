"""Discovery on fake hosts, and locking and clearing of a real directory."""

from __future__ import annotations

import fcntl
import os
import threading
from errno import EACCES, ENOLCK
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conformance import GB, MB
from conformance.harness import fake_host
from pyeal import hugepages, lcores, options, releases
from pyeal.backing import pagefiles
from pyeal.backing.pagefiles import ListFile, PageFiles
from pyeal.errors import EalError
from pyeal.layout import FLAG_DIRTY
from pyeal.look.fake_host import FakeHost
from pyeal.look.pools import all_pools
from pyeal.populate import Pagemap, Population

M2 = 2 * MB
CASES = [
    pytest.param(host, e, release, id=f"{name}-{i}-{release}")
    for name in fake_host.names()
    for host in [fake_host.load(name)]
    for i, e in enumerate(host.expects)
    for release in releases.RELEASES
    if fake_host.holds(e.releases, release)
]


@pytest.fixture(scope="session")
def trees(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        name: fake_host.expand(name, tmp_path_factory.mktemp(name)) for name in fake_host.names()
    }


@pytest.mark.parametrize(("host", "e", "release"), CASES)
def test_discovery_counts_what_the_host_file_says(
    host: fake_host.HostTree,
    e: fake_host.Expect,
    release: str,
    trees: dict[str, Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(hugepages, "MAX_SIZES", e.max_sizes or 3)
    root, r = trees[host.name], releases.get(release)
    fake = FakeHost(root, host.statfs)
    said: list[str] = []
    found: list[list[object]] = []
    refusal = ""
    try:
        infos = hugepages.Survey(
            options.parse(e.args, r),
            lcores.discover(r, fake).nodes,
            fake,
            lambda level, text: said.append(text),
        ).run()
        found = [[i.page_sz, i.hugedir, i.num_pages, i.lock_fd] for i in infos]
    except EalError as error:
        refusal = error.text
        assert (error.errno, error.stage) == (EACCES, "hugepages")

    nodes = r.numa_nodes_max
    assert found == [
        [sz, hugedir, pages + [0] * (nodes - len(pages)), -1]
        for sz, (hugedir, *pages) in e.counts.items()
    ]
    assert e.fails in refusal and bool(e.fails) == bool(refusal)
    assert [s for s in e.says if not any(s in text for text in said)] == []


def test_every_host_is_expected_something_by_every_release() -> None:
    missing = [
        (name, release)
        for name in fake_host.names()
        for release in releases.RELEASES
        if not any(fake_host.holds(e.releases, release) for e in fake_host.load(name).expects)
        or not any(fake_host.holds(d.releases, release) for d in fake_host.load(name).detected)
    ]

    assert missing == []
    assert len(fake_host.names()) >= 12


def survey(
    trees: dict[str, Path], name: str, *args: str, release: str = "22.11.11"
) -> tuple[hugepages.Infos, list[str]]:
    r = releases.get(release)
    said: list[str] = []
    infos = hugepages.Survey(
        options.parse([*args], r),
        [0],
        FakeHost(trees[name], fake_host.load(name).statfs),
        lambda level, text: said.append(text),
    ).run()
    return infos, said


@pytest.mark.parametrize(("order", "dropped"), [("big first", 0), ("small first", M2)])
def test_a_size_without_a_mount_stays_behind_the_last_record(
    trees: dict[str, Path], order: str, dropped: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HPI-024: it lies in the next record if it was found after the counted ones."""
    both = [("hugepages-1048576kB", GB), ("hugepages-2048kB", M2)]
    monkeypatch.setattr(hugepages, "sizes", lambda host: both)
    dirs = {"big first": "/mnt/huge2M", "small first": "/mnt/huge1G"}
    infos, _ = survey(trees, "one-node-2M-1G", f"--huge-dir={dirs[order]}")

    assert infos.dropped == dropped


def test_statfs_has_to_say_hugetlbfs(trees: dict[str, Path]) -> None:
    """A disk with blocks of 2 MB is not a hugetlbfs (26.07)."""
    r = releases.get("26.07")
    host = FakeHost(trees["one-node-2M-1G"], lambda path: (0xEF53, M2))
    with pytest.raises(EalError, match="no free page of a mounted size for --huge-dir"):
        hugepages.Survey(options.parse(["--huge-dir=/data"], r), [0], host).run()


@pytest.mark.parametrize(("release", "taken"), [("22.11.1", True), ("22.11.2", False)])
def test_a_huge_dir_beside_its_mount_point_was_taken_until_22_11_2(
    trees: dict[str, Path], release: str, taken: bool
) -> None:
    """Its path begins as the mount point's, without a slash behind it: /mnt/huge2M-of-vm."""
    r = releases.get(release)
    host = FakeHost(trees["one-node-2M-1G"], lambda path: (0, 0))
    args = options.parse(["--huge-dir=/mnt/huge2M-of-vm"], r)
    try:
        dirs = [info.hugedir for info in hugepages.Survey(args, [0], host).run()]
    except EalError as error:
        dirs = [error.stage]

    assert dirs == (["/mnt/huge2M-of-vm"] if taken else ["hugepages"])


@pytest.mark.parametrize(
    ("release", "phrase"),
    [
        ("20.11", "No available hugepages reported in hugepages-2048kB"),
        ("21.11", "No available 2048 kB hugepages reported"),
        ("22.11", ""),
    ],
)
def test_a_pool_without_a_page_is_told_until_22_11(
    trees: dict[str, Path], release: str, phrase: str
) -> None:
    """Since then only when there are reusable pages, which is when it is not so."""
    _, said = survey(trees, "one-gig-only", release=release)

    assert [text for text in said if "No available" in text] == ([phrase] if phrase else [])


def test_pools_shows_every_counter(trees: dict[str, Path]) -> None:
    found = all_pools(FakeHost(trees["surplus-and-overcommit"]))

    assert list(found) == [GB, M2]
    assert found[M2] == {
        "nr": 10,
        "free": 10,
        "resv": 3,
        "nr_overcommit": 5,
        "surplus": 2,
        "nodes": {0: {"nr": 10, "free": 10, "surplus": 0}},
    }


def test_mounts_are_listed_in_order_and_decoded(trees: dict[str, Path]) -> None:
    host = FakeHost(trees["odd-mount-points"])

    assert hugepages.mounts(host) == [("/mnt/my pages", M2), ("/mnt/gone (deleted)", GB)]
    assert hugepages.mounts(host, decoded=False)[0] == (r"/mnt/my\040pages", M2)
    assert hugepages.mounts(FakeHost(trees["one-gig-only"])) == [("/mnt/huge", None)]


# --- locking and clearing: any directory will do --------------------------------------------------


def unlock(infos: list[hugepages.HugepageInfo]) -> None:
    for info in infos:
        info.unlock()


class Dir:
    """A host with one mount, whose directory is a real one."""

    def __init__(self, root: Path) -> None:
        host = fake_host.load("one-node-2M-1G")
        host.expand(root)
        self.path, self.host = root / "huge", FakeHost(root)
        self.path.mkdir()
        (root / "proc/mounts").write_text(f"none {self.path} hugetlbfs rw,pagesize=2M 0 0\n")

    def discover(self, *args: str, release: str = "22.11.11") -> hugepages.Infos:
        r = releases.get(release)
        return hugepages.Discovery(options.parse([*args], r), [0], self.host).run()

    def make(self, *names: str) -> None:
        for name in names:
            (self.path / name).write_bytes(b"")

    def left(self) -> list[str]:
        return sorted(os.listdir(self.path))

    def locked(self) -> bool:
        fd = os.open(self.path, os.O_RDONLY)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
        return False


@pytest.fixture
def huge(tmp_path: Path) -> Dir:
    return Dir(tmp_path)


def test_stale_files_of_any_prefix_go(huge: Dir) -> None:
    huge.make("rtemap_0", "othermap_12", "map_", "xmap_yy", ".hidmap_1", "foo_1", "map", "remap-1")
    (huge.path / "dirmap_0").mkdir()
    unlock(huge.discover())

    assert huge.left() == ["dirmap_0", "foo_1", "map", "remap-1"]


def test_locked_files_stay(huge: Dir) -> None:
    huge.make("amap_0", "bmap_0", "cmap_0")
    with open(huge.path / "amap_0") as shared, open(huge.path / "bmap_0") as alone:
        fcntl.flock(shared, fcntl.LOCK_SH)
        fcntl.flock(alone, fcntl.LOCK_EX)
        unlock(huge.discover())

    assert huge.left() == ["amap_0", "bmap_0"]


def test_never_keeps_files_and_counts_their_pages_on_node_0(huge: Dir) -> None:
    """HPI-020: 3 pages in unlocked files beside the 512 of the pool; the locked one is not ours."""
    huge.make("amap_0", "bmap_0", "cmap_0")
    os.truncate(huge.path / "amap_0", M2)
    os.truncate(huge.path / "bmap_0", 2 * M2)
    os.truncate(huge.path / "cmap_0", 5 * M2)
    with open(huge.path / "cmap_0") as used:
        fcntl.flock(used, fcntl.LOCK_SH)
        infos = huge.discover("--huge-unlink=never")
        unlock(infos)

    assert huge.left() == ["amap_0", "bmap_0", "cmap_0"]
    assert (infos[0].num_reusable, infos[0].num_pages[0]) == (3, 515)


@pytest.mark.parametrize("more", [[], ["--legacy-mem"], ["--single-file-segments"]])
def test_page_files_that_may_be_used_again_stay_open(huge: Dir, more: list[str]) -> None:
    """Page files of this prefix that no process holds stay locked exclusively until unlock()."""
    huge.make("rtemap_0", "rtemap_1", "othermap_0")
    fds = len(os.listdir("/proc/self/fd"))
    with open(huge.path / "rtemap_1") as used:
        fcntl.flock(used, fcntl.LOCK_SH)
        infos = huge.discover("--huge-unlink=never", *more)
    kept = {name: os.readlink(f"/proc/self/fd/{fd}") for name, fd in infos[0].open_files.items()}
    with open(huge.path / "rtemap_0") as f:
        try:
            fcntl.flock(f, fcntl.LOCK_SH | fcntl.LOCK_NB)
            locked = False
        except BlockingIOError:
            locked = True
    unlock(infos)

    assert kept == ({} if more else {"rtemap_0": str(huge.path / "rtemap_0")})
    assert locked == (not more)
    assert len(os.listdir("/proc/self/fd")) == fds


def test_what_others_can_make_is_not_kept_open(huge: Dir) -> None:
    huge.make("rtemap_0")
    huge.path.chmod(0o777)
    infos = huge.discover("--huge-unlink=never")
    kept = dict(infos[0].open_files)
    unlock(infos)

    assert kept == {}


def backing_of(kind: Any, infos: hugepages.Infos, *args: str) -> Any:
    opts = options.parse(["--huge-unlink=never", *args], releases.get("22.11"))
    lists = SimpleNamespace(release=opts.release)
    return kind(lists, opts, infos, Population(Pagemap(), False, lambda level, text: None))


def test_a_page_file_that_is_removed_after_discovery_is_made_anew(huge: Dir) -> None:
    """rtemap_0 stays and is dirty; rtemap_1 was opened by discovery, and has no name any more."""
    huge.make("rtemap_0", "rtemap_1")
    infos = huge.discover("--huge-unlink=never")
    (huge.path / "rtemap_1").unlink()
    backing, flags = backing_of(PageFiles, infos), [0, 0, 0]
    opened, error = backing.open(SimpleNamespace(index=0, page_sz=M2), 0, flags, infos[0].lock_fd)
    links = [os.fstat(fd).st_nlink for fd in opened]
    for fd in opened:
        os.close(fd)
    unlock(infos)

    assert (error, flags, links) == (None, [FLAG_DIRTY, 0, 0], [1, 1, 1])


@pytest.mark.parametrize("kind", [PageFiles, ListFile])
def test_an_old_empty_file_stays_if_its_lock_fails(
    kind: Any, huge: Dir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also for an attach, whose files are all another process's; rtemap_1 is new, and goes."""
    huge.make("rtemap_0")
    os.truncate(huge.path / "rtemap_0", 0)
    mode = ["--single-file-segments"] if kind is ListFile else []
    infos = huge.discover("--huge-unlink=never", *mode)
    backing, error = backing_of(kind, infos, *mode), OSError(ENOLCK, "No locks available")
    monkeypatch.setattr(pagefiles, "lock_files", lambda fds, names: (0, error))
    msl, dir_fd = SimpleNamespace(index=0, page_sz=M2), infos[0].lock_fd
    if kind is ListFile:
        with pytest.raises(OSError):
            backing.open(msl, dir_fd)
    else:
        assert backing.open(msl, 0, [0, 0], dir_fd) == ([], error)
    assert backing._open_existing(["rtemap_0"], dir_fd) == ([], error)
    unlock(infos)

    assert [p.name for p in huge.path.glob("rtemap_*")] == ["rtemap_0"]


@pytest.mark.parametrize(("content", "flag"), [(None, 0), (b"", FLAG_DIRTY), (b"x", FLAG_DIRTY)])
def test_an_old_list_file_is_dirty_also_if_it_is_empty(
    huge: Dir, content: bytes | None, flag: int
) -> None:
    """linux/eal_memalloc.c: get_seg_fd"""
    if content is not None:
        (huge.path / "rtemap_0").write_bytes(content)
    infos = huge.discover("--huge-unlink=never", "--single-file-segments")
    backing = backing_of(ListFile, infos, "--single-file-segments")
    fd, found = backing.open(SimpleNamespace(index=0, page_sz=M2), infos[0].lock_fd)
    os.close(fd)
    unlock(infos)

    assert found == flag


def test_the_directory_is_locked_until_unlock(huge: Dir) -> None:
    infos = huge.discover()
    during = huge.locked()
    unlock(infos)

    assert (during, huge.locked(), infos[0].lock_fd) == (True, False, -1)


def test_a_locked_directory_is_waited_for(huge: Dir) -> None:
    first = huge.discover()
    second: list[hugepages.HugepageInfo] = []
    t = threading.Thread(target=lambda: second.extend(huge.discover()))
    t.start()
    t.join(0.2)
    waiting = t.is_alive()
    unlock(first)
    t.join(10)
    unlock(second)

    assert (waiting, t.is_alive(), len(second)) == (True, False, 1)


@pytest.mark.parametrize("break_it", ["no directory", "no pages"])
def test_a_failure_leaves_nothing_locked(huge: Dir, break_it: str) -> None:
    fds = len(os.listdir("/proc/self/fd"))
    if break_it == "no pages":
        for path in Path(huge.host.sys).rglob("free_hugepages"):
            path.write_text("0\n")
    else:
        huge.path.rmdir()
    with pytest.raises(EalError) as e:
        huge.discover()

    assert e.value.errno == EACCES
    assert len(os.listdir("/proc/self/fd")) == fds
    assert ("Failed to lock hugepage directory!" in e.value.text) == (break_it == "no directory")
    assert break_it == "no directory" or not huge.locked()


def test_two_sizes_on_one_directory_are_refused_and_unlocked(huge: Dir) -> None:
    with open(huge.host.mounts, "a") as f:
        f.write(f"none {huge.path} hugetlbfs rw,pagesize=1G 0 0\n")
    with pytest.raises(EalError, match="two page sizes lie on top of each other"):
        huge.discover()

    assert not huge.locked()
