"""The link `policy`: may this process choose the NUMA nodes of its memory?"""

from __future__ import annotations

from errno import ENOSYS, EPERM

from pyeal import libc
from pyeal.tools import fixes
from pyeal.tools.doctor.model import FAIL, OK, UNKNOWN, WARN, Case, Finding, listed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def check(c: Case) -> Iterator[Finding]:
    if not c.needs_pages():
        yield Finding(OK, "not needed")
        return
    v, bad = c.view, False
    if v.own and not v.root:
        try:
            policy = libc.get_mempolicy()
        except OSError as e:
            if e.errno == ENOSYS:
                text = "this kernel knows no memory policy: not a problem"
                yield Finding(OK, text, 7, harmless=True)
            else:
                bad = True
                yield Finding(
                    FAIL,
                    "get_mempolicy is forbidden: EAL gives each page back",
                    7,
                    wanted="get_mempolicy, set_mempolicy",
                    found=f"{e.strerror}: seccomp",
                    do=fixes.to("capability"),
                )
        else:
            if not _may_set_policy(policy):
                bad = True
                text = "set_mempolicy is forbidden: the kernel chooses the nodes of the pages"
                yield Finding(WARN, text, 7, do=fixes.to("capability"))
    elif v.status.get("Seccomp") == "2" and not v.capable("sys_nice"):
        text = "a seccomp profile without CAP_SYS_NICE, which may deny memory policies"
        bad = True
        yield Finding(UNKNOWN, text, 7, do=fixes.to("inside", pid=v.pid))
    allowed = v.mems_allowed()
    pools = c.pools
    nodes = sorted({k for p in pools.values() for k, n in p["nodes"].items() if n.get("free")})
    out = [k for k in nodes if allowed is not None and k not in allowed]
    if c.failed_at("policy") or (out and len(out) == len(nodes)):
        bad = True
        out = out or nodes
        yield Finding(
            FAIL,
            f"pages lie on node {listed(out)}, where this process may not go",
            8,
            wanted=f"node {listed(out)} in cpuset.mems",
            found=f"Mems_allowed_list: {v.status.get('Mems_allowed_list')}",
            do=fixes.to("cpuset", nodes=listed(nodes)),
        )
    elif out:
        bad = True
        yield Finding(WARN, f"node {listed(out)} has pages, but is not in Mems_allowed", 8)
    if not bad:
        where = f"node {listed(sorted(allowed))}" if allowed else "any node"
        yield Finding(OK, f"memory of {where} is allowed")


def _may_set_policy(policy: tuple[int, bytes]) -> bool:
    """Return whether set_mempolicy is allowed, by a call that sets the policy that is set."""
    mode, mask = policy
    try:
        libc.set_mempolicy(mode, b"" if mode == libc.MPOL_DEFAULT else mask)
    except OSError as e:
        return e.errno != EPERM
    return True
