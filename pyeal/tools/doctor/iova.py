"""The link `IOVA`: can devices use the memory?"""

from __future__ import annotations

import os

from pyeal.look.process_view import ProcessView
from pyeal.tools import fixes, size
from pyeal.tools.doctor.model import FAIL, OK, UNKNOWN, WARN, Case, Finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def check(c: Case) -> Iterator[Finding]:
    if c.secondary:
        yield Finding(OK, "as the primary has it")
        return
    v, r, e = c.view, c.dry_run, c.error
    frames = r.phys_addrs if r and hasattr(r, "phys_addrs") else True
    if not v.own and not v.capable("sys_admin"):
        frames = False
    if e and e.stage == "iova":
        debian = ": Debian's takes VA then" if c.release.line in ("20.11", "22.11") else ""
        yield Finding(
            FAIL,
            f"no physical address is to be seen{debian}",
            9,
            wanted="frame numbers in /proc/self/pagemap (CAP_SYS_ADMIN)",
            found="zeros" if not c.o.no_huge else "--no-huge, which has none",
            do=fixes.to("iova-va"),
        )
        return
    mode = getattr(r, "iova_mode", "") if v.own else ("PA" if frames else "VA")
    if mode:
        why = "" if frames or c.o.no_huge else ": without CAP_SYS_ADMIN there are no frame numbers"
        yield Finding(OK, f"IOVA as {mode}{why}", *(() if frames else (9,)), harmless=not frames)
    else:
        yield Finding(UNKNOWN, "not reached")
    if not r or e:
        return
    last = r.addresses()[-1][1] if r.addresses() else 0
    bits = iommu_bits(v)
    if bits and mode == "VA" and last >> bits:
        yield Finding(
            FAIL,
            f"the IOMMU knows {bits} address bits",
            23,
            wanted=f"addresses below 2^{bits}",
            found=f"memory up to {last:#x}",
            do=fixes.to("iova-pa"),
        )
    bytes_ = sum(sz * n for (sz, _), n in r.pages().items())
    entries = v.read("/sys/module/vfio_iommu_type1/parameters/dma_entry_limit").strip()
    devices = _vfio(v)
    if entries.isdecimal() and r.dma_entries() > int(entries):
        yield Finding(
            FAIL if devices else WARN,
            "VFIO maps each page for itself",
            24,
            wanted=f"{r.dma_entries():,} entries",
            found=f"dma_entry_limit {entries}",
            do=fixes.larger_pages(bytes_),
        )
    lock = v.limit("Max locked memory")[0]
    if devices and lock < bytes_ and not v.capable("ipc_lock"):
        yield Finding(
            FAIL,
            "VFIO counts the memory as locked",
            24,
            wanted=size(bytes_),
            found=f"ulimit -l {lock >> 10}",
            do=fixes.to("locked-memory"),
        )


def iommu_bits(v: ProcessView) -> int:
    """Return the address width of the narrowest Intel IOMMU (MGAW + 1), 0 without one."""
    base = v.path("/sys/class/iommu")
    widths = []
    for name in os.listdir(base) if os.path.isdir(base) else ():
        text = v.read(f"/sys/class/iommu/{name}/intel-iommu/cap").strip()
        if text:
            widths.append((int(text, 16) >> 16 & 63) + 1)
    return min(widths, default=0)


def _vfio(v: ProcessView) -> list[str]:
    try:
        return [n for n in os.listdir(v.path("/dev/vfio")) if n.isdecimal()]
    except OSError:
        return []
