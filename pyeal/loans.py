"""Add hugepages to the kernel's pools for a while, and remove exactly that many again.

    python -m pyeal.loans lease 2M:512,1G:1 [--owner PID]   until `return`, or until PID is dead
    python -m pyeal.loans lease 2M:512 --wait 600           all of them, once others have returned
    python -m pyeal.loans with 2M:512,1G:1 -- COMMAND       while the command runs
    python -m pyeal.loans return [--owner PID]
    python -m pyeal.loans show

Used by `pyeal lease`, by the suite's runner and by ci/hugepages, which runs it before anything is
installed. Each loan is a file in /run/pyeal/leases that is written before the pool is changed, so
`kill -9` loses nothing: the next call finds the loans of dead owners and returns their pages. A
size is "2M", or "2M@1" for pages of node 1.
"""

from __future__ import annotations

import fcntl
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Say = Callable[[str], object]
    Loan = dict[str, Any]

POOLS = Path("/sys/kernel/mm/hugepages")
NODES = Path("/sys/devices/system/node")
STATE = Path("/run/pyeal/leases")
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class Refused(Exception):
    """No page was added; the text is the reason."""


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


def started(pid: int | str) -> int | None:
    """Return when a process began, None if it is dead. Pid and start are never reused together."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


@contextmanager
def _locked() -> Iterator[None]:
    """Hold the lock of all loans; the folder exists meanwhile, and afterwards if it has loans."""
    fd = os.open(STATE.parents[1], os.O_RDONLY)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        STATE.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        try:
            STATE.rmdir()
            STATE.parent.rmdir()
        except OSError:
            pass
        os.close(fd)


def _load(path: Path) -> Loan:
    loan: Loan = json.loads(path.read_text())
    return loan


def _write(path: Path, loan: Loan) -> None:
    new = path.with_suffix(".new")
    new.write_text(json.dumps(loan))
    new.replace(path)


def _promised(but: Path) -> dict[str, int]:
    """Return the pages that other living owners were promised and the kernel does not hold back."""
    held: dict[str, int] = {}
    for path in STATE.glob("*.json"):
        loan = _load(path)
        if path != but and started(loan["pid"]) == loan["started"]:
            for size, n in loan.get("keeps", {}).items():
                size = size.partition("@")[0]
                held[size] = held.get(size, 0) + n
    return held


def mounted(name: str, mounts: list[str]) -> None:
    """Record mounts whose min_size= holds a loan's pages; they are unmounted if its owner dies."""
    with _locked():
        path = STATE / f"{name}.json"
        loan = _load(path)
        loan["keeps"], loan["mounts"] = {}, mounts
        _write(path, loan)


def lease(
    want: dict[str, int], owner: int | None = None, say: Say = print, name: str | None = None
) -> dict[str, int]:
    """Make `want` pages of each size available; return what was added, {"2M": 412}.

    A `name` makes it a loan beside others of this owner. Its pages are promised: the next loan does
    not count them as available.
    """
    if os.geteuid():
        raise Refused(f"leasing hugepages needs root, found uid {os.geteuid()}")
    for size in want:
        if not pool(size).is_dir():
            have = ", ".join(sorted(p.name for p in POOLS.glob("*"))) or "none"
            raise Refused(f"this kernel has no pool of {size} pages; it has {have}")
    owner = owner or os.getpid()
    recover(say)
    with _locked():
        path = STATE / f"{name or owner}.json"
        loan: Loan = {"pid": owner, "started": started(owner), "took": {}}
        if path.exists():  # a second loan of the same owner adds to the first
            loan = _load(path)
        if name:
            loan["keeps"] = want
            _write(path, loan)
        promised = _promised(path)
        for size, n in want.items():
            missing = n + promised.get(size.partition("@")[0], 0) - available(size)
            if missing <= 0:
                continue
            # the intent first: if this process is killed while the kernel collects pages, it tells
            loan["raising"] = {"size": size, "by": missing, "from": read(size, "nr")}
            _write(path, loan)
            got = add(size, missing)
            if got < missing:
                Path("/proc/sys/vm/compact_memory").write_text("1")
                got += add(size, missing - got)
            loan["took"][size] = loan["took"].get(size, 0) + got
            del loan["raising"]
            _write(path, loan)
            if got < missing:
                say(
                    f"{size}: {n} free pages wanted, {available(size)} found; memory is too "
                    f"fragmented for more: reserve them at boot (hugepagesz={size} hugepages={n})"
                )
        return dict(loan["took"])


def lease_all(
    want: dict[str, int], seconds: float, owner: int | None = None, say: Say = print
) -> dict[str, int]:
    """Lease all of `want` or nothing; try again for that many seconds, as others return pages."""
    end, pause = time.monotonic() + seconds, 0.5
    while True:
        took = lease(want, owner, say=lambda text: None)
        lacking = {s: available(s) for s, n in want.items() if available(s) < n}
        if not lacking:
            return took
        give_back(owner, say)
        left = end - time.monotonic()
        if left <= 0:
            found = ", ".join(f"{want[s]} x {s} wanted, {n} available" for s, n in lacking.items())
            raise Refused(f"{found}, after {seconds:g} s: hugepages show lists their owners")
        say(f"waiting for {text({s: want[s] for s in lacking})}: {left:.0f} s left")
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


def _give(path: Path, say: Say) -> dict[str, int]:
    import subprocess

    loan = _load(path)
    took: dict[str, int] = loan["took"]
    for at in loan.get("mounts", ()):
        subprocess.run(["umount", "-l", at], capture_output=True)
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
    path.unlink()
    return took


def give_back(owner: int | str | None = None, say: Say = print) -> dict[str, int]:
    """Remove the pages that `owner` (or the loan of that name) added; return them, {} if none."""
    path = STATE / f"{owner or os.getpid()}.json"
    if not path.exists():
        return {}
    with _locked():
        return _give(path, say)


def recover(say: Say = print) -> None:
    """Return the pages of owners that have died."""
    if os.geteuid() or not STATE.is_dir():
        return
    with _locked():
        for path in sorted(STATE.glob("*.json")):
            loan = _load(path)
            if started(loan["pid"]) != loan["started"] or loan["started"] is None:
                took = _give(path, say)
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
    for path in sorted(STATE.glob("*.json")):
        loan = _load(path)
        alive = started(loan["pid"]) == loan["started"]
        print(f"leased to {loan['pid']}{'' if alive else ' (dead)'}: {text(loan['took'])}")


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


def main(argv: list[str] | None = None) -> int:
    """Run `hugepages VERB` and return the exit code."""
    import argparse

    argv = sys.argv[1:] if argv is None else argv
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
        s.add_argument(
            "--owner", type=int, default=os.getppid(), help="pid; the caller if left out"
        )
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
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
