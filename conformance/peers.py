"""Debian's librte_eal without installing it: fetched and unpacked into a cache, no root needed.

Prints the library's path. The sources are those that apt on this machine knows.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

WANTED = "librte-eal23"  # 22.11, Debian 12; elsewhere whatever the distribution has
# the process that loads the peer brings these itself
OURS = re.compile(r"libc6|libgcc-s1|libcrypt1|gcc-\d+-base")


class Unobtainable(Exception):
    """Why there is no peer, and what would help."""


def cache():
    """A folder of this user: under XDG_CACHE_HOME, the home directory, or /tmp."""
    base = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    for d in (Path(base) / "pyeal", Path(tempfile.gettempdir()) / f"pyeal-{os.geteuid()}"):
        try:
            d.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError:
            continue
        if d.stat().st_uid == os.geteuid() and os.access(d, os.W_OK):
            return d
    raise Unobtainable(f"no folder to cache in: neither {base} nor {tempfile.gettempdir()}")


def _run(*argv, cwd=None):
    try:
        done = subprocess.run(argv, capture_output=True, text=True, cwd=cwd, timeout=300)
    except FileNotFoundError:
        raise Unobtainable(f"wanted {argv[0]}, found none: peers come as Debian packages") from None
    except subprocess.TimeoutExpired:
        raise Unobtainable(f"{' '.join(argv[:4])} ... took over 5 minutes") from None
    if done.returncode:
        last = (done.stderr or done.stdout).strip().splitlines()[-1:] or ["no message"]
        raise Unobtainable(f"{argv[0]} ends with {done.returncode}: {last[0]}")
    return done.stdout


def _package(options):
    names = _run("apt-cache", *options, "search", "--names-only", "^librte-eal[0-9]+$")
    found = sorted(line.split()[0] for line in names.splitlines())
    return WANTED if WANTED in found else found[-1] if found else None


def fetch(say=lambda text: None):
    """Path of a librte_eal.so.N whose neighbours are the libraries that it needs."""
    root = cache() / "peers"
    have = sorted(root.glob(f"{WANTED}_*/usr/lib/*/librte_eal.so.*"))
    if have:
        return have[0]
    root.mkdir(exist_ok=True)
    options: list[str] = ["-o", "APT::Sandbox::User=root"] if os.geteuid() == 0 else []
    name = _package(options)
    if name is None:  # no package lists on this machine: lists of our own
        say("fetching package lists")
        state = root / "apt"
        (state / "lists/partial").mkdir(parents=True, exist_ok=True)
        options += ["-o", f"Dir::State={state}", "-o", f"Dir::Cache={state}"]
        options += ["-o", "Dir::State::status=/var/lib/dpkg/status"]
        _run("apt-get", *options, "update")
        name = _package(options)
        if name is None:
            raise Unobtainable("no package librte-eal* in the sources of this machine's apt")
    kinds = ("recommends", "suggests", "conflicts", "breaks", "replaces", "enhances")
    tree = _run("apt-cache", *options, "depends", "--recurse", *(f"--no-{k}" for k in kinds), name)
    wanted = {x for x in tree.splitlines() if x and x[0] not in " <|" and not OURS.fullmatch(x)}
    say(f"fetching {name} and {len(wanted) - 1} libraries")
    with tempfile.TemporaryDirectory(dir=root) as tmp:
        _run("apt-get", *options, "download", *sorted(wanted), cwd=tmp)
        debs = sorted(Path(tmp).glob("*.deb"))
        version = next(d.name.split("_")[1] for d in debs if d.name.startswith(name + "_"))
        new = Path(tmp) / "tree"
        for deb in debs:
            _run("dpkg-deb", "-x", str(deb), str(new))
        to = root / f"{name}_{version}"
        shutil.rmtree(to, ignore_errors=True)
        new.rename(to)
    shutil.rmtree(root / "apt", ignore_errors=True)
    libs = sorted(to.glob("usr/lib/*/librte_eal.so.*"), key=lambda p: len(p.name))
    if not libs:
        raise Unobtainable(f"{name} {version} holds no librte_eal.so")
    return libs[0]


if __name__ == "__main__":
    try:
        print(fetch(lambda text: print(text, file=sys.stderr)))
    except Unobtainable as e:
        sys.exit(f"peers: {e}")
