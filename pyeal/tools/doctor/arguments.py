"""The link `arguments`: does this release accept them?"""

from __future__ import annotations

from pyeal import options, releases
from pyeal.errors import EalError
from pyeal.tools import fixes, steps
from pyeal.tools.doctor.model import FAIL, OK, WARN, Case, Finding

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def check(c: Case) -> Iterator[Finding]:
    e = c.refused or (c.error if c.error and c.error.stage == "options" else None)
    if e:
        text, do = e.what, e.fix
        rows = (38, 0) if e.reason == "no-huge" else (0,)
        other = _taken_by(c.args) if c.refused else ""
        do = fixes.to("release", release=other) if other else do or fixes.plan(c.args)
        wanted = e.expected or f"arguments of EAL {c.release.name}"
        yield Finding(FAIL, text, *rows, wanted=wanted, found=" ".join(c.args), do=do)
        return
    o = c.o
    if c.of_process:
        yield Finding(OK, f"of process {c.view.pid}: {' '.join(c.args) or 'none'}")
    mode = (
        "no-huge"
        if o.no_huge
        else "legacy"
        if o.legacy_mem
        else "in-memory"
        if o.in_memory
        else "single-file"
        if o.single_file_segments
        else "dynmem"
    )
    role = "secondary" if c.secondary else "primary"
    yield Finding(OK, f"{role}, {mode}, file prefix {o.file_prefix}")
    nodes = getattr(c.dry_run, "sockets", [])
    for text, do in steps.misread(c.args, o, nodes):
        yield Finding(WARN, text, do=do)
    if o.no_huge:
        text = "--no-huge: no secondary can join, and no device can use it without VFIO"
        yield Finding(OK, text, 38, harmless=True)


def _taken_by(args: list[str]) -> str:
    """Return the first release that accepts these arguments, "" if none does."""
    for r in releases.RELEASES.values():
        try:
            options.parse(args, r)
            return r.line
        except EalError:
            pass
    return ""
