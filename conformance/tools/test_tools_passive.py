"""All tools only look: strace sees no lock, no write, no attach and nothing opened for writing."""

from __future__ import annotations

import re
import subprocess
import sys

from conformance import needs
from conformance.child import environment

LOOKED_AT = (
    "flock,fcntl,ptrace,kill,tkill,tgkill,write,pwrite64,writev,pwritev,sendto,sendmsg,connect,"
    "bind,process_vm_writev,process_vm_readv,process_madvise,pidfd_getfd,mmap,mremap,ftruncate,"
    "truncate,fallocate,unlink,unlinkat,rename,renameat,renameat2,mkdir,mkdirat,rmdir,chmod,"
    "fchmod,fchmodat,chown,fchown,fchownat,utimensat,setxattr,mount,umount2,setns,unshare,"
    "open,openat,openat2,creat,link,linkat,symlink,symlinkat,mknod,mknodat"
)
FINE = (  # what a look may do
    r"open\w*\(.*O_RDONLY(?!.*O_(CREAT|TRUNC))",
    r"open\w*\(.*O_PATH",
    r"fcntl\(\d+<?.*, F_(GETFD|GETFL|GETLK|DUPFD|DUPFD_CLOEXEC|SETFD|SETFL)\b",
    r"write\([12]<",
    r"mmap\(.*MAP_PRIVATE",
    r"mmap\(.*PROT_READ, MAP_SHARED",
    r"connect\(.*nscd/socket",  # the C library, of a user's name
    r"\+\+\+|---|\?\?\?\?",
)


def calls(argv, tmp_path):
    """Every call of these that a command makes, but for those that are fine."""
    out = tmp_path / "trace"
    names = "?" + LOOKED_AT.replace(",", ",?")  # ?: not on every machine
    strace = ["strace", "-f", "-y", "-qq", "-o", out, "-e", f"trace={names}"]
    argv = [*strace, sys.executable, "-P", "-m", "pyeal", *argv]
    env = environment() | {"PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([*map(str, argv)], capture_output=True, text=True, env=env, timeout=60)
    assert done.returncode in (0, 1), done.stderr
    lines = [re.sub(r"^\d+ +", "", line) for line in out.read_text().splitlines()]
    seen = len(lines)
    return seen, [x for x in lines if not any(re.match(f, x) for f in FINE)]


@needs(pages={"2M": 4}, strace=True)
def test_nothing_but_looking(start, join, facts, tmp_path, evidence):
    """A primary and its secondary are up: no tool leaves a trace with them."""
    eal = start("-m", "4", target="librte_eal:22.11")
    join(target="librte_eal:22.11")
    dead = start("-m", "2", target="librte_eal:24.11", prefix=f"{eal.prefix}_dead")
    dead.kill()
    runs = {
        "ps": ["ps", "-a"],
        "inspect": ["inspect", eal.pid, "--elements", "--json"],
        "inspect of the dead": ["inspect", dead.prefix, "--elements"],
        "telemetry": ["inspect", eal.prefix, "/eal/heap_info,0"],
        "map": ["map", eal.prefix, "--beside", eal.pid],
        "stale": ["stale", eal.prefix, dead.prefix, "-a", "-v"],
        "dump": ["dump", eal.run / "config"],
        "diff": ["diff", eal.run / "config", dead.run / "config"],
    }
    seen = {name: calls(argv, tmp_path) for name, argv in runs.items()}
    evidence(", ".join(f"{name}: {n} calls" for name, (n, _) in seen.items()))

    assert {name: bad for name, (_, bad) in seen.items() if bad} == {}
    assert all(n > 100 for n, _ in seen.values())
    assert eal.malloc(64).va


@needs(pages={"2M": 2}, strace=True)
def test_what_deletes_is_seen(start, tmp_path):
    """The check above can fail: stale --delete locks and unlinks."""
    eal = start("-m", "2", target="librte_eal:22.11")
    eal.kill()
    _, bad = calls(["stale", eal.prefix, "--delete", "-y"], tmp_path)
    words = [x.partition("(")[0] for x in bad]
    page = next(i for i, x in enumerate(bad) if x.startswith("unlinkat") and "map_0" in x)

    assert {"flock", "unlinkat", "fcntl"} <= set(words)
    assert re.match(r"flock\(.*map_0>, LOCK_EX\|LOCK_NB\) += 0", bad[page - 1])
    assert any(re.match(r"flock\(.*hugepages/2M>, LOCK_EX", x) for x in bad[:page])
