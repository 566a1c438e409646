"""The doors to shared files: what is refused, and that a refusal opens nothing."""

from __future__ import annotations

import errno
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from conformance import MB
from pyeal import files

BAD: dict[str, tuple[Callable[[Path], object], int]] = {
    "link": (lambda p: p.symlink_to("/etc/passwd"), errno.ELOOP),
    "dangling-link": (lambda p: p.symlink_to("/nowhere"), errno.ELOOP),
    "fifo": (os.mkfifo, errno.EPERM),
    "directory": (Path.mkdir, errno.EPERM),
}


@pytest.fixture(params=BAD)
def bad(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, int]:
    make, error = BAD[request.param]
    make(tmp_path / "config")
    return str(tmp_path / "config"), error


def test_both_doors_refuse_what_is_no_regular_file(bad: tuple[str, int]) -> None:
    """Without a wait for the other end of a pipe, and with no descriptor left open."""
    path, error = bad
    fds = os.listdir("/proc/self/fd")
    with pytest.raises(OSError) as shared:
        files.open_shared(path, os.O_RDONLY)
    with pytest.raises(OSError) as untrusted:
        files.open_untrusted(path, MB)

    assert (shared.value.errno, untrusted.value.errno) == (error, error)
    assert (shared.value.filename, untrusted.value.filename) == (path, path)
    assert os.listdir("/proc/self/fd") == fds


def test_a_socket_is_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    with socket.socket(socket.AF_UNIX) as s:
        s.bind(path)
        with pytest.raises(OSError) as e:
            files.open_untrusted(path, MB)

    assert e.value.errno == errno.EPERM


def test_a_device_is_refused_before_it_is_opened(monkeypatch: pytest.MonkeyPatch) -> None:
    opened = list[tuple[str, int]]()
    real = os.open

    def noted(path: str, flags: int, *rest: int, dir_fd: int | None = None) -> int:
        opened.append((path, flags))
        return real(path, flags, *rest, dir_fd=dir_fd)

    monkeypatch.setattr(os, "open", noted)
    with pytest.raises(OSError) as e:
        files.open_untrusted("/dev/null", MB)

    assert e.value.errno == errno.EPERM
    assert [flags & os.O_PATH for _, flags in opened] == [os.O_PATH]


def test_a_sparse_file_of_terabytes_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config").touch()
    os.truncate(tmp_path / "config", 7 << 40)
    with pytest.raises(OSError, match="expected at most 1048576 bytes") as e:
        files.read_untrusted(str(tmp_path / "config"), MB)

    assert e.value.errno == errno.EFBIG


def test_a_file_is_read_relative_to_its_directory(tmp_path: Path) -> None:
    (tmp_path / "config").write_bytes(b"abc")
    at = os.open(tmp_path, os.O_RDONLY)
    try:
        assert files.read_untrusted("config", MB, at) == b"abc"
        with pytest.raises(FileNotFoundError):
            files.read_untrusted("other", MB, at)
    finally:
        os.close(at)


def test_another_users_file_is_not_trusted(tmp_path: Path) -> None:
    def owned(uid: int, kind: int = stat.S_IFREG) -> os.stat_result:
        return os.stat_result((kind | 0o600, 0, 0, 0, uid, 0, 0, 0, 0, 0))

    assert files.why_untrusted(owned(0), stat.S_IFREG) == ""
    assert files.why_untrusted(owned(os.geteuid()), stat.S_IFREG) == ""
    assert "belongs to user 4711" in files.why_untrusted(owned(4711), stat.S_IFREG)
    assert "directory wanted" in files.why_untrusted(owned(0), stat.S_IFDIR)


@pytest.mark.parametrize(("mode", "others"), [(0o755, False), (0o775, True), (0o1777, True)])
def test_a_directory_that_others_may_write(tmp_path: Path, mode: int, others: bool) -> None:
    tmp_path.chmod(mode)

    assert files.others_may_write(str(tmp_path)) == others


def test_a_shorter_file_replaces_a_longer_one(tmp_path: Path) -> None:
    path = tmp_path / "hugepage_info"
    path.write_bytes(b"x" * 100)
    files.write_file(str(path), b"abc")

    assert path.read_bytes() == b"abc"
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0o044  # an existing file keeps its mode


def test_a_file_that_is_refused_stays(bad: tuple[str, int]) -> None:
    path, error = bad
    before = os.lstat(path)
    with pytest.raises(OSError) as e:
        files.write_file(path, b"abc")

    assert e.value.errno == error or (
        stat.S_ISDIR(before.st_mode) and e.value.errno == errno.EISDIR
    )
    assert os.lstat(path).st_ino == before.st_ino
