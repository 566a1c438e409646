"""What the kernel tells as text: mounts, counters, directories, cpuinfo, locks, mappings."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

from conformance.campaigns.fuzz import attach
from conformance.campaigns.fuzz.engine import Case, Wrong
from conformance.harness import fake_host
from pyeal import EalError, attached, cparse, hugepages, lcores, options, releases, runtime, vaspace
from pyeal.look.fake_host import FakeHost
from pyeal.look.pools import all_pools
from pyeal.releases import RELEASES

PROC = {  # beside what the fake hosts have
    "cpuinfo": "processor\t: 0\nmodel name\t: Some CPU @ 2.10GHz\nflags\t\t: fpu pdpe1gb\n"
    "bogomips\t: 4199.99\nclflush size\t: 64\n\nprocessor\t: 1\nbogomips\t: 4199.99\n",
    "locks": "1: FLOCK  ADVISORY  READ  2187 00:1b:1277 0 EOF\n"
    "2: POSIX  ADVISORY  WRITE 2187 00:1b:1276 144 17551\n"
    "2: -> POSIX  ADVISORY  WRITE 2190 00:1b:1276 144 17551\n"
    "3: OFDLCK ADVISORY  READ  -1 00:06:1028 0 EOF\n",
    "self/maps": "00400000-00401000 r--p 00000000 08:01 41 /usr/bin/python3.11\n"
    "100000000-100007000 rw-s 00000000 00:1b 1276 /run/dpdk/rte/config\n"
    "100200000-500200000 ---p 00000000 00:00 0 \n"
    "7f0000000000-7f0000021000 rw-p 00000000 00:00 0 \n"
    "7ffc2a000000-7ffc2a021000 rw-p 00000000 00:00 0          [stack]\n",
}
NAMES = "hugepages-", "node", "cpu"  # what the kernel numbers: their entries are also mutated
AT = 0x100000000, 1 << 21
U64 = 1 << 64


class Text:
    """Files of a fake host's /proc and /sys, and the names of their directories."""

    name = "text"
    allowed = (EalError,)

    def __init__(self) -> None:
        self.tmp = attach.WorkFolder()
        self.hosts = {name: fake_host.load(name) for name in fake_host.names()}
        self.roots: dict[str, Path] = {}
        self._seeds: dict[str, bytes] = {}
        for name, host in self.hosts.items():
            files = host.files() | {f"proc/{p}": text for p, text in PROC.items()}
            for path, text in files.items():
                if path.startswith("proc/") or "hugepages" in path:
                    self._seeds[f"{name}:{path}"] = text.encode()
            parts = {p for path in files for p in path.split("/") if p.startswith(NAMES)}
            for part in sorted(parts)[:6]:
                self._seeds[f"{name}:name/{part}"] = part.encode()
        self._list = sorted(self._seeds)

    def seeds(self) -> list[str]:
        return self._list

    def data(self, seed: str) -> bytes:
        return self._seeds[seed]

    def ways(self, seed: str) -> list[str]:
        return list(RELEASES)

    def fields(self, seed: str) -> list[tuple[int, int]]:
        return []

    def root(self, name: str) -> Path:
        if name not in self.roots:
            root = self.roots[name] = Path(self.tmp.name) / str(os.getpid()) / name
            self.hosts[name].expand(root)
            for path, text in PROC.items():
                (root / "proc" / path).parent.mkdir(exist_ok=True)
                (root / "proc" / path).write_text(text)
        return self.roots[name]

    def read(self, case: Case) -> None:
        name, _, path = case.seed.partition(":")
        root, content = self.root(name), case.apply(self.data(case.seed))
        if path.startswith("name/"):
            made = self._entry(root, path.removeprefix("name/"), content)
            try:
                self._look(case, root)
            finally:
                if made:
                    shutil.rmtree(made)
            return
        try:
            (root / path).write_bytes(content)
            self._look(case, root)
            if (root / path).read_bytes() != content:
                raise Wrong(f"{path} was written to")
        finally:
            (root / path).write_bytes(self.data(case.seed))

    @staticmethod
    def _entry(root: Path, part: str, name: bytes) -> Path | None:
        """A directory of that name beside the one of the seed, with a counter and a core id."""
        name = name.replace(b"/", b"_").replace(b"\0", b"_")[:255]
        where = next((p.parent for p in root.rglob(part)), None)
        if (
            where is None
            or name in (b"", b".", b"..")
            or (at := where / os.fsdecode(name)).exists()
        ):
            return None
        (at / "topology").mkdir(parents=True)
        (at / "topology/core_id").write_text("0\n")
        (at / "free_hugepages").write_text("3\n")
        return at

    def _look(self, case: Case, root: Path) -> None:
        host = self.hosts[case.seed.partition(":")[0]]
        fake = FakeHost(root, host.statfs)
        proc = fake.proc
        release = releases.get(case.how)
        cpus = lcores.discover(release, fake)
        bounded(cpus.nodes, 0, release.numa_nodes_max - 1)
        bounded([n for n, _ in cpus.lcores], 0, cparse.MAX_LCORE - 1)
        if not runtime.tsc_hz(10_000_000, fake) >= 0:
            raise Wrong("a clock that runs backwards")
        runtime.processes(proc, fake)
        vaspace.what_lies_at(*AT, proc)
        bounded([attached.free_base(AT[1], proc=proc)], 0, U64)
        for _, size in hugepages.mounts(fake, release.mounts_decoded):
            bounded([size or 0], 0, U64 - 1)
        bounded([hugepages.default_size(fake)], 0, U64 - 1)
        if os.path.isdir(f"{fake.sys}/{hugepages.GLOBAL}"):
            all_pools(fake)
        e = host.expects[sum(at for at, _ in case.edits) % len(host.expects)]
        o = options.parse(e.args, release)
        for info in hugepages.Survey(o, cpus.nodes, fake).run():
            bounded(info.num_pages, 0, hugepages.U32)
            bounded([info.page_sz], 1, U64 - 1)


def bounded(found: list[int], low: int, high: int) -> None:
    if bad := [n for n in found if not low <= n <= high]:
        raise Wrong(f"{bad[0]} is not within {low} and {high}")


FAMILIES = [Text()]
