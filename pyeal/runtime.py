"""The runtime directory of a prefix: made, swept, and asked for its processes."""

from __future__ import annotations

import fcntl
import os
from errno import EINVAL

from . import files
from .errors import EalError
from .host import LOCAL, Host
from .libc import PAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .options import Options
    from .releases import Release


def make_directory(
    opts: Options, release: Release, host: Host, log: Callable[[str, str], object]
) -> str:
    """Creates both levels with mode 0700 if they are missing, and returns the path.

    EalError(EINVAL); with --no-shconf, which puts no file into it, a failure is only logged.
    """
    path = host.runtime_dir(opts.file_prefix, release)
    if opts.no_shconf and not release.runtime_dir_without_shconf:
        return path
    try:
        for level in (os.path.dirname(path), path):
            try:
                os.mkdir(level, 0o700)
            except FileExistsError:
                files.check_directory(level)
    except OSError as e:
        if not opts.no_shconf:
            raise EalError(
                EINVAL,
                "runtime",
                f"Cannot create runtime directory {e.filename}: {e.strerror}",
                fix="set RUNTIME_DIRECTORY or XDG_RUNTIME_DIR to a directory of this user",
                reason="runtime-directory",
            ) from None
        log("WARNING", f"No DPDK runtime directory created: {e.filename}: {e.strerror}")
    return path


def processes(directory: str, host: Host = LOCAL) -> dict[int, str]:
    """Returns the living processes of a prefix, {pid: "primary" | "secondary"}, by reading alone.

    A secondary is known by its socket, the primary by its lock on the config.
    """
    found: dict[int, str] = {}
    try:
        names = os.listdir(directory)
        st = os.stat(f"{directory}/config")
    except OSError:
        return found
    for name in names:
        pid = name.removeprefix("mp_socket_").partition("_")[0]
        if (
            name.startswith("mp_socket_")
            and pid.isdecimal()
            and os.path.exists(f"{host.proc}/{pid}")
        ):
            found[int(pid)] = "secondary"
    file = f"{os.major(st.st_dev):02x}:{os.minor(st.st_dev):02x}:{st.st_ino}"
    with open(f"{host.proc}/locks", errors="replace") as f:
        for words in map(str.split, f):
            if len(words) > 5 and (words[1], words[5]) == ("POSIX", file) and words[4].isdecimal():
                found[int(words[4])] = "primary"
    return found


def tsc_hz(host: Host = LOCAL) -> int:
    """Returns the frequency of the time stamp counter in Hz, rounded to 10 MHz as EAL does.

    The kernel measured it at boot (bogomips is twice that); linux/eal_timer.c: get_tsc_freq
    sleeps 100 ms to measure it again.
    """
    fd = os.open(f"{host.proc}/cpuinfo", os.O_RDONLY)
    try:
        text = os.read(fd, PAGE).decode("ascii", "replace")
    finally:
        os.close(fd)
    for line in text.splitlines():
        if line.startswith("bogomips"):
            try:
                hz = round(float(line.partition(":")[2]) / 2 / 10) * 10_000_000
            except (ValueError, OverflowError):
                break
            if 0 <= hz < 1 << 64:  # fits into the field of config
                return hz
    return 1_000_000_000


def sweep(path: str) -> None:
    """Removes arrays and sockets that no process has locked. linux/eal.c: eal_clean_runtime_dir"""
    with files.DirectoryLock(path) as dir_fd:
        for name in os.listdir(dir_fd):
            if not name.startswith(("fbarray_", "mp_socket_")):
                continue
            try:
                fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK, dir_fd=dir_fd)
            except OSError:
                continue  # a socket cannot be opened, so EAL never removes one here
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                os.unlink(name, dir_fd=dir_fd)
            except OSError:
                pass
            finally:
                os.close(fd)
