"""`pyeal setup`: files that reserve hugepages at boot, which doctor then finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance import GB, MB
from conformance.units.recorded import facts, pyeal
from pyeal.tools import setup
from pyeal.tools.doctor.pool import _lasts


def written(root: Path) -> dict[str, str]:
    return {f"/{p.relative_to(root)}": p.read_text() for p in root.rglob("*") if p.is_file()}


def test_apply_writes_what_doctor_looks_for(tmp_path: Path) -> None:
    """Nodes by tmpfiles.d, 1G by arguments of GRUB and a mount unit; then one size less."""
    (tmp_path / "etc/default/grub.d").mkdir(parents=True)
    pyeal("setup", "2M:64@0,2M:32@1,1G:2", "--root", tmp_path, "--apply", "-y")
    found = written(tmp_path)
    pyeal("setup", "2M:64", "--root", tmp_path, "--apply", "-y")

    assert "node1/hugepages/hugepages-2048kB/nr_hugepages - - - - 32" in found[setup.TMPFILES]
    assert "hugepagesz=1G hugepages=2" in found[setup.GRUB]
    assert "pagesize=1G" in found["/etc/systemd/system/dev-hugepages1G.mount"]
    assert all(_lasts("".join(found.values()), sz, 2 * MB) for sz in (2 * MB, GB))
    assert not _lasts("quiet splash", 2 * MB, 2 * MB)
    after = written(tmp_path)
    assert setup.TMPFILES not in after and setup.GRUB not in after
    assert "vm.nr_hugepages = 64" in after[setup.SYSCTL] and _lasts(
        after[setup.SYSCTL], 2 * MB, 2 * MB
    )


def test_without_a_yes_nothing_is_written(tmp_path: Path) -> None:
    pyeal("setup", "2M:64", "--root", tmp_path)
    pyeal("setup", "2M:64", "--root", tmp_path, "--apply", input="n\n", code=1)

    assert written(tmp_path) == {}


@pytest.mark.parametrize("pages", ["2M", "2M:x", "2M:4,2M:4@0", "1G:1,1G:1@1"])
def test_what_makes_no_sense_is_refused(pages: str) -> None:
    pyeal("setup", pages, code=2)


def test_pages_of_1_gb_of_nodes_and_of_an_owner() -> None:
    said = facts("setup", "1G:2@1,1G:1@0", "--owner", 65534)

    assert said["kernel_arguments"] == ["hugepagesz=1G", "hugepages=0:1,1:2"]
    assert "uid=65534,mode=0700" in said["files"][-1]["content"]


def test_names_of_mount_units() -> None:
    assert setup.unit_of("/dev/huge-pages") == "dev-huge\\x2dpages.mount"
