"""What a tool may do that only looks, seen by strace."""

from __future__ import annotations

import re
import subprocess
import sys

from conformance.harness.child import environment

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
    r"mremap\(.*MREMAP_MAYMOVE\)",  # realloc of its own memory
    r"connect\(.*nscd/socket",  # the C library, of a user's name
    r"\+\+\+|---|\?\?\?\?",
)


def calls(argv, tmp_path):
    """(calls of these that `pyeal ARGV` makes, those of them that are not fine)"""
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
