"""The gates fail when pyeal is made slower: each fault below, in a copy of it, is found."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import pyeal
from conformance import SUITE, needs

PACKAGE = Path(pyeal.__file__).parent
FAULTS = {  # what was done: file, text that stands there once, what it becomes, gate that finds it
    "a call more a page": (
        "libc.py",
        '    got = syscall_batch("mmap"',
        '    _ = [os.fstat(fd) for fd in fds]\n    got = syscall_batch("mmap"',
        "system_calls_a_page[dynmem]",
    ),
    "kept files are opened twice": (
        "hugepages.py",
        "if not remove and not no_own:",
        "if remove and not no_own:",
        "system_calls_a_page[restart]",
    ),
    "a call more a page of one file": (
        "backing/pagefiles.py",
        "        fd, va, size = self.list_fds[msl.index],",
        "        [os.fstat(0) for _ in range(n)]\n        fd, va, size = self.list_fds[msl.index],",
        "system_calls_a_page[attach-single-file]",
    ),
    "Python that dawdles at each page": (
        "backing/base.py",
        "    if not got or min(got) >= 0:\n",
        "    if not [fd for fd in got if sum(range(300))] or min(got) >= 0:\n",
        "user_instructions_a_page[attach-dynmem]",
    ),
    "one thread": (
        "populate.py",
        "PopulateThreads(n if length >= CHUNK else 0",
        "PopulateThreads(0",
        "every_cpu_populates",
    ),
    "the table grows by steps": (
        "backing/base.py",
        "        if n > FEW:\n            grow_descriptor_table(n)\n",
        "        pass\n",
        "every_cpu_populates",
    ),
    "each CPU is asked for": (
        "lcores.py",
        "    booked = [listed",
        "    for n in range(8 * MAX_LCORE):\n        os.access(f'{system}/node/node0/cpu{n}', 0)\n"
        "    booked = [listed",
        "system_calls_of_a_start[dynmem]",
    ),
    "a module more": (
        "options.py",
        "from errno import EINVAL\n",
        "import argparse\nfrom errno import EINVAL\n",
        "modules_of_an_import",
    ),
    "and what it costs": (
        "options.py",
        "from errno import EINVAL\n",
        "import argparse\nfrom errno import EINVAL\n",
        "instructions_of_an_import[import]",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
@needs(pages={"2M": 64}, root=True, strace=True, cpus=2)
def test_a_slower_pyeal_is_found(fault: str, tmp_path: Path) -> None:
    name, old, new, gate = FAULTS[fault]
    copy = tmp_path / "pyeal"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("suite", "__pycache__"))
    text = (copy / name).read_text()
    assert text.count(old) == 1, f"{name}: stands {text.count(old)} times"
    (copy / name).write_text(text.replace(old, new))
    path = os.pathsep.join((str(tmp_path), str(SUITE.parent)))
    argv = [
        sys.executable,
        "-P",
        "-m",
        "pytest",
        "-c",
        SUITE / "pytest.toml",
        "-q",
        "-p",
        "no:cacheprovider",
        f"--basetemp={tmp_path}/t",
        "-o",
        "pythonpath=",
        f"{SUITE}/units/test_counts.py::test_{gate}",
    ]
    done = subprocess.run(
        list(map(str, argv)),
        capture_output=True,
        text=True,
        timeout=120,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    last = done.stdout.strip().splitlines()[-1]
    if "skipped" in last:
        pytest.skip(done.stdout[-400:])

    assert done.returncode == 1 and "1 failed" in last, done.stdout[-3000:]
