"""Leaks are caught, pages are shared out, predicates and traces read right."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress

import pytest

from conformance import conftest
from conformance.harness import catalogue, decode, host, trace
from conformance.harness.box import lifeline
from conformance.harness.child import environment
from conformance.harness.host import Pool, Snapshot

CLEAN = Snapshot({"2M": Pool(8, 8, 0, 0)}, frozenset(), frozenset(), frozenset(), {})


@pytest.mark.parametrize(
    ("after", "words"),
    [
        ({"pools": {"2M": Pool(8, 7, 0, 0)}}, "1 2M pages are missing"),
        ({"pools": {"2M": Pool(8, 8, 2, 0)}}, "2 2M pages are missing"),
        ({"pools": {"2M": Pool(9, 9, 0, 0)}}, "2M pool changed"),
        ({"pools": {}}, "2M pool changed"),
        ({"mounts": frozenset({("/mnt", "hugetlbfs", "none")})}, "mount left behind: /mnt"),
        ({"files": frozenset({"/run/dpdk/eal_1"})}, "file left behind: /run/dpdk/eal_1"),
        ({"children": frozenset({os.getpid()})}, f"process left behind: {os.getpid()}"),
    ],
    ids=["missing", "reserved", "grown", "gone", "mount", "file", "process"],
)
def test_difference_is_named(monkeypatch, after, words):
    monkeypatch.setattr(host, "users", list)

    assert host.difference(CLEAN, CLEAN) == []
    assert [words in said for said in host.difference(CLEAN, CLEAN._replace(**after))] == [True]


def test_pages_that_others_hold_are_not_our_leak(monkeypatch):
    monkeypatch.setattr(host, "users", lambda: [1])

    assert host.difference(CLEAN, CLEAN._replace(pools={"2M": Pool(8, 0, 0, 0)})) == []


@pytest.mark.parametrize(
    ("leak", "words"),
    [
        ("subprocess.Popen(['sleep', '9'])", "process left behind"),
        ("os.mkdir(host.RUN + '/dpdk/eal_leak')", "file left behind"),
    ],
    ids=["process", "file"],
)
def test_leak_of_a_test_is_its_error(suite, monkeypatch, leak, words):
    monkeypatch.setattr(host, "RUN", str(suite.path))
    monkeypatch.setattr(host, "SETTLED", 1.0)
    (suite.path / "dpdk").mkdir()
    before = host.children()
    done = suite.run(
        "import os, subprocess\nfrom conformance.harness import host\n"
        f'@requirement("FAKE-001")\ndef test_it(): {leak}',
        "-W",
        "ignore::ResourceWarning",
    )
    for pid in host.children() - before:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)

    assert done.outcomes == {"passed": 1, "errors": 1}
    assert words in done.text


def test_ledger_never_promises_a_page_twice(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "pools", lambda: {"2M": Pool(8, 8, 2, 0)})
    ledger = host.Ledger(tmp_path / "ledger", limit=0.05)
    ledger.take({"2M": 4})

    with pytest.raises(host.NotEnough, match="wanted 4 free 2M pages, found 2"):
        ledger.take({"2M": 4})
    ledger.give({"2M": 4})
    ledger.take({"2M": 6})


def test_ledger_does_not_wait_for_what_a_pool_cannot_have(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "pools", lambda: {"2M": Pool(8, 8, 0, 0)})
    ledger = host.Ledger(tmp_path / "ledger", limit=60)
    begun = time.monotonic()
    with pytest.raises(host.NotEnough, match="wanted 9 free 2M pages, found 8"):
        ledger.take({"2M": 9})
    with pytest.raises(host.NotEnough, match="wanted 1 free 1G pages, found 0"):
        ledger.take({"1G": 1})

    assert time.monotonic() - begun < 10


def test_ledger_gives_a_node_no_more_than_it_has(tmp_path, monkeypatch):
    """Of 8 free pages 3 are the node's; one is reserved and may come from anywhere."""
    monkeypatch.setattr(host, "pools", lambda: {"2M": Pool(8, 8, 1, 0)})
    monkeypatch.setattr(host, "NODES", tmp_path)
    folder = tmp_path / "node1/hugepages/hugepages-2048kB"
    folder.mkdir(parents=True)
    (folder / "free_hugepages").write_text("3\n")
    ledger = host.Ledger(tmp_path / "ledger", limit=0)

    with pytest.raises(host.NotEnough, match="wanted 3 free 2M pages, found 2"):
        ledger.take({"2M": 3}, node=1)
    with pytest.raises(host.NotEnough, match="found 0"):
        ledger.take({"2M": 1}, node=0)
    ledger.take({"2M": 2}, node=1)


def test_ledger_forgets_the_dead_and_no_living_one(tmp_path, monkeypatch):
    """A record counts while it is locked, also by a process in another PID namespace."""
    monkeypatch.setattr(host, "pools", lambda: {"2M": Pool(8, 8, 0, 0)})
    code = (
        "import os, sys; from conformance.harness import host\n"
        "host.pools = lambda: {'2M': host.Pool(8, 8, 0, 0)}\n"
        "host.Ledger(sys.argv[1]).take({'2M': 6}); print('taken', flush=True); input()"
    )
    unshare = ["unshare", "-pf", "--kill-child"] if host.is_root() else []
    argv = [*lifeline(), *unshare, sys.executable, "-c", code, tmp_path / "ledger"]
    pipe = subprocess.PIPE
    other = subprocess.Popen(argv, stdin=pipe, stdout=pipe, text=True, env=environment())
    with other, suppress(BrokenPipeError):
        assert other.stdout.readline() == "taken\n"
        with pytest.raises(host.NotEnough, match="wanted 4 free 2M pages, found 2 after 0 s"):
            host.Ledger(tmp_path / "ledger", limit=0).take({"2M": 4})
        other.kill()
    ledger = host.Ledger(tmp_path / "ledger")
    ledger.take({"2M": 8})
    ledger.give({"2M": 8})

    assert not (tmp_path / "ledger").exists()


def test_a_page_that_goes_between_count_and_mount_is_a_new_try(tmp_path, monkeypatch):
    monkeypatch.setattr(host, "pools", lambda: {"2M": Pool(8, 8, 0, 0)})
    tries = iter([host.Gone("wanted 4"), host.Gone("wanted 4"), "mounted"])

    def mount():
        found = next(tries)
        if isinstance(found, Exception):
            raise found
        return found

    assert host.Ledger(tmp_path / "ledger").take({"2M": 4}, mount) == "mounted"


@pytest.mark.parametrize(
    ("predicate", "release", "answer"),
    [
        ("", "20.11.10", True),
        (">=22.11,<=24.11", "24.11.6", True),
        (">=22.11,<=24.11", "25.11.2", False),
        ("<=24.11.5", "24.11.6", False),
        ("==26.07", "26.07", True),
        ("==20.11", "20.11.10", True),
        (">=23.11", "22.11.11", False),
        (">=25.11", "25.11.0-rc1", True),
    ],
)
def test_release_predicate(predicate, release, answer):
    assert catalogue.holds(predicate, release) is answer


def test_bad_predicate_is_a_fault_of_the_suite():
    with pytest.raises(catalogue.Broken):
        catalogue.holds("22.11", "22.11.11")


def test_traced_calls():
    calls = trace.parse(r"""
1  <... munmap resumed>)                 = 0
1  memfd_create("test", MFD_HUGETLB|30<<MFD_HUGE_SHIFT) = -1 EINVAL (Invalid argument) (INJECTED)
2  openat(AT_FDCWD</>, "/a,b)", O_RDONLY) = 23</run/dpdk/rte>
2  mmap(0x1180400000, 4096, PROT_READ, MAP_SHARED, 20</run/x_1>, 0) = 0x1180400000
1  read(0<pipe:[1]>,  <unfinished ...>
2  +++ exited with 0 +++
1  <... read resumed>"a\"b", 4096) = 4
1  exit_group(0) = ?
""")

    assert [c.name for c in calls] == ["memfd_create", "openat", "mmap", "read", "exit_group"]
    assert calls[0][2:6] == (('"test"', "MFD_HUGETLB|30<<MFD_HUGE_SHIFT"), -1, "EINVAL", True)
    assert calls[1].args[1:] == ('"/a,b)"', "O_RDONLY") and calls[1].ret == 23
    assert calls[2].args[4:] == ("20</run/x_1>", "0") and calls[2].ret == 0x1180400000
    assert calls[3].args == ("0<pipe:[1]>", r'"a\"b"', "4096") and calls[3].ret == 4
    assert calls[4].ret is None


@pytest.mark.parametrize("name", decode.layouts())
def test_decoder_reads_each_release(name):
    d = decode.release(name)
    lists = d.offsetof("rte_mem_config", "memsegs")
    data = bytearray(d.sizeof("rte_mem_config"))
    at = lists + 136 * 5
    data[at : at + 8] = (0x100200000).to_bytes(8, "little")
    data[at + 40 : at + 50] = b"memseg-x-0"
    data[at + 16 : at + 20] = (-1).to_bytes(4, "little", signed=True)
    found = d.config(bytes(data)).memsegs[5]

    assert (len(data), lists) == (25344, 136 if name < "23" else 144)
    assert (found.base_va, found.addr_64, found.socket_id) == (0x100200000, 0x100200000, -1)
    assert found.memseg_arr.name == "memseg-x-0"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("24.11.4", "24.11.6"),
        ("23.07.0", "22.11.11"),
        ("25.11.0-rc1", "25.11.2"),
        ("26.11.0-rc0", "26.07"),
    ],
)
def test_decoder_takes_the_nearest_older_line(name, nearest):
    assert decode.release(name).name == nearest


def test_decoder_refuses_what_is_older_than_all_layouts():
    with pytest.raises(LookupError, match=r"no layouts of release 19\.11\.1; known: 20\.11\.10, "):
        decode.release("19.11.1")


def test_a_release_is_the_same_with_and_without_its_zero():
    pairs = [("26.07", "26.07.0"), ("22.11.11", "22.11.11"), ("26.11.0-rc0", "26.11-rc0")]

    assert all(catalogue.same_release(*p) for p in pairs)
    assert not catalogue.same_release("26.07", "26.07.0-rc1")
    assert not catalogue.same_release("22.11", "22.11.1")


@pytest.mark.parametrize(
    ("release", "zeroes", "lists"),
    [
        ("20.11.10", False, "per-list"),
        ("22.11.7", False, "per-list"),
        ("22.11.8", True, "per-list"),
        ("23.03.0", False, "per-list"),  # before the fix, although 22.11.8 has it
        ("26.07.0", True, "per-type"),
        ("26.11.0-rc0", True, "per-type"),
        ("27.11", True, "per-type"),
    ],
)
def test_a_predicate_may_be_a_fact_of_the_history(release, zeroes, lists):
    assert catalogue.holds("zeroes_released", release) == zeroes
    assert catalogue.holds(">=20.11,!zeroes_released", release) == (not zeroes)
    assert catalogue.holds(f"lists={lists}", release)
    assert not catalogue.holds(f"!lists={lists}", release)
    with pytest.raises(catalogue.Broken, match="no fact zeros in facts"):
        catalogue.holds("zeros", release)


@pytest.mark.parametrize(
    ("predicate", "words"),
    [
        ("!zeroes_released", "before 25.03, 24.11.2, 23.11.4, 22.11.8"),
        (
            "searches_past_a_mask,!masks_the_tail",
            "since 24.07, 23.11.2, 22.11.6, 21.11.8; before 25.07",
        ),
        ("cpus_looked_at=128", "since 20.11"),
        (">=20.11,<25.11", ">=20.11,<25.11"),
    ],
    ids=["fact", "two", "value", "numbers"],
)
def test_a_predicate_in_words(predicate, words):
    assert catalogue.in_words(predicate) == words


def test_fbarray_mask():
    data = b"\1" * 4 * 100 + (2).to_bytes(8, "little")
    data += (1 << 63 | 1).to_bytes(8, "little") + (1 << 35).to_bytes(8, "little")
    a = decode.release("22.11.11").fbarray(data, 4, 100)

    assert (a.n_masks, a.used, a.raw(99)) == (2, [0, 63, 99], b"\1\1\1\1")


def test_rare_ones_are_spread_among_the_others():
    assert "".join(conftest.spread("abcdefXY", "XY")) == "abXcdYef"
    assert "".join(conftest.spread("abXYZ", "XYZ")) == "aXbYZ"
    assert conftest.spread("ab", "") == ["a", "b"]


@pytest.mark.parametrize(("free", "workers"), [(0, 1), (64, 1), (128, 2), (4096, 4)])
def test_workers_are_as_many_as_pages_allow(monkeypatch, free, workers):
    monkeypatch.setattr(host, "pools", lambda: {"2M": Pool(4096, free, 0, 0)})
    monkeypatch.setattr(host, "is_root", lambda: True)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(4))

    assert conftest.pytest_xdist_auto_num_workers(None) == workers
    assert host.workers(2) == (8 if workers == 4 else workers)
