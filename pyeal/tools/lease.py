"""Hugepages for a command, a block of code or a test: reserved, mounted, checked, returned.

with pyeal.lease("2M:256", node=0) as pages:
    pyeal.init(["--huge-dir", pages.hugedir("2M"), "-m", "64"])

pyeal/loans.py changes the pools. The mounts here hold the pages back by min_size=, so that no other
process can take them.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import sys
import time

from pyeal import loans
from pyeal.tools import BOLD, DIM, GREEN, RED, count, document, ink, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse

TEXT = "Hugepages for a command, and back: reserved, privately mounted, checked for leaks."
EXAMPLES = """\
  pyeal lease 2M:256 -- pytest tests/          256 pages that no other job can take meanwhile
  pyeal lease 2M:64,1G:1 --node 0 -- bash      two sizes of node 0, for a shell

exit code: that of the command; 1 if it is 0 and pages were left behind, 2 nothing was leased"""
TAKES_EAL_ARGS = True  # the command, after --
PLACE = "/run/pyeal/pages"
CLONE_NEWNS, MS_REC, MS_PRIVATE, MNT_DETACH = 0x20000, 0x4000, 1 << 18, 2
GONE = 5.0  # seconds that the command's processes have to be gone
_numbers = itertools.count(1)


class Leak(Exception):
    """Pages were still in use, or their files still there, when the lease ended."""


_libc = ctypes.CDLL(None, use_errno=True)


def _call(name: str, *args: object) -> None:
    if getattr(_libc, name)(*args):
        no = ctypes.get_errno()
        raise OSError(no, f"{name}{args}: {os.strerror(no)}")


def own_mounts() -> None:
    """This process's mounts become its own: nothing mounted from here on is seen outside."""
    _call("unshare", CLONE_NEWNS)
    _call("mount", b"none", b"/", None, MS_REC | MS_PRIVATE, None)


class Lease:
    """Pages of some sizes, each in a hugetlbfs of exactly that many.

    pages: "2M:256" or "2M:256,1G:1"; node: of that node. Exception Refused (of the loans) or
    OSError, and nothing is left then; Leak at the end, when the block itself did not fail.
    """

    def __init__(self, pages: str, node: int | None = None, say: object = None) -> None:
        self.pages: dict[str, int] = loans.parse(pages)
        self.node = node
        self.name = f"{os.getpid()}-{next(_numbers)}"
        self.at = f"{PLACE}-{self.name}"
        self.took: dict[str, int] = {}
        self.mounts: list[str] = []
        self.say = say if callable(say) else lambda text: print(text, file=sys.stderr)

    def hugedir(self, page: str = "2M") -> str:
        """The mount of that size, as for --huge-dir."""
        return f"{self.at}/{page}"

    def __enter__(self) -> Lease:
        suffix = "" if self.node is None else f"@{self.node}"
        want = {page + suffix: n for page, n in self.pages.items()}
        for page, n in self.pages.items():
            self._possible(page, n)
        try:
            self.took = loans.lease(want, say=self.say, name=self.name)
            for page, n in self.pages.items():
                self._mount(page, n)
            loans.mounted(self.name, self.mounts)
        except BaseException:
            self._end()
            raise
        return self

    def _bytes(self, page: str) -> int:
        return int(page[:-1]) * int(loans.UNITS[page[-1]])

    def _possible(self, page: str, n: int) -> None:
        """Refuses what memory cannot give, before a pool is touched."""
        if not loans.pool(page).is_dir():
            return  # the loan says so
        with open("/proc/meminfo") as f:
            kb = next(int(line.split()[1]) for line in f if line.startswith("MemAvailable:"))
        free = loans.available(page)
        if (n - free) * self._bytes(page) > kb << 10:
            raise loans.Refused(
                f"{n} free {page} pages wanted, {free} found, and {size(kb << 10)} of memory to "
                "make more of: ask for fewer"
            )

    def _mount(self, page: str, n: int) -> None:
        at = self.hugedir(page)
        os.makedirs(at, mode=0o700)
        length = n * self._bytes(page)
        opts = f"pagesize={page},size={length},min_size={length},mode=0700"
        try:
            _call("mount", b"pyeal", at.encode(), b"hugetlbfs", 0, opts.encode())
        except OSError as e:
            free = loans.available(page)
            raise loans.Refused(
                f"{n} free {page} pages wanted, {free} found ({os.strerror(e.errno or 0)}): "
                f"dpdk-hugepages.py -p {page} -r SIZE, or reserve them at boot"
            ) from None
        self.mounts.append(at)

    def __exit__(self, kind: object, *_: object) -> None:
        leaks = self.leaks()
        self._end()
        if leaks and kind is None:
            raise Leak("; ".join(leaks))

    def leaks(self) -> list[str]:
        """What is still there, in words: files, and pages of processes that still run."""
        found = []
        for at in self.mounts:
            names = sorted(os.listdir(at))
            st = os.statvfs(at)
            used = st.f_blocks - st.f_bfree
            if names:
                more = f" and {len(names) - 3} more" if len(names) > 3 else ""
                what = f"{count(len(names), 'file')} left in {at}: {', '.join(names[:3])}{more}"
                found.append(f"{what} ({size(used * st.f_bsize)})")
            elif used:
                found.append(f"{size(used * st.f_bsize)} of {at} still in use by a process")
        return found

    def _end(self) -> None:
        for at in reversed(self.mounts):
            _call("umount2", at.encode(), MNT_DETACH)
        self.mounts.clear()
        for at in (*(self.hugedir(page) for page in self.pages), self.at):
            try:
                os.rmdir(at)
            except OSError:
                pass
        loans.give_back(self.name, say=self.say)


# --- the command ----------------------------------------------------------------------------------


def arguments(p: argparse.ArgumentParser) -> None:
    p.usage = "pyeal lease [options] PAGES -- COMMAND ..."
    p.add_argument("pages", nargs="?", metavar="PAGES", help="2M:256, or 2M:256,1G:1")
    p.add_argument("--node", type=int, help="of that NUMA node")
    p.add_argument("--show", action="store_true", help="pools and loans, and nothing else")
    p.add_argument("-q", "--quiet", action="store_true", help="say only what goes wrong")
    p.add_argument("--json", action="store_true", help="with --show: as pyeal.lease/1")


def run(args: argparse.Namespace) -> int:
    try:
        if args.show:
            return _show(args.json)
        if not args.pages or not args.eal_args:
            print(
                "pyeal: pages and a command are wanted: pyeal lease 2M:64 -- COMMAND",
                file=sys.stderr,
            )
            return 2
        return _lend(args)
    except Exception as e:
        if type(e).__name__ not in ("Refused", "OSError", "PermissionError", "FileNotFoundError"):
            raise
        print(f"pyeal lease: {e}", file=sys.stderr)
        return 2


def _lend(args: argparse.Namespace) -> int:
    lent = Lease(args.pages, args.node)
    if os.geteuid():
        raise PermissionError(f"leasing hugepages needs root, found uid {os.geteuid()}")
    loans.recover(lent.say)  # mounts of dead processes are in the namespace that is left now
    own_mounts()
    _hide_others()
    with lent:
        if not args.quiet:
            took = loans.text(lent.took)
            print(
                f"{_named(lent)} at {', '.join(lent.mounts)}; taken from the kernel: {took}",
                file=sys.stderr,
            )
        code, left = _command(args.eal_args)
        leaks = [*left, *lent.leaks()]
        lent.leaks = list  # type: ignore[method-assign]
    for what in leaks:
        print(f"{ink('pyeal lease: left behind:', BOLD, RED)} {what}", file=sys.stderr)
    if not leaks and not args.quiet:
        print(f"{ink('given back', GREEN)}: {_named(lent)}", file=sys.stderr)
    return code or bool(leaks)


def _named(lent: Lease) -> str:
    where = "" if lent.node is None else f" of node {lent.node}"
    return ", ".join(f"{n:,} x {page}" for page, n in lent.pages.items()) + where


def _hide_others() -> None:
    """Takes every other hugetlbfs out of this namespace: EAL uses the first that it finds."""
    from pyeal.hugepages import mounts

    for at, _ in mounts():
        _call("umount2", at.encode(), MNT_DETACH)


def _command(argv: list[str]) -> tuple[int, list[str]]:
    """(exit code, processes that outlived it). Signals for this process are the command's."""
    import signal
    import subprocess

    try:
        child = subprocess.Popen(argv)
    except OSError as e:
        print(f"pyeal lease: {argv[0]}: {e.strerror}", file=sys.stderr)
        return 127, []
    before = {
        s: signal.signal(s, lambda s, _: child.send_signal(s))
        for s in (signal.SIGTERM, signal.SIGHUP)
    }
    before[signal.SIGINT] = signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal tells both
    try:
        code = child.wait()
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
    end = time.monotonic() + GONE
    while (left := _inside()) and time.monotonic() < end:
        time.sleep(0.02)
    return 128 - code if code < 0 else code, left


def _inside() -> list[str]:
    """Other processes in this mount namespace."""
    mine, found = os.readlink("/proc/self/ns/mnt"), []
    for name in os.listdir("/proc"):
        if not name.isdecimal() or int(name) == os.getpid():
            continue
        try:
            if os.readlink(f"/proc/{name}/ns/mnt") == mine:
                with open(f"/proc/{name}/comm") as f:
                    found.append(f"process {name} ({f.read().strip()}) still runs")
        except OSError:
            continue
    return found


def _show(as_json: bool) -> int:
    import json

    found = []
    for path in sorted(loans.STATE.glob("*.json")):
        loan = json.loads(path.read_text())
        alive = loans.started(loan["pid"]) == loan["started"] is not None
        found.append(
            {
                "pid": loan["pid"],
                "alive": alive,
                "took": loan["took"],
                "keeps": loan.get("keeps", {}),
                "mounts": loan.get("mounts", []),
            }
        )
    pools = {
        d.name: {w: int((d / f"{w}_hugepages").read_text()) for w in ("nr", "free", "resv")}
        for d in sorted(loans.POOLS.glob("hugepages-*kB"))
    }
    if as_json:
        print(document("lease", {"pools": pools, "loans": found}))
        return 0
    for name, p in pools.items():
        page = size(int(name[10:-2]) << 10)
        print(f"{page:>5}  {p['nr']:>7,} pages, {p['free']:,} free, {p['resv']:,} reserved")
    for x in found:
        who = f"process {x['pid']}" + ("" if x["alive"] else ink(" (dead)", DIM))
        mounts = f", mounted at {', '.join(x['mounts'])}" if x["mounts"] else ""
        print(f"lent to {who}: {loans.text(x['took'])} taken{mounts}")
    if not found:
        print(ink("nothing is lent", DIM))
    return 0
