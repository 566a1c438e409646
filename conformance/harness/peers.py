"""Debian's librte_eal of several releases: fetched, unpacked, run; no root, nothing installed.

    ci/peers RELEASE...     fetch what is not there; print the trees
    ci/peers --list         what is known, what is there

RELEASE-programs is DPDK's own programs of a release, with its drivers, and Open vSwitch on it.
RELEASE-arm64 is the build for another architecture, which QEMU's user-mode emulation runs here;
RELEASE-arm64-system has the programs of a virtual machine as well. A peer is a tree with its own
libc and Python: a newer librte_eal does not load into an older process.
fixtures/peers/ says what each is made of; signatures are checked by Debian's own keys, and packages
come from the Debian mirror that apt uses on this machine.
"""

from __future__ import annotations

import argparse
import fcntl
import io
import json
import os
import platform
import posixpath
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

from conformance import FIXTURES
from conformance.harness import neighbours

DATA = FIXTURES / "peers"
KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# documentation and configuration stay behind
KEPT = "usr/bin/", "usr/sbin/", "usr/lib", "usr/share/openvswitch/"
SWITCH = "usr/lib/openvswitch-switch-dpdk"
# Debian's names of architectures: what uname says there, and QEMU's programs are called after
MACHINES = {
    "amd64": "x86_64",
    "arm64": "aarch64",
    "loong64": "loongarch64",
    "ppc64el": "ppc64le",
    "riscv64": "riscv64",
}
ROOM = 1 << 30  # free bytes wanted before anything is fetched; the largest tree takes a fifth
# what a target imports: compiled once, here
LOADS = "import ctypes, glob, json, mmap, pathlib, re"


class Unobtainable(OSError):
    """Why there is no peer, and what would help."""


def releases():
    return sorted(f.stem for f in DATA.glob("[0-9]*.toml"))


def cache():
    """Return a folder of this user. Other users can read root's: they also run peers."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    root = os.geteuid() == 0
    bases = (["/var/cache"] if root and "XDG_CACHE_HOME" not in os.environ else []) + [home]
    for d in (
        *(Path(b) / "pyeal" for b in bases),
        Path(tempfile.gettempdir()) / f"pyeal-{os.geteuid()}",
    ):
        try:
            d.mkdir(mode=0o755 if root else 0o700, parents=True, exist_ok=True)
        except OSError:
            continue
        if neighbours.private(d) and os.access(d, os.W_OK):
            return d
    raise Unobtainable(f"no folder to cache in: neither {home} nor {tempfile.gettempdir()}")


class Peer:
    """One tree. `facts`: DPDK's full release, the packages that it was made of."""

    def __init__(self, name, root):
        self.name, self.root = name, root
        self.facts = json.loads((root / "peer.json").read_text())
        self.lib = self._one("usr/lib/*/librte_eal.so.*")
        self.dir = self.lib.parent

    def _one(self, pattern):
        found = sorted(self.root.glob(pattern), key=lambda p: len(p.name))
        if not found:
            raise Unobtainable(f"{self.name}: {self.root} holds no {pattern}")
        return found[0]

    @property
    def release(self):
        return self.facts["release"]

    @property
    def machine(self):
        """Return what uname says on the machines that it is built for."""
        return MACHINES[self.facts["described"].get("architecture", "amd64")]

    def command(self, *argv, libraries=()):
        """Command line that runs a Python program in the tree, by its own loader: any user can.

        /proc/self/exe is the loader then, and paths are this machine's, also of DPDK's plug-ins.
        QEMU runs the tree of another architecture. `libraries`: folders after the tree's own.
        """
        python = self.root / f"usr/bin/python{self.facts['python']}"
        return [*self._loader(last=libraries), str(python), "-sB", *map(str, argv)]

    def _loader(self, *more, last=()):
        loader = self._one("usr/lib/*/ld*64*.so.*")
        path = ":".join(map(str, (self.dir, *(self.root / d for d in more), *last)))
        return [*emulator(self.machine), str(loader), "--library-path", path]

    def complete(self, say):
        """Nothing that programs and drivers load was left out."""
        ours = "usr/bin/dpdk-*", "usr/sbin/ovsdb-server", f"{SWITCH}/ovs-*"
        drivers = self.dir.glob("dpdk/pmds-*/*.so.*")
        for f in (*(f for pattern in ours for f in self.root.glob(pattern)), *drivers):
            if f.read_bytes()[:4] != b"\x7fELF":
                continue
            said = _run([*self._loader(SWITCH), "--list", str(f)], say, f.name)
            if lacking := [x.strip() for x in said.splitlines() if x.endswith("not found")]:
                raise Unobtainable(f"{self.name}: {f.name}: {', '.join(lacking)}")


def emulator(machine):
    """Command prefix that runs programs of another architecture; Unobtainable without one."""
    if machine == platform.machine():
        return []
    program = f"qemu-{machine}"
    if not shutil.which(program):
        raise Unobtainable(f"wanted {program}, found none: apt-get install qemu-user")
    return [program]


def python(machine):
    """Return the newest tree here whose Python runs libraries of another architecture."""
    arch = next(a for a, m in MACHINES.items() if m == machine)
    for release in reversed(releases()):
        try:
            return find(f"{release}-{arch}")
        except Unobtainable:
            continue
    raise Unobtainable(
        f"a library for {machine}, this machine is {platform.machine()}: wanted a Python for it, "
        f"found none. Fix: ci/peers {releases()[-1]}-{arch}"
    )


def find(name):
    """The cached peer of a release; Unobtainable when it is not there, or as described before."""
    name = of(name)
    root = cache() / "peers" / name
    try:
        peer = Peer(name, root)
        if peer.facts["described"] == described(name):
            return peer
    except (OSError, ValueError, KeyError):
        pass
    raise Unobtainable(f"librte_eal {name} is not fetched: ci/peers {name}")


def of(release):
    """24.11.4 -> 24.11, if there is such a peer; 24.11.4-programs -> 24.11-programs

    Without a kind it is the build for this machine: 24.11-arm64 on arm64.
    """
    minor, _, kind = release.partition("-")
    name = of_line(minor)
    foreign = kind.removesuffix("-system") in MACHINES
    if name not in releases() or not (kind in ("", "programs") or foreign):
        raise Unobtainable(f"no peer {release}: there are {', '.join(releases())}")
    kind = kind or next((a for a, m in MACHINES.items() if m == platform.machine()), "")
    return f"{name}-{kind}" if kind not in ("", "amd64") else name


def described(name):
    """Return the facts of a peer: of its release, and of its kind."""
    release, _, kind = name.partition("-")
    architecture, _, system = kind.partition("-")
    facts = tomllib.loads((DATA / f"{release}.toml").read_text())
    if architecture not in MACHINES:
        return facts | tomllib.loads((DATA / f"{kind or 'closure'}.toml").read_text())
    facts |= tomllib.loads((DATA / f"{system or 'closure'}.toml").read_text())
    return facts | {"architecture": architecture}


def fetch(name, say=lambda text: None, mirror=None):
    """The peer of a release, from the cache or from Debian."""
    name = of(name)
    try:
        return find(name)
    except Unobtainable:
        pass
    top = cache() / "peers"
    top.mkdir(exist_ok=True)
    with open(top / ".lock", "w") as lock:
        _lock(lock, say)
        if (free := shutil.disk_usage(top).free) < ROOM:
            raise Unobtainable(f"wanted {ROOM >> 20} MB free in {top}, found {free >> 20}")
        try:
            return find(name)  # by whom we waited for
        except Unobtainable:
            pass
        for left in top.glob("new-*"):  # of a run that was killed
            shutil.rmtree(left)
        with tempfile.TemporaryDirectory(dir=top, prefix="new-") as tmp:
            tree = Path(tmp) / "tree"
            facts = described(name)
            _make(name, facts, tree, Path(tmp), mirror, lambda text: say(f"{name}: {text}"))
            tree.chmod(0o755)
            shutil.rmtree(top / name, ignore_errors=True)
            tree.rename(top / name)
    return find(name)


def left_out(package, facts):
    return any(fnmatchcase(package, pattern) for pattern in facts["without"])


def _lock(f, say):
    try:
        fcntl.flock(f, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        say("waiting for another process that fetches peers")
        fcntl.flock(f, fcntl.LOCK_EX)


def _make(name, facts, tree, tmp, mirror, say):
    begun = time.monotonic()
    apt = Apt(tmp / "apt", say, facts.get("architecture", "amd64"))
    suite = apt.update([mirror] if mirror else mirrors(), facts["suites"])
    python, programs = facts["python"], "packages" in facts
    wanted = facts.get("packages") or [
        facts["eal"],
        f"python{python}-minimal",
        f"libpython{python}-stdlib",
        *facts.get("more", []),
    ]
    names = [n for n in apt.closure(wanted) if not left_out(n, facts)]
    debs = apt.download(names, tmp / "debs")
    size = sum(d.stat().st_size for d in debs)
    say(f"unpacking {len(debs)} packages of {suite}, {size / 1e6:.1f} MB")
    for deb in debs:
        unpack(deb, tree)
    record = {
        "release": "",
        "python": python,
        "suite": suite,
        "described": facts,
        "packages": sorted(d.stem.rpartition("_")[0].replace("%3a", ":") for d in debs),
    }
    # 20.11 has no function for it, and the others' ends with Debian's own number if at all
    version = next(p for p in record["packages"] if p.startswith(facts["eal"] + "_"))
    record["release"] = re.search(r"_(?:\d+:)?([\d.]+)", version)[1]
    if of_line(record["release"]) != of_line(name.partition("-")[0]):
        raise Unobtainable(f"{suite} has librte_eal {record['release']} by now")
    (tree / "peer.json").write_text(json.dumps(record, indent=1))
    peer = Peer(name, tree)
    if programs:
        if (tree / SWITCH).is_dir():  # bullseye's has libraries there, linked when it is installed
            _run(["/sbin/ldconfig", "-n", str(tree / SWITCH)])
        peer.complete(say)
        for d in ("proc", "sys", "dev", "run", "tmp", "var"):  # to bind this machine's over
            (tree / d).mkdir()
        (tree / "var/run").symlink_to("../run")
        for d in ("lib", "lib64"):  # where the loader is, and looks
            (tree / d).symlink_to(f"usr/{d}")
    else:
        load = f"{LOADS}; ctypes.CDLL({str(peer.lib)!r})"
        _run([a.replace("-sB", "-s") for a in peer.command("-c", load)], say, "loading it")
        if facts.get("more") and python == "{}.{}".format(*sys.version_info):
            keep = ["-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash"]
            _run([sys.executable, *keep, str(tree / f"usr/lib/python{python}")], say, "compiling")
    say(f"librte_eal {record['release']} is there after {time.monotonic() - begun:.0f} s")


def of_line(release):
    return ".".join(release.split(".")[:2])


def mirrors():
    """Debian mirrors among the sources of this machine's apt: those that have a suite of ours."""
    ours = {"stable", "oldstable", "oldoldstable", "testing", "unstable"}
    ours |= {s for name in releases() for s in described(name)["suites"]}
    lines = _run(
        [
            "apt-get",
            "indextargets",
            "--format",
            "$(REPO_URI) $(RELEASE) $(COMPONENT)",
            "Created-By: Packages",
        ]
    ).splitlines()
    found = [x for x in map(str.split, lines) if x[1:] == [x[1], "main"] and x[1] in ours]
    if not found:
        raise Unobtainable(
            "wanted a Debian mirror among the sources of this machine's apt, found none: "
            "name one by --mirror"
        )
    return list(dict.fromkeys(x[0] for x in found))


class Apt:
    """apt with lists, cache and sources of its own, and with Debian's keys alone."""

    def __init__(self, home, say, architecture):
        if not KEYS.exists():
            raise Unobtainable(f"wanted {KEYS}, found none: apt install debian-archive-keyring")
        self.home, self.say = home, say
        for d in ("lists/partial", "cache/archives/partial"):
            (home / d).mkdir(parents=True)
        options = {
            "Dir::Etc::sourcelist": home / "sources.list",
            "Dir::Etc::sourceparts": "/nonexistent",
            "Dir::Etc::trusted": "/nonexistent",
            "Dir::Etc::trustedparts": "/nonexistent",
            "Dir::Etc::preferences": "/nonexistent",
            "Dir::Etc::preferencesparts": "/nonexistent",
            "Dir::State": home,
            "Dir::State::status": "/dev/null",  # nothing is installed: all of a closure comes
            "Dir::Cache": home / "cache",
            "APT::Architecture": architecture,
            "APT::Architectures::": architecture,
            "APT::Default-Release": "",
            "APT::Get::AllowUnauthenticated": "false",
            "APT::Install-Recommends": "false",
            "Acquire::AllowInsecureRepositories": "false",
            "Acquire::AllowWeakRepositories": "false",
            "Acquire::Check-Valid-Until": "false",  # mirrors that are frozen are older
            "Acquire::Languages": "none",
            "Acquire::Retries": "2",
            "Acquire::http::Timeout": "15",
        }
        if os.geteuid() == 0:
            options["APT::Sandbox::User"] = "root"  # _apt cannot write here
        self.options = [x for k, v in options.items() for x in ("-o", f"{k}={v}")]

    def _apt(self, what, *argv, tool="apt-get", cwd=None):
        return _run([tool, "-q", *self.options, *argv], self.say, what, cwd)

    def update(self, mirrors, suites):
        """Fetch the lists of the first of these suites that is there; answers its name."""
        why = None
        for uri in mirrors:
            for suite in suites:
                line = f"deb [signed-by={KEYS}] {uri} {suite} main\n"
                (self.home / "sources.list").write_text(line)
                self.say(f"package lists of {suite}")
                try:
                    self._apt(f"lists of {suite}", "update", "--error-on=any")
                    return suite
                except Unobtainable as e:
                    why = f"{suite}: {e}"
        raise Unobtainable(why)

    def closure(self, names):
        """Names of all packages that these need."""
        text = self._apt("dependencies", "install", "--print-uris", "-qq", *names)
        return [line.split()[1].split("_")[0] for line in text.splitlines() if line[:1] == "'"]

    def download(self, names, to):
        to.mkdir()
        self.say(f"fetching {len(names)} packages")
        self._apt("packages", "download", *names, cwd=to)
        return sorted(to.glob("*.deb"))


def unpack(deb, tree):
    """Programs and libraries of a package, where usr-merged systems have them.

    Links are relative: absolute ones (bullseye's loader) would lead out of the tree.
    """
    data = subprocess.run(["dpkg-deb", "--fsys-tarfile", deb], capture_output=True)
    if data.returncode:
        raise Unobtainable(f"{deb.name}: {data.stderr.decode().strip()}")
    safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(fileobj=io.BytesIO(data.stdout)) as tar:
        for m in tar:
            m.name = _merged(m.name)
            if not m.name.startswith(KEPT):
                continue
            if m.issym():
                to = posixpath.join("/", posixpath.dirname(m.name), m.linkname)
                m.linkname = posixpath.relpath("/" + _merged(to), "/" + posixpath.dirname(m.name))
            elif m.islnk():
                m.linkname = _merged(m.linkname)
            tar.extract(m, tree, set_attrs=not m.isdir(), **safe)


def _merged(name):
    """./lib/x -> usr/lib/x"""
    name = posixpath.normpath("/" + name).lstrip("/")
    return f"usr/{name}" if re.match(r"(bin|sbin|lib\d*)(/|$)", name) else name


def _run(argv, say=lambda text: None, what="", cwd=None):
    """stdout of a command; says that it still runs after every few seconds."""
    with tempfile.TemporaryFile("w+") as out, tempfile.TemporaryFile("w+") as err:
        env = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        env["LC_ALL"] = "C.UTF-8"
        try:
            p = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=out, stderr=err, cwd=cwd, env=env
            )
        except FileNotFoundError:
            raise Unobtainable(
                f"wanted {argv[0]}, found none: peers come as Debian packages"
            ) from None
        try:
            for n in range(1, 61):
                try:
                    p.wait(5)
                    break
                except subprocess.TimeoutExpired:
                    say(f"{what}: {5 * n} s")
            else:
                raise Unobtainable(f"{what or argv[0]}: over 5 minutes")
        finally:
            if p.poll() is None:
                p.kill()
                p.wait()
        out.seek(0)
        err.seek(0)
        said = out.read()
        if p.returncode:
            lines = [x for x in (err.read() or said).splitlines() if x.strip()]
            first = next((x for x in lines if x.startswith(("E:", "Err"))), (lines or ["?"])[-1])
            raise Unobtainable(f"{Path(argv[0]).name} ends with {p.returncode}: {first}")
        return said


def known():
    """--list: one line a peer."""
    for name in [r + kind for kind in ("", "-programs") for r in releases()]:
        try:
            peer = find(name)
            yield f"{name:14}  {peer.release:9} Python {peer.facts['python']:5} {peer.root}"
        except Unobtainable:
            suites = " or ".join(described(name)["suites"])
            yield f"{name:14}  not fetched; of Debian's {suites}"


def main(argv):
    p = argparse.ArgumentParser(prog="ci/peers", description=__doc__.split("\n")[0])
    p.add_argument("releases", nargs="*", metavar="RELEASE", help=f"default: {releases()}")
    p.add_argument("--list", action="store_true", help="what is known and what is there")
    p.add_argument("--mirror", metavar="URI", help="of Debian; default: that of this machine's apt")
    args = p.parse_args(argv)
    if args.list:
        print(*known(), sep="\n")
        return 0
    code = 0
    for name in args.releases or releases():
        try:
            say = lambda text: print(f"peers: {text}", file=sys.stderr, flush=True)  # noqa: E731
            print(fetch(name, say, args.mirror).root, flush=True)
        except Unobtainable as e:
            print(f"peers: {name}: {e}", file=sys.stderr)
            code = 2
    return code
