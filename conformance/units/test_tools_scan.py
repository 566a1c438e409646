"""What the tools see a machine by: locks, links, mappings, versions, health. No root, no pages."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from conformance import GB
from conformance.units.recorded import facts, pyeal, unpack
from pyeal import releases
from pyeal.look import locks, process
from pyeal.look.config import release_of
from pyeal.look.foreign import ForeignEal
from pyeal.look.process import Process
from pyeal.look.runtime_dir import RuntimeDir
from pyeal.look.sources import Unreadable

NEWEST = list(releases.RELEASES.values())[-1]


@pytest.mark.parametrize("name", ["ps", "inspect", "map", "stale", "dump", "diff"])
def test_help_has_two_examples_and_the_exit_codes(name: str) -> None:
    said = pyeal(name, "--help")

    assert said.count(f"\n  pyeal {name}") >= 2
    assert "Exit code: 0" in said and "--json" in said
    assert all(len(line) <= 100 for line in said.splitlines())


@pytest.mark.parametrize("args", [["ps", "x"], ["map", "--svg"], ["dump"], ["diff", "22.11"]])
def test_usage_ends_with_2(args: list[str]) -> None:
    pyeal(*args, code=2)


def test_a_lock_is_seen_and_not_taken(tmp_path: Path) -> None:
    (file := tmp_path / "config").write_bytes(bytes(25344))
    script = (
        "import fcntl, os, sys; f = open(sys.argv[1], 'r+b');"
        "fcntl.lockf(f, fcntl.LOCK_EX, 17408, 136);"
        "print(os.getpid(), flush=True); sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script, file], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as p:
        assert p.stdout and p.stdin
        pid = int(p.stdout.readline())
        with open(file, "rb") as f:
            held = locks.lock_holder(f.fileno())
            lines = [x for x in locks.locks() if x.pid == pid]
            p.stdin.close()
            p.wait()
            free = locks.lock_holder(f.fileno())

    assert held == (True, pid)
    assert [(x.kind, x.mode, x.start, x.end) for x in lines] == [("POSIX", "WRITE", 136, 17543)]
    assert locks.LOCKED[136, 17543] == "A" and locks.LOCKED[144, 17551] == "B"
    assert free == (False, 0)


def test_locks_of_every_kind_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a waiting lock, a lock without a pid, and lines that the kernel prints twice."""
    text = """\
1: POSIX  ADVISORY  WRITE 712 00:1b:9 136 17543
2: FLOCK  ADVISORY  READ  713 00:2f:41 0 EOF
2: -> FLOCK  ADVISORY  WRITE 714 00:2f:41 0 EOF
3: OFDLCK ADVISORY  READ  -1 fe:01:77 0 3
4: FLOCK  ADVISORY  READ  713 00:2f:41 0 EOF
"""
    monkeypatch.setattr(locks, "read_text", lambda path: text)
    found = [(x.kind, x.mode, x.pid, x.file, x.start, x.end, x.waits) for x in locks.locks()]

    assert found == [
        ("POSIX", "WRITE", 712, "00:1b:9", 136, 17543, False),
        ("FLOCK", "READ", 713, "00:2f:41", 0, -1, False),
        ("FLOCK", "WRITE", 714, "00:2f:41", 0, -1, True),
        ("OFDLCK", "READ", -1, "fe:01:77", 0, 3, False),
    ]
    assert [x.pid for x in locks.locks("FLOCK")] == [713, 714]


def test_links_of_another_root_do_not_lead_out(tmp_path: Path) -> None:
    """/var/run -> /run, as in every container."""
    (tmp_path / "run/dpdk").mkdir(parents=True)
    (tmp_path / "var").mkdir()
    (tmp_path / "var/run").symlink_to("/run")
    (tmp_path / "loop").symlink_to("loop")
    root = str(tmp_path)

    assert process.inside(root, "/var/run/dpdk/x") == f"{root}/run/dpdk/x"
    assert process.inside("", "/var/run/dpdk") == "/var/run/dpdk"
    assert process.inside(root, "/loop").startswith(root)


@pytest.mark.parametrize(
    ("word", "name", "family"),
    [
        (0x160B0B63, "22.11.11", "A"),
        (0x16070063, "22.07", "A"),
        (0x17070063, "23.07", "A"),
        (0x18030063, "24.03", "B"),
        (0x1A070063, "26.07", "C"),
        (0x1A080063, "26.08", "C"),
        (0x1A0B0000, "26.11.0-rc0", "C"),
    ],
)
def test_release_between_two_known_ones_is_like_the_older(
    word: int, name: str, family: str
) -> None:
    r = release_of(word)

    assert (r.name, r.word, r.family) == (name, word, family)


@pytest.mark.parametrize("word", [0x130B0063, 0x160D0063, 0xFFFFFFFF])
def test_other_version_words_are_refused(word: int) -> None:
    with pytest.raises(Unreadable, match=rf"expected 20\.11 to {NEWEST.line}"):
        release_of(word)


@pytest.mark.parametrize(
    ("so", "line"),
    [("21.0", "20.11"), ("23", "22.11"), ("26.0", "25.11"), ("26.2", "26.07"), ("19.0", "")],
)
def test_a_process_is_of_the_release_that_its_library_is_of(so: str, line: str) -> None:
    maps = f"7f0000000000-7f0000200000 r-xp 0 00:1b 7 /usr/lib/librte_eal.so.{so}\n"

    assert Process(os.getpid(), maps.encode()).library() == line


MAPS = b"""\
100000000-100007000 rw-s 00000000 00:1b 7 /run/dpdk/demo/config
100200000-100400000 rw-s 00000000 00:2c 9 /dev/hugepages/demomap_0
100400000-100600000 rw-s 00000000 00:2c 10 /dev/hugepages/demomap_1
100600000-100700000 r-xp 00000000 08:01 11 /usr/lib/x y.so
100700000-500200000 ---p 00000000 00:00 0
7f0000000000-7f0000200000 rw-s 00000000 00:2c 12 /dev/hugepages/othermap_0
7fff00000000-7fff00021000 rw-p 00000000 00:00 0 [stack]
"""


def test_what_a_process_has_where_lists_lie() -> None:
    p = Process(os.getpid(), MAPS)
    lists: list[Any] = [{"base_va": 0x100200000, "len": 16 * GB}]
    stranger = p.overlay(lists, "demo", member=False)

    assert list(p.configs()) == [(0x100000000, True, "/run/dpdk/demo", False)]
    assert p.overlay(lists, "demo") == {
        "pages": [[0x100200000, 0x100600000]],
        "kept": [[0x100700000, 0x500200000]],
        "foreign": [[0x100600000, 0x100700000, "/usr/lib/x y.so"]],
    }
    assert [what for _, _, what in stranger["foreign"]] == [
        "/dev/hugepages/demomap_0",
        "/usr/lib/x y.so",
        "anonymous memory",
    ]


class Fake:
    """A process in a certain state."""

    def __init__(self, state: str, age: float, waits_in: str = "") -> None:
        self.pid, self.state, self.age, self.waits_in, self.maps = 7, state, age, waits_in, b""


@pytest.mark.parametrize(
    ("word", "facts"),
    [
        ("running", {"complete": True, "locked": True, "primary": Fake("S", 99)}),
        ("stopped", {"complete": True, "locked": True, "primary": Fake("T", 99)}),
        ("initialising", {"complete": False, "locked": True, "primary": Fake("R", 1)}),
        ("initialising", {"complete": False, "locked": True, "primary": Fake("R", 99)}),
        ("stuck", {"complete": False, "locked": True, "primary": Fake("S", 99, "flock_lock")}),
        ("dead primary", {"complete": True, "secondaries": [Fake("S", 9)]}),
        ("stale", {"complete": False}),
        ("stale", {"complete": True, "pages": [{"count": 1}]}),
        ("ended", {"complete": True}),
    ],
)
def test_health(word: str, facts: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    class Seen:
        complete, mode = facts.pop("complete"), "dynmem"
        release = NEWEST

        def pages(self, found: Any = facts.pop("pages", [])) -> Any:  # noqa: B008
            return found

    e = ForeignEal(RuntimeDir("/x/dpdk/demo", "/x/dpdk/demo"))
    e.snapshot = Seen()  # type: ignore[assignment]
    for name, value in facts.items():
        setattr(e, name, value)

    assert e.health[0] == word
    assert "flock_lock" in e.health[1] or word != "stuck"


def test_a_choice_is_named(tmp_path: Path) -> None:
    said = pyeal("inspect", "no-such-prefix-here", code=1)

    assert said.startswith("pyeal: scan: no-such-prefix-here: expected one EAL, found 0")
    assert said.count("\n") == 1
    assert '"stage": "scan"' in pyeal("inspect", "no-such-prefix-here", "--json", code=1)


def test_imports_stay_light() -> None:
    """What only looks loads neither the EAL nor rich."""
    script = "import sys, pyeal.tools.ps; print(*sys.modules)"
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, env=env)
    loaded = set(done.stdout.split())

    assert not loaded & {"pyeal.eal", "pyeal.segments", "typing", "json", "rich", "logging"}


def test_nothing_is_coloured_without_a_terminal() -> None:
    assert "\x1b" not in pyeal("ps", "-a", code=0)
    assert facts("ps")["schema"] == "pyeal.ps/1"


@pytest.mark.parametrize("name", ["config", "hugepage_info", "fbarray_memzone"])
def test_a_pipe_that_another_user_made_hangs_no_tool(name: str, tmp_path: Path) -> None:
    d = unpack("22.11", "dynmem", tmp_path / "dpdk")
    (d / name).unlink()
    os.mkfifo(d / name)
    seen = facts("ps", "-a", env={"RUNTIME_DIRECTORY": str(tmp_path)})["eals"]
    mine = [e for e in seen if e["runtime_dir"] == str(d)]

    assert len(mine) == (name != "config")
    pyeal("inspect", d, code=name == "config")


def test_a_huge_file_costs_nothing(tmp_path: Path) -> None:
    """A sparse file of 7 TB is no config, and no more of an array is read than it has."""
    d = unpack("22.11", "dynmem", tmp_path / "dpdk")
    before = facts("inspect", d)["lists"]
    os.truncate(d / f"fbarray_{before[0]['name']}", 1 << 29)
    after = facts("inspect", d)["lists"]
    os.truncate(d / "config", 7 << 40)

    assert before[0]["count"] and after == before
    assert "expected at most" in pyeal("inspect", d, code=1)
