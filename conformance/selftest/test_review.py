"""ci/review: whose tests a change lacks."""

from __future__ import annotations

from importlib.machinery import SourceFileLoader
from importlib.util import module_from_spec, spec_from_loader
from pathlib import Path

import pytest

CHECKOUT = next((d for d in Path(__file__).parents if (d / "ci/review").exists()), None)
pytestmark = pytest.mark.skipif(not CHECKOUT, reason="wanted a checkout, found the suite alone")


@pytest.fixture(scope="module")
def review():
    loader = SourceFileLoader("review", f"{CHECKOUT}/ci/review")
    module = module_from_spec(spec_from_loader("review", loader))
    loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("beside", "named"),
    [
        ([], ["pyeal/fbarray.py"]),
        (["README.md", "conformance/units/test_bench.py"], ["pyeal/fbarray.py"]),
        (["conformance/units/test_fbarray.py"], []),
        (
            ["conformance/families/fbarray/test_search.py"],
            [],
        ),  # of a requirement that its faults break
    ],
)
def test_a_change_without_a_test_of_its_file_is_named(review, beside, named):
    assert [name for name, _ in review.untested(["pyeal/fbarray.py", *beside])] == named


def test_a_tools_tests_are_called_after_it(review):
    changed = ["pyeal/tools/stale.py", "conformance/units/test_tools_stale.py"]

    assert [*review.untested(changed)] == []
    assert review.untested(changed[:1]).__next__()[1] == ["conformance/units/test_tools_stale"]


def test_what_is_gone_or_no_code_has_no_test(review):
    assert [*review.untested(["pyeal/gone.py", "pyeal/py.typed", "ci/review"])] == []
