"""FBA: arrays made, attached, detached and destroyed."""

import fcntl
from errno import EADDRNOTAVAIL, EBUSY, EEXIST, EINVAL, ENAMETOOLONG, ENOENT

from conformance import modes, needs, requirement
from conformance.harness.proc import PAGE


@requirement("FBA-009")
def test_bad_arguments_are_refused_by_their_errno(eal, evidence):
    """No descriptor, no name, no length, no size, too long: EINVAL; 64 letters: ENAMETOOLONG."""
    bad = {
        "descriptor NULL": eal.fbarray(4, 4, null=True),
        "name NULL": eal.fbarray(4, 4, name=None),
        "length 0": eal.fbarray(0, 4),
        "element size 0": eal.fbarray(4, 0),
        "length 2^31": eal.fbarray(1 << 31, 1),
        "64 letters": eal.fbarray(4, 4, name="n" * 64),
    }
    good = eal.fbarray(4, 4, name="n" * 63)
    evidence(", ".join(f"{what}: {a.errno}" for what, a in bad.items()))

    assert {a.ret for a in bad.values()} == {-1}
    assert [a.errno for a in bad.values()] == [EINVAL] * 5 + [ENAMETOOLONG]
    assert (good.ret, good.now.name) == (0, "n" * 63)
    assert eal.run_files("fbarray_n*") == ["fbarray_" + "n" * 63, "fbarray_nohugemem"]


@requirement("FBA-010")
@needs(strace=True)
def test_attach_maps_the_file_at_the_creators_address(eal, evidence):
    """open without O_CREAT, flock SH that does not wait, mmap there."""
    a = eal.fbarray(length=64, elt_sz=8)
    other = a.copy()
    a.detach()
    trace = eal.trace("openat,flock,mmap", path=f"{eal.runtime_dir}/fbarray_suite")
    ret = other.attach()
    calls = trace.stop()
    evidence("; ".join(c.text for c in calls))

    opened, locked, mapped = calls
    assert ret == 0
    assert "O_RDWR" in opened.args[2] and "O_CREAT" not in opened.args[2]
    assert (locked.name, locked.args[1]) == ("flock", "LOCK_SH|LOCK_NB")
    assert mapped.ret == a.made.data
    assert {"MAP_SHARED", "MAP_FIXED"} <= set(mapped.args[3].split("|"))


@requirement("FBA-011")
def test_attach_refuses_overlap_missing_files_and_taken_addresses(eal, evidence):
    """Mapped already: EEXIST. No file: ENOENT. Other memory is there: EADDRNOTAVAIL."""
    mapped, gone, taken = (eal.fbarray(length=64, elt_sz=8, name=n) for n in "abc")
    copies = [a.copy() for a in (mapped, gone, taken)]
    gone.detach()
    gone.path.unlink()
    taken.detach()
    eal.block(taken.made.data)
    eal.poke(mapped.made.data, b"kept")
    seen = [(c.attach(), c.errno) for c in copies]
    evidence(str(seen))

    assert seen == [(-1, EEXIST), (-1, ENOENT), (-1, EADDRNOTAVAIL)]
    assert eal.peek(mapped.made.data, 4) == b"kept"
    assert eal.map_at(gone.made.data) is None and not gone.path.exists()
    assert eal.map_at(taken.made.data).path == "" and eal.locks(taken.path) == []


@requirement("FBA-012")
def test_detach_leaves_file_and_descriptor(eal, evidence):
    """Unmapped and unlocked, the file stays; again: ENOENT; attached again, all is as it was."""
    a = eal.fbarray(length=100, elt_sz=8)
    a.set_used(3, 64)
    eal.poke(a.get(64), b"content")
    before, first, area = a.now, a.detach(), eal.map_at(a.made.data)
    locks, size = eal.locks(a.path), a.path.stat().st_size
    again = a.detach(), a.errno
    back = a.attach()
    evidence(f"detach {first}, then {again}, attach {back}")

    assert (first, area, locks, size) == (0, None, [], PAGE)
    assert again == (-1, ENOENT)
    assert back == 0 and a.now == before
    assert a.find_next_used(4) == 64
    assert eal.peek(a.get(64), 7) == b"content"
    assert [k.mode for k in eal.locks(a.path)] == ["READ"]


@requirement("FBA-013")
def test_destroy_needs_the_file_for_itself(eal, evidence):
    """Another open file holds a shared flock: EBUSY, all is kept; else file and mapping go."""
    a = eal.fbarray(length=100, elt_sz=8)
    a.set_used(7)
    with open(a.path) as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        held = a.destroy(), a.errno
        kept = a.path.exists(), a.now.count, a.is_used(7), eal.map_at(a.made.data).perms
    freed = a.destroy()
    evidence(f"held: {held}; released: {freed}, {dict(a.now)}")

    assert held == (-1, EBUSY)
    assert kept == (True, 1, 1, "rw-s")
    assert freed == 0 and not a.path.exists()
    assert eal.map_at(a.made.data) is None
    assert (a.now.name, a.now.data, a.now.len, a.now.elt_sz, a.now.count) == ("", 0, 0, 0, 0)


@requirement("FBA-024")
def test_refused_destroy_costs_the_lock(eal, evidence):
    """flock() drops the shared lock before it refuses the exclusive one, and it stays dropped.

    As soon as the other holder detaches, the file can be created again under this array.
    """
    a = eal.fbarray(length=100, elt_sz=8)
    with open(a.path) as other:
        fcntl.flock(other, fcntl.LOCK_SH)
        before = len(eal.locks(a.path))
        refused = a.destroy(), a.errno
        after = len(eal.locks(a.path))
    again = eal.fbarray(length=100, elt_sz=8)
    evidence(f"{before} locks, {after} after {refused}; created again: {again.ret}")

    assert refused == (-1, EBUSY)
    assert (before, after) == (2, 1)
    assert again.ret == 0


@requirement("FBA-014")
def test_destroy_of_an_unlinked_file_keeps_the_array(eal, evidence):
    """ENOENT; it is still attached, works, and goes by detaching it."""
    a = eal.fbarray(length=100, elt_sz=8)
    a.path.unlink()
    seen = a.destroy(), a.errno
    works = a.set_used(99), a.find_next_used(0), a.now.count
    evidence(f"destroy {seen}, then {works}")

    assert seen == (-1, ENOENT)
    assert works == (0, 99, 1)
    assert eal.map_at(a.made.data).path.endswith("fbarray_suite (deleted)")
    assert a.detach() == 0 and eal.map_at(a.made.data) is None


@requirement("FBA-018")
@needs(pages={"2M": 1})
@modes("in-memory", "no-huge")
def test_without_shared_config_arrays_are_private_memory(start, mode, evidence):
    """Private and anonymous: no file, no descriptor, no lock, and none is needed to destroy it."""
    eal = start("-m", "2", *["--no-shconf"] * (mode == "no-huge"))
    a = eal.fbarray(length=100, elt_sz=8)
    a.set_used(99)
    mapped, used = eal.map_at(a.made.data), a.find_next_used(0)
    files, fds = eal.run_files("fbarray_*"), [fd.path for fd in eal.fds().values()]
    evidence(f"{mapped.perms} {mapped.path or 'anonymous'}, {len(fds)} descriptors")

    assert (mapped.perms, mapped.path, mapped.inode) == ("rw-p", "", 0)
    assert used == 99
    assert files == [] and not [path for path in fds if "fbarray" in path]
    assert not [m for m in eal.maps() if "fbarray" in m.path]
    assert a.destroy() == 0 and a.now.data == 0
