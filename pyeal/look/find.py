"""Find the one EAL that a user names: a prefix, a pid, a directory, an archive or a core file."""

from __future__ import annotations

import os
from errno import EACCES, EINVAL, ENOENT

from pyeal.errors import EalError
from pyeal.look import core
from pyeal.look.archives import Archive
from pyeal.look.foreign import ForeignEal
from pyeal.look.machine import Machine, same_file
from pyeal.look.runtime_dir import RuntimeDir
from pyeal.look.snapshot import Snapshot
from pyeal.look.sources import Folder, Unreadable


def copied(path: str) -> ForeignEal:
    """Return the EAL of a copied directory, an archive (ARCHIVE or ARCHIVE:DIRECTORY) or a core.

    Without EAL's data in the core it has no snapshot. Raises EalError(EINVAL) for anything else.
    """
    try:
        return _copied(path)
    except Unreadable as e:
        raise EalError(EINVAL, "scan", str(e)) from None


def _copied(path: str) -> ForeignEal:
    file, _, inner = path.partition(":")
    if os.path.isdir(path):
        source: Folder | Archive = Folder(path)
        name = os.path.realpath(path)
    elif os.path.isfile(path) and core.is_core(path):
        return core.eal_of(path)
    elif os.path.isfile(file):
        source = archive = Archive(file, inner or None)
        if not inner and len(archive.prefixes) > 1:
            names = ", ".join(f"{file}:{d}" for d in archive.prefixes)
            raise Unreadable(f"it has several directories with a config: {names}")
        if "config" not in archive.names():
            found = "none, as if the EAL shares nothing"
            raise Unreadable(path, "a directory with a config", found)
        name = f"{file}:{archive.inner}"
    else:
        raise Unreadable(f"{path}: no such directory or archive")
    e = ForeignEal(RuntimeDir(path, name))
    e.copy = True
    e.snapshot = Snapshot(source)
    return e


def find(what: str | None) -> ForeignEal:
    """Return the EAL that a prefix, a pid, a runtime directory, a copy of one or an archive names.

    None means the only EAL of the machine. Raises EalError(ENOENT) that lists the choice.
    """
    if what and "/" in what and not os.path.isdir(what):
        return copied(what)
    eals = Machine().eals()
    if what is None:
        named = [e for e in eals if e.health[0] != "ended"] or eals
    elif os.path.isdir(what) and ("/" in what or os.path.exists(f"{what}/config")):
        named = [e for e in eals if e.directory and same_file(e.directory.path, what)]
        if not named:
            return copied(what)
    else:
        pid = int(what) if what.isdecimal() else -1
        named = [e for e in eals if pid in {e.primary_pid, *(p.pid for p in e.holders)}]
        named = named or [e for e in eals if e.prefix == what]
        if not named and os.path.exists(what.partition(":")[0]):
            return copied(what)
    if len(named) == 1 and named[0].snapshot:
        return named[0]
    if len(named) == 1:
        raise EalError(EACCES, "scan", f"{what or named[0].prefix}: {named[0].why}")
    choice = [f"{e.prefix or '?'} (pid {e.primary_pid or '-'})" for e in named or eals]
    raise EalError(
        ENOENT,
        "scan",
        what or "the EAL to look at",
        expected="one EAL",
        found=f"{len(named)}; there are: {', '.join(choice) or 'none'}",
        fix=meant(what, [e.prefix for e in eals if e.prefix]) if what and not named else "",
    )


def meant(what: str, prefixes: list[str]) -> str:
    """Return which of the prefixes a word nearly is, as a fix; nothing if it is like none."""
    from difflib import get_close_matches

    near = get_close_matches(what, prefixes, 1)
    return f"{near[0]!r} is the nearest file prefix" if near else ""
