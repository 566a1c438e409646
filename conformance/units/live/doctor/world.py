"""What a test of doctor builds with: boxes, processes, and doctor in the target's place.

world.box(...)           private mounts, as conftest's make_box
world.eal(*args, box=)   a librte_eal that is up: a primary, a secondary, another container
world.target(*args, box=) the librte_eal that doctor is asked about, before its start
explain(log)             numbers of the problems that `pyeal explain` finds in a log
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile

import pytest

from conformance.harness import fake_host
from conformance.harness.box import limits, user
from conformance.harness.child import TargetHung, environment

LIBRTE_EAL = "librte_eal"
BY_ARCHIVE = "PYEAL_DOCTOR_BY_ARCHIVE"
JOIN_CGROUP = 'echo $$ > "$1/cgroup.procs"; shift; exec "$@"'


def problem(number, state="FAIL"):
    """Name the problem that a test makes, and the state in which doctor must report it."""

    def mark(test):
        test.problem = number, state
        return test

    return mark


def tool(prefix, *args, env=None, stdin=""):
    """Run `pyeal ARGS` behind a prefix of commands: return its exit code and its decoded JSON."""
    argv = [*prefix, sys.executable, "-P", "-m", "pyeal", *map(str, args)]
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=60, input=stdin, env=env or environment()
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stdout.startswith("{"), f"{argv}\n{done.stdout}{done.stderr}"
    return done.returncode, json.loads(done.stdout)


def explain(log):
    """Return the numbers of the problems that explain finds in a log."""
    return {p["problem"] for p in tool([], "explain", "--json", stdin=log)[1]["problems"]}


def held_by_the_dead(world, tmp_path):
    """Return a box in which page files of a killed process hold the pool, and its counters."""
    box = world.box(
        {"2M": 2},
        binds=fake_host.build(tmp_path, {"2M": [2]}),
        mounts=[("2M", "/run/hugepages/b", "size=4M,min_size=4M")],
    )
    holder = ["-m", "4", "--huge-dir", "/run/hugepages/b"]
    world.eal(*holder, box=box, prefix=f"{world.prefix}_dead").kill()
    free = list(tmp_path.glob("sys/**/free_hugepages"))
    for counter in free:
        counter.write_text("0\n")
    return box, free


class World:
    """The machine, the boxes and the processes of one test."""

    def __init__(self, request, prefix, make_box, start, cgroup, evidence):
        self.prefix, self.box, self.start, self.cgroup = prefix, make_box, start, cgroup
        self.problem, self.note = getattr(request.function, "problem", None), evidence

    def eal(self, *args, box, **more):
        """Return a librte_eal that is up; **more as conftest's start."""
        return self.start(*args, target=LIBRTE_EAL, box=box, **more)

    def target(self, *args, box, **more):
        """Return a librte_eal that has not started: see Target."""
        return Target(self, args, box, **more)


class Inner:
    """A mount namespace below a box, in which a command is run first."""

    def __init__(self, box, command):
        self._box = box
        script = f'{command}; exec "$@"'
        private = ["unshare", "--mount", "--propagation", "private"]
        self.enter = [*box.enter, *private, "sh", "-c", script, "sh"]

    def __getattr__(self, name):
        return getattr(self._box, name)


class Target:
    """An EAL before its start; doctor is run in its mounts, with its user, limits and cgroup.

    inject: errors of system calls, as strace's --inject, for the target and for doctor.
    release: what doctor takes it for (--as).
    """

    def __init__(
        self,
        world,
        args,
        box,
        *,
        target=LIBRTE_EAL,
        release=None,
        inject=(),
        env=None,
        cgroup=None,
        rlimits=None,
        as_user=None,
        drop=(),
        **more,
    ):
        self.world, self.box, self.inject, self.env = world, box, inject, env or {}
        self.options = ["--as", release] if release else []
        self.eal = world.start(
            *args,
            init=False,
            target=target,
            box=box,
            env=env,
            cgroup=cgroup,
            rlimits=rlimits,
            as_user=as_user,
            drop=drop,
            **more,
        )
        self.place = [
            *box.enter,
            *(["sh", "-c", JOIN_CGROUP, "sh", str(cgroup.dir)] if cgroup else []),
            *limits(**(rlimits or {})),
            *user(as_user, drop),
        ]
        for what in inject:
            call = what.partition(":")[0]
            self.place += ["strace", "-f", "-qq", "-o", "/dev/null"]
            self.place += ["-e", f"trace={call}", "-e", f"inject={what}"]

    def ask(self, *options, by_pid=False):
        """Run doctor and return its exit code and answer: in the target's place, or by --pid.

        With BY_ARCHIVE in the environment the answer is read from an archive that pyeal collect
        made there: the tests then show that it is the same.
        """
        if BY_ARCHIVE in os.environ and not options and not self.inject:
            return self._by_archive(by_pid)
        args = ["doctor", "--json", *options, *self.options]
        if by_pid:
            return tool([], *args, "--pid", self.eal.pid, "--", *self.eal.args)
        env = environment() | self.box.environment() | self.env
        env.pop("LD_PRELOAD", None)
        return tool(self.place, *args, "--", *self.eal.args, env=env)

    def _by_archive(self, by_pid):
        env = environment() | self.box.environment() | self.env
        env.pop("LD_PRELOAD", None)
        place, pid = ([], ["--pid", self.eal.pid]) if by_pid else (self.place, [])
        args = ["-o", "-", *self.options, *pid, "--", *self.eal.args]
        argv = [*place, sys.executable, "-P", "-m", "pyeal", "collect", *map(str, args)]
        done = subprocess.run(
            argv, capture_output=True, timeout=60, env=environment() if by_pid else env
        )
        assert done.returncode == 0, done.stderr
        with tempfile.NamedTemporaryFile(suffix=".tar.gz") as f:
            f.write(done.stdout)
            f.flush()
            return tool([], "doctor", "--json", "--from", f.name)

    def doctor(self, link, *, by_pid=False):
        """Return what doctor says of this test's problem in a link: text, wanted, found, fix.

        Its first failure is that link and its exit code follows; a failure has all four.
        """
        number, state = self.world.problem
        code, answer = self.ask(by_pid=by_pid)
        of_link = next(x for x in answer["links"] if x["link"] == link)
        found = [f for f in of_link["findings"] if number in f["problems"] and f["state"] == state]
        words = [[f[k] for k in ("text", "wanted", "found", "do")] for f in found]
        said = " ".join(str(x) for finding in words for x in finding)
        self.world.note(f"{link}: {said[:100]}")

        assert found, of_link
        if state == "FAIL":
            assert all(words[0])
            assert (code, answer["first"]) == (2 if link == "arguments" else 1, link)
        else:
            assert (code, answer["first"]) == (0, None)
        return said

    def fix(self, link):
        """End the target, and run the command that doctor gives for the problem, as root."""
        self.eal.kill()
        findings = next(x for x in self.ask()[1]["links"] if x["link"] == link)["findings"]
        do = next(f["do"] for f in findings if f["state"] == self.world.problem[1])
        self.world.note(f"fix: {do}")
        self.box.sh(do.rpartition("as root of the host: ")[2].rpartition("sudo ")[2])

    def refused(self):
        """Start it, which must fail, and return its log."""
        return self._with_errors(lambda: self.eal.refused(within=20))

    def starts(self, within=20):
        """Start it, which must succeed in that many seconds, and return its log."""
        return self._with_errors(lambda: self.eal.init(within=within))

    def hangs(self):
        """Start it, which must wait indefinitely, and return its log; it is killed."""
        with pytest.raises(TargetHung):
            self.eal.init(within=0.7)
        return self.eal.log

    def _with_errors(self, work):
        calls = ",".join(what.partition(":")[0] for what in self.inject)
        trace = self.eal.trace(calls, inject=self.inject) if calls else None
        work()
        if trace:
            trace.stop()
        return self.eal.log
