"""The link `descriptors`: may this process open so many and so large files?"""

from __future__ import annotations

from pyeal import layout
from pyeal.look.process import NO_LIMIT
from pyeal.tools import fixes, size
from pyeal.tools.doctor.model import FAIL, OK, WARN, Case, Finding
from pyeal.tools.fakestart import FIXED

REGIONS = 8  # of vhost-user

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def check(c: Case) -> Iterator[Finding]:
    v, r = c.view, c.dry_run
    _, hard = v.limit("Max open files")
    bad = False
    need = r.descriptors() if r and not r.error else {"pages": 0, "shared": 0}
    total = sum(need.values()) + FIXED
    if c.failed_at("descriptors") or hard < total + v.open_files():
        wanted = total
        if c.failed_at("descriptors"):
            wanted = max(c.needed(min(c.hugedirs)) // min(c.hugedirs), 1) + FIXED
        bad = True
        yield Finding(
            FAIL,
            "every page takes a descriptor",
            12,
            wanted=f"{wanted:,} open files",
            found=f"ulimit -Hn {hard}, {v.open_files()} open",
            do=fixes.to("single-file"),
        )
    file_most = v.limit("Max file size")[0]
    biggest = max(_biggest_file(c), layout.CONFIG_SIZE)
    if file_most < biggest:
        bad = True
        yield Finding(
            FAIL,
            "a file of EAL may not be as long as it gets (SIGXFSZ)",
            11,
            wanted=size(biggest),
            found=f"ulimit -f {file_most >> 10}",
            do=fixes.to("limit", flag="-f"),
        )
    if any(a.partition("=")[2].startswith("virtio_user") or "virtio_user" in a for a in c.args):
        regions = need["pages"]
        if regions > REGIONS:
            bad = True
            yield Finding(
                FAIL,
                "virtio-user passes a descriptor for each page",
                25,
                wanted=f"{REGIONS} at most",
                found=f"{regions}",
                do=fixes.to("single-file"),
            )
    if bad:
        return
    pools = c.pools if c.needs_pages() else {}
    free = sum(p.get("free", 0) for sz, p in pools.items() if sz in c.hugedirs)
    limited = hard < free and not (c.secondary or c.o.single_file_segments or c.o.legacy_mem)
    if limited:
        text = f"{hard:,} descriptors for {free:,} free pages: growing stops there"
        yield Finding(WARN, text, 12, do=fixes.to("single-file"))
    else:
        most = f"{hard:,}" if hard < NO_LIMIT else "any number"
        yield Finding(OK, f"{total:,} of {most}")


def _biggest_file(c: Case) -> int:
    if c.secondary:
        return 0
    if c.o.no_huge:
        return c.o.memory or 64 << 20
    sizes_ = list(c.hugedirs)
    if c.o.single_file_segments:
        return max((c.needed(sz) for sz in sizes_), default=0)
    return max(sizes_, default=0)
