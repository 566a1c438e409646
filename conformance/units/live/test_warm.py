"""`pyeal warm`: a start takes the files as they are, and finds zeros whatever was there before."""

from __future__ import annotations

import os

import pytest

from conformance import MB, needs, until

NEVER = "--huge-unlink=never"
PATTERN = b"a secret of a process that is gone " * 100


@pytest.fixture
def warm(tool, make_box, prefix):
    """warm(*options, args=...) in a box of 8 pages, which it has as an attribute."""
    box = make_box({"2M": 8})
    default = [f"--file-prefix={prefix}_w", "-m", "8", NEVER]

    def warm(*options, code=0, args=default):
        return tool("warm", *options, "--", *args, code=code, prefix=box.enter)

    warm.box, warm.args, warm.prefix = box, default, f"{prefix}_w"
    warm.folder = box.path(box.hugedir("2M"))
    return warm


def inodes(folder):
    return {e.name: e.inode() for e in os.scandir(folder)}


def content(folder):
    """All bytes of all page files."""
    return b"".join((folder / name).read_bytes() for name in sorted(os.listdir(folder)))


def used(folder):
    """Pages that are not free."""
    st = os.statvfs(folder)
    return st.f_blocks - st.f_bfree


@needs(root=True, pages={"2M": 8})
@pytest.mark.parametrize("args", [[], ["--single-file-segments"]], ids=["dynmem", "single-file"])
def test_a_start_takes_the_files_as_they_are(warm, start, args):
    """Populated before, the same inodes after, and no page more."""
    said = warm(args=[*warm.args, *args])
    before, populated = inodes(warm.folder), used(warm.folder)
    eal = start(*warm.args[1:], *args, prefix=warm.prefix, box=warm.box, target="librte_eal:22.11")

    assert "8M" in said and populated == 4
    assert inodes(warm.folder) == before and used(warm.folder) == 4
    dirty = [s.flags & 2 for s in eal.segments()]  # EAL clears what it promises as zero
    assert all(dirty) if not args else dirty[0]  # of a list's file it flags the first page alone
    assert not any(content(warm.folder)[MB:-MB])


@needs(root=True, pages={"2M": 8})
def test_nothing_of_an_earlier_process_is_left(warm, start, facts):
    """A killed process's bytes: refused at first, then gone from all files, which stay."""
    args = {"prefix": warm.prefix, "box": warm.box, "target": "librte_eal:24.11"}
    eal = start(*warm.args[1:], **args)
    va = eal.malloc(4 * MB).va
    for at in range(0, 4 * MB, MB):
        eal.poke(va + at, PATTERN)
    eal.kill()
    dirty, before = content(warm.folder).count(PATTERN), inodes(warm.folder)
    refused = warm(code=1)
    still = content(warm.folder).count(PATTERN)
    warm("--again", args=[*warm.args, "--no-telemetry"])
    (found,) = [e for e in facts("ps", "-a")["eals"] if e["file_prefix"] == warm.prefix]

    assert (dirty, still) == (4, 4) and "--again" not in refused
    assert inodes(warm.folder) == before and not any(content(warm.folder))
    assert (found["health"], found["bytes"]) == ("warm", 8 * MB)


@needs(root=True, pages={"2M": 8})
def test_alive_held_and_foreign_files_are_refused(warm, start, tmp_path):
    """Its primary lives; a process has a file open; a file has a second name: nothing changes."""
    warm()
    eal = start(*warm.args[1:], prefix=warm.prefix, box=warm.box, target="librte_eal:22.11")
    warm(code=1)
    warm("--drop", code=1)
    eal.kill()
    name = f"{warm.prefix}map_0"
    with open(warm.folder / name, "rb"):
        warm("--again", code=1)
        warm("--drop", code=1)
    os.link(warm.folder / name, warm.folder / "otherprefixmap_0")
    warm("--again", code=1)
    os.unlink(warm.folder / "otherprefixmap_0")
    os.chown(warm.folder / name, 65534, -1)
    warm("--again", code=1)

    assert len(inodes(warm.folder)) == 4
    os.chown(warm.folder / name, 0, -1)
    warm("--again")


@needs(root=True, pages={"2M": 8})
def test_stale_keeps_it_and_drop_returns_it_all(warm, facts):
    other = [f"--file-prefix={warm.prefix}2", "-m", "2", NEVER]
    warm()
    warm(args=other)
    kept = facts("stale", warm.prefix, "--delete", "-y")["items"]
    after = len(inodes(warm.folder))
    warm("--drop", args=[warm.args[0]])
    left = list(inodes(warm.folder))
    warm("--drop", args=other)

    assert [f["verdict"] for f in kept] == ["warm"] * 4 and after == 5
    assert left == [f"{warm.prefix}2map_0"]
    until(lambda: not used(warm.folder))
    assert not os.listdir(warm.box.path("/run/dpdk"))


@needs(root=True, pages={"2M": 8})
@pytest.mark.parametrize(
    "args, word",
    [
        (["-m", "4"], NEVER),
        (["-m", "4", "--huge-unlink=always"], NEVER),
        (["-m", "4", "--in-memory"], "no page files"),
        (["--no-huge", "-m", "4"], "no hugepages"),
        (["--legacy-mem", NEVER], "legacy"),
        (["-m", "4", NEVER, "--file-prefix=spdk_pid4711"], "names a process"),
        ([NEVER, "--match-allocations", "--no-such-option"], "--no-such-option"),
    ],
    ids=["existing", "always", "in-memory", "no-huge", "legacy", "prefix-of-a-pid", "bad"],
)
def test_where_it_cannot_help_it_says_so(warm, args, word):
    warm(code=2, args=args)

    assert not inodes(warm.folder)


@needs(root=True, pages={"2M": 8})
def test_without_enough_pages_nothing_stays(warm):
    warm(code=1, args=["-m", "400", NEVER])

    assert not inodes(warm.folder) and not used(warm.folder)
