"""A primary's message channel: when it begins to watch who lives, and whom it misses meanwhile."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from conformance import until
from pyeal import mp, releases

BIND = """
import os, socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(f"{sys.argv[1]}/mp_socket_{os.getpid()}_1")
print(flush=True)
sys.stdin.read()
"""


@pytest.fixture
def secondary(tmp_path):
    """Starts a process with a socket as a secondary's; it lives until its input is closed."""
    with contextlib.ExitStack() as stack:

        def run():
            argv = [sys.executable, "-I", "-c", BIND, str(tmp_path)]
            pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
            p = stack.enter_context(subprocess.Popen(argv, **pipes))
            stack.callback(p.stdin.close)
            p.stdout.readline()
            return p

        yield run


@pytest.fixture
def open_channel(tmp_path, monkeypatch):
    """open_channel(seconds until it watches) -> channel, event of a death."""
    opened = []

    def run(settle):
        monkeypatch.setattr(mp, "SETTLE", settle)
        channel = mp.Channel(str(tmp_path), releases.get("22.11"), "mp_socket", lambda *_: None)
        opened.append(channel)
        death = threading.Event()
        channel.watch(death.set)
        channel.start()
        return channel, death

    yield run
    for channel in opened:
        channel.close()


def watches():
    """How many directories this process watches."""
    infos = [Path(f"/proc/self/fdinfo/{n}") for n in os.listdir("/proc/self/fd")]
    return sum(i.read_text().count("inotify wd:") for i in infos if i.exists())


def settled(channel):
    """Return whether it watches, within ten seconds: until then no process counts as dead."""
    return until(channel.alone)


def test_one_that_ends_soon_did_not_watch(open_channel):
    """Its end would often take 8 ms more."""
    before = watches()
    channel, _ = open_channel(60)
    watched = until(lambda: watches() != before, 0.1)
    channel.close()

    assert not watched
    assert watches() == before


def test_who_ended_before_is_noticed(open_channel, secondary):
    """Its socket is still there."""
    p = secondary()
    p.kill()
    p.wait(10)
    _, death = open_channel(60)

    assert death.wait(10)


@pytest.mark.parametrize("settle", [60, 0.01])
def test_who_comes_is_noticed_and_so_is_its_end(open_channel, secondary, settle):
    """Before it watches as well: it looks until then."""
    channel, death = open_channel(settle)
    ready = settle == 60 or settled(channel)
    p = secondary()
    early = death.wait(0.2)
    p.kill()

    assert ready and death.wait(10) and not early


def test_nobody_is_taken_for_dead_before(open_channel):
    """A process that detaches has no socket any more and is alive: its start was not seen."""
    channel, _ = open_channel(0.2)
    early = channel.alone()

    assert settled(channel) and not early
