"""`pyeal collect` and `--from`: what is in the archive, what is not, and what it says elsewhere."""

from __future__ import annotations

import json
import sys
import tarfile
from pathlib import Path
from types import ModuleType

import pytest

from conformance.units.recorded import facts, pyeal, unpack
from pyeal.tools import answers, collect

SECRETS = {
    "app --password=hunter2 -l 0": "app --password=*** -l 0",
    "app --vfio-vf-token 14d63f20 -n 4": "app --vfio-vf-token *** -n 4",
    "app\0--api-key\0abc\0-v\0": "app\0--api-key\0***\0-v\0",
    "--vdev=crypto0,auth_key=00ff,qp=2": "--vdev=crypto0,auth_key=***,qp=2",
    "get https://me:hunter2@host/x": "get https://***@host/x",
    "monkey=1 --socket-mem 64 keyboard": "monkey=1 --socket-mem 64 keyboard",
    '{"token": "Secret: abc", "n": 1}': '{"token": "Secret: ***", "n": 1}',
}


@pytest.mark.parametrize("text", SECRETS, ids=range(len(SECRETS)))
def test_values_of_secrets_are_left_out(text: str) -> None:
    assert answers.without_secrets(text) == SECRETS[text]


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of this machine, on which there is an ended EAL, with a log."""
    tmp = tmp_path_factory.mktemp("collect")
    run = unpack("24.11", "dynmem", tmp / "dpdk" / "gone")
    for file in run.iterdir():
        file.rename(tmp / "dpdk" / "gone" / file.name)
    (tmp / "dpdk" / "gone" / "secret").write_text("not of EAL")
    log = tmp / "app.log"
    log.write_text("EAL: started\nlogin password: hunter2\n")
    path = tmp / "collected.tar.gz"
    env = {"XDG_RUNTIME_DIR": str(tmp), "RUNTIME_DIRECTORY": str(tmp)}
    words = ["--output", path, "--log", log, "--", "-m", "16", "--no-huge"]
    said = pyeal("collect", *words, env=env)
    assert "collected.tar.gz" in said and "Cannot allocate" not in said
    return path


def test_what_is_in_it(archive: Path) -> None:
    """Facts and answers, and nothing else of the directory; for its owner alone."""
    with tarfile.open(archive) as t:
        names = t.getnames()
        kept = t.extractfile("logs/0-app.log")
        assert kept and kept.read() == b"EAL: started\nlogin password: ***\n"
        limit = t.extractfile("root/proc/sys/vm/max_map_count")
        assert limit and int(limit.read()) > 0
    assert [n for n in names if n.endswith("gone/config")]
    assert not [n for n in names if n.endswith("secret") or "map_" in n.rpartition("/")[2][:4]]
    assert {"answers/ps.json", "answers/stale.json", "answers/doctor.json"} <= set(names)
    assert archive.stat().st_mode & 0o777 == 0o600


def test_the_answers_are_those_of_the_machine(archive: Path) -> None:
    """ps, stale and doctor, as JSON and as text; inspect by the files of the directory."""
    (gone,) = [
        e for e in facts("ps", "-a", "--from", archive)["eals"] if e["file_prefix"] == "gone"
    ]
    assert (gone["release"], gone["health"]) == ("24.11.4", "stale")
    assert "gone" in pyeal("ps", "--from", archive)
    items = facts("stale", "gone", "--from", archive, code=1)["items"]
    assert [(f["kind"], f["verdict"]) for f in items] == [("directory", "stale")]
    assert "of 7 files" in pyeal("stale", "gone", "--from", archive, code=1)
    doctor = facts("doctor", "--from", archive)
    assert doctor["args"] == ["-m", "16", "--no-huge"] and doctor["verdict"] == "OK"
    assert "would start" in pyeal("doctor", "--from", archive)
    with tarfile.open(archive) as t:
        inner = next(n for n in t.getnames() if n.endswith("gone/config")).rpartition("/")[0]
    assert facts("inspect", f"{archive}:{inner}")["release"] == "24.11.4"


def test_questions_that_it_cannot_answer(archive: Path, tmp_path: Path) -> None:
    """Each is refused in a line: other arguments, a removal, an archive of something else."""
    assert "-m 16 --no-huge" in pyeal("doctor", "--from", archive, "--", "-m", "64", code=2)
    assert "of this machine" in pyeal("stale", "--delete", "--from", archive, code=2)
    with tarfile.open(tmp_path / "sos.tar.gz", "w:gz") as t:
        t.add(__file__, "x")
    assert "pyeal collect" in pyeal("ps", "--from", tmp_path / "sos.tar.gz", code=1)
    assert facts("collect", "-o", tmp_path / "b.tar.gz")["schema"] == "pyeal.collect/1"
    assert "File exists" in pyeal("collect", "-o", archive, code=1)


@pytest.mark.parametrize("name", answers.KEPT)
def test_changed_answers_are_a_line(tmp_path: Path, name: str) -> None:
    """Keys that are missing and values of other kinds cost one line."""
    good = {"schema": f"pyeal.{name}/1"}
    lists = {"eals": [{"x": 1}], "items": [{}], "links": [{"link": 1}], "args": 3}
    for said in ({}, good, {**good, **lists}, {**good, "eals": 3, "items": 3, "links": 3}, []):
        file = tmp_path / f"{name}.json"
        file.write_text(json.dumps({"exit_code": 0, "said": said}))
        with tarfile.open(tmp_path / "a.tar", "w") as t:
            t.add(file, f"answers/{name}.json")
        said_ = pyeal(name, "--from", tmp_path / "a.tar", code=1)
        assert said_.count("\n") == 1, said_


def test_the_plugin_of_sos(monkeypatch: pytest.MonkeyPatch) -> None:
    """It calls the command that is there, with options that it has."""
    plugins = ModuleType("sos.report.plugins")
    calls: list[str] = []

    class Plugin:
        def add_cmd_output(self, command: str, **_: object) -> None:
            calls.append(command)

    plugins.Plugin, plugins.IndependentPlugin = Plugin, type("X", (), {})  # type: ignore[attr-defined]
    for name in ("sos", "sos.report"):
        monkeypatch.setitem(sys.modules, name, ModuleType(name))
    monkeypatch.setitem(sys.modules, "sos.report.plugins", plugins)
    scope: dict[str, type] = {}
    exec(pyeal("collect", "--sos-plugin"), scope)
    scope["Pyeal"]().setup()
    (command,) = calls
    assert command.split()[:2] == ["pyeal", "collect"]
    from pyeal.tools import commands

    args = commands.parser("collect").parse_args(command.split()[2:])
    assert args.output == "-" and collect.SOS_PLUGIN.count("pyeal.tar.gz") == 1
