"""What a start of EAL hangs on, link by link: the checks of `pyeal doctor`.

A rehearsal of the start (plan.py) is the model of what EAL does; the checks say what stands behind
it, and look at what EAL never looks at. Each is a generator of Findings about a Case.
"""

from __future__ import annotations

import os
from errno import ENOSYS

from pyeal import hugepages, layout, libc, options, releases
from pyeal.errors import EalError
from pyeal.tools import scan, size
from pyeal.tools.plan import FIXED, Rehearsal
from pyeal.tools.problems import LINKS
from pyeal.tools.view import NO_LIMIT, Config, View

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any

    # by page size: total, free, reserved, free by node
    Usable = dict[int, tuple[int, int, int, dict[int, int]]]

OK, WARN, FAIL, UNKNOWN = "OK", "WARN", "FAIL", "UNKNOWN"
WORST = (OK, UNKNOWN, WARN, FAIL)
SLOW = 2.0  # seconds of start that are worth a word
REGIONS = 8  # of vhost-user
TAILQ_OF = {  # library: the tail queues that it registers
    "ring": ["RTE_RING"], "mempool": ["RTE_MEMPOOL"], "reorder": ["RTE_REORDER"],
    "mbuf": ["RTE_MBUF_DYNFIELD", "RTE_MBUF_DYNFLAG"], "acl": ["RTE_ACL"],
    "hash": ["RTE_HASH", "RTE_FBK_HASH", "RTE_THASH"], "lpm": ["RTE_LPM", "RTE_LPM6"],
    "distributor": ["RTE_DIST_BURST", "RTE_DISTRIBUTOR"], "stack": ["RTE_STACK"],
    "efd": ["RTE_EFD"], "fib": ["RTE_FIB", "RTE_FIB6"], "rib": ["RTE_RIB", "RTE_RIB6"],
    "member": ["RTE_MEMBER"], "ipsec": ["RTE_IPSEC_SAD"], "kni": ["RTE_KNI"],
}  # fmt: skip


class Finding:
    """What one check found. problems: rows of problems.py; harmless: it looks worse than it is."""

    __slots__ = ("do", "found", "harmless", "problems", "state", "text", "wanted")

    def __init__(
        self, state: str, text: str, *problems: int, wanted: str = "", found: str = "",
        do: str = "", harmless: bool = False,
    ) -> None:  # fmt: skip
        self.state, self.text, self.problems, self.harmless = state, text, problems, harmless
        self.wanted, self.found, self.do = wanted, found, do

    def facts(self) -> dict[str, object]:
        return {k: getattr(self, k) for k in ("state", "text", "wanted", "found", "do",
                                              "problems", "harmless")}  # fmt: skip


class Case:
    """What is looked at: a view, EAL's arguments, the rehearsal of the start."""

    def __init__(self, view: View, args: list[str], release: str | None) -> None:
        self.view, self.args = view, args
        self.release = releases.get(release or releases.DEFAULT)
        self.named = release is not None
        self.opts: options.Options | None = None
        self.pools: dict[int, dict[str, Any]] = {}
        self.config: Config | None = None
        self.blind = ""  # why config could not be read
        try:
            self.opts = options.parse(args, self.release)
        except EalError as e:
            self.refused: EalError | None = e
        else:
            self.refused = None
            self.directory = view.runtime_dir(self.opts.file_prefix, self.release)
            try:
                self.config = view.config(self.directory)
            except OSError as e:
                self.blind = e.strerror or str(e)
        alive = bool(self.config and self.config.alive)
        kind = self.opts.proc_type if self.opts else "primary"
        self.secondary = kind == "secondary" or (kind == "auto" and alive)
        self.rehearsal = None if self.secondary or self.refused else Rehearsal(args, release, view)
        self.error = self.rehearsal.error if self.rehearsal else None

    @property
    def bit(self) -> str | None:
        """The link whose limit the rehearsal met."""
        return self.rehearsal.bit if self.rehearsal else None

    @property
    def o(self) -> options.Options:
        assert self.opts
        return self.opts

    @property
    def hugedirs(self) -> dict[int, str]:
        return {i.page_sz: i.hugedir for i in self.rehearsal.infos} if self.rehearsal else {}

    @property
    def running(self) -> bool:
        """Whether the process looked at is that primary, already up."""
        return bool(self.config and self.config.alive and self.config.owner == self.view.pid)

    def failed_at(self, *links: str) -> bool:
        """Whether the rehearsal ended at a limit of these links."""
        return bool(self.error and self.bit in links)

    def needs_pages(self) -> bool:
        return not (self.secondary or self.o.no_huge)


# --- the links, in order --------------------------------------------------------------------------


def arguments_(c: Case) -> Iterator[Finding]:
    e = c.refused or (c.error if c.error and c.error.stage == "options" else None)
    if e:
        text, do = e.what, e.fix
        rows = (38, 0) if e.reason == "no-huge" else (0,)
        other = _taken_by(c.args) if c.refused else ""
        do = f"--as {other}, which takes them" if other else do or "pyeal plan -- ARGS"
        wanted = e.expected or f"arguments of EAL {c.release.name}"
        yield Finding(FAIL, text, *rows, wanted=wanted, found=" ".join(c.args), do=do)
        return
    o = c.o
    mode = ("no-huge" if o.no_huge else "legacy" if o.legacy_mem else "in-memory" if o.in_memory
            else "single-file" if o.single_file_segments else "dynmem")  # fmt: skip
    role = "secondary" if c.secondary else "primary"
    yield Finding(OK, f"{role}, {mode}, file prefix {o.file_prefix}")
    if o.no_huge:
        text = "--no-huge: no secondary can join, and no device can use it without VFIO"
        yield Finding(OK, text, 38, harmless=True)


def _taken_by(args: list[str]) -> str:
    """The first release that takes these arguments."""
    for r in releases.RELEASES.values():
        try:
            options.parse(args, r)
            return r.line
        except EalError:
            pass
    return ""


def _words(c: Case, sz: int) -> tuple[int, int, int, dict[int, int]]:
    """(total, free, reserved, free by node) of a pool."""
    pool = c.pools[sz]
    nodes = {k: n.get("free", 0) for k, n in pool["nodes"].items()}
    return pool.get("nr", 0), pool.get("free", 0), pool.get("resv", 0), nodes


def pool(c: Case) -> Iterator[Finding]:
    if c.secondary:
        yield Finding(OK, "a secondary maps what its primary has")
        return
    if c.o.no_huge:
        yield Finding(OK, "not needed: --no-huge")
        return
    try:
        c.pools = dict(hugepages.pools(c.view))
    except EalError as e:
        wsl = "microsoft" in os.uname().release.lower()
        yield Finding(FAIL, "this kernel has no hugepages" + " (WSL)" * wsl, 41,
                      wanted=f"{c.view.sys}/{hugepages.GLOBAL}", found=e.found,
                      do="--no-huge as an argument of EAL")  # fmt: skip
        return
    pools = c.pools
    usable = {sz: _words(c, sz) for sz in pools}
    yield from _shortage(c, usable)
    told = False
    for sz, (nr, free, resv, nodes) in usable.items():
        word, extra = size(sz), _extra(c, sz)
        if nr or free or extra:
            by = ", ".join(f"{n:,} on node {k}" for k, n in sorted(nodes.items())) or f"{free:,}"
            text = f"{word}: {by} free of {nr:,}"
            text += f", {resv:,} reserved" if resv else ""
            text += f", and {extra:,} on demand" if extra else ""
            told = True
            yield Finding(OK, text)
            if len(nodes) > 1 and min(nodes.values()) == 0 < max(nodes.values()):
                bare = next(k for k, n in sorted(nodes.items()) if not n)
                yield Finding(WARN, f"node {bare} has no free {word} page", 27, 8,
                              do=f"dpdk-hugepages.py -p {word} -n {bare} -r SIZE")  # fmt: skip
        elif any(w[1] for w in usable.values()):
            yield Finding(OK, f"no {word} pages reserved: not a problem", 35, harmless=True)
    if told:
        yield from _persistence(c, pools)


def _shortage(c: Case, usable: Usable) -> Iterator[Finding]:
    """No page at all, or fewer than are asked for."""
    rows: tuple[int, ...] = (1,)
    stale = _stale(c)
    cleared = sum(c.rehearsal.cleared.values()) if c.rehearsal else 0
    some = any(free - resv > 0 or max(nodes.values(), default=0) for _, free, resv, nodes in
               usable.values()) or any(_extra(c, sz) for sz in usable)  # fmt: skip
    default = _default(c, usable)
    word = size(default)
    if not some and not cleared:
        nr = sum(w[0] for w in usable.values())
        want = f"at least one free page of {word}"
        if not nr:
            need = max(_asked(c), 64 << 20)
            yield Finding(FAIL, "no hugepages are reserved", 1, 26, wanted=want,
                          found=f"none in {', '.join(map(size, usable)) or 'any size'}",
                          do=f"dpdk-hugepages.py -p {word} -r {size(need)}")  # fmt: skip
            return
        held = holders(c)
        do, who = "pyeal ps", "by processes that are not in sight"
        if stale:
            rows, do = (3, 1), "pyeal stale --delete"
            who = f"{size(sum(b for _, b in stale))} by files of dead processes"
        elif held:
            do = f"kill {held[0][1]}"
            who = ", ".join(f"{size(n)} by {name} ({pid})" for n, pid, name in held[:3])
        yield Finding(FAIL, "all hugepages are taken", *rows, wanted=want,
                      found=f"none free of {nr:,}, {who}", do=do)  # fmt: skip
        return
    e = c.error
    if e and e.reason == "no-free-page":
        resv = ", ".join(f"{w[2]:,} of {w[1]:,} free {size(sz)} pages are reserved"
                         for sz, w in usable.items() if w[2])  # fmt: skip
        more = (usable[default][0] + 32) * default
        yield Finding(FAIL, "every free page is reserved by somebody", 1,
                      wanted=f"a free {word} page that nobody reserved", found=resv or "none free",
                      do=f"dpdk-hugepages.py -p {word} -r {size(more)}")  # fmt: skip
        return
    if e and (c.failed_at("pool") or (e.stage == "pages" and not c.bit)):
        node = next((k for k in c.o.socket_mem or {}
                     if e.reason == f"too-few-pages-on-node-{k}"), None)  # fmt: skip
        counted = {sz: w for sz, w in usable.items() if sz in c.hugedirs} or usable
        free = {k: sum(sz * w[3].get(k, 0) for sz, w in counted.items()) for k in _nodes(counted)}
        at = f"-n {node} " if node is not None else ""
        ask = _asked(c)
        have = sum(free.values()) if node is None else free.get(node, 0)
        asked = ask if node is None else (c.o.socket_mem or {}).get(node, 0)
        missing = max(asked - have, default)
        there = c.pools[default]["nodes"].get(node, {}).get("nr", 0)
        total = (usable[default][0] if node is None else there) * default + missing
        rows = (6, 27) if node is not None and sum(free.values()) >= ask else (6,)
        found = ", ".join(f"{size(n)} free on node {k}" for k, n in free.items())
        bare = [k for k, n in free.items() if n and c.rehearsal and k not in c.rehearsal.sockets]
        if bare:
            found += f"; EAL does not count node {_list(bare)}, which has no CPU"
            rows = (*rows, 8)
        elif not free or have >= asked:
            found = e.found or e.what
        if (room := _contiguous(c, default)) is not None and room < missing // default:
            found += f"; the kernel has {room} free blocks of {word} to make more of"
            rows = (*rows, 26)
        where = f" on node {node}" if node is not None else ""
        yield Finding(FAIL, f"{size(asked)} asked for{where}, {size(have)} are free", *rows,
                      wanted=f"{size(asked)}{where}", found=found,
                      do=f"dpdk-hugepages.py -p {word} {at}-r {size(total)}")  # fmt: skip
    elif stale and cleared == 0:
        bytes_ = sum(b for _, b in stale)
        yield Finding(WARN, f"{size(bytes_)} are held by files of dead processes", 3,
                      do="pyeal stale --delete")  # fmt: skip


def _extra(c: Case, sz: int) -> int:
    pool_ = c.pools[sz]
    return max(int(pool_.get("nr_overcommit", 0)) - int(pool_.get("surplus", 0)), 0)


def _default(c: Case, usable: Usable) -> int:
    """The page size to suggest: the smallest that is mounted, else the smallest."""
    mounted = [sz for sz, d in c.hugedirs.items() if d]
    return min(mounted or [sz for sz in usable if sz >= 1 << 20] or usable or [2 << 20])


def _nodes(usable: Usable) -> list[int]:
    return sorted({k for w in usable.values() for k in w[3]})


def _asked(c: Case) -> int:
    return sum(c.o.socket_mem.values()) if c.o.socket_mem else c.o.memory


def _contiguous(c: Case, sz: int) -> int | None:
    """How many more pages of that size free memory could be made of now."""
    order = (sz // libc.PAGE).bit_length() - 1
    total, seen = 0, False
    for line in c.view.read("/proc/buddyinfo").splitlines():
        counts = line.split()[4:]
        for i, n in enumerate(counts[order:]):
            total, seen = total + int(n) * (1 << i), True
    return total if seen else None


def _persistence(c: Case, pools: dict[int, dict[str, Any]]) -> Iterator[Finding]:
    """Whether anything reserves them again at the next boot."""
    if not c.view.own or not any(p.get("nr") for p in pools.values()):
        return
    words = c.view.read("/proc/cmdline")
    for d in ("/etc/sysctl.d", "/run/sysctl.d", "/usr/lib/sysctl.d"):
        if os.path.isdir(d):
            words += "".join(c.view.read(f"{d}/{name}") for name in sorted(os.listdir(d)))
    words += c.view.read("/etc/sysctl.conf") + c.view.read("/etc/dpdk/dpdk.conf")
    if "hugepages" not in words and "NR_2M" not in words:
        yield Finding(OK, "nothing reserves them at boot: they last until the next one", 33,
                      harmless=True)  # fmt: skip


def _stale(c: Case) -> list[tuple[str, int]]:
    """(path, bytes) of page files that nobody holds, in every hugetlbfs in sight."""
    if not c.view.sees_all_locks or not c.needs_pages():
        return []
    found = []
    for at, _ in hugepages.mounts(c.view):
        try:
            files = c.view.page_files(at)
        except OSError:
            continue
        found += [(f"{at}/{f.name}", f.pages_bytes) for f in files
                  if not f.holders and f.pages_bytes]  # fmt: skip
    return found


def holders(c: Case) -> list[tuple[int, int, str]]:
    """(bytes, pid, name) of the processes with the most hugepages mapped."""
    found = []
    for name in os.listdir("/proc"):
        if not name.isdecimal():
            continue
        text = c.view.read(f"/proc/{name}/status")
        words = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        kb = int((words.get("HugetlbPages") or "0").split()[0])
        if kb:
            found.append((kb << 10, int(name), words["Name"].strip()))
    return sorted(found, reverse=True)


def mount(c: Case) -> Iterator[Finding]:
    if not c.needs_pages():
        yield Finding(OK, "not needed")
        return
    try:
        mounts = hugepages.mounts(c.view, c.release.mounts_decoded)
        default = hugepages.default_size(c.view)
        known = dict(hugepages.sizes(c.view))
    except (EalError, OSError):
        yield Finding(UNKNOWN, "no hugepages to mount")
        return
    points = [(at, sz or default) for at, sz in mounts]
    if c.error and c.error.reason == "page-sizes":
        yield Finding(FAIL, "EAL has no room for so many page sizes", 40,
                      wanted=f"at most {hugepages.MAX_SIZES} page sizes",
                      found=", ".join(size(sz) for sz in sorted(known.values())),
                      do="without --in-memory" if c.o.in_memory else "umount one")  # fmt: skip
        return
    if c.o.in_memory:
        yield Finding(OK, "not needed: --in-memory")
        return
    dirs = {sz: d for sz, d in c.hugedirs.items() if d}
    if not dirs:
        survey = hugepages.Survey(c.o, c.release, [0], c.view)
        dirs = {sz: d for sz in known.values() if (d := survey.hugedir(sz))}
    if not dirs:
        sizes_ = _reserved(c, known)
        word = size(min(sizes_ or known.values(), default=2 << 20))
        if c.o.huge_dir:
            where = ", ".join(f"{at} ({size(sz)})" for at, sz in points) or "no hugetlbfs mount"
            do = f"--huge-dir {points[0][0]}" if points else _mount_line(word)
            yield Finding(FAIL, f"--huge-dir {c.o.huge_dir} is not what EAL can use", 2, 30,
                          wanted=_rule(c), found=where,
                          do=do)  # fmt: skip
        else:
            host = _elsewhere(c)
            found = f"none of {', '.join(map(size, sizes_))} here" if sizes_ else "none here"
            found += f"; process 1 has {host}" if host else ""
            yield Finding(FAIL, "no hugetlbfs of these pages is mounted here", 2, 32,
                          wanted=f"a hugetlbfs of {word} pages in this mount namespace",
                          found=found, do=_mount_line(word))  # fmt: skip
        return
    if c.error and c.error.reason == "stacked-mounts":
        what, do = c.error.found, c.error.fix
        yield Finding(
            FAIL, what, 44, 30, wanted="a mount point for each page size", found=what, do=do
        )
        return
    chosen = ", ".join(f"{d} for {size(sz)}" for sz, d in sorted(dirs.items())[::-1])
    if c.failed_at("mount") and c.rehearsal and c.rehearsal.caps:
        cap = c.rehearsal.cap
        assert cap
        what = cap.what
        word = "size" if "size=" in what else "nr_inodes"
        at = dirs.get(cap.page_sz, chosen)
        value = (
            size(_need(c, cap.page_sz)) if word == "size" else _need(c, cap.page_sz) // cap.page_sz
        )
        yield Finding(FAIL, f"the mount's {word}= is too small", 6, wanted=f"{size(_asked(c))}",
                      found=what, do=f"mount -o remount,{word}={value} {at}")  # fmt: skip
    else:
        yield Finding(OK, chosen)
    for sz, d in dirs.items():
        others = [at for at, s in points if s == sz and at != d and not d.startswith(at + "/")]
        if others and not c.o.huge_dir:
            more = ", ".join(others)
            yield Finding(WARN, f"{more} of the same size is ignored: the first is used",
                          30, do=f"--huge-dir {others[0]}")  # fmt: skip
    if len(dirs) > 1:
        order = " then ".join(size(sz) for sz in sorted(dirs, reverse=True))
        yield Finding(OK, f"pages are taken in the order {order}", 29, harmless=True)
    for sz in known.values():
        if sz not in dirs and _reserved(c, {"": sz}):
            yield Finding(OK, f"{size(sz)} pages are reserved, but no mount has them: not needed",
                          29, 35, harmless=True)  # fmt: skip


def _reserved(c: Case, known: dict[str, int]) -> list[int]:
    pools = c.pools
    return [
        sz for sz in known.values() if pools.get(sz, {}).get("nr") or pools.get(sz, {}).get("free")
    ]


def _rule(c: Case) -> str:
    return {"exact": "a hugetlbfs mount point, as /proc/mounts spells it",
            "parent": "a directory at or below a hugetlbfs mount point",
            "statfs": "a directory in a hugetlbfs"}[c.release.huge_dir_rule]  # fmt: skip


def _mount_line(word: str) -> str:
    at = "/dev/hugepages" if word == "2M" else f"/dev/hugepages{word}"
    return f"mkdir -p {at}; mount -t hugetlbfs -o pagesize={word} none {at}"


def _elsewhere(c: Case) -> str:
    """Mounts that process 1 has and this one has not."""
    try:
        return ", ".join(at for at, _ in hugepages.mounts(View(1))) if not c.view.root else ""
    except OSError:
        return ""


def _need(c: Case, sz: int) -> int:
    """Bytes that are asked for, in whole pages; the page of the service tables at least."""
    return max(-(-_asked(c) // sz), 1) * sz


def namespace(c: Case) -> Iterator[Finding]:
    pid = c.view.namespace("pid")
    if not c.view.own and not c.view.namespace("mnt"):
        text = (
            "its mounts may not be looked at: what is said of mounts and files is of this process"
        )
        yield Finding(UNKNOWN, text, 19, do=f"sudo pyeal doctor --pid {c.view.pid}")
    if not c.view.sees_all_locks:
        text = "a process namespace of its own: who holds files and locks outside is not to be seen"
        yield Finding(UNKNOWN, text, 21, 3, do="run it with --pid=host, or on the host")
        if c.opts and c.o.file_prefix.rstrip("0123456789") != c.o.file_prefix and os.getpid() < 100:
            text = f"is {c.o.file_prefix} made of a process number? they repeat in each container"
            yield Finding(WARN, text, 21, do="--file-prefix $POD_UID")
    else:
        yield Finding(OK, "the host's processes are in sight" if pid else "unknown to this kernel")
    if c.config and c.secondary and c.config.owner:
        primary = View(c.config.owner)
        if primary.namespace("mnt") and primary.namespace("mnt") != c.view.namespace("mnt"):
            text = f"the primary ({c.config.owner}) has mounts of its own"
            state = OK if _same_hugedirs(c, primary) else FAIL
            yield Finding(state, text, 19, wanted="its hugepage directory, under the same path",
                          found="another one, or none",
                          do="-v /dev/hugepages:/dev/hugepages")  # fmt: skip


def _same_hugedirs(c: Case, primary: View) -> bool:
    for d in _hugedirs_of(c):
        try:
            if os.stat(primary.path(d)).st_dev != os.stat(c.view.path(d)).st_dev:
                return False
        except OSError:
            return False
    return True


def _hugedirs_of(c: Case) -> list[str]:
    """What the primary's hugepage_info names."""
    from pyeal.hugepages import read_info

    if not c.config or not c.config.release:
        return []
    path = f"{c.view.real(c.directory)}/hugepage_info"
    try:
        infos = read_info(path, c.config.release.numa_nodes_max)
    except (EalError, OSError):
        return []
    return [i.hugedir for i in infos]


def cgroup(c: Case) -> Iterator[Finding]:
    if not c.needs_pages():
        yield Finding(OK, "not needed")
        return
    sizes_ = list(c.hugedirs) or list(c.pools)
    tight = None
    for sz in sizes_:
        for path, rsvd, limit, now in c.view.hugetlb_limits(sz):
            left = max(limit - now, 0)
            if tight is None or left < tight[0]:
                tight = left, path, rsvd, limit, now, sz
    if tight is None:
        groups = c.view.cgroups()
        yield Finding(OK, "no hugetlb limit" + ("" if groups else " (no hugetlb controller)"))
        return
    left, path, rsvd, limit, now, sz = tight
    need = _need(c, sz)
    pod = any("kubepods" in d for d in c.view.cgroups())
    if left < need or c.failed_at("cgroup"):
        when = "reserved (mmap fails)" if rsvd else "touched (SIGBUS)"
        do = f"hugepages-{size(sz)}i: {size(need)}i in requests and limits of the pod" if pod else (
            f"echo {need + now} > {path}")  # fmt: skip
        yield Finding(FAIL, f"the hugetlb limit is enforced when pages are {when}", 4,
                      *([32] if pod else []), wanted=size(need),
                      found=f"{path}: {size(limit)}, {size(now)} used", do=do)  # fmt: skip
        return
    free = c.pools.get(sz, {}).get("free", 0) * sz
    text = f"{size(left)} of {size(sz)} pages may be {'reserved' if rsvd else 'used'}"
    if left < free and not _asked(c):
        yield Finding(WARN, f"{text}, though {size(free)} are free: growing stops there", 4,
                      found=f"{path}: {size(limit)}")  # fmt: skip
    else:
        yield Finding(OK, text)


def permission(c: Case) -> Iterator[Finding]:
    bad = False
    if c.needs_pages() and not c.o.in_memory:
        for f in _hugedir_rights(c):
            bad = bad or f.state == FAIL
            yield f
    if not c.o.no_shconf:
        for f in _runtime_rights(c):
            bad = bad or f.state == FAIL
            yield f
    if c.error and c.error.stage == "memfd":
        bad = True
        denied = c.error.reason == "memfd-denied"
        yield Finding(FAIL, "memfd_create of hugepages fails, which --in-memory needs",
                      *((28,) if denied else (28, 41)), wanted="memfd_create(MFD_HUGETLB)",
                      found=c.error.found or c.error.what,
                      do="start without --in-memory")  # fmt: skip
    label = c.view.read(f"/proc/{'self' if c.view.own else c.view.pid}/attr/current").strip("\0\n ")
    if label and label.split()[0] not in ("unconfined", "kernel") and "unconfined" not in label:
        text = f"confined by {label}: what its profile denies shows in dmesg alone"
        yield Finding(WARN, text, 28, do="pyeal doctor --touch")
    if not bad:
        yield Finding(OK, f"user {c.view.uid} may do what is needed")


def _owner_line(c: Case, at: str) -> str:
    return f"mount -o remount,uid={c.view.uid},mode=0700 {at}"


def _hugedir_rights(c: Case) -> Iterator[Finding]:
    v = c.view
    dirs = [d for d in c.hugedirs.values() if d]
    if not dirs and c.error and c.error.reason == "hugedir-lock":
        survey = hugepages.Survey(c.o, c.release, [0], v)
        dirs = [d for _, sz in hugepages.sizes(v) if (d := survey.hugedir(sz))]
    for d in dirs:
        try:
            st = os.stat(v.path(d))
        except OSError as e:
            yield Finding(UNKNOWN, f"{d}: {e.strerror}", 10)
            continue
        mine = f"{d} is of user {st.st_uid}, mode {st.st_mode & 0o7777:04o}"
        if os.statvfs(v.path(d)).f_flag & os.ST_RDONLY:
            yield Finding(FAIL, f"{d} is mounted read-only", 10, wanted="a mount to write to",
                          found="ro", do=f"mount -o remount,rw {d}")  # fmt: skip
        elif not v.access(d, os.R_OK | os.W_OK | os.X_OK):
            yield Finding(FAIL, f"user {v.uid} may not make files in {d}", 10, 11,
                          wanted=f"read, write and search for user {v.uid}", found=mine,
                          do=_owner_line(c, d))  # fmt: skip
        elif st.st_mode & 0o1000 and v.uid not in (0, st.st_uid):
            prefix = f"{c.o.file_prefix}map_"
            foreign = [f for f in v.page_files(d) if f.name.startswith(prefix) and f.uid != v.uid]
            if foreign:  # another list may have room beside them
                state = FAIL if c.failed_at("permission") else WARN
                text = f"{foreign[0].name} and its like are of user {foreign[0].uid}"
                yield Finding(state, text,
                              10, 11, wanted="names that this user may replace",
                              found=f"{len(foreign)} files of others in a sticky directory",
                              do=f"rm {d}/{prefix}*")  # fmt: skip


def _runtime_rights(c: Case) -> Iterator[Finding]:
    v, at = c.view, c.directory
    for d in (at, os.path.dirname(at), os.path.dirname(os.path.dirname(at))):
        real = v.real(d)
        if not os.path.lexists(real):
            continue
        if not os.path.isdir(real):
            yield Finding(FAIL, f"{d} is not a directory", 10, wanted="a runtime directory",
                          found="something else", do=f"rm {d}")  # fmt: skip
        elif not v.access(d, os.W_OK | os.X_OK):
            st = os.stat(real)
            yield Finding(FAIL, f"user {v.uid} may not write to {d}", 10, 18,
                          wanted=f"a runtime directory {at}",
                          found=f"{d} of user {st.st_uid}, mode {st.st_mode & 0o7777:04o}",
                          do="export XDG_RUNTIME_DIR=$(mktemp -d)")  # fmt: skip
        break
    if c.blind and not c.secondary:
        yield Finding(FAIL, f"{at}/config may not be opened", 10, 5, wanted="a config of this user",
                      found=c.blind, do="another --file-prefix")  # fmt: skip


def policy(c: Case) -> Iterator[Finding]:
    if not c.needs_pages():
        yield Finding(OK, "not needed")
        return
    v, bad = c.view, False
    if v.own and not v.root:
        try:
            libc.get_mempolicy()
        except OSError as e:
            if e.errno == ENOSYS:
                text = "this kernel knows no memory policy: not a problem"
                yield Finding(OK, text, 7, harmless=True)
            else:
                bad = True
                yield Finding(FAIL, "get_mempolicy is forbidden: EAL gives each page back", 7,
                              wanted="get_mempolicy, set_mempolicy", found=f"{e.strerror}: seccomp",
                              do="docker run --cap-add SYS_NICE")  # fmt: skip
        else:
            for _, text in c.rehearsal.said if c.rehearsal else ():
                if "set_mempolicy failed: Operation not permitted" in text:
                    bad = True
                    yield Finding(WARN, "set_mempolicy is forbidden: pages come as they come", 7,
                                  do="docker run --cap-add SYS_NICE")  # fmt: skip
                    break
    elif v.status.get("Seccomp") == "2" and not v.capable("sys_nice"):
        text = (
            "a seccomp profile without CAP_SYS_NICE: whether it denies mempolicy is not to be seen"
        )
        bad = True
        yield Finding(UNKNOWN, text, 7, do=f"nsenter -t {v.pid} -a pyeal doctor")
    allowed = v.mems_allowed()
    pools = c.pools
    nodes = sorted({k for p in pools.values() for k, n in p["nodes"].items() if n.get("free")})
    out = [k for k in nodes if allowed is not None and k not in allowed]
    if c.failed_at("policy") or (out and len(out) == len(nodes)):
        bad = True
        out = out or nodes
        yield Finding(FAIL, f"pages lie on node {_list(out)}, where this process may not go", 8,
                      wanted=f"node {_list(out)} in cpuset.mems",
                      found=f"Mems_allowed_list: {v.status.get('Mems_allowed_list')}",
                      do=f"echo {_list(nodes)} > cpuset.mems")  # fmt: skip
    elif out:
        bad = True
        yield Finding(WARN, f"node {_list(out)} has pages, but is not in Mems_allowed", 8)
    if not bad:
        where = f"node {_list(sorted(allowed))}" if allowed else "any node"
        yield Finding(OK, f"memory of {where} is allowed")


def _list(n: list[int]) -> str:
    return ",".join(map(str, n))


def address_space(c: Case) -> Iterator[Finding]:
    v, r, e = c.view, c.rehearsal, c.error
    if c.secondary:
        yield from _primary_addresses(c)
        return
    virtual = int((v.status.get("VmSize") or "0").split()[0]) << 10
    soft, _ = v.limit("Max address space")
    if e and e.reason in ("address-space", "address-taken"):
        strict = v.read("/proc/sys/vm/overcommit_memory").strip() == "2"
        found = f"ulimit -v {soft >> 10}" if soft < NO_LIMIT else e.found or e.what
        found += ", vm.overcommit_memory=2" * strict
        do = (
            "ulimit -v unlimited"
            if soft < NO_LIMIT or not strict
            else "sysctl vm.overcommit_memory=0"
        )
        yield Finding(FAIL, "the addresses of the lists cannot be reserved", 45,
                      wanted=f"{size(_reserve(c))} of addresses", found=found, do=do)  # fmt: skip
        return
    if e and e.reason == "lists-full":
        sz = min(c.hugedirs, default=2 << 20)
        do = "larger pages: --huge-dir of a mount of 1G pages"
        if c.release.lists == "per-type":
            do = f"--pagesz-mem {size(sz)}:{size(_need(c, sz))}"
        yield Finding(FAIL, "more pages than the lists of this release hold", 13,
                      wanted=f"{size(_asked(c))} in lists",
                      found=f"{size(_reserve(c))} in all of them", do=do)  # fmt: skip
        return
    if not r or e:
        yield Finding(UNKNOWN, "not reached")
        return
    spans = r.addresses()
    need = sum(b - a for a, b, _ in spans)
    if not v.own and soft < NO_LIMIT and soft - virtual < need:
        yield Finding(FAIL, "the process may not have so many addresses", 45,
                      wanted=size(need), found=f"ulimit -v {soft >> 10}, {size(virtual)} used",
                      do=f"prlimit --pid {v.pid} --as=unlimited")  # fmt: skip
        return
    missed = next((t for _, t in r.said if "hint (" in t), "")
    collision = _collision(v, spans) if not v.own and not c.running else ""
    if collision:
        from pyeal.tools.plan import free_base

        length = spans[-1][1] - spans[0][0]
        base = free_base(length + (1 << 24), [v])
        asan = "asan" in collision or "tsan" in collision or _sanitized(v)
        what = "a sanitizer's shadow" if asan else "something"
        yield Finding(WARN, f"{what} lies where EAL begins: secondaries may not find it free",
                      *((42, 14) if asan else (14,)), wanted=f"{spans[0][0]:#x} and on free",
                      found=collision, do=f"--base-virtaddr={base:#x}")  # fmt: skip
    elif missed:
        yield Finding(WARN, missed.removeprefix("WARNING! "), 14, 42, do="another --base-virtaddr")
    maps_most = int(v.read("/proc/sys/vm/max_map_count").strip() or 65530)
    pages = sum(r.pages().values()) if not c.o.no_huge else 0
    mappings = pages if not c.o.single_file_segments else 0
    if mappings + 1000 > maps_most:
        yield Finding(FAIL, "every page is a mapping of its own", 12, 45,
                      wanted=f"{mappings:,} mappings", found=f"vm.max_map_count {maps_most:,}",
                      do=f"sysctl vm.max_map_count={mappings * 2}")  # fmt: skip
    if not collision and not missed:
        yield Finding(OK, f"{size(need)} reserved from {spans[0][0]:#x} on")
    contiguous = max((m.n_segs * m.page_sz for m in r.lists), default=0)
    if pages and _asked(c) > contiguous:
        text = f"one allocation can have {size(contiguous)} at most, the length of a list"
        yield Finding(WARN, text, 13, do="1G pages")


def _reserve(c: Case) -> int:
    """What the lists would take, by their plan."""
    from pyeal import memseg

    r = c.rehearsal
    assert r
    plans = memseg.plan([i.page_sz for i in r.infos], r.sockets, r.release, c.o.pagesz_mem)
    return sum(p.page_sz * p.n_segs for p in plans)


def _collision(v: View, spans: list[tuple[int, int, str]]) -> str:
    try:
        maps = v.maps()
    except OSError:
        return ""
    for start, end, name in maps:
        if any(start < b and end > a for a, b, _ in spans):
            return f"{start:#x}-{end:#x} {name or 'anonymous memory'}"
    return ""


def _sanitized(v: View) -> bool:
    return any(w in name for _, _, name in v.maps() for w in ("libasan", "libtsan", "clang_rt"))


def _primary_addresses(c: Case) -> Iterator[Finding]:
    """A secondary: the primary's ranges against what lies in this process."""
    if not c.config or not c.config.c or not c.config.complete:
        yield Finding(UNKNOWN, "not reached")
        return
    m = c.config.c
    spans = [(m.mem_cfg_addr, m.mem_cfg_addr + layout.CONFIG_SIZE, "config")]
    spans += [(x.base_va, x.base_va + x.len, "list") for x in m.memsegs
              if x.base_va and not x.external]  # fmt: skip
    first, last = min(s[0] for s in spans), max(s[1] for s in spans)
    if collision := _collision(c.view, spans):
        from pyeal.tools.plan import free_base

        base = free_base(last - first + (1 << 24), [c.view])
        yield Finding(FAIL, "the primary's addresses are taken in this process", 14,
                      wanted=f"{first:#x}-{last:#x} free", found=collision,
                      do=f"--base-virtaddr={base:#x} for the primary")  # fmt: skip
        return
    soft, _ = c.view.limit("Max address space")
    if soft < last - first:
        yield Finding(FAIL, "the process may not have so many addresses", 45,
                      wanted=size(last - first), found=f"ulimit -v {soft >> 10}",
                      do="ulimit -v unlimited")  # fmt: skip
        return
    yield Finding(OK, f"{first:#x}-{last:#x} is free here")
    high = first > 1 << 44
    if high and c.view.read("/proc/sys/kernel/randomize_va_space").strip() != "0":
        yield Finding(WARN, "the primary lies high up, where address randomisation puts libraries",
                      14, do="--base-virtaddr=0x100000000 for the primary")  # fmt: skip


def descriptors(c: Case) -> Iterator[Finding]:
    v, r = c.view, c.rehearsal
    _, hard = v.limit("Max open files")
    bad = False
    need = r.descriptors() if r and not r.error else {"pages": 0, "shared": 0}
    total = sum(need.values()) + FIXED
    if c.failed_at("descriptors") or hard < total + v.open_files():
        wanted = total
        if c.failed_at("descriptors"):
            wanted = max(_need(c, min(c.hugedirs)) // min(c.hugedirs), 1) + FIXED
        bad = True
        yield Finding(FAIL, "every page takes a descriptor", 12, wanted=f"{wanted:,} open files",
                      found=f"ulimit -Hn {hard}, {v.open_files()} open",
                      do="--single-file-segments")  # fmt: skip
    file_most = v.limit("Max file size")[0]
    biggest = max(_biggest_file(c), layout.CONFIG_SIZE)
    if file_most < biggest:
        bad = True
        yield Finding(FAIL, "a file of EAL may not be as long as it gets (SIGXFSZ)", 11,
                      wanted=size(biggest), found=f"ulimit -f {file_most >> 10}",
                      do="ulimit -f unlimited")  # fmt: skip
    if any(a.partition("=")[2].startswith("virtio_user") or "virtio_user" in a for a in c.args):
        regions = need["pages"]
        if regions > REGIONS:
            bad = True
            yield Finding(FAIL, "virtio-user passes a descriptor for each page", 25,
                          wanted=f"{REGIONS} at most", found=f"{regions}",
                          do="--single-file-segments")  # fmt: skip
    if bad:
        return
    pools = c.pools if c.needs_pages() else {}
    free = sum(p.get("free", 0) for sz, p in pools.items() if sz in c.hugedirs)
    limited = hard < free and not (c.secondary or c.o.single_file_segments or c.o.legacy_mem)
    if limited:
        text = f"{hard:,} descriptors for {free:,} free pages: growing stops there"
        yield Finding(WARN, text, 12, do="--single-file-segments")
    else:
        most = f"{hard:,}" if hard < NO_LIMIT else "any number"
        yield Finding(OK, f"{total:,} of {most}")


def _biggest_file(c: Case) -> int:
    if c.secondary:
        return 0
    if c.o.no_huge:
        return c.o.memory or 64 << 20
    sizes_ = list(c.hugedirs)
    if c.o.single_file_segments:
        return max((_need(c, sz) for sz in sizes_), default=0)
    return max(sizes_, default=0)


def iova(c: Case) -> Iterator[Finding]:
    if c.secondary:
        yield Finding(OK, "as the primary has it")
        return
    v, r, e = c.view, c.rehearsal, c.error
    frames = r.phys_addrs if r and hasattr(r, "phys_addrs") else True
    if not v.own and not v.capable("sys_admin"):
        frames = False
    if e and e.stage == "iova":
        debian = ": Debian's takes VA then" if c.release.line in ("20.11", "22.11") else ""
        yield Finding(FAIL, f"no physical address is to be seen{debian}", 9,
                      wanted="frame numbers in /proc/self/pagemap (CAP_SYS_ADMIN)",
                      found="zeros" if not c.o.no_huge else "--no-huge, which has none",
                      do="--iova-mode=va")  # fmt: skip
        return
    mode = getattr(r, "iova_mode", "") if v.own else ("PA" if frames else "VA")
    if mode:
        why = "" if frames or c.o.no_huge else ": without CAP_SYS_ADMIN there are no frame numbers"
        yield Finding(OK, f"IOVA as {mode}{why}", *(() if frames else (9,)), harmless=not frames)
    else:
        yield Finding(UNKNOWN, "not reached")
    if not r or e:
        return
    last = r.addresses()[-1][1] if r.addresses() else 0
    bits = iommu_bits(v)
    if bits and mode == "VA" and last >> bits:
        yield Finding(FAIL, f"the IOMMU knows {bits} address bits", 23,
                      wanted=f"addresses below 2^{bits}", found=f"memory up to {last:#x}",
                      do="--iova-mode=pa")  # fmt: skip
    entries = v.read("/sys/module/vfio_iommu_type1/parameters/dma_entry_limit").strip()
    devices = _vfio(v)
    if entries.isdecimal() and r.dma_entries() > int(entries):
        yield Finding(FAIL if devices else WARN, "VFIO maps each page for itself", 24,
                      wanted=f"{r.dma_entries():,} entries", found=f"dma_entry_limit {entries}",
                      do="1G pages")  # fmt: skip
    lock = v.limit("Max locked memory")[0]
    bytes_ = sum(sz * n for (sz, _), n in r.pages().items())
    if devices and lock < bytes_ and not v.capable("ipc_lock"):
        yield Finding(FAIL, "VFIO counts the memory as locked", 24, wanted=size(bytes_),
                      found=f"ulimit -l {lock >> 10}", do="ulimit -l unlimited")  # fmt: skip


def iommu_bits(v: View) -> int:
    """Address width of the narrowest Intel IOMMU: MGAW + 1; 0 where there is none."""
    base = v.path("/sys/class/iommu")
    widths = []
    for name in os.listdir(base) if os.path.isdir(base) else ():
        text = v.read(f"/sys/class/iommu/{name}/intel-iommu/cap").strip()
        if text:
            widths.append((int(text, 16) >> 16 & 63) + 1)
    return min(widths, default=0)


def _vfio(v: View) -> list[str]:
    try:
        return [n for n in os.listdir(v.path("/dev/vfio")) if n.isdecimal()]
    except OSError:
        return []


def files_of_others(c: Case) -> Iterator[Finding]:
    if c.secondary:
        yield from _the_primary(c)
        return
    bad = False
    for f in (*_prefix_taken(c), *_directory_lock(c), *_same_names(c)):
        bad = bad or f.state in (FAIL, WARN)
        yield f
    yield from _what_goes(c)
    yield from _shared_pool(c)
    if c.needs_pages():
        yield from _core_dumps(c)
    if not bad:
        yield Finding(OK, "none in the way")


def _who(pid: int) -> str:
    if not pid:
        return "a process out of sight"
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            words = f.read(200).replace(b"\0", b" ").decode("utf-8", "replace").strip()
    except OSError:
        words = ""
    return f"process {pid}" + (f": {words[:60]}" if words else "")


def _prefix_taken(c: Case) -> Iterator[Finding]:
    if c.o.no_shconf:
        return
    if c.running:
        text = f"process {c.view.pid} is this primary, and up: what it has is not counted as free"
        yield Finding(OK, text, 5, harmless=True)
        return
    if c.config and c.config.alive:
        yield Finding(FAIL, f"prefix {c.o.file_prefix} has a living primary", 5,
                      wanted=f"{c.directory}/config unlocked", found=_who(c.config.owner),
                      do=f"--file-prefix {c.o.file_prefix}2")  # fmt: skip
        return
    held = c.view.flocked()
    real = c.view.real(c.directory)
    try:
        names = [n for n in os.listdir(real) if n.startswith("fbarray_")]
    except OSError:
        names = []
    for name in names:
        st = os.stat(f"{real}/{name}")
        if by := held.get(scan.file_id(st)):
            pid = by[0][1]
            yield Finding(FAIL, "secondaries of a dead primary live on its files", 21, 17,
                          wanted=f"{name} unlocked", found=_who(pid), do=f"kill {pid}")  # fmt: skip
            return


def _directory_lock(c: Case) -> Iterator[Finding]:
    """EAL waits for these without a limit: the hugepage directories, the runtime directory."""
    held = c.view.flocked()
    paths = [c.view.path(d) for d in c.hugedirs.values() if d and not c.o.in_memory]
    for path in paths:
        try:
            st = os.stat(path)
        except OSError:
            continue
        for mode, pid in held.get(scan.file_id(st), []):
            if mode == "WRITE":
                shown = path.removeprefix(c.view.at)
                yield Finding(FAIL, f"{shown} is locked: the start would wait without a word", 44,
                              wanted="it unlocked", found=_who(pid), do=f"kill {pid}")  # fmt: skip


def _same_names(c: Case) -> Iterator[Finding]:
    """Page files of this prefix that somebody holds, though no primary of the prefix is here."""
    if c.o.in_memory or c.o.no_huge or (c.config and c.config.alive):
        return
    for d in c.hugedirs.values():
        try:
            files = c.view.page_files(d)
        except OSError:
            continue
        taken = [f for f in files if f.holders and f.prefix == c.o.file_prefix]
        if taken:
            yield Finding(FAIL, f"another EAL uses {d} with this prefix", 21,
                          wanted=f"no living {c.o.file_prefix}map_* file",
                          found=f"{len(taken)} of {_who(taken[0].holders[0][1])}",
                          do=f"--file-prefix {c.o.file_prefix}2")  # fmt: skip


def _what_goes(c: Case) -> Iterator[Finding]:
    """What the next start deletes."""
    if c.o.in_memory or c.o.no_huge or not c.o.unlink_existing:
        return
    for d in c.hugedirs.values():
        try:
            files = c.view.page_files(d) if d else []
        except OSError:
            continue
        if not c.view.sees_all_locks:
            files = []
        free = [f for f in files if not f.holders]
        mine = [f for f in free if f.prefix == c.o.file_prefix]
        others = sorted({f.prefix for f in free if f.prefix != c.o.file_prefix})
        if others:
            text = (f"{len(free) - len(mine)} kept files of {', '.join(others)} in {d} would be"
                    " deleted by this start")  # fmt: skip
            yield Finding(WARN, text, 22, 3, do=f"--huge-dir {d}/{c.o.file_prefix}")
        if mine:
            amount = size(sum(f.pages_bytes for f in mine))
            text = f"{len(mine)} files of a dead process ({amount}) are cleared away by the start"
            yield Finding(OK, text, 3, harmless=True)


def _shared_pool(c: Case) -> Iterator[Finding]:
    """The pool is everybody's."""
    for sz, p in c.pools.items():
        used = int(p.get("nr", 0)) - int(p.get("free", 0))
        if used > 0 and c.needs_pages() and not c.error:
            text = (
                f"others use {used:,} pages of {size(sz)}: pyeal lease sets pages aside for a job"
            )
            yield Finding(OK, text, 43, harmless=True)


def _core_dumps(c: Case) -> Iterator[Finding]:
    """Shared hugepages are in a core dump if bit 6 of the filter says so."""
    me = "self" if c.view.own else c.view.pid
    text = c.view.read(f"/proc/{me}/coredump_filter").strip()
    if not text or not c.rehearsal or c.error:
        return
    amount = sum(sz * n for (sz, _), n in c.rehearsal.pages().items())
    if not int(text, 16) >> 6 & 1:
        text = f"core dumps leave hugepages out (coredump_filter 0x{text.lstrip('0') or '0'})"
        yield Finding(OK, text, 39, harmless=True)
    elif amount > 1 << 30 and c.view.limit("Max core file size")[0] > 1 << 30:
        yield Finding(WARN, f"a core dump will have {size(amount)}", 39,
                      do=f"echo 0x33 > /proc/{me}/coredump_filter")  # fmt: skip


def _stopped(c: Case) -> Iterator[Finding]:
    """Processes of the prefix that cannot answer when memory is to grow."""
    assert c.config
    pids = {c.config.owner}
    for name in os.listdir(c.view.real(c.directory)):
        word = name.removeprefix("mp_socket_").partition("_")[0]
        pids |= {int(word)} if name.startswith("mp_socket_") and word.isdecimal() else set()
    for pid in sorted(pids - {0, c.view.pid}):
        words = c.view.read(f"/proc/{pid}/stat").rpartition(")")[2].split()
        if words and words[0] in "tT":
            yield Finding(WARN, f"process {pid} is stopped: whoever needs more memory waits for it",
                          36, do=f"kill -CONT {pid}")  # fmt: skip


def _the_primary(c: Case) -> Iterator[Finding]:
    """What a secondary needs of its primary."""
    at, prefix = c.directory, c.o.file_prefix
    if c.blind:
        yield Finding(FAIL, f"{at}/config may not be read", 18, 10, wanted="the primary's user",
                      found=c.blind, do="run it as the primary's user")  # fmt: skip
        return
    if c.config is None:
        places = _other_places(c)
        found = f"none there; {', '.join(places)}" if places else "none there, nor elsewhere"
        do = (
            f"--file-prefix {places[0].split('/')[-1].split(' ')[0]}"
            if places
            else "start a primary"
        )
        yield Finding(FAIL, f"no primary with prefix {prefix}", 18, wanted=f"{at}/config",
                      found=found, do=do)  # fmt: skip
        return
    if not c.config.alive:
        rows = (17, 18) if not c.config.complete else (18, 17)
        text = "its primary died while it started: a secondary would wait for ever"
        text = text if not c.config.complete else "its primary is gone, only files are left"
        yield Finding(FAIL, text, *rows, wanted="a living primary", found=f"{at}/config unlocked",
                      do=f"rm -r {at}")  # fmt: skip
        return
    if not c.config.complete:
        yield Finding(FAIL, "the primary has not ended its start: a secondary waits for ever", 17,
                      wanted="a primary that has", found=_who(c.config.owner),
                      do=f"kill {c.config.owner}")  # fmt: skip
        return
    word = c.config.release.name if c.config.release else f"{c.config.word:#x}"
    if c.named and c.config.word != c.release.word:
        yield Finding(FAIL, "primary and secondary are not of one release", 16,
                      wanted=c.release.name, found=word, do=f"a secondary of {word}")  # fmt: skip
        return
    if not c.config.c:
        yield Finding(UNKNOWN, f"the primary is of {word}, whose layout is not known", 16)
        return
    yield Finding(OK, f"primary of {word}" + f", {_who(c.config.owner)}")
    if not c.named:
        yield Finding(OK, f"a secondary must be exactly {word}", 16, harmless=True)
    yield from _its_pages(c)
    yield from _stopped(c)
    yield from _tailqs(c)
    if c.config.word >= releases.get("22.11").word:
        text = "when a secondary ends it cleans up the bus, too: the primary's device may stop"
        yield Finding(OK, text, 15, harmless=True)


def _tailqs(c: Case) -> Iterator[Finding]:
    """A secondary looks for the tail queue of each library that it is linked with."""
    assert c.config and c.config.c
    names = {q.name.decode() for q in c.config.c.tailq_head if q.name}
    linked: set[str] = set()
    for _, _, path in c.view.maps() if not c.view.own else ():
        lib = path.rpartition("/")[2].removeprefix("librte_").partition(".so")[0]
        linked.update(TAILQ_OF.get(lib, ()))
    if linked - names:
        queue = sorted(linked - names)[0]
        yield Finding(FAIL, f"the primary lacks the tail queue {queue}", 20,
                      wanted=f"{', '.join(sorted(linked))} in the primary",
                      found=", ".join(sorted(names)) or "none",
                      do="link the primary with the same libraries")  # fmt: skip
    elif names:
        text = f"a secondary's libraries must be among {', '.join(sorted(names)[:3])} ..."
        yield Finding(OK, text, 20, harmless=True)


def _its_pages(c: Case) -> Iterator[Finding]:
    """Whether a secondary could open what the primary has mapped."""
    assert c.config and c.config.c
    m = c.config.c
    lists = [x for x in m.memsegs if x.base_va and not x.external and x.memseg_arr.count]
    if not lists:
        return
    if lists[0].memseg_arr.name == b"nohugemem":
        yield Finding(FAIL, "the primary runs with --no-huge: its memory cannot be shared", 38,
                      wanted="hugepages with files", found="--no-huge",
                      do="start the primary without --no-huge")  # fmt: skip
        return
    dirs = _hugedirs_of(c)
    gone = [d for d in dirs if not os.path.isdir(c.view.path(d))]
    if gone:
        yield Finding(FAIL, f"the primary's {gone[0]} is not to be seen here", 19,
                      wanted=f"{gone[0]}, the same as the primary's", found="none here",
                      do=f"mount the same hugetlbfs at {gone[0]}")  # fmt: skip
        return
    names = {n for d in dirs for n in os.listdir(c.view.path(d))} if dirs else set()
    if not any(n.startswith(f"{c.o.file_prefix}map_") for n in names):
        yield Finding(FAIL, "the primary's page files have no names", 37, 19,
                      wanted=f"{c.o.file_prefix}map_* in {', '.join(dirs) or 'a hugetlbfs'}",
                      found="none: --huge-unlink, or another hugetlbfs is mounted here",
                      do="start the primary without --huge-unlink")  # fmt: skip
        return
    for d in dirs:
        for f in c.view.page_files(d):
            path = f"{d}/{f.name}"
            if f.prefix == c.o.file_prefix and not c.view.access(path, os.R_OK | os.W_OK):
                yield Finding(FAIL, f"{path} is of user {f.uid}", 10, 14,
                              wanted=f"read and write for user {c.view.uid}", found="mode 0600",
                              do="run it as the primary's user")  # fmt: skip
                return


def _other_places(c: Case) -> list[str]:
    """Living primaries of other prefixes and other runtime directories."""
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


CHECKS = dict(
    zip(
        LINKS,
        (arguments_, pool, mount, namespace, cgroup, permission, policy, address_space,
         descriptors, iova, files_of_others),
        strict=True,
    )
)  # fmt: skip


def examine(view: View, args: list[str], release: str | None) -> dict[str, list[Finding]]:
    """Every link with its findings."""
    c = Case(view, args, release)
    found: dict[str, list[Finding]] = {}
    try:
        for link, check in CHECKS.items():
            if c.refused and link != "arguments":
                found[link] = [Finding(UNKNOWN, "not reached")]
                continue
            try:
                found[link] = list(check(c))
            except OSError as e:
                found[link] = [
                    Finding(UNKNOWN, f"{e.strerror}: {e.filename}" if e.filename else str(e))
                ]
        if c.error and not any(f.state == FAIL for fs in found.values() for f in fs):
            found[_link_of(c)].append(
                Finding(FAIL, _failure(c.error), wanted="a start", found=c.error.stage,
                        do=c.error.fix or c.error.what)
            )  # fmt: skip
        _slow(c, found)
        if view.uid:
            for f in (f for fs in found.values() for f in fs):
                f.do = as_root(f.do)
    finally:
        if c.rehearsal:
            c.rehearsal.close()
    return found


def _failure(e: EalError) -> str:
    return f"{e.what}: {e.found}" if e.found else e.what


def as_root(do: str) -> str:
    """What only root may do, for others."""
    if do.partition(" ")[0] not in "mkdir mount umount echo sysctl dpdk-hugepages.py".split():
        return do
    return f"sudo sh -c '{do}'" if any(c in do for c in ";>") else f"sudo {do}"


def _link_of(c: Case) -> str:
    """The link that an error of the rehearsal belongs to, which no check explained."""
    assert c.rehearsal and c.error
    stages = {"options": "arguments", "hugepages": "pool", "pages": "pool", "runtime": "permission",
              "config": "permission", "memseg": "address space", "vaspace": "address space",
              "iova": "IOVA", "memfd": "permission"}  # fmt: skip
    bit = {"lists": "address space"}.get(c.rehearsal.bit or "", c.rehearsal.bit)
    return bit or stages.get(c.error.stage, "pool")


def _slow(c: Case, found: dict[str, list[Finding]]) -> None:
    from pyeal.tools.plan import zeroing

    r = c.rehearsal
    if not r or r.error or c.o.no_huge:
        return
    bytes_ = sum(sz * n for (sz, _), n in r.pages().items())
    if bytes_ > 4 << 30 and (seconds := bytes_ / zeroing()) > SLOW:
        text = f"zeroing {size(bytes_)} takes about {seconds:.0f} s at every start"
        found["pool"].append(Finding(OK, text, 31, harmless=True))


def state_of(findings: list[Finding]) -> str:
    return max((f.state for f in findings), key=WORST.index, default=UNKNOWN)
