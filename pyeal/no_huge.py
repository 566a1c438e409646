"""The memory of --no-huge: one list of 4 kB pages that never changes."""

from __future__ import annotations

from .layout import PGSIZE_4K

TYPE_CHECKING = False
if TYPE_CHECKING:
    from .backing.memory import NoHuge
    from .memseg import MemsegLists

DEFAULT_MEMORY = 64 << 20  # MEMSIZE_IF_NO_HUGE_PAGE


def init(lists: MemsegLists, backing: NoHuge, memory: int) -> None:
    """Makes the list, maps it and writes its records; memory: bytes, 0 for the default.

    EalError(ENOMEM). linux/eal_memory.c: eal_legacy_hugepage_init
    """
    msl = lists.add("nohugemem", PGSIZE_4K, (memory or DEFAULT_MEMORY) // PGSIZE_4K, 0)
    backing.map_list(msl)
    backing.fill(msl)
