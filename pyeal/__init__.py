"""DPDK's EAL memory initialisation in Python: the same files, bytes, mappings and locks.

with pyeal.init(["-m", "64", "--file-prefix", "demo"]) as eal:
    for msl in eal.memseg_lists():
        print(msl.name, hex(msl.base_va), msl.count)
"""

from __future__ import annotations

from .pauses import gc_paused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .eal import Eal
    from .errors import EalError
    from .layout import BAD_IOVA, FLAG_DIRTY, FLAG_DO_NOT_FREE, TAILQS
    from .releases import DEFAULT as DEFAULT_RELEASE
    from .tools.lease import Lease as lease

    init = Eal

__version__ = "0.2.0"
__all__ = [
    "BAD_IOVA",
    "DEFAULT_RELEASE",
    "FLAG_DIRTY",
    "FLAG_DO_NOT_FREE",
    "TAILQS",
    "Eal",
    "EalError",
    "init",
    "lease",
]
_AT = {  # where each is that layout has not: imported on first use, as most tools need few of them
    "DEFAULT_RELEASE": "releases.DEFAULT",
    "Eal": "eal.Eal",
    "EalError": "errors.EalError",
    "init": "eal.Eal",
    "lease": "tools.lease.Lease",
}


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, there = _AT.get(name, f"layout.{name}").rpartition(".")
    with gc_paused():
        value = getattr(__import__(f"{__name__}.{module}", fromlist=[there]), there)
    globals()[name] = value
    return value
