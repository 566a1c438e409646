"""Targets by fork: as fresh as new processes, started in a fraction of the time.

A fork server (targets/forkserver.py) has imported a target's code and initialised nothing. Its
children share the addresses of their libraries; tests about those addresses start a new process.
"""

from __future__ import annotations

import itertools
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile

from conformance import SUITE, until
from conformance.harness import host
from conformance.harness.box import lifeline
from conformance.harness.child import (
    HERE,
    TargetDied,
    TargetHung,
    command,
    environment,
    machine,
)

PROGRAM = SUITE / "targets/forkserver.py"


def forks(target):
    """Whether there is a fork server of this target: programs of others have none.

    Nor have emulated ones: QEMU has a thread of its own, and cannot enter another mount namespace.
    """
    return target.partition(":")[0] in ("pyeal", "librte_eal") and machine(target) == HERE


class ForkServer:
    """Forks targets of one kind, where it is itself (`prefix`: a box's) or in the box of each."""

    def __init__(self, target, prefix=(), env=None, limit=100.0):
        self._numbers, self._late = itertools.count(1), {}
        self.control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.control.settimeout(limit)
        argv = [*prefix, *lifeline(), *self._command(target)]
        with theirs, tempfile.TemporaryFile() as log:
            self.popen = subprocess.Popen(
                list(map(str, argv)), stdin=theirs, stdout=log, stderr=log, env=env or environment()
            )
            theirs.close()
            if not self.control.recv(64):
                self.close()
                log.seek(0)
                raise TargetDied(f"hello: {target} does not start: {log.read().decode().strip()}")
        host.forkservers.add(self.popen.pid)

    @staticmethod
    def _command(target):
        """The target's own command line, with the fork server in place of its program."""
        argv, (name, _, rest) = command(target), target.partition(":")
        if name == "pyeal":
            return [sys.executable, "-P", PROGRAM, name, *([rest] if rest else [])]
        at = next(i for i, a in enumerate(argv) if str(a).endswith("librte_eal.py"))
        return [*argv[:at], PROGRAM, name, *argv[at + 1 :]]

    def ask(self, request, fds=()):
        """The answer to this request: requests are numbered, and a late answer is no other's."""
        n = next(self._numbers)
        socket.send_fds(self.control, [json.dumps(request | {"n": n}).encode()], fds)
        try:
            while (reply := json.loads(self.control.recv(64)))[0] != n:
                self._drop(*reply)
        except TimeoutError:
            self._late[n] = request
            raise TargetHung(f"fork server: no answer in {self.control.gettimeout():g} s") from None
        return reply[1]

    def _drop(self, n, answer):
        """A late answer. A process that its test no longer waits for is ended."""
        if "fork" in self._late.pop(n, {}):
            os.kill(answer, signal.SIGKILL)

    def fork(self, err, env=None, box=None):
        """A process like a Popen with pipes, in that box; it writes its log to the file `err`."""
        return Process(self, err, env, box)

    def close(self):
        host.forkservers.discard(self.popen.pid)
        self.control.close()
        self.popen.wait(60)


class Process:
    """What Child needs of a Popen, of a process that the fork server waits for."""

    def __init__(self, forkserver, err, env, box):
        mine, theirs = os.pipe(), os.pipe()
        fds = [mine[0], theirs[1], err.fileno()]
        if box and box.private:
            fds.append(os.open(f"/proc/{box.pid}/ns/mnt", os.O_RDONLY))
        cgroup = str(box.cpuset.dir) if box and box.private and box.cpuset else None
        try:
            self.pid = forkserver.ask(
                {"fork": {"env": env, "cwd": os.getcwd(), "cgroup": cgroup}}, fds
            )
        except BaseException:
            os.close(mine[1])
            os.close(theirs[0])
            raise
        finally:
            for fd in {*fds} - {err.fileno()}:
                os.close(fd)
        self.stdin, self.stdout = os.fdopen(mine[1], "wb", 0), os.fdopen(theirs[0], "rb", 0)
        self._forkserver, self.returncode = forkserver, None
        self.ended = os.pidfd_open(self.pid)  # readable from then on

    def poll(self, limit=0.0):
        """Exit status, None while it lives, or is kept from its fork server by who traces it."""
        if self.returncode is None and select.select([self.ended], [], [], limit)[0]:
            self.returncode = self._forkserver.ask({"wait": self.pid})
            if self.returncode is not None:
                os.close(self.ended)
        return self.returncode

    def wait(self, limit=None):
        if self.poll(limit) is None and not until(
            lambda: self.poll() is not None, float("inf") if limit is None else limit
        ):
            raise subprocess.TimeoutExpired(["forked"], limit)
        return self.returncode

    def send_signal(self, sig):
        if self.poll() is None:
            os.kill(self.pid, sig)

    def kill(self):
        self.send_signal(signal.SIGKILL)
