"""ERR: processes in each other's way: second primaries, survivors, faulty peers."""

import errno
import fcntl
import os
import struct
import time

import pytest

from conformance import BIG, MB, SHARED, WAIT, modes, needs, requirement, until

MEMORY = {"dynmem": "4", "single-file": "4", "legacy": "4", "no-huge": "16"}
SYNC = struct.Struct("<i60xQi4x")  # t, id, result of 80 bytes


def socket_of(eal):
    """Path of the socket that an EAL is spoken to by."""
    (name,) = eal.run_files(
        "mp_socket" if "--proc-type=secondary" not in eal.args else f"mp_socket_{eal.pid}_*"
    )
    return f"{eal.runtime_dir}/{name}"


def total(eal):
    return eal.config().malloc_heaps[0].total_size


def logged(eal, text, limit=8):
    """Whether a line comes in time: another thread writes it."""
    return until(lambda: eal.logged(text), limit)


@requirement("ERR-010")
@needs(pages={"2M": 6})
@modes(*SHARED)
def test_a_second_primary_is_refused(start, join, mode, evidence):
    """Of the same or another kind: the config is locked; the first continues."""
    eal = start("-m", MEMORY[mode])
    at = eal.malloc(64).va
    eal.poke(at, b"first")
    files = eal.run_files()
    e = start("-m", MEMORY[mode], target=join.kind, init=False).refused()
    evidence(e.text)

    assert e.errno == 0
    assert f"Cannot create lock on '{eal.runtime_dir}/config'. Is another primary" in e.log
    assert eal.peek(at, 5) == b"first"
    assert eal.run_files() == files
    assert eal.malloc(1000).va


@requirement("ERR-011")
@needs(pages={"2M": 8})
@modes("dynmem", "single-file")
def test_prefixes_live_side_by_side(start, join, prefix, evidence):
    """Two kinds on one hugetlbfs: no file in common, and each keeps its data."""
    one = start("-m", "4")
    two = start("-m", "4", prefix=f"{prefix}_other", target=join.kind)
    for e in one, two:
        e.poke(e.segments()[1].addr + MB, e.prefix.encode())
    files = [set(e.page_files()) for e in (one, two)]
    evidence(f"{[sorted(f) for f in files]}")

    assert all(files)
    assert not files[0] & files[1]
    for e in one, two:
        assert e.peek(e.segments()[1].addr + MB, len(e.prefix)) == e.prefix.encode()
    one.close()
    assert set(two.page_files()) == files[1]
    assert two.malloc(BIG).va


@requirement("ERR-012")
@needs(pages={"2M": 8})
def test_a_new_primary_beside_a_survivor_is_refused(start, join, evidence):
    """The dead primary's secondary still holds the arrays: ENODEV."""
    eal = start("-m", "4")
    other = join()
    eal.kill()
    before = total(other)
    e = start("-m", "4", init=False).refused()
    evidence(f"{e.text}; the survivor's heap: {before} -> {total(other)}")
    other.kill()  # its heap may be gone

    assert e.errno == errno.ENODEV
    assert "couldn't lock" in e.log


@requirement("ERR-033")
@needs(pages={"2M": 8})
def test_a_survivor_keeps_its_heap(start, join, evidence):
    """A new primary is refused before it writes a word of the config."""
    eal = start("-m", "4")
    other = join()
    at = other.malloc(64).va
    eal.kill()
    before = (other.run / "config").read_bytes()
    start("-m", "4", init=False).refused()
    same = (other.run / "config").read_bytes() == before
    evidence(f"config {'as it was' if same else 'overwritten'}")
    if not same:
        other.kill()

    assert same
    assert other.malloc(64).va
    other.free(at)


@requirement("ERR-013")
@needs(pages={"2M": 6})
@modes(*SHARED)
def test_a_crashed_run_hinders_no_new_one(start, join, mode, evidence):
    """Killed, and the other kind starts in what is left."""
    eal = start("-m", MEMORY[mode])
    lists = [(m.base_va, m.len) for m in eal.lists()]
    eal.kill()
    left = len(eal.run_files())
    again = start("-m", MEMORY[mode], target=join.kind)
    evidence(f"{left} files were left")

    assert left
    assert mode == "no-huge" or [(m.base_va, m.len) for m in again.lists()] == lists
    assert again.malloc(1000).va


JUNK = {  # what is sent, and what the C library says to it
    "short": ({"raw": bytes(10)}, "truncated msg"),
    "long": ({"raw": bytes(4096)}, "truncated msg"),
    "length": ({"length": 300}, "invalid received data length"),
    "negative": ({"length": -2}, "invalid received data length"),
    "fds": ({"fds": 300}, "invalid number of fd's"),
}


def throw(peer, to, what):
    what = dict(what)
    if raw := what.pop("raw", None):
        peer.ask("send_raw", to=to, hex=raw.hex())
    elif what.get("length", 0) < 0:  # -1 is the peer's own word for the true length
        peer.ask("send", to=to, kind="MSG", name="junk", length=MB)
    else:
        peer.ask("send", to=to, kind="MSG", name="junk", **what)


@requirement("ERR-027")
@needs(pages={"2M": 2})
@pytest.mark.parametrize("what", JUNK)
@pytest.mark.parametrize("who", ["primary", "secondary"])
def test_a_wrong_datagram_ends_the_channel(start, join, peer, who, what, evidence):
    """It says so, and answers nothing any more: an unknown name is logged before, not after."""
    eal = start("-m", "2")
    hit = eal if who == "primary" else join()
    p, to = peer(eal), socket_of(hit)
    sent, says = JUNK[what]
    p.ask("send", to=to, kind="MSG", name="before")
    before = logged(hit, "Cannot find action: before")
    throw(p, to, sent)
    said = logged(hit, says)
    p.ask("send", to=to, kind="MSG", name="after")
    after = logged(hit, "Cannot find action: after", 1.0)
    evidence(f"{said}, {after}")
    for e in (eal, hit):
        e.kill()  # cleanup would wait for answers

    assert before
    assert said
    assert not after


@requirement("ERR-028")
@needs(pages={"2M": 8})
@pytest.mark.long
def test_a_mute_secondary_costs_two_waits(start, peer, evidence):
    """5 s for the sync and 5 s for the roll-back, then malloc answers nothing."""
    eal = start("-m", "2")
    peer(eal)
    begun = time.monotonic()
    got = eal.malloc(BIG)
    took = time.monotonic() - begun
    evidence(f"refused after {took:.1f} s")
    eal.kill()

    assert not got.va
    assert 9.5 < took < 3 * WAIT


@requirement("ERR-029")
@needs(pages={"2M": 8})
@pytest.mark.parametrize("wrong", ["failed", "id"])
def test_a_failed_sync_is_only_logged(start, peer, wrong, evidence):
    """The secondary could not map it, or answers another request: growth succeeds all the same."""
    eal = start("-m", "2")
    p = peer(eal)
    got = answered(eal, p, wrong)
    evidence(f"malloc: {got.va:#x}")
    eal.kill()

    assert got.va


def answered(eal, p, wrong):
    """malloc that needs pages, with a peer that answers each sync in its way."""
    eal.begin("malloc", size=BIG, align=0, socket=-1)
    while not eal.answered(0.05):
        m = p.ask("receive", wait=0.2)
        if m and m.kind == "REQ":
            t, id, _ = SYNC.unpack(bytes.fromhex(m.param))
            answer = SYNC.pack(t, id + (wrong == "id"), wrong == "failed")
            p.ask("send", to=m.sender, kind="REP", name=m.name, param=answer.hex())
    return eal.answer("malloc")


@requirement("ERR-030")
@needs(pages={"2M": 4})
def test_an_unknown_request_is_logged_or_ignored(start, join, peer, evidence):
    """Logged without an answer, twice; "ignore me" from a process that is still starting."""
    eal = start("-m", "2")
    p = peer(eal)
    for name in "one", "two":
        p.ask("send", to=socket_of(eal), kind="REQ", name=name)
        assert logged(eal, f"Cannot find action: {name}")
    silent = p.ask("receive", wait=0.2)
    fd = os.open(eal.hugedir(), os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_EX)  # keeps it in the middle of its start
    late = join(init=False)
    late.runtime_dir = eal.runtime_dir
    late.begin("init", args=late.args)
    while not eal.run_files(f"mp_socket_{late.pid}_*"):
        assert not late.answered(0.02)
    p.ask("send", to=socket_of(late), kind="REQ", name="three")
    told = p.ask("receive", wait=8)
    os.close(fd)
    late.answer()
    evidence(f"{told}")
    p.close()

    assert silent is None
    assert (told.kind, told.name) == ("IGN", "three")


@requirement("ERR-031")
@needs(pages={"2M": 3}, root=True)
def test_a_missing_runtime_directory_matters_only_with_shared_files(start, box, evidence):
    """A file in its place: EINVAL, but only a warning with --no-shconf."""
    box.sh("touch /run/dpdk")
    e = start("-m", "2", init=False).refused()
    eal = start("-m", "2", "--no-shconf")
    evidence(f"{e.text}; {eal.logged('untime director')[:1]}")

    assert e.errno == errno.EINVAL
    assert eal.malloc(64).va
