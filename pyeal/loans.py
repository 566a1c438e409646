"""Add hugepages to the kernel's pools for a while, and remove exactly that many again.

    python -m pyeal.loans lease 2M:512,1G:1 [--owner PID]   until `return`, or until PID ends
    python -m pyeal.loans lease 2M:512 --wait 600           all of them, once others have returned
    python -m pyeal.loans with 2M:512,1G:1 -- COMMAND       while the command runs
    python -m pyeal.loans return [--owner PID]
    python -m pyeal.loans show

Used by `pyeal lease`, by the suite's runner and by ci/hugepages, which runs it before anything is
installed. A size is "2M", or "2M@1" for pages of node 1.

A lease is a record in /run/pyeal/leases that is written before the pool is changed. It lasts as
long as the lock on its record (pyeal/records.py): after `kill -9` the next call returns the pages.
If the owner is another process, a small process holds the lock, waits for the owner's end and
returns the pages at once. A record that cannot be read is reported and left alone.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from pyeal import records
from pyeal.errors import printable
from pyeal.records import Refused as Refused
from pyeal.records import started

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Say = Callable[[str], object]
    Loan = dict[str, Any]

POOLS = Path("/sys/kernel/mm/hugepages")
NODES = Path("/sys/devices/system/node")
STATE = Path("/run/pyeal/leases")
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
FIRST_PIDS = 4026531836  # inode of the machine's own PID namespace
UNKNOWN = "is no record that can be read, or of a process that cannot be seen from here"


def parse(text: str) -> dict[str, int]:
    """Return the pages of "2M:512,1G:1" as {"2M": 512, "1G": 1}."""
    want: dict[str, int] = {}
    for part in text.split(","):
        size, _, n = part.strip().partition(":")
        size = size.upper().removesuffix("B")
        if not (size[:-1].isdigit() and size[-1:] in UNITS and n.isdigit()):
            raise Refused(f"{part!r} is not SIZE:NUMBER, as in 2M:512,1G:1")
        want[size] = want.get(size, 0) + int(n)
    return want


def pool(size: str) -> Path:
    """Return the kernel's directory for pages of this size."""
    size, _, node = size.partition("@")
    at = NODES / f"node{node}/hugepages" if node else POOLS
    return at / f"hugepages-{int(size[:-1]) * UNITS[size[-1]] >> 10}kB"


def read(size: str, word: str) -> int:
    """Return one counter of a pool."""
    if word == "resv":  # the kernel reserves pages of no node in particular
        size = size.partition("@")[0]
    return int((pool(size) / f"{word}_hugepages").read_text())


def available(size: str) -> int:
    """Return the number of free pages that are not reserved."""
    return read(size, "free") - read(size, "resv")


def add(size: str, n: int) -> int:
    """Change a pool by n pages; return by how many it did change."""
    before = read(size, "nr") - read(size, "surplus")
    (pool(size) / "nr_hugepages").write_text(str(max(before + n, 0)))
    return read(size, "nr") - read(size, "surplus") - before


def _load(path: Path) -> Loan | None:
    """Return what a record says; None if it was emptied, cut, or is another file."""
    loan = records.load(path)
    if loan is not None and _valid(loan):
        return loan
    return records.held[path][1] if path in records.held else None


def _valid(loan: Loan) -> bool:
    """Whether this says what a record must say, in the right types."""

    def pages(d: object) -> bool:
        return isinstance(d, dict) and all(
            _is_size(size) and isinstance(n, int) and n >= 0 for size, n in d.items()
        )

    half, mounts = loan.get("raising"), loan.get("mounts", [])
    if half is not None:
        if not isinstance(half, dict) or not isinstance(half.get("from"), int):
            return False
        if not pages({half.get("size"): half.get("by")}):
            return False
    return (
        isinstance(loan.get("pid"), int)
        and pages(loan.get("took"))
        and pages(loan.get("keeps", {}))
        and isinstance(mounts, list)
        and all(isinstance(at, str) and Path(at).parent.parent == STATE.parent for at in mounts)
    )


def _is_size(size: object) -> bool:
    if not isinstance(size, str):
        return False
    size, at, node = size.partition("@")
    return size[:-1].isdecimal() and size[-1:] in UNITS and (node.isdecimal() if at else True)


def _alive(path: Path, loan: Loan | None) -> bool | None:
    """Whether a lease lasts; None: not known."""
    alive = records.alive(path)
    if alive is not False or (loan and "lock" in loan):
        return alive
    # not locked: emptied, or written by pyeal 0.1, where the process decides if it can be seen
    if loan is None or records.pid_namespace() != FIRST_PIDS:
        return None
    return started(loan["pid"]) == loan.get("started") is not None


def _path(owner: int | str) -> Path:
    """Return the record of an owner; a pid names a process in its own PID namespace alone."""
    pids = records.pid_namespace()
    of = f"@{pids}" if isinstance(owner, int) and pids != FIRST_PIDS else ""
    return STATE / f"{owner}{of}.json"


def _ancestors(pid: int) -> set[int]:
    """Return a process and those above it."""
    found: set[int] = set()
    while pid > 0 and pid not in found:
        found.add(pid)
        try:
            pid = int(records.process(pid)[1])
        except OSError:
            break
    return found


def all_loans() -> Iterator[tuple[Path, Loan | None, bool | None]]:
    """Yield each record, what it says, and whether its lease lasts."""
    for path in sorted(STATE.glob("*.json")):
        loan = _load(path)
        yield path, loan, _alive(path, loan)


def _promised(but: Path, owner: int) -> dict[str, int]:
    """Return the pages that other living owners were promised and the kernel does not hold back.

    They count whether in use by now or not: of two leases, the second rather adds too many. What a
    process above the owner was promised is there for the owner.
    """
    held: dict[str, int] = {}
    above = _ancestors(owner) - {owner}
    for path, loan, alive in all_loans():
        if path in (but, _path(owner)):
            continue
        if loan and alive is not False and loan["pid"] not in above:
            for size, n in loan.get("keeps", {}).items():
                size = size.partition("@")[0]
                held[size] = held.get(size, 0) + n
    return held


def _begin(path: Path, owner: int) -> Loan:
    """Make a record, locked by this process, or by a keeper if the owner is another process."""
    mine = owner == os.getpid()
    try:
        of = -1 if mine else os.pidfd_open(owner)
    except ProcessLookupError:
        raise Refused(f"there is no process {owner} to own a lease") from None
    try:
        loan: Loan = {"pid": owner, "started": started(owner), "lock": True, "took": {}}
        fd = records.create(path, loan)
        if not mine:
            try:
                _keeper(fd, of, path)
            except BaseException:
                records.remove(path)
                raise
            records.forget(path)
    finally:
        if of >= 0:
            os.close(of)
    return loan


def _keeper(fd: int, owner: int, path: Path) -> None:
    """Start the process that holds a record's lock until its owner ends."""
    import subprocess

    null, at = subprocess.DEVNULL, map(str, (fd, owner, path, POOLS, NODES))
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
    argv = [sys.executable, "-S", "-m", "pyeal.loans", "keep", *at]
    subprocess.run(
        argv,
        stdin=null,
        stdout=null,
        stderr=null,
        env=env,
        cwd="/",
        check=True,
        start_new_session=True,
        pass_fds=(fd, owner),
    )


def _keep(fd: int, owner: int, path: Path) -> None:
    """Hold a record's lock until its owner ends or another process returns the lease."""
    import select
    import signal

    for s in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        signal.signal(s, signal.default_int_handler)
    if os.fork():
        return  # the process that stays is a child of init
    poll = select.poll()
    poll.register(owner, select.POLLIN)
    loan = _load(path)
    try:
        while not poll.poll(1000) and os.fstat(fd).st_nlink:
            loan = _load(path) or loan
    except KeyboardInterrupt:
        pass
    if os.fstat(fd).st_nlink and loan:
        records.held[path] = fd, loan
        give_back(path, say=lambda text: None)


def mounted(name: str, mounts: list[str], reserved: bool = True) -> None:
    """Record a loan's mounts, which are unmounted if its owner ends.

    reserved: their min_size= holds the pages, which are then no longer a mere promise.
    """
    with records.locked(STATE, _to_stderr):
        path = _path(name)
        loan = _load(path) or {}
        loan["mounts"] = mounts
        if reserved:
            loan["keeps"] = {}
        records.write(path, loan)


def lease(
    want: dict[str, int], owner: int | None = None, say: Say = print, name: str | None = None
) -> dict[str, int]:
    """Make `want` pages of each size available; return what was added, {"2M": 412}.

    Pages that were free already are promised as well: the next loan does not count them as
    available. A `name` makes it a loan beside others of this owner.
    """
    if os.geteuid():
        raise Refused(f"leasing hugepages needs root, found uid {os.geteuid()}")
    for size in want:
        if not pool(size).is_dir():
            have = ", ".join(sorted(p.name for p in POOLS.glob("*"))) or "none"
            raise Refused(f"this kernel has no pool of {size} pages; it has {have}")
    owner = owner or os.getpid()
    recover(say)
    with records.locked(STATE, say):
        path = _path(name or owner)
        if found := _load(path):
            loan = found  # a second loan of the same owner adds to the first
        elif path.exists():
            raise Refused(f"{path} cannot be read: remove it first")
        else:
            loan = _begin(path, owner)
        keeps = loan.setdefault("keeps", {})
        for size, n in want.items():
            keeps[size] = max(n, keeps.get(size, 0))
        records.write(path, loan)
        promised = _promised(path, owner)
        for size, n in want.items():
            missing = n + promised.get(size.partition("@")[0], 0) - available(size)
            if missing <= 0:
                continue
            # the intent first: if this process is killed while the kernel collects pages, it tells
            loan["raising"] = {"size": size, "by": missing, "from": read(size, "nr")}
            records.write(path, loan)
            got = add(size, missing)
            if got < missing:
                try:
                    Path("/proc/sys/vm/compact_memory").write_text("1")
                except OSError:
                    pass
                got += add(size, missing - got)
            loan["took"][size] = loan["took"].get(size, 0) + got
            del loan["raising"]
            records.write(path, loan)
            if got < missing:
                others = promised.get(size.partition("@")[0], 0)
                promise = f", {others} of them promised to other leases" if others else ""
                say(
                    f"{size}: {n} free pages wanted, {available(size)} found{promise}; memory is "
                    f"too fragmented for more: reserve them at boot (hugepagesz={size} "
                    f"hugepages={n})"
                )
        return dict(loan["took"])


def lacking(want: dict[str, int], owner: int | str | None = None) -> dict[str, int]:
    """Return the sizes of which fewer pages are available than wanted, promises left out."""
    owner = owner or os.getpid()
    promised = _promised(_path(owner), owner if isinstance(owner, int) else os.getpid())
    left = {s: max(available(s) - promised.get(s.partition("@")[0], 0), 0) for s in want}
    return {s: left[s] for s, n in want.items() if left[s] < n}


def lease_all(
    want: dict[str, int], seconds: float, owner: int | None = None, say: Say = print
) -> dict[str, int]:
    """Lease all of `want` or nothing; try again for that many seconds, as others return pages."""
    end, pause = time.monotonic() + seconds, 0.5
    while True:
        took = lease(want, owner, say=lambda text: None)
        short = lacking(want, owner)
        if not short:
            return took
        give_back(owner, say)
        left = end - time.monotonic()
        if left <= 0:
            found = ", ".join(f"{want[s]} x {s} wanted, {n} available" for s, n in short.items())
            raise Refused(f"{found}, after {seconds:g} s: hugepages show lists their owners")
        say(f"waiting for {text({s: want[s] for s in short})}: {left:.0f} s left")
        time.sleep(min(pause, left))
        pause = min(2 * pause, 15)


def lease_some(want: dict[str, int], owner: int | None = None, say: Say = print) -> dict[str, int]:
    """Lease what this machine can: a size that it cannot supply is reported and left out."""
    took: dict[str, int] = {}
    for size, n in want.items():
        try:
            took |= lease({size: n}, owner, say)
        except (Refused, OSError) as e:
            say(f"hugepages: {e}")
    return took


def _give(path: Path, loan: Loan, say: Say) -> dict[str, int]:
    """Undo what a record says, and remove it."""
    import ctypes

    took: dict[str, int] = loan["took"]
    for at in loan.get("mounts", ()):
        ctypes.CDLL(None).umount2(
            at.encode(), 2
        )  # MNT_DETACH; not mounted in this namespace: so be it
        try:
            os.removedirs(at)  # and its parents, as far as they are empty
        except OSError:
            pass
    if half := loan.get("raising"):
        size = half["size"]
        took[size] = took.get(size, 0) + min(max(read(size, "nr") - half["from"], 0), half["by"])
    for size, n in took.items():
        if n and (got := -add(size, -n)) != n:
            say(f"{size}: {n} pages to give back, {got} given back")
    records.remove(path)
    return took


def give_back(owner: int | str | Path | None = None, say: Say = print) -> dict[str, int]:
    """Remove the pages that `owner` (or the loan of that name) added; return them, {} if none."""
    path = owner if isinstance(owner, Path) else _path(owner or os.getpid())
    if path not in records.held and not path.exists():
        return {}
    with records.locked(STATE, say):
        if not (loan := _load(path)):
            raise Refused(f"{path} cannot be read: what it added is not known")
        return _give(path, loan, say)


def recover(say: Say = print) -> None:
    """Return the pages of leases whose owners have ended; report what cannot be known."""
    if os.geteuid() or not STATE.is_dir():
        return
    with records.locked(STATE, say):
        for path, loan, alive in all_loans():
            if alive is None:
                say(f"{printable(str(path))} {UNKNOWN}: left alone")
            elif loan and not alive:
                took = _give(path, loan, say)
                say(f"given back for process {loan['pid']}, which died: {text(took)}")


def text(pages: dict[str, int]) -> str:
    """Return pages in words: 412 x 2M, 1 x 1G."""
    return ", ".join(f"{n} x {size}" for size, n in pages.items() if n) or "nothing"


# --- the command


def show() -> None:
    """Print pools and loans."""
    for d in sorted(POOLS.glob("hugepages-*kB"), key=lambda d: int(d.name[10:-2])):
        kb = int(d.name[10:-2])
        name = f"{kb >> 20}G" if kb >> 20 else f"{kb >> 10}M" if kb >> 10 else f"{kb}K"
        words = {w: int((d / f"{w}_hugepages").read_text()) for w in ("nr", "free", "resv")}
        print(f"{name:>5}  {words['nr']:>6} pages, {words['free']} free, {words['resv']} reserved")
    for path, loan, alive in all_loans():
        if loan is None:
            why = "cannot be read, its lease lasts" if alive else UNKNOWN
            print(f"{printable(str(path))} {why}")
        else:
            word = {True: "", False: " (dead)", None: " (not known whether alive)"}[alive]
            print(f"leased to {loan['pid']}{word}: {text(loan['took'])}")


def run_with(want: dict[str, int], argv: list[str]) -> int:
    """Run a command with as many of these pages as this machine can supply; return its exit code.

    Without root the command runs with the pages that there are. SIGTERM and SIGHUP are passed on to
    the command; SIGINT reaches it from the terminal. The pages are returned in any case.
    """
    import signal
    import subprocess

    if os.geteuid():
        os.execvp(argv[0], argv)
    print(f"hugepages taken: {text(lease_some(want, say=_to_stderr))}", file=sys.stderr)
    try:
        child = subprocess.Popen(argv)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        for s in (signal.SIGTERM, signal.SIGHUP):
            signal.signal(s, lambda s, _: child.send_signal(s))
        code = child.wait()
    finally:
        print(f"hugepages given back: {text(give_back(say=_to_stderr))}", file=sys.stderr)
    return 128 - code if code < 0 else code


def _to_stderr(text: str) -> None:
    print(text, file=sys.stderr)


def _caller() -> int:
    """Return the process that called this command; not sudo, which ends with it."""
    pid = os.getppid()
    try:
        while Path(f"/proc/{pid}/comm").read_text().strip() in ("sudo", "doas"):
            pid = int(records.process(pid)[1])
    except OSError:
        pass
    return pid


def _kept(fd: str, owner: str, path: str, pools: str, nodes: str) -> int:
    """Be the process that holds a record's lock: see _begin."""
    global POOLS, NODES, STATE
    POOLS, NODES, STATE = Path(pools), Path(nodes), Path(path).parent
    _keep(int(fd), int(owner), Path(path))
    return 0


def main(argv: list[str] | None = None) -> int:
    """Run `hugepages VERB` and return the exit code."""
    import argparse

    argv = sys.argv[1:] if argv is None else argv
    if argv[:1] == ["keep"]:
        return _kept(*argv[1:])
    p = argparse.ArgumentParser(prog="hugepages", description=(__doc__ or "").partition("\n")[0])
    sub = p.add_subparsers(dest="verb", required=True, metavar="lease|with|return|show")
    takes = sub.add_parser("lease", help="make pages available")
    during = sub.add_parser("with", help="make pages available while a command runs")
    gives = sub.add_parser("return", help="remove the pages that this owner has added")
    sub.add_parser("show", help="pools and loans")
    for s in (takes, during):
        s.add_argument("pages", metavar="2M:512,1G:1")
    takes.add_argument(
        "--wait",
        type=float,
        metavar="S",
        help="wait up to S seconds for all of them; 0: all or none",
    )
    during.add_argument("argv", nargs=argparse.REMAINDER, metavar="-- COMMAND ...")
    for s in (takes, gives):
        s.add_argument("--owner", type=int, default=_caller(), help="pid; the caller if left out")
    args = p.parse_args(argv)
    try:
        if args.verb == "lease":
            want = parse(args.pages)
            took = (
                lease(want, args.owner)
                if args.wait is None
                else lease_all(want, args.wait, args.owner)
            )
            print(f"taken: {text(took)}")
        elif args.verb == "with":
            return run_with(parse(args.pages), args.argv[args.argv[:1] == ["--"] :])
        elif args.verb == "return":
            print(f"given back: {text(give_back(args.owner))}")
        else:
            show()
    except (Refused, OSError) as e:
        print(f"hugepages: {e}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
