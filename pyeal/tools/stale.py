"""`pyeal stale`: what dead EALs left behind, with proof; --delete removes it."""

from __future__ import annotations

import sys

from pyeal.look.leftovers import Leftovers
from pyeal.tools import (
    BOLD,
    CYAN,
    DIM,
    GREEN,
    RED,
    YELLOW,
    Progress,
    UsageError,
    age,
    answers,
    coloured_word,
    count,
    document,
    ink,
    printable,
    printable_facts,
    size,
    table,
)
from pyeal.tools.ps import not_seen, seen
from pyeal.tools.removal import delete

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from typing import Any

    Dict = dict[str, Any]

TEXT = """List what dead EALs left behind: files that still hold hugepages, and files of runtime
directories. Each verdict has its proof: lock, mappings, descriptors, sockets. Only --delete removes
files: those whose verdict is stale, also with --all, and never a file that a process holds.
Exit code: 0 nothing is left over; 1 something is, or may be; 2 for wrong arguments."""
EXAMPLES = """  pyeal stale                  what is left, and which EAL left it
  pyeal stale demo --delete    remove what is proven stale of --file-prefix=demo"""

# held: a process has it. ended: what a clean exit leaves, and the next start overwrites
COLOURS = {
    "stale": RED,
    "kept?": YELLOW,
    "unknown": YELLOW,
    "held": GREEN,
    "warm": GREEN,
    "ended": DIM,
}


def arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("prefixes", nargs="*", metavar="PREFIX", help="only of these --file-prefixes")
    p.add_argument(
        "-a",
        "--all",
        action="store_true",
        help="also what is held, and directories that clean exits left",
    )
    p.add_argument("-v", "--verbose", action="store_true", help="a line for each file")
    p.add_argument("--delete", action="store_true", help="remove what is stale, after a question")
    p.add_argument(
        "--kept",
        action="store_true",
        help="with --delete: also what is, or may be, kept on purpose",
    )
    p.add_argument("-y", "--yes", action="store_true", help="with --delete: no question")
    answers.argument(p)
    p.add_argument("--json", action="store_true", help="as JSON, schema pyeal.stale/1")


# --- showing


def run(args: argparse.Namespace) -> int:
    if args.archive:
        return _recorded(args)
    with Progress("looking at files and processes"):
        found = Leftovers(args.all)
    if args.prefixes:
        found.items = [f for f in found.items if f["file_prefix"] in args.prefixes]
    wanted = ("stale", "kept?", "warm") if args.kept else ("stale",)
    shown = [f for f in found.items if args.all or f["verdict"] not in ("held", "ended")]
    targets = [f for f in found.items if f["verdict"] in wanted]
    hidden = bool(found.machine.unreadable_directories or found.machine.crowded)
    if args.delete:
        if not args.json:
            _show(shown, args.verbose, hidden)
        if targets and (args.yes or _asked(targets)):
            again = {
                _key(f): f for f in Leftovers(args.all).items
            }  # the answer may have taken long
            for f in targets:
                now = again.get(_key(f))
                if now and now["verdict"] in wanted:
                    f["deleted"], f["why"] = delete(f)
                else:
                    f["deleted"], f["why"] = False, now["why"] if now else "held or gone meanwhile"
        if not args.json:
            _tell(targets)
    if args.json:
        totals = {"reclaimable_bytes": sum(f["bytes"] for f in targets if f["kind"] == "page")}
        items = [{k: v for k, v in f.items() if k != "looked_at"} for f in shown]
        print(document("stale", {**totals, "items": items, **seen(found.machine)}))
    elif not args.delete:
        _show(shown, args.verbose, hidden)
        for line in not_seen(found.machine):
            print(ink(printable(line), DIM))
        if any(f["verdict"] == "stale" for f in shown):
            print(ink("pyeal stale --delete removes what is stale", DIM))
    left = [
        f
        for f in found.items
        if f["verdict"] in ("stale", "kept?", "unknown") and not f.get("deleted")
    ]
    return 1 if left or hidden else 0


def _recorded(args: argparse.Namespace) -> int:
    """Show what was left on the machine of an archive."""
    if args.delete:
        raise UsageError("--delete is of this machine, not of an archive")
    code, said = answers.recorded(args.archive, "stale")
    with answers.of_others(args.archive):
        items = [f for f in said["items"] if args.all or f["verdict"] not in ("held", "ended")]
        if args.prefixes:
            items = [f for f in items if f["file_prefix"] in args.prefixes]
            left = [f for f in items if f["verdict"] in ("stale", "kept?", "unknown")]
            code = int(bool(left or said["unreadable_directories"] or said["crowded_directories"]))
        if args.json:
            schema = said.pop("schema")
            print(document("stale", {**said, "items": items}, int(schema.rpartition("/")[2])))
        else:
            _show(items, args.verbose, False)
    return code


def _show(shown: list[Dict], verbose: bool, hidden: bool) -> None:
    shown = printable_facts(shown)
    if not shown:
        print("nothing is left over" + " where this user can look" * hidden)
        return
    groups: dict[tuple[str, ...], list[Dict]] = {}
    for f in shown:
        where = f["shown"].rpartition("/")[0] if f["kind"] == "page" else f["shown"]
        key = f["kind"], f["file_prefix"], where, f["owner"], f["verdict"], f["why"]
        groups.setdefault(key, []).append(f)
    rows = [("PREFIX", "WHAT", "WHERE", "BYTES", "OWNER", "AGE", "VERDICT")]
    proofs: list[list[str]] = []
    for (kind, prefix, where, owner, verdict, why), files in groups.items():
        what = kind
        if kind == "page":
            what = count(len(files), f"{size(files[0]['page_sz'])} page file")
        elif kind == "directory":
            what = f"directory of {count(len(files[0]['files']), 'file')}"
        total, oldest = sum(f["bytes"] for f in files), max(f["age_s"] for f in files)
        word = "kept on purpose?" if verdict == "kept?" else verdict
        rows.append((prefix, what, where, size(total), owner, age(oldest), f"{word}: {why}"))
        proofs.append([_proof(f) for f in files if verbose and kind == "page"])
    head, *lines = table(rows, right="BYTES AGE", fit=True).splitlines()
    print(ink(head, BOLD))
    rest = iter(proofs)
    for i, line in enumerate(lines):
        print(coloured_word(line, COLOURS))
        if i + 1 == len(lines) or not lines[i + 1].startswith("    "):
            for proof in next(rest, []):
                print(ink(f"  {proof}", DIM))


def _proof(f: Dict) -> str:
    """Return the line of one page file."""
    proof = "" if f["holders"] else "  no lock, no mapping, no descriptor"
    return f"{f['shown']}  {size(f['bytes'])}  {age(f['age_s'])}{proof}"


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


def _key(f: Dict) -> tuple[object, ...]:
    return f["kind"], f["dev"], f["inode"], f["path"]


def _tell(targets: list[Dict]) -> None:
    targets = printable_facts(targets)
    done = [f for f in targets if f.get("deleted")]
    for f in targets:
        if f.get("deleted") is False:
            print(ink(f"kept {f['shown']}: {f['why']}", YELLOW))
    pages = [f for f in done if f["kind"] == "page"]
    if not done:
        print("nothing was deleted")
    else:
        print(
            ink(
                f"deleted {count(len(done), 'item')}, {size(sum(f['bytes'] for f in pages))} "
                "of hugepages are free again",
                CYAN,
            )
        )
