"""Proof that the tests can fail: faults put into a copy of pyeal, which the tests must find.

    python -m conformance mutations [ID ...] [-j N] [--changed] [-o DIR] [--target librte_eal]

mutations.toml lists the faults. One is caught when a test of its requirement fails with it, and
passes right after without it. The table of all is DIR/mutations.json and .md. The exit code is 0
when all were caught (without those that need another machine), 1 when one survived, 2 when one
could not run. With --target librte_eal the faults are those of lies.toml: lie.c changes one call of
the installed library, and the table is DIR/lies.json and .md.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pyeal
from conformance import SUITE
from conformance.campaigns.mutations import page
from pyeal import loans

SELFTEST = SUITE / "selftest"
PACKAGE = Path(pyeal.__file__).parent
LIE = Path(__file__).with_name("lie.c")
TABLES = {"pyeal": "mutations", "librte_eal": "lies"}
CAUGHT, SURVIVED, COULD_NOT, ELSEWHERE = WORDS = "caught", "survived", "could not run", "elsewhere"


class Mutation(NamedTuple):
    """`old` becomes `new` in a file of the package, or the target tells a `lie` (lying_target.py).
    `target` shows it to the test of `id`; on a virtual `machine` if this one lacks something."""

    id: str
    file: str = ""
    old: str = ""
    new: str = ""
    lie: str = ""
    target: str = "pyeal"
    machine: str = ""
    call: str = ""  # of librte_eal, which lie.c changes
    when: str = ""
    change: str = ""

    def __str__(self):
        where = self.file.removeprefix("pyeal/") or self.target
        return f"{self.id:9} {where:15} {page.change(self, 40)}"

    def fault(self):
        """Why the entry is stale, or None."""
        n = 1 if self.lie or self.call else (PACKAGE.parent / self.file).read_text().count(self.old)
        return None if n == 1 else f"{self}: `old` stands {n} times in the file"

    def state(self):
        """Changes with the file that is mutated and with that of the test."""
        own = LIE if self.call else PACKAGE.parent / (self.file or "pyeal/agent.py")
        files = [tests()[self.id], own]
        return hashlib.sha256(b"".join(f.read_bytes() for f in files)).hexdigest()[:12]


@functools.cache
def listed(table="mutations"):
    return tomllib.loads((SELFTEST / f"{table}.toml").read_text())


def load(table="mutations"):
    more = {"target": "librte_eal"} if table == "lies" else {}
    return [
        Mutation(id, **more, **{k: v for k, v in e.items() if k not in ("id", "ids")})
        for e in listed(table)["mutation"]
        for id in e.get("ids", [e.get("id")])
    ]


def unshown():
    """{id of a must row: why no fault shows that its test can fail}"""
    return listed()["unshown"]


@functools.cache
def tests():
    """{id: the file that its test stands in}"""
    found = {}
    for path in SUITE.glob("families/*/test_*.py"):
        for id in re.findall(r'^@requirement\("([A-Z]+-\d+)"\)', path.read_text(), re.M):
            found[id] = path
    return found


def replayed(chosen, jobs=1):
    """(mutation, verdict, test, what it said) of each as they come: one pytest for each target,
    with the plugin replay.py."""
    for target in dict.fromkeys(m.target for m in chosen):
        todo = {i: m for i, m in enumerate(chosen) if m.target == target}
        with tempfile.TemporaryDirectory(prefix="mutations-") as tmp:
            os.chmod(tmp, 0o755)  # some targets run as nobody
            Path(tmp, "faults.json").write_text(json.dumps(list(todo.items())))
            told, tell = os.pipe()
            argv = ["-c", SUITE / "pytest.toml", *sorted({tests()[m.id] for m in todo.values()})]
            argv += ["-q", "-p", "no:cacheprovider", "-p", "conformance.campaigns.mutations.replay"]
            argv += [f"--target={target}", f"--basetemp={tmp}/t"]
            argv += [f"--faults={tmp}", f"--tell={tell}", f"--jobs={jobs}"]
            with open(f"{tmp}/out", "w+") as out:
                run = subprocess.Popen(
                    [sys.executable, "-P", "-m", "pytest", *argv],
                    env=os.environ | {"PYTHONPATH": str(SUITE.parent)},
                    stdout=out,
                    stderr=out,
                    pass_fds=[tell],
                )
                os.close(tell)
                try:
                    with open(told) as lines:
                        for line in lines:
                            i, *answer = json.loads(line)
                            yield todo.pop(i), *answer
                finally:
                    if todo:
                        run.terminate()  # which ends its forks first
                    run.wait()
                out.seek(0)
                words = " ".join(out.read().split())[-300:]
            for m in todo.values():
                yield m, COULD_NOT, "", f"pytest ended with {run.returncode}: {words}"


class Table:
    """What was seen last of each fault: mutations.json, and mutations.md made of it; of lies,
    lies.json and lies.md."""

    def __init__(self, folder, name="mutations"):
        self.folder, self.name, self.rows = folder, name, {}
        if (path := folder / f"{name}.json").exists():
            self.add(path)

    def add(self, path):
        """What another table saw."""
        for r in json.loads(path.read_text()):
            m = Mutation(**r["mutation"])
            self.rows[m] = r | {"mutation": m}

    def put(self, m, verdict, test, said):
        said = said.replace(sys.executable, "python")  # wherever that lies on this machine
        row = {"mutation": m, "verdict": verdict, "test": test, "said": said, "state": m.state()}
        if verdict != ELSEWHERE or m not in self.rows:
            self.rows[m] = row

    def holds(self, m):
        """Caught, and neither the file of pyeal nor that of the test has changed since."""
        row = self.rows.get(m)
        return bool(row) and (row["verdict"], row["state"]) == (CAUGHT, m.state())

    def write(self):
        rows = [self.rows[m] for m in load(self.name) if m in self.rows]
        text = ",\n".join(
            json.dumps(r | {"mutation": shown(r["mutation"])}, ensure_ascii=False) for r in rows
        )
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / f"{self.name}.json").write_text(f"[\n{text}\n]\n")
        (self.folder / f"{self.name}.md").write_text(self.page())

    def page(self):
        seen = [self.rows[m] for m in load(self.name) if m in self.rows]
        return page.lies(seen) if self.name == "lies" else page.markdown(seen, unshown())


def shown(m):
    return {k: v for k, v in m._asdict().items() if v}


def main(argv):
    p = argparse.ArgumentParser(
        prog="ci/mutations",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("ids", nargs="*", metavar="ID", help="only these: FBA-017, 'MSL-*'")
    p.add_argument("--target", choices=TABLES, default="pyeal", help="librte_eal: lies.toml")
    p.add_argument("-j", "--jobs", type=int, default=len(os.sched_getaffinity(0)), metavar="N")
    p.add_argument("-o", type=Path, default=Path("docs"), metavar="DIR", help="where the table is")
    p.add_argument(
        "--changed",
        action="store_true",
        help="only what the table does not show caught with these very files",
    )
    p.add_argument("--reserve", metavar="PAGES", help="hugepages to lease meanwhile: 2M:128,1G:1")
    args = p.parse_args(argv)
    for s in signal.SIGTERM, signal.SIGHUP:  # loans go back however we are ended
        signal.signal(s, signal.default_int_handler)
    try:
        if args.reserve:
            print(f"hugepages taken: {loans.text(loans.lease(loans.parse(args.reserve)))}")
        return replay(args)
    except (loans.Refused, OSError) as e:
        print(f"mutations: {e}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 130
    finally:
        loans.give_back()


def replay(args):
    name = TABLES[args.target]
    chosen = [m for m in load(name) if not args.ids or any(fnmatchcase(m.id, i) for i in args.ids)]
    if stale := [fault for m in chosen if (fault := m.fault())]:
        print(*stale, sep="\n")
        return 2
    table = Table(args.o, name)
    if args.changed:
        chosen = [m for m in chosen if not table.holds(m)]
    found = {word: [] for word in WORDS}
    begun = cpu()
    try:
        for m, verdict, test, said in replayed(chosen, args.jobs):
            found[verdict].append(m)
            table.put(m, verdict, test, said)
            print(f"{verdict:13} {m}\n{'':13} {test}: {said}", flush=True)
    finally:
        table.write()
    for word in WORDS[1:]:
        for m in found[word]:
            print(f"{word}: {m}")
    if names := {m.machine for m in found[ELSEWHERE]}:
        ids = " ".join(dict.fromkeys(m.id for m in found[ELSEWHERE]))
        print(*(f"elsewhere: ci/machines run {n} -- ci/mutations {ids}" for n in sorted(names)))
    counts = ", ".join(f"{len(found[word])} {word}" for word in WORDS if word != ELSEWHERE or names)
    print(f"{counts}; {(cpu() - begun) / max(1, len(chosen)):.2f} s of CPU time each")
    return 1 if found[SURVIVED] else 2 if found[COULD_NOT] else 0


def cpu():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
