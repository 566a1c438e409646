"""Numbered requirements of EAL's memory initialisation, checked against any EAL.

What a test author imports; the fixtures are those of conftest.py. pytest is imported where a mark
is made: `python -m conformance peers` and `hugepages` run before anything is installed.
"""

import os
import time
from pathlib import Path

SUITE = Path(__file__).parent
FIXTURES = SUITE.parent / "fixtures"

# how many times slower this machine is than a computer: ci/machines says so
SLOWER = float(os.environ.get("CONFORM_SLOWER", "1"))
WAIT = 5 * SLOWER  # seconds: EAL's wait for a reply; what took less did not wait

MODES = {  # what each mode is called in reports: the arguments that choose it
    "dynmem": [],
    "single-file": ["--single-file-segments"],
    "in-memory": ["--in-memory"],
    "legacy": ["--legacy-mem"],
    "no-huge": ["--no-huge"],
}
ALL = tuple(MODES)
DYNAMIC = "dynmem", "single-file", "in-memory"  # pages come and go while it runs
HUGE = *DYNAMIC, "legacy"  # hugepages
HUGE_FILES = "dynmem", "single-file", "legacy"  # hugepages in files of hugetlbfs
SHARED = *HUGE_FILES, "no-huge"  # a runtime directory that other processes can use

MB, GB = 1 << 20, 1 << 30
BIG = 5 * MB  # an allocation for which the heap grows by three pages of 2 MB


def until(condition, limit=60.0, longest=0.05):
    """Return the first true value of condition(), or its last value after `limit` seconds.

    longest: seconds between two looks, after many.
    """
    end, pause = time.monotonic() + limit, 0.001
    while not (found := condition()) and time.monotonic() < end:
        time.sleep(pause)
        pause = min(2 * pause, longest)
    return found


def requirement(id):
    """The row of the catalogue that this test checks: one test function for one id."""
    import pytest

    return pytest.mark.requirement(id)


def needs(**what):
    """What the host must have, or the test is skipped with both numbers; see `host.lacks`."""
    import pytest

    return pytest.mark.needs(**what)


def modes(*names):
    """Run once in each mode; `start` takes it by itself, `mode` is its name."""
    return _through("mode", names, names)


def sizes(pages):
    """Run once with each page size: `sizes({"2M": 4, "1G": 1})`; `page` is its bytes."""
    return _through("page", pages.items(), pages)


def _through(fixture, values, ids):
    import pytest

    def mark(test):
        run = pytest.mark.parametrize(fixture, list(values), indirect=True, ids=list(ids))
        return pytest.mark.usefixtures(fixture)(run(test))

    return mark
