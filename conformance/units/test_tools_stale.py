"""`pyeal stale` on directories of its own: verdicts, questions, and what it must never touch."""

from __future__ import annotations

import fcntl
import os
import socket
from pathlib import Path
from typing import Any

import pytest

from conformance.units.recorded import facts, pyeal, unpack
from pyeal.look import locks
from pyeal.look.leftovers import Leftovers
from pyeal.look.machine import Machine
from pyeal.tools import stale


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """With the directory of a primary that died; named as only this test does."""
    unpack("22.11", "dynmem", tmp_path / "dpdk").rename(tmp_path / f"dpdk/{name(tmp_path)}")
    return tmp_path


def name(base: Path) -> str:
    return f"dead{os.getpid()}{base.name[-1]}"


def least() -> int:
    """Its exit code where nothing is left: 1 where this user may not look into root's directory."""
    machine = Machine()
    machine.directories()
    return int(bool(machine.unreadable_directories))


def run(base: Path, *args: str, code: int, **more: Any) -> Any:
    env = {"RUNTIME_DIRECTORY": str(base)}
    return facts("stale", name(base), *args, code=code, env=env, **more)["items"]


sees_all = pytest.mark.skipif(
    not locks.in_initial_pid_ns(), reason="wanted the first PID namespace, found another"
)


@sees_all
def test_dead_directory_goes_and_what_is_not_eals_stays(base: Path) -> None:
    d = base / "dpdk" / name(base)
    (d / "notes").write_text("mine")
    (d / "fbarray_link").symlink_to(base / "elsewhere")
    (base / "elsewhere").write_text("mine")
    (found,) = run(base, code=1)
    (deleted,) = run(base, "--delete", "-y", code=least())

    assert (found["kind"], found["verdict"]) == ("directory", "stale")
    assert "no lock on config" in found["why"] and len(found["files"]) == 7
    assert deleted["deleted"] and sorted(os.listdir(d)) == ["fbarray_link", "notes"]
    assert (base / "elsewhere").read_text() == "mine"


@sees_all
@pytest.mark.parametrize(("answer", "gone"), [("y\n", True), ("n\n", False), ("", False)])
def test_it_asks(base: Path, answer: str, gone: bool) -> None:
    env = {"RUNTIME_DIRECTORY": str(base)}
    code = 0 if gone else 1
    said = pyeal("stale", name(base), "--delete", env=env, input=answer, code=max(code, least()))

    assert "delete 1 directory or file? [y/N]" in said
    assert (base / "dpdk" / name(base)).exists() is not gone


@sees_all
@pytest.mark.parametrize("how", ["config", "array"])
def test_what_is_locked_is_held(base: Path, how: str) -> None:
    """A lock on config as a primary's, or on an array as a secondary's."""
    d = base / "dpdk" / name(base)
    with open(d / ("config" if how == "config" else "fbarray_memzone"), "r+b") as f:
        if how == "config":
            fcntl.lockf(f, fcntl.LOCK_EX, 17408, 136)
        else:
            fcntl.flock(f, fcntl.LOCK_SH)
        found = run(base, "-a", "--delete", "-y", code=least(), apart=True)

    assert [x for x in found if x["kind"] == "directory"] == []
    assert len(os.listdir(d)) == 7


@sees_all
def test_socket_that_somebody_listens_at(base: Path) -> None:
    """Of a living secondary: its name alone keeps the directory."""
    d = base / "dpdk" / name(base)
    here = os.getcwd()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        os.chdir(d.parent.parent)  # a socket's path has 107 characters
        try:
            s.bind(f"./dpdk/{d.name}/mp_socket_1_2")
        finally:
            os.chdir(here)
        held = run(base, "--delete", "-y", code=least())
    (found,) = run(base, code=1)

    assert held == [] and d.exists()
    assert "mp_socket_1_2" in found["files"]


def test_a_file_that_was_exchanged_meanwhile_stays(tmp_path: Path) -> None:
    (tmp_path / "map_0").write_text("old")
    st = os.stat(tmp_path / "map_0")
    fact = {"kind": "page", "path": str(tmp_path / "map_0"), "dev": st.st_dev, "inode": -1}
    fd = os.open(tmp_path / "map_0", os.O_RDONLY)
    fcntl.flock(fd, fcntl.LOCK_SH)
    locked = stale.delete(fact | {"inode": st.st_ino})
    os.close(fd)

    assert stale.delete(fact) == (False, "it is another file by now")
    assert locked == (False, "held meanwhile")
    assert stale.delete(fact | {"inode": st.st_ino}) == (True, "deleted")
    assert not (tmp_path / "map_0").exists()


@pytest.mark.skipif(os.getuid() != 0, reason="wanted root, found another user")
def test_a_link_of_another_user_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (file := tmp_path / "real/map_0").write_text("x")
    (tmp_path / "link").symlink_to("real")
    st = os.stat(file)
    fact = {"kind": "page", "path": f"{tmp_path}/link/map_0", "dev": st.st_dev, "inode": st.st_ino}
    os.lchown(tmp_path / "link", 65534, 65534)

    assert stale.delete(fact)[0] is False and file.exists()


def test_in_a_pid_namespace_nothing_is_stale(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(base))
    monkeypatch.setattr(locks, "in_initial_pid_ns", lambda: False)
    mine = [f for f in Leftovers().items if f["file_prefix"] == name(base)]

    assert [(f["kind"], f["verdict"]) for f in mine] == [("directory", "unknown")]
    assert "PID namespace" in mine[0]["why"]


# --- what another user may have put there


def dead(base: Path) -> Path:
    return base / "dpdk" / name(base)


def targets(base: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    monkeypatch.setenv("RUNTIME_DIRECTORY", str(base))
    return [f for f in Leftovers(True).items if f["file_prefix"] == name(base)]


@sees_all
@pytest.mark.parametrize(
    "content",
    [b"[core]\n\tbare = false\n", b"x" * 25344, b"[core]\n".ljust(30000), bytes(25344), b""],
    ids=["short", "full-size", "git", "zeros", "empty"],
)
def test_a_directory_with_another_programs_config_stays(base: Path, content: bytes) -> None:
    (dead(base) / "config").write_bytes(content)
    before = sorted(os.listdir(dead(base)))
    pyeal(
        "stale",
        name(base),
        "-a",
        "--delete",
        "-y",
        env={"RUNTIME_DIRECTORY": str(base)},
        code=least() or int(not any(content)),
    )

    assert sorted(os.listdir(dead(base))) == before


@sees_all
def test_all_shows_what_ended_and_does_not_remove_it(base: Path) -> None:
    """Without a page in use its primary ended in order."""
    file = dead(base) / "config"
    from pyeal.look.config import config_of

    c, _, _ = config_of(file.read_bytes())
    for m in c.memsegs:
        m.memseg_arr.count = 0
    file.write_bytes(bytes(c))
    found = run(base, "-a", "--delete", "-y", code=least())

    assert [f["verdict"] for f in found] == ["ended"] and len(os.listdir(dead(base))) == 7


@sees_all
@pytest.mark.parametrize("what", ["directory", "config", "array", "fifo", "decode", "foreign"])
def test_what_was_exchanged_between_look_and_removal_stays(
    base: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    d = dead(base)
    (found,) = targets(base, monkeypatch)
    array = d / "fbarray_memzone"
    if what == "directory":
        d.rename(d.with_name("elsewhere"))
        unpack("22.11", "dynmem", base / "second").rename(d)
    elif what == "decode":  # the same inode, other content
        (d / "config").write_bytes(b"mine")
    elif what == "foreign":
        array.write_bytes(b"mine")
    else:
        file = d / "config" if what == "config" else array
        data = file.read_bytes()
        file.rename(base / "old")  # so that its inode is not used again
        os.mkfifo(file) if what == "fifo" else file.write_bytes(data)
    done, why = stale.delete(found)

    assert not done and why
    assert (d / "config").exists() and array.exists()


@sees_all
def test_one_held_array_keeps_the_whole_directory(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (found,) = targets(base, monkeypatch)
    with open(dead(base) / "hugepage_info", "rb") as f:  # the last that is locked
        fcntl.flock(f, fcntl.LOCK_SH)

        assert stale.delete(found) == (False, "held meanwhile")
    assert len(os.listdir(dead(base))) == 7


@sees_all
@pytest.mark.skipif(os.getuid() != 0, reason="wanted root, found another user")
def test_a_mount_namespace_of_another_user_is_left_alone(
    base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A user binds root's directory to a name of his own: the path is not trusted."""
    import subprocess

    (found,) = targets(base, monkeypatch)
    words = ["unshare", "-U", "-m", "sh", "-c", "echo; read x"]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as p:
        assert p.stdin and p.stdout
        p.stdout.readline()
        done, why = stale.delete(found | {"path": f"/proc/{p.pid}/root{found['path']}"})
        p.stdin.close()

    assert not done and "mount namespace of another user" in why
    assert len(os.listdir(dead(base))) == 7
