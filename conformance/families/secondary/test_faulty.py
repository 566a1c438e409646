"""SEC: what a faulty or dead process may cost the others."""

import time

import pytest

from conformance import BIG, GB, WAIT, modes, needs, requirement
from conformance.families.secondary.pairs import or_killed
from conformance.harness.catalogue import holds


@requirement("SEC-037")
@needs(pages={"2M": 8})
@pytest.mark.parametrize("who", ["primary", "secondary"])
def test_the_channel_outlives_wrong_datagrams(start, join, peer, who, evidence):
    """Empty, short, long, with wrong lengths and counts: growth works at once, from both sides."""
    eal = start("-m", "2")
    other = join()
    p = peer(eal)
    (name,) = eal.run_files("mp_socket" if who == "primary" else f"mp_socket_{other.pid}_*")
    to = f"{eal.runtime_dir}/{name}"
    for raw in b"", b"\0", bytes(331), bytes(339), bytes(2000):
        p.ask("send_raw", to=to, hex=raw.hex())
    for more in {"length": 257}, {"length": GB}, {"fds": 254}, {"fds": 1 << 20}:
        p.ask("send", to=to, kind="REQ", name="mp_malloc_sync", **more)
    p.ask("send", to=to, kind="REQ", name="mp_malloc_sync", param="00" * 7)
    p.ask("send", to=to, kind="MSG", name="mp_malloc_request", param="ff" * 80)
    p.ask("send", to=to, kind="REP", name="mp_malloc_sync", param="00" * 80)
    p.close()
    (eal.run / p.name).unlink(missing_ok=True)
    took = []
    with or_killed(eal, other):
        for e in eal, other:
            begun = time.monotonic()
            va = e.ask("malloc", size=BIG, align=0, socket=-1, within=8).va
            took.append(time.monotonic() - begun)
            assert va
            e.free(va)
    evidence(f"growth took {max(took):.3f} s")

    assert max(took) < WAIT


@requirement("SEC-038")
@needs(pages={"2M": 8})
@pytest.mark.long
def test_a_mute_secondary_costs_one_wait(start, join, peer, evidence):
    """Growth is refused in time and undone, and succeeds once the unresponsive one is gone."""
    eal = start("-m", "2")
    other = join()
    before = eal.segments()
    p = peer(eal)
    begun = time.monotonic()
    with or_killed(eal, other):
        va = eal.ask("malloc", size=BIG, align=0, socket=-1, within=12).va
    took = time.monotonic() - begun
    same = eal.segments() == other.segments() == before
    p.kill()
    evidence(f"refused after {took:.1f} s")

    assert not va
    assert took < 2 * WAIT  # librte_eal waits for the roll-back as well
    assert same
    assert eal.malloc(BIG).va
    assert other.segments() == eal.segments()


def taken(eal, field):
    """Return the address of that lock of the config, and the word of a writer."""
    writer = b"\2\0\0\0" if holds(">=22.11", eal.release) else b"\xff" * 4
    at = eal.config().mem_cfg_addr + eal.decode.offsetof("rte_mem_config", field)
    return at, b"\1\0\0\0" if field == "malloc_heaps" else writer


@requirement("SEC-039")
@needs(pages={"2M": 8})
@pytest.mark.parametrize("lock", ["heap", "hotplug"])
def test_a_dead_ones_locks_are_broken(start, join, lock, evidence):
    """Killed while it held one: the primary, now alone, takes it away."""
    eal = start("-m", "2")
    dead = join()
    dead.kill()
    eal.give_way().poke(
        *taken(eal, {"heap": "malloc_heaps", "hotplug": "memory_hotplug_lock"}[lock])
    )
    begun = time.monotonic()
    va = eal.ask("malloc", size=BIG, align=0, socket=-1, within=8).va
    evidence(f"growth took {time.monotonic() - begun:.1f} s")

    assert va
    assert eal.config().memory_hotplug_lock.cnt == 0


@requirement("SEC-047")
@needs(pages={"2M": 8})
@pytest.mark.parametrize("lock", ["heap", "hotplug"])
@pytest.mark.long
def test_a_dead_ones_lock_is_freed_beside_a_living_one(start, join, lock, evidence):
    """The primary asks the living secondary, and does not wait for its end."""
    eal = start("-m", "2").give_way()
    lives, dead = join().give_way(), join()
    dead.kill()
    eal.poke(*taken(eal, {"heap": "malloc_heaps", "hotplug": "memory_hotplug_lock"}[lock]))
    begun = time.monotonic()
    areas = [e.ask("malloc", size=BIG, align=0, socket=-1, within=8).va for e in (eal, lives)]
    evidence(f"both grew within {time.monotonic() - begun:.1f} s")

    assert all(areas)
    assert eal.config().memory_hotplug_lock.cnt == 0
    lives.poke(areas[0], b"seen")
    assert eal.peek(areas[0], 4) == b"seen"


@requirement("SEC-046")
@needs(pages={"2M": 4})
@modes("dynmem", "legacy")
@pytest.mark.long
def test_the_next_to_join_finds_no_lock_of_the_dead(start, join, mode, evidence):
    """Killed while it holds all locks of the config; a secondary would wait for the first."""
    eal = start("-m", "2", limit=8).give_way()
    dead = join()
    at = eal.malloc(64).va
    fields = "mlock", "qlock", "tlock", "memory_hotplug_lock", "malloc_heaps"
    for field in fields:
        eal.poke(*taken(eal, field))
    dead.kill()
    begun = time.monotonic()
    other = join(limit=8, init=False).give_way().init()
    evidence(f"joined after {time.monotonic() - begun:.1f} s")
    other.poke(at, b"next")

    assert eal.peek(at, 4) == b"next"
    assert [eal.peek(taken(eal, f)[0], 4) for f in fields] == [bytes(4)] * len(fields)
    assert other.malloc(64).va and eal.malloc(64).va
