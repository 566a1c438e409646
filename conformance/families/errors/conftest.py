"""What tests of several files here use."""

import fcntl
import os

import pytest

from conformance.harness import host


@pytest.fixture
def flocked(box, request):
    """flocked(name): that file of the only prefix's runtime directory, locked as others' is."""
    fds = []

    def lock(name):
        (path,) = box.path(f"{host.RUN}/dpdk").glob(f"*/{name}")
        fds.append(os.open(path, os.O_RDONLY))
        fcntl.flock(fds[-1], fcntl.LOCK_SH)

    yield lock
    for fd in fds:
        os.close(fd)
