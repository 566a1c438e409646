"""Starts of librte_eal on cold and on warm pages, alternately: the table of docs/warm.md."""

from __future__ import annotations

import argparse
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import NamedTuple

from conformance import until
from conformance.campaigns.faults.sweep import Forked
from conformance.harness import host, peers
from conformance.harness.box import Box
from conformance.harness.child import environment
from conformance.harness.forkserver import ForkServer

PREFIX = "warmtimes"
GATES = {"init CPU": 0.35, "init wall": 0.5, "warm and start": 1.05}
PAGE = Path("docs/warm.md")
BEGIN, END = "<!-- table: ci/warm measure --write -->", "<!-- end of the table -->"


class Times(NamedTuple):
    """Seconds of one start; of `pyeal warm` before it, if there was one."""

    wall: float
    cpu: float
    warm: float = 0.0


class Row(NamedTuple):
    """The medians of a release and page size, and their ratios."""

    release: str
    pages: str
    cold: Times
    warm: Times
    ratios: dict[str, float]

    def cells(self) -> list[str]:
        cold, warm, r = self.cold, self.warm, self.ratios
        return [
            self.release,
            self.pages,
            f"{cold.wall * 1000:.0f} / {cold.cpu * 1000:.0f} ms",
            f"{warm.wall * 1000:.0f} / {warm.cpu * 1000:.0f} ms",
            f"{warm.warm * 1000:.0f} ms",
            *(f"{r[gate]:.2f}" for gate in GATES),
        ]


HEAD = ["release", "pages", "cold start, wall / CPU", "warm start", "`pyeal warm`", *GATES]


def arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("--rounds", type=int, default=7, help="starts of each kind (7)")
    p.add_argument("--mb", type=int, default=6144, help="memory of a start with 2M pages (6144)")
    p.add_argument("--write", action="store_true", help=f"put the table into {PAGE}")
    p.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    rows, why = [], []
    kinds = {"2M": args.mb, "1G": 1024}
    for release in peers.releases():
        if release < "22.03":
            continue
        for size, mb in kinds.items():
            try:
                rows.append(row(release, size, mb, args.rounds))
                print("  ".join(rows[-1].cells()), flush=True)
            except (peers.Unobtainable, host.NotEnough) as e:
                why.append(f"{release}, {size}: {e}")
    for line in why:
        print(f"not measured: {line}")
    text = table(rows, args.rounds)
    print(text)
    if args.write and rows:
        page = PAGE.read_text()
        head, rest = page.split(BEGIN)
        PAGE.write_text(f"{head}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}")
    missed = [
        f"{r.release}, {r.pages}: {gate} {r.ratios[gate]:.2f}, expected at most {most}"
        for r in rows
        for gate, most in GATES.items()
        if r.ratios[gate] > most
    ]
    for line in missed:
        print(f"missed: {line}")
    return 1 if missed or not rows else 0


def row(release: str, size: str, mb: int, rounds: int) -> Row:
    """Alternate both kinds; one round before those that count, as a pool's first use is slow."""
    pages = mb * (1 << 20) // host.size(size)
    args = ["--file-prefix", PREFIX, "-m", str(mb), "--huge-unlink=never", "-l", "0"]
    cold, warm = list[Times](), list[Times]()
    with tempfile.TemporaryDirectory() as tmp:
        box = Box({size: pages})
        try:
            env = environment() | box.environment() | {"PYTHONPYCACHEPREFIX": tmp}
            env.pop("PYTHONDONTWRITEBYTECODE", None)  # an installed pyeal has its bytecode
            server = ForkServer(f"librte_eal:{release}", box.enter, env)
            folder = box.path(box.hugedir(size))
            for _ in range(rounds + 1):
                empty(folder)
                cold.append(start(server, Path(tmp), args))
                empty(folder)
                argv = [*box.enter, sys.executable, "-P", "-m", "pyeal", "warm", "--as", release]
                began = time.perf_counter()
                subprocess.run([*argv, "--", *args], env=env, check=True, capture_output=True)
                took = time.perf_counter() - began
                warm.append(start(server, Path(tmp), args)._replace(warm=took))
            server.close()
        finally:
            empty(folder)
            box.close()
    pairs = list(zip(cold[1:], warm[1:], strict=True))
    ratios = {
        "init CPU": median(w.cpu / c.cpu for c, w in pairs),
        "init wall": median(w.wall / c.wall for c, w in pairs),
        "warm and start": median((w.wall + w.warm) / c.wall for c, w in pairs),
    }
    return Row(release, f"{pages:,} of {size}", middle(cold[1:]), middle(warm[1:]), ratios)


def middle(times: list[Times]) -> Times:
    return Times(*(median(column) for column in zip(*times, strict=True)))


def empty(folder: Path) -> None:
    """Remove the page files, and wait until the kernel has their pages back."""
    for name in os.listdir(folder):
        os.unlink(folder / name)

    def free() -> bool:
        st = os.statvfs(folder)
        return st.f_bfree == st.f_blocks

    until(free)


def start(server: ForkServer, tmp: Path, args: list[str]) -> Times:
    """Time rte_eal_init in a process that has loaded the library, CPU time of all its threads."""
    child = Forked(server, tmp / "log")
    try:
        cpu, began = of_threads(child.pid), time.perf_counter()
        child.ask("init", args=args)
        wall = time.perf_counter() - began
        return Times(wall, of_threads(child.pid) - cpu)
    finally:
        child.end()


def of_threads(pid: int) -> float:
    """CPU seconds of a process's threads."""
    files = Path(f"/proc/{pid}/task").glob("*/schedstat")
    return sum(int(f.read_text().split()[0]) for f in files) / 1e9


def table(rows: list[Row], rounds: int) -> str:
    """Return the table as Markdown, with the machine below it."""
    lines = [HEAD, ["---"] * len(HEAD), *(r.cells() for r in rows)]
    bounds = ", ".join(f"{gate} {most}" for gate, most in GATES.items())
    cpus = len(os.sched_getaffinity(0))
    where = f"{platform.machine()}, {cpus} CPUs, Linux {platform.release()}"
    note = f"{time.strftime('%Y-%m-%d')}, {where}: medians of {rounds} pairs. Wanted: {bounds}."
    return "\n".join(["| " + " | ".join(cells) + " |" for cells in lines] + ["", note])
