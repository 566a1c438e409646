"""Run the stress tests with pyeal as primary and librte_eal as secondary, then the other way."""

import sys

from conformance.harness import tests
from conformance.harness.child import TargetDied, TargetHung, greet

NO_TARGET = OSError, TargetDied, TargetHung


def main(argv):
    """[RELEASE] [ARGUMENTS OF pytest]; without librte_eal both processes are pyeal's."""
    if "--hostile" in argv:
        from conformance.campaigns.attack import survivors

        return survivors.main([word for word in argv if word != "--hostile"])
    pairs, release = [("pyeal", "librte_eal"), ("librte_eal", "pyeal")], ""
    if argv and argv[0][:1].isdigit():
        name, *argv = argv
        try:  # pyeal takes Debian's minor release of it
            release = f":{greet(f'librte_eal:{name}').release}"
        except NO_TARGET as e:
            print(f"ci/stress: {e}", file=sys.stderr)
            return 2
    else:
        try:
            greet("librte_eal")
        except NO_TARGET:
            pairs = [("pyeal", "pyeal")]
    worst = 0
    for primary, secondary in pairs:
        both = f"--target={primary}{release}", f"--secondary={secondary}{release}"
        worst = tests.run("campaigns/stress", "-v", *both, *argv) or worst
    return worst
