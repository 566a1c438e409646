"""Where the facts of a machine come from: /sys, /proc, mounts, limits, environment, user.

Whatever asks about the machine takes a Host. LOCAL is the machine as this process sees it.
pyeal.look.process_view has it as another process sees it, pyeal.look.fake_host is a folder.
"""

from __future__ import annotations

import os

from . import libc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .releases import Release


class Host:
    """The machine as this process sees it.

    sys, proc: directories of the pools, nodes and CPUs, and of meminfo, cpuinfo and locks.
    mounts: the file that lists the mounts.
    """

    sys, proc, mounts = "/sys", "/proc", "/proc/mounts"

    def statfs(self, path: str) -> tuple[int, int]:
        """Returns (file system type, block size) of the file system at a path. Raises OSError."""
        return libc.statfs(path)

    def affinity(self) -> set[int]:
        """Returns the CPUs on which the calling thread may run. Raises OSError."""
        return os.sched_getaffinity(0)

    def environ(self) -> Mapping[str, str]:
        """Returns the environment, which decides where the runtime directory is."""
        return os.environ

    @property
    def uid(self) -> int:
        """The user whose runtime directory is meant."""
        return os.getuid()

    def runtime_dir(self, prefix: str, release: Release) -> str:
        """Returns the runtime directory of a prefix.

        unix/eal_filesystem.c: eal_create_runtime_dir
        """
        env = self.environ()
        base = env.get("RUNTIME_DIRECTORY", "") if release.runtime_directory_env else ""
        if not base:
            base = "/var/run" if self.uid == 0 else env.get("XDG_RUNTIME_DIR") or "/tmp"
        return f"{base}/dpdk/{prefix}"

    def raise_open_files(self) -> int:
        """Raises the soft limit of open files to the hard one and returns it. Raises OSError."""
        return libc.raise_open_files()


LOCAL = Host()


def parse_maps(text: str) -> Iterator[tuple[int, int, str, str]]:
    """Yields (start, end, permissions, path or name) of each line of a /proc/PID/maps."""
    for line in text.splitlines():
        fields = line.split(None, 5)
        try:
            start, end = fields[0].split("-")
            yield int(start, 16), int(end, 16), fields[1], "".join(fields[5:]).strip()
        except (IndexError, ValueError):  # no line of a kernel
            continue
