"""A pytest plugin that replays faults instead of running the tests: a fork for each fault.

Used by sweep.py: --faults is a folder with faults.json, [[number, mutation], ...]; --tell a
descriptor that gets a line for each, [number, verdict, test, what it said]. The tests are collected
once; a fork has its own copy of pyeal, made of links to a compiled copy.
"""

from __future__ import annotations

import compileall
import json
import os
import py_compile
import re
import select
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import pytest

from conformance.campaigns.mutations import sweep
from conformance.campaigns.mutations.sweep import CAUGHT, COULD_NOT, ELSEWHERE, SURVIVED, Mutation
from conformance.harness import child, host, neighbours
from conformance.harness.child import command

DOES_NOT_START = "TargetDied: hello: "
NOT_AS_FOUND = "Failed: the host was not left as found"
NOT_OF_IT = "Skipped: not in this release"
LIMIT = 600  # seconds that the tests of one fault have; each has less of its own
reports = []  # of the test that runs


def pytest_addoption(parser):
    group = parser.getgroup("replay")
    group.addoption("--faults", type=Path, metavar="DIR")
    group.addoption("--tell", type=int, metavar="FD")
    group.addoption("--jobs", type=int, metavar="N")


def pytest_runtest_logreport(report):
    reports.append(report)


@pytest.hookimpl(tryfirst=True)
def pytest_runtestloop(session):
    """As many at a time as --jobs; the first that ends is told first."""
    config, items, running = session.config, {}, {}
    for item in session.items:
        items.setdefault(item.get_closest_marker("requirement").args[0], []).append(item)
    folder, tell = config.getoption("faults"), config.getoption("tell")
    faults = [(i, Mutation(*m)) for i, m in json.loads((folder / "faults.json").read_text())]
    honest = compiled(folder)
    faults.reverse()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    neighbours.repeats, host.SETTLED = False, 1.0  # a failure counts if the honest copy passes
    config._tmp_path_factory.getbasetemp()  # started over, which a fork must not do
    try:
        while faults or running:
            while faults and len(running) < config.getoption("jobs"):
                i, m = faults.pop()
                running[forked(lambda m=m: replay(config, m, items.get(m.id, []), honest))] = i
            ready = select.select([f.fd for f in running], [], [], 1)[0]
            for f in [f for f in running if f.fd in ready or f.late]:
                answer = f.end(f.fd in ready)
                os.write(tell, json.dumps([running.pop(f), *answer]).encode() + b"\n")
    finally:
        for f in running:
            f.end(False)
    return True


class forked:
    """A child process that answers what `run` does."""

    def __init__(self, run):
        self.fd, fd = os.pipe()
        self.until = time.monotonic() + LIMIT
        self.pid = os.fork()
        if not self.pid:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            try:
                answer = run()
            except BaseException:
                answer = COULD_NOT, "", traceback.format_exc()[-300:]
            os.write(fd, json.dumps(answer).encode())
            os._exit(0)
        os.close(fd)

    @property
    def late(self):
        return time.monotonic() > self.until

    def end(self, answers):
        if not answers:
            os.kill(self.pid, signal.SIGKILL)
        text = os.read(self.fd, 65536) if answers else b""
        os.close(self.fd)
        _, status = os.waitpid(self.pid, 0)
        if text:
            return json.loads(text)
        return COULD_NOT, "", f"no answer in {LIMIT} s" if not answers else f"ended: {status}"


def replay(config, m, items, honest):
    """(verdict, test, what it said)"""
    with tempfile.TemporaryDirectory(dir=config.getoption("faults")) as tmp:
        os.chmod(tmp, 0o755)
        try:
            if m.call:
                config.option.target = preloaded(m, Path(tmp))
            elif m.lie:
                config.option.target = liar(m)
            else:
                mutated(m, honest, Path(tmp))
                found_in(tmp)
        except subprocess.CalledProcessError as e:
            return COULD_NOT, "", line(e.stderr.decode())
        except py_compile.PyCompileError as e:
            return COULD_NOT, "", line(f"{e.exc_type_name}: {e.exc_value}")
        passed, lacks = "", ""
        for item in items:
            word, said = run(item)
            name = item.nodeid.rpartition("/")[2]
            if DOES_NOT_START in said:
                return COULD_NOT, name, said
            if word == "failed":
                config.option.target = m.target
                found_in(honest)
                word, why = run(item)
                if word == "passed":
                    return CAUGHT, name, said
                return COULD_NOT, name, f"without the fault: {why}"
            if word == "passed":
                passed = name
            elif not said.startswith(NOT_OF_IT):
                lacks = said
    if passed and not lacks:
        return SURVIVED, passed, "passes with the fault"
    return ELSEWHERE if m.machine else COULD_NOT, "", lacks or "no test in this release"


def run(item):
    """(passed | failed | skipped, the last that it said); a deviation is a pass."""
    for _ in range(neighbours.TRIES):
        word, said = once(item)
        if not said.startswith(NOT_AS_FOUND):  # else other users may have changed the pools
            break
    return word, said


def of_the_pool(text):
    """Whether all that a test left is a pool of another size."""
    _, _, left = text.partition("the host was not left as found: ")
    return all(" pool changed: " in sentence for sentence in left.split("; "))


def once(item):
    reports.clear()
    item.config.hook.pytest_runtest_protocol(item=item, nextitem=None)
    for r in reports:
        if r.failed:
            if r.when == "teardown" and of_the_pool(r.longreprtext):
                continue  # by another user: no fault writes nr_hugepages
            crash = getattr(r.longrepr, "reprcrash", None)
            return "failed", line(crash.message if crash else r.longreprtext)
        if r.skipped and not hasattr(r, "wasxfail"):
            return "skipped", line(r.longrepr[2])
    return "passed", ""


def line(text):
    """Its first line, without the numbers that are others each time."""
    first = text.strip().split("\n")[0]
    return re.sub(r"0x[0-9a-f]{6,}|\b\d{9,}\b", "…", first)[:160]


# --- copies of pyeal


def compiled(folder):
    """A folder with a whole copy."""
    ignored = shutil.ignore_patterns("suite", "tools", "__pycache__")
    shutil.copytree(sweep.PACKAGE, folder / "honest/pyeal", ignore=ignored)
    compileall.compile_dir(folder / "honest/pyeal", quiet=1)
    return folder / "honest"


def mutated(m, honest, folder):
    """A copy with the fault: all is linked but the one file that differs."""
    shutil.copytree(honest, folder, copy_function=os.link, dirs_exist_ok=True)
    path = folder / m.file
    text = path.read_text()
    path.unlink()
    path.write_text(text.replace(m.old, m.new))
    py_compile.compile(path, doraise=True)


def found_in(folder):
    """Targets find pyeal in this folder from now on."""
    child.pyeal_folder = str(folder)


def liar(m):
    argv = [sys.executable, sweep.SELFTEST / "lying_target.py", m.lie, "--", *command(m.target)]
    return f"cmd:{shlex.join(map(str, argv))}"


def preloaded(m, folder):
    """Return the target with a library before it that changes one of its calls."""
    so = folder / "lie.so"
    macros = [f"-D{k.upper()}={getattr(m, k)}" for k in ("call", "when", "change")]
    argv = ["gcc", "-shared", "-fPIC", "-O1", "-fno-builtin", *macros, "-o", so, sweep.LIE]
    subprocess.run(argv, check=True, capture_output=True)
    return f"cmd:env LD_PRELOAD={so} {shlex.join(map(str, command(m.target)))}"
