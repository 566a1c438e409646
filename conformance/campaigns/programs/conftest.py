"""DPDK's own programs, as Debian built them, beside pyeal: each release in a tree of its own.

host(mb=32)             a pyeal primary that dpdk-test and dpdk-proc-info can join
program(eal, ...)       one program beside it to its end, which must be a good one
memory(eal)             what dpdk-proc-info sees beside it: segments and zones
testpmd()               a running dpdk-testpmd with one port, a primary; `it("command")`
dpdk_test(mb=32)        dpdk-test as a primary, to compare with; `it("command")`
switch()                Open vSwitch with one port, in memory; `it("command of ovs-appctl")`
beside(testpmd, role)   pyeal of its release, joining it
"""

from __future__ import annotations

import itertools
import os
import pty
import re
import select
import subprocess
import time

import pytest

import pyeal
from conformance import MODES
from conformance.harness import peers
from conformance.harness.box import lifeline
from conformance.harness.child import ending

PAGES = 32  # of 2M in a box, half of them the primary's from the start
SHOWN = 40  # last lines of a program that fails
VERDICTS = {"passed": "ok", "failed": "FAILED", "skipped": "-"}


def pytest_generate_tests(metafunc):
    """Every test is run with each release that there are programs of."""
    if "release" in metafunc.fixturenames:
        metafunc.parametrize("release", peers.releases(), indirect=True)


class Failed(Exception):
    """A program did not end as it should."""

    def __init__(self, name, why, text):
        last = "".join(f"\n  | {line}" for line in text.splitlines()[-SHOWN:])
        super().__init__(f"{name}: {why}{last}")


class Tree:
    """The programs of a release, to be run with their own libraries and drivers in a box."""

    def __init__(self, peer):
        self.peer, self.boxes = peer, set()

    def command(self, box, name, *args):
        """Of a program of DPDK's."""
        return self.run(box, f"/usr/bin/{name}", "--no-pci", *args)

    def run(self, box, *argv):
        if box.pid not in self.boxes:
            for d in ("proc", "sys", "dev", "run"):  # as the box has them: PCI devices are hidden
                box.sh(f"mount --rbind /{d} {self.peer.root}/{d}")
            self.boxes.add(box.pid)
        return [*box.enter, *lifeline(), "chroot", str(self.peer.root), *argv]


@pytest.fixture
def release(request):
    """ "22.11" -> "22.11.11", of what is fetched"""
    try:
        request.node.tree = Tree(peers.find(f"{request.param}-programs"))
    except peers.Unobtainable as e:
        pytest.skip(f"wanted dpdk-test {request.param}, found none: {e}")
    return request.node.tree.peer.release


@pytest.fixture(autouse=True)
def cell(request):
    """What the table at the end is made of."""
    params = request.node.callspec.params
    what = request.node.originalname.removeprefix("test_").replace("_", " ")
    if "autotest" in params:
        what = f"dpdk-test {params['autotest']}"
    request.node.user_properties.append(("cell", (params["release"], what)))


@pytest.fixture
def host(start, make_box, release):
    def host(mb=32):
        """The queues of every library; dpdk-test has one more of its own."""
        box = make_box({"2M": PAGES})
        eal = start("-m", str(mb), target=f"pyeal:{release}", init=False, box=box)
        return eal.init(tailqs=[*pyeal.TAILQS, "dummy"])

    return host


@pytest.fixture
def program(request, release):
    def program(eal, *argv, env=None, limit=60, good=(0,)):
        """What it prints; it must end with 0, or one of these."""
        name, *args = argv
        argv = request.node.tree.command(eal.box, name, f"--file-prefix={eal.prefix}", *args)
        try:
            done = subprocess.run(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=limit,
                text=True,
                errors="replace",
                env=os.environ | (env or {}),
            )
        except subprocess.TimeoutExpired as e:
            raise Failed(name, f"over {limit} s", (e.stdout or b"").decode()) from None
        if done.returncode not in good:
            raise Failed(name, ending(done.returncode), done.stdout)
        return done.stdout

    return program


@pytest.fixture
def memory(program):
    """([(address, length, IOVA) of each segment], {zone: (address, length)})"""

    def memory(eal):
        said = program(eal, "dpdk-proc-info", "--", "-m")
        pages = re.findall(r"Segment \S+ IOVA:(0x\w+), len:(\d+), virt:(0x\w+)", said)
        zones = re.findall(r"name:<(.*?)>, len:(0x\w+), virt:(0x\w+)", said)
        return (
            [(int(va, 0), int(n), int(iova, 0)) for iova, n, va in pages],
            {name: (int(va, 0), int(n, 0)) for name, n, va in zones},
        )

    return memory


class Prompt:
    """A program's command line. A terminal, or nothing that it prints comes before the end."""

    def __init__(self, prompt, argv, box, prefix, limit=30):
        self.prompt, self.box, self.prefix, self.limit = prompt, box, prefix, limit
        self.text = ""
        self.fd, terminal = pty.openpty()
        self.popen = subprocess.Popen(
            argv, bufsize=0, stdin=subprocess.PIPE, stdout=terminal, stderr=terminal
        )
        os.close(terminal)
        self.pid = self.popen.pid
        self._until_prompt(0)

    def __call__(self, command):
        """What it prints until it asks for the next."""
        at = len(self.text)
        self.popen.stdin.write(command.encode() + b"\n")
        self._until_prompt(at)
        return self.text[at:].removesuffix(self.prompt)

    def _until_prompt(self, at):
        end = time.monotonic() + self.limit
        # the echo of the command has no prompt of its own
        while not self.text.endswith(self.prompt) or len(self.text) == at:
            if not self._read(end - time.monotonic()):
                raise Failed(self.prompt.strip(), "ended or silent", self.text)

    def _read(self, wait):
        if not select.select([self.fd], [], [], max(0, wait))[0]:
            return False
        try:
            data = os.read(self.fd, 1 << 16)
        except OSError:  # EIO: no process has the terminal any more
            return False
        self.text += data.decode(errors="replace").replace("\r\n", "\n")
        return bool(data)

    def quit(self):
        """Seconds that it took to end, and it ended well."""
        begun = time.monotonic()
        try:
            self.popen.stdin.write(b"quit\n")
            self.popen.stdin.close()
            while self._read(self.limit):
                pass
            rc = self.popen.wait(self.limit)
        except (BrokenPipeError, subprocess.TimeoutExpired):
            raise Failed(self.prompt.strip(), "did not quit", self.text) from None
        if rc:
            raise Failed(self.prompt.strip(), ending(rc), self.text)
        return time.monotonic() - begun

    def close(self):
        if self.popen.poll() is None:
            self.popen.kill()
        self.popen.wait(60)
        self.popen.stdin.close()
        os.close(self.fd)


NUMBERS = itertools.count(1)


@pytest.fixture
def prompt(request, release, make_box, prefix):
    made = []
    mode = request.node.callspec.params.get("mode", "dynmem")

    def prompt(word, program, *args, mb=32):
        box = make_box({"2M": PAGES})
        name = f"{prefix}_program{next(NUMBERS)}"
        cpus = ",".join(map(str, sorted(os.sched_getaffinity(0))[:2]))
        # legacy memory in pieces has no room for testpmd's ports: one run whatever the pool is like
        whole = ["--iova-mode=va"] if mode == "legacy" else []
        argv = [
            program,
            *MODES[mode],
            *whole,
            "-l",
            cpus,
            "-m",
            str(mb),
            "--no-telemetry",
            f"--file-prefix={name}",
            *args,
        ]
        made.append(Prompt(word, request.node.tree.command(box, *argv), box, name))
        return made[-1]

    yield prompt
    for p in made:
        p.close()


@pytest.fixture
def testpmd(prompt):
    more = "--", "-i", "--no-mlockall", "--total-num-mbufs=2048"
    return lambda: prompt("testpmd> ", "dpdk-testpmd", "--vdev=net_null0", *more)


@pytest.fixture
def dpdk_test(prompt):
    return lambda mb=32: prompt("RTE>>", "dpdk-test", mb=mb)


class Switch:
    """Open vSwitch: its database, and the switch with a bridge and a port of DPDK's."""

    HOME = "/run/ovs"
    LIB = f"/{peers.SWITCH}"
    ENV = dict.fromkeys(("OVS_RUNDIR", "OVS_LOGDIR", "OVS_DBDIR", "OVS_SYSCONFDIR"), HOME) | {
        "LD_LIBRARY_PATH": LIB
    }

    def __init__(self, tree, box, log, mb):
        self.tree, self.box, self.log, self.made = tree, box, log, []
        box.sh(f"mkdir {self.HOME}")
        db = f"{self.HOME}/conf.db"
        self._do("/usr/bin/ovsdb-tool", "create", db, "/usr/share/openvswitch/vswitch.ovsschema")
        self.socket = f"{self.HOME}/db.sock"
        try:
            self._start("/usr/sbin/ovsdb-server", db, f"--remote=punix:{self.socket}")
            options = {
                "init": "true",
                "socket-mem": mb // 4,
                "socket-limit": mb,
                "lcore-mask": "1",
                "extra": "--no-pci --no-telemetry --in-memory",
            }
            self._set(
                "Open_vSwitch", ".", *(f'other_config:dpdk-{k}="{v}"' for k, v in options.items())
            )
            self.popen = self._start(f"{self.LIB}/ovs-vswitchd-dpdk", f"unix:{self.socket}")
            self.pid = self.popen.pid
            bridge = "add-br br -- set bridge br datapath_type=netdev"
            port = "add-port br p -- set interface p type=dpdk options:dpdk-devargs=net_null0"
            self.vsctl(*f"{bridge} -- {port}".split())
        except BaseException:
            self.close()
            raise

    def __call__(self, *words):
        """What ovs-appctl prints."""
        return self._do("/usr/bin/ovs-appctl", "-t", f"{self.HOME}/ovs-vswitchd-dpdk.ctl", *words)

    def vsctl(self, *words):
        """Waits until the switch is as told."""
        how = "--retry", "--timeout=30", f"--db=unix:{self.socket}"
        return self._do("/usr/bin/ovs-vsctl", *how, *words)

    def _set(self, *words):
        self.vsctl("--no-wait", "init", "--", "set", *words)

    def _start(self, program, *args):
        with open(self.log, "ab") as f:
            control = f"--unixctl={self.HOME}/{program.rpartition('/')[2]}.ctl"
            argv = self.tree.run(self.box, program, *args, control)
            p = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=f, stderr=f, env=os.environ | self.ENV
            )
        self.made.append(p)
        return p

    def _do(self, *argv):
        done = subprocess.run(
            self.tree.run(self.box, *argv),
            capture_output=True,
            text=True,
            timeout=40,
            env=os.environ | self.ENV,
        )
        if done.returncode:
            log = self.log.read_text() if self.log.exists() else ""
            raise Failed(argv[0], ending(done.returncode), log + done.stderr)
        return done.stdout

    def close(self):
        for p in reversed(self.made):
            if p.poll() is None:
                p.kill()
            p.wait(60)


@pytest.fixture
def switch(request, release, make_box, tmp_path):
    made = []

    def switch(mb=64):
        box = make_box(lease={"2M": mb // 2})
        made.append(Switch(request.node.tree, box, tmp_path / "ovs.log", mb))
        return made[-1]

    yield switch
    for s in made:
        s.close()


@pytest.fixture
def beside(start, release):
    def beside(pmd, role="secondary"):
        kind = ["--proc-type=secondary"] if role == "secondary" else []
        eal = start(
            *kind,
            mode="dynmem",
            box=pmd.box,
            prefix=pmd.prefix,
            init=False,
            target=f"pyeal:{release}",
        )
        return eal.init(verb="observe" if role == "observer" else "init")

    return beside


def pytest_terminal_summary(terminalreporter, config):
    """Release by program; of several runs of a cell the worst counts."""
    table, order = {}, list(VERDICTS)
    for word, reports in terminalreporter.stats.items():
        for r in reports:
            where = dict(getattr(r, "user_properties", ())).get("cell")
            word = "failed" if word == "error" else word
            if where and word in order:
                cells = table.setdefault(where[1], {})
                found = cells.setdefault(where[0], [])
                found.append(word)
    if not table:
        return
    tr, names = terminalreporter, sorted({r for cells in table.values() for r in cells})
    width = max(map(len, table))
    tr.section("programs", "-")
    tr.line(" " * width + "".join(f"{r:>10}" for r in names))
    for what in sorted(table):
        cells = [_verdict(table[what].get(r, ["skipped"])) for r in names]
        tr.line(f"{what:{width}}" + "".join(f"{c:>10}" for c in cells))


def _verdict(words):
    worst = next(w for w in ("failed", "passed", "skipped") if w in words)
    return VERDICTS[worst]
