"""Virtual machines with the nodes, page sizes and kernels that this one lacks.

    ci/machines list
    ci/machines fetch arm64                       kernel and packages, into the cache
    ci/machines run numa2 -- ci/conform NUMA      its report: conform-report-numa2/
    ci/machines run numa2 -- ci/mutations NUMA-010
    ci/machines matrix numa2 linux-5.10 -- ci/conform NUMA SEG      one page of all of them

fixtures/machines/ says what each is made of. QEMU boots Debian's own kernel; what runs in it is
this machine's Python, suite, programs and libraries, at their own paths, as its first file system.
A machine of another architecture has Python, programs and librte_eal of Debian's packages instead.
Software emulation is enough; acceleration is used where it works. No root, no network in the
machine, and nothing of it outlives this process.
"""

from __future__ import annotations

import argparse
import glob
import io
import os
import platform
import re
import select
import shlex
import shutil
import signal
import stat
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

from conformance import FIXTURES, SUITE
from conformance.harness import facts, host, peers
from conformance.harness.box import lifeline
from conformance.runner.report import command as reports
from conformance.runner.run import working_folder

DATA = FIXTURES / "machines"
BUSYBOX = "/bin/busybox"
QEMU = {"amd64": "qemu-system-x86_64", "arm64": "qemu-system-aarch64"}
BROKEN, INTERRUPTED = 2, 130
# A kernel somewhere in the middle would take 1 GB pages away; zeroing all pages takes seconds.
OPTIONS = "quiet loglevel=2 panic=-1 nokaslr init_on_alloc=0"
PATIENCE = {"kvm": 15, "tcg": 240}  # seconds to boot: 3 by emulation, on a busy machine far more
LARGE = 512 << 20  # bytes: a larger page is a boot option's, a smaller one's pool can grow
QUIET = 30  # seconds after which a silent machine is said to run

# What those of ci/ are in a machine.
COMMANDS = {
    "ci/conform": ["pyeal", "conform"],
    "ci/pairs": [sys.executable, "-P", "-m", "pyeal.suite", "pairs"],
    "ci/mutations": [
        *(sys.executable, "-P", "-m", "pyeal.suite"),
        *("mutations", "-o", "conform-report"),
    ],
}

# Programs that are copied beside Python. All other commands are busybox's.
PROGRAMS = """env ls mount numactl nsenter prlimit setpriv sh strace umount unshare""".split()
LIBRARIES = "librte_eal.so.*", "libnuma.so.1", "libgcc_s.so.1"
LEFT_OUT = """test idlelib tkinter turtledemo lib2to3 ensurepip pydoc_data config-* site-packages
dist-packages pip pip-* setuptools* pkg_resources hatchling* trove_classifiers* *.opt-?.pyc *.a
""".split()


class Architecture(NamedTuple):
    """How QEMU makes a computer of it; consoles: the kernel's, the command's, that of /init."""

    package: str  # of QEMU
    board: list[str]
    cpu: dict[str, str]
    kernel: str  # depends on the newest of its suite
    options: str
    consoles: tuple[str, str, str]


ARCHITECTURES = {
    "amd64": Architecture(
        "qemu-system-x86",
        ["-machine", "pc"],
        # cmpxchg16b garbles flags in QEMU 7.2's emulation now and then, and Linux goes down
        {"kvm": "host", "tcg": "max,-cx16"},
        "linux-image-cloud-amd64",
        "tsc=reliable no_timer_check",  # which fails on a busy machine
        ("ttyS0", "ttyS1", "ttyS2"),
    ),
    "arm64": Architecture(
        "qemu-system-arm",
        ["-machine", "virt,gic-version=3"],
        # "max" computes pointer authentication in software, for each return
        {"kvm": "host", "tcg": "neoverse-n1"},
        "linux-image-cloud-arm64",
        "",
        ("ttyAMA0", "ttyS0", "ttyS1"),  # the board's one, and two on PCI
    ),
}


class Broken(OSError):
    """There is no such machine, or it is not as described."""


def names():
    return sorted(f.stem for f in DATA.glob("*.toml"))


class Machine:
    """One file of fixtures/machines."""

    def __init__(self, name):
        if name not in names():
            raise Broken(f"no machine {name}: there are {', '.join(names())}")
        facts = tomllib.loads((DATA / f"{name}.toml").read_text())
        self.name, self.about, self.suite = name, facts["about"], facts["suite"]
        self.kernel, self.nodes, self.options = facts["kernel"], facts["node"], facts.get("options")
        self.arch = facts.get("architecture", "amd64")
        self.kind = ARCHITECTURES[self.arch]
        self.package, self.page = facts.get("package", self.kind.kernel), facts.get("page", 4)
        self.cpus = sum(n["cpus"] for n in self.nodes)

    def pages(self, of):
        """(node, page size, number) of the sizes that `of` picks."""
        return [
            (k, sz, count)
            for k, n in enumerate(self.nodes)
            for sz, count in n.get("pages", {}).items()
            if of(host.size(sz))
        ]

    def hardware(self):
        """Memory and CPUs as QEMU is told, node by node; a socket each."""
        total, cpu = sum(host.size(n["memory"]) for n in self.nodes), 0
        out = ["-m", f"{total >> 20}M", "-smp", f"{self.cpus},sockets={self.cpus}"]
        for k, n in enumerate(self.nodes):
            node = f"node,nodeid={k}"
            if host.size(n["memory"]):
                out += ["-object", f"memory-backend-ram,id=m{k},size={n['memory']}"]
                node += f",memdev=m{k}"
            out += ["-numa", node + "".join(f",cpus={cpu + i}" for i in range(n["cpus"]))]
            cpu += n["cpus"]
        return out

    def command_line(self):
        """Words of the kernel. Pages over 512 MB exist from boot alone; 5.10 knows no node here."""
        words = [f"console={self.kind.consoles[0]}", OPTIONS, self.kind.options, self.options]
        big = self.pages(lambda sz: sz > LARGE)
        for size in sorted({sz for _, sz, _ in big}):
            counts = [f"{k}:{n}" for k, sz, n in big if sz == size]
            words.append(f"hugepagesz={size} hugepages={','.join(counts)}")
        return " ".join(filter(None, words))

    def job(self, argv, tty):
        """What fixtures/machines/init reads."""
        small = self.pages(lambda sz: sz <= LARGE)
        pages = [f"node{k}/hugepages/{host.kernel_dir(sz)}/nr_hugepages={n}" for k, sz, n in small]
        _, out, said = self.kind.consoles
        words = {
            "name": self.name,
            "path": os.path.dirname(sys.executable),
            "tty": tty,
            "pages": " ".join(pages),
            "command": shlex.join(argv),
            "out": out,
            "said": said,
        }
        return "".join(f"{k}={shlex.quote(str(v))}\n" for k, v in words.items())

    def differs(self, said):
        """What a machine that is up lacks of what it was to be, as sentences."""
        found = {k: int(v) for k, v in re.findall(r"(node\S+)/nr_hugepages:(\d+)", said)}
        shown = sorted(map(int, re.findall(r"^node(\d+)/cpulist", said, re.M)))
        wanted = [k for k, n in enumerate(self.nodes) if n.get("shown", True)]
        kernel = re.search(r"^kernel (\S+)", said, re.M)
        if not kernel or host.version(kernel[1])[:2] != host.version(self.kernel):
            yield f"wanted kernel {self.kernel}, found {kernel and kernel[1]}"
        if shown != wanted:
            yield f"wanted nodes {wanted}, found {shown}"
        page = re.search(r"^page (\d+)", said, re.M)
        if not page or int(page[1]) != self.page:
            yield f"wanted pages of {self.page} kB, found {page and page[1]}"
        for k, sz, n in self.pages(bool):
            there = found.get(f"node{k}/hugepages/{host.kernel_dir(sz)}", 0)
            if there != n:
                yield f"wanted {n} {sz} pages on node {k}, found {there}"


# --- kernel and first file system


def kernel(machine, say):
    """Debian's newest kernel of a suite, the cloud's unless told otherwise, fetched once."""
    top, suite = peers.cache() / "kernels", machine.suite
    top.mkdir(exist_ok=True)
    amd64 = machine.package == ARCHITECTURES["amd64"].kernel
    image = top / (suite if amd64 else f"{suite}-{machine.package}")
    if image.exists():
        return image
    with tempfile.TemporaryDirectory(dir=top) as tmp:
        apt = peers.Apt(Path(tmp, "apt"), say, machine.arch)
        apt.update(peers.mirrors(), [suite])
        names = apt.closure([machine.package])
        package = next(p for p in names if re.match(r"linux-image-\d", p))
        (deb,) = apt.download([package], Path(tmp, "debs"))
        done = subprocess.run(["dpkg-deb", "--fsys-tarfile", deb], stdout=subprocess.PIPE)
        with tarfile.open(fileobj=io.BytesIO(done.stdout)) as tar:
            boot = next(m for m in tar if m.name.startswith("./boot/vmlinuz-"))
            Path(tmp, "image").write_bytes(tar.extractfile(boot).read())
        Path(tmp, "image").rename(image)
    return image


def compiled():
    """Have pytest keep the tests as it compiles them: emulated, that takes a minute a run."""
    argv = ["-m", "pytest", "-c", SUITE / "pytest.toml", SUITE, "--collect-only", "-q"]
    env = os.environ | {"PYTHONDONTWRITEBYTECODE": "", "PYTHONPATH": str(SUITE.parent)}
    subprocess.run(
        [sys.executable, "-P", *argv, "-p", "no:cacheprovider"],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def reach(path, seen):
    """Add all that leads to a path: folders, links, and where those point."""
    at, todo = "/", Path(path).parts[1:]
    while todo:
        at, todo = os.path.join(at, todo[0]), todo[1:]
        seen.add(at)
        if os.path.islink(at):
            to = os.path.normpath(os.path.join(os.path.dirname(at), os.readlink(at)))
            at, todo = "/", (*Path(to).parts[1:], *todo)


def tree(top, seen):
    """Return a folder with everything except what is left out."""
    reach(top, seen)
    for d, folders, files in os.walk(os.path.realpath(top)):
        folders[:] = [f for f in folders if not any(fnmatchcase(f, p) for p in LEFT_OUT)]
        seen.update(
            os.path.join(d, f)
            for f in [*folders, *files]
            if not any(fnmatchcase(f, p) for p in LEFT_OUT)
        )


def libraries(files):
    """Paths of the shared libraries that these files load."""
    said = subprocess.run(["ldd", *files], capture_output=True, text=True).stdout
    return set(re.findall(r"(?:=> |^\t)(/\S+) \(", said, re.M))


def files(argv):
    """What of this machine goes along, for a command to run."""
    seen, programs = set(), [p for name in PROGRAMS if (p := shutil.which(name))]
    python = Path(sys.executable)
    stdlib = sysconfig.get_path("stdlib")
    programs.append(str(python))
    for name in LIBRARIES:
        programs += glob.glob(f"/usr/lib/*/{name}")
    for name in facts.DPKG.glob("librte-eal*.list"):
        reach(name, seen)
    for d in stdlib, sysconfig.get_path("purelib"):
        tree(d, seen)
    programs += [f for f in seen if f.endswith(".so")]
    for f in [*programs, *libraries(programs), BUSYBOX, *map(str, python.parent.glob("py*"))]:
        reach(f, seen)
    if (cfg := python.parent.parent / "pyvenv.cfg").exists():
        reach(cfg, seen)
    for name in wanted_peers(argv):
        tree(peers.find(name).root, seen)
    return sorted(seen)


def suite_files(argv, arch):
    """What of this machine goes into one of another architecture: nothing that is compiled."""
    seen, prefix = set(), Path(sys.prefix)
    tree(sysconfig.get_path("purelib"), seen)
    seen -= {f for f in seen if f.endswith(".so")}
    for f in (*Path(sys.executable).parent.glob("py*"), prefix / "pyvenv.cfg"):
        if not f.is_symlink() and f.exists():  # programs in Python
            reach(f, seen)
    for name in wanted_peers(argv):
        tree(peers.fetch(f"{name}-{arch}").root, seen)
    return sorted(seen)


def system(machine, say):
    """Return the tree of packages that is the first file system of another architecture."""
    mine = "{}.{}".format(*sys.version_info)
    same = [r for r in peers.releases() if peers.described(r)["python"] == mine]
    return peers.fetch(f"{(same or ['22.11'])[0]}-{machine.arch}-system", say)


def wanted_peers(argv):
    """Releases of librte_eal that a command names."""
    text = " ".join(argv)
    found = re.findall(r"(?:--peer[ =]|librte_eal:)(\d\d\.\d\d|all)", text)
    return peers.releases() if "all" in found or "--interop" in argv else sorted(set(found))


def archive(names, folder, to):
    """Append files below a folder, by name, to a first file system."""
    done = subprocess.run(
        [BUSYBOX, "cpio", "-o", "-0", "-H", "newc", "-R", "0:0"],
        cwd=folder,
        stdout=to,
        input="\0".join(str(n).lstrip("/") for n in names).encode(),
        stderr=subprocess.PIPE,
    )
    if done.returncode:
        raise Broken(f"cpio: {done.stderr.decode().strip()}")


def file_system(machine, argv, tty, tmp, say):
    """This machine's files, or those of packages, then /init, /job and users."""
    if sys.executable.startswith(("/tmp/", "/run/")):
        raise Broken(f"{sys.executable}: a machine has a /tmp and a /run of its own; go elsewhere")
    own = tmp / "own"
    (own / "etc").mkdir(parents=True)
    shutil.copy(DATA / "init", own / "init")
    (own / "init").chmod(stat.S_IRWXU)
    (own / "job").write_text(machine.job(argv, tty))
    (own / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\nnobody:x:65534:65534::/:/bin/sh\n")
    (own / "etc/group").write_text("root:x:0:\nnogroup:x:65534:\n")
    with open(tmp / "initrd", "wb") as to:
        if machine.arch == "amd64":
            archive(files(argv), "/", to)
        else:
            packaged(machine, argv, own, to, say)
        archive([p.relative_to(own) for p in sorted(own.rglob("*"))], own, to)
    return tmp / "initrd"


def packaged(machine, argv, own, to, say):
    """Debian's files and the suite's; `own` gets the links that packages' scripts would make."""
    root = system(machine, say)
    seen: set[str] = set()
    tree(root.root, seen)
    seen = {os.path.relpath(f, root.root) for f in seen if f.startswith(f"{root.root}/")}
    archive(sorted(seen), root.root, to)
    archive(suite_files(argv, machine.arch), "/", to)
    for d in "bin", "sbin", "lib":
        (own / d).symlink_to(f"usr/{d}")
    python = f"/usr/bin/python{root.facts['python']}"
    for f in sys.executable, os.path.realpath(sys.executable), f"{sys.prefix}/bin/python3":
        at = own / f.lstrip("/")
        if f != python and not at.is_symlink():
            at.parent.mkdir(parents=True, exist_ok=True)
            at.symlink_to(python)


# --- one machine, one command


def accelerations(arch="amd64"):
    """What QEMU tries, in order. Where KVM brought up no machine it is left alone from then on."""
    own = peers.MACHINES[arch] == platform.machine()
    if own and os.access("/dev/kvm", os.R_OK | os.W_OK) and _no_kvm() != platform.release():
        yield "kvm"
    yield "tcg"


def _no_kvm(mark=False):
    file = peers.cache() / "kernels/no-kvm"
    if mark:
        file.write_text(platform.release())
    return file.read_text() if file.exists() else None


def qemu(machine, image, initrd, accel, tmp):
    """Return its command line; the files of the consoles are emptied."""
    for name in "said", "console":
        (tmp / name).write_bytes(b"")
    consoles = f"file,path={tmp}/console", "stdio,signal=off", f"file,path={tmp}/said"
    board, pci = ["-serial", "chardev:"], ["-device", "pci-serial,chardev="]
    ports = [board, *[pci if machine.arch == "arm64" else board] * 2]
    return [
        *lifeline(),
        QEMU[machine.arch],
        *machine.kind.board,
        "-accel",
        accel,
        "-cpu",
        machine.kind.cpu[accel],
        *"-nodefaults -no-user-config -display none -no-reboot".split(),
        *machine.hardware(),
        "-kernel",
        image,
        "-initrd",
        initrd,
        "-append",
        machine.command_line(),
        *(
            x
            for n, c in enumerate(consoles)
            for x in ("-chardev", f"{c},id=c{n}", ports[n][0], f"{ports[n][1]}c{n}")
        ),
    ]


class NotUp(Broken):
    """The first process was never heard."""


def fetch(machine, say):
    """Have all that a machine is made of; returns its kernel's image."""
    for program in QEMU[machine.arch], BUSYBOX:
        if not shutil.which(program):
            need = f"apt-get install {machine.kind.package} busybox-static"
            raise Broken(f"wanted {program}, found none: {need}")
    if machine.arch != "amd64":
        system(machine, say)
    return kernel(machine, lambda text: say(f"{machine.suite}: {text}"))


def run(machine, argv, report, limit, say):
    """Boot, run a command, bring its report back; answers the command's exit code."""
    tty = ""
    if sys.stdout.isatty():
        tty = "cols {} rows {}".format(*os.get_terminal_size())
    image = fetch(machine, say)
    tmp = working_folder()
    try:
        if "conform" in argv or "mutations" in argv:
            compiled()
        initrd = file_system(machine, argv, tty, tmp, say)
        for accel in accelerations(machine.arch):
            try:
                say(f"booting by {accel}: {machine.about}")
                command = qemu(machine, image, initrd, accel, tmp)
                said = attend(machine, command, tmp, PATIENCE[accel], limit, say)
                break
            except NotUp:
                if accel == "tcg":
                    raise
                say("KVM brings up no machine here: software emulation")
                _no_kvm(mark=True)
        ended = re.search(rb"^ended (\d+)\n", said, re.M)
        if not ended:
            raise Broken(f"it went down before the command ended; {last_words(tmp)}")
        if packed := said[ended.end() :]:
            bring(packed, report)
            say(f"report: {report}/")
        return int(ended[1])
    finally:
        shutil.rmtree(tmp, ignore_errors=True)


def attend(machine, command, tmp, patience, limit, say):
    """Pass on what the command prints until the machine is off; answers what ttyS2 said."""
    begun = heard = time.monotonic()
    up, text = False, b"?"
    with open(tmp / "errors", "wb") as err:
        vm = subprocess.Popen(
            list(map(str, command)), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=err
        )
    try:
        while text:  # until the end of its output
            if select.select([vm.stdout], [], [], 0.1)[0]:
                text = os.read(vm.stdout.fileno(), 65536)
                sys.stdout.buffer.write(text)
                sys.stdout.flush()
                heard = time.monotonic()
            took = time.monotonic() - begun
            if not up:
                said = (tmp / "said").read_bytes()
                if up := b"\nup\n" in said:
                    if wrong := list(machine.differs(said.decode(errors="replace"))):
                        raise Broken("; ".join(wrong))
                    say(f"up after {took:.1f} s")
                elif took > patience or not text:
                    raise NotUp(f"it did not come up in {took:.0f} s; {last_words(tmp)}")
            if took > limit:
                raise TimeoutError(f"over {limit:.0f} s")
            if time.monotonic() - heard > QUIET:
                say(f"runs for {took:.0f} s")
                heard = time.monotonic()
    finally:
        vm.kill()
        vm.wait()
        vm.stdout.close()
    return (tmp / "said").read_bytes()


def last_words(tmp):
    """Of the kernel, else of QEMU."""
    for name in "console", "errors":
        lines = (tmp / name).read_text(errors="replace").strip().splitlines()
        if lines:
            return "\n  | ".join(["its last words:", *lines[-12:]])
    return "it said nothing"


def bring(packed, to):
    """The conform-report/ of the machine, into a folder of that name or another."""
    safe = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        for m in tar:
            m.name = os.path.relpath(m.name, "conform-report")
            tar.extract(m, to, **safe)


def one(name, argv, report, limit):
    """run() of a machine by its name, or fetch() without a command; says what cannot be done."""
    try:
        say = lambda text: print(f"{name}: {text}", file=sys.stderr, flush=True)  # noqa: E731
        if not argv:
            fetch(Machine(name), say)
            return 0
        return run(Machine(name), argv, report, limit, say)
    except (TimeoutError, Broken, peers.Unobtainable) as e:
        print(f"machines: {name}: {e}", file=sys.stderr)
        return BROKEN


def matrix(names, argv, to, limit, beside):
    """The same command in one machine after the other, and their runs in one page.

    A machine that brings no run is not in the page, and the exit code is its own.
    """
    codes, runs = [], list(beside)
    for name in names:
        shutil.rmtree(to / name, ignore_errors=True)  # of an earlier time
        codes.append(one(name, argv, to / name, limit))
        if (log := to / name / "run.jsonl").exists():
            runs.append(log)
        else:
            print(f"machines: {name}: no run of it in the page", file=sys.stderr)
    if runs:
        codes.append(reports.main(["merge", "--partial", "-o", str(to), *map(str, runs)]))
    return max(codes)


def main(argv):
    p = argparse.ArgumentParser(prog="ci/machines", description=__doc__.split("\n")[0])
    sub = p.add_subparsers(dest="verb", required=True)
    sub.add_parser("list", help="what there is")
    f = sub.add_parser("fetch", help="have the kernel and the packages of machines in the cache")
    f.add_argument("machines", nargs="+", metavar="MACHINE", choices=names())
    r = sub.add_parser("run", help="boot a machine, run a command in it")
    r.add_argument("machine", metavar="MACHINE", help=", ".join(names()))
    r.add_argument("--report", type=Path, metavar="DIR", help="default: conform-report-MACHINE")
    m = sub.add_parser("matrix", help="run a command in several, merge their reports into one")
    m.add_argument("machines", nargs="+", metavar="MACHINE", choices=names())
    m.add_argument(
        "--with",
        dest="beside",
        action="append",
        default=[],
        metavar="RUN.jsonl",
        type=Path,
        help="another run in the page: this machine's own",
    )
    m.add_argument(
        "--report",
        type=Path,
        metavar="DIR",
        default=Path("conform-report-machines"),
        help="default: conform-report-machines; each machine's is in it",
    )
    for c in r, m:
        c.usage = f"%(prog)s [options] MACHINE{'...' * (c is m)} -- COMMAND [ARGS]"
        c.add_argument(
            "--limit",
            type=float,
            default=1800,
            metavar="S",
            help="seconds a machine has, default: 1800",
        )
    argv = sys.argv[1:] if argv is None else argv
    at = argv.index("--") if "--" in argv else len(argv)
    args, command = p.parse_args(argv[:at]), argv[at + 1 :]
    if args.verb == "list":
        for machine in map(Machine, names()):
            print(f"{machine.name:12} {machine.kernel:5} {machine.about}")
        return 0
    if args.verb == "fetch":
        return max(one(name, [], None, None) for name in args.machines)
    if not command:
        p.error("after -- comes what is to run: ci/conform ARGS, or any other program")
    command[:1] = COMMANDS.get(command[0].removeprefix("./"), command[:1])
    for s in signal.SIGTERM, signal.SIGHUP:  # the machine goes however we are ended
        signal.signal(s, signal.default_int_handler)
    try:
        if args.verb == "matrix":
            return matrix(args.machines, command, args.report, args.limit, args.beside)
        to = args.report or Path(f"conform-report-{args.machine}")
        return one(args.machine, command, to, args.limit)
    except KeyboardInterrupt:
        print("machines: interrupted", file=sys.stderr)
        return INTERRUPTED
