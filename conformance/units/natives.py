"""Ways to do what native code does, chosen for one test."""

from __future__ import annotations

import pytest

from pyeal import libc


def choose(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """native; python or libatomic: PYEAL_NATIVE=0; neither: libatomic is missing as well.

    Skips the test if this machine has no such way.
    """
    monkeypatch.setenv("PYEAL_NATIVE", "1" if how == "native" else "0")
    for found in "_code", "_batch", "_store", "_exchange":
        monkeypatch.setattr(libc, found, None)
    if how == "native" and not libc.load_native():
        pytest.skip(f"expected native code, found none for {libc.MACHINE}")
    if how == "libatomic" and libc._exchange_of_libatomic() is None:
        pytest.skip("expected libatomic.so.1, found none. Fix: apt-get install libatomic1")
    if how == "neither":
        monkeypatch.setattr(libc, "_exchange_of_libatomic", lambda: None)
