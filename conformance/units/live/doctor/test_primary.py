"""doctor, link "files of others", for a secondary: the primary that it is to attach to."""

import os
import signal
import subprocess
from contextlib import contextmanager

import pytest

from conformance import MB, needs
from conformance.units.live.doctor.world import explain, problem

pytestmark = needs(root=True)


@contextmanager
def stopped(eal):
    """Stop a process meanwhile."""
    os.kill(eal.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(eal.pid, signal.SIGCONT)


@problem(18)
def test_no_primary(world):
    """There is no runtime directory."""
    target = world.target("--proc-type=secondary", box=world.box())

    said = target.doctor("files of others")
    assert "no primary" in said
    assert "start a primary" in said
    assert 18 in explain(target.refused())


@problem(18)
@needs(pages={"2M": 1})
def test_primary_of_another_prefix(world):
    """A primary is alive under another file prefix, which doctor names."""
    box = world.box({"2M": 1})
    world.eal("-m", "2", box=box, prefix=f"{world.prefix}_one")
    target = world.target("--proc-type=secondary", box=box, prefix=f"{world.prefix}_other")

    said = target.doctor("files of others")
    assert "is alive" in said
    assert "--file-prefix" in said
    assert 18 in explain(target.refused())


@problem(18)
@needs(pages={"2M": 1})
def test_primary_gone(world):
    """The files of a killed primary: a secondary attaches, to memory that no process serves."""
    box = world.box({"2M": 1})
    world.eal("-m", "2", box=box).kill()
    target = world.target("--proc-type=secondary", box=box)

    assert "only its files are left" in target.doctor("files of others")
    target.starts()


@problem(17)
@needs(pages={"2M": 1})
def test_primary_that_died_while_starting(world):
    """The magic word never came: a secondary waits for it."""
    box = world.box({"2M": 1})
    primary = world.eal("-m", "2", box=box)
    primary.patch("magic", 0)
    primary.kill()
    target = world.target("--proc-type=secondary", box=box)

    said = target.doctor("files of others")
    assert "wait indefinitely" in said
    assert "rm -r" in said
    target.hangs()


@problem(16)
@needs(pages={"2M": 1})
def test_primary_of_another_release(world):
    """The version word is 24.11.6's."""
    box = world.box({"2M": 1})
    primary = world.eal("-m", "2", box=box)
    primary.patch("version", 24 << 24 | 11 << 16 | 6 << 8 | 99)
    target = world.target("--proc-type=secondary", box=box, release="22.11.11")

    assert "not of one release" in target.doctor("files of others")
    assert 16 in explain(target.refused())


@problem(37)
@needs(pages={"2M": 4})
def test_primary_that_unlinked_its_pages(world):
    """--huge-unlink: no file is left to map."""
    box = world.box({"2M": 4})
    world.eal("-m", "2", "--huge-unlink", box=box)
    target = world.target("--proc-type=secondary", box=box)

    said = target.doctor("files of others")
    assert "no names" in said
    assert "--huge-unlink" in said
    assert 37 in explain(target.refused())


@problem(38)
def test_primary_without_hugepages(world):
    """--no-huge: its memory is its own."""
    box = world.box()
    world.eal("-m", "4", "--no-huge", box=box)
    target = world.target("--proc-type=secondary", box=box)

    assert "--no-huge" in target.doctor("files of others")
    assert 38 in explain(target.refused())


@problem(14)
@needs(pages={"2M": 1})
def test_primary_where_the_secondary_has_something(world):
    """The addresses of the primary's first list are taken in the secondary."""
    box = world.box({"2M": 1})
    primary = world.eal("-m", "2", box=box)
    target = world.target("--proc-type=secondary", box=box)
    target.eal.block(primary.lists()[0].base_va, MB)

    said = target.doctor("address space", by_pid=True)
    assert "taken in this process" in said
    assert "--base-virtaddr" in said
    assert 14 in explain(target.refused())


@problem(36, state="WARN")
@needs(pages={"2M": 8})
def test_primary_that_is_stopped(world):
    """A stopped primary is joined; a request for memory to it is given up after 5 s."""
    box = world.box({"2M": 8})
    primary = world.eal("-m", "2", box=box)
    target = world.target("--proc-type=secondary", box=box)
    with stopped(primary):
        said = target.doctor("files of others")
        assert "is stopped" in said
        assert "kill -CONT" in said
        target.starts()
        assert not target.eal.malloc(6 * MB).va
        assert 36 in explain(target.eal.log)


TAILQ = r"""
#include <dlfcn.h>
struct elem { void *head; void *next[2]; char name[32]; };
static struct elem e = { 0, {0, 0}, "RTE_RING" };
__attribute__((constructor)) static void add(void) {
    void *lib = dlopen("librte_eal.so.23", RTLD_NOW | RTLD_GLOBAL);
    int (*reg)(struct elem *) = lib ? dlsym(lib, "rte_eal_tailq_register") : 0;
    if (reg) reg(&e);
}
"""


@problem(20)
@needs(pages={"2M": 1})
def test_libraries_that_the_primary_lacks(world, tmp_path):
    """The secondary is linked with a library whose tail queue the primary has not registered."""
    library = tmp_path / "librte_ring.so"
    gcc = ["gcc", "-shared", "-fPIC", "-x", "c", "-", "-o", library, "-ldl"]
    try:
        subprocess.run(gcc, input=TAILQ, text=True, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("wanted gcc, found none that works")
    box = world.box({"2M": 1})
    world.eal("-m", "2", box=box)
    env = {"LD_PRELOAD": str(library)}
    target = world.target("--proc-type=secondary", box=box, env=env)

    assert "RTE_RING" in target.doctor("files of others", by_pid=True)
    assert 20 in explain(target.refused())
    world.target("--proc-type=secondary", box=box).starts()
