"""Roll-back: whichever page of a batch fails, and however, nothing of the failed part is left.

A batch of ten pages in chunks of four, populated by two threads; page 0 of the list is there.

    segment  0 | 1 2 3 4 | 5 6 7 8 | 9 10       page k of the batch is segment 1 + k
"""

import os
from functools import partial

import pytest

from conformance import DYNAMIC, needs
from conformance.harness import fake_host
from conformance.units.segments.rollback import (
    PAGE,
    N,
    but_for_versions,
    pages_had,
    refuse,
    state,
)

CALLS = [
    ("flock", "ENOLCK", 0),
    ("flock", "ENOLCK", 3),
    ("flock", "ENOLCK", 4),
    ("flock", "ENOLCK", 9),
    ("openat", "EMFILE", 9),
    ("mmap", "ENOMEM", 0),
    ("mmap", "ENOMEM", 4),
    ("newfstatat", "EACCES", 4),
]


@needs(pages={"2M": N + 1}, root=True, strace=True)
@pytest.mark.parametrize("how", ["", "plain"])
@pytest.mark.parametrize(("call", "error", "k"), CALLS)
def test_a_call_that_fails_for_one_page(eal_of, call, error, k, how):
    """The pages before it are allocated if any number will do; then the next list is not needed.

    Page 0 of the batch failing leaves list 0 without any: list 1 serves all ten.
    """
    eal = eal_of("dynmem", how=how)
    name = f"{eal.prefix}map_{1 + k}"
    path = [f"{eal.box.hugedir('2M')}/{name}", name]

    assert pages_had(eal, partial(eal.failing, call, error, path=path)) == (k or N)


@needs(pages={"2M": N + 1}, root=True, strace=True)
def test_an_unlinked_page_file(eal_of):
    """--huge-unlink=always: no name to remove, all else the same."""
    eal = eal_of("dynmem", "--huge-unlink")
    path = f"{eal.box.hugedir('2M')}/{eal.prefix}map_5"

    assert pages_had(eal, partial(eal.failing, "flock", "ENOLCK", path=path)) == 4


@needs(pages={"2M": N + 1}, root=True, strace=True)
@pytest.mark.parametrize(("k", "when"), [(0, "1+1"), (3, "1+4")])
def test_one_file_is_mapped_as_far_as_it_goes(eal_of, k, when):
    """The mapping of all ten fails, then that of page k. List 1 has a file of its own."""
    eal = eal_of("single-file")
    path = f"{eal.box.hugedir('2M')}/{eal.prefix}map_0"

    got = pages_had(eal, partial(eal.failing, "mmap", "ENOMEM", path=path, when=when))
    assert got == (k or N)


@needs(pages={"2M": N + 1}, strace=True)
@pytest.mark.parametrize("k", [0, 9])
def test_a_memfd_that_is_not_to_be_had(eal_of, k):
    """The call of page k fails, and in list 1 no more."""
    eal = eal_of("in-memory")

    got = pages_had(eal, partial(eal.failing, "memfd_create", "EMFILE", when=str(k + 1)))
    assert got == (k or N)


LIMITS = [
    ("dynmem", 0, False),
    ("dynmem", 3, False),
    ("dynmem", 4, False),
    ("dynmem", 9, False),
    ("single-file", 4, False),
    ("in-memory", 4, False),
    ("dynmem", 4, True),
    ("single-file", 9, True),
    ("in-memory", 0, True),
]


@needs(pages={"2M": N + 1}, root=True, cgroup="hugetlb", cpus=2)
@pytest.mark.parametrize(("mode", "k", "helper"), LIMITS)
def test_a_cgroup_limit_at_page_k(eal_of, cgroup, mode, k, helper):
    """Populating stops in the middle of a chunk. helper: one thread works, not the caller's.

    With two at work the populated pages need not be the first: fewer are allocated, or none.
    """
    eal = eal_of(mode, how="helper" * helper, cgroup=cgroup("2M", (1 + k) * PAGE))

    got = pages_had(eal)
    assert got == k if helper else got <= k


@needs(pages={"2M": N + 1}, root=True, strace=True, cgroup="hugetlb")
def test_a_limit_on_reservations(eal_of, cgroup):
    """mmap itself fails at page 4."""
    eal = eal_of("dynmem", cgroup=cgroup("2M", 5 * PAGE, reserve=True))

    assert pages_had(eal) == 4


@needs(pages={"2M": N + 1}, root=True, cpus=2)
@pytest.mark.parametrize("mode", DYNAMIC)
def test_pages_on_the_wrong_node(eal_of, make_box, mode, tmp_path):
    """All ten are mapped and populated before it shows."""
    pages = {"2M": N + 1}
    binds = fake_host.build(tmp_path / "tree", {"2M": [N + 1, N + 1]}, {0: "0", 1: "1"})
    box = make_box(binds=binds, **{"lease" if mode == "in-memory" else "pages": pages})
    eal = eal_of(mode, "-l", "0", box=box)

    assert pages_had(eal, socket=1) == 0
    assert eal.logged("(wanted 1, got 0)")


@needs(pages={"2M": N + 1}, root=True, strace=True)
@pytest.mark.parametrize(
    ("call", "error"), [("move_pages", "EPERM"), ("pread64", "EIO"), ("madvise", "EHWPOISON")]
)
def test_a_call_for_all_pages(eal_of, call, error):
    """The node query, pagemap, or every madvise: also the one that keeps pages out of dumps.

    Of madvise each thread's first: later ones make the reservation again.
    """
    eal = eal_of("dynmem", "--iova-mode", "pa" if os.geteuid() == 0 else "va")
    when = "1" if call == "madvise" else ""

    got = pages_had(eal, partial(eal.failing, call, error, when=when))
    assert got == 0 or call == "madvise"


@needs(pages={"2M": N + 1}, root=True, strace=True, cpus=2)
def test_no_thread_to_be_had(eal_of):
    """One thread does it all."""
    eal = eal_of("dynmem")
    before = state(eal)
    with eal.failing("clone3", "EAGAIN"):
        segs = eal.alloc(PAGE, 0, N)

    assert len(segs) == N
    assert eal.free_segs(segs)["ret"] == 0
    assert but_for_versions(state(eal)) == but_for_versions(before)


@needs(pages={"2M": N + 1}, root=True)
def test_a_locked_directory_that_is_gone(eal_of):
    """Unmounted while the process runs: the error says what cannot be locked."""
    eal = eal_of("dynmem")
    before, at = state(eal), eal.box.hugedir("2M")
    eal.box.sh(f"umount -l {at}; rmdir {at}")
    error = refuse(eal, 1)
    eal.box.sh(f"mkdir {at}")

    assert "Cannot lock" in error.text
    assert [s.addr for s in eal.segments()] == before["pages"]
