"""A librte_eal that is given by its path: found in a build or an installation, or refused."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conformance.harness import child, facts, library, peers
from conformance.harness.child import TargetDied, greet
from conformance.runner import run, smoke, targets

CC = shutil.which("cc") or shutil.which("gcc")
compiled = pytest.mark.skipif(
    not CC, reason="wanted a C compiler, found none: apt-get install gcc libc6-dev"
)

# As much of an EAL as says what it is. Its log comes from another library, as EAL's does.
LOG = "int rte_log(void) { return 0; }\n"
EAL = """
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
__thread int per_lcore__rte_errno;
int rte_log(void);
#ifdef RELEASE
const char *rte_version(void) { return "DPDK " RELEASE; }
#endif
int rte_eal_init(int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "-v"))
            fprintf(stderr, "EAL: RTE Version: 'DPDK 20.11.7'\\n");
        if (!strcmp(argv[i], "--no-such-option")) {
#ifdef END
            END;
#endif
        }
    }
    per_lcore__rte_errno = 22;
    return rte_log() - 1;
}
int rte_eal_cleanup(void) { return 0; }
"""


def build(top: Path, at: str = "lib", log: str = "", abi: str = "99.1", **defines: str) -> Path:
    """A prefix with an EAL and, in the folder `log`, the library that it needs; no RUNPATH."""
    folder, other = top / at, top / (log or at)
    for d in (folder, other):
        d.mkdir(parents=True, exist_ok=True)
    lib = other / "librte_log.so.99"
    make(LOG, lib, f"-Wl,-soname,{lib.name}")
    out = folder / f"librte_eal.so.{abi}"
    make(EAL, out, str(lib), *(f"-D{k}={v}" for k, v in defines.items()))
    (folder / "librte_eal.so").symlink_to(out.name)
    return top


def make(text: str, out: Path, *more: str) -> None:
    argv = [str(CC), "-shared", "-fPIC", "-x", "c", "-", "-x", "none", "-o", str(out), *more]
    subprocess.run(argv, input=text.encode(), check=True)


@compiled
@pytest.mark.parametrize("at", ["lib", "lib64", "usr/local/lib/x86_64-linux-gnu", "build/lib", "."])
def test_found_below_a_directory_with_the_libraries_beside_it(at: str, tmp_path: Path) -> None:
    top = build(tmp_path, at, RELEASE='"26.07.0"')

    assert greet(f"librte_eal:{top}").release == "26.07.0"
    assert greet(f"librte_eal:{top}/{at}/librte_eal.so.99.1").release == "26.07.0"
    assert greet(f"librte_eal:{top}/{at}/librte_eal.so").release == "26.07.0"


@compiled
def test_a_missing_library_is_named_and_the_fix_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    top = build(tmp_path, log="elsewhere", RELEASE='"26.07.0"')
    with pytest.raises(TargetDied, match=r"expected librte_log\.so\.99, found none\. Fix: ") as e:
        greet(f"librte_eal:{top}")
    m = re.search(r"(LD_LIBRARY_PATH)=FOLDER", str(e.value))
    assert m

    monkeypatch.setenv(m[1], str(tmp_path / "elsewhere"))

    assert greet(f"librte_eal:{top}").release == "26.07.0"


@compiled
def test_a_release_without_a_function_for_it_is_what_it_prints(tmp_path: Path) -> None:
    top = build(tmp_path)

    assert greet(f"librte_eal:{top}").release == "20.11.7"
    assert greet(f"librte_eal:{top}@20.11.10").release == "20.11.10"


@compiled
def test_another_release_than_the_library_reports_is_refused(tmp_path: Path) -> None:
    top = build(tmp_path, RELEASE='"22.11.4"')
    with pytest.raises(TargetDied, match=r"is 22\.11\.4: expected 22\.11\.5, as given"):
        greet(f"librte_eal:{top}@22.11.5")


@compiled
def test_two_builds_below_a_directory_are_named(tmp_path: Path) -> None:
    build(build(tmp_path, "lib"), "lib64", abi="98")
    with pytest.raises(library.Unusable, match=r"has 2 builds: give one of .*\.99\.1, .*\.98$"):
        library.find(str(tmp_path))


HEADS = {
    "arm": (40, 3, r"built for arm, this machine is x86_64$"),
    "program": (62, 2, r"is an ELF file, but not a shared library$"),
}


@pytest.mark.parametrize("what", HEADS)
def test_a_file_that_the_loader_would_refuse(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library.platform, "machine", lambda: "x86_64")
    machine, kind, words = HEADS[what]
    head = b"\x7fELF\2\1\1".ljust(16, b"\0") + bytes([kind, 0, machine, 0])
    (tmp_path / "librte_eal.so.26.2").write_bytes(head)
    with pytest.raises(library.Unusable, match=words):
        library.find(str(tmp_path))


def test_a_library_for_another_architecture_is_run_by_a_peers_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its own folder goes behind the tree's, which has a libc; without a tree, what fetches one."""
    head = b"\x7fELF\2\1\1".ljust(16, b"\0") + bytes([3, 0, 243, 0])
    (tmp_path / "librte_eal.so.26.2").write_bytes(head)
    monkeypatch.setattr(child, "HERE", "x86_64")
    monkeypatch.setattr(peers.platform, "machine", lambda: "x86_64")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))

    assert child.machine(f"librte_eal:{tmp_path}") == "riscv64"
    with pytest.raises(
        peers.Unobtainable, match=r"a library for riscv64.* ci/peers 25\.11-riscv64"
    ):
        child.command(f"librte_eal:{tmp_path}")

    tree = peers.cache() / "peers/24.11-riscv64"
    (tree / "usr/lib/riscv64-linux-gnu").mkdir(parents=True)
    for name in "librte_eal.so.25", "ld-linux-riscv64-lp64d.so.1":
        (tree / "usr/lib/riscv64-linux-gnu" / name).touch()
    facts = {"release": "24.11.8", "python": "3.13", "described": peers.described("24.11-riscv64")}
    (tree / "peer.json").write_text(json.dumps(facts))
    monkeypatch.setattr(peers.shutil, "which", lambda name: f"/usr/bin/{name}")
    argv = child.command(f"librte_eal:{tmp_path}")

    assert argv[0] == "qemu-riscv64"
    assert argv[3] == f"{tree}/usr/lib/riscv64-linux-gnu:{tmp_path}"
    assert argv[-1] == f"{tmp_path}/librte_eal.so.26.2"


def test_what_is_no_library_says_what_to_give(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("INPUT(librte_eal.so.26)")
    (tmp_path / "static/lib").mkdir(parents=True)
    (tmp_path / "static/lib/librte_eal.a").touch()
    for given, words in (
        (tmp_path / "none", "no library .*/none: give a file, a build directory or"),
        (tmp_path / "text", "is not an ELF file"),
        (tmp_path / "static", "is static: expected a shared .* -Ddefault_library=shared"),
        (tmp_path, r"has no librte_eal\.so\.\*"),
    ):
        with pytest.raises(library.Unusable, match=words):
            library.find(str(given))


def test_a_path_with_an_at_sign(tmp_path: Path) -> None:
    folder = tmp_path / "dpdk@home"
    folder.mkdir()
    shutil.copy("/bin/true", folder / "librte_eal.so.99")  # position-independent: ET_DYN
    found = [library.find(f"{folder}{more}") for more in ("", "@20.11", "@26.07.0-rc1")]

    assert {f.path.parent for f in found} == {folder}
    assert [f.release for f in found] == ["", "20.11", "26.07.0-rc1"]


@compiled
@pytest.mark.parametrize(
    ("end", "good", "words"),
    [
        ("exit(1)", True, "no errno: rte_eal_init ends the process (exited 1)"),
        ("abort()", True, "no errno: rte_eal_init ends the process (killed by SIGABRT)"),
        ("*(volatile int *)0 = 0", False, "init: killed by SIGSEGV"),
    ],
)
def test_smoke_reports_an_eal_that_ends_the_process(
    end: str, good: bool, words: str, tmp_path: Path
) -> None:
    top = build(tmp_path, RELEASE='"26.07.0"', END=end)
    s = smoke.Smoke(f"librte_eal:{top}", 20, tmp_path)
    try:
        found = {c.name: c for c in s.checks()}
    finally:
        s.box.close()

    assert found["bad argument"].good == good
    assert found["bad argument"].says.startswith(words)


@compiled
def test_builds_are_named_by_release_and_pair_with_pyeal(tmp_path: Path) -> None:
    old = build(tmp_path / "old", RELEASE='"22.11.11"')
    new = build(tmp_path / "new", RELEASE='"26.07.0"')
    one, *several = targets.given([f"librte_eal:{old}"]), f"librte_eal:{new}", "pyeal:26.07"
    found = targets.given([f"librte_eal:{old}", *several])

    assert [t.name for t in one] == ["librte_eal"]
    assert [t.name for t in found] == ["librte_eal:22.11.11", "librte_eal:26.07.0", "pyeal"]
    assert [p.name for p in targets.pairs(found, [])] == [
        "librte_eal:26.07.0 × pyeal",
        "pyeal × librte_eal:26.07.0",
    ]


@compiled
def test_interop_takes_builds(tmp_path: Path) -> None:
    top = build(tmp_path, RELEASE='"26.07.0"')
    found = list(targets.interop(run.arguments(["--interop", "--target", f"librte_eal:{top}"])))

    assert [(t.spec.partition(":")[0], t.secondary.partition(":")[0]) for t in found] == [
        ("pyeal", "pyeal"),
        ("pyeal", "librte_eal"),
        ("librte_eal", "pyeal"),
        ("librte_eal", "librte_eal"),
    ]


@compiled
def test_facts_are_those_of_the_libraries_that_are_mapped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An own build is no package, a peer's tree is one; libnuma is told by its symbols."""
    top = build(tmp_path, RELEASE='"22.11.11"')
    lib = tmp_path / "lib/librte_eal.so.99.1"
    numa = tmp_path / "libnuma.so.1.0.0"
    make("", numa)
    load = f"import ctypes; [ctypes.CDLL(p, 1) for p in {[str(numa), *libs(top)]}]; print(flush=1)"

    def measured() -> frozenset[str]:
        argv = [sys.executable, "-c", f"{load}; input()"]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as p:
            assert p.stdout and p.stdin
            p.stdout.readline()
            found = facts.of(p.pid)
            p.stdin.write(b"\n")
        return found

    assert measured() == {"libnuma before 2.0.17"}
    numa.write_bytes(numa.read_bytes() + b"libnuma_1.7\0")
    (tmp_path / "peer.json").touch()
    assert measured() == {"Debian's package"}
    (tmp_path / "peer.json").unlink()
    monkeypatch.setattr(facts, "DPKG", tmp_path)
    (tmp_path / "librte-eal99.list").write_text(f"/.\n{lib}\n")
    assert measured() == {"Debian's package"}


def libs(top: Path) -> list[str]:
    return [str(top / "lib/librte_log.so.99"), str(top / "lib/librte_eal.so.99.1")]
