"""Runtime directories: where they can be, and which files of EAL are in one."""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

FILES = ("config", "hugepage_info", "hugepage_data")
HEADS = ("fbarray_", "mp_socket", "dpdk_telemetry.")


class RuntimeDir:
    """A runtime directory. path: as it can be opened here; shown: as its processes call it."""

    def __init__(self, path: str, shown: str, root: str = "") -> None:
        self.path, self.shown, self.root = path, shown, root
        self.prefix = shown.rpartition("/")[2]


def is_of_eal(name: str) -> bool:
    """Return whether EAL makes files of this name in a runtime directory."""
    return name in FILES or name.startswith(HEADS)


def bases(environ: Mapping[str, str], users: list[str]) -> list[str]:
    """Return every directory that can contain the runtime directories of a machine's users.

    users: the names in /run/user.
    """
    found = [
        environ.get("RUNTIME_DIRECTORY", ""),
        "/var/run",
        environ.get("XDG_RUNTIME_DIR", ""),
        *(f"/run/user/{user}" for user in users),
        "/tmp",
    ]
    return [f"{base}/dpdk" for base in dict.fromkeys(found) if base]


def listed(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []
