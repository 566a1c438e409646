"""CFG: the runtime directory, and the shared config file in it as a file."""

import errno
import os
import random

import pytest

from conformance import SHARED, modes, needs, requirement
from conformance.harness import host
from conformance.harness.catalogue import holds
from conformance.harness.child import TargetDied
from conformance.harness.proc import PAGE, rounded

MAGIC = 19820526
NO_VA = "--iova-mode=va"  # frames differ between runs


def word(raw, at, n=4):
    return int.from_bytes(raw[at : at + n], "little")


@pytest.fixture
def tmp_dpdk():
    """/tmp/dpdk to mount something on, gone again unless it was there."""
    with host.alone("tmp-dpdk"):
        there = os.path.isdir("/tmp/dpdk")
        os.makedirs("/tmp/dpdk", exist_ok=True)
        yield
        if not there:
            os.rmdir("/tmp/dpdk")


@requirement("CFG-001")
@needs(root=True)
@pytest.mark.parametrize("case", ["root", "RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR", "tmp"])
def test_runtime_directory_follows_environment_and_user(tmp_dpdk, start, box, case, evidence):
    """$RUNTIME_DIRECTORY (22.11 and later), root's /var/run, $XDG_RUNTIME_DIR, /tmp: in this order.

    Both levels are made with mode 0700; the second start finds them there.
    """
    box.sh("mkdir /run/own; mount -t tmpfs -o mode=1777 none /tmp/dpdk")
    env, user, base = {
        "root": ({"XDG_RUNTIME_DIR": "/run/own"}, None, "/var/run"),
        "RUNTIME_DIRECTORY": ({"RUNTIME_DIRECTORY": "/run/own"}, None, "/run/own"),
        "XDG_RUNTIME_DIR": ({}, "nobody", "/run/user"),
        "tmp": ({"XDG_RUNTIME_DIR": ""}, "nobody", "/tmp"),
    }[case]
    for _ in range(2):
        eal = start("-m", "4", mode="no-huge", env=env, as_user=user)
        if case == "RUNTIME_DIRECTORY" and holds("<22.03", eal.release):
            base = "/var/run"
        modes = [f"{d.stat().st_mode & 0o777:o}" for d in (eal.run, eal.run.parent)]
        evidence(f"{eal.runtime_dir}, modes {modes}")
        eal.close()

        assert eal.runtime_dir == f"{base}/dpdk/{eal.prefix}"
        assert (eal.run / "config").is_file()
        assert modes == ["700", "777" if case == "tmp" else "700"]


@requirement("CFG-002")
@needs(root=True, pages={"2M": 2})
@modes("no-huge", "in-memory")
def test_runtime_directory_is_made_or_else_the_start_is_refused(start, mode, evidence):
    """Where nothing shared goes into it (in-memory, no-shconf) its lack is only a warning."""
    nowhere = {"env": {"XDG_RUNTIME_DIR": "/proc/none"}, "as_user": "nobody"}
    private = ["-m", "2", *(["--no-shconf"] if mode == "no-huge" else [])]
    eal = start(*private)
    made = eal.run.is_dir()
    late = holds(">=21.08", eal.release)
    eal.close()
    goes_on = start(*private, **nowhere)
    warned = goes_on.logged("No DPDK runtime directory created")
    evidence(f"made: {made}; {warned}")

    assert made == late
    assert bool(warned) == late
    if mode == "no-huge":
        e = start("-m", "2", init=False, **nowhere).refused()
        assert e.errno == errno.EINVAL
        assert "Cannot create runtime directory" in e.log + e.text


@requirement("CFG-003")
@needs(pages={"2M": 4})
@modes(*SHARED)
def test_config_has_private_bytes_mapped_shared(start, evidence):
    """RUN/config: mode 0600, of one size in all releases of a build, mapped read-write.

    25344 bytes with cache lines of 64 bytes, 27520 with lines of 128.
    """
    eal = start("-m", "4")
    st = (eal.run / "config").stat()
    mapped = next(m for m in eal.maps() if m.path.endswith("/config"))
    evidence(f"{st.st_size} bytes, mode {st.st_mode & 0o777:o}, mapped {mapped.perms}")

    assert st.st_size == eal.decode.sizeof("rte_mem_config") in (25344, 27520)
    assert st.st_mode & 0o777 == 0o600
    assert mapped.perms == "rw-s"


@requirement("CFG-004")
@needs(pages={"2M": 2})
@modes(*SHARED)
@pytest.mark.parametrize(
    ("base", "lists"),
    [(None, None), (0x200000000, 0x200000000), (0x200001000, 0x201000000)],
    ids=["none", "round", "odd"],
)
def test_config_lies_at_the_cursor_or_just_below_the_base(start, base, lists, evidence):
    """Below --base-virtaddr, rounded up to 16 MiB, so that lists begin on it; and says where.

    base - 25344, down to a page:  0x1fff9d00 -> 0x1fff9000 | config, 7 pages | base
    """
    eal = start("-m", "2", *([f"--base-virtaddr={base:#x}"] if base else []))
    mapped = next(m for m in eal.maps() if m.path.endswith("/config"))
    said, size = eal.config().mem_cfg_addr, eal.decode.sizeof("rte_mem_config")
    at = (lists - size) // PAGE * PAGE if lists else eal.decode.constants["eal_get_baseaddr()"]
    evidence(f"mapped at {mapped.start:#x}, mem_cfg_addr {said:#x}")

    assert (mapped.start, mapped.len) == (at, rounded(size))
    assert said == at


@requirement("CFG-005")
@needs(pages={"2M": 2})
@modes(*SHARED)
def test_live_primary_holds_a_write_lock_on_the_bytes_of_memsegs(start, evidence):
    """A POSIX lock on 17408 bytes; it keeps a second primary out and goes with the first."""
    eal = start("-m", "2")
    first = 136 if holds("<23.11", eal.release) else 144
    locks = [(x.kind, x.mode, x.start, x.end) for x in eal.locks(eal.run / "config")]
    refused = start("-m", "2", init=False).refused()
    kept = eal.locks(eal.run / "config")
    eal.close()
    evidence(f"{locks}, then {refused.text}")

    assert locks == [("POSIX", "WRITE", first, first + 17408 - 1)]
    assert "Cannot create lock on" in refused.log + refused.text
    assert len(kept) == 1
    assert eal.locks(eal.run / "config") == []


@requirement("CFG-009")
@needs(pages={"2M": 2}, strace=True)
@modes(*SHARED)
def test_magic_is_the_last_word_of_the_start(start, mode, evidence):
    """Killed at the sweep of RUN, all is there but the magic; after the start it is.

    ... heaps | tsc_hz | service tables | sweep of RUN: killed here | magic
    """
    late = start("-m", "2", init=False)
    late.trace("getdents64", inject="getdents64:signal=KILL", path=f"/run/dpdk/{late.prefix}")
    with pytest.raises(TargetDied, match="SIGKILL"):
        late.init()
    run = late.box.path(f"/run/dpdk/{late.prefix}")
    before = late.decode.config((run / "config").read_bytes())
    late.close()
    after = start("-m", "2").config()
    evidence(
        f"magic {before.magic:#x}, then {after.magic:#x}; {before.memsegs[0].memseg_arr.count}"
        f" pages and {before.malloc_heaps[0].alloc_count} areas at that time"
    )

    assert before.malloc_heaps[0].alloc_count == after.malloc_heaps[0].alloc_count > 0
    assert before.tsc_hz > 0
    assert (before.magic, after.magic) == (0, MAGIC)


@requirement("CFG-016")
@needs(pages={"2M": 2})
@modes(*SHARED)
def test_config_that_is_there_is_overwritten_whole(start, mode, evidence):
    """Noise of more and of fewer bytes leaves no trace."""

    def left():
        eal = start("-m", "2", NO_VA)
        raw = bytearray((eal.run / "config").read_bytes())
        clock = eal.decode.offsetof("rte_mem_config", "tsc_hz")
        raw[clock : clock + 8] = bytes(8)  # it is measured again
        eal.close()
        return eal.run / "config", bytes(raw)

    path, clean = left()
    noise = [random.Random(n).randbytes(n) for n in (100, 100_000)]
    found = []
    for text in noise:
        path.write_bytes(text)
        found.append(left()[1])
    evidence(f"{[len(x) for x in noise]} bytes of noise, {[len(x) for x in found]} after")

    assert found == [clean, clean]


@requirement("CFG-020")
@needs(pages={"2M": 2})
@modes("in-memory", "dynmem", "legacy", "no-huge")
def test_nothing_is_shared_without_shared_configuration(start, mode, evidence):
    """--in-memory and --no-shconf leave the runtime directory empty."""
    eal = start("-m", "2", *([] if mode == "in-memory" else ["--no-shconf"]))
    found = [f for f in eal.run_files() if not f.startswith("dpdk_telemetry")]
    evidence(f"{eal.run_files()}")

    assert eal.info().physmem_size > 0
    assert found == []
    assert [m.path for m in eal.maps() if m.path.startswith(("/run/dpdk", "/var/run"))] == []
