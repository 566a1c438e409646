"""A librte_eal that is given by its path: a library, a build directory, an installation.

librte_eal:build            ninja's directory: build/lib/librte_eal.so.26.2
librte_eal:/opt/dpdk        an installation's prefix: lib, lib64, lib/x86_64-linux-gnu
librte_eal:PATH@20.11.10    of a release, if the library does not report its own
"""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path
from typing import NamedTuple

from conformance.harness import peers

# Where the library is, below a directory that is given.
PLACES = (
    ".",
    "lib",
    "lib64",
    "lib/*",
    "usr/lib",
    "usr/lib64",
    "usr/lib/*",
    "usr/local/lib",
    "usr/local/lib64",
    "usr/local/lib/*",
    "build/lib",
    "lib/dpdk",
)
RELEASE = re.compile(r"\d\d\.\d\d(\.\d+)?(-rc\d+)?")
# e_machine of an ELF file, as `uname -m` has it
MACHINES = {
    3: "i686",
    21: "ppc64le",
    40: "arm",
    62: "x86_64",
    183: "aarch64",
    243: "riscv64",
    258: "loongarch64",
}
SHARED = 3  # e_type: ET_DYN


class Unusable(OSError):
    """No library is there, or this machine cannot load it; says what would help."""


class Library(NamedTuple):
    path: Path
    release: str  # "" if it was not given
    machine: str  # that it is built for, as `uname -m` has it


def find(text: str) -> Library:
    """Return the library that PATH or PATH@RELEASE means. Raises Unusable."""
    name, at, release = text.rpartition("@")
    if not (at and RELEASE.fullmatch(release)):
        name, release = text, ""
    path = Path(os.path.abspath(os.path.expanduser(name)))
    if path.is_dir():
        path = _below(path)
    if not path.exists():
        raise Unusable(f"no library {path}: give a file, a build directory or an installation")
    return Library(path, release, _machine(path))


def _below(top: Path) -> Path:
    """Return the one library in the usual places below a directory."""
    found = {}
    for place in PLACES:
        for f in sorted(top.glob(f"{place}/librte_eal.so*")):
            if f.is_file() and re.fullmatch(r"librte_eal\.so(\.\d+)*", f.name):
                found.setdefault(f.resolve(), f)
    if len(found) == 1:
        return next(iter(found))
    if found:
        raise Unusable(f"{top} has {len(found)} builds: give one of {', '.join(map(str, found))}")
    if static := next((f for p in PLACES for f in top.glob(f"{p}/librte_eal.a")), None):
        raise Unusable(
            f"{static} is static: expected a shared librte_eal.so.*. "
            "Fix: meson setup -Ddefault_library=shared BUILD, then ninja -C BUILD"
        )
    raise Unusable(
        f"{top} has no librte_eal.so.*, nor have lib, lib64 and build/lib in it: "
        "give a file, a build directory after ninja, or the prefix of an installation"
    )


def _machine(path: Path) -> str:
    """Return what a library is built for; refuse what no loader would load, and say why."""
    with open(path, "rb") as f:
        head = f.read(20)
    if head[:4] != b"\x7fELF" or len(head) < 20:
        raise Unusable(f"{path} is not an ELF file: expected a shared library")
    order = "big" if head[5] == 2 else "little"
    kind, machine = (int.from_bytes(head[at : at + 2], order) for at in (16, 18))
    here = platform.machine()
    built = MACHINES.get(machine, f"machine {machine}")
    if built not in (here, *peers.MACHINES.values()) and here in MACHINES.values():
        raise Unusable(f"{path}: built for {built}, this machine is {here}")
    if kind != SHARED:
        raise Unusable(f"{path} is an ELF file, but not a shared library")
    return built
