"""Two runs side by side, and a program that takes and gives back hugepages: both end with 0."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from conformance import needs
from conformance.harness.box import lifeline
from conformance.harness.child import environment

IDS = "SEG", "MSL", "LEG", "FD"
GREEDY = """
import mmap, random, select, sys
r, held, added, steps = random.Random(1), [], 0, 0
pool = "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages"
def grow(n):
    with open(pool) as f: now = int(f.read())
    with open(pool, "w") as f: f.write(str(now + n))
while not select.select([sys.stdin], [], [], r.random() / 10)[0]:
    steps += 1
    if held and r.random() < 0.5:
        held.pop(r.randrange(len(held))).close()
    elif len(held) < 24:
        try:
            held.append(mmap.mmap(-1, 2 << 20, flags=0x40022))
            held[-1][0] = 1
        except OSError:
            pass
    if not steps % 10:
        n = r.randrange(1, 9) if added < 20 else -r.randrange(1, 9)
        grow(n)
        added += n
grow(-added)
print(steps)
"""


def started(*argv):
    pipe = subprocess.PIPE
    return subprocess.Popen(
        list(map(str, [*lifeline(), *argv])),
        stdin=pipe,
        stdout=pipe,
        stderr=subprocess.STDOUT,
        text=True,
        env=environment(),
    )


@needs(root=True)
@pytest.mark.timeout(1800)
def test_runs_side_by_side(tmp_path, evidence):
    greedy = started(sys.executable, "-c", GREEDY)
    run = [
        sys.executable,
        "-P",
        "-m",
        "conformance",
        "run",
        "--quick",
        "--target",
        "pyeal",
        "-n",
        2,
    ]
    runs = [started(*run, "--reserve", "2M:96", "--report", tmp_path / n, *IDS) for n in "ab"]
    said = [p.communicate()[0] for p in runs]
    steps = greedy.communicate("\n")[0]
    for text in said:
        evidence(re.findall(r"disturbed by .*|total .*", text))
    evidence(f"{steps.strip()} steps of the program between them")

    assert [p.returncode for p in runs] == [0, 0], "\n".join(said)
    assert int(steps) > 10
