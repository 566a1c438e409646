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
    bad = bad or bool(c.error and c.error.stage in ("runtime", "config", "mp", "memzone"))
    if c.error and c.error.stage == "memfd":
        bad = True
        denied = c.error.reason == "memfd-denied"
        yield Finding(
            FAIL,
            "memfd_create of hugepages fails, which --in-memory needs",
            *((28,) if denied else (28, 41)),
            wanted="memfd_create(MFD_HUGETLB)",
            found=c.error.found or c.error.what,
            do=fixes.to("not-in-memory"),
        )
    label = c.view.read(f"/proc/{'self' if c.view.own else c.view.pid}/attr/current").strip("\0\n ")
    if label and label.split()[0] not in ("unconfined", "kernel") and "unconfined" not in label:
        text = f"confined by {label}: what its profile denies shows in dmesg alone"
        yield Finding(WARN, text, 28, do=fixes.to("touch"))
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
                do=fixes.to("writable", at=d),
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
                    do=fixes.another_prefix(c.o.file_prefix),
                )
