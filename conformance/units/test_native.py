"""Native code: where it is mapped from, under which policies it works, and how it was made."""

from __future__ import annotations

import errno
import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

import pyeal
from conformance.units.natives import choose
from pyeal import libc, native_code

PACKAGE = Path(pyeal.__file__).parent
SCRIPT = PACKAGE.parent / "ci/native"
SKIPPED = 77
HARDENED = """
import ctypes, os, sys
if ctypes.CDLL(None).prctl(65, 1, 0, 0, 0):  # PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN
    sys.exit(77)
kernel, page = ctypes.CDLL(None, use_errno=True), os.sysconf("SC_PAGESIZE")
kernel.mmap.restype = ctypes.c_void_p
kernel.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
kernel.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
va = kernel.mmap(None, page, 3, 0x22, -1, 0)  # private, anonymous, to write
print(kernel.mprotect(va, page, 5), ctypes.get_errno())
import pyeal
from pyeal import libc
with pyeal.init(["--no-huge", "-m", "16", "--no-shconf"]):
    print(libc.load_native())
"""


def mappings() -> list[str]:
    """Permissions and file of each mapping that has native code."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return [
        f"{x[1]} {' '.join(x[5:])}"
        for x in map(str.split, lines)
        if libc._code and int(x[0].partition("-")[0], 16) == libc._code[0]
    ]


def run(script: str, **env: str) -> subprocess.CompletedProcess[str]:
    """A new interpreter on this pyeal."""
    env = {**os.environ, "PYTHONPATH": str(PACKAGE.parent), **env}
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env)


def test_it_is_mapped_from_a_sealed_memfd(monkeypatch: pytest.MonkeyPatch) -> None:
    """Readable and executable, never writable; no descriptor stays open."""
    sealed: list[int] = []
    control = libc.fcntl.fcntl
    monkeypatch.setattr(
        libc.fcntl, "fcntl", lambda fd, *a: sealed.append(control(fd, *a)) or control(fd, 1034)
    )
    before = os.listdir("/proc/self/fd")
    choose("native", monkeypatch)

    assert mappings() == ["r-xp /memfd:pyeal-native (deleted)"]
    assert sealed == [0] and os.listdir("/proc/self/fd") == before


def test_it_comes_from_a_file_without_a_name_if_memfds_are_denied(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(libc, "_memfd_create", lambda *args: -1)
    choose("native", monkeypatch)
    seen = mappings()

    assert len(seen) == 1 and seen[0].startswith("r-xp /") and seen[0].endswith(" (deleted)")
    assert libc.syscall_batch("lseek", 2, -1, 0, 0, go_on=True) == [-errno.EBADF] * 2


def test_python_takes_its_place_if_no_file_may_be_code(monkeypatch: pytest.MonkeyPatch) -> None:
    choose("python", monkeypatch)
    monkeypatch.delenv("PYEAL_NATIVE")
    real, tried = libc.mmap, []

    def denied(addr: int, length: int, prot: int, *rest: int) -> int:
        if prot & libc.PROT_EXEC:
            tried.append(length)
            raise PermissionError(errno.EPERM, "denied")
        return real(addr, length, prot, *rest)

    monkeypatch.setattr(libc, "mmap", denied)
    before = os.listdir("/proc/self/fd")

    assert not libc.load_native() and tried
    assert libc.syscall_batch("lseek", 2, -1, 0, 0, go_on=True) == [-errno.EBADF] * 2
    assert os.listdir("/proc/self/fd") == before


def test_it_works_where_writable_memory_may_not_become_code() -> None:
    """As with systemd's MemoryDenyWriteExecute=."""
    done = run(HARDENED, PYEAL_NATIVE="1")
    if done.returncode == SKIPPED:
        pytest.skip(f"expected PR_SET_MDWE (Linux 6.3), found Linux {platform.release()}")

    assert done.stdout.split() == [
        "-1",
        str(errno.EACCES),
        str(libc.MACHINE in native_code.OBJECTS),
    ]


@pytest.mark.parametrize("native", ["0", "1"])
def test_memory_without_hugepages_starts(native: str) -> None:
    """PYEAL_NATIVE=0 switches native code off."""
    script = (
        "import pyeal; from pyeal import libc\n"
        "with pyeal.init(['--no-huge', '-m', '16', '--no-shconf']) as eal:\n"
        "    print(libc.load_native(), len(eal.memseg_lists()))"
    )
    done = run(script, PYEAL_NATIVE=native)

    wanted = native == "1" and libc.MACHINE in native_code.OBJECTS
    assert (done.stdout, done.stderr) == (f"{wanted} 1\n", "")


@pytest.mark.parametrize("shared", [False, True])
def test_only_shared_memory_needs_an_exchange(shared: bool, tmp_path: Path) -> None:
    """Without native code and libatomic a private config works; a shared one is refused."""
    script = (
        "import pyeal; from pyeal import libc\n"
        "libc._exchange_of_libatomic = lambda: None\n"
        f"args = {[] if shared else ['--no-shconf']}\n"
        "try:\n"
        "    with pyeal.init(['--no-huge', '-m', '16', *args]) as eal:\n"
        "        print(eal.malloc(100) > 0)\n"
        "except pyeal.EalError as e:\n"
        "    print(e.errno, e.text)"
    )
    done = run(script, PYEAL_NATIVE="0", RUNTIME_DIRECTORY=str(tmp_path))

    if shared:
        assert done.stdout.startswith(f"{errno.ENOTSUP} ") and "libatomic1" in done.stdout
    else:
        assert done.stdout == "True\n", done.stderr


@pytest.mark.parametrize("arch", [*native_code.OBJECTS])
@pytest.mark.parametrize("verb", ["compare", "run"])
def test_object_files_are_those_of_the_source(verb: str, arch: str) -> None:
    """Compiled again they are the same, and native_check.c passes; aarch64's under QEMU."""
    if not SCRIPT.exists():
        pytest.skip("expected a checkout, found the suite alone")
    done = subprocess.run([sys.executable, SCRIPT, verb, arch], capture_output=True, text=True)
    if done.returncode == SKIPPED:
        pytest.skip(done.stdout.strip())
    print(done.stdout)

    assert done.returncode == 0, done.stderr
