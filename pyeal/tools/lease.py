"""Hugepages for a command, a block of code or a test: reserved, mounted, checked, returned.

with pyeal.lease("2M:256", node=0) as pages:
    pyeal.init(["--huge-dir", pages.hugedir("2M"), "-m", "64"])

pyeal/loans.py changes the pools. The mounts here hold the pages back by min_size=, so that no other
process can take them. EAL counts such pages as reserved: --legacy-mem finds none that is free, and
--in-memory takes its pages from outside of the mount. Both need reserved=False: pages that other
leases leave alone, and other programs could take.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import sys
import time
from contextlib import contextmanager

from pyeal import loans
from pyeal.tools import BOLD, DIM, GREEN, RED, count, document, ink, printable, size

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

TEXT = "Hugepages for a command, and back: reserved, privately mounted, checked for leaks."
EXAMPLES = """\
  pyeal lease 2M:256 -- pytest tests/          256 pages that no other job can take meanwhile
  pyeal lease 2M:64,1G:1 --node 0 -- bash      two sizes of node 0, for a shell
  pyeal lease 2M:64 --unreserved -- ./app.sh   for a program with --legacy-mem or --in-memory

exit code: that of the command; 1 if it is 0 and pages were left behind, 2 nothing was leased"""
TAKES_EAL_ARGS = True  # the command, after --
PLACE = "/run/pyeal/pages"
CLONE_NEWNS, MS_REC, MS_PRIVATE, MNT_DETACH = 0x20000, 0x4000, 1 << 18, 2
UNRESERVED = "--legacy-mem", "--in-memory"  # options of EAL for which a mount cannot hold pages
GONE = 30.0  # seconds until processes that outlive the command are left behind, not just slow
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

    pages: "2M:256" or "2M:256,1G:1"; node: of that node; reserved=False: for programs with
    --legacy-mem or --in-memory. Exception Refused (of the loans) or OSError, and nothing is left
    then; Leak at the end, when the block itself did not fail.
    """

    def __init__(
        self, pages: str, node: int | None = None, say: object = None, *, reserved: bool = True
    ) -> None:
        self.pages: dict[str, int] = loans.parse(pages)
        self.node, self.reserved, self.pid = node, reserved, os.getpid()
        # a pid names a process in its own PID namespace alone
        self.name = f"{self.pid}-{next(_numbers)}-{os.urandom(3).hex()}"
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
            if not self.reserved and (short := loans.lacking(want, self.name)):
                raise loans.Refused(f"{loans.text(want)} wanted, {loans.text(short)} available")
            for page, n in self.pages.items():
                self._mount(page, n)
            loans.mounted(self.name, self.mounts, self.reserved)
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
        try:
            with open("/proc/meminfo") as f:
                kb = next(int(line.split()[1]) for line in f if line.startswith("MemAvailable:"))
        except OSError:
            return  # without /proc the kernel decides
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
        opts = f"pagesize={page},size={length},mode=0700"
        opts += f",min_size={length}" if self.reserved else ""
        try:
            _call("mount", b"pyeal", at.encode(), b"hugetlbfs", 0, opts.encode())
        except OSError as e:
            from pyeal.populate import more_pages

            free = loans.available(page)
            raise loans.Refused(
                f"{n} free {page} pages wanted, {free} found ({os.strerror(e.errno or 0)}): "
                f"{more_pages(self._bytes(page))}, or reserve them at boot"
            ) from None
        self.mounts.append(at)

    def __exit__(self, kind: object, *_: object) -> None:
        if os.getpid() != self.pid:
            return  # a forked child: the lease is its parent's
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
                named = ", ".join(map(printable, names[:3]))
                what = f"{count(len(names), 'file')} left in {at}: {named}{more}"
                found.append(f"{what} ({size(used * st.f_bsize)})")
            elif used:
                found.append(f"{size(used * st.f_bsize)} of {at} still in use by a process")
        return found

    def _end(self) -> None:
        for at in reversed(self.mounts):
            try:
                _call("umount2", at.encode(), MNT_DETACH)
            except OSError as e:  # the command has unmounted it
                self.say(printable(str(e)))
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
    p.add_argument(
        "--unreserved",
        action="store_true",
        help="for programs with --legacy-mem or --in-memory, which cannot use pages that a mount "
        "reserves; chosen by itself if the command has these options",
    )
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
        with _interruptible():
            return _lend(args)
    except (loans.Refused, OSError) as e:
        print(f"pyeal lease: {printable(str(e))}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("pyeal lease: interrupted", file=sys.stderr)
        return 130


@contextmanager
def _interruptible() -> Iterator[None]:
    """SIGTERM and SIGHUP interrupt as Ctrl-C does, so that the pages go back."""
    import signal

    ends = signal.SIGTERM, signal.SIGHUP
    before = [signal.signal(s, signal.default_int_handler) for s in ends]
    try:
        yield
    finally:
        for s, handler in zip(ends, before, strict=True):
            signal.signal(s, handler)


def _lend(args: argparse.Namespace) -> int:
    unreserved = args.unreserved or any(o in args.eal_args for o in UNRESERVED)
    lent = Lease(args.pages, args.node, reserved=not unreserved)
    if os.geteuid():
        raise PermissionError(f"leasing hugepages needs root, found uid {os.geteuid()}")
    loans.recover(lent.say)  # mounts of dead processes are in the namespace that is left now
    own_mounts()
    _hide_others()
    with lent:
        if not args.quiet:
            took = loans.text(lent.took)
            print(
                f"{_named(lent)} at {', '.join(lent.mounts)}; taken from the kernel: {took}\n"
                + (
                    "not reserved: other programs could take them"
                    if unreserved
                    else "reserved: a program with --legacy-mem or --in-memory needs --unreserved"
                ),
                file=sys.stderr,
            )
        code, left = _command(args.eal_args)
        leaks = [*left, *lent.leaks()]
        lent.leaks = list  # type: ignore[method-assign]
    for what in leaks:
        print(f"{ink('pyeal lease: left behind:', BOLD, RED)} {printable(what)}", file=sys.stderr)
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
        print(f"pyeal lease: {printable(argv[0])}: {e.strerror}", file=sys.stderr)
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
    found = []
    try:
        mine, names = os.readlink("/proc/self/ns/mnt"), os.listdir("/proc")
    except OSError:
        return []  # without /proc they are not seen
    for name in names:
        if not name.isdecimal() or int(name) == os.getpid():
            continue
        try:
            if os.readlink(f"/proc/{name}/ns/mnt") == mine:
                with open(f"/proc/{name}/comm", errors="backslashreplace") as f:
                    found.append(f"process {name} ({printable(f.read().strip())}) still runs")
        except OSError:
            continue
    return found


def _show(as_json: bool) -> int:
    found, unread = [], []
    for path, loan, alive in loans.all_loans():
        if loan is None:
            unread.append(printable(str(path)))
            continue
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
        print(document("lease", {"pools": pools, "loans": found, "unreadable": unread}))
        return 0
    for name, p in pools.items():
        page = size(int(name[10:-2]) << 10)
        print(f"{page:>5}  {p['nr']:>7,} pages, {p['free']:,} free, {p['resv']:,} reserved")
    for x in found:
        word = {True: "", False: " (dead)", None: " (not known whether alive)"}[x["alive"]]
        who = f"process {x['pid']}" + (ink(word, DIM) if word else "")
        mounts = f", mounted at {printable(', '.join(x['mounts']))}" if x["mounts"] else ""
        print(f"lent to {who}: {loans.text(x['took'])} taken{mounts}")
    for at in unread:
        print(f"{at} {loans.UNKNOWN}")
    if not found and not unread:
        print(ink("nothing is lent", DIM))
    return 0
