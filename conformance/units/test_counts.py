"""The gates of campaigns/timing/gates.toml: what must not grow. `pyeal bench` also prints them.

Counts come first, as they are the same on every machine; CPU time is compared with librte_eal's in
the same moments. Wall time is not a gate.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import pyeal
from conformance import MODES, needs
from conformance.campaigns.timing import rig as rigs
from conformance.harness.trace import of_eal

GATES = tomllib.loads((Path(rigs.__file__).parent / "gates.toml").read_text())
FEW, MANY = 20, 52  # pages: what does not depend on them cancels out
SLACK = {"calls": 0.1}  # a lock that is waited for
RUNS = 0.5  # legacy: a physical run more or less
ROUNDS = 5


@pytest.fixture
def gate(request: Any) -> Callable[[str, str, float], None]:
    """Compares with the bound of this target's kind, and notes both."""
    own = request.config.getoption("target").startswith("librte_eal")

    def holds(family: str, work: str, value: float) -> None:
        bound = GATES[family][work]["c" if own else "pyeal"]
        note = {"gate": family, "work": work, "value": value, "bound": bound}
        request.node.user_properties.append(("gate", note))

        slack = SLACK.get(family, 0) + RUNS * work.endswith("legacy")

        assert value <= bound + slack, f"{family}, {work}: at most {bound}"

    return holds


def gated(family: str) -> Any:
    return pytest.mark.parametrize("work", list(GATES[family]))


@pytest.fixture(scope="module")
def rig(request: Any, tmp_path_factory: Any) -> Iterator[rigs.Rig]:
    """The target as a process that can be timed, beside the installed librte_eal."""
    target = request.config.getoption("target")
    try:
        folder = tmp_path_factory.mktemp("rig")
        yield rigs.Rig(folder, target if target.startswith("librte_eal") else "pyeal")
    except (rigs.Missing, rigs.peers.Unobtainable) as e:
        pytest.skip(str(e))


def called(start: Any, make_box: Any, work: str, n: int) -> Counter[str]:
    """System calls of a start with n pages: of a primary, of one on the files of another, or of a
    secondary."""
    joins, mode = work.startswith("attach-"), work.removeprefix("attach-")
    pages, args = {"2M": n}, ["-m", str(2 * n)]
    if work == "restart":
        mode, args = "dynmem", [*args, "--huge-unlink=never"]
    box = make_box(lease=pages) if mode == "in-memory" else make_box(pages)
    if work == "restart":
        start(*args, box=box, mode=mode).close()
    eals = [start(*args, box=box, init=joins, mode=mode)]
    if joins:
        eals.append(start("--proc-type=secondary", box=box, init=False, mode="dynmem"))
    trace = eals[-1].trace()
    eals[-1].init()
    assert len(eals[-1].segments()) == n
    calls = of_eal(trace.stop())
    # the message thread looks every few milliseconds whether there is a secondary
    message = {c.pid for c in calls if c.name == "poll"} - {eals[-1].pid}
    found = Counter(c.name for c in calls if c.pid not in message)
    for eal in reversed(eals):
        eal.close()
    return found


@gated("calls")
@needs(pages={"2M": MANY}, root=True, strace=True)
def test_system_calls_a_page(
    start: Any, make_box: Any, work: str, gate: Callable[[str, str, float], None]
) -> None:
    """Of a primary, of one on the files of another, or of a secondary: with that many pages."""
    seen = {n: called(start, make_box, work, n) for n in (FEW, MANY)}
    names = seen[FEW] | seen[MANY]
    more = {name: (seen[MANY][name] - seen[FEW][name]) / (MANY - FEW) for name in names}
    print({name: n for name, n in more.items() if abs(n) > 0.02})

    gate("calls", work, sum(more.values()))


@gated("start")
@needs(pages={"2M": FEW}, root=True, strace=True)
def test_system_calls_of_a_start(
    start: Any, make_box: Any, work: str, gate: Callable[[str, str, float], None]
) -> None:
    """What a start costs that has hardly a page."""
    seen = called(start, make_box, work, FEW)
    print(sum(seen.values()), seen.most_common(12))

    gate("start", work, sum(seen.values()))


def loaded(script: str) -> set[str]:
    """The modules of an interpreter that ran this."""
    argv = [sys.executable, "-I", "-c", f"import sys; {script}; print(*sys.modules)"]
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_modules_of_an_import(request: Any) -> None:
    """EAL stands on ctypes and a few built-in modules; a mode's modules come with the mode."""
    if request.config.getoption("target").startswith("librte_eal"):
        pytest.skip("librte_eal imports nothing")
    path = str(Path(pyeal.__file__).parents[1])
    more = loaded(f"sys.path.insert(0, {path!r}); import pyeal; pyeal.init") - loaded(
        "import __future__, _thread, ctypes, errno, fcntl, gc, os, stat, time"
    )
    ours = {m for m in more if m.partition(".")[0] == "pyeal"}

    assert more - ours == set()
    assert {m.rpartition(".")[2] for m in ours} == set(
        "pyeal config cparse eal errors fbarray files heap host layout lcores libc memory memseg"
        " options pauses peers populate releases runtime segments vaspace".split()
    )


@needs(pages={"2M": 64}, root=True, strace=True, cpus=2)
def test_every_cpu_populates(start: Any, make_box: Any, request: Any) -> None:
    """64 pages are shared out, and the descriptor table is large before there is a second thread.

    A helper may come too late to its share when the machine is busy: once in some starts is enough.
    """
    if request.config.getoption("target").startswith("librte_eal"):
        pytest.skip("librte_eal has one thread for it")
    for _ in range(4):
        box = make_box({"2M": 64})
        eal = start("-m", "128", box=box, init=False)
        trace = eal.trace("madvise,clone,clone3,fcntl")
        eal.init()
        calls = trace.stop()
        eal.close()
        clone = next((i for i, c in enumerate(calls) if c.name.startswith("clone")), -1)
        populating = {c.pid for c in calls if "MADV_POPULATE_WRITE" in c.text or ", 0x17" in c.text}

        assert clone >= 0, "no thread was started"
        grown = [re.search(r"F_DUPFD, (\d+)", c.text) for c in calls[:clone]]
        assert max([int(m[1]) for m in grown if m], default=0) >= 64
        if len(populating) > 1:
            return
    pytest.fail("one thread populated all of 64 pages, in each of 4 starts")


def counted(room: rigs.Room, argv: tuple[Any, ...], args: list[Any]) -> int:
    """User instructions of a whole process, by the first tool here that counts them.

    With one seed of hashes, or a start's dictionaries cost more or less than another's.
    """
    room.env["PYTHONHASHSEED"] = "0"
    argv = tuple("-sP" if word == "-I" else word for word in argv)  # which heeds that
    if valgrind := shutil.which("valgrind"):
        tool = [valgrind, "--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"]
        run = room.run(rigs.Arm("", (*tool, *argv), ""), args, quiet=[])
        return int(re.search(r"I\s+refs:\s+([\d,]+)", run.said)[1].replace(",", ""))
    perf = shutil.which("perf")
    tool = [perf, "stat", "-x,", "-e", "instructions:u"]
    if perf and subprocess.run([*tool, "true"], capture_output=True).stderr[:1].isdigit():
        run = room.run(rigs.Arm("", (*tool, *argv), ""), args, quiet=[])
        return int(re.search(r"^(\d+),", run.said, re.M)[1])
    raise rigs.Missing("wanted valgrind, or perf that counts instructions; found neither")


@gated("instructions")
def test_user_instructions_a_page(
    rig: rigs.Rig, work: str, gate: Callable[[str, str, float], None]
) -> None:
    """Of whole processes, with one CPU: what Python does for each page."""
    seen = {}
    try:
        for n in FEW, MANY:
            args: list[Any] = ["-m", 2 * n, "--file-prefix=gate"]
            with rig.room(n) as room:
                if work == "attach-dynmem":  # valgrind has the low addresses
                    room.hold(rig.reference, [*args, "--base-virtaddr=0x400000000000"])
                    args = ["--proc-type=secondary", "--file-prefix=gate"]
                elif work == "restart":
                    args += ["--huge-unlink=never"]
                    room.run(rig.target, args)
                args = [*MODES.get(work, []), *args, *rigs.QUIET]
                seen[n] = counted(room, rig.target.argv, args)
    except rigs.Missing as e:
        pytest.skip(str(e))

    gate("instructions", work, (seen[MANY] - seen[FEW]) / (MANY - FEW))


@gated("imported")
def test_instructions_of_an_import(
    rig: rigs.Rig, work: str, gate: Callable[[str, str, float], None]
) -> None:
    """Of an interpreter with site, as every program's is, that imports the package and its EAL."""
    if rig.target.label != "pyeal":
        pytest.skip("librte_eal needs no interpreter")
    path = f"import sys; sys.path.insert(0, {rig.target.argv[-1]!r})"
    try:
        with rig.room(0) as room:
            bare, full = (
                counted(room, (sys.executable, "-I", "-c", script), [])
                for script in ("pass", f"{path}; import pyeal; pyeal.init")
            )
    except rigs.Missing as e:
        pytest.skip(str(e))

    gate("imported", work, full / bare)


@gated("waits")
def test_a_start_waits_for_nothing(
    rig: rigs.Rig, work: str, gate: Callable[[str, str, float], None]
) -> None:
    """With one CPU and no thread there is nothing to wait for: the least of some starts."""
    args = [*MODES[work], "-m", 2 * MANY, "--file-prefix=gate"]
    try:
        with rig.room(MANY) as room:
            waits = []
            for r in range(ROUNDS):
                waits.append(room.run(rig.target, args, rigs.one_cpu(r)).memory.waits)
                room.clear()
    except rigs.Missing as e:
        pytest.skip(str(e))

    gate("waits", work, min(waits))


@gated("cpu")
def test_cpu_time_over_librte_eals(
    rig: rigs.Rig, work: str, gate: Callable[[str, str, float], None]
) -> None:
    """The least of the rounds of each, which ran in turn: others' load only adds."""
    args: list[Any] = ["-m", 128, "--file-prefix=gate"]
    joins = work.startswith("attach-")
    try:
        with rig.room(64) as room:
            if joins:
                room.hold(rig.reference, args)
                args = ["--proc-type=secondary", "--file-prefix=gate"]

            def run(arm: rigs.Arm, r: int) -> float:
                cpu = room.run(arm, args, rigs.one_cpu(r), "c").memory.cpu
                if not joins:
                    room.clear()
                return cpu

            found = rigs.rounds(
                ROUNDS,
                {arm.label: lambda r, arm=arm: run(arm, r) for arm in rig.eals},
            )
    except rigs.Missing as e:
        pytest.skip(str(e))

    gate("cpu", work, min(found[rig.target.label]) / min(found[rig.reference.label]))
