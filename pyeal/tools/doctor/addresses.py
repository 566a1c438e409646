"""The link `address space`: are the addresses of the lists free?"""

from __future__ import annotations

from ctypes import sizeof

from pyeal.look.process import NO_LIMIT
from pyeal.look.process_view import ProcessView
from pyeal.tools import fixes, size
from pyeal.tools.doctor.model import FAIL, OK, UNKNOWN, WARN, Case, Finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def check(c: Case) -> Iterator[Finding]:
    v, r, e = c.view, c.dry_run, c.error
    if c.secondary:
        yield from _primary_addresses(c)
        return
    virtual = int((v.status.get("VmSize") or "0").split()[0]) << 10
    soft, _ = v.limit("Max address space")
    if e and e.reason in ("address-space", "address-taken"):
        strict = v.read("/proc/sys/vm/overcommit_memory").strip() == "2"
        found = f"ulimit -v {soft >> 10}" if soft < NO_LIMIT else e.found or e.what
        found += ", vm.overcommit_memory=2" * strict
        limited = soft < NO_LIMIT or not strict
        do = fixes.to("limit", flag="-v") if limited else fixes.to("overcommit")
        yield Finding(
            FAIL,
            "the addresses of the lists cannot be reserved",
            45,
            wanted=f"{size(_reserve(c))} of addresses",
            found=found,
            do=do,
        )
        return
    if e and e.reason == "lists-full":
        sz = min(c.hugedirs, default=2 << 20)
        do = fixes.larger_pages(c.requested)
        if c.release.lists == "per-type":
            do = fixes.to("pagesz-mem", size=size(sz), most=size(c.needed(sz)))
        yield Finding(
            FAIL,
            "more pages than the lists of this release hold",
            13,
            wanted=f"{size(c.requested)} in lists",
            found=f"{size(_reserve(c))} in all of them",
            do=do,
        )
        return
    if not r or e:
        yield Finding(UNKNOWN, "not reached")
        return
    spans = r.addresses()
    need = sum(b - a for a, b, _ in spans)
    if not v.own and soft < NO_LIMIT and soft - virtual < need:
        yield Finding(
            FAIL,
            "the process may not have so many addresses",
            45,
            wanted=size(need),
            found=f"ulimit -v {soft >> 10}, {size(virtual)} used",
            do=fixes.to("limit-of", pid=v.pid),
        )
        return
    missed = r.space.missed
    collision = _collision(v, spans) if not v.own and not c.running else ""
    if collision:
        from pyeal.tools.costs import free_base

        length = spans[-1][1] - spans[0][0]
        base = free_base(length + (1 << 24), [v])
        asan = "asan" in collision or "tsan" in collision or _sanitized(v)
        what = "a sanitizer's shadow" if asan else "something"
        yield Finding(
            WARN,
            f"{what} lies where EAL begins: secondaries may not find it free",
            *((42, 14) if asan else (14,)),
            wanted=f"{spans[0][0]:#x} and on free",
            found=collision,
            do=fixes.to("base", base=base),
        )
    elif missed:
        text = f"Base virtual address hint ({missed[0]:#x} != {missed[1]:#x}) not respected!"
        yield Finding(
            WARN, text, 14, 42, do=fixes.to("base", base=missed[1] + (1 << 30) & -(1 << 30))
        )
    maps_most = int(v.read("/proc/sys/vm/max_map_count").strip() or 65530)
    pages = sum(r.pages().values()) if not c.o.no_huge else 0
    mappings = pages if not c.o.single_file_segments else 0
    if mappings + 1000 > maps_most:
        yield Finding(
            FAIL,
            "every page is a mapping of its own",
            12,
            45,
            wanted=f"{mappings:,} mappings",
            found=f"vm.max_map_count {maps_most:,}",
            do=fixes.to("max-map-count", n=maps_most + mappings * 2),
        )
    if not collision and not missed:
        yield Finding(OK, f"{size(need)} reserved from {spans[0][0]:#x} on")
    contiguous = max((m.n_segs * m.page_sz for m in r.lists), default=0)
    if pages and c.requested > contiguous:
        text = f"one allocation can have {size(contiguous)} at most, the length of a list"
        yield Finding(WARN, text, 13, do=fixes.larger_pages(c.requested))


def _reserve(c: Case) -> int:
    """Return how many bytes of address space the planned lists take."""
    from pyeal import memseg

    r = c.dry_run
    assert r
    plans = memseg.plan([i.page_sz for i in r.infos], r.sockets, r.release, c.o.pagesz_mem)
    return sum(p.page_sz * p.n_segs for p in plans)


def _collision(v: ProcessView, spans: list[tuple[int, int, str]]) -> str:
    try:
        maps = v.maps()
    except OSError:
        return ""
    for start, end, name in maps:
        if any(start < b and end > a for a, b, _ in spans):
            return f"{start:#x}-{end:#x} {name or 'anonymous memory'}"
    return ""


def _sanitized(v: ProcessView) -> bool:
    return any(w in name for _, _, name in v.maps() for w in ("libasan", "libtsan", "clang_rt"))


def _primary_addresses(c: Case) -> Iterator[Finding]:
    """Compare the primary's address ranges with the mappings of a future secondary."""
    if not c.config or not c.config.c or not c.config.complete:
        yield Finding(UNKNOWN, "not reached")
        return
    m = c.config.c
    spans = [(m.mem_cfg_addr, m.mem_cfg_addr + sizeof(m), "config")]
    spans += [
        (x.base_va, x.base_va + x.len, "list") for x in m.memsegs if x.base_va and not x.external
    ]
    first, last = min(s[0] for s in spans), max(s[1] for s in spans)
    if collision := _collision(c.view, spans):
        from pyeal.tools.costs import free_base

        base = free_base(last - first + (1 << 24), [c.view])
        yield Finding(
            FAIL,
            "the primary's addresses are taken in this process",
            14,
            wanted=f"{first:#x}-{last:#x} free",
            found=collision,
            do=fixes.to("primary-base", base=base),
        )
        return
    soft, _ = c.view.limit("Max address space")
    if soft < last - first:
        yield Finding(
            FAIL,
            "the process may not have so many addresses",
            45,
            wanted=size(last - first),
            found=f"ulimit -v {soft >> 10}",
            do=fixes.to("limit", flag="-v"),
        )
        return
    yield Finding(OK, f"{first:#x}-{last:#x} is free here")
    high = first > 1 << 44
    if high and c.view.read("/proc/sys/kernel/randomize_va_space").strip() != "0":
        yield Finding(
            WARN,
            "the primary lies high up, where address randomisation puts libraries",
            14,
            do=fixes.to("primary-base", base=0x100000000),
        )
