"""The link `files of others` of a secondary: what it needs of its primary."""

from __future__ import annotations

import os

from pyeal import builds, layout, releases
from pyeal.errors import EalError
from pyeal.tools import fixes
from pyeal.tools.doctor.model import FAIL, OK, UNKNOWN, WARN, Case, Finding, process_name

TAILQ_OF = {  # library: the tail queues that it registers
    "ring": ["RTE_RING"],
    "mempool": ["RTE_MEMPOOL"],
    "reorder": ["RTE_REORDER"],
    "mbuf": ["RTE_MBUF_DYNFIELD", "RTE_MBUF_DYNFLAG"],
    "acl": ["RTE_ACL"],
    "hash": ["RTE_HASH", "RTE_FBK_HASH", "RTE_THASH"],
    "lpm": ["RTE_LPM", "RTE_LPM6"],
    "distributor": ["RTE_DIST_BURST", "RTE_DISTRIBUTOR"],
    "stack": ["RTE_STACK"],
    "efd": ["RTE_EFD"],
    "fib": ["RTE_FIB", "RTE_FIB6"],
    "rib": ["RTE_RIB", "RTE_RIB6"],
    "member": ["RTE_MEMBER"],
    "ipsec": ["RTE_IPSEC_SAD"],
    "kni": ["RTE_KNI"],
}

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator


def check(c: Case) -> Iterator[Finding]:
    """Report what prevents a secondary from attaching to the primary of its prefix."""
    at, prefix = c.directory, c.o.file_prefix
    if c.config_error:
        yield Finding(
            FAIL,
            f"{at}/config may not be read",
            18,
            10,
            wanted="the primary's user",
            found=c.config_error,
            do=fixes.to("same-user", uid=_owner(c.view.real(at))),
        )
        return
    if c.config is None:
        places = _other_places(c)
        found = f"none there; {', '.join(places)}" if places else "none there, nor elsewhere"
        do = (
            fixes.to("prefix", prefix=places[0].split("/")[-1].split(" ")[0])
            if places
            else fixes.to("start-primary")
        )
        yield Finding(
            FAIL, f"no primary with prefix {prefix}", 18, wanted=f"{at}/config", found=found, do=do
        )
        return
    if not c.config.alive:
        rows = (17, 18) if not c.config.complete else (18, 17)
        text = "its primary died while it started: a secondary would wait indefinitely"
        text = text if not c.config.complete else "its primary is gone, only its files are left"
        yield Finding(
            FAIL,
            text,
            *rows,
            wanted="a living primary",
            found=f"{at}/config unlocked",
            do=fixes.to("old-directory", at=at),
        )
        return
    if not c.config.complete:
        yield Finding(
            FAIL,
            "the primary has not finished its start: a secondary waits indefinitely",
            17,
            wanted="a primary that has",
            found=process_name(c.config.owner),
            do=fixes.to("wait-primary", pid=c.config.owner),
        )
        return
    word = c.config.release.name if c.config.release else f"{c.config.word:#x}"
    if c.named and c.config.word != c.release.word:
        yield Finding(
            FAIL,
            "primary and secondary are not of one release",
            16,
            wanted=c.release.name,
            found=word,
            do=fixes.to("same-release", release=word),
        )
        return
    if not c.config.c:
        if c.config.release:  # which is known: the build is not
            yield Finding(FAIL, c.config.unknown or "the primary's config is cut off", 16)
        else:
            yield Finding(UNKNOWN, f"the primary is of {word}, whose layout is not known", 16)
        return
    note = f" ({c.config.release.note})" if c.config.release and c.config.release.note else ""
    yield Finding(OK, f"primary of {word}{note}, {process_name(c.config.owner)}")
    if not c.named:
        named = f", and name it: --as {word}" if note else ""
        yield Finding(OK, f"a secondary must be exactly {word}{named}", 16, harmless=True)
    if c.config.abi and c.config.abi.line != layout.ABI.line:
        yield _of_another_build(c.config.abi)
        return
    yield from _its_pages(c)
    yield from _stopped(c)
    yield from _tailqs(c)
    if c.config.word >= releases.get("22.11").word:
        text = "a secondary that ends also cleans up the bus: the primary's device may stop"
        yield Finding(OK, text, 15, harmless=True)


def _owner(path: str) -> int:
    """Return the user of a path, or of the directory in front that this user can look at."""
    while True:
        try:
            return os.stat(path).st_uid
        except PermissionError:
            path = os.path.dirname(path)


def _of_another_build(abi: layout.Abi) -> Finding:
    """Return the finding on a primary whose structures no secondary of this machine has."""
    return Finding(
        FAIL,
        f"the primary is written by a build with {abi.line}-byte cache lines",
        16,
        wanted=f"{layout.ABI.line}-byte cache lines",
        found=f"a build for {' or '.join(builds.like(abi.line))}",
        do=fixes.to("same-build"),
    )


def _stopped(c: Case) -> Iterator[Finding]:
    """Report stopped processes of the prefix: they cannot reply when memory grows."""
    assert c.config
    pids = {c.config.owner}
    for name in os.listdir(c.view.real(c.directory)):
        word = name.removeprefix("mp_socket_").partition("_")[0]
        pids |= {int(word)} if name.startswith("mp_socket_") and word.isdecimal() else set()
    for pid in sorted(pids - {0, c.view.pid}):
        words = c.view.read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        if words and words[0] in "tT":
            yield Finding(
                WARN,
                f"process {pid} is stopped: a process that needs more memory waits for it",
                36,
                do=fixes.to("continue", pid=pid),
            )


def _tailqs(c: Case) -> Iterator[Finding]:
    """Report tail queues of a secondary's libraries that the primary does not have."""
    assert c.config and c.config.c
    names = {q.name.decode() for q in c.config.c.tailq_head if q.name}
    linked: set[str] = set()
    for _, _, path in c.view.maps() if not c.view.own else ():
        lib = path.rpartition("/")[2].removeprefix("librte_").partition(".so")[0]
        linked.update(TAILQ_OF.get(lib, ()))
    if linked - names:
        queue = sorted(linked - names)[0]
        yield Finding(
            FAIL,
            f"the primary lacks the tail queue {queue}",
            20,
            wanted=f"{', '.join(sorted(linked))} in the primary",
            found=", ".join(sorted(names)) or "none",
            do=fixes.to("same-libraries"),
        )
    elif names:
        text = f"a secondary's libraries must be among {', '.join(sorted(names)[:3])} ..."
        yield Finding(OK, text, 20, harmless=True)


def _its_pages(c: Case) -> Iterator[Finding]:
    """Report page files of the primary that a secondary could not open."""
    assert c.config and c.config.c
    m = c.config.c
    lists = [x for x in m.memsegs if x.base_va and not x.external and x.memseg_arr.count]
    if not lists:
        return
    if lists[0].memseg_arr.name == b"nohugemem":
        yield Finding(
            FAIL,
            "the primary runs with --no-huge: its memory cannot be shared",
            38,
            wanted="hugepages with files",
            found="--no-huge",
            do=fixes.to("primary-without", option="--no-huge"),
        )
        return
    dirs = hugedirs_of_primary(c)
    gone = [d for d in dirs if not os.path.isdir(c.view.path(d))]
    if gone:
        yield Finding(
            FAIL,
            f"the primary's {gone[0]} is not to be seen here",
            19,
            wanted=f"{gone[0]}, the same as the primary's",
            found="none here",
            do=fixes.to("volume", directory=gone[0]),
        )
        return
    names = {n for d in dirs for n in os.listdir(c.view.path(d))} if dirs else set()
    if not any(n.startswith(f"{c.o.file_prefix}map_") for n in names):
        yield Finding(
            FAIL,
            "the primary's page files have no names",
            37,
            19,
            wanted=f"{c.o.file_prefix}map_* in {', '.join(dirs) or 'a hugetlbfs'}",
            found="none: --huge-unlink, or another hugetlbfs is mounted here",
            do=fixes.to("primary-without", option="--huge-unlink"),
        )
        return
    for d in dirs:
        for f in c.view.page_files(d):
            path = f"{d}/{f.name}"
            if f.prefix == c.o.file_prefix and not c.view.access(path, os.R_OK | os.W_OK):
                yield Finding(
                    FAIL,
                    f"{path} is of user {f.uid}",
                    10,
                    14,
                    wanted=f"read and write for user {c.view.uid}",
                    found="mode 0600",
                    do=fixes.to("same-user", uid=f.uid),
                )
                return


def _other_places(c: Case) -> list[str]:
    """Return the running primaries in all other runtime directories."""
    found = []
    for base in c.view.runtime_bases():
        real = c.view.real(base)
        try:
            names = sorted(os.listdir(real))
        except OSError:
            continue
        for name in names:
            try:
                config = c.view.config(f"{base}/{name}")
            except OSError:
                continue
            if config and config.alive and f"{base}/{name}" != c.directory:
                found.append(f"{base}/{name} is alive")
    return list(dict.fromkeys(found))


def hugedirs_of_primary(c: Case) -> list[str]:
    """Return the hugepage directories that the primary's hugepage_info names."""
    from pyeal.hugepages import read_info

    if not c.config or not c.config.release:
        return []
    path = f"{c.view.real(c.directory)}/hugepage_info"
    try:
        infos = read_info(path, c.config.release.numa_nodes_max)
    except (EalError, OSError):
        return []
    return [i.hugedir for i in infos]
