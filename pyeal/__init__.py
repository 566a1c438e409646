"""DPDK's EAL memory initialisation in Python: the same files, bytes, mappings and locks.

with pyeal.init(["-m", "64", "--file-prefix", "demo"]) as eal:
    for msl in eal.memseg_lists():
        print(msl.name, hex(msl.base_va), msl.count)
"""

from __future__ import annotations

import gc

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .eal import Eal
    from .errors import EalError
    from .layout import BAD_IOVA, FLAG_DIRTY, FLAG_DO_NOT_FREE, TAILQS
    from .releases import DEFAULT as DEFAULT_RELEASE
    from .tools.lease import Lease as lease

    init = Eal

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
    "lease",
]
_AT = {  # what is elsewhere: imported when it is asked for, as tools that only look need little
    "Eal": ("eal", "Eal"),
    "init": ("eal", "Eal"),
    "EalError": ("errors", "EalError"),
    "lease": ("tools.lease", "Lease"),
    "DEFAULT_RELEASE": ("releases", "DEFAULT"),
    **{name: ("layout", name) for name in __all__[:5] if name != "DEFAULT_RELEASE"},
}


class Uncollected:
    """No garbage is collected in the block, where Python's collector is on: imports and starts make
    much and none of it is garbage. It is old afterwards, and not looked at as what is new is."""

    def __enter__(self) -> None:
        self.collects = gc.isenabled()
        gc.disable()

    def __exit__(self, *_: object) -> None:
        if self.collects:
            # more than Python froze itself, 375 in 3.12, is what the program wants left alone
            if gc.get_freeze_count() < 1000:
                gc.freeze()
                gc.unfreeze()
            gc.enable()


def __getattr__(name: str) -> object:
    if name not in _AT:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, there = _AT[name]
    with Uncollected():
        value = getattr(__import__(f"{__name__}.{module}", fromlist=[there]), there)
    globals()[name] = value
    return value
