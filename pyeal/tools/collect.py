"""`pyeal collect`: one archive of all that its tools read of a machine, to be read elsewhere."""

from __future__ import annotations

import io
import json
import os
import platform
import sys
import time
from glob import iglob
from itertools import islice

from pyeal.errors import EalError
from pyeal.look.machine import Machine
from pyeal.look.process_view import ProcessView
from pyeal.look.runtime_dir import FILES, is_of_eal
from pyeal.look.sources import Folder
from pyeal.tools import (
    Progress,
    UsageError,
    answers,
    check_release,
    count,
    document,
    printable,
    size,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    import tarfile
    from typing import Any

    from pyeal.look.process import Process

    Dict = dict[str, Any]

TEXT = """Write one archive of all that these tools read of this machine: runtime directories, page
files with their holders, pools, mounts, limits, cgroups, locks, EAL's processes, and what ps, stale
and doctor say. No content of a page is in it; values of passwords, keys and tokens are left out of
command lines and logs. Nothing is changed. ps, stale and doctor --from ARCHIVE show it elsewhere;
inspect, map and dump read its runtime directories.
Exit code: 0; 1 if the archive cannot be written; 2 for wrong arguments."""
EXAMPLES = """  pyeal collect                            into ./pyeal-DATE.tar.gz
  pyeal collect --log app.log -- -l 0-3    with a log, and doctor's answer for these arguments
  pyeal doctor --from pyeal-DATE.tar.gz    elsewhere
  pyeal collect --sos-plugin >/usr/lib/python3/dist-packages/sos/report/plugins/pyeal.py"""
TAKES_EAL_ARGS = True

MOST = 256 << 20  # bytes of all files together
MOST_OF_FILE, MOST_OF_LOG = 8 << 20, 4 << 20
MOST_FILES = 20_000
OF_MACHINE = (  # patterns of files
    "/proc/version",
    "/proc/cmdline",
    "/proc/meminfo",
    "/proc/locks",
    "/proc/self/mounts",
    "/proc/self/mountinfo",
    "/proc/self/cgroup",
    "/proc/self/limits",
    "/proc/self/status",
    "/proc/sys/kernel/core_pattern",
    "/proc/sys/vm/*hugepages*",
    "/proc/sys/vm/max_map_count",
    "/proc/sys/vm/overcommit_*",
    "/sys/kernel/mm/hugepages/hugepages-*/*",
    "/sys/kernel/mm/transparent_hugepage/enabled",
    "/sys/devices/system/node/*",
    "/sys/devices/system/node/node*/cpulist",
    "/sys/devices/system/node/node*/meminfo",
    "/sys/devices/system/node/node*/distance",
    "/sys/devices/system/node/node*/hugepages/hugepages-*/*",
    "/sys/devices/system/cpu/online",
)
OF_PROCESS = (
    *("cgroup", "cmdline", "comm", "coredump_filter", "limits", "maps", "mountinfo", "numa_maps"),
    *("oom_score_adj", "stat", "status", "wchan"),
)

SOS_PLUGIN = '''"""A plugin for sos: what `pyeal collect` writes."""

from sos.report.plugins import IndependentPlugin, Plugin


class Pyeal(Plugin, IndependentPlugin):
    short_desc = "Memory of DPDK's EAL"
    plugin_name = "pyeal"
    profiles = ("network", "memory")
    commands = ("pyeal",)

    def setup(self):
        command = "pyeal collect --output -"
        self.add_cmd_output(command, suggest_filename="pyeal.tar.gz", binary=True)
'''


def arguments(p: argparse.ArgumentParser) -> None:
    p.usage = "pyeal collect [options] [-- EAL-ARGS]"
    p.add_argument("-o", "--output", metavar="FILE", help="the archive (- is standard output)")
    p.add_argument("--pid", type=int, help="doctor's answer as that process")
    p.add_argument("--as", dest="release", metavar="RELEASE", help="doctor's answer for it (22.11)")
    p.add_argument(
        "--log", metavar="FILE", action="append", default=[], help="also the end of this log"
    )
    p.add_argument("--sos-plugin", action="store_true", help="print a plugin for sos, and end")
    p.add_argument("--json", action="store_true", help="what was written, schema pyeal.collect/1")


def run(args: argparse.Namespace) -> int:
    if args.sos_plugin:
        print(SOS_PLUGIN, end="")
        return 0
    check_release(args.release)
    if args.pid and not os.path.isdir(f"/proc/{args.pid}"):
        raise UsageError(f"no process {args.pid}")
    if args.json and args.output == "-":
        raise UsageError("--json and --output - both are of standard output")
    name = args.output or time.strftime("pyeal-%Y%m%d-%H%M%S.tar.gz")
    logs = [(path, _end_of(path)) for path in args.log]
    if name == "-":
        _write(sys.stdout.buffer, args, logs)
        return 0
    fd = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb") as f, Progress("collecting"):
            facts = _write(f, args, logs)
    except BaseException:
        os.unlink(name)
        raise
    facts = {"archive": name, "bytes": os.stat(name).st_size, **facts}
    if args.json:
        print(document("collect", facts))
        return 0
    print(f"{printable(name)}: {count(facts['files'], 'file')}, {size(facts['bytes'])}")
    for line in facts["left_out"]:
        print(f"! left out: {printable(line)}")
    return 0


def _end_of(path: str) -> str:
    with open(path, "rb") as f:
        f.seek(max(os.fstat(f.fileno()).st_size - MOST_OF_LOG, 0))
        return answers.without_secrets(f.read(MOST_OF_LOG).decode("utf-8", "replace"))


def _write(f: Any, args: argparse.Namespace, logs: list[tuple[str, str]]) -> Dict:
    import tarfile

    with tarfile.open(fileobj=f, mode="w|gz") as tar:
        archive = Writer(tar)
        for command in answers.KEPT:
            more, eal_args = [], list[str]()
            if command == "doctor":
                more += [f"--pid={args.pid}"] if args.pid else []
                more += [f"--as={args.release}"] if args.release else []
                eal_args = args.eal_args
            archive.answer(command, more, eal_args)
        machine = Machine()
        for pattern in OF_MACHINE:
            for path in sorted(iglob(pattern)):
                archive.file(path)
        eals = machine.eals()
        processes = {p.pid: p for p in (*machine.processes, *(p for e in eals for p in e.holders))}
        for process in processes.values():
            archive.process(process)
        for pid in (None, *processes):
            for folder in ProcessView(pid).cgroups():
                for path in sorted(iglob(f"{folder}/hugetlb.*")):
                    archive.file(path)
        for directory in machine.directories():
            archive.directory(directory.path)
        for n, (path, text) in enumerate(logs):
            archive.add(f"logs/{n}-{os.path.basename(path)}", text.encode())
        return archive.close()


class Writer:
    """An archive that is being written. Each file is once in it, within the limits."""

    def __init__(self, tar: tarfile.TarFile) -> None:
        self.tar, self.left, self.now = tar, MOST, time.time()
        self.names: set[str] = set()
        self.left_out: list[str] = []

    def add(self, name: str, data: bytes) -> None:
        import tarfile

        if name in self.names:
            return
        if len(data) > self.left or len(self.names) >= MOST_FILES:
            self.left_out.append(f"{name}: {len(data)} bytes are over the limit")
            return
        self.names.add(name)
        self.left -= len(data)
        member = tarfile.TarInfo(name)
        member.size, member.mtime, member.mode = len(data), int(self.now), 0o600
        self.tar.addfile(member, io.BytesIO(data))

    def answer(self, command: str, more: list[str], eal_args: list[str]) -> None:
        """Add what a command says here."""
        try:
            code, said = answers.record(command, more, eal_args)
        except (EalError, OSError) as e:
            self.left_out.append(f"{command}: {e}")
            return
        kept = {"exit_code": code, "said": json.loads(answers.without_secrets(said))}
        self.add(f"{answers.FOLDER}/{command}.json", json.dumps(kept, indent=1).encode())

    def file(self, path: str) -> None:
        """Add a file of the kernel: its length is not known before it is read."""
        try:
            with open(path, "rb", buffering=0) as f:  # /proc/sys refuses to be asked for megabytes
                data = b""
                while len(data) <= MOST_OF_FILE and (part := f.read(1 << 16)):
                    data += part
        except IsADirectoryError:
            return
        except OSError as e:
            if not isinstance(e, FileNotFoundError) and not path.endswith("/demote"):
                self.left_out.append(f"{path}: {e.strerror}")
            return
        if len(data) > MOST_OF_FILE:
            self.left_out.append(f"{path}: all behind its first {size(MOST_OF_FILE)}")
        if path.endswith("/cmdline"):
            words = data[:MOST_OF_FILE].decode("utf-8", "surrogateescape")
            data = answers.without_secrets(words).encode("utf-8", "surrogateescape")
        self.add(f"root{path}", data[:MOST_OF_FILE])

    def process(self, p: Process) -> None:
        """Add the files of a process, and where its descriptors and namespaces lead."""
        for name in OF_PROCESS:
            self.file(f"{p.at}/{name}")
        links = {}
        for path in islice((*iglob(f"{p.at}/fd/*"), *iglob(f"{p.at}/ns/*")), MOST_FILES):
            try:
                links[path[len(p.at) + 1 :]] = os.readlink(path)
            except OSError:
                continue
        self.add(f"processes/{p.pid}.json", json.dumps({"links": links}, indent=1).encode())

    def directory(self, path: str) -> None:
        """Add EAL's files of a runtime directory; sockets and all else stay."""
        try:
            folder = Folder(path)
            names = [n for n in folder.names() if n in FILES or n.startswith("fbarray_")]
        except OSError as e:
            self.left_out.append(f"{path}: {e.strerror}")
            return
        for name in filter(is_of_eal, names):
            try:
                self.add(f"root{path}/{name}", folder.read(name))
            except OSError as e:
                self.left_out.append(f"{path}/{name}: {e.strerror}")

    def close(self) -> Dict:
        """Add and return what was collected, and what could not be."""
        from pyeal import __version__

        facts: Dict = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(self.now)),
            "pyeal": __version__,
            "kernel": platform.release(),
            "machine": platform.machine(),
            "uid": os.geteuid(),
            "files": len(self.names) + 1,
            "left_out": self.left_out,
        }
        self.add("collected.json", document("collect", facts).encode())
        return facts
