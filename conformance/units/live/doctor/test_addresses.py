"""doctor, links "address space" and "descriptors": room in the process for lists and files."""

import shutil
import subprocess

import pytest

from conformance import GB, MB, needs
from conformance.units.live.doctor.world import explain, problem

pytestmark = needs(root=True)


@problem(45)
@needs(pages={"2M": 2})
def test_little_address_space(world):
    """ulimit -v below what EAL reserves."""
    target = world.target("-m", "4", box=world.box({"2M": 2}), rlimits={"as": GB})

    said = target.doctor("address space")
    assert "cannot be reserved" in said
    assert "ulimit -v" in said
    assert 45 in explain(target.refused())


@problem(14, state="WARN")
@needs(pages={"2M": 1})
def test_something_where_eal_begins(world):
    """The process itself maps something at the base address: EAL starts elsewhere."""
    target = world.target("-m", "2", "--base-virtaddr=0x200000000", box=world.box({"2M": 1}))
    target.eal.block(0x200000000, MB)

    said = target.doctor("address space", by_pid=True)
    assert "something lies" in said
    assert "--base-virtaddr=0x" in said
    assert 14 in explain(target.starts())


@problem(42, state="WARN")
@needs(pages={"2M": 1})
def test_sanitizer_where_eal_begins(world):
    """ASan's shadow memory lies at EAL's base address; the log shows a taken one (14)."""
    gcc = [shutil.which("gcc") or "false", "-print-file-name=libasan.so.8"]
    library = subprocess.run(gcc, capture_output=True, text=True).stdout.strip()
    if "/" not in library:
        pytest.skip("wanted libasan.so.8 of gcc, found none")
    env = {"LD_PRELOAD": library, "ASAN_OPTIONS": "detect_leaks=0"}
    target = world.target("-m", "2", box=world.box({"2M": 1}), env=env)

    assert "a sanitizer's shadow" in target.doctor("address space", by_pid=True)
    assert 14 in explain(target.starts())


@problem(13)
@needs(pages={"2M": 8})
def test_lists_that_are_too_short(world):
    """26.07's --pagesz-mem limits the lists; Debian has no 26.07, so the target is pyeal.

    In earlier releases 64 GB must be used before a list is full.
    """
    args = ["-m", "16", "--pagesz-mem", "2M:4M"]
    target = world.target(*args, box=world.box({"2M": 8}), target="pyeal:26.07", release="26.07")

    said = target.doctor("address space")
    assert "lists of this release" in said
    assert "2M:16M" in said
    target.refused()


@problem(12)
@needs(pages={"2M": 40})
def test_few_descriptors(world):
    """Each page needs a descriptor."""
    target = world.target("-m", "80", box=world.box({"2M": 40}), rlimits={"nofile": 40})

    said = target.doctor("descriptors")
    assert "--single-file-segments" in said
    assert "ulimit -Hn 40" in said
    assert 12 in explain(target.refused())


@problem(11)
@needs(pages={"2M": 1})
def test_short_files(world):
    """ulimit -f below the size of a page."""
    target = world.target("-m", "2", box=world.box({"2M": 1}), rlimits={"fsize": MB})

    said = target.doctor("descriptors")
    assert "SIGXFSZ" in said
    assert "ulimit -f" in said
    assert 11 in explain(target.refused())
