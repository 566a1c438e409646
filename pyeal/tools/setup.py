"""`pyeal setup`: what makes a reservation of hugepages last beyond the next boot.

Pages of 1 GB are reserved by the kernel's command line, as free memory is in pieces later. sysctl
knows the default size alone, and no node; systemd-tmpfiles writes all else into /sys at boot.
"""

from __future__ import annotations

import os
import re
import sys

from pyeal import hugepages, loans
from pyeal.host import LOCAL
from pyeal.populate import pool_file
from pyeal.tools import BOLD, DIM, UsageError, document, ink, printable, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

TEXT = """Print the files and kernel arguments that reserve hugepages at each boot and mount them:
a sysctl file, a tmpfiles.d file, mount units. --apply writes the files, after a question.
Exit code: 0; 1 if it could not write or was answered no; 2 for wrong arguments."""
EXAMPLES = """  pyeal setup                          what is reserved now, for the next boot as well
  pyeal setup 2M:1024@0,2M:512@1,1G:4  pages of node 0 and of node 1, and of any node
  pyeal setup 2M:512 --apply           write it, after a question; doctor checks it afterwards"""
GIGANTIC = 1 << 30
REQUEST = re.compile(r"(\d+[KMG]):(\d+)(?:@(\d+))?$")
SYSCTL = "/etc/sysctl.d/60-pyeal-hugepages.conf"
TMPFILES = "/etc/tmpfiles.d/pyeal-hugepages.conf"
GRUB = "/etc/default/grub.d/pyeal-hugepages.cfg"
Pages = dict[tuple[int, "int | None"], int]


def arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("pages", nargs="?", metavar="PAGES", help="2M:1024, 2M:512@NODE, 1G:4, ...")
    p.add_argument("--owner", metavar="UID", type=int, help="the mounts belong to that user")
    p.add_argument("--apply", action="store_true", help="write the files, after a question")
    p.add_argument("-y", "--yes", action="store_true", help="with --apply: no question")
    p.add_argument("--root", default="", metavar="DIR", help="of the system to write, as an image")
    p.add_argument("--json", action="store_true", help="as JSON, schema pyeal.setup/1")


def wanted(text: str | None) -> Pages:
    """Return {(page size, node or None): pages} of an argument, or of the pools as they are."""
    found: Pages = {}
    for part in text.split(",") if text else ():
        if not (m := REQUEST.match(part)):
            raise UsageError(f"expected SIZE:N or SIZE:N@NODE as 2M:512@0, found {part}")
        sz = int(m[1][:-1]) * int(loans.UNITS[m[1][-1]])
        key = sz, int(m[3]) if m[3] else None
        found[key] = found.get(key, 0) + int(m[2])
    for sz in {sz for sz, node in found if node is None}:
        if len([1 for s, _ in found if s == sz]) > 1:
            raise UsageError(f"pages of {size(sz)} either of nodes or of any node, not both")
    return found or now()


def now() -> Pages:
    """Return what is reserved at this moment, by node if there are several."""
    from pyeal.look.pools import all_pools

    found: Pages = {}
    for sz, pool in all_pools().items():
        nodes = pool["nodes"]
        assert isinstance(nodes, dict)
        counts: dict[int | None, int] = {k: n.get("nr", 0) for k, n in nodes.items()}
        if len(counts) < 2:
            counts = {None: int(str(pool.get("nr", 0)))}
        found |= {(sz, k): n for k, n in counts.items() if n}
    return found


def kernel_arguments(pages: Pages) -> list[str]:
    """Return the arguments for pages of 1 GB or more; those of a node need Linux 5.16."""
    found = []
    for sz in sorted({sz for sz, _ in pages if sz >= GIGANTIC}):
        by = {node: n for (s, node), n in sorted(pages.items(), key=str) if s == sz}
        amount = ",".join(str(n) if k is None else f"{k}:{n}" for k, n in by.items())
        found += [f"hugepagesz={size(sz)}", f"hugepages={amount}"]
    return found


def files(pages: Pages, default: int, owner: int | None, grub: bool) -> dict[str, str]:
    """Return {path: content} of what reserves these pages at boot and mounts their sizes."""
    head = f"# made by pyeal setup {','.join(request(pages))}\n"
    found, lines = {}, []
    for (sz, node), n in sorted(pages.items(), key=str):
        if sz >= GIGANTIC:
            continue
        if sz == default and node is None:
            found[SYSCTL] = f"{head}vm.nr_hugepages = {n}\n"
        else:
            at = pool_file(sz)
            if node is not None:
                name = f"hugepages-{sz >> 10}kB/nr_hugepages"
                at = f"/sys/devices/system/node/node{node}/hugepages/{name}"
            lines.append(f"w {at} - - - - {n}\n")
    if lines:
        found[TMPFILES] = head + "".join(lines)
    words = " ".join(kernel_arguments(pages))
    if words and grub:
        line = f'GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX {words}"\n'
        found[GRUB] = head + line
    for sz in sorted({sz for sz, _ in pages}):
        at = "/dev/hugepages" if sz == default else f"/dev/hugepages{size(sz)}"
        who = f",uid={owner},mode=0700" if owner is not None else ""
        if sz != default or who:  # systemd mounts the default size there
            found[f"/etc/systemd/system/{unit_of(at)}"] = UNIT.format(
                head=head, at=at, options=f"pagesize={size(sz)}{who}", size=size(sz)
            )
    return found


UNIT = """{head}[Unit]
Description=Hugepages of {size}
DefaultDependencies=no
Before=sysinit.target
ConditionPathExists=/sys/kernel/mm/hugepages

[Mount]
What=hugetlbfs
Where={at}
Type=hugetlbfs
Options={options}

[Install]
WantedBy=sysinit.target
"""


def unit_of(path: str) -> str:
    """Return the name that systemd demands for the mount unit of a path. systemd.unit(5)"""
    escaped = re.sub(r"[^A-Za-z0-9:_./]", lambda m: f"\\x{ord(m[0]):02x}", path.strip("/"))
    return escaped.replace("/", "-") + ".mount"


def request(pages: Pages) -> list[str]:
    """Return pages as the words of the argument."""
    return [
        f"{size(sz)}:{n}" + (f"@{node}" if node is not None else "")
        for (sz, node), n in sorted(pages.items(), key=str)
    ]


def commands(found: dict[str, str], arguments: list[str], grub: bool) -> list[str]:
    """Return the commands that make the files count at once, as far as that is possible."""
    units = [p.rpartition("/")[2] for p in found if p.endswith(".mount")]
    out = [f"sysctl -p {p}" for p in found if "/sysctl.d/" in p]
    out += [f"systemd-tmpfiles --create {p}" for p in found if "/tmpfiles.d/" in p]
    out += ["systemctl daemon-reload"] * bool(units)
    out += [f"systemctl enable --now '{u}'" for u in units]
    if arguments:
        words = " ".join(arguments)
        out.append("update-grub" if grub else f"grubby --update-kernel=ALL --args='{words}'")
    return out


def run(args: argparse.Namespace) -> int:
    pages = wanted(args.pages)
    if not pages:
        raise UsageError("no hugepages are reserved now. Fix: pyeal setup 2M:512")
    default = hugepages.default_size(LOCAL) or 2 << 20
    grub = os.path.isdir(f"{args.root}/etc/default/grub.d")
    found, words = files(pages, default, args.owner, grub), kernel_arguments(pages)
    todo = commands(found, words, grub)
    if args.json:
        rows = [{"path": p, "content": text} for p, text in found.items()]
        facts = {"pages": request(pages), "files": rows, "kernel_arguments": words}
        print(document("setup", {**facts, "commands": todo}))
    else:
        for path, text in found.items():
            print(ink(f"{args.root}{path}", BOLD), text, sep="\n")
        if words:
            print(ink("kernel arguments", BOLD), " ".join(words), "", sep="\n")
        print(ink("at once, as root (pages of the kernel arguments after a reboot)", BOLD))
        print(*todo, sep="\n")
    if not args.apply:
        if not args.json:
            print(ink("\npyeal setup --apply writes these files", DIM))
        return 0
    if not args.yes and not _asked(len(found)):
        return 1
    for path, text in found.items():
        _write(f"{args.root}{path}", text)
    for path in {SYSCTL, TMPFILES, GRUB} - set(found):  # of an earlier setup
        if os.path.exists(f"{args.root}{path}"):
            os.unlink(f"{args.root}{path}")
    print(printable(f"written: {len(found)} files; pyeal doctor checks them"), file=sys.stderr)
    return 0


def _asked(n: int) -> bool:
    print(f"write {n} files? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _write(path: str, text: str) -> None:
    """Replace a file as a whole, so that a crash leaves the old one or the new one."""
    os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
    new = f"{path}.new"
    fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o644)
    with os.fdopen(fd, "w") as f:
        f.write(text)
        f.flush()
        os.fsync(f.fileno())
    os.replace(new, path)
