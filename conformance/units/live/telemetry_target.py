"""librte_eal as a target that has its telemetry: as targets/librte_eal.py, without one option."""

import sys

from conformance.targets import librte_eal

if __name__ == "__main__":
    librte_eal.ARGS.remove("--no-telemetry")
    librte_eal.serve(librte_eal.Eal(*sys.argv[1:3]))
