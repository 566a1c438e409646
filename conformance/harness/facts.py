"""Facts of a target that no release decides: a distribution's patches, the libnuma beside it.

They are read from the files that the process has mapped, and are conditions in deviations.toml.
"""

from __future__ import annotations

import re
from pathlib import Path

DPKG = Path("/var/lib/dpkg/info")


def _debian(path: Path) -> bool:
    """Return whether a file is of a package of Debian, or of a tree that peers.py unpacked."""
    if any((d / "peer.json").exists() for d in path.parents):
        return True
    lists = DPKG.glob("librte-eal*.list")
    return any(str(path) in f.read_text().splitlines() for f in lists)


def _before_libnuma_2_0_17(path: Path) -> bool:
    """Return whether a libnuma lacks the symbols that came with 2.0.17."""
    return b"libnuma_1.7" not in path.read_bytes()


# name: the library that is asked, and what tells
FACTS = {
    "Debian's package": (r"librte_eal\.so\.[\d.]+", _debian),
    "libnuma before 2.0.17": (r"libnuma\.so\.1[\d.]*", _before_libnuma_2_0_17),
}


def of(pid: int) -> frozenset[str]:
    """Return the facts that hold for a process, by the libraries that it has mapped.

    No fact is known of a process of another user or machine.
    """
    try:
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
    except OSError:
        return frozenset()
    mapped = {Path(words[5]) for words in (x.split(None, 5) for x in lines) if len(words) > 5}
    return frozenset(
        name
        for name, (pattern, holds) in FACTS.items()
        for path in mapped
        if re.fullmatch(pattern, path.name) and path.exists() and holds(path)
    )
