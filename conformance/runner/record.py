"""Remake the recordings by Debian's librte_eal of each release.

    ci/record [RELEASE...]      as root, with 4 free 2M pages

Decoders are tested with the recordings, without root and pages; harness/recordings.py says what one
holds.
"""

from __future__ import annotations

import argparse
import json
import os
import stat
import sys
import tempfile
import zipfile
from pathlib import Path

from conformance import MODES
from conformance.harness import fake_host, host, peers, proc
from conformance.harness.box import Box
from conformance.harness.eal import Eal
from conformance.harness.recordings import FOLDER, PAGES, PREFIX, RECORDED

BASE, END = 0x100000000, 0x500000000000  # EAL's base address; the loader's libraries lie above
EPOCH = 1980, 1, 1, 0, 0, 0  # the same run gives the same archive, except addresses and ticks


def record(release, mode, tmp):
    """One run: (seen, {name: content of a file in the runtime directory})"""
    box = Box({"2M": PAGES}, binds=fake_host.build(tmp, {"2M": PAGES}, {0: "0"}))
    try:
        args = [*MODES[mode], "-m", "8", "--file-prefix", PREFIX]
        eal = Eal(f"librte_eal:{release}", args, box, tmp, PREFIX)
        try:
            return look(eal.init(), mode)
        finally:
            eal.close()
    finally:
        box.close()


def look(eal, mode):
    where = {eal.runtime_dir: eal.run, eal.box.hugedir("2M"): eal.hugedir()}
    paths = {}
    for d, p in where.items():
        d = os.path.realpath(d)
        paths |= {d: p} | {f"{d}/{f}": p / f for f in sorted(os.listdir(p))}
    seen = {
        "release": eal.release,
        "mode": mode,
        "args": eal.args,
        "target": eal.target,
        "init": {"iova_mode": eal.iova_mode, "runtime_dir": os.path.realpath(eal.runtime_dir)},
        "info": eal.info(),
        "lists": eal.lists(),
        "segments": eal.segments(),
        "files": {f: p.stat().st_size for f, p in paths.items() if not p.is_dir()},
        "maps": [
            [m.start, m.end, m.perms, m.offset, m.path] for m in eal.maps() if BASE <= m.start < END
        ],
        "locks": [
            [f, x.kind, x.mode, x.start, x.end] for f, p in paths.items() for x in proc.locks(p)
        ],
    }
    del seen["info"]["path"]
    files = {p.name: p.read_bytes() for p in eal.run.iterdir() if stat.S_ISREG(p.stat().st_mode)}
    return seen, files


def write(to, seen, files):
    content = {f"run/{name}": data for name, data in sorted(files.items())}
    content["seen.json"] = json.dumps(seen, indent=1).encode()
    with zipfile.ZipFile(to, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as z:
        for name, data in content.items():
            info = zipfile.ZipInfo(name, EPOCH)
            info.compress_type = zipfile.ZIP_DEFLATED
            z.writestr(info, data)


def main(argv):
    p = argparse.ArgumentParser(prog="ci/record", description=__doc__.split("\n")[0])
    p.add_argument("releases", nargs="*", metavar="RELEASE", help=f"default: {peers.releases()}")
    args = p.parse_args(argv)
    if why := host.lacks(root=True, pages={"2M": PAGES}):
        sys.exit(f"record: {why}")
    FOLDER.mkdir(exist_ok=True)
    for release in args.releases or peers.releases():
        try:
            peers.fetch(release, lambda text: print(f"peer {text}", file=sys.stderr))
        except peers.Unobtainable as e:
            sys.exit(f"record: {e}")
        for mode in RECORDED:
            with tempfile.TemporaryDirectory() as tmp:
                seen, files = record(release, mode, Path(tmp))
            write(to := FOLDER / f"{release}-{mode}.zip", seen, files)
            print(
                f"{seen['release']:9} {mode:12} {len(seen['segments'])} pages, "
                f"{len(files)} files, {to.stat().st_size} bytes"
            )
