"""What a fork server forks is a target like any other, and is never lost."""

import os
import select
import signal
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import pytest

import pyeal
from conformance import until
from conformance.harness import host
from conformance.harness.box import Box, lifeline
from conformance.harness.child import Child, TargetDied, TargetHung, command, environment
from conformance.harness.forkserver import ForkServer, forks


@pytest.fixture
def forkserver():
    z = ForkServer("pyeal")
    yield z
    z.close()


def begin(forkserver, tmp_path, **more):
    return Child(["forked"], tmp_path / "log", begin=partial(forkserver.fork, **more))


def test_it_says_and_can_what_a_new_process_does(forkserver, tmp_path):
    new, forked = Child(command("pyeal"), tmp_path / "new"), begin(forkserver, tmp_path)

    assert (forked.target, forked.release, forked.can) == (new.target, new.release, new.can)
    assert forked.pid == forked.popen.pid
    assert os.listdir(f"/proc/{forked.pid}/fd") == os.listdir(f"/proc/{new.pid}/fd")
    assert (forked.close(), new.close()) == (0, 0)


def test_its_log_and_its_end_are_known(forkserver, tmp_path):
    c = begin(forkserver, tmp_path)
    os.kill(c.pid, signal.SIGTERM)

    with pytest.raises(TargetDied, match="killed by SIGTERM"):
        c.ask("lists")
    assert not c.alive
    c.kill()


def test_its_environment_is_the_one_given(forkserver, tmp_path):
    with tempfile.TemporaryDirectory(prefix="eal-") as d:  # short: a socket lies in it
        c = begin(forkserver, tmp_path, env=environment() | {"RUNTIME_DIRECTORY": d})
        done = c.ask("init", args=["--no-huge", "-m", "16", "--file-prefix", "z"])
        c.close()

    assert done["runtime_dir"] == f"{d}/dpdk/z"


@pytest.mark.skipif(os.geteuid() != 0, reason="wanted root")
def test_it_is_in_the_box_it_was_sent_to(forkserver, tmp_path):
    box = Box()
    c = begin(forkserver, tmp_path, env=environment() | box.environment(), box=box)
    inside = box.inside()
    c.close()
    box.close()

    assert inside == [c.pid]
    assert os.readlink("/proc/self/ns/mnt") != box.ns


def test_it_counts_as_a_child_and_its_forkserver_does_not(forkserver, tmp_path):
    before = host.children()
    c = begin(forkserver, tmp_path)
    with_it = host.children()
    c.close()

    assert with_it - before == {c.pid}
    assert host.children() == before
    assert forkserver.popen.pid not in before


def test_a_late_answer_is_not_the_next_ones(forkserver, tmp_path):
    """A fork server that was stopped for a while; the process that came too late is ended."""
    os.kill(forkserver.popen.pid, signal.SIGSTOP)
    forkserver.control.settimeout(0.01)
    with pytest.raises(TargetHung, match="no answer"), open(tmp_path / "late", "wb") as err:
        forkserver.fork(err)
    forkserver.control.settimeout(60)
    os.kill(forkserver.popen.pid, signal.SIGCONT)
    before = host.children()
    c = begin(forkserver, tmp_path)
    others = host.children() - {c.pid}

    assert c.pid == c.popen.pid
    assert c.close() == 0
    assert until(lambda: not any(map(host.started, others - before)))


def test_an_exit_code_that_was_told_too_late_is_told_again(forkserver, tmp_path):
    c = begin(forkserver, tmp_path)
    os.kill(c.pid, signal.SIGKILL)
    select.select([c.popen.ended], [], [])
    os.kill(forkserver.popen.pid, signal.SIGSTOP)
    forkserver.control.settimeout(0.01)
    with pytest.raises(TargetHung):
        c.popen.poll()
    forkserver.control.settimeout(60)
    os.kill(forkserver.popen.pid, signal.SIGCONT)

    assert c.kill() == -signal.SIGKILL


def test_it_dies_with_its_forkserver(forkserver, tmp_path):
    if not lifeline():
        pytest.skip("wanted setpriv, found none")
    c = begin(forkserver, tmp_path)
    forkserver.popen.kill()
    forkserver.popen.wait()

    assert select.select([c.popen.ended], [], [], 5)[0]
    c.popen.stdin.close()
    c.popen.stdout.close()
    os.close(c.popen.ended)


def test_what_does_not_start_says_why(tmp_path):
    z = ForkServer("pyeal:1.2.3")

    with pytest.raises(TargetDied, match=r"1\.2\.3"):
        begin(z, tmp_path)
    z.close()


def test_programs_of_others_have_none():
    assert [forks(t) for t in ("pyeal:20.11", "librte_eal", "cmd:pyeal")] == [True, True, False]


def test_a_forked_pyeal_imports_nothing_later():
    """The sweep of failing calls would meet the files of what a start imports in its middle."""
    package = Path(pyeal.__file__).parent
    core = {f"pyeal.{p.stem}" for p in package.glob("[a-z]*.py")}
    core |= {f"pyeal.backing.{p.stem}" for p in (package / "backing").glob("[a-z]*.py")}
    apart = {f"pyeal.{name}" for name in ("cli", "loans", "records", "suite")}
    script = "from conformance.targets.forkserver import maker; maker('pyeal', [])"
    argv = [sys.executable, "-c", f"import sys; {script}; print(*sys.modules)"]
    done = subprocess.run(argv, env=environment(), capture_output=True, text=True, check=True)

    assert core - apart - set(done.stdout.split()) == set()
