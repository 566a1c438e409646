"""ERR: links, and files of others, where EAL's own files are to be."""

import os
import pwd
import socket

import pytest

from conformance import MB, needs, requirement
from conformance.harness.catalogue import holds
from conformance.harness.child import TargetError
from conformance.harness.proc import PAGE

KEPT = b"somebody's" * 5000
SHARED = ["config", "hugepage_info", "fbarray_memzone"]
PLACES = ["runtime-dir", *SHARED]
OWNED = [*PLACES, pytest.param("page", marks=needs(release=">=22.03"))]


def run_dir(eal):
    """The runtime directory that it will have, as this process can open it."""
    return eal.box.path("/var/run/dpdk") / eal.prefix


def page_path(eal):
    """The file of its first page."""
    first = "map_0_0" if holds(">=26.07", eal.release) else "map_0"
    return eal.hugedir() / f"{eal.prefix}{first}"


def plant(eal, place):
    """A link where `place` is to be: what it points at, as a path that can be looked at.

    A hugetlbfs holds no links: symlink(2) says EINVAL there.
    """
    run, elsewhere = run_dir(eal), eal.box.path("/run/elsewhere")
    run.parent.mkdir(mode=0o700)
    if place == "runtime-dir":
        elsewhere.mkdir()
        run.symlink_to("/run/elsewhere")
    else:
        run.mkdir(mode=0o700)
        elsewhere.write_bytes(KEPT)
        (run / place).symlink_to("/run/elsewhere")
    return elsewhere


def held(eal, path):
    """Whether it has that file mapped or open."""
    st = os.stat(path)
    return any(fd.inode == st.st_ino for fd in eal.fds().values()) or any(
        m.inode == st.st_ino for m in eal.maps()
    )


@requirement("ERR-060")
def test_attach_resizes_an_arrays_file(eal, evidence):
    """Five pages where the descriptor says one: cut. None: made longer."""
    a = eal.fbarray(length=64, elt_sz=8)
    other = a.copy()
    a.detach()
    seen = []
    for size in 5 * PAGE, 0:
        os.truncate(a.path, size)
        ret = other.attach()
        seen.append((ret, a.path.stat().st_size))
        if not ret:
            other.detach()
    evidence(f"(attach, bytes then): {seen}")

    assert seen == [(0, PAGE), (0, PAGE)]


@requirement("ERR-061")
@needs(pages={"2M": 2})
@pytest.mark.parametrize("place", PLACES)
def test_a_primary_follows_no_link(start, place, evidence):
    """A link is where it makes its files: refused by name, and nothing behind the link changes."""
    eal = start("-m", "2", init=False)
    elsewhere = plant(eal, place)
    refused = eal.refused()
    evidence(refused.text)

    assert "link" in refused.text + refused.log
    if place == "runtime-dir":
        assert os.listdir(elsewhere) == []
    else:
        assert elsewhere.read_bytes() == KEPT


@requirement("ERR-062")
@needs(pages={"2M": 2})
@pytest.mark.parametrize("place", PLACES)
def test_a_primary_follows_links(start, place, evidence):
    """What the link leads to becomes the runtime directory, or is overwritten."""
    eal = start("-m", "2", init=False)
    elsewhere = plant(eal, place)
    eal.init()
    evidence(f"{place} leads elsewhere: init succeeds")

    if place == "runtime-dir":
        assert "config" in os.listdir(elsewhere)
    else:
        assert elsewhere.read_bytes() != KEPT


@requirement("ERR-063")
@needs(pages={"2M": 4})
@pytest.mark.parametrize("place", SHARED)
def test_a_secondary_follows_no_link(start, join, place, evidence):
    """The primary's own file, moved and linked to: a secondary refuses it by name."""
    eal = start("-m", "2")
    at = eal.run / place
    moved = at.with_name("moved")
    at.rename(moved)
    at.symlink_to("moved")
    refused = join(init=False).refused()
    evidence(refused.text)

    assert "link" in refused.text + refused.log


@requirement("ERR-064")
@needs(pages={"2M": 6})
@pytest.mark.long
def test_nothing_is_sent_through_a_link(start, evidence):
    """A link among the sockets, to a socket elsewhere: growth sends nothing there, and succeeds."""
    eal = start("-m", "2")
    path = eal.box.path("/run/elsewhere")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as other:
        other.bind(str(path))
        other.setblocking(False)
        (eal.run / f"mp_socket_{os.getpid()}_1").symlink_to("/run/elsewhere")
        va = eal.malloc(3 * MB).va
        try:
            got = len(other.recv(1000))
        except BlockingIOError:
            got = 0
        (eal.run / f"mp_socket_{os.getpid()}_1").unlink()
    evidence(f"{got} bytes came through; growth {'succeeded' if va else 'failed'}")

    assert (got, bool(va)) == (0, True)


def give_away(eal, place):
    """The file belongs to another user."""
    other = pwd.getpwnam("nobody").pw_uid
    run = run_dir(eal)
    run.mkdir(mode=0o700, parents=True)
    at = page_path(eal) if place == "page" else run if place == "runtime-dir" else run / place
    if place == "page":
        os.chmod(eal.hugedir(), 0o1777)  # as a directory that several users share
        with open(at, "wb") as f:
            f.truncate(2 * MB)
    elif place != "runtime-dir":
        at.write_bytes(KEPT)
    os.chown(at, other, -1)
    return at


@requirement("ERR-065")
@needs(pages={"2M": 2})
@pytest.mark.parametrize("place", OWNED)
def test_what_belongs_to_somebody_else_is_not_used(start, place, evidence):
    """Another user than root and EAL's own has it: refused by name, and it stays as it is.

    A page's file is passed over: memory comes from another list.
    """
    never = ["--huge-unlink=never"] if place == "page" else []  # what is found is taken
    eal = start("-m", "2", *never, init=False)
    at = give_away(eal, place)
    try:
        said = eal.init().log
    except TargetError as e:
        said = e.text + e.log
    evidence("; ".join(line for line in said.splitlines() if "user" in line)[:200])

    assert "belongs to user" in said
    assert place in ("runtime-dir", "page") or at.read_bytes() == KEPT
    assert not held(eal, at)


@requirement("ERR-066")
@needs(pages={"2M": 2})
@pytest.mark.parametrize("place", OWNED)
def test_nobody_looks_at_the_owner(start, place, evidence):
    """Root takes what another user made and can still change."""
    never = ["--huge-unlink=never"] if place == "page" else []  # what is found is taken
    eal = start("-m", "2", *never, init=False)
    at = give_away(eal, place)
    eal.init()
    evidence(f"{place} belongs to uid {at.stat().st_uid}: init succeeds")

    assert at.stat().st_uid == pwd.getpwnam("nobody").pw_uid
    if place == "runtime-dir":
        assert "config" in os.listdir(at)
    elif place == "page":
        assert held(eal, at)
    else:
        assert at.read_bytes() != KEPT
