"""SEC: how a secondary finds a primary: config, version, socket, process type."""

import errno
import fcntl
import os
import re
import shlex

import pytest

from conformance import HUGE_FILES, modes, needs, requirement
from conformance.harness.catalogue import holds
from conformance.harness.child import command

MAGIC = 19820526
UNKNOWN, DISABLED, ENABLED = range(3)


def mapped(eal, name):
    """Mappings of a file of RUN in a process: (start, permissions)."""
    return [(m.start, m.perms) for m in eal.maps() if m.path.endswith(f"/{eal.prefix}/{name}")]


@requirement("SEC-001")
@needs(root=True)
def test_without_a_primary_there_is_nothing_to_join(join, box, evidence):
    """Named, and rte_errno left alone; no config is made."""
    e = join(init=False).refused("-m", "4")
    evidence(e.text)

    assert e.errno == 0
    assert re.search(r"Cannot open '.*/config' for rte_mem_config", e.log)
    assert box.sh("find /run/dpdk -name config || :") == ""


@requirement("SEC-002")
@needs(pages={"2M": 2})
def test_magic_is_waited_for_and_the_version_compared(start, join, evidence):
    """No answer before the magic is there; another version word is refused by name, in any byte.

    version 16 0b 0b 63: year, month, minor, kind of release
    """
    eal = start("-m", "2")
    eal.patch("magic", 0)
    late = join(init=False)
    late.begin("init", args=late.args)
    waited = not late.answered(0.3)
    eal.patch("magic", MAGIC)
    joined = late.answer()
    texts = []
    for byte in range(4):
        word = eal.config().version
        eal.patch("version", word ^ 1 << 8 * byte)
        e = join(init=False).refused()
        eal.patch("version", word)
        texts += [line for line in e.log.splitlines() if "DPDK version mismatch" in line]
        assert e.errno == 0
    evidence(texts[0])

    assert waited
    assert joined["ret"] == 0
    assert len(texts) == 4
    assert all("Primary and secondary process DPDK version mismatch" in t for t in texts)


@requirement("SEC-003")
@needs(pages={"2M": 2})
def test_config_lies_where_the_primary_has_it(start, join, evidence):
    """At mem_cfg_addr, shared and writable, without a descriptor; where that is taken, refused."""
    eal = start("-m", "2")
    at = eal.config().mem_cfg_addr
    other = join()
    names = [fd.path for fd in other.fds().values()]
    late = join(init=False)
    late.block(at)
    e = late.refused()
    text = next(line for line in e.log.splitlines() if "Cannot mmap memory for rte_config" in line)
    evidence(f"{mapped(other, 'config')}; {text}")

    assert mapped(other, "config") == [(at, "rw-s")]
    assert not [n for n in names if n.endswith("/config")]
    assert f"rte_config at [{at:#x}], got [0x" in text
    assert "please use '--base-virtaddr' option" in text
    assert e.errno == 0


@requirement("SEC-004")
@needs(pages={"2M": 2})
def test_a_primary_can_refuse_secondaries(start, join, evidence):
    """mp_status 1 refuses them; the first that joins makes it 2."""
    eal = start("-m", "2")
    eal.patch("mp_status", DISABLED, 1)
    e = join(init=False).refused()
    eal.patch("mp_status", UNKNOWN, 1)
    before = eal.config().mp_status
    join()
    evidence(f"{e.text}; then {before} -> {eal.config().mp_status}")

    assert "Primary process refused secondary attachment" in e.log
    assert (before, eal.config().mp_status) == (UNKNOWN, ENABLED)


@requirement("CFG-014")
@needs(pages={"2M": 2})
def test_mp_status_stays_enabled(start, join, evidence):
    """0 alone, 2 with the first secondary, and still when that is gone."""
    eal = start("-m", "2")
    alone = eal.config().mp_status
    other = join()
    joined = eal.config().mp_status
    other.close()
    evidence(f"{alone}, {joined}, {eal.config().mp_status}")

    assert (alone, joined, eal.config().mp_status) == (UNKNOWN, ENABLED, ENABLED)


@requirement("SEC-005")
@needs(pages={"2M": 2})
def test_its_socket_is_bound_under_the_lock_of_run(start, join, evidence):
    """mp_socket_<pid>_<hex>, once no other process holds a lock on RUN."""
    eal = start("-m", "2")
    late = join(init=False)
    fd = os.open(eal.run, os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    late.begin("init", args=late.args)
    blocked = not late.answered(0.3), eal.run_files("mp_socket_*")
    os.close(fd)
    late.answer()
    names = eal.run_files("mp_socket_*")
    evidence(f"after the lock was gone: {names}")

    assert blocked == (True, [])
    assert [re.sub(r"_[0-9a-f]+$", "_TSC", n) for n in names] == [f"mp_socket_{late.pid}_TSC"]
    assert not names[0].rpartition("_")[2].startswith("0")


@requirement("SEC-027")
@needs(pages={"2M": 4})
def test_auto_joins_a_live_primary_only(start, join, evidence):
    """Primary when alone, secondary beside a live primary, primary again after that died."""
    kinds = []

    def auto(**more):
        eal = start("--proc-type=auto", "-m", "2", mode="dynmem", **more)
        kinds.append(eal.logged("Auto-detected process type")[0].split(": ")[-1])
        return eal

    first = auto()
    second = auto(target=join.kind)
    second.close()
    first.kill()
    auto()
    evidence(", ".join(kinds))

    assert kinds == ["PRIMARY", "SECONDARY", "PRIMARY"]


@requirement("CFG-012")
@needs(pages={"2M": 3})
@modes(*HUGE_FILES)
def test_both_flags_are_the_primarys(start, join, mode, evidence):
    """Secondaries with the opposite options map the same files at the same addresses."""
    eal = start("-m", "4")
    other = join(*({"dynmem": ["--single-file-segments"]}.get(mode, [])))
    places = [
        [
            (s.addr, m.offset + s.addr - m.start, m.inode)
            for s in e.segments()
            for m in e.maps()
            if m.start <= s.addr < m.end
        ]
        for e in (eal, other)
    ]
    evidence(f"{len(places[0])} pages in {len({i for *_, i in places[0]})} file(s)")

    assert places[0] == places[1]
    flags = eal.config()
    assert (flags.legacy_mem, flags.single_file_segments) == (
        mode == "legacy",
        mode == "single-file",
    )


@requirement("SEC-030")
@needs(pages={"2M": 2})
@pytest.mark.long
def test_a_primary_that_never_finishes_is_told(start, join, evidence):
    """After 10 s without the magic the secondary ends, and says whose file it was."""
    eal = start("-m", "2")
    eal.patch("magic", 0)
    e = join(init=False).give_way().refused(within=15)
    evidence(e.text)

    assert e.errno == 0
    assert f"{eal.runtime_dir}/config" in e.text


@requirement("SEC-024")
@needs(pages={"2M": 2})
def test_every_tail_queue_it_registers_must_be_there(start, join, evidence):
    """RTE_RING, which every program with mempools has, is found; an unknown name is refused."""
    start("-m", "2", init=False).init_with_tailqs("RTE_RING")
    other = join(init=False)
    other.ask("tailq", name="RTE_RING")
    other.init()
    late = join(init=False)
    late.ask("tailq", name="NOBODYS")
    e = late.refused()
    evidence(next(line for line in e.log.splitlines() if "tailq" in line))

    assert e.errno == errno.EFAULT
    assert "Cannot initialize tailq: NOBODYS" in e.log


ADDR_NO_RANDOMIZE = 0x0040000


@requirement("SEC-032")
@needs(pages={"2M": 2})
@modes(*HUGE_FILES)
@pytest.mark.long
def test_twenty_in_a_row_find_their_addresses_free(start, join, evidence):
    """With addresses randomised as the kernel does: every one joins, sees a byte, and leaves."""
    eal = start("-m", "2")
    at = eal.malloc(64).va
    bases = set()
    for i in range(20):
        eal.poke(at, bytes([i]))
        other = join(fresh=True)
        assert other.peek(at, 1) == bytes([i])
        with open(f"/proc/{other.pid}/personality") as f:
            assert not int(f.read(), 16) & ADDR_NO_RANDOMIZE
        bases.add(next(m.start for m in other.maps() if "/libc" in m.path))
        other.close()
    evidence(f"libc at {len(bases)} different addresses")

    assert len(bases) > 15
    assert eal.run_files("mp_socket_*") == []
    if holds(">=21.11", eal.release):  # what 20.11 leaves: CLEAN-014
        assert eal.run_files("fbarray_*_*") == []


def unrandomised(target):
    """The same target with address randomisation off."""
    return f"cmd:{shlex.join(['setarch', '-R', *command(target)])}"


@requirement("SEC-017")
@needs(pages={"2M": 3})
@modes("legacy")
@pytest.mark.parametrize("random", [True, False], ids=["random", "setarch-R"])
def test_legacy_pages_are_mapped_as_recorded(start, join, random, evidence):
    """Each record's file, shared, at its address, with a shared lock; ASLR is warned of."""
    eal = start("-m", "6")
    other = join(target=join.kind if random else unrandomised(join.kind))
    warned = other.logged("Address Space Layout Randomization (ASLR) is enabled")
    warned += other.logged("may cause issues with mapping memory into secondary processes")
    records = [r for r in eal.hugepage_data() if r.size]
    evidence(f"{len(records)} records, {len(warned)} lines of warning")

    assert len(records) == 3
    if random or holds(">=22.11.11", eal.release):
        assert len(warned) == (2 if random else 0)
    for r in records:
        m = other.map_at(r.final_va)
        assert (m.path, "s" in m.perms) == (r.filepath, True)
        locks = eal.locks(eal.box.path(r.filepath))
        assert [(x.kind, x.mode) for x in locks] == [("FLOCK", "READ")] * 2
