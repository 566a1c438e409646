"""Run a command of the suite: python -m conformance COMMAND ..., the only way in from outside.

A command is imported when it is called: `peers` and `hugepages` run before anything is installed.
"""

from __future__ import annotations

import sys
import traceback


def run(argv):
    """check EALs against the requirements, on this machine"""
    from conformance.runner import run

    if argv[:1] == ["merge"]:  # pyeal conform merge
        return report(argv)
    if argv[:1] == ["smoke"]:
        return smoke(argv[1:])
    if argv[:1] == ["bisect"]:
        return bisect(argv[1:])
    if argv[:1] == ["diff"]:
        return diff(argv[1:])

    return run.main(argv)


def smoke(argv):
    """check a new target's protocol before the suite does"""
    from conformance.runner import smoke

    return smoke.main(argv)


def bisect(argv):
    """name the commit at which a requirement changed"""
    from conformance.runner import bisect

    return bisect.main(argv)


def diff(argv):
    """list what changed between two runs, and why"""
    from conformance.runner.report import changes

    return changes.main(argv)


def history(argv):
    """run DPDK's own fixes and their parents: would the suite have seen them?"""
    from conformance.runner import history

    return history.main(argv)


def report(argv):
    """make one report of many runs, the catalogue, the findings"""
    from conformance.runner.report import command

    return command.main(argv)


def machines(argv):
    """run a command in virtual machines of fixtures/machines"""
    from conformance.runner import machines

    return machines.main(argv)


def peers(argv):
    """fetch Debian's librte_eal of a release"""
    from conformance.harness import peers

    return peers.main(argv)


def hugepages(argv):
    """add hugepages to the pools for a while"""
    from pyeal import loans

    return loans.main(argv)


def pairs(argv):
    """let pyeal and librte_eal attach to each other, in both directions"""
    from conformance.runner import pairs

    return pairs.main(argv)


def cores(argv):
    """read core files of real librte_eal processes beside what was seen alive"""
    from conformance.runner import cores

    return cores.main(argv)


def record(argv):
    """remake fixtures/recordings by Debian's librte_eal"""
    from conformance.runner import record

    return record.main(argv)


def faults(argv):
    """make each system call of a start fail, or kill it there"""
    from conformance.campaigns.faults import sweep

    return sweep.main(argv)


def fuzz(argv):
    """give bad files to pyeal's readers"""
    from conformance.campaigns.fuzz import sweep

    return sweep.main(argv)


def attack(argv):
    """try what hostile users, broken programs, signals and kills can do"""
    from conformance.campaigns.attack import sweep

    return sweep.main(argv)


def mutations(argv):
    """put faults into a copy of pyeal, which the tests must find"""
    from conformance.campaigns.mutations import sweep

    return sweep.main(argv)


def programs(argv):
    """run DPDK's own programs beside pyeal"""
    from conformance.campaigns.programs import sweep

    return sweep.main(argv)


def stress(argv):
    """let processes grow, shrink, come, go and die at random"""
    from conformance.campaigns.stress import sweep

    return sweep.main(argv)


def rehearsal(argv):
    """compare doctor, plan and init with the real EAL in random situations"""
    from conformance.campaigns.rehearsal import sweep

    return sweep.main(argv)


def warm(argv):
    """fail and kill `pyeal warm` at each system call; time it beside cold starts"""
    from conformance.campaigns.warm import sweep

    return sweep.main(argv)


def summary(argv):
    """sum up a run of ci/test"""
    from conformance.runner import summary

    return summary.main(argv)


def pytest(argv):
    """run pytest on a folder or file of the suite: units, selftest, units/live, ..."""
    from conformance.harness import tests

    return tests.main(argv)


COMMANDS = {
    name: globals()[name]
    for name in (
        "run smoke bisect diff history report summary machines peers pairs cores hugepages record "
        "attack faults fuzz mutations programs rehearsal stress warm pytest"
    ).split()
}


def main(argv):
    if not argv or argv[0] not in COMMANDS:
        lines = [f"  {name:10} {f.__doc__}" for name, f in COMMANDS.items()]
        text = "\n".join(["usage: python -m conformance COMMAND ...", "", *lines])
        wrong = not argv or argv[0] not in ("-h", "--help")
        print(text, file=sys.stderr if wrong else sys.stdout)
        return 2 if wrong else 0
    try:
        return COMMANDS[argv[0]](argv[1:])
    except ModuleNotFoundError as e:
        if (e.name or "").startswith(("conformance", "pyeal")):
            traceback.print_exc()
            return 2
        fix = "in a checkout of pyeal, pip install '.[conformance]'"
        print(f"pyeal: no module {e.name}: {fix}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"{argv[0]}: interrupted", file=sys.stderr)
        return 130
    except OSError as e:  # 1 is a verdict, and there is no verdict
        print(f"{argv[0]}: this machine fails: {e}", file=sys.stderr)
        return 2
    except Exception:
        traceback.print_exc()
        return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
