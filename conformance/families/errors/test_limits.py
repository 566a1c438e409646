"""ERR: what a machine's limits, rights and other processes do to a start."""

import errno
import os

import pytest

from conformance import GB, HUGE, HUGE_FILES, MB, modes, needs, requirement

PAGE = 2 * MB
FREE = 9  # pages that are counted, although there are fewer


def said(e):
    return e.log + e.text


@requirement("ERR-014")
@needs(pages={"2M": 2})
@modes("dynmem", "legacy")
def test_a_hugetlbfs_of_others_is_not_entered(start, box, evidence):
    """Mode 0700 of root, for nobody: the directory cannot be locked, EACCES."""
    box.sh(f"chmod 700 {box.hugedir('2M')}")
    e = start("-m", "2", as_user="nobody", init=False).refused()
    evidence(e.text)

    assert e.errno == errno.EACCES
    assert "Failed to lock hugepage directory!" in said(e)


@requirement("ERR-015")
@needs(pages={"2M": 4})
@modes("dynmem", "legacy")
def test_a_hugetlbfs_that_may_only_be_read(start, mode, box, evidence):
    """Mode 0755 of root, for nobody: no file can be made in it, ENOMEM."""
    box.sh(f"chmod 755 {box.hugedir('2M')}")
    e = start("-m", "2", as_user="nobody", init=False).refused()
    evidence(e.text)

    assert e.errno == errno.ENOMEM
    if mode == "legacy":
        assert "Not enough memory available!" in said(e)
    assert "Permission denied" in said(e)


@requirement("ERR-016")
@needs(pages={"2M": 4})
@modes(*HUGE_FILES)
def test_a_mount_that_is_smaller_than_what_is_free(start, fake_host, mode, evidence):
    """9 pages are free, size= allows 4: -m 6 starts, -m 16 is ENOMEM, and nobody crashes."""
    box = fake_host({"2M": 4}, free={"2M": FREE})
    eal = start("-m", "16", box=box, init=False)
    e = eal.refused()
    evidence(e.text)
    eal.kill()
    for f in box.path(box.hugedir("2M")).iterdir():
        f.unlink()
    few = start("-m", "6", box=box)

    assert e.errno == errno.ENOMEM
    assert len(few.segments()) == 3
    assert few.malloc(64).va


@requirement("ERR-017")
@needs(pages={"2M": 8}, cgroup="hugetlb")
@modes(*HUGE)
@pytest.mark.parametrize("reserve", [False, True], ids=["usage", "reservation"])
def test_a_cgroup_limit_is_an_error_not_a_signal(start, cgroup, mode, reserve, evidence):
    """Three pages allowed, eight wanted: ENOMEM; the process survives and can allocate three."""
    limit = cgroup("2M", 3 * PAGE, reserve)
    eal = start("-m", "16", cgroup=limit, init=False)
    e = eal.refused()
    evidence(e.text)
    lives = eal.child.alive
    eal.kill()
    if mode != "in-memory":
        for f in eal.hugedir().iterdir():
            f.unlink()
    few = start("-m", "4", cgroup=limit)

    assert lives
    assert e.errno == errno.ENOMEM
    assert few.malloc(64).va


@requirement("ERR-018")
@needs(pages={"2M": 18})
@modes("dynmem", "single-file")
def test_open_files_limit_pages_with_files_of_their_own(start, mode, evidence):
    """24 descriptors, 16 pages: ENOMEM, but one file for all needs no more than one."""
    eal = start("-m", "32", rlimits={"nofile": 24}, init=False)
    if mode == "single-file":
        assert len(eal.init().segments()) >= 16
        return
    e = eal.refused()
    evidence(e.text)

    assert e.errno == errno.ENOMEM
    assert "Too many open files" in said(e)


@requirement("ERR-019")
@modes("no-huge")
def test_no_huge_needs_little_address_space(start, evidence):
    """64 MB in 1 GB of address space."""
    eal = start("-m", "64", rlimits={"as": GB})
    evidence(eal.info())

    assert eal.info().physmem_size == 64 * MB


@requirement("ERR-022")
@needs(pages={"2M": 3})
def test_locked_memory_is_not_limited(start, evidence):
    """RLIMIT_MEMLOCK 0: hugepages are not counted."""
    eal = start("-m", "4", rlimits={"memlock": 0})
    evidence(f"{len(eal.segments())} pages")

    assert eal.malloc(64).va


@requirement("ERR-025")
@needs(pages={"2M": 4})
@modes("dynmem", "single-file")
def test_what_failed_memory_leaves(start, evidence):
    """config without the magic, arrays, hugepage_info, page files: the next start clears them."""
    eal = start("-m", "16", init=False)
    eal.refused()
    eal.runtime_dir = f"/run/dpdk/{eal.prefix}"
    files = eal.run_files()
    evidence(f"{files}, {eal.page_files()}")

    assert {"config", "fbarray_memzone", "hugepage_info", "mp_socket"} <= set(files)
    assert eal.config().magic == 0


@requirement("ERR-034")
@modes("no-huge")
def test_a_limit_of_file_sizes(start, evidence):
    """16 KB and SIGXFSZ ignored: a refusal, as config is longer; the log is not."""
    eal = start("-m", "16", rlimits={"fsize": 16384}, init=False)
    e = eal.refused()
    evidence(e.text)

    assert e.errno == 0  # as whatever is wrong with config
    assert eal.child.alive


@requirement("ERR-035")
@needs(pages={"2M": 4})
@modes("dynmem", "legacy")
@pytest.mark.parametrize("room", [16, 32, 48])
def test_a_full_runtime_directory(start, make_box, room, mode, evidence):
    """A tmpfs of a few KB: a refusal that names the file, no signal, and nothing stays."""
    box = make_box({"2M": 4}, mounts=[("tmpfs", "/run/dpdk", f"size={room}k,mode=755")])
    eal = start("-m", "2", box=box, init=False)
    e = eal.refused()
    evidence(e.text)
    files = list(box.path("/run/dpdk").glob("*"))

    assert "No space left on device" in said(e)
    assert not files
    assert not list(eal.hugedir().iterdir())


@requirement("ERR-036")
@needs(pages={"2M": 2}, root=True)
@pytest.mark.parametrize("what", ["/run/dpdk", "/run/hugepages/2M"], ids=["runtime", "pages"])
def test_a_read_only_mount(start, make_box, what, evidence):
    """EINVAL without a runtime directory, ENOMEM without pages; "Read-only file system"."""
    box = make_box({"2M": 2}, mounts=[("tmpfs", "/run/dpdk", "mode=755")])
    box.sh(f"mount -o remount,ro {what}")
    e = start("-m", "2", box=box, init=False).refused()
    box.sh(f"mount -o remount,rw {what}")
    evidence(e.text)

    assert e.errno == {"/run/dpdk": errno.EINVAL}.get(what, errno.ENOMEM)
    assert "Read-only file system" in said(e)


@requirement("ERR-037")
@needs(pages={"2M": 4})
@modes(*HUGE_FILES)
def test_pages_that_go_between_counting_and_mapping(start, fake_host, evidence):
    """Another process takes 3 of 4: ENOMEM, its data stays, and all pages are free when it ends."""
    box = fake_host({"2M": 4}, free={"2M": 4})
    eal = start("-m", "6", box=box, init=False)
    other = box.path(box.hugedir("2M")) / "others"
    fd = os.open(other, os.O_RDWR | os.O_CREAT)
    os.posix_fallocate(fd, 0, 3 * PAGE)
    e = eal.refused()
    evidence(e.text)
    stays = os.fstat(fd).st_size
    os.close(fd)
    other.unlink()
    eal.kill()

    assert e.errno == errno.ENOMEM
    assert stays == 3 * PAGE
    assert len(start("-m", "6", box=box).segments()) == 3


@requirement("ERR-038")
@needs(pages={"2M": 3}, strace=True)
@modes(*HUGE_FILES)
@pytest.mark.parametrize("error", ["ENOSYS", "EPERM"])
def test_memory_policies_that_a_filter_refuses(start, error, evidence):
    """get_mempolicy, set_mempolicy, mbind, move_pages: refused as on a kernel without nodes, or as
    in a container without CAP_SYS_NICE, and init continues."""
    calls = "get_mempolicy,set_mempolicy,mbind,move_pages"
    eal = start("-m", "4", init=False)
    trace = eal.trace(calls, inject=f"{calls}:error={error}")
    eal.init()
    hit = [c.name for c in trace.stop() if c.injected]
    evidence(f"refused: {sorted(set(hit))}")

    assert hit
    assert {s.socket_id for s in eal.segments()} == {0}
    assert eal.malloc(64).va


@requirement("ERR-039")
@needs(pages={"2M": 3}, strace=True)
@modes("dynmem", "legacy")
def test_without_pagemap_iova_is_va(start, evidence):
    """/proc/self/pagemap cannot be opened, as in a sandbox: VA, and init continues."""
    eal = start("-m", "4", init=False)
    trace = eal.trace("openat", inject="openat:error=EACCES", path="/proc/self/pagemap")
    eal.init()
    hit = [c for c in trace.stop() if c.injected]
    evidence(f"{len(hit)} refused, {eal.iova_mode}")

    assert hit
    assert eal.iova_mode == "VA"
    assert {s.iova == s.addr for s in eal.segments()} == {True}
