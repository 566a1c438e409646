"""The memfd probe: whether hugepages can have descriptors without a file system."""

from __future__ import annotations

import os
from errno import EACCES, EINVAL, ENOMEM, EPERM

from . import libc
from .errors import EalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from .options import Options
    from .releases import Release


def probe(
    page_sizes: list[int], opts: Options, release: Release, log: Callable[[str, str], object]
) -> bool:
    """Returns whether pages of --in-memory come from memfds; if not, from anonymous hugepages.

    Only the largest size is tried. EINVAL means no. Any other error is EalError(ENOMEM), and so is
    no with --single-file-segments. Releases without the probe assume yes.
    linux/eal_memalloc.c: eal_memalloc_init, test_memfd_create
    """
    if release.probes_memfd:
        kind = libc.MFD_HUGETLB | libc.log2_flag(page_sizes[0])
        try:
            os.close(os.memfd_create("test", kind))
        except OSError as e:
            if e.errno != EINVAL:
                raise EalError(
                    ENOMEM,
                    "memfd",
                    "Unable to check if memfd is supported",
                    expected=f"memfd_create of {page_sizes[0] >> 10} kB pages",
                    found=e.strerror or "",
                    fix="run without --in-memory, or allow memfd_create (seccomp?)",
                    reason="memfd-denied" if e.errno in (EACCES, EPERM) else "memfd",
                ) from None
            log("INFO", "Using memfd is not supported, falling back to anonymous hugepages")
            if opts.single_file_segments:
                raise EalError(
                    ENOMEM,
                    "memfd",
                    "Single-file segments mode cannot be used without memfd support",
                    fix="run without --single-file-segments or without --in-memory",
                    reason="memfd",
                ) from None
            return False
    log("DEBUG", "Using memfd for anonymous memory")
    return True
