"""Batches of system calls, exchanged words and rising numbers: by native code, and without it."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import mmap
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from conformance.units.natives import choose
from pyeal import EalError, libc, peers

CREATE = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
FIXED = libc.MAP_SHARED | libc.MAP_FIXED


@pytest.fixture(params=["native", "python"])
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    choose(request.param, monkeypatch)
    return str(request.param)


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_RDONLY)
    yield fd
    os.close(fd)


def test_each_file_is_opened_locked_and_measured(how: str, folder: int, tmp_path: Path) -> None:
    names = [f"é{i}" * (1 + i % 3) for i in range(300)]  # of several lengths
    fds = libc.syscall_batch("openat", 300, folder, names, CREATE, 0o600)
    try:
        for i, fd in enumerate(fds):
            os.ftruncate(fd, i)
        locked = libc.syscall_batch("flock", 300, fds, fcntl.LOCK_SH)
        ends = libc.syscall_batch("lseek", 300, fds, 0, os.SEEK_END)
        paths = [os.readlink(f"/proc/self/fd/{fd}") for fd in fds]
        closed = all(not os.get_inheritable(fd) for fd in fds)
    finally:
        for fd in fds:
            os.close(fd)

    assert paths == [f"{tmp_path}/{name}" for name in names] and closed
    assert locked == [0] * 300 and ends == list(range(300))
    assert libc.load_native() == (how == "native")


def test_it_ends_with_the_first_that_fails_or_goes_on(how: str, folder: int) -> None:
    names = ["a", "none/a", "b"]
    first = libc.syscall_batch("openat", 3, folder, names, CREATE, 0o600)
    after = os.path.exists(f"/proc/self/fd/{folder}/b")
    whole = libc.syscall_batch("openat", 3, folder, names, CREATE, 0o600, go_on=True)
    for fd in (first[0], whole[0], whole[2]):
        os.close(fd)

    assert (first[1:], after) == ([-errno.ENOENT], False)
    assert whole[1] == -errno.ENOENT and min(whole[0], whole[2]) > 2


def test_memory_files_are_made_and_read_into_one_buffer(how: str) -> None:
    n = 20
    fds = libc.syscall_batch("memfd_create", n, [f"memory {i}" for i in range(n)], 0)
    for i, fd in enumerate(fds):
        os.write(fd, bytes([i]) * 8)
    found = bytearray(8 * n)
    to = ctypes.addressof(ctypes.c_char.from_buffer(found))
    read = libc.syscall_batch("pread", n, fds, range(to, to + 8 * n, 8), 8, 0)
    names = [os.readlink(f"/proc/self/fd/{fd}") for fd in fds]
    for fd in fds:
        os.close(fd)

    assert names == [f"/memfd:memory {i} (deleted)" for i in range(n)]
    assert read == [8] * n
    assert found == b"".join(bytes([i]) * 8 for i in range(n))


def test_nothing_is_called_for_nothing(how: str) -> None:
    assert libc.syscall_batch("flock", 0, [], fcntl.LOCK_SH) == []


@pytest.mark.parametrize(("n", "bad"), [(5, None), (5, 0), (5, 3)])
def test_mappings_stand_where_they_are_wanted(
    how: str, folder: int, n: int, bad: int | None
) -> None:
    size = mmap.PAGESIZE
    fds = libc.syscall_batch("openat", n, folder, [f"m{i}" for i in range(n)], CREATE, 0o600)
    for i, fd in enumerate(fds):
        os.pwrite(fd, bytes([i + 1]) * size, 0)
    given = [folder if i == bad else fd for i, fd in enumerate(fds)]  # which is not writable
    va = libc.reserve(0, n * size)
    vas = range(va, va + n * size, size)
    try:
        done, error = libc.mmap_batch(given, vas, size, FIXED)
        if bad is not None:
            assert error and error.errno == errno.EACCES
            assert f"at {vas[bad]:#x}" in str(error)
        seen = [libc.memory(at, 1)[0] for at in vas[:done]]
    finally:
        libc.munmap(va, n * size)
        for fd in fds:
            os.close(fd)

    assert done == (n if bad is None else bad)
    assert seen == list(range(1, done + 1))


def test_other_threads_run_during_a_long_batch() -> None:
    """One appends to a file whose length the batch asks for: its writes come between the calls.

    A thread that waits for the interpreter can make one write during the batch, not two.
    """
    interval, stop = sys.getswitchinterval(), threading.Event()
    fd = os.memfd_create("grows")

    def append() -> None:
        while not stop.is_set():
            os.write(fd, b"1")

    thread = threading.Thread(target=append)
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        for _ in range(50):  # until the system has let it run
            lengths = libc.syscall_batch("lseek", 64 * libc.BATCH, fd, 0, os.SEEK_END)
            if len(set(lengths)) > 3:
                break
    finally:
        stop.set()
        thread.join()
        sys.setswitchinterval(interval)
        os.close(fd)

    assert len(set(lengths)) > 3


@pytest.mark.parametrize("bad", [libc.BATCH - 1, libc.BATCH, 2 * libc.BATCH])
@pytest.mark.parametrize("go_on", [False, True])
def test_a_batch_of_several_parts_ends_where_a_call_fails(how: str, bad: int, go_on: bool) -> None:
    n = 2 * libc.BATCH + 1
    fd = os.memfd_create("many")
    fds = [fd] * bad + [-1] + [fd] * (n - bad - 1)
    found = libc.syscall_batch("lseek", n, fds, range(n), os.SEEK_SET, go_on=go_on)
    os.close(fd)

    wanted = [*range(bad), -errno.EBADF, *range(bad + 1, n)]
    assert found == (wanted if go_on else wanted[: bad + 1])


@pytest.mark.parametrize("how", ["native", "libatomic", "private"])
def test_a_word_is_exchanged_if_it_is_what_it_was(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    choose(how, monkeypatch)
    exchange = libc.compare_exchange_private if how == "private" else libc.compare_exchange
    words = (ctypes.c_int * 3)(7, -5, 9)
    va = ctypes.addressof(words) + 4
    found = [exchange(va, *x) for x in [(-5, -(1 << 31)), (-5, 1), (-(1 << 31), 6)]]

    assert found == [True, False, True]
    assert list(words) == [7, 6, 9]


def add(va: int, times: int) -> int:
    """Adds one n times, as a process of its own; the exit status, an errno if it may not."""
    child = os.fork()
    if child:
        return child
    word, left = ctypes.c_int.from_address(va), times
    try:
        while left:
            left -= libc.compare_exchange(va, word.value, word.value + 1)
    except OSError as e:
        os._exit(e.errno or 255)
    os._exit(0)


@pytest.mark.parametrize("how", ["native", "libatomic", "neither"])
def test_two_processes_lose_no_exchange_or_are_refused(
    how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each adds one 40,000 times to a word that both map. Plain stores lost 4,247 of 80,000."""
    choose(how, monkeypatch)
    va = libc.mmap(0, mmap.PAGESIZE, libc.PROT_RW, libc.MAP_SHARED | libc.MAP_ANONYMOUS)
    children = [add(va, 40_000) for _ in range(2)]
    ends = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    total = ctypes.c_int.from_address(va).value
    libc.munmap(va, mmap.PAGESIZE)

    refused = how == "neither"
    assert ends == [errno.ENOTSUP if refused else 0] * 2
    assert total == (0 if refused else 80_000)


def test_the_refusal_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    choose("neither", monkeypatch)
    word = ctypes.c_int(3)
    with pytest.raises(EalError, match="Fix: apt-get install libatomic1") as refused:
        peers.SharedLock(ctypes.addressof(word)).acquire(lambda value: True, 1)
    peers.Alone().lock(ctypes.addressof(word)).acquire(lambda value: True, 1)

    assert refused.value.errno == errno.ENOTSUP and word.value == 4


@pytest.mark.parametrize("n", [0, 1, 5])
@pytest.mark.parametrize("again", [0, 1])
@pytest.mark.parametrize("step", [4096, 0])
def test_rising_numbers_go_into_every_third_word(how: str, n: int, again: int, step: int) -> None:
    words = (ctypes.c_ulonglong * 16)(*[1] * 16)
    libc.store_sequence(ctypes.addressof(words) + 8, n, 1 << 47, step, 24, 8 * again)

    wanted = [(1 << 47) + i * step if i < n else 1 for i in range(5)]
    assert [words[i] for i in range(1, 16, 3)] == wanted
    assert [words[i] for i in range(2, 16, 3)] == (wanted if again else [1] * 5)
    assert {words[i] for i in range(0, 16, 3)} == {1}
