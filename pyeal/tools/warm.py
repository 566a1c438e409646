"""`pyeal warm`: page files that the next start takes as they are, with zeros in them.

The kernel's clearing of pages is most of what a start costs. EAL with --huge-unlink=never takes the
page files that it finds, so they can be made before the start, by all CPUs of their node.
pyeal/tools/pages_ahead.py makes them; pyeal/look/warm.py has the record of what was made.
"""

from __future__ import annotations

import os
import re
from errno import EBUSY, EEXIST

from pyeal import releases
from pyeal.errors import EalError
from pyeal.tools import (
    BOLD,
    GREEN,
    Progress,
    UsageError,
    check_release,
    count,
    document,
    ink,
    printable,
    size,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    from pyeal.look.warm import Warm
    from pyeal.tools.dryrun import DryRun
    from pyeal.tools.pages_ahead import PagesAhead

    Dict = dict[str, Any]

TEXT = """Prepare the page files of a start: allocated on their nodes, zeroed, and named as EAL
names them. An unmodified EAL from 22.03 on with the same arguments and --huge-unlink=never takes
them as they are, and does not wait for the kernel to clear pages. Refuses if a process of the
prefix lives.
Exit code: 0 the files are there, or gone after --drop; 1 refused, or not enough pages; 2 a start
with these arguments cannot use such files, or wrong arguments."""
EXAMPLES = """\
  pyeal warm -- --file-prefix=app -m 4096 --huge-unlink=never    before the start
  pyeal warm --again -- --file-prefix=app -m 4096 --huge-unlink=never
                                                       zero what the last start left, and keep it
  pyeal warm --drop -- --file-prefix=app               return all pages to the kernel"""
TAKES_EAL_ARGS = True
OF_A_PID = re.compile(r"pid_?\d+|(?<!\d)\d{4,}$")  # as SPDK and scripts with $$ name prefixes
TIMEOUT = 60.0  # seconds that another EAL may hold a hugepage directory: a start of hundreds of GB


def arguments(p: argparse.ArgumentParser) -> None:
    p.usage = "pyeal warm [options] -- EAL-ARGS"
    p.add_argument("--as", dest="release", metavar="RELEASE", help=f"{releases.SPAN} (22.11)")
    how = p.add_mutually_exclusive_group()
    how.add_argument(
        "--again", action="store_true", help="zero the files of a process that is gone, keep them"
    )
    how.add_argument("--drop", action="store_true", help="remove all page files of the prefix")
    p.add_argument("--json", action="store_true", help="as JSON, schema pyeal.warm/1")


# --- whether it helps


def why_not(r: DryRun) -> tuple[str, str]:
    """Return why warm files cannot help a start, and what would change that; ("", "") if they do.

    r: the start, which must be possible.
    """
    o, never = r.options, "--huge-unlink=never"
    if o.no_huge:
        return "--no-huge uses no hugepages", ""
    if o.in_memory:
        return "--in-memory has no page files", f"{never} instead of --in-memory"
    if o.legacy_mem:
        return "--legacy-mem maps every free page at first, whatever files there are", ""
    if r.release.word < releases.word_of("22.03"):
        return f"{r.release.name} removes the page files it finds; releases from 22.03 on can", ""
    if o.unlink_existing:
        return "EAL removes the page files it finds", f"add {never}"
    if OF_A_PID.search(o.file_prefix):
        text = f"the prefix {o.file_prefix} names a process, and the next start has another one"
        return text, "--file-prefix=NAME, the same at each start"
    if not any(r.pages().values()):
        return "this start allocates no page before it needs one", "-m or --socket-mem"
    if beyond := sorted({node for (_, node), n in r.pages().items() if n and node}):
        # hugepage_info.c: calc_num_pages counts all pages on node 0 if there are files to reuse
        return f"if EAL reuses files it counts them all on node 0, and misses node {beyond[0]}", ""
    return "", ""


# --- the command


def run(args: argparse.Namespace) -> int:
    check_release(args.release)
    if args.drop:
        return _drop(args)
    from pyeal.tools.dryrun import DryRun

    with DryRun(args.eal_args, args.release) as r:
        if r.error and r.error.stage == "options":
            raise UsageError(r.error.text)
        if r.error:
            raise r.error.within("The start itself would fail")
        why, fix = why_not(r)
        if why:
            raise UsageError(f"warm files cannot help: {why}" + (f". Fix: {fix}" if fix else ""))
        from pyeal.tools.pages_ahead import PagesAhead

        ahead = PagesAhead(r)
    with Progress("preparing pages"):
        record, zeroed = _prepare(ahead, args.again)
    _tell(args.json, ahead, record, zeroed)
    return 0


def _prepare(ahead: PagesAhead, again: bool) -> tuple[Warm, int]:
    """Make what is missing; return the record, and how many bytes were zeroed."""
    from pyeal.look import warm

    with ahead.locked(TIMEOUT):
        _check_not_alive(ahead.runtime_dir)
        old = ahead.existing()
        known = warm.read(ahead.runtime_dir)
        clean = {f.path: f for f in known.clean()} if known else {}
        clean = {path: f for path, f in clean.items() if path in old and not again}
        dirty = [path for path in old if path not in clean]
        if dirty and not again:
            n = count(len(dirty), "page file")
            what = f"Cannot prepare pages: {n} of an earlier start, as {dirty[0]}"
            fix = "pyeal warm --again zeroes them and keeps them, --drop removes them"
            raise EalError(EEXIST, "warm", what, expected="none", found="data", fix=fix)
        if old:
            _check_not_held(old, ahead.runtime_dir)
        return ahead.make(dirty, clean)


def _check_not_alive(directory: str) -> None:
    """Raise EalError(EBUSY) if a primary or secondary of the prefix lives."""
    from pyeal.look.process_view import ProcessView

    held = ProcessView().config(directory)
    if held and held.alive:
        who = f"process {held.owner}" if held.owner else "a process"
        what = f"Cannot prepare pages while {who} uses the prefix"
        raise EalError(EBUSY, "warm", what, fix="end it first")


def _check_not_held(paths: list[str], directory: str) -> None:
    """Raise EalError(EBUSY) if a process has one of these files, or may have it unseen."""
    from pyeal.look.leftovers import Leftovers

    ids = {(st.st_dev, st.st_ino) for st in map(os.lstat, paths)}
    for f in Leftovers(every=True).items:
        mine = f["kind"] == "page" and (f["dev"], f["inode"]) in ids
        if mine and f["verdict"] in ("held", "unknown"):
            what = f"Cannot prepare pages while {f['shown']} is in use"
            found = f"{f['verdict']} {f['why']}"
            raise EalError(EBUSY, "warm", what, found=found, fix="end that process first")


def _tell(as_json: bool, ahead: PagesAhead, record: Warm, zeroed: int) -> None:
    total = sum(f.pages * f.page_sz for f in record.files.values())
    if as_json:
        rows: dict[tuple[int, int], list[int]] = {}
        for f in record.files.values():
            row = rows.setdefault((f.page_sz, f.node), [0, 0])
            row[0], row[1] = row[0] + 1, row[1] + f.pages
        pages = [{"page_sz": k[0], "node": k[1], "files": a, "n": n} for k, (a, n) in rows.items()]
        more = {"bytes": total, "zeroed_bytes": zeroed, "pages": pages}
        facts = {"file_prefix": ahead.prefix, "runtime_dir": ahead.runtime_dir}
        print(document("warm", {**facts, "release": record.release, **more}))
        return
    if zeroed:
        done = f"{size(zeroed)} zeroed just now"
    else:
        done = "as they were"
    files = count(len(record.files), "page file")
    print(f"{ink('warm', BOLD, GREEN)}: {files} of {size(total)} for {ahead.prefix}, {done}")


# --- giving back


def _drop(args: argparse.Namespace) -> int:
    """Remove the page files of the prefix that this user owns, and the record."""
    from pyeal import options
    from pyeal.host import LOCAL
    from pyeal.look import warm
    from pyeal.look.leftovers import Leftovers
    from pyeal.tools.removal import delete

    release = releases.get(args.release or releases.DEFAULT)
    try:
        prefix = options.parse(args.eal_args, release).file_prefix
    except EalError as e:
        raise UsageError(e.text) from None
    directory = LOCAL.runtime_dir(prefix, release)
    _check_not_alive(directory)
    with Progress("looking at files and processes"):
        found = [
            f
            for f in Leftovers(every=True).items
            if (f["kind"], f["file_prefix"], f["uid"]) == ("page", prefix, os.geteuid())
            and f["path"] == f["shown"]
        ]
    for f in found:
        if f["verdict"] in ("held", "unknown"):
            what = f"Cannot return pages: {f['shown']} is in use"
            raise EalError(EBUSY, "warm", what, found=f["why"], fix="end that process first")
    freed, kept = 0, list[str]()
    for f in found:
        done, why = delete(f)
        freed += f["bytes"] if done else 0
        kept += [] if done else [f"{f['shown']}: {why}"]
    if not kept:
        for remove, path in (os.unlink, f"{directory}/{warm.RECORD}"), (os.rmdir, directory):
            try:
                remove(path)
            except OSError:  # it was not there; files of EAL keep the directory
                pass
    if args.json:
        facts = {"file_prefix": prefix, "runtime_dir": directory}
        print(document("warm", {**facts, "freed_bytes": freed, "kept": kept}))
    else:
        for line in kept:
            print(printable(f"kept {line}"))
        print(f"{size(freed)} of {prefix} are free again" if freed else f"{prefix} keeps no page")
    return 1 if kept else 0
