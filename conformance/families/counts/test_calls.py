"""TIME: what a start and an attach cost, counted in system calls: clocks say little on any machine.

How long they take is measured by `pyeal bench`, by itself and beside another EAL.
"""

from itertools import pairwise

from conformance import needs, requirement
from conformance.harness.trace import of_eal

PAGES = 8, 24, 40
MOST = 15.5  # calls a page


def slopes(calls):
    """Calls a page between one number of pages and the next."""
    n = {p: len(of_eal(calls[p])) for p in PAGES}
    return [(n[b] - n[a]) / (b - a) for a, b in pairwise(PAGES)]


@requirement("TIME-002")
@needs(pages={"2M": PAGES[-1]}, strace=True)
def test_a_start_makes_so_many_calls_for_each_page(start, make_box, evidence):
    """System calls of a start grow by the same number for each page, which is 15 at the most."""
    calls = {}
    for n in PAGES:
        eal = start("-m", str(2 * n), box=make_box({"2M": n}), init=False)
        trace = eal.trace()
        eal.init()
        calls[n] = trace.stop()
        eal.close()
    low, high = sorted(slopes(calls))
    evidence(f"{low:.1f} and {high:.1f} calls a page")

    assert high <= MOST
    assert high - low <= 1.0


@requirement("TIME-008")
@needs(pages={"2M": PAGES[-1]}, strace=True)
def test_an_attach_makes_so_many_calls_for_each_page(start, join, make_box, evidence):
    """The same of a secondary, for the pages that its primary uses."""
    calls = {}
    for n in PAGES:
        box = make_box({"2M": n})
        primary = start("-m", str(2 * n), box=box)
        eal = join(box=box, init=False)
        trace = eal.trace()
        eal.init()
        calls[n] = trace.stop()
        eal.close()
        primary.close()
    low, high = sorted(slopes(calls))
    evidence(f"{low:.1f} and {high:.1f} calls a page")

    assert high <= MOST
    assert high - low <= 1.0
