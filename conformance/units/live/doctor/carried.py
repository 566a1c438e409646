"""What a test of doctor's advice is made of: the situation, the advice carried out, the start."""

import re
import sys

import pytest

from conformance.harness.child import TargetDied, TargetError, TargetHung
from pyeal.tools import fixes


def pattern(name):
    """Return the pattern of the texts that a row can make."""
    return re.compile(re.sub(r"\\\{[^}]*\\\}", "(.*)", re.escape(fixes.ALL[name])))


def advice(answer, name, problems=()):
    """Return what doctor says to do, of the row of that name: one of several ways, if it is.

    The finding must be about these problems.
    """
    findings = [f for x in answer["links"] for f in x["findings"]]
    ways = [(w, f["problems"]) for f in findings for w in (f["do"], *f["do"].split(", or "))]
    root = re.compile("^(?:as root of the host: |sudo (?:sh -c )?)")
    ways = [(root.sub("", w).strip("'"), of) for w, of in ways]
    mine = [w for w, of in ways if pattern(name).fullmatch(w) and {*problems} <= {*of}]
    assert mine, ways
    return mine[0]


def carry_out(world, target, do):
    """Return a target that starts after the advice: with its arguments, variables and limits."""
    box, more, args = target.box, dict(target.more), list(target.eal.args)
    target.eal.kill()
    command, _, then = do.partition("  # then ")
    if command.startswith("--as "):
        more["target"] = f"librte_eal:{command.split()[1].rstrip(',')}"
    elif command.startswith("-"):
        then = command
    elif command.startswith("export "):
        variable, value = command.removeprefix("export ").split("=", 1)
        at = box.sh(f"echo {value}").strip()
        if user := more.get("as_user"):
            box.sh(f"chown {user} {at}")  # who would have run mktemp
        more["env"] = {variable: at}
    elif command.startswith("ulimit "):
        more.pop("rlimits")  # by root, in the shell that starts it
    else:
        # of this test alone: other tests have dead files of their own
        stale = f"pyeal stale --yes {world.prefix}_dead"
        command = command.replace("pyeal stale", stale)
        box.sh(command.replace("pyeal ", f"{sys.executable} -P -m pyeal "))
    for word in (then.split()[0],) if then else ():
        if word in args and word != "--huge-dir":
            del args[args.index(word) : args.index(word) + 2]
    return world.target(*args, *then.split(), box=box, **more)


def prepared(world, *args, box, **more):
    target = world.target(*args, box=box, **more)
    target.more = more
    return target


def check(make, name, problems, world, tmp_path, note):
    """Make a situation, carry out what doctor says about it, and start EAL.

    The target that a situation returns may have: by_pid, to be asked about by --pid; carry(do),
    which does by hand what no shell of this machine can and returns the next target; after(),
    which makes the rest of the situation follow; within, the seconds after which a start that waits
    counts as failed. A start that is harmed and not refused is a
    warning of doctor.
    """
    target = make(world, tmp_path)
    code, answer = target.ask(by_pid=getattr(target, "by_pid", False))
    do = advice(answer, name, problems)
    if code and name != "old-directory":  # which attaches to the files of a dead process
        with pytest.raises((TargetError, TargetDied, TargetHung)):
            target.starts(within=getattr(target, "within", 20))
    note(do)
    if by_hand := getattr(target, "carry", None):
        target.eal.kill()
        after = by_hand(do)
    else:
        after = carry_out(world, target, do)
    getattr(target, "after", lambda: None)()

    after.starts()
    return after
