"""What dead EALs left behind: page files and runtime directories, with facts and a verdict."""

from __future__ import annotations

import functools
import os
import stat
import time

from pyeal import builds
from pyeal.layout import FLAG_DIRTY, FLAG_DO_NOT_FREE
from pyeal.look import hugedir, locks, warm
from pyeal.look.machine import Machine
from pyeal.look.runtime_dir import is_of_eal, listed

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    from pyeal.look.foreign import ForeignEal
    from pyeal.look.runtime_dir import RuntimeDir

    Dict = dict[str, Any]


class Leftovers:
    """Every page file and runtime directory, each with facts and a verdict.

    every: include page files that are held, of which there may be thousands, and look a second time
    at what clean exits left.
    """

    def __init__(self, every: bool = False) -> None:
        self.every, self.now = every, time.time()
        self.machine = m = Machine(readings=1)
        self.eals = m.eals()
        self.by_path = {e.directory.path: e for e in self.eals if e.directory}
        self.by_prefix: dict[str, list[ForeignEal]] = {}
        for e in self.eals:
            self.by_prefix.setdefault(e.prefix, []).append(e)
        self.warm = {(f.dev, f.inode): f for e in self.eals for f in e.warm}
        self.held = m.holders_of_files()
        self.sockets = m.sockets()
        self.unreadable = m.unreadable()
        self.items = [*self._pages(), *self._directories()]
        self._confirm()

    def _fact(self, kind: str, path: str, shown: str, st: os.stat_result, prefix: str) -> Dict:
        return {
            "kind": kind,
            "path": path,
            "shown": shown,
            "file_prefix": prefix,
            "bytes": st.st_blocks * 512,
            "size": st.st_size,
            "uid": st.st_uid,
            "owner": _user(st.st_uid),
            "age_s": round(max(self.now - st.st_mtime, 0), 1),
            "dev": st.st_dev,
            "inode": st.st_ino,
            "holders": _holders(frozenset(self.held.get(locks.file_id(st), ()))),
            "verdict": "",
            "why": "",
        }

    def _pages(self) -> Iterator[Dict]:
        for path, shown in self.machine.hugetlbfs():
            try:
                page_sz = os.statvfs(path).f_bsize
            except OSError:  # its last process is gone
                continue
            for entry, device, folder in _files(path, shown):
                m = hugedir.NAME.match(entry.name)
                if not m or (not self.every and f"{device}:{entry.inode()}" in self.held):
                    continue
                st = _lstat(entry.path)
                if not st or not stat.S_ISREG(st.st_mode):
                    continue
                f = self._fact("page", entry.path, f"{folder}/{entry.name}", st, m[1])
                f["page_sz"] = page_sz
                kept = self.warm.get((st.st_dev, st.st_ino))
                if kept and not f["holders"] and kept.is_as_recorded(st):
                    f["verdict"], f["why"] = "warm", warm.KEPT
                else:
                    f["verdict"], f["why"] = self._verdict_of_page(f, int(m[2]), m[3])
                yield f

    def _verdict_of_page(self, f: Dict, number: int, seg: str | None) -> tuple[str, str]:
        if f["holders"]:
            return "held", _who(f["holders"])
        if unseen := self._unseen():
            return "unknown", unseen
        for e in self.by_prefix.get(f["file_prefix"], ()):
            if not e.snapshot or not e.directory:
                continue
            if e.primary and e.primary.option("--huge-unlink") == "never":
                return "kept?", f"process {e.primary.pid} runs with --huge-unlink=never"
            flags = _flags_of(e, f, number, seg)
            if e.locked:
                return "stale", "its prefix lives and does not use it"
            if flags is None and e.snapshot.c.legacy_mem:
                # map_all_hugepages takes pages until one fails, and leaves that one's file
                return "stale", "its primary did not get the page of it"
            if flags is None:
                return "kept?", "freed before its primary ended: --huge-unlink=never does that"
            if flags & FLAG_DIRTY:
                return "kept?", "was in use a second time: --huge-unlink=never does that"
            # an exit in order takes the socket, and this flag unless files are to be kept
            if flags & FLAG_DO_NOT_FREE and not os.path.lexists(f"{e.directory.path}/mp_socket"):
                return "kept?", "its primary ended in order and kept it: --huge-unlink=never"
            return "stale", "its primary is gone and counts it as used"
        return "stale", "no process has it locked, mapped or open"

    def _unseen(self) -> str:
        """Return why a file without a visible holder may be held, "" if it cannot."""
        if not self.machine.sees_all:
            return "in a PID namespace of its own, holders outside are not seen"
        if self.unreadable:
            pids = ", ".join(map(str, self.unreadable[:4]))
            return f"processes with hugepages could not be looked into ({pids}): needs root"
        return ""

    def _directories(self) -> Iterator[Dict]:
        for directory in self.machine.directories():
            e = self.by_path.get(directory.path)
            if e is None:  # its `config`, if there is one, is not of an EAL
                continue
            files = list(self._ours(directory))
            if not files:
                continue
            if e.locked or e.holders or any(f["holders"] for f in files):
                lists = [ml["name"] for ml in e.snapshot.lists] if e.snapshot else []
                yield from (f for f in files if self._is_dead(f, lists))
            else:
                st = _lstat(directory.path)
                if st is None:  # gone meanwhile
                    continue
                d = self._fact("directory", directory.path, directory.shown, st, directory.prefix)
                d["bytes"] = sum(f["bytes"] for f in files)
                d["files"] = [f["path"].rpartition("/")[2] for f in files]
                d["build"] = builds.facts(e.snapshot.abi) if e.snapshot else None
                d["looked_at"] = {
                    n: (f["dev"], f["inode"]) for n, f in zip(d["files"], files, strict=True)
                }
                if unseen := self._unseen_places(e):
                    d["verdict"], d["why"] = "unknown", unseen
                elif e.snapshot is None:
                    d["verdict"], d["why"] = "unknown", e.why
                elif e.health[0] == "stale":
                    d["verdict"], d["why"] = (
                        "stale",
                        "its primary died: no lock on config, no process",
                    )
                else:
                    d["verdict"], d["why"] = "ended", "no lock on config, no process has it mapped"
                yield d

    def _unseen_places(self, e: ForeignEal | None) -> str:
        if not self.machine.sees_all:
            return "in a PID namespace of its own, secondaries outside are not seen"
        if e and e.snapshot is None and e.needs_root:
            return e.why
        return ""

    def _ours(self, directory: RuntimeDir) -> Iterator[Dict]:
        for name in sorted(listed(directory.path)):
            st = _lstat(f"{directory.path}/{name}")
            if not st or not is_of_eal(name):
                continue
            if stat.S_ISREG(st.st_mode) or stat.S_ISSOCK(st.st_mode):
                kind = "socket" if stat.S_ISSOCK(st.st_mode) else "file"
                shown = f"{directory.shown}/{name}"
                f = self._fact(kind, f"{directory.path}/{name}", shown, st, directory.prefix)
                if kind == "socket":
                    last = f"/dpdk/{directory.prefix}/{name}"
                    f["bound"] = any(s.endswith(last) for s in self.sockets)
                    if f["bound"]:
                        f["holders"] = [{"pid": 0, "by": ["socket"]}]
                yield f

    def _is_dead(self, f: Dict, lists: list[str]) -> bool:
        """Return whether it is a socket or shadow array of a secondary that is gone."""
        name = f["path"].rpartition("/")[2]
        heads = ("mp_socket_", *(f"fbarray_{ml}_" for ml in lists))
        if f["holders"] or not name.startswith(heads):
            return False
        f["verdict"], f["why"] = "stale", "of a secondary that is gone"
        if unseen := self._unseen_places(None):
            f["verdict"], f["why"] = "unknown", unseen
        return True

    def _confirm(self) -> None:
        """Look a second time at what seems free: it may have been made during the first time.

        Files that a process has open, without a lock or a mapping, are held as well.
        """
        words = {"stale", "kept?", "warm", *["ended"] * self.every}
        free = [f for f in self.items if f["verdict"] in words]
        if not free:
            return
        machine, kinds = Machine(readings=2), {f["kind"] for f in free}
        held = machine.holders_of_files() if kinds - {"directory"} else {}
        names = {f["path"].rpartition("/")[2] for f in free if f["kind"] == "page"}
        opened = machine.open_files(names) if names else {}
        eals = machine.with_directories() if "directory" in kinds else []
        living = (e.directory for e in eals if e.directory and (e.locked or e.holders))
        alive = {(st.st_dev, st.st_ino) for p in living if (st := _lstat(p.path))}
        for f in free:
            if f["kind"] == "directory":
                if (f["dev"], f["inode"]) in alive:
                    f["verdict"], f["why"] = "held", "by a process that has just started"
                continue
            by = held.get(f"{locks.device_id(f['dev'])}:{f['inode']}", set())
            if f["kind"] == "page":
                by |= {(pid, "open") for pid in opened.get(f["path"].rpartition("/")[2], ())}
            if by:
                f["holders"] = _holders(frozenset(by))
                f["verdict"], f["why"] = "held", _who(f["holders"])


def _files(path: str, shown: str, deep: int = 3) -> Iterator[tuple[os.DirEntry[str], str, str]]:
    """Yield (entry, device_id, folder's path in its own tree) of every file below a mount point.

    Links are not followed; --huge-dir may be a folder below it.
    """
    try:
        entries = sorted(os.scandir(path), key=lambda e: e.name)
        device = locks.device_id(os.stat(path).st_dev)
    except OSError:
        return
    for e in entries:
        if e.is_dir(follow_symlinks=False) and deep:
            yield from _files(e.path, f"{shown}/{e.name}", deep - 1)
        else:
            yield e, device, shown


def _flags_of(e: ForeignEal, f: Dict, number: int, seg: str | None) -> int | None:
    """Return the flags of the page that the config has in that file, None if it has none."""
    s = e.snapshot
    assert s and e.directory
    if s.c.legacy_mem:
        return 0 if any(r["filepath"] == f["shown"] for r in s.hugepage_data()) else None
    if s.c.single_file_segments:
        ml = next((m for m in s.lists if m["index"] == number), None)
        return ml["runs"][0]["flags"] if ml and ml["runs"] else None
    per_list = s.release.page_file[1]
    i, k = (number, int(seg)) if seg else divmod(number, per_list or 1)
    a = s.arrays.get(i)
    if a is None or not a.used >> k & 1:
        return None
    ms = s.memseg(i, k)
    return ms.flags if ms else None


def _lstat(path: str) -> os.stat_result | None:
    try:
        return os.lstat(path)
    except OSError:
        return None


@functools.cache
def _user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@functools.cache
def _holders(held: frozenset[tuple[int, str]]) -> list[Dict]:
    """Return holders by pid; thousands of files have the same."""
    by: dict[int, list[str]] = {}
    for pid, how in sorted(held):
        by.setdefault(pid, []).append(how)
    return [{"pid": pid, "by": how} for pid, how in by.items()]


def _who(holders: list[Dict]) -> str:
    return "by " + ", ".join(
        f"{h['pid'] or 'an invisible process'} ({'+'.join(h['by'])})" for h in holders
    )
