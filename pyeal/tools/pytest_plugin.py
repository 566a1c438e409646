"""A pytest plugin with the fixture `lease`: hugepages that only the test uses.

def test_boots(lease):
    pages = lease("2M:64", node=0)
    start_my_app("--huge-dir", pages.hugedir("2M"))
"""

from __future__ import annotations

import os

import pytest

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyeal.tools.lease import Lease


@pytest.fixture
def lease() -> Iterator[Callable[..., Lease]]:
    """Return lease("2M:64", node=None, reserved=True), which holds pages until the test's end.

    A page that the test leaves behind fails it. Skips without root; a lack of pages is an error.
    """
    from contextlib import ExitStack

    from pyeal.tools.lease import Leak, Lease

    stack = ExitStack()

    def lend(pages: str, node: int | None = None, *, reserved: bool = True) -> Lease:
        if os.geteuid():
            pytest.skip(f"wanted root to lease hugepages, found uid {os.geteuid()}")
        return stack.enter_context(Lease(pages, node, reserved=reserved))

    yield lend
    try:
        stack.close()
    except Leak as e:
        pytest.fail(f"hugepages were left behind: {e}", pytrace=False)
