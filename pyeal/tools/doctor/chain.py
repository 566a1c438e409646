"""The chain of what a start of EAL needs: each link with its check, in the order of a start.

A dry run (plan.py) is the model of what EAL does. The checks report what is behind its result, and
look at what EAL itself never looks at. A check is a generator of Findings about a Case.
"""

from __future__ import annotations

import shutil

from pyeal.tools import fixes, size
from pyeal.tools.doctor import (
    addresses,
    arguments,
    cgroup,
    descriptors,
    files_of_others,
    iova,
    mount,
    namespace,
    permission,
    policy,
    pool,
)
from pyeal.tools.doctor.model import FAIL, OK, UNKNOWN, WARN, Case, Finding
from pyeal.tools.dryrun import DryRun

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pyeal.errors import EalError
    from pyeal.look.process_view import ProcessView

CHECKS = {
    "arguments": arguments.check,
    "pool": pool.check,
    "mount": mount.check,
    "namespace": namespace.check,
    "cgroup": cgroup.check,
    "permission": permission.check,
    "policy": policy.check,
    "address space": addresses.check,
    "descriptors": descriptors.check,
    "IOVA": iova.check,
    "files of others": files_of_others.check,
}
LINKS = tuple(CHECKS)
STAGES = {  # stage of an error that no check explained: its link
    "options": "arguments",
    "hugepages": "pool",
    "pages": "pool",
    "runtime": "permission",
    "config": "permission",
    "mp": "permission",
    "memzone": "permission",
    "memseg": "address space",
    "vaspace": "address space",
    "iova": "IOVA",
    "memfd": "permission",
    "interrupts": "policy",
    "threads": "policy",
}
REASONS = {  # the same by the reason, which says more
    "primary-exists": "files of others",
    "survivors": "files of others",
    "hugedir-locked": "files of others",
    "runtime-file": "permission",
}
# before and after all about memory
EARLY = ("runtime", "config", "interrupts", "mp", "memzone", "threads")
PROBLEMS = {  # rows of problems.py, by the reason of an error that no check explained
    "runtime-directory": (10, 18),
    "runtime-file": (10, 11),
    "primary-exists": (5,),
    "survivors": (21, 17),
    "hugedir-locked": (44,),
    "hugedir-rights": (10, 11),
    "file-size": (11,),
    "forbidden-call": (7,),
}
ROOT_ONLY = ("mkdir", "mount", "umount", "chown", "echo", "sysctl")
SLOW = 2.0  # seconds of zeroing at a start that are worth a finding


def examine(view: ProcessView, args: list[str], release: str | None) -> dict[str, list[Finding]]:
    """Return every link with its findings."""
    return look_at(Case(view, args, release))


def look_at(c: Case) -> dict[str, list[Finding]]:
    """Return every link of a case with its findings."""
    view = c.view
    found: dict[str, list[Finding]] = {}
    try:
        for link, check in CHECKS.items():
            if c.refused and link != "arguments":
                found[link] = [Finding(UNKNOWN, "not reached")]
                continue
            try:
                found[link] = list(check(c))
            except OSError as e:
                text = f"{e.strerror}: {e.filename}" if e.filename else str(e)
                found[link] = [Finding(UNKNOWN, text)]
        if c.dry_run and not c.error:  # EAL starts, whatever stands here
            for f in (f for fs in found.values() for f in fs if f.state == FAIL):
                f.state = WARN
        elif c.error and not any(f.state == FAIL for f in found[link_of(c)]):
            fails = [f for fs in found.values() for f in fs if f.state == FAIL]
            if not fails or c.error.reason in REASONS or c.error.stage in EARLY:
                found[link_of(c)].append(_unexplained(c, c.error))
        if c.dry_run and (own := c.dry_run.own_error) and not c.error:
            text = f"EAL {c.release.line} starts, but {own.what}: {own.found}"
            found["permission"].append(Finding(WARN, text, do=own.fix))
        if slow := _zeroing(c):
            found["pool"].append(slow)
        if view.uid or view.in_user_namespace or not view.capable("sys_admin"):
            for f in (f for fs in found.values() for f in fs if f.state in (WARN, FAIL)):
                f.do = for_user(c, f.do)
    finally:
        if c.dry_run:
            c.dry_run.close()
    return found


def advice(r: DryRun, args: list[str]) -> str:
    """Return the fix of the link that ends a dry run."""
    c = Case(r.view, args, r.release.name, r)
    found = look_at(c)
    fails = [f.do for f in found[link_of(c)] if f.state == FAIL and f.do]
    fails += [f.do for fs in found.values() for f in fs if f.state == FAIL and f.do]
    return fails[0] if fails else ""


def for_user(c: Case, do: str) -> str:
    """Return a command that only root may run with what helps without root in front, if anything.

    The arguments in front are rehearsed: with them the start succeeds.
    """
    if do.partition(" ")[0] not in ROOT_ONLY:
        return do
    here = ""
    if c.error and not c.secondary:
        for name in ("in-memory", "no-huge"):
            here = fixes.to(name)
            with DryRun([*c.args, here], c.release.name, c.view) as r:
                if r.error is None:
                    break
            here = ""
    root = as_root(do, not c.view.in_user_namespace and bool(shutil.which("sudo")))
    return f"{here}, or {root}" if here else root


def as_root(do: str, sudo: bool) -> str:
    """Return a command as root's, by sudo if this machine has it."""
    if do.partition(" ")[0] not in ROOT_ONLY:
        return do
    if not sudo:
        return f"as root of the host: {do}"
    return f"sudo sh -c '{do}'" if any(x in do for x in ";>") else f"sudo {do}"


def _unexplained(c: Case, e: EalError) -> Finding:
    wanted, found = e.expected or "a start", e.found or e.stage
    rows, do = PROBLEMS.get(e.reason, ()), e.fix or fixes.plan(c.args)
    return Finding(FAIL, e.what, *rows, wanted=wanted, found=found, do=do)


def link_of(c: Case) -> str:
    """Return the link of an error of the dry run that no check explained."""
    assert c.error
    if c.error.reason in REASONS:
        return REASONS[c.error.reason]
    if c.limit and c.error.stage not in EARLY:
        return {"lists": "address space"}.get(c.limit, c.limit)
    return STAGES.get(c.error.stage, "pool")


def _zeroing(c: Case) -> Finding | None:
    """Return a finding if the kernel needs long to zero the pages at every start."""
    from pyeal.tools.costs import zeroing

    r = c.dry_run
    if not r or r.error or c.o.no_huge:
        return None
    amount = sum(sz * n for (sz, _), n in r.pages().items())
    if amount <= 4 << 30 or (seconds := amount / zeroing()) <= SLOW:
        return None
    text = f"zeroing {size(amount)} takes about {seconds:.0f} s at every start"
    return Finding(OK, text, 31, harmless=True)
