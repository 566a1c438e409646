"""`pyeal lease`: pages for one command alone, a gate for leaks, and all pages returned."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys

import pytest

from conformance import needs, until
from conformance.harness import host
from conformance.harness.box import lifeline
from conformance.harness.child import environment

PYEAL = [sys.executable, "-P", "-m", "pyeal"]
MOUNT = "$(awk '$3 == \"hugetlbfs\" {print $2}' /proc/mounts)"


@pytest.fixture
def lease():
    """lease(pages, *command, code=0): what it says; the command's words are between."""

    def lease(pages, *command, code=0):
        argv = [*PYEAL, "lease", pages, "--", *command]
        done = subprocess.run(argv, capture_output=True, text=True, env=environment(), timeout=60)
        assert done.returncode == code, done.stderr
        return done.stdout + done.stderr

    return lease


@needs(root=True, pages={"2M": 8})
def test_the_command_has_a_mount_of_its_own(lease):
    """One hugetlbfs, of exactly these pages, which librte_eal finds by itself."""
    said = lease("2M:4", "sh", "-c", f"stat -fc '%b %f' {MOUNT}; {' '.join(PYEAL)} plan -- -m 8")

    assert "4 4" in said
    assert "would start with 8M in 4 x 2M pages" in said
    assert "given back: 4 x 2M" in said


@needs(root=True, pages={"2M": 8})
def test_nobody_else_gets_the_pages_meanwhile(tool):
    """They are reserved in the kernel while the command runs, and two leases add up."""
    with subprocess.Popen(
        [*lifeline(), *PYEAL, "lease", "-q", "2M:4", "--", "cat"],
        stdin=subprocess.PIPE,
        env=environment(),
    ) as p:
        try:
            lent = until(lambda: _lent(tool, p.pid))
            inside = subprocess.run(
                [*PYEAL, "lease", "-q", "2M:4", "--", "grep", "HugePages_Rsvd", "/proc/meminfo"],
                env=environment(),
                capture_output=True,
                text=True,
            ).stdout
        finally:
            p.stdin.close()

    assert p.wait() == 0
    assert [(x["alive"], len(x["mounts"])) for x in lent] == [(True, 1)]
    assert int(inside.split()[1]) >= 8
    assert not _lent(tool, p.pid)


def _lent(tool, pid):
    loans = json.loads(tool("lease", "--show", "--json"))["loans"]
    return [x for x in loans if x["mounts"] and x["pid"] == pid]


@needs(root=True, pages={"2M": 2})
def test_what_is_left_behind_fails_the_job(lease):
    """A page file that stays; the pages come back all the same."""
    python = "import mmap,os,sys; f=os.open(sys.argv[1]+'/xmap_0',os.O_RDWR|os.O_CREAT);"
    python += "os.ftruncate(f,2<<20); mmap.mmap(f,2<<20)[0]=1"
    said = lease("2M:2", "sh", "-c", f'{sys.executable} -c "{python}" {MOUNT}', code=1)

    assert "left behind" in said and "xmap_0 (2M)" in said


@needs(root=True, pages={"2M": 1})
def test_the_exit_code_is_the_commands(lease, tool):
    """Also a signal's, and a command that there is none."""
    assert "given back" in lease("2M:1", "sh", "-c", "exit 7", code=7)
    assert "given back" in lease("2M:1", "sh", "-c", "kill -TERM $$", code=128 + signal.SIGTERM)
    assert "No such file" in lease("2M:1", "/no/such/command", code=127)
    tool("lease", "2M:1", code=2)
    tool("lease", "2M:x", "--", "true", code=2)
    tool("lease", "2M:99999999", "--", "true", code=2)


BLOCK = """
import os, pyeal, signal, sys
with pyeal.lease("2M:2") as pages:
    with pyeal.init(["-m", "2", "--file-prefix", "eal_lease",
                     "--huge-dir", pages.hugedir("2M")]) as eal:
        print([m.count for m in eal.memseg_lists() if m.count], flush=True)
    if sys.argv[1:]:
        os.kill(os.getpid(), signal.SIGKILL)
"""


@needs(root=True, pages={"2M": 4})
def test_a_block_of_code_and_kill_9(tool, make_box):
    """`with pyeal.lease(...)` returns the pages at the end; after kill -9 the next lease does."""
    box = make_box()  # whose /run is its own
    argv = [*box.enter, sys.executable, "-P", "-c", BLOCK]
    env = environment() | box.environment()
    good = subprocess.run(argv, capture_output=True, text=True, env=env)
    gone = box.sh("grep -c hugetlbfs /proc/mounts || :").strip()
    killed = subprocess.run([*argv, "die"], capture_output=True, text=True, env=env)
    left = box.sh("grep -c hugetlbfs /proc/mounts || :").strip()
    subprocess.run(
        [*box.enter, *PYEAL, "lease", "2M:1", "--", "true"],
        check=True,
        env=env,
        capture_output=True,
    )
    after = box.sh("grep -c hugetlbfs /proc/mounts || :; ls /run/pyeal 2>&1 || :")

    assert (good.returncode, good.stdout) == (0, "[1]\n"), good.stderr
    assert (gone, killed.returncode, left) == ("0", -signal.SIGKILL, "1")
    assert after.split()[0] == "0" and "pages-" not in after


FIXTURE = """
import os

def test_has_pages(lease):
    pages = lease("2M:2")
    assert os.statvfs(pages.hugedir("2M")).f_bavail == 2

def test_leaves_a_file(lease):
    open(lease("2M:1").hugedir("2M") + "/xmap_0", "w").close()
"""


@needs(root=True, pages={"2M": 3})
def test_the_pytest_fixture(tmp_path):
    """A test's own pages; a test that leaves something behind is an error."""
    (tmp_path / "test_it.py").write_text(FIXTURE)
    done = subprocess.run(
        [
            sys.executable,
            "-P",
            "-m",
            "pytest",
            "-q",
            "-p",
            "pyeal.tools.pytest_plugin",
            "-p",
            "no:cacheprovider",
            str(tmp_path),
        ],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=environment() | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},  # where it is installed
    )

    assert "2 passed, 1 error" in done.stdout, done.stdout
    assert "1 file left in" in done.stdout
    assert not [m for m in host.mountinfo() if m[1] == "hugetlbfs" and "pyeal" in m[0]]


START = """
import pyeal, sys
with pyeal.init(["-m", "4", "--no-shconf", *sys.argv[1:]]) as eal:  # leaves no directory
    print("pages", sum(m.count for m in eal.memseg_lists()))
"""


@needs(root=True, pages={"2M": 6})
@pytest.mark.parametrize("mode", ["--legacy-mem", "--in-memory", "--single-file-segments"])
def test_every_mode_uses_the_pages(lease, mode):
    """Legacy counts free pages without reserved ones, in-memory uses no mount: neither reserves."""
    unlink = ["--huge-unlink"] if mode == "--legacy-mem" else []  # its files stay otherwise
    said = lease("2M:4", sys.executable, "-P", "-c", START, mode, *unlink)

    assert "pages 2" in said
    assert ("not reserved" in said) == (mode != "--single-file-segments")


@needs(root=True, pages={"2M": 6})
def test_a_script_asks_for_it(lease, tmp_path):
    """The message of a lease that reserves says how, and the start then succeeds."""
    code = tmp_path / "app.py"
    code.write_text(START.replace("*sys.argv[1:]", "'--legacy-mem', '--huge-unlink'"))
    told = lease("2M:4", "true")
    done = subprocess.run(
        [*PYEAL, "lease", "--unreserved", "2M:4", "--", sys.executable, "-P", code],
        capture_output=True,
        text=True,
        env=environment(),
        timeout=60,
    )

    assert "a program with --legacy-mem or --in-memory needs --unreserved" in told
    assert (done.returncode, "pages" in done.stdout) == (0, True), done.stderr


@needs(root=True, pages={"2M": 2})
@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_a_lease_that_is_ended_leaves_nothing(tool, sign, capsys):
    """The command gets the signal; after kill -9 the next call returns pages and mounts."""
    argv = [*lifeline(), *PYEAL, "lease", "2M:2", "--", "sh", "-c", "echo begun; exec sleep 600"]
    with subprocess.Popen(
        argv,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
        process_group=0,
    ) as p:
        assert p.stdout.readline() == "begun\n"
        os.killpg(p.pid, sign)
        code = p.wait()
    tool("lease", "2M:1", "--", "true")

    assert code == (-sign if sign == signal.SIGKILL else 128 + sign)
    assert not _lent(tool, p.pid)
