"""Page files that hold a page."""

import pytest


@pytest.fixture
def filled():
    """filled(eal, "2M"): page files without the empty file that a stop may leave."""

    def names(eal, size="2M"):
        return [f for f in eal.page_files(size) if (eal.hugedir(size) / f).stat().st_size]

    return names
