"""The old names of pages and heap memory, and what each role may do."""

from __future__ import annotations

from collections.abc import Iterator
from errno import EACCES, EINVAL, ENOTSUP

import pytest

import pyeal
from conformance import MB
from pyeal.observer import Observer
from pyeal.secondary import Secondary


@pytest.fixture
def eal() -> Iterator[pyeal.Eal]:
    with pyeal.init(["--no-huge", "-m", "8", "--no-shconf"]) as eal:
        yield eal


def test_the_old_names_work_and_warn(eal: pyeal.Eal) -> None:
    va = eal.malloc(64)
    with pytest.warns(DeprecationWarning, match=r"mfree\(\) is now Eal.free\(\)"):
        eal.mfree(va)
    with (
        pytest.warns(DeprecationWarning, match=r"alloc\(\) is now Eal.alloc_pages\(\)"),
        pytest.raises(pyeal.EalError),  # memory is fixed in this mode
    ):
        eal.alloc(2 * MB)


def test_what_is_not_allocated_is_not_freed(eal: pyeal.Eal) -> None:
    with pytest.raises(pyeal.EalError) as e:
        eal.free(0x1000)

    assert e.value.errno == EINVAL


def test_a_secondary_allocates_from_heaps_alone(eal: pyeal.Eal) -> None:
    Secondary(eal).check_change()
    with pytest.raises(pyeal.EalError) as e:
        Secondary(eal).check_pages()

    assert (e.value.errno, e.value.reason) == (ENOTSUP, "role")


def test_an_observer_changes_nothing(eal: pyeal.Eal) -> None:
    with pytest.raises(pyeal.EalError) as e:
        Observer(eal).check_change()

    assert (e.value.errno, e.value.reason) == (EACCES, "role")
