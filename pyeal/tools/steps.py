"""The steps of a start that leave traces, examined without making them.

errors() has what rte_eal_init itself would end with; own_errors() what `pyeal init` refuses
besides, on purpose. A dry run (dryrun.py) reports the earliest of all, in the order of the start.
"""

from __future__ import annotations

import fcntl
import os
import socket
import stat
from collections import Counter
from ctypes import sizeof
from errno import EACCES, EFAULT, EFBIG, EINVAL, ENODEV, ENOMEM, ENOSYS, EPERM
from itertools import pairwise

from pyeal import files, layout, libc, memseg, options
from pyeal.cparse import size_of
from pyeal.errors import EalError
from pyeal.fbarray import file_size
from pyeal.libc import PAGE
from pyeal.look import locks
from pyeal.look.process import NO_LIMIT
from pyeal.tools import fixes, size, traces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pyeal.look.process_view import ProcessView
    from pyeal.releases import Release
    from pyeal.tools.fakestart import FakeStart

# of rte_eal_init; the other stages are parts of "memory"
ORDER = (
    "options",
    "runtime",
    "config",
    "interrupts",
    "mp",
    "iova",
    "hugepages",
    "memzone",
    "memory",
    "heap",
    "threads",
    "service",
)
# of `pyeal init`, which opens its socket last
OWN_ORDER = (*(stage for stage in ORDER if stage != "mp"), "mp")
NAME_MAX, SUN_PATH = 255, 107


def earliest(found: list[EalError], order: tuple[str, ...] = ORDER) -> EalError | None:
    """Return the error of the stage that comes first; of one stage, the first that is given."""
    return min(found, key=lambda e: _rank(e.stage, order), default=None)


def _rank(stage: str, order: tuple[str, ...] = ORDER) -> int:
    return order.index(stage if stage in order else "memory")


def errors(r: FakeStart) -> Iterator[EalError]:
    """Yield what rte_eal_init would end with, one error for each step that fails."""
    yield from traces.errors(r.options.ignored, r.release)
    v, shared = r.view, not r.options.no_shconf
    if v.root:  # a folder that stands for a host has no runtime directory and no rights
        return
    if shared:
        path = v.runtime_dir(r.options.file_prefix, r.release)
        first, made = path[: -len(r.options.file_prefix) - 1], False
        for level in (first, path):
            why, made = _mkdir(v, level, made and os.path.dirname(level) == first)
            if why:
                yield _no_directory(r, level, why)
                return
        yield from _shared_files(r, path)
    if v.own:
        yield from _forbidden(r)
    yield from _page_files(r)
    yield from _locked(r)
    yield from _threads(r)


# --- the runtime directory and its files ----------------------------------------------------------


def _mkdir(v: ProcessView, path: str, above_is_new: bool) -> tuple[str, bool]:
    """Return why mkdir would fail, "" if it would not, and whether it would make the directory.

    A name that exists already is no error, even if it is a file: EAL continues.
    """
    above, _, name = path.rpartition("/")
    parent = v.real(above)
    if not above_is_new and os.path.lexists(f"{parent}/{name}"):
        return "", False
    if len(os.fsencode(name)) > NAME_MAX or len(os.fsencode(path)) >= libc.PAGE:
        return "File name too long", False
    if above_is_new:
        return "", name not in (".", "..")
    if not os.path.isdir(parent):
        return "Not a directory" if os.path.lexists(parent) else "No such file or directory", False
    st = os.statvfs(parent)
    if st.f_flag & os.ST_RDONLY:
        return "Read-only file system", False
    if not v.access(above, os.W_OK | os.X_OK):
        return "Permission denied", False
    if st.f_files and not st.f_favail:
        return "No space left on device", False
    return "", True


def _no_directory(r: FakeStart, path: str, why: str) -> EalError:
    return EalError(
        EINVAL,
        "runtime",
        f"Cannot create runtime directory {path}",
        expected="a directory that this user can create",
        found=why,
        fix=_elsewhere(r),
        reason="runtime-directory",
    )


def _elsewhere(r: FakeStart) -> str:
    """Return what gives the start another runtime directory, or none."""
    if "/" in r.options.file_prefix:  # of the levels EAL creates the last two alone
        return fixes.to("prefix", prefix=r.options.file_prefix.replace("/", "_"))
    if not r.release.runtime_directory_env and r.view.uid == 0:
        return fixes.to("no-shconf")  # no variable is obeyed
    return fixes.runtime_dir("", r.view.uid, r.release.runtime_directory_env)


def _shared_files(r: FakeStart, at: str) -> Iterator[EalError]:
    """Yield the first file of the runtime directory that cannot be made, locked or filled.

    EAL writes every byte of its files: where the file system has no room, the kernel ends it with
    SIGBUS.
    """
    v = r.view
    above, missing = at, 0
    while not os.path.isdir(v.real(above)):
        above, missing = os.path.dirname(above) or "/", missing + 1
    st = os.statvfs(v.real(above))
    inodes = (st.f_favail if st.f_files else NO_LIMIT) - missing
    room = st.f_bavail * st.f_frsize // PAGE if st.f_blocks else NO_LIMIT
    most = v.limit("Max file size")[0]
    may_write = above != at or v.access(at, os.W_OK | os.X_OK)
    for name, n, stage in _files(r):
        real = f"{v.real(at)}/{name}"
        try:
            old = os.stat(real)
        except FileNotFoundError:
            old = None
        except OSError as e:
            yield _no_file(r, at, name, stage, e.strerror or "")
            return
        if why := _not_opened(v, f"{at}/{name}", old, may_write, inodes):
            yield _no_file(r, at, name, stage, why)
            return
        inodes -= old is None
        if held := _held(v, old, name, at):
            yield held if isinstance(held, EalError) else _no_file(r, at, name, stage, held)
            return
        if n > most and n > (old.st_size if old else 0):  # a file keeps a length that it has
            found = f"ulimit -f {most >> 10}"
            yield _no_file(r, at, name, stage, found, size(n), fixes.to("limit", flag="-f"))
            return
        room -= -(-n // PAGE) - (old.st_blocks * 512 // PAGE if old else 0)
        if room < 0 and n:
            need = sum(-(-m // PAGE) * PAGE for _, m, _ in _files(r))
            found = f"{size(max(st.f_bavail * st.f_frsize, 1))} free: EAL dies of SIGBUS there"
            fix = _elsewhere(r)
            yield _no_file(r, at, name, stage, found, f"{size(need)} for its files", fix)
            return


def _files(r: FakeStart) -> list[tuple[str, int, str]]:
    """Return (name, bytes, stage) of each file that a start makes, in its order."""
    stages = {
        "config": "config",
        "hugepage_info": "hugepages",
        "fbarray_memzone": "memzone",
        "mp_socket": "mp",
    }
    found = [] if r.error else r.runtime_files()
    if not found:  # the lists are not known
        zones = file_size(layout.MAX_MEMZONE, sizeof(layout.Memzone))
        found = [*r.files_of_discovery(), ("mp_socket", 0), ("fbarray_memzone", zones)]
    found += _released(r)
    found.sort(key=lambda f: _rank(stages.get(f[0], "memory")))
    return [(name, n, stages.get(name, "memory")) for name, n in found]


def _released(r: FakeStart) -> list[tuple[str, int]]:
    """Return the arrays that legacy mode makes, and removes before the start ends."""
    if r.error or not r.legacy:
        return []
    plans = memseg.plan([i.page_sz for i in r.infos], r.sockets, r.release, r.options.pagesz_mem)
    kept = Counter(m.n_segs for m in r.lists)
    gone = sorted((Counter(p.n_segs for p in plans) - kept).elements())
    return [(f"fbarray_{i}", file_size(n, sizeof(layout.Memseg))) for i, n in enumerate(gone)]


def _not_opened(
    v: ProcessView, path: str, old: os.stat_result | None, may_write: bool, inodes: int
) -> str:
    """Return why a file cannot be opened for reading and writing."""
    if old is None or path.endswith("/mp_socket"):  # whose old one is removed
        if not may_write:
            return "Permission denied"
        return "No space left on device" if old is None and inodes < 1 else ""
    if stat.S_ISDIR(old.st_mode):
        return "Is a directory"
    return "" if v.access(path, os.R_OK | os.W_OK) else "Permission denied"


def _held(v: ProcessView, old: os.stat_result | None, name: str, at: str) -> EalError | str:
    """Return the error of a file that another process has locked."""
    if old is None or name == "hugepage_info" or name == "mp_socket":
        return ""
    if name == "config":
        try:
            held = v.config(at)
        except OSError as e:
            return e.strerror or str(e)
        if held is None or not held.alive or held.owner == v.pid:
            return ""
        what = f"Cannot create lock on '{at}/config'. Is another primary process running?"
        who = fixes.process_name(held.owner)
        fix = fixes.another_prefix(at.rpartition("/")[2])
        fields = {"expected": "it unlocked", "found": who, "fix": fix, "reason": "primary-exists"}
        return EalError(0, "config", what, **fields)
    by = v.flocked().get(locks.file_id(old), [])
    if not by or by[0][1] == v.pid:
        return ""
    stage = "memzone" if name == "fbarray_memzone" else "memory"
    return EalError(
        ENODEV if stage == "memzone" else ENOMEM,
        stage,
        f"Cannot lock {at}/{name}",
        expected="no process of an earlier start",
        found=fixes.process_name(by[0][1]),
        fix=fixes.another_prefix(at.rpartition("/")[2]),
        reason="survivors",
    )


def _no_file(
    r: FakeStart, at: str, name: str, stage: str, found: str, expected: str = "", fix: str = ""
) -> EalError:
    errno = {"config": 0, "hugepages": EACCES, "memzone": ENODEV, "mp": EFAULT}.get(stage, ENOMEM)
    what = f"Cannot make {at}/{name}"
    expected = expected or "a file that this user can open, lock and fill"
    fix = fix or _elsewhere(r)
    fields = {"expected": expected, "found": found, "fix": fix, "reason": "runtime-file"}
    return EalError(errno, stage, what, **fields)


# --- what a filter of system calls denies to this process -----------------------------------------


def _forbidden(r: FakeStart) -> Iterator[EalError]:
    """Yield the system calls that EAL needs and that this process may not make.

    Each is made in a way that changes nothing.
    """
    o, shared = r.options, not r.options.no_shconf
    huge, filtered = not o.no_huge, r.view.status.get("Seccomp", "0") != "0"
    for name, probe, stage, needed in (
        ("mkdir", _try_mkdir, "runtime", shared),
        (
            "ftruncate",
            _try_ftruncate,
            "config" if shared else first_page(r),
            shared or (huge and not o.legacy_mem),
        ),
        (
            "flock",
            _try_flock,
            "mp" if shared else "hugepages",
            shared or (huge and any(i.hugedir for i in r.infos)),
        ),
        ("unlink", _try_unlink, *_unlinks(r)),
        (
            "memfd_create",
            lambda: os.close(os.memfd_create("probe")),
            first_page(r),
            huge and o.in_memory and not r.release.probes_memfd,
        ),
        ("fallocate", _try_fallocate, first_page(r), huge and o.single_file_segments),
        ("socket", _try_socket, "mp", shared),
        ("bind", _try_bind, "mp", shared),
        ("get_mempolicy", libc.get_mempolicy, first_page(r), huge and not o.legacy_mem),
        ("sched_setaffinity", _try_affinity, _pinned_first(r), True),
    ):
        asks = name == "get_mempolicy"  # and no more than that: it shows a security module as well
        if needed and (asks or filtered) and (why := _denied(probe, asks)):
            yield EalError(
                EPERM,
                stage,
                f"{name} is forbidden to this process",
                expected=f"{name}, which EAL needs",
                found=f"{why}: a filter of system calls (seccomp)",
                fix=fixes.seccomp(name),
                reason="forbidden-call",
            )


def first_page(r: FakeStart) -> str:
    """Return the stage that takes the first page: memory, or services if nothing is asked for."""
    o = r.options
    asked = o.memory or any((o.socket_mem or {}).values())
    return "memory" if asked or o.legacy_mem else "service"


def _unlinks(r: FakeStart) -> tuple[str, bool]:
    """Return at which stage a start removes a page file, and whether it does.

    Until the dirty flag came EAL removed the file of each page before it opened it. Legacy mode
    removes those of pages that it does not keep.
    """
    o = r.options
    if o.no_huge or o.in_memory or r.error:
        return "memory", False
    if r.legacy:
        surplus = r.legacy.mapped > sum(r.pages().values())
        return "memory", surplus or o.unlink_before_mapping
    each = not o.single_file_segments and not r.release.dirty_flag
    return first_page(r), each or o.unlink_before_mapping


def _pinned_first(r: FakeStart) -> str:
    """Return the stage of the first thread whose CPUs are set, and missed if they cannot be."""
    return "interrupts" if r.release.misses_control_threads else "threads"


def _denied(probe: Callable[[], object], may_lack: bool) -> str:
    try:
        probe()
    except OSError as e:
        if e.errno == EPERM or (e.errno == ENOSYS and not may_lack):
            return e.strerror or ""
    return ""


def _try_mkdir() -> None:
    os.mkdir("/")  # exists


def _try_unlink() -> None:
    os.unlink("/")  # a directory


def _try_ftruncate() -> None:
    with files.closing(os.open(os.devnull, os.O_RDWR)) as fd:
        os.ftruncate(fd, 0)  # EINVAL, unless it is forbidden


def _try_fallocate() -> None:
    with files.closing(os.open(os.devnull, os.O_RDWR)) as fd:
        libc.fallocate(fd, 0, 0, PAGE)  # ENODEV, unless it is forbidden


def _try_flock() -> None:
    r, w = os.pipe()
    try:
        fcntl.flock(r, fcntl.LOCK_SH | fcntl.LOCK_NB)
    finally:
        os.close(r)
        os.close(w)


def _try_socket() -> None:
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).close()


def _try_bind() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as s:
        s.bind("")  # a name of the kernel's choice, gone with the socket


def _try_affinity() -> None:
    os.sched_setaffinity(0, os.sched_getaffinity(0))


# --- locks and cores ------------------------------------------------------------------------------


def _page_files(r: FakeStart) -> Iterator[EalError]:
    """Yield why the file of a page that the start would take cannot be made."""
    v, o = r.view, r.options
    if o.no_huge or r.error:
        return
    used = {sz for (sz, _), n in r.pages().items() if n}
    for info in (i for i in r.infos if i.page_sz in used):
        d, stage, sz = info.hugedir, first_page(r), info.page_sz
        what = f"Cannot make page files in {d}"
        most = v.limit("Max file size")[0]
        if o.single_file_segments:
            sz = max(m.count * m.page_sz for m in r.lists if m.page_sz == sz)
        if sz > most and not o.legacy_mem:
            yield EalError(
                ENOMEM,
                stage,
                what,
                expected=f"files of {size(sz)}",
                found=f"ulimit -f {most >> 10}",
                fix=fixes.to("limit", flag="-f"),
                reason="file-size",
            )
        if o.in_memory:
            continue
        found = fix = ""
        if not os.path.isdir(v.path(os.path.dirname(f"{d}/{o.file_prefix}map_0"))):
            prefix = o.file_prefix.replace("/", "_")
            found, fix = "No such file or directory", fixes.to("prefix", prefix=prefix)
        elif len(os.fsencode(f"{o.file_prefix}map_0")) > NAME_MAX:
            found, fix = "File name too long", fixes.another_prefix("rte")
        elif o.legacy_mem and v.statfs(d)[0] != libc.HUGETLBFS_MAGIC:
            found, fix = "another file system is mounted over it", fixes.to("umount", at=d)
        elif os.statvfs(v.path(d)).f_flag & os.ST_RDONLY:
            found, fix = "ro", fixes.to("writable", at=d)
        elif not v.access(d, os.R_OK | os.W_OK | os.X_OK):
            found, fix = f"user {v.uid} may not write there", fixes.own(d, v.uid)
        if found:
            expected = "a hugetlbfs in which this user can make files"
            fields = {"expected": expected, "found": found, "fix": fix, "reason": "hugedir-rights"}
            yield EalError(ENOMEM, stage, what, **fields)


def _locked(r: FakeStart) -> Iterator[EalError]:
    """Yield a hugepage directory that is locked: the start waits for it without a limit.

    Legacy mode also waits for each of its page files.
    """
    held = r.view.flocked()
    for info in (i for i in r.infos if i.hugedir):
        d = info.hugedir
        try:
            by = held.get(locks.file_id(os.stat(r.view.path(d))), [])
            if not by and r.options.legacy_mem:
                names = [f for f in r.view.page_files(d) if f.prefix == r.options.file_prefix]
                by = [h for f in names for h in f.holders if h[0] == "WRITE"]
        except OSError:
            continue
        if by:
            yield EalError(
                EACCES,
                "hugepages",
                f"{d} is locked: the start would wait without a word",
                expected="it unlocked",
                found=fixes.process_name(by[0][1]),
                fix=fixes.another_mount(info.page_sz),
                reason="hugedir-locked",
            )
            return


def _threads(r: FakeStart) -> Iterator[EalError]:
    """Yield a CPU that the process may not use: EAL pins a thread to each that is named.

    Its control threads come first. They have the CPUs that are not named, or the main lcore's.
    """
    o, v = r.options, r.view
    if o.cpus is None:
        return
    allowed = v.allowed_cpus(o.cpus)
    if allowed is not None and (out := [c for c in o.cpus if c not in allowed]):
        usable = ",".join(map(str, sorted(v.usable_cpus())))
        early = not v.affinity() - {*o.cpus} and _main_cpu(o) in out
        yield EalError(
            EINVAL,
            _pinned_first(r) if early else "threads",
            f"Cannot set affinity to CPU {','.join(map(str, out))}",
            expected="CPUs of this process's cpuset",
            found=f"Cpus_allowed_list: {usable}",
            fix=fixes.to("cores", cpus=usable),
            reason="cpuset",
        )


def _main_cpu(o: options.Options) -> int | None:
    """Return the CPU of the main lcore, None if it is not known: lcores may share CPUs."""
    lcores, cpus = o.lcores or [], o.cpus or []
    main = lcores[0] if o.main_lcore is None and lcores else o.main_lcore
    if len(cpus) == 1:
        return cpus[0]
    return main if lcores == cpus else None


# --- what pyeal alone refuses ---------------------------------------------------------------------


def own_errors(r: FakeStart) -> list[EalError]:
    """Return what `pyeal init` refuses and EAL takes, with the reason."""
    return [*_own(r)]


def _own(r: FakeStart) -> Iterator[EalError]:
    v = r.view
    if not v.own or v.root:
        return
    if not r.options.no_shconf:
        yield from _own_of_files(r)
    used = set() if r.error or r.options.no_huge else {sz for (sz, _), n in r.pages().items() if n}
    if used and r.legacy and (why := _denied(_try_unlink, False)):
        yield _refused("memory", "page files", OSError(EPERM, f"{why}: it removes each before"))
    for d in (i.hugedir for i in r.infos if i.hugedir and i.page_sz in used):
        if not r.options.in_memory and v.statfs(d)[0] != libc.HUGETLBFS_MAGIC:
            why = "no hugetlbfs, another file system is mounted over it: EAL takes ordinary memory"
            yield _refused(first_page(r), d, OSError(ENODEV, why))


def _own_of_files(r: FakeStart) -> Iterator[EalError]:
    v = r.view
    path = v.runtime_dir(r.options.file_prefix, r.release)
    for level in (path[: -len(r.options.file_prefix) - 1], path):
        try:
            files.check_directory(level)
        except FileNotFoundError:
            continue
        except OSError as e:
            yield _refused("runtime", level, e)
            return
    for name, n, stage in _files(r):
        try:
            st = os.lstat(f"{path}/{name}")
        except OSError:
            continue
        if name != "mp_socket" and (why := files.why_untrusted(st, stat.S_IFREG)):
            yield _refused(stage, f"{path}/{name}", OSError(EPERM, why))
            return
        if n > (most := v.limit("Max file size")[0]):
            why = f"{size(n)} to write, and ulimit -f {most >> 10}: EAL takes an old file as long"
            yield _refused(stage, f"{path}/{name}", OSError(EFBIG, why))
            return
    if len(os.fsencode(f"{path}/mp_socket")) > SUN_PATH:
        why = f"a path over {SUN_PATH} bytes: EAL cuts the name, and no secondary finds it"
        yield _refused("mp", f"{path}/mp_socket", OSError(EINVAL, why))


def _refused(stage: str, path: str, e: OSError) -> EalError:
    what = f"pyeal init refuses {path}"
    return EalError(e.errno or 0, stage, what, found=e.strerror or "", reason="stricter")


# --- arguments ------------------------------------------------------------------------------------


def misread(args: list[str], o: options.Options, nodes: list[int]) -> list[tuple[str, str]]:
    """Return the values that EAL reads otherwise than they look, in silence, and what to write."""
    found = []
    for word, value in zip(args, [*args[1:], ""], strict=False):
        name, eq, joined = word.partition("=")
        if word.startswith("-m") and not word.startswith("--") and word != "-m":
            name, value = "-m", word[2:]
        elif eq:
            value = joined
        if name not in ("-m", "--memory-size") or value.isdecimal():
            continue
        read, meant = o.memory >> 20, (size_of(value) or 0) >> 20
        text = f"EAL reads {name} {value} as {read} MB: it takes a number of megabytes"
        do = fixes.to("less", mb=meant) if meant else fixes.to("megabytes")
        found.append((text, do))
    for name, amounts in (("mem", o.socket_mem), ("limit", o.socket_limit)):
        if gone := [k for k, n in (amounts or {}).items() if n and nodes and k not in nodes]:
            here = ",".join(map(str, nodes))
            text = f"--socket-{name} names node {gone[0]}, which is not here: there is {here}"
            mbs = [str((amounts or {}).get(k, 0) >> 20) for k in range(max(nodes) + 1)]
            found.append((text, fixes.to(f"socket-{name}", mbs=",".join(mbs))))
    return found


def args_of(v: ProcessView, release: Release) -> list[str]:
    """Return the arguments of EAL on a process's command line, [] if those are no EAL's.

    EAL's end at `--`. They are behind it if EAL refuses what is in front, or if a command is there
    (`-m pyeal init`): a word that follows no option, as each value of EAL does.
    """
    argv = (v.process.cmdline or [""])[1:]
    at = argv.index("--") if "--" in argv else len(argv)
    before, behind = argv[:at], argv[at + 1 :]
    options_ = [word.startswith("-") for word in ("", *before)]
    command = any(not a and not b for a, b in pairwise(options_))
    for args in (behind, before) if command and behind else (before, behind):
        try:
            options.parse(args, release)
        except EalError:
            continue
        return args
    return []
