"""Core files of living processes, written by the kernel: they say what was seen before."""

from __future__ import annotations

from pathlib import Path

import pytest

from conformance import needs
from conformance.runner import cores

DOCTOR = {  # filter: what doctor --pid says of a core before there is one
    0x33: "has nothing of EAL but the names of its pages: echo 0x3b > /proc/{pid}/coredump_filter",
    0x3B: "of pages: 0x7f keeps all pages",
    0x7F: "of pages",
}


@pytest.mark.skipif(not cores.plain_core(), reason="wanted a core_pattern of a file, found a pipe")
@needs(pages={"2M": 4}, root=True)
@pytest.mark.parametrize("kind", ["librte_eal", "pyeal:26.07"])
@pytest.mark.parametrize("filter_", cores.FILTERS, ids=hex)
def test_a_core_says_what_was_seen_alive(
    start, kind, filter_, facts, tool, tmp_path, monkeypatch, evidence
):
    """Lists and zones with filter 0x3b, elements with 0x7f, mapped pages with 0x33."""
    monkeypatch.chdir(tmp_path)  # the kernel writes into the directory of the process
    eal = start("-m", "6", target=kind, fresh=True)
    eal.free(eal.malloc(70_000).va)
    eal.memzone("reserve", "a zone", 100_000)
    live = facts("inspect", eal.pid, "--elements") | {"its_pid": eal.pid, "its_role": "primary"}
    Path(f"/proc/{eal.pid}/coredump_filter").write_text(hex(filter_))
    links = facts("doctor", "--pid", eal.pid)["links"]
    said = [f["text"] for link in links for f in link["findings"] if 39 in f["problems"]]
    core = cores.crash(eal, tmp_path / "a core")
    code = int(filter_ == cores.FILTERS[0])
    dead = facts("inspect", core, "--elements", code=code)
    evidence(f"{core.stat().st_size >> 20} MB")
    eal.kill()

    assert len(said) == 1 and DOCTOR[filter_].format(pid=eal.pid) in said[0], said
    assert ("lists and zones (" in said[0]) == (not code)
    assert cores.compared(live, dead, code, filter_, "dynmem") == []
    assert dead["health"] == "core" and "ended by signal 6" in dead["why"]
    assert tool("map", core, code=code)
