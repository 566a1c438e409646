"""The command line: what it prints, when it ends, with which code."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from pyeal import cli

LAYOUT = "release mode iova_mode file_prefix runtime_dir pid lists heaps ignored".split()


def pyeal(*args, **more):
    argv = [sys.executable, "-P", "-m", "pyeal", *args]
    return subprocess.run(
        argv, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, **more
    )


@pytest.fixture
def prefix(tmp_path, monkeypatch):
    """Of files that stay when an EAL has ended, as they do in DPDK: taken away here, and not called
    as other workers' tests look for what is left."""
    for name in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR"):  # 20.11 knows the second one, unless root
        monkeypatch.setenv(name, str(tmp_path))
    yield (name := f"cli_{os.getpid()}")
    shutil.rmtree(f"/var/run/dpdk/{name}", ignore_errors=True)


@pytest.fixture
def eal_args(prefix):
    """The cheapest EAL, for any user."""
    return ["--", "--no-huge", "-m", "16", "--no-pci", "--file-prefix", prefix]


def test_json_is_the_layout(eal_args, prefix):
    done = pyeal("init", "--json", *eal_args)
    got = json.loads(done.stdout)

    assert (done.returncode, done.stderr) == (0, "")
    assert set(got) == set(LAYOUT)
    assert got["mode"] == "no-huge" and got["file_prefix"] == prefix
    assert [(ml["name"], ml["count"]) for ml in got["lists"]] == [("nohugemem", 4096)]
    assert got["ignored"] == ["--no-pci"]


def test_table_and_map_without_a_terminal(eal_args):
    done = pyeal("init", *eal_args)

    assert done.returncode == 0
    assert "4096 of 4096" in done.stdout  # the table
    assert "16M in 4,096 pages" in done.stdout  # the map
    assert "\x1b" not in done.stdout
    assert "without meaning here: --no-pci" in done.stderr


def test_svg_goes_into_the_file(eal_args, tmp_path):
    done = pyeal("init", "--json", "--svg", str(tmp_path / "map.svg"), *eal_args)

    assert done.returncode == 0
    assert (tmp_path / "map.svg").read_text().startswith("<svg ")


@pytest.mark.parametrize("release", ["20.11", "26.07"])
def test_as_another_release(release, eal_args):
    done = pyeal("init", "--json", "--as", release, *eal_args)

    assert json.loads(done.stdout)["release"].startswith(release)


def test_failure_is_one_line_and_no_traceback():
    done = pyeal("init", "--", "--no-huge", "--huge-dir")

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("pyeal: options: ")
    assert done.stderr.count("\n") == 1 and "[EINVAL]" in done.stderr


def test_failure_as_json():
    done = pyeal("init", "--json", "--", "--no-huge", "--huge-dir")

    assert done.returncode == 1
    error = json.loads(done.stdout)["error"]
    assert (error["stage"], error["errno"]) == ("options", 22)
    assert "--huge-dir" in error["text"]


def test_traceback_when_asked():
    done = pyeal("init", "--traceback", "--", "--no-huge", "--huge-dir")

    assert done.returncode == 1 and "Traceback" in done.stderr


@pytest.mark.parametrize(
    "args",
    [
        ["nothing"],
        ["init", "-m", "64"],
        ["init", "--as", "19.11"],
        ["conform", "--nonsense"],
        ["conform", "XYZ-001"],
    ],
    ids=" ".join,
)
def test_usage_ends_with_2(args):
    done = pyeal(*args)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr


def test_version():
    import pyeal as package

    assert pyeal("--version").stdout == f"pyeal {package.__version__}\n"


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, None], ids=str)
def test_holds_until_told_and_leaves_nothing(how, eal_args):
    """Files stay as EAL's cleanup leaves them; the memory and the process are gone."""
    argv = [sys.executable, "-P", "-m", "pyeal", "init", "--json", *eal_args]
    p = subprocess.Popen(
        argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    got = json.loads(p.stdout.readline())
    assert p.poll() is None
    if how:
        p.send_signal(how)
    _, err = p.communicate(timeout=30)

    assert (p.returncode, err) == (0, b"")
    assert not os.path.exists(f"/proc/{got['pid']}")


def test_agent_greets():
    hello = json.loads(pyeal("agent").stdout.splitlines()[0])["hello"]

    assert hello["target"] == "pyeal" and "init" in hello["can"]


def test_agent_says_what_it_is():
    done = pyeal("agent", "--help")

    assert done.returncode == 0 and done.stdout.startswith("usage: pyeal agent [--as RELEASE]")


def test_broken_pipe_is_quiet(eal_args):
    r, w = os.pipe()
    os.close(r)
    argv = [sys.executable, "-P", "-m", "pyeal", "init", *eal_args]
    done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=w, stderr=subprocess.PIPE)
    os.close(w)

    assert done.returncode == 0  # it started, and ended as it was told to
    assert b"Traceback" not in done.stderr and b"Exception" not in done.stderr


def test_import_of_the_command_line_is_light():
    heavy = "argparse json re logging threading typing"
    script = "import sys, pyeal.cli; print(*set(sys.argv[1:]) & set(sys.modules))"
    argv = [sys.executable, "-S", "-c", script, *heavy.split()]
    path = [os.path.dirname(os.path.dirname(cli.__file__))]
    env = os.environ | {"PYTHONPATH": os.pathsep.join(path)}
    done = subprocess.run(argv, capture_output=True, text=True, env=env)

    assert (done.stdout.strip(), done.stderr) == ("", "")
