"""Memory that a primary and its secondaries share: who sees whose pages and bytes."""

from contextlib import contextmanager

from conformance import BIG

STAMP = b"stamp"
STAMPS = [STAMP, STAMP]  # at both ends of an area


def pages(eal):
    """(list, segment, address, IOVA) of each page."""
    return [(s.list, s.seg, s.addr, s.iova) for s in eal.segments()]


def versions(eal):
    """(list, version, pages in use) of each list."""
    return [(m.index, m.version, m.count) for m in eal.lists()]


def agree(*eals):
    """Check that all see the same pages, and lists of the same versions."""
    first, *others = [(pages(e), versions(e)) for e in eals]
    assert others == [first] * len(others)


def stamped(eal, size=BIG):
    """Allocate memory and write a stamp to each end; return its address."""
    va = eal.malloc(size).va
    assert va
    for at in ends(va, size):
        eal.poke(at, STAMP)
    return va


def stamps(eal, va, size=BIG):
    """Return what a process reads at both ends."""
    return [eal.peek(at, len(STAMP)) for at in ends(va, size)]


def ends(va, size):
    return va, va + size - len(STAMP)


@contextmanager
def or_killed(*eals):
    """Kill the processes if the block fails: a process that waits for an answer, or for the lock
    of a dead process, cannot be asked to end."""
    try:
        yield
    except BaseException:
        for e in eals:
            e.kill()
        raise
