"""Read core files of real librte_eal processes, and compare them with what was seen alive.

    ci/cores                          every release that is fetched, every mode, role and filter
    ci/cores 22.11 --mode dynmem

Needs root, 24 free pages of 2 MB and gdb. A core of each filter of /proc/PID/coredump_filter is
taken by gcore; that of 0x7f by the kernel, as a crash is, if core_pattern makes a plain file.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from conformance import MB, MODES
from conformance.harness import fake_host, host, peers
from conformance.harness.box import Box, BoxError
from conformance.harness.child import TargetDied, TargetError, TargetHung, environment
from conformance.harness.eal import Eal

PAGES, PREFIX = 24, "cores"
FILTERS = 0x33, 0x3B, 0x7F
KINDS = ("dynmem", "single-file", "legacy", "in-memory")
LAYOUT = ("file_prefix", "release", "mode", "iova_mode", "config", "locks", "lists", "memzones")
LAYOUT += ("tailqs", "pages", "bytes")
OF_HEAPS = ("Heap_id", "Name", "Heap_size", "Alloc_count", "Socket_id", "locked")
OF_BUILD = ("line", "lists")
OK, WRONG, BROKEN = 0, 1, 2


def tool(*args):
    """Return the exit code of `pyeal ARGS --json` and what it prints."""
    argv = [sys.executable, "-P", "-m", "pyeal", *map(str, args), "--json"]
    done = subprocess.run(argv, capture_output=True, text=True, env=environment(), timeout=60)
    assert done.stdout.startswith("{"), f"{args}: {done.stdout}{done.stderr}"
    return done.returncode, json.loads(done.stdout)


def plain_core():
    """Return whether the kernel writes core files into the directory of the process."""
    words = Path("/proc/sys/kernel/core_pattern").read_text().strip()
    return words[:1] not in ("|", "@") and "/" not in words


def crash(eal, to):
    """End a process with SIGABRT; returns its core file, which the kernel wrote into its cwd."""
    place = Path(os.readlink(f"/proc/{eal.pid}/cwd"))
    before = {p: p.stat().st_mtime_ns for p in place.glob("*core*")}
    resource.prlimit(eal.pid, resource.RLIMIT_CORE, (resource.RLIM_INFINITY,) * 2)
    os.kill(eal.pid, signal.SIGABRT)
    limit = time.monotonic() + 60
    while Path(f"/proc/{eal.pid}/maps").exists() and Path(f"/proc/{eal.pid}/maps").read_bytes():
        assert time.monotonic() < limit, "its core is not written within 60 s"
        time.sleep(0.01)
    made = [p for p in place.glob("*core*") if before.get(p) != p.stat().st_mtime_ns]
    assert len(made) == 1, f"expected one core file in {place}, found {made}"
    os.rename(made[0], to)
    return to


def gcore(eal, to):
    """Copy the memory of a living process by gdb, which follows the filter; returns the file."""
    argv = ["gcore", "-o", str(to), str(eal.pid)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=120)
    made = Path(f"{to}.{eal.pid}")
    assert made.exists(), done.stdout + done.stderr
    os.rename(made, to)
    return to


def compared(live, dead, code, filter_, mode):
    """Return what is wrong with the reading of one core, as sentences."""
    shared = mode != "in-memory"
    if shared and filter_ == FILTERS[0]:
        mapped = sum(r["len"] for r in dead["mapped"])
        wanted = next(h["mapped_bytes"] for h in live["holders"] if h["pid"] == live["its_pid"])
        right = (code, mapped) == (1, wanted) and "0x3b" in " ".join(dead["problems"])
        return (
            [] if right else [f"expected {wanted} bytes mapped and code 1, found {mapped}, {code}"]
        )
    wrong = [k for k in LAYOUT if live[k] != dead[k]]
    wrong += [f"build.{k}" for k in OF_BUILD if live["build"][k] != dead["build"][k]]
    keys = list(live["heaps"][0]) if filter_ == 0x7F else OF_HEAPS
    for a, b in zip(live["heaps"], dead["heaps"], strict=True):
        wrong += [f"heap {a['Name']}: {k}" for k in keys if a.get(k) != b.get(k)]
    if filter_ != 0x7F and not all("0x7f" in h["unread"] for h in dead["heaps"] if h["Heap_size"]):
        wrong.append("no heap says that filter 0x7f keeps its pages")
    if code or dead["health"] != "core":
        wrong.append(f"code {code}, health {dead['health']}")
    roles = [h["role"] for h in dead["holders"]]
    if roles != [live["its_role"]]:
        wrong.append(f"holders {roles}")
    return wrong


def cores_of(release, mode, tmp, kernel):
    """Yield (role, filter, bytes of the core, seconds to read it, what is wrong)."""
    pool = fake_host.build(Path(tmp, "host"), {"2M": PAGES}, {0: "0"})
    box = Box({"2M": PAGES}, binds=pool, one_node=True)
    spec, eals = f"librte_eal:{release}", []
    try:
        args = [*MODES[mode], "--file-prefix", PREFIX]
        primary = Eal(spec, [*args, "-m", "16"], box, tmp, PREFIX, limit=120)
        eals.append(primary)
        primary.init()
        blocks = [primary.malloc(n).va for n in (64, 5000, 300_000, 64, MB)]
        primary.memzone("reserve", "two pages of it", 3 * MB)
        primary.free(blocks[1])
        if mode != "in-memory":
            second = Eal(spec, [*args, "--proc-type=secondary"], box, tmp, PREFIX, limit=120)
            eals.append(second)
            second.init()
        for eal in reversed(eals):
            role = "primary" if eal is primary else "secondary"
            _, live = tool("inspect", eal.pid, "--elements")
            live |= {"its_pid": eal.pid, "its_role": role}
            for filter_ in FILTERS:
                Path(f"/proc/{eal.pid}/coredump_filter").write_text(hex(filter_))
                take = crash if kernel and filter_ == FILTERS[-1] else gcore
                path = take(eal, Path(tmp, f"{role}-{filter_:x}"))
                begun = time.monotonic()
                code, dead = tool("inspect", path, "--elements")
                seconds = time.monotonic() - begun
                yield (
                    role,
                    filter_,
                    path.stat().st_size,
                    seconds,
                    compared(live, dead, code, filter_, mode),
                )
                path.unlink()
    finally:
        for eal in eals:
            eal.kill()
        box.close()


def main(argv):
    p = argparse.ArgumentParser(prog="ci/cores", description=__doc__.split("\n")[0])
    p.add_argument("releases", nargs="*", metavar="RELEASE", help="all that are fetched")
    p.add_argument("--mode", action="append", choices=KINDS, help="all")
    args = p.parse_args(argv)
    if why := host.lacks(root=True, gdb=True, pages={"2M": PAGES}):
        print(f"cores: {why}")
        return BROKEN
    n = wrong = 0
    for release in args.releases or peers.releases():
        for mode in args.mode or KINDS:
            try:
                with tempfile.TemporaryDirectory(prefix="cores-") as tmp:
                    peers.fetch(release)
                    os.chdir(tmp)
                    for role, filter_, size, seconds, faults in cores_of(
                        release, mode, tmp, plain_core()
                    ):
                        n, wrong = n + 1, wrong + bool(faults)
                        text = f"WRONG: {'; '.join(faults)}" if faults else "equal"
                        head = f"{release:6} {mode:11} {role:9} {filter_:#x}"
                        print(f"{head}  {size >> 20:4} MB  {seconds:.2f} s  {text}", flush=True)
                    os.chdir("/")
            except peers.Unobtainable as e:
                print(f"cores: {e}")
                return BROKEN
            except (AssertionError, TargetDied, TargetError, TargetHung, BoxError, OSError) as e:
                n, wrong = n + 1, wrong + 1
                print(f"{release:6} {mode:11}  WRONG: {e}", flush=True)
                os.chdir("/")
    print(f"{n - wrong} of {n} cores say what was seen alive")
    return WRONG if wrong else OK
