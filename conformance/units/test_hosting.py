"""`pyeal init` while others live in its memory: Ctrl-C ends it at once, and costs them nothing."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import ExitStack

import pytest

from conformance import BIG, MB
from conformance.harness import host
from conformance.harness.box import Box
from conformance.harness.child import environment, installed
from conformance.harness.eal import Eal
from pyeal.files import DirectoryLock

PAGES = 12
SOON = 10  # seconds: a primary that waits for an unresponsive process takes 4
KINDS = "pyeal", "librte_eal"
PREFIX = ["--file-prefix", "hosting"]

pytestmark = pytest.mark.skipif(
    not host.is_root(), reason="wanted root for hugetlbfs, found an ordinary user"
)


class Hosting:
    """A box in which `pyeal init` holds 2 MB, and the processes that attach to it."""

    def __init__(self, box: Box, tmp, ends: ExitStack) -> None:
        self.box, self.tmp, self.ends = box, tmp, ends
        argv = [sys.executable, "-P", "-m", "pyeal", "init", "--json", "--", "-m", "2", *PREFIX]
        self.primary = subprocess.Popen(
            [*box.enter, *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment() | box.environment(),
        )
        ends.enter_context(self.primary)  # which waits for it and closes its pipes
        ends.callback(self.primary.kill)
        self.layout = json.loads(self.primary.stdout.readline())

    def join(self, target: str, *args: str) -> Eal:
        with installed(target):
            eal = Eal(target, [*args, *PREFIX], self.box, self.tmp, "hosting", limit=12)
        self.ends.callback(eal.kill)
        return eal.init()

    def interrupt(self) -> None:
        """Ctrl-C."""
        self.begun = time.monotonic()
        self.primary.send_signal(signal.SIGINT)

    def ended(self) -> tuple[int, float, list[str]]:
        """Exit code, seconds, and what was printed except attaches and exits."""
        try:
            _, err = self.primary.communicate(timeout=3 * SOON)
        except subprocess.TimeoutExpired:
            pytest.fail(f"SIGINT, and still there after {3 * SOON} s")
        took = time.monotonic() - self.begun
        lines = [x for x in err.decode().splitlines() if not x.startswith("secondary ")]
        return self.primary.returncode, took, lines


@pytest.fixture
def hosting(tmp_path):
    try:
        box = Box({"2M": PAGES})
    except host.NotEnough as e:
        pytest.skip(str(e))
    with ExitStack() as ends:
        ends.callback(box.close)
        yield Hosting(box, tmp_path, ends)


@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_ends_it_and_leaves_the_others_their_memory(hosting, kind) -> None:
    """Exit code 0; a secondary reads and writes, leaves, and the next primary has all pages."""
    other = hosting.join(kind, "--proc-type=secondary")
    va = other.malloc(BIG).va
    other.poke(va, b"stays")
    hosting.interrupt()
    code, took, said = hosting.ended()

    assert (code, said) == (0, [])
    assert took < SOON
    assert other.peek(va, 5) == b"stays"
    other.poke(va + MB, b"more")
    assert other.peek(va + MB, 4) == b"more"
    assert not other.run_files("mp_socket")
    other.close()
    assert other.run_files("mp_socket*") == []
    again = hosting.join(kind, "-m", "2")
    again.close()
    assert again.page_files() == []


@pytest.mark.parametrize("kind", KINDS)
def test_ctrl_c_while_a_secondary_asks_for_memory(hosting, kind) -> None:
    """Each malloc returns; without a primary, only what the pages hold is allocated."""
    other = hosting.join(kind, "--proc-type=secondary")
    at = other.malloc(64).va
    other.poke(at, b"stays")
    rounds = 0
    while hosting.primary.poll() is None:
        other.begin("malloc", size=BIG, align=0, socket=-1)
        if rounds == 5:
            hosting.interrupt()
        if va := other.answer("malloc").va:
            other.free(va)
        rounds += 1
    code, took, said = hosting.ended()

    assert (code, said) == (0, [])
    assert took < 2 * SOON
    assert not other.malloc(BIG).va
    assert other.malloc(64).va
    assert other.peek(at, 5) == b"stays"


def test_ctrl_c_beside_one_that_is_stopped(hosting) -> None:
    """It cannot answer: that costs a bounded wait."""
    other = hosting.join("pyeal", "--proc-type=secondary")
    at = other.malloc(BIG).va
    other.poke(at, b"stays")
    other.child.popen.send_signal(signal.SIGSTOP)
    hosting.interrupt()
    code, took, _ = hosting.ended()
    other.child.popen.send_signal(signal.SIGCONT)

    assert code == 0
    assert took < 2 * SOON
    assert other.peek(at, 5) == b"stays"
    assert other.malloc(64).va


def test_ctrl_c_beside_one_that_stops_with_the_lock_of_the_page_files(hosting) -> None:
    """It happens while the others are told: the primary does not wait for dead processes."""
    other = hosting.join("pyeal", "--proc-type=secondary")
    mute = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    mute.settimeout(SOON)
    with mute:
        mute.bind(f"{other.run}/mp_socket_{os.getpid()}_0")
        hosting.interrupt()
        mute.recv(400)
        with DirectoryLock(str(hosting.box.path(hosting.box.hugedir("2M")))):
            code, took, _ = hosting.ended()

    assert code == 0
    assert took < 2 * SOON
    other.close()
    again = hosting.join("pyeal", "-m", "2")
    again.close()
    assert again.page_files() == []
