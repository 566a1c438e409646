"""A target: a child process that answers JSON lines. PROTOCOL.md says how."""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import re
import select
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from conformance import SLOWER, SUITE
from conformance.harness import facts, library, peers


class TargetError(Exception):
    """The target refused a request: errno is EAL's rte_errno, text says why."""

    def __init__(self, errno, text, stage="", log=""):
        super().__init__(errno, text, stage)
        self.errno, self.text, self.stage, self.log = errno, text, stage, log

    def __str__(self):
        return f"[errno {self.errno}] {self.text}"


HERE = platform.machine()
NO_LIBRARY = "no librte_eal.so"  # what a target dies of where DPDK is not installed


class TargetDied(Exception):
    """The target ended without being asked to."""


class TargetHung(Exception):
    """The target did not answer in time."""


class Rec(dict):
    """One JSON object, its keys as attributes."""

    __getattr__ = dict.__getitem__


PEER = re.compile(r"\d\d\.\d\d(\.\d+)?(-[a-z][\w-]+)?")  # 22.11, 22.11.11, 22.11-arm64


def command(target):
    """Command line of a target: pyeal[:RELEASE], librte_eal[:RELEASE or PATH], cmd:PROGRAM ARGS.

    A release of librte_eal is a peer: Debian's, in its own tree. library.py says what a path is.
    """
    name, _, rest = target.partition(":")
    match name:
        case "pyeal":
            return [sys.executable, "-P", "-m", "pyeal.agent", *(["--as", rest] if rest else [])]
        case "librte_eal" if PEER.fullmatch(rest):
            peer = peers.find(rest)
            return peer.command(SUITE / "targets/librte_eal.py", peer.lib, peer.release)
        case "librte_eal" if rest:
            lib = library.find(rest)
            argv = [SUITE / "targets/librte_eal.py", lib.path, *filter(None, [lib.release])]
            if lib.machine != HERE:
                return peers.python(lib.machine).command(*argv, libraries=[lib.path.parent])
            return [sys.executable, *map(str, argv)]
        case "librte_eal":
            return [sys.executable, str(SUITE / "targets/librte_eal.py")]
        case "cmd" if rest:
            return shlex.split(rest)
    raise pytest.UsageError(
        f"--target {target}: pyeal[:RELEASE], librte_eal[:RELEASE, PATH or PATH@RELEASE] "
        "or cmd:PROGRAM"
    )


def machine(target):
    """Return what uname says on the machines that a target is built for."""
    name, _, rest = target.partition(":")
    if name != "librte_eal" or not rest:
        return HERE
    return (peers if PEER.fullmatch(rest) else library).find(rest).machine


pyeal_folder: str | None = None  # where targets find pyeal, if not where this process does


def environment():
    """Return the environment of a target: pyeal and the suite are found, no runtime directory."""
    env = {k: v for k, v in os.environ.items() if k not in ("RUNTIME_DIRECTORY", "XDG_RUNTIME_DIR")}
    path = [str(SUITE.parent)]
    if pyeal_folder:
        path.insert(0, pyeal_folder)
    elif (spec := importlib.util.find_spec("pyeal")) and spec.submodule_search_locations:
        path.insert(0, str(Path(next(iter(spec.submodule_search_locations))).parent))
    path += filter(None, env.get("PYTHONPATH", "").split(os.pathsep))
    return env | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(path))}


class Child:
    """The process, its requests and its end. Always waited for, killed by its own pid only.

    begin(err): starts it in place of argv, its log on the file `err`; answers a Popen or the like.
    """

    def __init__(self, argv, log, *, env=None, limit=30.0, begin=None):
        self.argv, self.logfile, self.limit = list(map(str, argv)), Path(log), limit
        self._buf = b""
        with open(log, "wb") as err:
            self.popen = (begin or partial(self._begin, env))(err)
        try:
            hello = self._reply("hello", limit)["hello"]
            self.target, self.release, self.pid, self.can = (
                hello[k] for k in ("target", "release", "pid", "can")
            )
        except (KeyError, TypeError):
            self.kill()
            raise TargetDied(f"{self.argv[0]}: its first line is no hello") from None
        except BaseException:
            self.kill()
            raise

    def _begin(self, env, err):
        pipe = subprocess.PIPE
        env = environment() if env is None else env
        return subprocess.Popen(self.argv, stdin=pipe, stdout=pipe, stderr=err, env=env)

    def __repr__(self):
        return f"<{getattr(self, 'target', self.argv[0])} pid {self.popen.pid}>"

    @property
    def log(self):
        return self.logfile.read_text(errors="replace")

    @property
    def alive(self):
        return self.popen.poll() is None

    def last_words(self, n=12):
        lines = self.log.splitlines()[-n:]
        return "".join(f"\n  | {line}" for line in lines) or "\n  | (nothing on stderr)"

    def ask(self, verb, *, within=None, **params):
        """The answer to one request; TargetError when refused, a skip when the verb is unknown."""
        __tracebackhide__ = True
        self.tell(verb, **params)
        return self.answer(verb, within)

    def tell(self, verb, **params):
        """Half of `ask`: what is told may take its time."""
        __tracebackhide__ = True
        if verb not in self.can:
            pytest.skip(f"{self.target} has no verb {verb}")
        try:
            self.popen.stdin.write(json.dumps({"verb": verb} | params).encode() + b"\n")
            self.popen.stdin.flush()
        except BrokenPipeError:
            self._died(verb)

    def answered(self, within=0):
        """Whether an answer, or the end, is there."""
        return bool(select.select([self.popen.stdout], [], [], within * SLOWER)[0])

    def answer(self, verb, within=None):
        """The other half: the answer to what was told."""
        __tracebackhide__ = True
        reply = self._reply(verb, within or self.limit)
        if "error" in reply:
            e = reply["error"]
            raise TargetError(e.get("errno"), e.get("text", ""), e.get("stage", verb), self.log)
        return reply["ok"]

    def _reply(self, verb, limit):
        __tracebackhide__ = True
        limit *= SLOWER
        fd, end = self.popen.stdout.fileno(), time.monotonic() + limit
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while b"\n" not in self._buf:
            if not poll.poll(max(0, end - time.monotonic()) * 1000):
                self.kill()
                raise TargetHung(f"{verb}: no answer in {limit:g} s{self.last_words()}")
            if not (more := os.read(fd, 1 << 20)):
                self._died(verb)
            self._buf += more
        line, _, self._buf = self._buf.partition(b"\n")
        try:
            reply = json.loads(line, object_hook=Rec)
            if not {"hello", "ok", "error"} & set(reply):
                raise ValueError
        except (ValueError, TypeError):
            self.kill()
            raise TargetDied(f"{verb}: the answer is not of the protocol: {line[:200]!r}") from None
        return reply

    def _died(self, verb):
        __tracebackhide__ = True
        rc = self._wait(5)
        raise TargetDied(f"{verb}: {ending(rc)}{self.last_words()}")

    def _wait(self, limit):
        """Exit status; killed when it does not end in time."""
        try:
            return self.popen.wait(limit)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            return self.popen.wait()

    def kill(self, sig=signal.SIGKILL):
        if self.alive:
            self.popen.send_signal(sig)
        rc = self._wait(5)
        with suppress(BrokenPipeError):  # what it did not read any more
            self.popen.stdin.close()
        self.popen.stdout.close()
        return rc

    def close(self):
        """End of input: the target cleans up and exits 0."""
        if self.popen.stdin.closed:
            return self.popen.returncode
        if not self.alive:
            return self.kill()
        try:
            self.popen.stdin.close()
        except BrokenPipeError:
            pass
        try:
            rc = self.popen.wait(self.limit * SLOWER)
        except subprocess.TimeoutExpired:
            self.kill()
            raise TargetHung(
                f"did not exit in {self.limit:g} s at the end of input{self.last_words()}"
            ) from None
        self.popen.stdout.close()
        if rc:
            raise TargetDied(f"at the end of input: {ending(rc)}{self.last_words()}")
        return rc


@contextmanager
def installed(name):
    """Start another EAL beside the target's; skip the test if that is not installed."""
    try:
        yield
    except TargetDied as e:
        if name and NO_LIBRARY in str(e):
            pytest.skip(f"wanted {name}, found none: apt-get install librte-eal23")
        raise


def greet(target, limit=20.0):
    """Return a target that has ended: its name, release, verbs and facts are known."""
    with tempfile.NamedTemporaryFile("r", prefix="hello") as log:
        child = Child(command(target), log.name, limit=limit)
        child.facts = facts.of(child.pid)
        child.close()
        return child


def ending(rc):
    return f"killed by {signal.Signals(-rc).name}" if rc < 0 else f"exited {rc}"
