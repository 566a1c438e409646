"""The link `permission`: may this user use the hugepage and the runtime directory?"""

from __future__ import annotations

import os

from pyeal import hugepages
from pyeal.tools import fixes
from pyeal.tools.doctor.model import FAIL, OK, UNKNOWN, WARN, Case, Finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def check(c: Case) -> Iterator[Finding]:
    bad = False
    if c.needs_pages() and not c.o.in_memory:
        for f in _hugedir_rights(c):
            bad = bad or f.state == FAIL
            yield f
    if not c.o.no_shconf:
        for f in _runtime_rights(c):
            bad = bad or f.state == FAIL
            yield f
    if c.error and c.error.stage == "memfd":
        bad = True
        denied = c.error.reason == "memfd-denied"
        yield Finding(
            FAIL,
            "memfd_create of hugepages fails, which --in-memory needs",
            *((28,) if denied else (28, 41)),
            wanted="memfd_create(MFD_HUGETLB)",
            found=c.error.found or c.error.what,
            do="start without --in-memory",
        )
    label = c.view.read(f"/proc/{'self' if c.view.own else c.view.pid}/attr/current").strip("\0\n ")
    if label and label.split()[0] not in ("unconfined", "kernel") and "unconfined" not in label:
        text = f"confined by {label}: what its profile denies shows in dmesg alone"
        yield Finding(WARN, text, 28, do="pyeal doctor --touch")
    if not bad:
        yield Finding(OK, f"user {c.view.uid} may do what is needed")


def _hugedir_rights(c: Case) -> Iterator[Finding]:
    v = c.view
    dirs = [d for d in c.hugedirs.values() if d]
    if not dirs and c.error and c.error.reason == "hugedir-lock":
        survey = hugepages.Survey(c.o, [0], v)
        dirs = [d for _, sz in hugepages.sizes(v) if (d := survey.hugedir(sz))]
    for d in dirs:
        try:
            st = os.stat(v.path(d))
        except OSError as e:
            yield Finding(UNKNOWN, f"{d}: {e.strerror}", 10)
            continue
        mine = f"{d} is of user {st.st_uid}, mode {st.st_mode & 0o7777:04o}"
        if os.statvfs(v.path(d)).f_flag & os.ST_RDONLY:
            yield Finding(
                FAIL,
                f"{d} is mounted read-only",
                10,
                wanted="a mount to write to",
                found="ro",
                do=f"mount -o remount,rw {d}",
            )
        elif not v.access(d, os.R_OK | os.W_OK | os.X_OK):
            yield Finding(
                FAIL,
                f"user {v.uid} may not make files in {d}",
                10,
                11,
                wanted=f"read, write and search for user {v.uid}",
                found=mine,
                do=fixes.own(d, c.view.uid),
            )
        elif st.st_mode & 0o1000 and v.uid not in (0, st.st_uid):
            prefix = f"{c.o.file_prefix}map_"
            foreign = [f for f in v.page_files(d) if f.name.startswith(prefix) and f.uid != v.uid]
            if foreign:  # another list may have room beside them
                state = FAIL if c.failed_at("permission") else WARN
                text = f"{foreign[0].name} and its like are of user {foreign[0].uid}"
                yield Finding(
                    state,
                    text,
                    10,
                    11,
                    wanted="names that this user may replace",
                    found=f"{len(foreign)} files of others in a sticky directory",
                    do=f"rm {d}/{prefix}*",
                )


def _runtime_rights(c: Case) -> Iterator[Finding]:
    v, at = c.view, c.directory
    for d in (at, os.path.dirname(at), os.path.dirname(os.path.dirname(at))):
        real = v.real(d)
        if not os.path.lexists(real):
            continue
        if not os.path.isdir(real):
            yield Finding(
                FAIL,
                f"{d} is not a directory",
                10,
                wanted="a runtime directory",
                found="something else",
                do=f"rm {d}",
            )
        elif not v.access(d, os.W_OK | os.X_OK):
            st = os.stat(real)
            yield Finding(
                FAIL,
                f"user {v.uid} may not write to {d}",
                10,
                18,
                wanted=f"a runtime directory {at}",
                found=f"{d} of user {st.st_uid}, mode {st.st_mode & 0o7777:04o}",
                do=fixes.runtime_dir(at if v.uid == 0 else "", v.uid),
            )
        break
    if c.config_error and not c.secondary:
        yield Finding(
            FAIL,
            f"{at}/config may not be opened",
            10,
            5,
            wanted="a config of this user",
            found=c.config_error,
            do="another --file-prefix",
        )
