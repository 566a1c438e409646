"""One process and its EAL: fork, the end, other threads, callbacks, and signals at any moment."""

from __future__ import annotations

import gc
import os
import random
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from ctypes import addressof
from errno import EALREADY, EBUSY, EDEADLK, EINVAL, EPERM
from pathlib import Path
from typing import Any

import pytest

import pyeal
from conformance import MODES, needs
from conformance.campaigns.attack.interrupts import Alarm, At, life, ring, taken
from conformance.harness.child import environment
from pyeal import attached
from pyeal.eal import Primary

PRIVATE = ["--no-huge", "-m", "8", "--no-shconf"]
TRIALS = 150
SEED = 20261130


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Arguments of a primary that has files and a socket."""
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(tmp_path))
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    return ["--no-huge", "-m", "8", f"--file-prefix=one-process-{os.getpid()}"]


@pytest.fixture
def eal(shared: list[str]) -> Iterator[pyeal.Eal]:
    with pyeal.init(shared) as eal:
        yield eal


def in_child(act: Callable[[], object]) -> int:
    """Runs this in a forked child; returns the errno of its EalError, 0 without one."""
    if (pid := os.fork()) == 0:
        code = 255
        try:
            act()
            code = 0
        except pyeal.EalError as e:
            code = e.errno
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_child_that_leaves_the_with_takes_nothing(eal: pyeal.Eal) -> None:
    before = sorted(os.listdir(eal.runtime_dir))

    assert in_child(lambda: eal.__exit__(None, None, None)) == 0

    assert sorted(os.listdir(eal.runtime_dir)) == before
    assert "mp_socket" in before
    eal.free(eal.malloc(64))


@pytest.mark.parametrize(
    "act",
    [
        pytest.param(lambda eal: eal.cleanup(), id="cleanup"),
        pytest.param(lambda eal: eal.malloc(64), id="malloc"),
        pytest.param(lambda eal: eal.layout(), id="layout"),
        pytest.param(lambda eal: eal.walk_lists(lambda msl: 0), id="walk"),
        pytest.param(lambda eal: eal.memzone_lookup("none"), id="memzone"),
        pytest.param(lambda eal: eal.alloc_pages(2 << 20), id="pages"),
    ],
)
def test_a_child_is_refused(eal: pyeal.Eal, act: Callable[[pyeal.Eal], object]) -> None:
    assert in_child(lambda: act(eal)) == EPERM


KEPT: dict[str, Callable[[dict[str, Any]], object]] = {
    "malloc": lambda k: k["eal"].malloc(64),
    "free": lambda k: k["eal"].free(k["va"]),
    "alloc-pages": lambda k: k["eal"].alloc_pages(2 << 20),
    "layout": lambda k: k["eal"].layout(),
    "dump": lambda k: k["eal"].dump(),
    "segments": lambda k: list(k["eal"].segments()),
    "generator": lambda k: next(k["walk"]),
    "memseg-lists": lambda k: k["eal"].memseg_lists(),
    "walk": lambda k: k["eal"].walk_segments(lambda msl, ms: 0),
    "memzone-lookup": lambda k: k["eal"].memzone_lookup("zone"),
    "memzone-reserve": lambda k: k["eal"].memzone_reserve("other", 64),
    "memseg-of": lambda k: k["eal"].memseg_of(k["va"]),
    "physmem-size": lambda k: k["eal"].physmem_size,
    "dma-mask": lambda k: k["eal"].check_dma_mask(40),
    "list-count": lambda k: k["list"].count,
    "list-name": lambda k: k["list"].name,
    "list-segment": lambda k: k["list"].seg(0),
    "list-array": lambda k: k["arr"].used(),
    "list-runs": lambda k: k["arr"].runs(),
    "heaps": lambda k: k["heaps"].malloc(64),
    "heap": lambda k: k["heap"].__enter__(),
    "zones": lambda k: k["zones"].lookup("zone"),
}


@pytest.mark.parametrize("use", KEPT)
def test_after_cleanup_each_use_is_an_error(shared: list[str], use: str) -> None:
    """Also of what a caller keeps: it must never end in SIGSEGV."""
    eal = pyeal.init(shared)
    kept: dict[str, Any] = {"eal": eal, "va": eal.malloc(64), "walk": eal.segments()}
    next(kept["walk"])
    eal.memzone_reserve("zone", 64)
    kept["list"] = eal.memseg_lists()[0]
    kept["arr"] = kept["list"].arr
    kept |= {"heaps": eal.heaps, "heap": eal.heaps.heaps[0], "zones": eal.memzones}
    eal.cleanup()

    with pytest.raises(pyeal.EalError) as e:
        KEPT[use](kept)

    assert (e.value.errno, e.value.reason) == (EINVAL, "closed")


def test_a_kept_record_reads_zeros_after_cleanup(shared: list[str]) -> None:
    eal = pyeal.init(shared)
    record, zone = next(eal.segments())[2], eal.memzone_reserve("zone", 64)
    assert (record.len, zone.len) == (4096, 64)

    eal.cleanup()

    assert (record.len, zone.len) == (0, 0)
    kept = {addressof(record) & -4096: "record", addressof(zone) & -4096: "zone"}
    assert len(mapped(kept)) == 2

    del record, zone

    assert not mapped(kept)


def test_kept_structures_read_zeros_after_cleanup(shared: list[str]) -> None:
    """Those of config: they must never end in SIGSEGV."""
    eal = pyeal.init(shared)
    config, c = eal.config, eal.memseg_lists()[0].c
    at = {addressof(config) & -4096: "config"}
    assert (config.magic, c.page_sz) == (19820526, 4096)

    eal.cleanup()

    assert (config.magic, c.page_sz) == (0, 0)
    assert mapped(at)

    del config, c

    assert not mapped(at)


def test_a_failed_start_leaves_its_address_free(
    shared: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also while its traceback has a structure, as the last one of an interactive Python."""
    at = []

    def fail(self: Primary, workers: list[int]) -> None:
        c = self.eal.config
        at.append(addressof(c))
        raise pyeal.EalError(EINVAL, "service", "planted")

    with monkeypatch.context() as m, pytest.raises(pyeal.EalError, match="planted") as kept:
        m.setattr(Primary, "share", fail)
        pyeal.init(shared)
    with pyeal.init(shared) as eal:
        at.append(addressof(eal.config))

    assert len(kept.traceback) > 2 and at[0] == at[1]


@pytest.mark.parametrize("use", ["read", "acquire"])
def test_a_kept_lock_is_an_error_after_cleanup(shared: list[str], use: str) -> None:
    eal = pyeal.init(shared)
    lock = eal.lists.lock
    eal.cleanup()

    assert lock.value == 0
    with pytest.raises(pyeal.EalError) as e:
        lock.read() if use == "read" else lock.acquire(lambda value: True, 1)

    assert e.value.reason == "closed"


def mapped(addresses: dict[int, str]) -> list[str]:
    """Those of the addresses that this process has mapped."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    ranges = [tuple(int(a, 16) for a in line.split()[0].split("-")) for line in lines]
    return [name for va, name in addresses.items() if any(a <= va < b for a, b in ranges)]


def test_a_second_cleanup_says_so(shared: list[str]) -> None:
    eal = pyeal.init(shared)
    eal.cleanup()
    with pytest.raises(pyeal.EalError) as e:
        eal.cleanup()

    assert e.value.errno == EALREADY


def test_other_threads_are_refused_while_it_cleans_up(shared: list[str]) -> None:
    eal, wrong, uses = pyeal.init(shared), list[BaseException](), [0]
    begun = threading.Event()

    def use() -> None:
        try:
            while True:
                eal.free(eal.malloc(64))
                eal.layout()
                eal.walk_segments(lambda msl, ms: 0)
                uses[0] += 1
                begun.set()
        except pyeal.EalError as e:
            if e.errno != EINVAL:
                wrong.append(e)
        except BaseException as e:
            wrong.append(e)
        begun.set()

    threads = [threading.Thread(target=use) for _ in range(3)]
    for t in threads:
        t.start()
    begun.wait(10)
    eal.cleanup()
    for t in threads:
        t.join(10)

    assert uses[0]
    assert not wrong


def test_a_walk_cannot_clean_up(eal: pyeal.Eal) -> None:
    with pytest.raises(pyeal.EalError) as e:
        eal.walk_lists(lambda msl: eal.cleanup())

    assert e.value.errno == EBUSY
    eal.free(eal.malloc(64))


def test_a_lock_of_this_thread_is_not_waited_for(eal: pyeal.Eal) -> None:
    with eal.lists.lock, pytest.raises(pyeal.EalError) as e:
        eal.lists.lock.__enter__()

    assert e.value.errno == EDEADLK
    assert eal.lists.lock.value == 0


def test_a_callback_that_calls_in_is_refused(eal: pyeal.Eal) -> None:
    with eal.mutex, pytest.raises(pyeal.EalError) as e:
        eal.malloc(64)

    assert e.value.errno == EBUSY
    eal.free(eal.malloc(64))


# --- signals --------------------------------------------------------------------------------------


@pytest.fixture
def alarm() -> Iterator[None]:
    old = signal.signal(signal.SIGUSR1, ring)
    yield
    signal.signal(signal.SIGUSR1, old)


@pytest.mark.parametrize("kind", ["private", "shared"])
def test_a_signal_at_any_line_costs_nothing(
    kind: str, shared: list[str], alarm: None, tmp_path: Path
) -> None:
    """An exception of a handler leaves no descriptor, no mapping and no lock, and the next start
    in the process works."""
    interrupt_at_random(PRIVATE if kind == "private" else shared, TRIALS)


IN_PRIVATE_MOUNTS = """
import signal, sys
from conformance.units import test_one_process as t

signal.signal(signal.SIGUSR1, t.ring)
t.interrupt_at_random(sys.argv[2:], int(sys.argv[1]))
"""


@needs(root=True, pages={"2M": 8})
@pytest.mark.parametrize("mode", ["dynmem", "single-file", "legacy"])
def test_a_signal_at_any_line_costs_no_page(mode: str, shared: list[str], tmp_path: Path) -> None:
    """In a process with private mounts: a mount of this namespace is in the way of other tests."""
    at = tmp_path / "huge"
    at.mkdir()
    args = [*MODES[mode], "-m", "4", *shared[3:], "--huge-dir", str(at)]
    script = 'mount -t hugetlbfs -o size=16M none "$0" && exec "$@"'
    python = [sys.executable, "-c", IN_PRIVATE_MOUNTS, str(TRIALS // 5), *args]
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, str(at), *python],
        env=environment() | {"RUNTIME_DIRECTORY": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr


def interrupt_at_random(args: list[str], trials: int) -> None:
    life(args)
    with At(0) as whole:
        life(args)
    before, rng, raised = taken(), random.Random(SEED), 0
    handler = signal.getsignal(signal.SIGINT)
    for _ in range(trials):
        n = rng.randrange(1, whole.lines)
        try:
            with At(n):
                life(args)
        except Alarm:
            raised += 1

        assert taken() == before, f"line {n} of {whole.lines}"
        assert signal.getsignal(signal.SIGINT) is handler, f"line {n}"
    life(args)

    assert raised > trials * 0.9


def test_a_signal_while_an_attach_reads_the_config(
    eal: pyeal.Eal, shared: list[str], alarm: None
) -> None:
    """At each line of the module: handlers run at once in the wait alone, not beside a file."""
    args, n = [*shared, "--proc-type=secondary"], 0
    gc.collect()  # what other tests left would go during this one
    before = taken()
    while n < 100:
        n += 1
        at = At(n)
        at.folder = attached.__file__
        with pytest.raises((Alarm, pyeal.EalError)), at:
            pyeal.init(args)
        if at.lines < n:
            break
        now = taken()
        assert now == before, f"line {n} of attached.py: {now[0] ^ before[0]}"

    assert 20 < n < 100


# --- no room --------------------------------------------------------------------------------------

START = """
import pyeal
try:
    with pyeal.init(["--no-huge", "-m", "16", "--file-prefix=small"]) as eal:
        for i in range(200):
            eal.memzone_reserve(f"zone-{i}", 64)
    print("started")
except pyeal.EalError as e:
    print("refused", e)
"""


@needs(root=True)
@pytest.mark.parametrize("kB", [4, 16, 64, 128, 200, 256, 512, 600, 700, 800, 1024, 2048, 4096])
def test_a_small_runtime_directory_is_an_error(kB: int, tmp_path: Path) -> None:
    """A store into a file without room would be SIGBUS."""
    script = f'mount -t tmpfs -o size={kB}k none "$0" && exec "$@"'
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, str(tmp_path), sys.executable, "-c", START],
        env=environment() | {"RUNTIME_DIRECTORY": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done
    assert done.stdout.startswith("started" if kB >= 2048 else ("started", "refused"))


@needs(root=True, pages={"2M": 1})
def test_a_covered_mount_is_an_error(tmp_path: Path) -> None:
    """Page files on another file system would be ordinary memory, and SIGBUS without room."""
    script = 'mount -t hugetlbfs none "$0" && mount -t tmpfs none "$0" && exec "$@"'
    args = ["--huge-dir", str(tmp_path), "-m", "2", "--file-prefix=covered"]
    start = START.replace('["--no-huge", "-m", "16", "--file-prefix=small"]', repr(args))
    done = subprocess.run(
        ["unshare", "-m", "sh", "-c", script, str(tmp_path), sys.executable, "-c", start],
        env=environment(),
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done
    assert "refused" in done.stdout
    assert "another file system" in done.stdout
