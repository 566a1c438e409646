"""Peers: what is fetched, and what is refused. No network."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from conformance.harness import peers

apt = pytest.mark.skipif(not shutil.which("apt-get"), reason="wanted apt-get, found none")
LAX = (
    'Acquire::AllowInsecureRepositories "true";\n'
    'APT::Get::AllowUnauthenticated "true";\n'
    'Acquire::Check-Valid-Until "false";\n'
)


def test_each_peer_is_described() -> None:
    assert peers.releases() == ["20.11", "22.11", "24.11", "25.11"]
    for name in peers.releases():
        facts = peers.described(name)
        assert sorted(facts) == ["eal", "python", "suites", "without"]


def test_programs_come_with_their_libraries_and_drivers() -> None:
    for name in peers.releases():
        facts = peers.described(f"{name}-programs")
        assert facts["packages"] == ["dpdk-dev", "openvswitch-switch-dpdk"]
        kept = ["dpdk-dev", "librte-net-null23", "librte-eal26", "libc6", "libssl3t64", "libelf1"]
        kept += ["openvswitch-switch-dpdk", "libcap-ng0"]
        left = ["libdpdk-dev", "libc6-dev", "perl", "python3.13-minimal", "librte-meta-all"]
        assert [p for p in kept + left if peers.left_out(p, facts)] == left


def test_a_minor_release_is_its_line() -> None:
    assert peers.of("24.11.4") == "24.11"
    assert peers.of("24.11.4-programs") == "24.11-programs"
    with pytest.raises(peers.Unobtainable, match=r"no peer 24\.11-others: there are"):
        peers.of("24.11-others")
    with pytest.raises(peers.Unobtainable, match=r"no peer 26\.07: there are 20\.11, 22\.11"):
        peers.of("26.07")


def test_the_build_for_another_architecture_is_a_peer_of_its_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(peers.platform, "machine", lambda: "x86_64")
    assert peers.of("24.11.4-arm64") == "24.11-arm64"
    assert peers.of("24.11-amd64") == "24.11"
    assert peers.described("24.11-arm64")["architecture"] == "arm64"
    assert "mount" in peers.described("24.11-arm64-system")["more"]
    with pytest.raises(peers.Unobtainable, match=r"no peer 24\.11-armhf: there are"):
        peers.of("24.11-armhf")

    monkeypatch.setattr(peers.platform, "machine", lambda: "aarch64")
    assert (peers.of("24.11"), peers.of("24.11-amd64")) == ("24.11-arm64", "24.11")
    assert peers.emulator("aarch64") == []


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return peers.cache()


def test_what_is_not_fetched_names_the_command(empty: Path) -> None:
    with pytest.raises(peers.Unobtainable, match=r"24\.11 is not fetched: ci/peers 24\.11"):
        peers.find("24.11")


def test_no_mirror_of_debian(monkeypatch: pytest.MonkeyPatch) -> None:
    lines = "http://localhost/ubuntu/ noble main\nhttp://localhost/debian/ bookworm contrib\n"
    monkeypatch.setattr(peers, "_run", lambda argv: lines)
    with pytest.raises(peers.Unobtainable, match=r"wanted a Debian mirror .* found none"):
        peers.mirrors()
    lines += "http://localhost/debian/ bookworm main\nhttp://localhost/debian/ bullseye main\n"

    assert peers.mirrors() == ["http://localhost/debian/"]


@apt
@pytest.mark.parametrize("signature", ["none", "forged", "stranger"])
def test_a_mirror_that_debian_did_not_sign_is_refused(
    signature: str, tmp_path: Path, empty: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where this machine's apt would take it."""
    lax = tmp_path / "apt.conf"
    lax.write_text(LAX)
    monkeypatch.setenv("APT_CONFIG", str(lax))
    if not peers.KEYS.exists():
        monkeypatch.setattr(peers, "KEYS", keys := tmp_path / "keys.gpg")
        keys.write_bytes(b"")
    dist = tmp_path / "debian/dists/trixie"
    (dist / "main/binary-amd64").mkdir(parents=True)
    (dist / "main/binary-amd64/Packages").write_text("")
    release = "Origin: Debian\nSuite: trixie\nCodename: trixie\nComponents: main\n"
    (dist / "Release").write_text(release + "Date: Sat, 01 Nov 2025 00:00:00 UTC\n")
    if signature == "forged":
        (dist / "Release.gpg").write_text("-----BEGIN PGP SIGNATURE-----\n\nAAAA\n")
    elif signature == "stranger":
        sign(dist / "Release", tmp_path)

    with pytest.raises(peers.Unobtainable, match=r"trixie: apt-get .* is not signed"):
        peers.fetch("24.11", mirror=f"file:{tmp_path}/debian")

    assert not list((empty / "peers").glob("[!.]*"))


def sign(path: Path, tmp: Path) -> None:
    """By a key that only this test knows."""
    if not shutil.which("gpg"):
        pytest.skip("wanted gpg, found none")
    home = tmp / "gpg"
    home.mkdir(mode=0o700)
    gpg = ["gpg", "--homedir", str(home), "--batch", "-q", "--passphrase", ""]
    subprocess.run([*gpg, "--quick-gen-key", "stranger", "ed25519"], check=True)
    out = ["--output", f"{path}.gpg", "--detach-sign", str(path)]
    subprocess.run([*gpg, "--armor", *out], check=True)


@pytest.mark.skipif(not shutil.which("dpkg-deb"), reason="wanted dpkg-deb, found none")
def test_unpacked_as_usr_merged(tmp_path: Path) -> None:
    """Debian 11's loader: an absolute link from /lib64 into /lib; documentation stays behind."""
    deb, tree = tmp_path / "deb", tmp_path / "tree"
    for d in ("DEBIAN", "lib64", "lib/x86_64-linux-gnu", "usr/share/doc/x"):
        (deb / d).mkdir(parents=True)
    (deb / "DEBIAN/control").write_text(
        "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: x <x@localhost>\nDescription: x\n"
    )
    (deb / "usr/share/doc/x/copyright").write_text("")
    (deb / "lib/x86_64-linux-gnu/ld-2.31.so").write_text("loader")
    (deb / "lib64/ld.so").symlink_to("/lib/x86_64-linux-gnu/ld-2.31.so")
    subprocess.run(["dpkg-deb", "-b", str(deb), f"{deb}.deb"], check=True, capture_output=True)
    peers.unpack(Path(f"{deb}.deb"), tree)

    assert [p.name for p in tree.iterdir()] == ["usr"]
    assert (tree / "usr/lib64/ld.so").readlink() == Path("../lib/x86_64-linux-gnu/ld-2.31.so")
    assert (tree / "usr/lib64/ld.so").read_text() == "loader"
    assert not (tree / "usr/share").exists()
