"""pyeal in a process of its own, with the times of its stages: as eal.c does for a librte_eal.

    python eal.py RELEASE DIRECTORY EAL-ARGS...     DIRECTORY holds the package

Prints one line of JSON after init, then reads a byte: "c" is cleanup and a second line, end of
input is the end without.
"""

import sys
from resource import getrusage
from time import clock_gettime as now

WALL, CPU = 1, 2  # CLOCK_MONOTONIC, CLOCK_PROCESS_CPUTIME_ID
marks: list[tuple[str, float, float, int]] = []
# what only such a start imports, and so only when it comes to it
LATER = {
    "--legacy-mem": "legacy",
    "--no-huge": "backing.memory",
    "--proc-type=secondary": "secondary",
}
# what begins where: module, attribute, mark before it, mark after it
STAGES = (
    ("eal", "Primary.discover", "discovery", ""),
    ("hugepages", "read_info", "discovery", ""),
    ("fbarray", "Arrays.create", "lists", ""),
    ("segments", "Segments._alloc_run", "pages", ""),
    ("secondary", "Sync.follow", "pages", ""),
    ("secondary", "Sync.map_legacy", "pages", ""),
    ("legacy", "init", "pages", ""),
    ("backing.memory", "NoHuge.create", "pages", ""),
    ("hugepage_data", "write", "data", "pages"),
    ("memory", "Process.unlock_hugedirs", "heaps", ""),
    ("runtime", "tsc_hz", "rest", ""),
    ("secondary", "Secondary.share", "rest", ""),
)


def mark(name, again=False):
    if again or all(m[0] != name for m in marks):
        marks.append((name, now(WALL), now(CPU), getrusage(0).ru_nvcsw))


def wrap(module, path, before, after):
    owner, name = sys.modules.get(f"pyeal.{module}"), path
    if "." in path:
        owner, name = getattr(owner, path.partition(".")[0], None), path.partition(".")[2]
    call = getattr(owner, name, None)
    if call is None:  # another start, or another revision: its time goes to the stage before
        return

    def timed(*args, **more):
        mark(before)
        try:
            return call(*args, **more)
        finally:
            if after:
                mark(after, True)

    setattr(owner, name, timed)


def say(rc):
    text = ", ".join(f'["{name}", {w:.9f}, {c:.9f}, {n}]' for name, w, c, n in marks)
    sys.stdout.write(f'{{"rc": {rc}, "marks": [{text}]}}\n')
    sys.stdout.flush()
    marks.clear()


def main():
    # The only edit of sys.path in the suite, also in works.py: the interpreter is isolated (-I -S)
    # so that nothing but EAL is timed, and reads neither PYTHONPATH nor site-packages.
    release, folder, *args = sys.argv[1:]
    sys.path.insert(0, folder)
    from pyeal import TAILQS, init

    later = [LATER[arg] for arg in {*sys.argv} & {*LATER}]
    for name in (*later, *(["hugepages"] if "--no-huge" not in sys.argv else [])):
        try:
            __import__(f"pyeal.{name}")
        except ModuleNotFoundError:  # another revision
            pass
    for stage in STAGES:
        wrap(*stage)
    # what DPDK's log would say on stderr, from the same level on
    shown = {"CRIT", "ALERT", "EMERG", "ERR", "WARNING", "NOTICE", "INFO"}
    log = lambda level, text: sys.stderr.write(f"EAL: {text}\n") if level in shown else None  # noqa: E731
    mark("begin")
    # the queues of a program that links all of DPDK
    eal = init(args, log=log, tailqs=TAILQS, release=release)
    mark("end")
    say(0)
    if sys.stdin.read(1) == "c":
        mark("begin")
        eal.cleanup()
        mark("end")
        say(0)
    sys.stdout.flush()
    import os

    os._exit(0)


main()
