"""ci/pairs: what it says of a pair whose memory differs."""

from types import SimpleNamespace

import pytest

from conformance.runner import pairs


class FakeEal:
    """Answers what pairs.py asks, about memory of its own: another one's bytes are not there."""

    def __init__(self, iova=1):
        self.memory, self.iova = {}, iova

    def config(self):
        return SimpleNamespace(memzones=SimpleNamespace(count=0))

    def lists(self):
        return []

    def segments(self):
        return [SimpleNamespace(addr=4096, iova=self.iova, hugepage_sz=4096, socket_id=0)]

    def poke(self, at, data):
        self.memory[at] = data

    def peek(self, at, n):
        return self.memory.get(at, bytes(n))


def test_processes_that_see_other_pages_do_not_agree():
    assert pairs.agree(FakeEal(), FakeEal(), "attached") == [(4096, 1, 4096, 0)]
    with pytest.raises(AssertionError, match="attached: the primary has"):
        pairs.agree(FakeEal(), FakeEal(iova=2), "attached")


def test_bytes_that_the_other_does_not_see_are_told():
    one = FakeEal()
    pairs.shared(one, one, 4096, 64)
    with pytest.raises(AssertionError, match="at 0x1000: found b'"):
        pairs.shared(one, FakeEal(), 4096, 64)
    with pytest.raises(AssertionError, match="no area of 64 bytes"):
        pairs.shared(one, one, 0, 64)
