"""Recordings of real runs: what DPDK's own processes leave in files, mappings and locks.

fixtures/recordings/RELEASE-MODE.zip holds the runtime directory as `run/`, and what its process
reported and the kernel showed while it was up as `seen.json`:

init, info, lists, segments     the library's own answers
files                           path -> size, of the runtime directory and of hugetlbfs
maps                            from EAL's base address on: start, end, perms, offset, path
locks                           of these files: path, kind, mode, first and last byte (null: EOF)

fixtures/recordings-arm64 holds those of builds for other machines than x86-64.
"""

from __future__ import annotations

import json
import zipfile

from conformance import FIXTURES, MODES

FOLDER = FIXTURES / "recordings"
OTHER_BUILDS = FIXTURES / "recordings-arm64"
PAGES, PREFIX = 4, "recording"
RECORDED = [mode for mode in MODES if mode != "in-memory"]  # which shares nothing


def load(release, mode):
    """Return a recording: (seen, {name: content})."""
    return read(FOLDER / f"{release}-{mode}.zip")


def read(path):
    """Return the recording in a file: (seen, {name: content})."""
    with zipfile.ZipFile(path) as z:
        files = {n.removeprefix("run/"): z.read(n) for n in z.namelist() if n.startswith("run/")}
        return json.loads(z.read("seen.json")), files
