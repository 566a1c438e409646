"""The link `namespace`: does this process see the host's processes and the primary's mounts?"""

from __future__ import annotations

import os

from pyeal.look.process_view import ProcessView
from pyeal.tools import fixes
from pyeal.tools.doctor.model import FAIL, OK, UNKNOWN, WARN, Case, Finding
from pyeal.tools.doctor.primary import hugedirs_of_primary

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def check(c: Case) -> Iterator[Finding]:
    pid = c.view.namespace("pid")
    if not c.view.own and not c.view.namespace("mnt"):
        text = "its mounts are not accessible: mounts and files are those of this process"
        yield Finding(UNKNOWN, text, 19, do=fixes.to("as-root", pid=c.view.pid))
    if not c.view.sees_all_locks:
        text = "in a PID namespace of its own: holders of files and locks outside are not visible"
        yield Finding(UNKNOWN, text, 21, 3, do=fixes.to("host-pids"))
        if c.opts and c.o.file_prefix.rstrip("0123456789") != c.o.file_prefix and os.getpid() < 100:
            text = f"is {c.o.file_prefix} made of a process number? they repeat in each container"
            yield Finding(WARN, text, 21, do=fixes.to("pod-prefix"))
    else:
        yield Finding(OK, "the host's processes are visible" if pid else "unknown to this kernel")
    if c.config and c.secondary and c.config.owner:
        primary = ProcessView(c.config.owner)
        if primary.namespace("mnt") and primary.namespace("mnt") != c.view.namespace("mnt"):
            text = f"the primary ({c.config.owner}) has mounts of its own"
            state = OK if _same_hugedirs(c, primary) else FAIL
            directory = next(iter(hugedirs_of_primary(c)), "/dev/hugepages")
            yield Finding(
                state,
                text,
                19,
                wanted="its hugepage directory, under the same path",
                found="another one, or none",
                do=fixes.to("volume", directory=directory),
            )


def _same_hugedirs(c: Case, primary: ProcessView) -> bool:
    for d in hugedirs_of_primary(c):
        try:
            if os.stat(primary.path(d)).st_dev != os.stat(c.view.path(d)).st_dev:
                return False
        except OSError:
            return False
    return True
