"""Growth, shrinkage, arrivals, ends and deaths at random: what the processes share stays whole.

pytest conformance/stress --target=pyeal --secondary=librte_eal [--stress-seconds=3600]
"""

import pytest

from conformance import modes, needs
from conformance.stress.world import CANNOT


@needs(pages={"2M": 48})
@modes("dynmem", "single-file")
def test_all_agree_whatever_happens_between_requests(stress):
    """Secondaries of both kinds come, go and are killed at rest; each byte and word is checked."""
    stress(deadly=False)


@needs(pages={"2M": 48})
@modes("dynmem", "single-file")
def test_a_death_inside_of_a_malloc_is_survived(stress, start, request):
    """Whoever stays goes on, or is told in a bounded time which lock the dead one kept."""
    target = request.config.getoption("target").partition(":")[0]
    if why := CANNOT.get(target, {}).get("die"):
        pytest.skip(f"wanted a primary that survives it, found {target}: {why}")
    stress(deadly=True)
