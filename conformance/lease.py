"""Hugepages on loan: raise the pools by what is missing, and give back exactly that.

    hugepages lease 2M:512,1G:1 [--owner PID]    until `return`, or until PID (the caller) is dead
    hugepages lease 2M:512 --wait 600            all of them, as soon as others have given back
    hugepages return [--owner PID]
    hugepages show

Every loan is a file in /run/pyeal/leases, written before the pool is touched. Whoever comes next
finds the files of dead owners and gives back in their name, so kill -9 loses nothing. A size is
"2M", or "2M@1" for pages of node 1. `pyeal lease` is made of this, too.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

POOLS = Path("/sys/kernel/mm/hugepages")
NODES = Path("/sys/devices/system/node")
STATE = Path("/run/pyeal/leases")
UNITS = {"K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


class Refused(Exception):
    """Nothing was taken; says why."""


def parse(text):
    """ "2M:512,1G:1" -> {"2M": 512, "1G": 1}"""
    want = {}
    for part in text.split(","):
        size, _, n = part.strip().partition(":")
        size = size.upper().removesuffix("B")
        if not (size[:-1].isdigit() and size[-1:] in UNITS and n.isdigit()):
            raise Refused(f"{part!r} is not SIZE:NUMBER, as in 2M:512,1G:1")
        want[size] = want.get(size, 0) + int(n)
    return want


def pool(size):
    size, _, node = size.partition("@")
    at = NODES / f"node{node}/hugepages" if node else POOLS
    return at / f"hugepages-{int(size[:-1]) * UNITS[size[-1]] >> 10}kB"


def read(size, word):
    if word == "resv":  # which node will serve it, nobody knows
        size = size.partition("@")[0]
    return int((pool(size) / f"{word}_hugepages").read_text())


def available(size):
    """Free pages that nobody has reserved."""
    return read(size, "free") - read(size, "resv")


def add(size, n):
    """Change a pool by n pages; answers by how many it did change."""
    before = read(size, "nr") - read(size, "surplus")
    (pool(size) / "nr_hugepages").write_text(str(max(before + n, 0)))
    return read(size, "nr") - read(size, "surplus") - before


def started(pid):
    """When a process began: with the pid a name that is never used twice. None for none."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else int(fields[19])


@contextmanager
def _locked():
    """One at a time; the folder is there meanwhile, and afterwards only with loans in it."""
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


def _write(path, loan):
    new = path.with_suffix(".new")
    new.write_text(json.dumps(loan))
    new.replace(path)


def _promised(but):
    """Pages that other living owners were promised and that the kernel does not keep for them."""
    held = {}
    for path in STATE.glob("*.json"):
        loan = json.loads(path.read_text())
        if path != but and started(loan["pid"]) == loan["started"]:
            for size, n in loan.get("keeps", {}).items():
                size = size.partition("@")[0]
                held[size] = held.get(size, 0) + n
    return held


def mounted(name, mounts):
    """From now on mounts with min_size= keep the pages of that loan; umounted if its owner dies."""
    with _locked():
        path = STATE / f"{name}.json"
        loan = json.loads(path.read_text())
        loan["keeps"], loan["mounts"] = {}, mounts
        _write(path, loan)


def lease(want, owner=None, say=print, name=None):
    """Make `want` pages of each size available; answers what was taken for it, {"2M": 412}.

    name: of a loan beside others of this owner; its pages are promised, so that the next one does
    not count them as available.
    """
    if os.geteuid():
        raise Refused(f"taking hugepages wants root, found uid {os.geteuid()}")
    for size in want:
        if not pool(size).is_dir():
            have = ", ".join(sorted(p.name for p in POOLS.glob("*"))) or "none"
            raise Refused(f"this kernel has no pool of {size} pages; it has {have}")
    owner = owner or os.getpid()
    recover(say)
    with _locked():
        path = STATE / f"{name or owner}.json"
        loan = {"pid": owner, "started": started(owner), "took": {}}
        if path.exists():  # a second loan of the same owner adds to the first
            loan = json.loads(path.read_text())
        if name:
            loan["keeps"] = want
            _write(path, loan)
        promised = _promised(path)
        for size, n in want.items():
            missing = n + promised.get(size.partition("@")[0], 0) - available(size)
            if missing <= 0:
                continue
            # the intent first: who is killed while the kernel collects pages is found out by it
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


def lease_all(want, seconds, owner=None, say=print):
    """As `lease`, but all or nothing: tries again for so many seconds, as others give back."""
    end, pause = time.monotonic() + seconds, 0.5
    while True:
        took = lease(want, owner, say=lambda text: None)
        lacking = {s: available(s) for s, n in want.items() if available(s) < n}
        if not lacking:
            return took
        give_back(owner, say)
        left = end - time.monotonic()
        if left <= 0:
            found = ", ".join(
                f"{want[s]} x {s} wanted, {n} could be had" for s, n in lacking.items()
            )
            raise Refused(f"{found}, after {seconds:g} s: see who has them: hugepages show")
        say(f"waiting for {text({s: want[s] for s in lacking})}: {left:.0f} s left")
        time.sleep(min(pause, left))
        pause = min(2 * pause, 15)


def _give(path, say):
    loan = json.loads(path.read_text())
    took = loan["took"]
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


def give_back(owner=None, say=print):
    """Give back what `owner` (or the loan of that name) has taken; {} if nothing."""
    path = STATE / f"{owner or os.getpid()}.json"
    if not path.exists():
        return {}
    with _locked():
        return _give(path, say)


def recover(say=print):
    """Give back for owners that have died."""
    if os.geteuid() or not STATE.is_dir():
        return
    with _locked():
        for path in sorted(STATE.glob("*.json")):
            loan = json.loads(path.read_text())
            if started(loan["pid"]) != loan["started"] or loan["started"] is None:
                took = _give(path, say)
                say(f"given back for process {loan['pid']}, which died: {text(took)}")


def text(pages):
    return ", ".join(f"{n} x {size}" for size, n in pages.items() if n) or "nothing"


def show():
    for d in sorted(POOLS.glob("hugepages-*kB"), key=lambda d: int(d.name[10:-2])):
        kb = int(d.name[10:-2])
        name = f"{kb >> 20}G" if kb >> 20 else f"{kb >> 10}M" if kb >> 10 else f"{kb}K"
        words = {w: int((d / f"{w}_hugepages").read_text()) for w in ("nr", "free", "resv")}
        print(f"{name:>5}  {words['nr']:>6} pages, {words['free']} free, {words['resv']} reserved")
    for path in sorted(STATE.glob("*.json")):
        loan = json.loads(path.read_text())
        alive = started(loan["pid"]) == loan["started"]
        print(f"on loan to {loan['pid']}{'' if alive else ' (dead)'}: {text(loan['took'])}")


def main(argv=None):
    p = argparse.ArgumentParser(prog="hugepages", description=(__doc__ or "").partition("\n")[0])
    sub = p.add_subparsers(dest="verb", required=True, metavar="lease|return|show")
    takes = sub.add_parser("lease", help="make pages available")
    takes.add_argument("pages", metavar="2M:512,1G:1")
    takes.add_argument(
        "--wait", type=float, metavar="S", help="for all of them, so many seconds; 0: all or none"
    )
    gives = sub.add_parser("return", help="give back what this owner has taken")
    for s in (takes, gives):
        s.add_argument(
            "--owner", type=int, default=os.getppid(), help="pid; the caller if left out"
        )
    sub.add_parser("show", help="pools and loans")
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
