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
_AT = {  # module and name of each: imported on first use, because most tools need few of them
    "Eal": ("eal", "Eal"),
    "init": ("eal", "Eal"),
    "EalError": ("errors", "EalError"),
    "lease": ("tools.lease", "Lease"),
    "DEFAULT_RELEASE": ("releases", "DEFAULT"),
    **{name: ("layout", name) for name in __all__[:5] if name != "DEFAULT_RELEASE"},
}


class gc_paused:  # reads as a function: `with gc_paused():`
    """Pauses Python's garbage collector for a block.

    Imports and starts create many objects, none of which is garbage. At the end of the block they
    belong to the oldest generation, which is rarely collected. Has no effect while the collector is
    disabled.
    """

    def __enter__(self) -> None:
        self.collects = gc.isenabled()
        gc.disable()

    def __exit__(self, *_: object) -> None:
        if self.collects:
            # Python itself freezes up to 375 objects (3.12); more were frozen by the program
            if gc.get_freeze_count() < 1000:
                gc.freeze()
                gc.unfreeze()
            gc.enable()


def __getattr__(name: str) -> object:
    if name not in _AT:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, there = _AT[name]
    with gc_paused():
        value = getattr(__import__(f"{__name__}.{module}", fromlist=[there]), there)
    globals()[name] = value
    return value
