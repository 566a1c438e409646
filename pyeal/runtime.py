"""What every start needs beside memory: the runtime directory, the IOVA mode, limits, the clock.

The directory is made, swept, and asked for its processes.
"""

from __future__ import annotations

import fcntl
import os
from errno import EINVAL, ENOMEM

from . import files, libc
from .errors import EalError, Log
from .host import LOCAL, Host
from .libc import MACHINE, PAGE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .options import Options
    from .releases import Release


def make_directory(opts: Options, release: Release, host: Host, log: Log) -> str:
    """Creates both levels with mode 0700 if they are missing, and returns the path.

    EalError(EINVAL); with --no-shconf, which puts no file into it, a failure is only logged.
    """
    path = host.runtime_dir(opts.file_prefix, release)
    if opts.no_shconf and not release.runtime_dir_without_shconf:
        return path
    try:
        for level in (path.removesuffix(f"/{opts.file_prefix}"), path):
            try:
                os.mkdir(level, 0o700)
            except FileExistsError:
                files.check_directory(level)
    except OSError as e:
        if not opts.no_shconf:
            raise no_directory(e.filename, e.strerror or "", opts) from None
        log("WARNING", f"No DPDK runtime directory created: {e.filename}: {e.strerror}")
    return path


def no_directory(path: str, why: str, opts: Options) -> EalError:
    """Return the error of a runtime directory that cannot be created."""
    fix = "set RUNTIME_DIRECTORY or XDG_RUNTIME_DIR to a directory of this user"
    if "/" in opts.file_prefix:  # of the levels EAL creates the last two alone
        fix = f"--file-prefix {opts.file_prefix.replace('/', '_')}"
    what = f"Cannot create runtime directory {path}: {why}"
    return EalError(EINVAL, "runtime", what, fix=fix, reason="runtime-directory")


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
        is_socket = name.startswith("mp_socket_") and pid.isdecimal()
        if is_socket and os.path.exists(f"{host.proc}/{pid}"):
            found[int(pid)] = "secondary"
    file = f"{os.major(st.st_dev):02x}:{os.minor(st.st_dev):02x}:{st.st_ino}"
    with open(f"{host.proc}/locks", errors="replace") as f:
        for words in map(str.split, f):
            if len(words) > 5 and (words[1], words[5]) == ("POSIX", file) and words[4].isdecimal():
                found[int(words[4])] = "primary"
    return found


def tsc_hz(step: int, host: Host = LOCAL, machine: str = MACHINE) -> int:
    """Returns the frequency of the time stamp counter in Hz as EAL of an architecture computes it.

    x86-64 has no register for it in general: linux/eal_timer.c: get_tsc_freq sleeps 100 ms, and
    rounds to a step of its release. The kernel measured it at boot; bogomips is twice that. Others
    know it (get_tsc_freq_arch): CNTFRQ_EL0 on arm64, the device tree on riscv64, cpuinfo's
    timebase on ppc64le. If that is not available, bogomips is exact to 5 kHz.
    """
    hz = libc.counter_hz() if machine == libc.MACHINE else 0
    try:
        if machine == "riscv64":
            with open(f"{host.proc}/device-tree/cpus/timebase-frequency", "rb") as f:
                hz = int.from_bytes(f.read(8), "big")
        with open(f"{host.proc}/cpuinfo", "rb", buffering=0) as f:
            text = "" if hz else f.read(-1 if "ppc" in machine else PAGE).decode("ascii", "replace")
        for line in text.splitlines():
            if line.startswith(("bogomips", "BogoMIPS")):
                step = step if machine == "x86_64" else 5000
                hz = round(float(line.partition(":")[2]) / 2 * 1_000_000 / step) * step
                break
            if line.startswith("timebase"):
                hz = int(line.partition(":")[2])
                break
    except (OSError, ValueError, OverflowError):  # a fake host has none
        pass
    return hz if 0 < hz < 1 << 64 else 1_000_000_000  # what the field of config can hold


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
            with files.closing(fd):
                try:
                    fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    os.unlink(name, dir_fd=dir_fd)
                except OSError:
                    pass


def choose_iova_mode(opts: Options, phys_addrs: bool, host: Host, log: Log) -> str:
    """Returns "PA" or "VA". EalError(EINVAL) for PA without physical addresses. rte_eal_init"""
    mode = opts.iova_mode
    if mode is None:
        if not phys_addrs:
            mode, why = "VA", "Physical addresses are unavailable, selecting IOVA as VA mode."
        elif _not_empty(f"{host.sys}/kernel/iommu_groups"):
            mode, why = "VA", "IOMMU is available, selecting IOVA as VA mode."
        else:
            mode, why = "PA", "IOMMU is not available, selecting IOVA as PA mode."
        log("DEBUG", why)
    elif mode == "PA" and not phys_addrs:
        what = "Cannot use IOVA as 'PA' since physical addresses are not available"
        expected, fix = "frame numbers in /proc/self/pagemap (CAP_SYS_ADMIN)", "--iova-mode=va"
        fields = {"expected": expected, "found": "zeros", "fix": f"run as root or with {fix}"}
        raise EalError(EINVAL, "iova", what, **fields, reason="no-frame-numbers")
    log("INFO", f"Selected IOVA mode '{mode}'")
    return mode


def raise_open_files(host: Host, log: Log) -> None:
    """Raises the limit of open files as far as it may be. rte_eal_memseg_init"""
    try:
        most = host.raise_open_files()
        log("DEBUG", f"Setting maximum number of open files to {most}")
    except OSError as e:
        log("DEBUG", f"Setting maximum number of open files failed: {e}")


def in_memory_stage(e: EalError | OSError) -> EalError:
    """Returns a failure of the memory stage as EAL reports it: ENOMEM, whatever it was."""
    if isinstance(e, EalError):
        return e.within(errno=ENOMEM)
    return EalError(ENOMEM, "memory", f"Cannot init memory: {e}")


def _not_empty(path: str) -> bool:
    try:
        return bool(os.listdir(path))
    except OSError:
        return False
