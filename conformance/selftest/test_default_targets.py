"""The targets of a run that names none: librte_eal is that of the machine, else Debian's."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from conformance.harness.child import NO_LIBRARY
from conformance.runner import targets

NONE, BROKEN = f"librte_eal does not start: {NO_LIBRARY}", "librte_eal does not start: OSError"


def chosen(monkeypatch, refused, *, no_peer=False, reachable=True):
    """Return the specs that a run without --target tests, if librte_eal is refused so."""

    def target(spec, name=None):
        if spec == "librte_eal" and refused:
            raise targets.Broken(refused)
        return SimpleNamespace(spec=spec, name=name or spec)

    def fetched(names):
        if names and not reachable:
            raise targets.Broken("no peer")
        return iter(names)

    monkeypatch.setattr(targets, "Target", target)
    monkeypatch.setattr(targets, "fetched", fetched)
    args = SimpleNamespace(target=[], source=[], peer=[], no_peer=no_peer)
    monkeypatch.setattr(targets, "given", lambda asked, make: [])
    return [t.spec for t in targets.targets(args)]


@pytest.mark.parametrize(
    ("refused", "more", "specs"),
    [
        ("", {}, ["pyeal", "librte_eal"]),
        (NONE, {}, ["pyeal", "librte_eal:22.11"]),
        (NONE, {"no_peer": True}, ["pyeal"]),
        (NONE, {"reachable": False}, ["pyeal"]),
        (BROKEN, {}, ["pyeal"]),
    ],
    ids=["installed", "fetched", "no-peer", "unreachable", "broken"],
)
def test_the_second_target(refused, more, specs, monkeypatch):
    monkeypatch.setattr(targets, "say", lambda text: None)
    assert chosen(monkeypatch, refused, **more) == specs
