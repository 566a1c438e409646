"""doctor, link "files of others", for a primary: another EAL holds what this one needs."""

import fcntl
import os

from conformance import needs
from conformance.units.live.doctor.world import explain, problem

pytestmark = needs(root=True)


@problem(5)
@needs(pages={"2M": 2})
def test_prefix_taken(world):
    """A living primary of the same file prefix."""
    box = world.box({"2M": 2})
    world.eal("-m", "2", box=box)
    target = world.target("-m", "2", box=box)

    said = target.doctor("files of others")
    assert "has a living primary" in said
    assert "--file-prefix" in said
    assert 5 in explain(target.refused())


@problem(44)
@needs(pages={"2M": 1})
def test_hugepage_directory_locked(world):
    """Another process holds the lock of the hugepage directory: EAL waits without a word."""
    box = world.box({"2M": 1})
    target = world.target("-m", "2", box=box)
    fd = os.open(box.path("/run/hugepages/2M"), os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)

        said = target.doctor("files of others")
        assert "is locked" in said
        assert "mount -t hugetlbfs" in said
        target.hangs()
    finally:
        os.close(fd)


@problem(21)
@needs(pages={"2M": 2})
def test_secondary_that_outlived_its_primary(world):
    """A secondary uses the files of the primary that was killed."""
    box = world.box({"2M": 2})
    primary = world.eal("-m", "2", box=box)
    secondary = world.eal("--proc-type=secondary", box=box)
    primary.kill()
    target = world.target("-m", "2", box=box)

    said = target.doctor("files of others")
    assert "live on its files" in said
    assert "--file-prefix" in said
    assert 21 in explain(target.refused())
    secondary.kill()


@problem(21, state="WARN")
@needs(pages={"2M": 2})
def test_the_same_prefix_in_another_container(world):
    """Two runtime directories and one hugetlbfs: the second start removes the first one's pages."""
    box = world.box({"2M": 2}, mounts=[("tmpfs", "/run/a", ""), ("tmpfs", "/run/b", "")])
    first = world.eal("-m", "2", box=box, env={"RUNTIME_DIRECTORY": "/run/a"})
    page = first.hugedir() / first.page_files()[0]
    inode = page.stat().st_ino
    target = world.target("-m", "2", box=box, env={"RUNTIME_DIRECTORY": "/run/b"})

    said = target.doctor("files of others")
    assert "another EAL uses" in said
    assert "would be removed" in said
    assert "--file-prefix" in said
    target.starts()
    assert target.eal.page_files() == [page.name]
    assert page.stat().st_ino != inode


@problem(22, state="WARN")
@needs(pages={"2M": 2})
def test_kept_files_of_another(world):
    """The page files that --huge-unlink=never left are removed by any other start."""
    box = world.box({"2M": 2})
    world.eal("-m", "2", "--huge-unlink=never", box=box, prefix=f"{world.prefix}_kept").close()
    target = world.target("-m", "2", box=box)

    assert "would be deleted" in target.doctor("files of others")
    target.starts()
    assert [f for f in os.listdir(target.eal.hugedir()) if "_kept" in f] == []
