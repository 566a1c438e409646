"""Leased hugepages, on a copy of the pools: all are returned, whichever process dies."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from conformance import needs, until
from conformance.harness.box import lifeline
from conformance.harness.child import environment
from pyeal import loans, records


@pytest.fixture
def pools(tmp_path, monkeypatch):
    """Two pools: 2M with 100 pages of which 60 are free and 10 of those reserved, 1G with none."""
    for kb, nr, free, resv in ((2048, 100, 60, 10), (1 << 20, 0, 0, 0)):
        d = tmp_path / "pools" / f"hugepages-{kb}kB"
        d.mkdir(parents=True)
        for word, n in (("nr", nr), ("free", free), ("resv", resv), ("surplus", 0)):
            (d / f"{word}_hugepages").write_text(f"{n}\n")
    monkeypatch.setattr(loans, "POOLS", tmp_path / "pools")
    monkeypatch.setattr(loans, "STATE", tmp_path / "state")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    return lambda size: loans.read(size, "nr")


@pytest.fixture
def dead():
    """The pid of a process that has ended."""
    p = subprocess.Popen(["true"])
    p.wait()
    return p.pid


def test_takes_what_is_missing_and_gives_back_exactly_that(pools):
    took = loans.lease({"2M": 80})

    assert took == {"2M": 30}  # 50 were free already
    assert pools("2M") == 130
    (loans.pool("2M") / "nr_hugepages").write_text("150")  # another process takes 20 more
    assert loans.give_back() == {"2M": 30}
    assert pools("2M") == 120
    assert not loans.STATE.exists()
    assert loans.give_back() == {}


def test_takes_nothing_where_enough_is_free(pools):
    assert loans.lease({"2M": 50}) == {}
    assert pools("2M") == 100


def test_a_promise_covers_pages_that_were_free_already(pools, elsewhere):
    """50 are available: 40 are promised to one process, so another one lacks 30 of its 40."""
    other = elsewhere("print(loans.lease({'2M': 40}), flush=True); input()")

    assert other.stdout.readline() == "{}\n"
    assert loans.lease({"2M": 40}) == {"2M": 30}
    assert pools("2M") == 130


LEASE = "loans.lease({'2M': 60}); print('leased', flush=True); input()"
UNSHARED = {
    "here": [],
    "pids": ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"],
    "no-proc": ["unshare", "--mount", "sh", "-c", 'mount -t tmpfs none /proc; exec "$@"', "sh"],
}


@pytest.fixture
def elsewhere(pools, tmp_path):
    """elsewhere(code, prefix=[]): another process with these pools, ended with the test."""
    program = (
        "import os, sys; from pathlib import Path; from pyeal import loans\n"
        "os.geteuid = lambda: 0; at = Path(sys.argv[1])\n"
        "loans.POOLS, loans.STATE = at / 'pools', at / 'state'\nexec(sys.argv[2])"
    )
    begun = []

    def start(code, prefix=(), **more):
        argv = [*prefix, sys.executable, "-P", "-c", program, tmp_path, code]
        pipe = subprocess.PIPE
        p = subprocess.Popen(
            list(map(str, argv)), stdin=pipe, stdout=pipe, text=True, env=environment(), **more
        )
        begun.append(p)
        return p

    yield start
    for p in begun:
        p.kill()
        p.communicate()


def ends(p):
    """What a process still prints, once it has nothing to wait for."""
    said, _ = p.communicate("\n", timeout=60)
    assert p.returncode == 0, said
    return said


@pytest.mark.parametrize("owner", UNSHARED)
@pytest.mark.parametrize("looks", UNSHARED)
@needs(root=True)
def test_a_lease_lives_as_long_as_its_lock(pools, elsewhere, owner, looks):
    """Whether its owner or the next call has another PID namespace, or no /proc."""
    p = elsewhere(LEASE, UNSHARED[owner])
    assert p.stdout.readline() == "leased\n"
    look = "loans.recover(); print([alive for _, _, alive in loans.all_loans()])"
    living = ends(elsewhere(look, UNSHARED[looks]))
    pages = pools("2M")
    os.kill(p.pid, signal.SIGKILL)
    p.wait()
    dead = until(lambda: "which died: 10 x 2M" in ends(elsewhere(look, UNSHARED[looks])))

    assert (living, pages) == ("[True]\n", 110)
    assert dead and pools("2M") == 100
    assert not loans.STATE.exists()


def test_gives_back_for_the_dead_and_not_for_the_living(pools, elsewhere, capsys):
    p, q = elsewhere(LEASE), elsewhere(LEASE.replace("60", "70"))
    assert [x.stdout.readline() for x in (p, q)] == ["leased\n"] * 2
    taken = pools("2M")
    p.kill()
    p.wait()
    loans.recover()

    assert f"process {p.pid}, which died: " in capsys.readouterr().out
    assert [x.name for x in loans.STATE.iterdir()] == [f"{q.pid}.json"]
    assert 100 < pools("2M") < taken


def test_a_pid_used_again_changes_nothing(pools, elsewhere):
    """Neither for a living owner nor for a dead one: no pid is asked."""
    p = elsewhere(LEASE)
    p.stdout.readline()
    path = loans.STATE / f"{p.pid}.json"
    loan = json.loads(path.read_text())
    path.write_text(json.dumps(loan | {"started": 1}))  # another process has its pid
    loans.recover(lambda text: None)
    living = pools("2M")
    me = {"pid": os.getpid(), "started": loans.started(os.getpid())}
    path.write_text(json.dumps(loan | me))
    p.kill()
    p.wait()
    loans.recover(lambda text: None)

    assert (living, pools("2M")) == (110, 100)


def test_an_emptied_record_changes_nothing(pools, elsewhere, capsys):
    """The lease lasts, the others leave it alone, and its owner knows what to give back."""
    p = elsewhere(LEASE + "; print(loans.give_back())")
    p.stdout.readline()
    (loans.STATE / f"{p.pid}.json").write_text("")
    loans.recover()
    loans.show()
    said, living = capsys.readouterr().out, pools("2M")

    assert f"{p.pid}.json cannot be read, its lease lasts" in said
    assert living == 110
    assert ends(p) == "{'2M': 10}\n"
    assert pools("2M") == 100


RECORDS = {
    "empty": "",
    "cut": '{"pid": 1, "to',
    "words": '{"pid": "\x1b[2J", "took": {}}',
    "pages": '{"pid": 1, "lock": true, "took": {"2M": "many"}}',
    "size": '{"pid": 1, "lock": true, "took": {"../../x": 1}}',
    "mount": '{"pid": 1, "lock": true, "took": {}, "mounts": ["/"]}',
    "depth": "[" * 50000,
    "list": "[1]",
    "huge": " " * (1 << 20),
}


@pytest.mark.parametrize("text", [*RECORDS, "fifo", "link", "folder"])
def test_what_cannot_be_known_is_left_alone_and_told(pools, text, tmp_path, capsys):
    name = "\x1b[31m\n4711 fine.json"
    loans.STATE.mkdir()
    at = loans.STATE / name
    match text:
        case "fifo":
            os.mkfifo(at)
        case "link":
            at.symlink_to("/etc/passwd")
        case "folder":
            at.mkdir()
        case _:
            at.write_text(RECORDS[text])
    loans.recover()
    loans.show()
    loans.lease({"2M": 60})
    loans.give_back()
    out = capsys.readouterr().out

    assert "left alone" in out and at.name in os.listdir(loans.STATE)
    assert "\x1b" not in out and "\n4711" not in out
    assert pools("2M") == 100


@needs(root=True)
def test_a_lock_of_another_user_counts_for_nothing(pools, elsewhere, tmp_path):
    """He can read a record and lock that, and none of the files that are waited for."""
    p = elsewhere(LEASE)
    p.stdout.readline()
    path = loans.STATE / f"{p.pid}.json"
    for d in (tmp_path, path.parent):
        d.chmod(0o755)
    code = (  # in that folder, since another user may reach none of those above it
        "import fcntl, os, sys, struct\n"
        "fd = os.open(sys.argv[1], os.O_RDONLY)\n"
        "fcntl.flock(fd, fcntl.LOCK_EX)\n"
        "try: os.open(sys.argv[2], os.O_RDONLY)\n"
        "except PermissionError: print('locked', flush=True)\n"
        "input()\n"
        "fcntl.fcntl(fd, fcntl.F_OFD_SETLK, struct.pack('hhqqi', fcntl.F_RDLCK, 0, 0, 0, 0))\n"
        "print('again', flush=True); input()\n"
    )
    argv = [*lifeline(), "setpriv", "--reuid=65534", "--clear-groups", "/usr/bin/python3", "-c"]
    argv += [code, path.name, "../state.lock"]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, cwd=path.parent, stdin=pipe, stdout=pipe, text=True) as stranger:
        assert stranger.stdout.readline() == "locked\n"
        p.kill()
        p.wait()
        stranger.stdin.write("\n")
        stranger.stdin.flush()
        assert stranger.stdout.readline() == "again\n"
        said = []
        loans.recover(said.append)
        stranger.communicate("\n")

    assert [s for s in said if "which died: 10 x 2M" in s] == said
    assert pools("2M") == 100


def test_a_lock_that_is_held_is_waited_for_with_a_word_and_not_for_ever(pools, monkeypatch):
    monkeypatch.setattr(records, "PATIENCE", 1.0)
    said = []
    with open(loans.STATE.with_name("state.lock"), "w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        with pytest.raises(loans.Refused, match=rf"locked by process {os.getpid()} for"):
            loans.lease({"2M": 80}, say=said.append)

    assert said == [f"waiting for the lock on {f.name}, held by process {os.getpid()}"]
    assert pools("2M") == 100


@pytest.mark.parametrize("ended", ["owner", "returned", "keeper"])
def test_a_lease_for_another_process(pools, elsewhere, ended):
    """Its keeper returns the pages as the owner ends, and goes when another process has."""
    owner = elsewhere("print('there', flush=True); input()")
    owner.stdout.readline()
    loans.lease({"2M": 80}, owner=owner.pid)
    path = loans.STATE / f"{owner.pid}.json"
    (keeper,) = until(lambda: keepers(path))
    alive = records.alive(path), pools("2M")
    match ended:
        case "owner":
            owner.kill()
            owner.wait()
        case "returned":
            assert loans.give_back(owner.pid) == {"2M": 30}
        case "keeper":
            os.kill(keeper, signal.SIGTERM)

    assert alive == (True, 130)
    assert until(lambda: not keepers(path) and pools("2M") == 100)
    assert until(lambda: not loans.STATE.exists())


def keepers(path):
    """Processes that hold the lock of this record for another one."""
    found = []
    for p in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = p.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"keep" in words and os.fsencode(path) in words:
            found.append(int(p.parent.name))
    return found


def test_a_process_that_does_not_exist_owns_no_lease(pools, dead):
    with pytest.raises(loans.Refused, match=f"no process {dead} to own a lease"):
        loans.lease({"2M": 80}, owner=dead)
    assert pools("2M") == 100


@pytest.mark.parametrize(("reached", "back"), [(100, 100), (112, 100), (130, 100), (150, 120)])
def test_killed_while_the_kernel_collects_pages(pools, dead, reached, back):
    loan = {"pid": dead, "started": 1, "lock": True, "took": {}}
    loan["raising"] = {"size": "2M", "by": 30, "from": 100}
    loans.STATE.mkdir(parents=True)
    (loans.STATE / f"{dead}.json").write_text(json.dumps(loan))
    (loans.pool("2M") / "nr_hugepages").write_text(str(reached))
    loans.recover(lambda text: None)

    assert pools("2M") == back


@pytest.fixture
def kernel(monkeypatch):
    """A kernel that has memory for that many more pages; compact_memory is not to be written."""
    real = loans.add

    def limit(most):
        monkeypatch.setattr(loans, "add", lambda size, n: real(size, min(n, most)))
        monkeypatch.setattr(loans.Path, "write_text", write)

    write_text = loans.Path.write_text

    def write(path, words):
        return None if path.name == "compact_memory" else write_text(path, words)

    return limit


def test_all_or_nothing(pools, kernel):
    kernel(10)
    with pytest.raises(loans.Refused, match="80 x 2M wanted, 50 available, after 0 s"):
        loans.lease_all({"2M": 80}, 0)

    assert pools("2M") == 100
    assert not loans.STATE.exists()


def test_waits_until_others_give_back(pools, kernel, monkeypatch):
    kernel(10)
    pauses, said = [], []

    def sleep(seconds):
        pauses.append(seconds)
        if len(pauses) == 3:
            (loans.pool("2M") / "free_hugepages").write_text("95")

    monkeypatch.setattr(loans.time, "sleep", sleep)
    took = loans.lease_all({"2M": 80}, 60, say=said.append)

    assert took == {}
    assert pauses == [0.5, 1, 2]
    assert said[0].startswith("waiting for 80 x 2M: 60 s left")


def test_without_root_nothing_is_taken(pools, monkeypatch):
    monkeypatch.setattr(os, "geteuid", lambda: 65534)

    with pytest.raises(loans.Refused, match="needs root, found uid 65534"):
        loans.lease({"2M": 80})
    assert pools("2M") == 100


def test_unknown_size_is_refused_with_those_there_are(pools):
    with pytest.raises(loans.Refused, match="no pool of 4M pages; it has hugepages-1048576kB"):
        loans.lease({"2M": 80, "4M": 1})
    assert pools("2M") == 100


@pytest.mark.parametrize(
    ("text", "want"),
    [("2M:512", {"2M": 512}), ("2m:1, 1GB:2", {"2M": 1, "1G": 2}), ("2M:1,2M:2", {"2M": 3})],
)
def test_sizes_and_numbers(text, want):
    assert loans.parse(text) == want


@pytest.mark.parametrize("text", ["", "2M", "2M:", "2M:-1", "2X:1", "512"])
def test_what_is_no_size_and_number_is_refused(text):
    with pytest.raises(loans.Refused, match="is not SIZE:NUMBER"):
        loans.parse(text)
