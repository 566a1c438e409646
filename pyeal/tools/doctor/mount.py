"""The link `mount`: is a hugetlbfs of the right page size mounted here?"""

from __future__ import annotations

from pyeal import hugepages
from pyeal.errors import EalError
from pyeal.look.process_view import ProcessView
from pyeal.tools import fixes, size
from pyeal.tools.doctor.model import FAIL, OK, UNKNOWN, WARN, Case, Finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def check(c: Case) -> Iterator[Finding]:
    if not c.needs_pages():
        yield Finding(OK, "not needed")
        return
    try:
        mounts = hugepages.mounts(c.view, c.release.mounts_decoded)
        default = hugepages.default_size(c.view)
        known = dict(hugepages.sizes(c.view))
    except (EalError, OSError):
        yield Finding(UNKNOWN, "no hugepages to mount")
        return
    points = [(at, sz or default) for at, sz in mounts]
    if c.error and c.error.reason == "page-sizes":
        yield Finding(
            FAIL,
            "EAL has no room for so many page sizes",
            40,
            wanted=f"at most {hugepages.MAX_SIZES} page sizes",
            found=", ".join(size(sz) for sz in sorted(known.values())),
            do=fixes.to("not-in-memory") if c.o.in_memory else fixes.to("umount", at=points[-1][0]),
        )
        return
    if c.o.in_memory:
        yield Finding(OK, "not needed: --in-memory")
        return
    dirs = {sz: d for sz, d in c.hugedirs.items() if d}
    if not dirs:
        survey = hugepages.Survey(c.o, [0], c.view)
        dirs = {sz: d for sz in known.values() if (d := survey.hugedir(sz))}
    if not dirs:
        sizes_ = _reserved(c, known)
        wanted = min(sizes_ or known.values(), default=2 << 20)
        word = size(wanted)
        if c.o.huge_dir:
            where = ", ".join(f"{at} ({size(sz)})" for at, sz in points) or "no hugetlbfs mount"
            do = fixes.to("huge-dir", directory=points[0][0]) if points else fixes.mount(wanted)
            yield Finding(
                FAIL,
                f"--huge-dir {c.o.huge_dir} is not what EAL can use",
                2,
                30,
                wanted=_rule(c),
                found=where,
                do=do,
            )
        else:
            host = _elsewhere(c)
            found = f"none of {', '.join(map(size, sizes_))} here" if sizes_ else "none here"
            found += f"; process 1 has {host}" if host else ""
            yield Finding(
                FAIL,
                "no hugetlbfs of these pages is mounted here",
                2,
                32,
                wanted=f"a hugetlbfs of {word} pages in this mount namespace",
                found=found,
                do=fixes.mount(wanted),
            )
        return
    if c.error and c.error.reason == "stacked-mounts":
        what, do = c.error.found, c.error.fix
        yield Finding(
            FAIL, what, 44, 30, wanted="a mount point for each page size", found=what, do=do
        )
        return
    chosen = ", ".join(f"{d} for {size(sz)}" for sz, d in sorted(dirs.items())[::-1])
    limit = c.dry_run.binding_limit if c.dry_run else None
    if limit and c.failed_at("mount"):
        yield Finding(
            FAIL,
            f"the mount's {limit.option}= is too small",
            6,
            wanted=size(c.requested),
            found=limit.what,
            do=fixes.another_mount(limit.page_sz),
        )
    else:
        yield Finding(OK, chosen)
    for sz, d in dirs.items():
        others = [at for at, s in points if s == sz and at != d and not d.startswith(at + "/")]
        if others and not c.o.huge_dir:
            more = ", ".join(others)
            yield Finding(
                WARN,
                f"{more} of the same size is ignored: the first is used",
                30,
                do=fixes.to("huge-dir", directory=others[0]),
            )
    if len(dirs) > 1:
        order = " then ".join(size(sz) for sz in sorted(dirs, reverse=True))
        yield Finding(OK, f"pages are taken in the order {order}", 29, harmless=True)
    for sz in known.values():
        if sz not in dirs and _reserved(c, {"": sz}):
            yield Finding(
                OK,
                f"{size(sz)} pages are reserved, but no mount has them: not needed",
                29,
                35,
                harmless=True,
            )


def _reserved(c: Case, known: dict[str, int]) -> list[int]:
    pools = c.pools
    return [
        sz for sz in known.values() if pools.get(sz, {}).get("nr") or pools.get(sz, {}).get("free")
    ]


def _rule(c: Case) -> str:
    return {
        "exact": "a hugetlbfs mount point, as /proc/mounts spells it",
        "prefix": "a directory whose path begins as a hugetlbfs mount point's",
        "parent": "a directory at or below a hugetlbfs mount point",
        "statfs": "a directory in a hugetlbfs",
    }[c.release.huge_dir_rule]


def _elsewhere(c: Case) -> str:
    """Return the hugetlbfs mounts of process 1, for a process that has none itself."""
    try:
        return "" if c.view.root else ", ".join(at for at, _ in hugepages.mounts(ProcessView(1)))
    except OSError:
        return ""
