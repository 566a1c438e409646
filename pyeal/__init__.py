"""DPDK's EAL memory initialisation in Python: the same files, bytes, mappings and locks.

with pyeal.init(["-m", "64", "--file-prefix", "demo"]) as eal:
    for msl in eal.memseg_lists():
        print(msl.name, hex(msl.base_va), msl.count)
"""

from __future__ import annotations

from .eal import Eal
from .errors import EalError
from .layout import BAD_IOVA, FLAG_DIRTY, FLAG_DO_NOT_FREE, TAILQS
from .releases import DEFAULT as DEFAULT_RELEASE

__version__ = "0.1.0"
__all__ = [
    "BAD_IOVA",
    "DEFAULT_RELEASE",
    "FLAG_DIRTY",
    "FLAG_DO_NOT_FREE",
    "TAILQS",
    "Eal",
    "EalError",
    "init",
]

init = Eal
