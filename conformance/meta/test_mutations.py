"""The faults of mutations.toml: all are up to date, and one of each family is found again here.

The others are replayed by `python -m conformance.meta.mutations`.
"""

import pytest

from conformance import host
from conformance.meta import mutations

ALL = mutations.load()
FIRST = {m.id.partition("-")[0]: m for m in reversed(ALL)}


def test_every_mutation_applies():
    stale = [fault for m in ALL if (fault := m.fault())]
    unknown = sorted({m.id for m in ALL} - set(mutations.tests()))

    assert (stale, unknown) == ([], [])


@pytest.mark.parametrize("family", sorted(FIRST))
def test_a_fault_of_each_family_is_found(family):
    verdict, last = mutations.replay(FIRST[family])
    if verdict == mutations.COULD_NOT and not host.is_root():
        pytest.skip("wanted root, found none")

    assert verdict == mutations.CAUGHT, last
