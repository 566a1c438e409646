"""Run DPDK's own programs beside pyeal: dpdk-test, dpdk-proc-info and dpdk-testpmd of Debian's
releases, and Open vSwitch on them. The table at the end is release by program.

As root. Trees that are not in the cache are fetched (45 MB a release); missing hugepages are
leased for the run.
"""

import argparse
import os
import sys

from conformance.harness import peers, tests
from pyeal import loans


def main(argv):
    p = argparse.ArgumentParser(
        prog="ci/programs",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    known = peers.releases()
    p.add_argument("releases", nargs="*", metavar="RELEASE", help=f"default: {' '.join(known)}")
    names = p.parse_args(argv).releases or known
    if os.geteuid():
        print(f"ci/programs: wanted root, found uid {os.geteuid()}", file=sys.stderr)
        return 2
    if peers.main([f"{name}-programs" for name in names]):
        return 2
    argv = tests.command("campaigns/programs", "-q", "-k", " or ".join(names))
    return loans.run_with({"2M": 64}, argv)
