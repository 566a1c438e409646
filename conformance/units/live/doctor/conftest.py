"""The world of doctor's tests."""

import pytest

from conformance.units.live.doctor.world import World


@pytest.fixture
def world(request, prefix, make_box, start, cgroup, evidence):
    """Boxes and processes, and the target that doctor is asked about: see world.py."""
    return World(request, prefix, make_box, start, cgroup, evidence)
