"""Numbered requirements of EAL's memory initialisation, checked against any EAL.

What a test author imports; the fixtures are those of conftest.py.
"""

import contextlib

import pytest

MODES = {  # what each mode is called in reports: the arguments that choose it
    "dynmem": [],
    "single-file": ["--single-file-segments"],
    "in-memory": ["--in-memory"],
    "legacy": ["--legacy-mem"],
    "no-huge": ["--no-huge"],
}


@contextlib.contextmanager
def installed(name):
    """Starts another EAL beside the target's; the test is skipped where that is not installed."""
    from conformance.child import NO_LIBRARY, TargetDied  # which are commands' to import, too

    try:
        yield
    except TargetDied as e:
        if name and NO_LIBRARY in str(e):
            pytest.skip(f"wanted {name}, found none: apt-get install librte-eal23")
        raise


def requirement(id):
    """The row of the catalogue that this test checks: one test function for one id."""
    return pytest.mark.requirement(id)


def needs(**what):
    """What the host must have, or the test is skipped with both numbers; see `host.lacks`."""
    return pytest.mark.needs(**what)


def modes(*names):
    """Run once in each mode; `start` takes it by itself, `mode` is its name."""
    return _through("mode", names, names)


def sizes(pages):
    """Run once with each page size: `sizes({"2M": 4, "1G": 1})`; `page` is its bytes."""
    return _through("page", pages.items(), pages)


def _through(fixture, values, ids):
    def mark(test):
        run = pytest.mark.parametrize(fixture, list(values), indirect=True, ids=list(ids))
        return pytest.mark.usefixtures(fixture)(run(test))

    return mark
