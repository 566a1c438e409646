"""What is measured: each work runs its arms side by side and answers {(arm, CPUs): [Run, ...]}."""

from __future__ import annotations

import sys

from conformance import HUGE_FILES, MODES
from conformance.campaigns.timing.rig import PAGE_MB, Arm, Missing, one_cpu, rounds
from conformance.harness import catalogue

ONE, ALL = "one CPU", "all CPUs"
MEASURES = {  # name: which runs, which part of them, which clock
    "memory-cpu": (ONE, "memory", "cpu"),
    "memory-wall": (ALL, "memory", "wall"),
    "init-wall": (ALL, "init", "wall"),
    "process-wall": (ALL, "process", "wall"),
    "process-cpu": (ALL, "process", "cpu"),
    "cleanup-wall": (ALL, "cleanup", "wall"),
}


def _both(arm, run):
    """An arm with one CPU, and one with all."""
    return {(arm, ONE): lambda r: run(one_cpu(r)), (arm, ALL): lambda r: run(None)}


def start(rig, work, pages, n):
    """A primary of so much memory, from nothing; with pages of 1G most of it is zeroing."""
    mode, large, _ = work.partition("-1G")
    size = "1G" if large else "2M"
    args = [*MODES[mode], "-m", PAGE_MB[size] * pages, "--file-prefix=timing"]
    with rig.room(0 if mode == "no-huge" else pages, mode == "in-memory", size) as room:

        def once(what, *more):
            try:
                return what(*more)
            finally:
                room.clear()

        arms = {}
        for arm in rig.eals:
            arms |= _both(arm.label, lambda cpus, arm=arm: once(room.run, arm, args, cpus))
        arms |= _both("kernel", lambda cpus: once(room.kernel, work, pages, cpus))
        return rounds(n, arms)


def attach(rig, work, pages, n):
    """A secondary of the reference's primary with so much memory, until it leaves."""
    mode = work.removeprefix("attach-")
    prefix = "--file-prefix=timing"
    with rig.room(pages) as room:
        room.hold(rig.reference, [*MODES[mode], "-m", 2 * pages, prefix])
        arms, args = {}, ["--proc-type=secondary", prefix]
        for arm in rig.eals:
            arms |= _both(arm.label, lambda cpus, arm=arm: room.run(arm, args, cpus, "c"))
        arms |= _both("kernel", lambda cpus: room.kernel(work, pages, cpus))
        return rounds(n, arms)


def restart(rig, work, pages, n):
    """A primary on the page files of one before it: nothing is zeroed."""
    args = ["-m", 2 * pages, "--file-prefix=timing", "--huge-unlink=never"]
    if not catalogue.holds("keeps_old_files", rig.release):
        raise Missing(f"{rig.reference.what} has no --huge-unlink=never: it came with 22.03")
    with rig.room(pages) as room:
        arms = {}
        room.run(rig.reference, args)  # the one before
        for arm in rig.eals:
            arms |= _both(arm.label, lambda cpus, arm=arm: room.run(arm, args, cpus))
        arms |= _both("kernel", lambda cpus: room.kernel(work, pages, cpus))
        return rounds(n, arms)


def cleanup(rig, _, pages, n):
    """The end of a primary: rte_eal_cleanup."""
    args = ["-m", 2 * pages, "--file-prefix=timing"]
    with rig.room(pages) as room:

        def run(arm):
            try:
                return room.run(arm, args, text="c")
            finally:
                room.clear()

        return rounds(n, {(arm.label, ALL): lambda r, arm=arm: run(arm) for arm in rig.eals})


def hosting(rig, _, pages, n):
    """A secondary of the reference's kind, whole rte_eal_init; the arm is who its primary is."""
    with rig.room(pages * len(rig.eals)) as room:
        arms = {}
        for arm in rig.eals:
            prefix = f"--file-prefix={arm.label}"
            room.hold(arm, ["-m", 2 * pages, prefix])
            args = ["--proc-type=secondary", prefix]
            arms[arm.label, ALL] = lambda r, args=args: room.run(rig.reference, args, text="c")
        return rounds(3 * n, arms)


def importing(rig, _, pages, n):
    """An interpreter that imports the package, ready to initialise, and two that do nothing: one
    with `site`, as every program's is, and one without."""
    with rig.room(0) as room:

        def run(what, script, *flags):
            arm = Arm(what, (sys.executable, "-I", *flags, "-c", script), "")
            return {(what, ALL): lambda r: room.run(arm, quiet=[])}

        arms = run("bare", "pass") | run("interpreter", "pass", "-S")
        for arm in rig.eals:
            if arm.label != rig.reference.label:
                path = f"import sys; sys.path.insert(0, {arm.argv[-1]!r})"
                arms |= run(arm.label, f"{path}; import pyeal; pyeal.init")
        return rounds(3 * n, arms)


def inspecting(rig, _, pages, n):
    """The whole command that looks at a living pyeal: pyeal inspect, and dpdk-proc-info -m."""
    with rig.room(pages) as room:
        room.hold(rig.target, ["-m", 2 * pages, "--file-prefix=timing"])
        path = f"import sys; sys.path.insert(0, {rig.target.argv[-1]!r})"
        script = f"{path}; from pyeal.cli import program; sys.exit(program())"
        look = Arm("", (sys.executable, "-I", "-c", script, "inspect", "timing"), "")
        theirs = room.program("dpdk-proc-info")
        args = ["--no-pci", "--file-prefix=timing", "--", "-m"]
        return rounds(
            n,
            {
                (rig.target.label, ALL): lambda r: room.run(look, quiet=[]),
                ("proc-info", ALL): lambda r: room.run(theirs, args, quiet=[]),
            },
        )


START = "memory-cpu", "memory-wall", "init-wall", "process-wall"
WORKS = {  # name: what runs, what of it counts, for how many pages: all, the most, or so many
    **dict.fromkeys(MODES, (start, START, "all")),
    **dict.fromkeys(("dynmem-1G", "single-file-1G"), (start, START, 1)),
    **{f"attach-{m}": (attach, START[:2], "all") for m in HUGE_FILES},
    "restart": (restart, START[:2], "all"),
    "cleanup": (cleanup, ("cleanup-wall",), "most"),
    "hosting": (hosting, ("init-wall",), 32),
    "inspect": (inspecting, ("process-wall",), "most"),
    "import": (importing, ("process-cpu", "process-wall"), 0),
}
