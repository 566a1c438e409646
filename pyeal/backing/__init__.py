"""What holds the pages of memseg lists, one class for each way. It is chosen here, once per start.

| backing     | a page is                             | options                                  |
|-------------|---------------------------------------|------------------------------------------|
| PageFiles   | a file in its size's hugedir          | the default                              |
| ListFile    | a part of its list's file there       | --single-file-segments                   |
| Memfds      | a memfd                               | --in-memory                              |
| ListMemfd   | a part of its list's memfd            | --in-memory --single-file-segments       |
| Anonymous   | anonymous memory                      | --in-memory, and memfd has no hugepages  |
| LegacyFiles | a file that was mapped twice          | --legacy-mem                             |
| NoHuge      | 4 kB of one memfd or anonymous memory | --no-huge                                |

base.py has what they share and the methods that each has. Only these classes know of options that
say where pages lie, and whether a secondary or an observer maps them.
"""

from __future__ import annotations

from .base import Access, Backing, ReadOnly, grow_descriptor_table

__all__ = ["Access", "Backing", "ReadOnly", "for_primary", "for_secondary", "grow_descriptor_table"]

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from ..hugepages import HugepageInfo
    from ..memseg import MemsegLists
    from ..options import Options
    from ..populate import Population
    from .pagefiles import HugedirFiles


def kind(opts: Options) -> type[Backing]:
    """Returns the class that a primary's options ask for, and imports its module."""
    if opts.no_huge:
        from .memory import NoHuge

        return NoHuge
    if opts.legacy_mem:
        from .legacy import LegacyFiles

        return LegacyFiles
    if opts.in_memory:
        from .memory import ListMemfd, Memfds

        return ListMemfd if opts.single_file_segments else Memfds
    from .pagefiles import ListFile, PageFiles

    return ListFile if opts.single_file_segments else PageFiles


def for_primary(
    lists: MemsegLists, opts: Options, infos: Sequence[HugepageInfo], population: Population
) -> Backing:
    """Returns what holds a primary's pages. EalError(ENOMEM) if it needs memfds and has none.

    Releases that do not probe memfds assume that they work. linux/eal_memalloc.c: eal_memalloc_init
    """
    made = kind(opts)
    if opts.in_memory and not made.fixed:
        from .memory import Anonymous, memfds_work

        if lists.release.probes_memfd and not memfds_work(infos[0].page_sz, opts, population.log):
            made = Anonymous
        else:
            population.log("DEBUG", "Using memfd for anonymous memory")
    return made(lists, opts, infos, population)


def for_secondary(lists: MemsegLists, *rest: Any) -> HugedirFiles:
    """Returns the backing that a primary's pages have, as its config says."""
    from . import legacy, pagefiles

    c = lists.config
    files = pagefiles.ListFile if c.single_file_segments else pagefiles.PageFiles
    made = legacy.LegacyFiles if c.legacy_mem else files
    return made(lists, *rest)
