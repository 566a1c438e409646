"""Virtual machines: what QEMU and the kernel are told, and how a run ends. None is booted."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from conformance import until
from conformance.harness import host
from conformance.runner import machines
from conformance.units import fleet

UP = "kernel 6.1.0-50-cloud-amd64\npage {}\n{}up\n"
COUNT = "node{}/hugepages/{}/nr_hugepages:{}\n"


def said(machine: machines.Machine) -> str:
    """What one tells that came up as it is described."""
    lines = [f"node{k}/cpulist:\n" for k in range(len(machine.nodes))]
    lines += [COUNT.format(k, host.kernel_dir(sz), n) for k, sz, n in machine.pages(bool)]
    return UP.format(machine.page, "".join(lines)).replace("6.1", machine.kernel)


@pytest.mark.parametrize("name", machines.names())
def test_each_machine_is_described(name: str) -> None:
    m = machines.Machine(name)

    assert m.about.endswith(".")
    assert 1 <= m.cpus <= 4
    assert all(set(n) <= {"memory", "cpus", "pages"} for n in m.nodes)
    for k, node in enumerate(m.nodes):  # half of its memory is left for the kernel and programs
        pages = sum(n * host.size(sz) for at, sz, n in m.pages(bool) if at == k)
        assert pages <= host.size(node["memory"]) * 0.6
    assert list(m.differs(said(m))) == []


def test_nodes_as_qemu_is_told() -> None:
    assert " ".join(machines.Machine("memoryless").hardware()) == (
        "-m 3072M -smp 2,sockets=2"
        " -object memory-backend-ram,id=m0,size=2G -numa node,nodeid=0,memdev=m0,cpus=0"
        " -numa node,nodeid=1,cpus=1"
        " -object memory-backend-ram,id=m2,size=1G -numa node,nodeid=2,memdev=m2"
    )


def test_big_pages_are_the_kernels_and_small_ones_the_first_process_s() -> None:
    m = machines.Machine("numa2")

    assert m.command_line() == (
        f"console=ttyS0 {machines.OPTIONS} tsc=reliable no_timer_check"
        " hugepagesz=1G hugepages=0:1,1:1"
    )
    job = m.job(["sh", "-c", "echo 'a b'"], "").splitlines()
    small = "hugepages/hugepages-2048kB/nr_hugepages=256"
    assert f"pages='node0/{small} node1/{small}'" in job
    done = subprocess.run(["sh", "-c", "\n".join([*job, 'sh -c "$command"'])], capture_output=True)
    assert done.stdout == b"a b\n"


def test_arm64_has_its_own_board_kernel_and_consoles(tmp_path: Path) -> None:
    """The board's port is the kernel's; the command's and that of /init are PCI devices."""
    m = machines.Machine("arm64-16k")
    argv = list(map(str, machines.qemu(m, "image", "initrd", "tcg", tmp_path)))

    assert argv[argv.index("-cpu") + 1] == "neoverse-n1"
    assert argv[argv.index("-append") + 1] == (
        f"console=ttyAMA0 {machines.OPTIONS} hugepagesz=1G hugepages=0:1"
    )
    ports = ["-serial chardev:c0", "-device pci-serial,chardev=c1", "-device pci-serial,chardev=c2"]
    assert [p for p in ports if p in " ".join(argv)] == ports
    assert {"out=ttyS0", "said=ttyS1"} <= set(m.job(["true"], "").splitlines())
    assert list(m.differs(said(m).replace("page 16", "page 4"))) == [
        "wanted pages of 16 kB, found 4"
    ]


def test_what_came_up_otherwise_is_told() -> None:
    m = machines.Machine("numa2")
    text = said(m).replace("node1/cpulist:\n", "").replace("6.1.", "6.12.")
    text = text.replace("2048kB/nr_hugepages:256", "2048kB/nr_hugepages:255", 1)

    assert list(m.differs(text)) == [
        "wanted kernel 6.1, found 6.12.0-50-cloud-amd64",
        "wanted nodes [0, 1], found [0]",
        "wanted 256 2M pages on node 0, found 255",
    ]


def test_what_cannot_be_fetched_is_told_before_anything_boots(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """ci/arm64 skips for this reason alone: a machine that does not come up is a failure."""
    monkeypatch.setitem(machines.QEMU, "arm64", "/nonexistent/qemu")

    assert machines.main(["fetch", "arm64"]) == machines.BROKEN
    assert "wanted /nonexistent/qemu, found none: apt-get install" in capsys.readouterr().err


def test_an_unknown_machine_is_refused_with_those_there_are() -> None:
    with pytest.raises(machines.Broken, match=r"no machine numa3: there are .*numa2, numa4"):
        machines.Machine("numa3")


def test_a_path_brings_its_folders_links_and_targets(tmp_path: Path) -> None:
    """a/link -> ../b, b/file -> c"""
    for d in "a", "b":
        (tmp_path / d).mkdir()
    (tmp_path / "a/link").symlink_to("../b")
    (tmp_path / "b/file").symlink_to("c")
    (tmp_path / "b/c").write_text("")
    seen: set[str] = set()
    machines.reach(tmp_path / "a/link/file", seen)

    below = {str(Path(p).relative_to(tmp_path)) for p in seen if str(tmp_path) in p}
    assert below == {".", "a", "a/link", "b", "b/file", "b/c"}


@pytest.mark.parametrize(
    ("argv", "want"),
    [
        ("ci/conform NUMA", []),
        ("ci/conform --peer 24.11 --target librte_eal:20.11", ["20.11", "24.11"]),
        ("ci/conform --peer=all", ["20.11", "22.11", "24.11", "25.11"]),
    ],
)
def test_a_command_says_which_peers_go_along(argv: str, want: list[str]) -> None:
    assert machines.wanted_peers(argv.split()) == want


# In place of QEMU: a program that writes what the machine would.

Fake = Callable[[str], Path]
START = """#!/bin/sh
for a; do case $a in file,path=*/said,*) said=${a#file,path=}; said=${said%,*};; esac; done
console=${said%said}console
"""


@pytest.fixture
def qemu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Fake:
    monkeypatch.setattr(machines, "BUSYBOX", "/bin/sh")
    monkeypatch.setattr(machines, "kernel", lambda machine, say: tmp_path / "kernel")
    monkeypatch.setattr(machines, "file_system", lambda *args: tmp_path / "initrd")
    monkeypatch.setattr(machines, "accelerations", lambda arch: ["tcg"])

    def fake(script: str) -> Path:
        path = tmp_path / "qemu"
        path.write_text(START + script)
        path.chmod(0o755)
        monkeypatch.setitem(machines.QEMU, "amd64", str(path))
        return path

    return fake


def run(report: Path, limit: float = 10) -> int:
    return machines.main(
        ["run", "numa2", "--report", str(report), "--limit", str(limit), "--", "true"]
    )


def packed(content: bytes) -> bytes:
    """A report as a machine sends it."""
    to = io.BytesIO()
    with tarfile.open(fileobj=to, mode="w:gz") as tar:
        info = tarfile.TarInfo("conform-report/run.jsonl")
        info.size = len(content)
        tar.addfile(info, io.BytesIO(content))
    return to.getvalue()


def test_output_exit_code_and_report_come_back(
    qemu: Fake, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    (tmp_path / "packed").write_bytes(packed(b"{}\n"))
    (tmp_path / "up").write_text(said(machines.Machine("numa2")))
    qemu(
        f"cat {tmp_path}/up >>$said; printf 'one\\ntwo\\n'; echo ended 7 >>$said;"
        f" cat {tmp_path}/packed >>$said"
    )
    code = run(tmp_path / "report")
    out, err = capfdbinary.readouterr()

    assert code == 7
    assert out == b"one\ntwo\n"
    assert b"numa2: up after" in err
    assert (tmp_path / "report/run.jsonl").read_text() == "{}\n"


def test_a_matrix_is_one_page_of_all_machines_that_brought_a_run(
    qemu: Fake, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """numa2, numa4 and this machine's own run; memoryless goes down, and is named."""
    for name in "numa2", "numa4", "memoryless":
        (tmp_path / f"{name}.up").write_text(said(machines.Machine(name)))
        records = fleet.run(name, ["NUMA-001", "NUMA-002"], ids=["NUMA"])
        content = fleet.write(tmp_path / "run.jsonl", records).read_bytes()
        (tmp_path / f"{name}.packed").write_bytes(packed(content))
    own = fleet.write(tmp_path / "own.jsonl", fleet.run("own", ["NUMA-001", "SEG-010"]))
    qemu(
        f"cd {tmp_path}; m=numa2\n"
        "case $* in *id=m3*) m=numa4;; *nodeid=2,*) m=memoryless;; esac\n"
        "cat $m.up >>$said; [ $m = memoryless ] || { echo ended 0; cat $m.packed; } >>$said"
    )
    to = tmp_path / "page"
    words = ["matrix", "numa2", "numa4", "memoryless", "--report", str(to), "--with", str(own)]
    code = machines.main([*words, "--", "true"])
    err = capsys.readouterr().err

    assert code == machines.BROKEN
    assert "memoryless: no run of it in the page" in err
    summary = json.loads((to / "summary.json").read_text())
    assert sorted(h["name"] for h in summary["hosts"]) == ["numa2", "numa4", "own"]
    assert (to / "index.html").exists()


@pytest.mark.parametrize(
    ("script", "code", "says"),
    [
        ("echo 'no such CPU' >&2; exit 1", 2, "did not come up in 0 s; its last words:"),
        ("echo 'Kernel panic' >$console", 2, "| Kernel panic"),
        ("cat up >>$said; echo oops >$console", 2, "went down before the command ended"),
        ("sed s/:256/:255/ up >>$said; exec sleep 60", 2, "wanted 256 2M pages on node 0"),
        ("cat up >>$said; exec sleep 60", 2, "numa2: over 1 s"),
    ],
    ids=["not-started", "panic", "went-down", "otherwise", "endless"],
)
def test_a_machine_that_fails_says_why_and_is_gone(
    qemu: Fake,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    script: str,
    code: int,
    says: str,
) -> None:
    (tmp_path / "up").write_text(said(machines.Machine("numa2")))
    before = host.children()
    qemu(f"cd {tmp_path}; {script}")

    assert run(tmp_path / "report", 1) == code
    assert says in capsys.readouterr().err
    assert host.children() == before


def test_acceleration_that_brought_nothing_up_is_left_alone_until_another_kernel_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (machines.peers.cache() / "kernels").mkdir()
    monkeypatch.setattr(machines.os, "access", lambda path, mode: True)

    assert list(machines.accelerations()) == ["kvm", "tcg"]
    machines._no_kvm(mark=True)
    assert list(machines.accelerations()) == ["tcg"]
    monkeypatch.setattr(machines.platform, "release", lambda: "another kernel")
    assert list(machines.accelerations()) == ["kvm", "tcg"]


@pytest.mark.parametrize("by", ["INT", "TERM", "KILL"])
def test_no_machine_outlives_its_runner(qemu: Fake, tmp_path: Path, by: str) -> None:
    fake = qemu(f"echo $$ >{tmp_path}/pid; exec sleep 60")
    patched = f"""
from pathlib import Path
from conformance.runner import machines as m
m.QEMU["amd64"], m.BUSYBOX, m.accelerations = {str(fake)!r}, "/bin/sh", lambda arch: ["tcg"]
m.kernel = m.file_system = lambda *args: Path("/dev/null")
raise SystemExit(m.main(["run", "numa2", "--", "true"]))
"""
    runner = subprocess.Popen([sys.executable, "-c", patched], stderr=subprocess.DEVNULL)
    pid = int(until(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text(), 20))
    runner.send_signal(signal.Signals[f"SIG{by}"])

    assert runner.wait(10) == (-signal.SIGKILL if by == "KILL" else 130)
    assert until(lambda: not alive(pid), 20)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
