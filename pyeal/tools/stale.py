"""`pyeal stale`: what dead EALs left behind, with proof, and how it goes."""

from __future__ import annotations

import fcntl
import functools
import os
import stat
import sys
import time

from pyeal.layout import FLAG_DIRTY, FLAG_DO_NOT_FREE
from pyeal.tools import (
    BOLD,
    CYAN,
    DIM,
    GREEN,
    RED,
    YELLOW,
    Patience,
    age,
    count,
    document,
    ink,
    scan,
    size,
    table,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from typing import Any

    Dict = dict[str, Any]

TEXT = """What dead EALs left behind: hugepage files that keep pages from everybody, and files of
runtime directories. Each verdict has its proof: lock, mappings, descriptors, sockets. A file that
anybody holds is never touched, and nothing at all without --delete.
Exit code: 0 nothing is left over; 1 something is, or may be; 2 for wrong arguments."""
EXAMPLES = """  pyeal stale                  what is left, and who left it
  pyeal stale demo --delete    remove what is proven stale of --file-prefix=demo"""

# held: somebody has it. ended: what a clean exit leaves, and the next start overwrites
LOOKS = {"stale": RED, "kept?": YELLOW, "unknown": YELLOW, "held": GREEN, "ended": DIM}
FILES = ("config", "hugepage_info", "hugepage_data")
HEADS = ("fbarray_", "mp_socket", "dpdk_telemetry.")


def arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("prefixes", nargs="*", metavar="PREFIX", help="only of these --file-prefixes")
    p.add_argument("-a", "--all", action="store_true",
                   help="also what is held, and directories that clean exits left")  # fmt: skip
    p.add_argument("-v", "--verbose", action="store_true", help="a line for each file")
    p.add_argument("--delete", action="store_true", help="remove what is stale, after a question")
    p.add_argument("--kept", action="store_true",
                   help='with --delete: also what may have been kept on purpose')  # fmt: skip
    p.add_argument("-y", "--yes", action="store_true", help="with --delete: no question")
    p.add_argument("--json", action="store_true", help="as JSON, schema pyeal.stale/1")


# --- looking


class Look:
    """One look at page files and runtime directories: facts and a verdict for each.

    Without `every`, page files that are held are passed over, as there may be thousands, and what
    clean exits left is not looked at twice.
    """

    def __init__(self, every: bool = False) -> None:
        self.every, self.now = every, time.time()
        self.machine = m = scan.Machine(readings=1)
        self.eals = m.eals()
        self.held = m.holders_of_files()
        self.sockets = m.sockets()
        self.dark = m.dark()
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
            "holders": _holders(frozenset(self.held.get(scan.file_id(st), ()))),
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
                m = scan.PAGE_FILE.match(entry.name)
                if not m or (not self.every and f"{device}:{entry.inode()}" in self.held):
                    continue
                st = _lstat(entry.path)
                if not st or not stat.S_ISREG(st.st_mode):
                    continue
                f = self._fact("page", entry.path, f"{folder}/{entry.name}", st, m[1])
                f["page_sz"] = page_sz
                f["verdict"], f["why"] = self._verdict_of_page(f, int(m[2]), m[3])
                yield f

    def _verdict_of_page(self, f: Dict, number: int, seg: str | None) -> tuple[str, str]:
        if f["holders"]:
            return "held", _who(f["holders"])
        if unseen := self._unseen():
            return "unknown", unseen
        for e in self.eals:
            if e.prefix != f["file_prefix"] or not e.snapshot or not e.place:
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
            if flags & FLAG_DO_NOT_FREE and not os.path.lexists(f"{e.place.path}/mp_socket"):
                return "kept?", "its primary ended in order and kept it: --huge-unlink=never"
            return "stale", "its primary is gone and counts it as used"
        return "stale", "nobody has it locked, mapped or open"

    def _unseen(self) -> str:
        """Why no holder proves nothing here."""
        if not self.machine.whole:
            return "in a PID namespace of its own, holders outside are not seen"
        if self.dark:
            pids = ", ".join(map(str, self.dark[:4]))
            return f"processes with hugepages could not be looked into ({pids}): needs root"
        return ""

    def _directories(self) -> Iterator[Dict]:
        for place in self.machine.places():
            e = next((e for e in self.eals if e.place and e.place.path == place.path), None)
            files = [f for f in self._ours(place) if f]
            if not files:
                continue
            alive = e is not None and bool(e.locked or e.holders)
            if alive or any(f["holders"] for f in files):
                lists = [ml["name"] for ml in e.snapshot.lists] if e and e.snapshot else []
                yield from (f for f in files if self._is_dead(f, lists))
            else:
                st = _lstat(place.path)
                if st is None:  # gone meanwhile
                    continue
                d = self._fact("directory", place.path, place.shown, st, place.prefix)
                d["bytes"] = sum(f["bytes"] for f in files)
                d["files"] = [f["path"].rpartition("/")[2] for f in files]
                if unseen := self._unseen_places(e):
                    d["verdict"], d["why"] = "unknown", unseen
                elif e and e.health[0] == "stale":
                    d["verdict"], d["why"] = (
                        "stale",
                        "its primary died: no lock on config, no process",
                    )
                else:
                    d["verdict"], d["why"] = "ended", "no lock on config, no process has it mapped"
                yield d

    def _unseen_places(self, e: scan.Eal | None) -> str:
        if not self.machine.whole:
            return "in a PID namespace of its own, secondaries outside are not seen"
        if e and e.snapshot is None and "root" in e.why:
            return e.why
        return ""

    def _ours(self, place: scan.Place) -> Iterator[Dict]:
        for name in sorted(_listdir(place.path)):
            st = _lstat(f"{place.path}/{name}")
            if not st or not (name in FILES or name.startswith(HEADS)):
                continue
            if stat.S_ISREG(st.st_mode) or stat.S_ISSOCK(st.st_mode):
                kind = "socket" if stat.S_ISSOCK(st.st_mode) else "file"
                shown = f"{place.shown}/{name}"
                f = self._fact(kind, f"{place.path}/{name}", shown, st, place.prefix)
                if kind == "socket":
                    last = f"/dpdk/{place.prefix}/{name}"
                    f["bound"] = any(s.endswith(last) for s in self.sockets)
                    if f["bound"]:
                        f["holders"] = [{"pid": 0, "by": ["socket"]}]
                yield f

    def _is_dead(self, f: Dict, lists: list[str]) -> bool:
        """Sockets and shadow arrays of secondaries that are gone, beside a living primary."""
        name = f["path"].rpartition("/")[2]
        heads = ("mp_socket_", *(f"fbarray_{ml}_" for ml in lists))
        if f["holders"] or not name.startswith(heads):
            return False
        f["verdict"], f["why"] = "stale", "of a secondary that is gone"
        if unseen := self._unseen_places(None):
            f["verdict"], f["why"] = "unknown", unseen
        return True

    def _confirm(self) -> None:
        """A second look at what seems free: it may have been made while the first one lasted.

        A file that is only open is held, too.
        """
        words = ("stale", "kept?", "ended") if self.every else ("stale", "kept?")
        free = [f for f in self.items if f["verdict"] in words]
        if not free:
            return
        machine, kinds = scan.Machine(readings=2), {f["kind"] for f in free}
        held = machine.holders_of_files() if kinds - {"directory"} else {}
        names = {f["path"].rpartition("/")[2] for f in free if f["kind"] == "page"}
        opened = machine.open_files(names) if names else {}
        eals = machine.eals_in_sight() if "directory" in kinds else []
        living = (e.place for e in eals if e.place and (e.locked or e.holders))
        alive = {(st.st_dev, st.st_ino) for p in living if (st := _lstat(p.path))}
        for f in free:
            if f["kind"] == "directory":
                if (f["dev"], f["inode"]) in alive:
                    f["verdict"], f["why"] = "held", "by a process that has just started"
                continue
            by = held.get(f"{scan.device_id(f['dev'])}:{f['inode']}", set())
            if f["kind"] == "page":
                by |= {(pid, "open") for pid in opened.get(f["path"].rpartition("/")[2], ())}
            if by:
                f["holders"] = _holders(frozenset(by))
                f["verdict"], f["why"] = "held", _who(f["holders"])


def _files(path: str, shown: str, deep: int = 3) -> Iterator[tuple[os.DirEntry[str], str, str]]:
    """(entry, device_id, folder as it is called there) of every file below a mount point.

    Links are not followed; --huge-dir may be a folder in it.
    """
    try:
        entries = sorted(os.scandir(path), key=lambda e: e.name)
        device = scan.device_id(os.stat(path).st_dev)
    except OSError:
        return
    for e in entries:
        if e.is_dir(follow_symlinks=False) and deep:
            yield from _files(e.path, f"{shown}/{e.name}", deep - 1)
        else:
            yield e, device, shown


def _flags_of(e: scan.Eal, f: Dict, number: int, seg: str | None) -> int | None:
    """Flags of the page that the config has in that file, None if it has none there."""
    s = e.snapshot
    assert s and e.place
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


def _listdir(path: str) -> list[str]:
    try:
        return os.listdir(path)
    except OSError:
        return []


@functools.cache
def _user(uid: int) -> str:
    import pwd

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


@functools.cache
def _holders(held: frozenset[tuple[int, str]]) -> list[Dict]:
    """By pid: thousands of files have the same."""
    by: dict[int, list[str]] = {}
    for pid, how in sorted(held):
        by.setdefault(pid, []).append(how)
    return [{"pid": pid, "by": how} for pid, how in by.items()]


def _who(holders: list[Dict]) -> str:
    return "by " + ", ".join(
        f"{h['pid'] or 'a process not in sight'} ({'+'.join(h['by'])})" for h in holders
    )


# --- showing


def run(args: argparse.Namespace) -> int:
    with Patience("looking at files and processes"):
        look = Look(args.all)
    if args.prefixes:
        look.items = [f for f in look.items if f["file_prefix"] in args.prefixes]
    wanted = ("stale", "kept?") if args.kept else ("stale",)
    shown = [f for f in look.items if args.all or f["verdict"] not in ("held", "ended")]
    targets = [f for f in look.items
               if f["verdict"] in wanted or (args.all and f["verdict"] == "ended")]  # fmt: skip
    hidden = bool(look.machine.closed)
    if args.delete:
        if not args.json:
            _show(shown, args.verbose, hidden)
        if targets and (args.yes or _asked(targets)):
            for f in targets:
                f["deleted"], f["why"] = delete(f)
        if not args.json:
            _tell(targets)
    if args.json:
        totals = {"reclaimable_bytes": sum(f["bytes"] for f in targets if f["kind"] == "page")}
        print(document("stale", {**totals, "items": shown, **_sight(look)}))
    elif not args.delete:
        _show(shown, args.verbose, hidden)
        for line in _not_seen(look):
            print(ink(line, DIM))
        if any(f["verdict"] == "stale" for f in shown):
            print(ink("pyeal stale --delete removes what is stale", DIM))
    left = [f for f in look.items
            if f["verdict"] in ("stale", "kept?", "unknown") and not f.get("deleted")]  # fmt: skip
    return 1 if left or hidden else 0


def _sight(look: Look) -> Dict:
    from pyeal.tools.ps import seen

    return seen(look.machine)


def _not_seen(look: Look) -> list[str]:
    from pyeal.tools.ps import not_seen

    return not_seen(look.machine)


def _show(shown: list[Dict], verbose: bool, hidden: bool) -> None:
    if not shown:
        print("nothing is left over" + " where this user can look" * hidden)
        return
    groups: dict[tuple[str, ...], list[Dict]] = {}
    for f in shown:
        where = f["shown"].rpartition("/")[0] if f["kind"] == "page" else f["shown"]
        key = f["kind"], f["file_prefix"], where, f["owner"], f["verdict"], f["why"]
        groups.setdefault(key, []).append(f)
    rows = [("PREFIX", "WHAT", "WHERE", "BYTES", "OWNER", "AGE")]
    for (kind, prefix, where, owner, _, _), files in groups.items():
        what = kind
        if kind == "page":
            what = count(len(files), f"{size(files[0]['page_sz'])} page file")
        elif kind == "directory":
            what = f"directory of {count(len(files[0]['files']), 'file')}"
        total, oldest = sum(f["bytes"] for f in files), max(f["age_s"] for f in files)
        rows.append((prefix, what, where, size(total), owner, age(oldest)))
    lines = table(rows, right="BYTES AGE").splitlines()
    width = max(map(len, lines)) + 2
    print(ink(f"{lines[0]:{width}}VERDICT", BOLD))
    for line, (kind, *_, verdict, why), files in zip(
        lines[1:], groups, groups.values(), strict=True
    ):
        word = "kept on purpose?" if verdict == "kept?" else verdict
        print(f"{line:{width}}{ink(word, LOOKS[verdict])}: {why}")
        for f in files if verbose and kind == "page" else ():
            proof = "" if f["holders"] else "  no lock, no mapping, no descriptor"
            print(ink(f"  {f['shown']}  {size(f['bytes'])}  {age(f['age_s'])}{proof}", DIM))


# --- deleting


def _asked(targets: list[Dict]) -> bool:
    pages = [f for f in targets if f["kind"] == "page"]
    rest = len(targets) - len(pages)
    words = [count(len(pages), "page file") + f" ({size(sum(f['bytes'] for f in pages))})"] * bool(
        pages
    )
    words += [count(rest, "directory or file", "directories and files")] * bool(rest)
    print(f"delete {' and '.join(words)}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _tell(targets: list[Dict]) -> None:
    done = [f for f in targets if f.get("deleted")]
    for f in targets:
        if f.get("deleted") is False:
            print(ink(f"kept {f['shown']}: {f['why']}", YELLOW))
    pages = [f for f in done if f["kind"] == "page"]
    if not done:
        print("nothing was deleted")
    else:
        print(ink(f"deleted {count(len(done), 'item')}, {size(sum(f['bytes'] for f in pages))} "
                  "of hugepages are free again", CYAN))  # fmt: skip


def delete(f: Dict) -> tuple[bool, str]:
    """Removes what was looked at, if it still is that and nobody holds it: (whether, why).

    The directory is locked for it, as EAL does while it allocates, and the file across the unlink.
    """
    path = f["path"]
    try:
        if f["kind"] == "directory":
            return _delete_directory(path, f)
        folder, _, name = path.rpartition("/")
        dir_fd = _lock_directory(folder)
        try:
            _unlink(name, dir_fd, (f["dev"], f["inode"]))
        finally:
            os.close(dir_fd)
    except BlockingIOError:
        return False, "held meanwhile"
    except OSError as e:
        return False, e.strerror or str(e)
    return True, "deleted"


def _lock_directory(path: str) -> int:
    """The directory's descriptor, locked; links on the way are only followed if root made them."""
    root, _, rest = path.partition("/root/") if path.startswith("/proc/") else ("", "", path)
    kind = os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC
    fd = os.open(f"{root}/root/" if root else "/", kind)
    try:
        *parts, last = filter(None, rest.split("/"))
        for part in parts:
            st = os.stat(part, dir_fd=fd, follow_symlinks=False)
            follow = stat.S_ISLNK(st.st_mode) and st.st_uid == 0
            next_fd = os.open(part, kind | (0 if follow else os.O_NOFOLLOW), dir_fd=fd)
            os.close(fd)
            fd = next_fd
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        folder = os.open(last, flags, dir_fd=fd)
    finally:
        os.close(fd)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(folder)
        raise
    return folder


def _unlink(name: str, dir_fd: int, was: tuple[int, int]) -> None:
    """Unlinks one file under an exclusive lock; a socket, which cannot have one, without."""
    st = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
    if (st.st_dev, st.st_ino) != was:
        raise OSError(0, "it is another file by now", name)
    if stat.S_ISSOCK(st.st_mode):
        os.unlink(name, dir_fd=dir_fd)
        return
    fd = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    try:
        st = os.fstat(fd)
        if (st.st_dev, st.st_ino) != was or not stat.S_ISREG(st.st_mode):
            raise OSError(0, "it is another file by now", name)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(name, dir_fd=dir_fd)
    finally:
        os.close(fd)


def _delete_directory(path: str, f: Dict) -> tuple[bool, str]:
    """A runtime directory: config is locked as a primary locks it, and goes last."""
    dir_fd = _lock_directory(path)
    config = -1
    try:
        if "config" in f["files"]:
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC
            config = os.open("config", flags, dir_fd=dir_fd)
            fcntl.lockf(config, fcntl.LOCK_EX | fcntl.LOCK_NB)
        for name in sorted(f["files"], key="config".__eq__):
            st = os.stat(name, dir_fd=dir_fd, follow_symlinks=False)
            _unlink(name, dir_fd, (st.st_dev, st.st_ino))
        try:
            os.rmdir(path)
        except OSError:
            return True, "deleted; files of others keep the directory"
    finally:
        if config >= 0:
            os.close(config)
        os.close(dir_fd)
    return True, "deleted"
