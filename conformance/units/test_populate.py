"""The threads that populate pages: which CPUs they run on."""

import os

import pytest

from pyeal.populate import PopulateThreads, PreferredNode, local_cpus


@pytest.mark.parametrize(
    ("node_of", "usable", "found"),
    [
        ({0: 0, 1: 0}, {0, 1}, {}),
        ({0: 0, 1: 0, 2: 1, 3: 1}, {0, 1, 2, 3}, {0: {0, 1}, 1: {2, 3}}),
        ({0: 0, 1: 0, 2: 1, 3: 1}, {0, 1, 2}, {0: {0, 1}}),  # one is less than half of three
        ({0: 0, 1: 1}, {1}, {}),
        ({}, {0, 1}, {}),
    ],
)
def test_a_nodes_memory_is_filled_by_its_own_cpus(node_of, usable, found):
    """Of a node that has at least half of its share of the usable CPUs."""
    assert local_cpus(node_of, usable) == found


def test_threads_run_near_the_memory_and_the_caller_only_meanwhile():
    """Two threads and the caller run on the one CPU given; then the caller has all of its own."""
    before, ran = os.sched_getaffinity(0), []
    cpu = max(before)
    with PreferredNode(0, print, {cpu}) as policy:
        if not policy.works:
            pytest.skip("wanted memory policies, found none")
        threads = PopulateThreads(2, policy.prefer)
        threads.together(lambda: ran.append(os.sched_getaffinity(0)))

    assert ran == [{cpu}] * 3
    assert os.sched_getaffinity(0) == before


def test_cpus_that_went_are_said_and_the_memory_is_had_all_the_same():
    """A CPU that is gone: an error in the log, and the caller stays where it is."""
    said, before = [], os.sched_getaffinity(0)
    with PreferredNode(0, lambda level, text: said.append(text), {1023}) as policy:
        if not policy.works:
            pytest.skip("wanted memory policies, found none")
        assert os.sched_getaffinity(0) == before

    assert said[0] == "sched_setaffinity failed: Invalid argument"
