"""Let pyeal and librte_eal attach to each other: both directions, three modes, one line a pair.

    ci/pairs                          with the installed librte_eal, as root
    ci/pairs --peer 22.11 --peer 25.11
    ci/machines run arm64 -- ci/pairs --peer all

The suite has a requirement for each of these steps and more; this is the part that takes seconds,
for a machine that is emulated.
"""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from pathlib import Path

from conformance import HUGE_FILES, MB, MODES
from conformance.harness import fake_host, host, peers
from conformance.harness.box import Box, BoxError
from conformance.harness.child import TargetDied, TargetError, TargetHung, greet
from conformance.harness.eal import Eal
from conformance.harness.forkserver import ForkServer

PAGES, PREFIX, STAMP = 24, "pairs", b"stamp"
GROWTH = 20 * MB  # more than the 16 MB that a primary starts with
FAULTS = AssertionError, TargetDied, TargetError, TargetHung, BoxError, OSError
OK, WRONG, BROKEN = 0, 1, 2


def seen(eal):
    """Return what processes agree on: zones, lists with their versions, pages with their IOVAs."""
    zones = eal.config().memzones.count
    lists = [(m.index, m.base_va, m.page_sz, m.len, m.version, m.count) for m in eal.lists()]
    return zones, lists, [(s.addr, s.iova, s.hugepage_sz, s.socket_id) for s in eal.segments()]


def agree(primary, secondary, step):
    mine, other = seen(primary), seen(secondary)
    assert mine == other, f"{step}: the primary has {mine}, the secondary {other}"
    return mine[2]


def shared(writer, reader, va, size):
    """Write at both ends of an area; the other process reads it."""
    assert va, f"no area of {size} bytes"
    for at in va, va + size - len(STAMP):
        writer.poke(at, STAMP)
        found = reader.peek(at, len(STAMP))
        assert found == STAMP, f"at {at:#x}: found {found!r}"
        writer.poke(at, bytes(len(STAMP)))


def meet(primary, secondary, mode):
    """Attach, share memory in both directions, grow and shrink by either, end. Returns pages."""
    primary.init()
    secondary.init()
    agree(primary, secondary, "attached")
    for a, b in itertools.permutations((primary, secondary)):
        zone = a.memzone("reserve", f"zone of {a.target}", 4096)
        found = b.memzone("lookup", f"zone of {a.target}")
        assert (found.addr, found.iova) == (zone.addr, zone.iova), f"zone: {zone}, {found}"
        shared(a, b, zone.addr, 4096)
        va = a.malloc(100000).va
        shared(b, a, va, 100000)
        b.free(va)
    most = len(agree(primary, secondary, "after zones and malloc"))
    for a, b in itertools.permutations((primary, secondary)) if mode != "legacy" else ():
        before = len(a.segments())
        va = a.malloc(GROWTH).va
        shared(a, b, va, GROWTH)
        most = max(most, grown := len(agree(primary, secondary, "after growth")))
        assert grown > before, f"{grown} pages after growth, {before} before"
        b.free(va)
        after = len(agree(primary, secondary, "after release"))
        assert after == before, f"{after} pages after release, {before} before"
    secondary.close()
    primary.close()
    return most


def pair(first, second, mode, forkservers):
    """Run one pair in private mounts; returns the pages at most, or a sentence on what is wrong."""
    with tempfile.TemporaryDirectory(prefix="pairs-") as tmp:
        pool = fake_host.build(Path(tmp, "host"), {"2M": PAGES}, {0: "0"})
        box = Box({"2M": PAGES}, binds=pool, one_node=True)
        eals = []
        try:
            args = [*MODES[mode], "-m", "16", "--file-prefix", PREFIX]
            for spec, more in (first, []), (second, ["--proc-type=secondary"]):
                eals.append(
                    Eal(spec, [*args, *more], box, tmp, PREFIX, limit=120, forkservers=forkservers)
                )
            return meet(*eals, mode)
        except FAULTS as e:
            return "\n".join([f"{e}", *(f"  {x!r}{x.child.last_words()}" for x in eals)])
        finally:
            for eal in eals:
                eal.kill()
            box.close()


def main(argv):
    p = argparse.ArgumentParser(prog="ci/pairs", description=__doc__.split("\n")[0])
    known = ", ".join(peers.releases())
    p.add_argument("--peer", action="append", default=[], metavar="RELEASE", help=f"{known} or all")
    args = p.parse_args(argv)
    if why := host.lacks(root=True, pages={"2M": PAGES}):
        print(f"pairs: {why}")
        return BROKEN
    try:
        wanted = peers.releases() if "all" in args.peer else args.peer
        both = [(f"librte_eal:{name}", peers.fetch(name).release) for name in wanted]
        both = both or [("librte_eal", greet("librte_eal").release)]
    except (peers.Unobtainable, TargetDied, TargetHung) as e:
        print(f"pairs: {e}")
        return BROKEN
    wrong = n = 0
    for real, release in both:
        ours = f"pyeal:{release}"
        forkservers = {spec: ForkServer(spec) for spec in (ours, real)}
        for mode, (a, b) in itertools.product(HUGE_FILES, itertools.permutations((ours, real))):
            begun, n = time.monotonic(), n + 1
            found = pair(a, b, mode, forkservers.__getitem__)
            good = isinstance(found, int)
            wrong += not good
            names = " <- ".join(x.partition(":")[0] for x in (a, b))
            text = f"{found} pages at most" if good else f"WRONG: {found}"
            print(
                f"{release:9} {mode:11}  {names:19}  {time.monotonic() - begun:4.1f} s  {text}",
                flush=True,
            )
        for server in forkservers.values():
            server.close()
    print(f"{n - wrong} of {n} pairs share their memory")
    return WRONG if wrong else OK
