"""The link `cgroup`: does a hugetlb limit leave room for the request?"""

from __future__ import annotations

from pyeal.tools import fixes, size
from pyeal.tools.doctor.model import FAIL, OK, WARN, Case, Finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def check(c: Case) -> Iterator[Finding]:
    if not c.needs_pages():
        yield Finding(OK, "not needed")
        return
    sizes_ = list(c.hugedirs) or list(c.pools)
    tight = None
    for sz in sizes_:
        for path, rsvd, limit, now in c.view.hugetlb_limits(sz):
            left = max(limit - now, 0)
            if tight is None or left < tight[0]:
                tight = left, path, rsvd, limit, now, sz
    if tight is None:
        groups = c.view.cgroups()
        yield Finding(OK, "no hugetlb limit" + ("" if groups else " (no hugetlb controller)"))
        return
    left, path, rsvd, limit, now, sz = tight
    need = c.needed(sz)
    pod = any("kubepods" in d for d in c.view.cgroups())
    if left < need or c.failed_at("cgroup"):
        when = "reserved (mmap fails)" if rsvd else "touched (SIGBUS)"
        do = fixes.to("cgroup", n=need + now, file=path)
        if pod:
            do = fixes.to("pod", size=size(sz), n=size(need))
        yield Finding(
            FAIL,
            f"the hugetlb limit is enforced when pages are {when}",
            4,
            *([32] if pod else []),
            wanted=size(need),
            found=f"{path}: {size(limit)}, {size(now)} used",
            do=do,
        )
        return
    free = c.pools.get(sz, {}).get("free", 0) * sz
    text = f"{size(left)} of {size(sz)} pages may be {'reserved' if rsvd else 'used'}"
    if left < free and not c.requested:
        yield Finding(
            WARN,
            f"{text}, though {size(free)} are free: growing stops there",
            4,
            found=f"{path}: {size(limit)}",
        )
    else:
        yield Finding(OK, text)
