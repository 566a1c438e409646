"""What a log and the machine show of a start: page size, node, path, prefix, user, modes.

`Facts.fill` puts them into a problem's fix. What a log does not say is the machine's own.
"""

from __future__ import annotations

import os
import re
import shlex

from pyeal.tools import fixes, size

KB, MB, GB = 1 << 10, 1 << 20, 1 << 30
UNITS = {"k": KB, "m": MB, "g": GB}
SIZES = (  # (pattern, bytes of one of it)
    (re.compile(r"hugepages-(\d+)kB|\b(\d+) ?kB (?:huge)?pages|memseg-(\d+)k-", re.I), KB),
    (re.compile(r"(?:huge)?pages? of size (\d{5,})\b", re.I), 1),
    (
        re.compile(
            r"(?:huge)?pages? of size (\d{1,4}) ?([kmg])|\b(\d{1,4}) ?([mg])i?B? huge|"
            r"hugepages-(\d+)([mg])i\b|pagesize=(\d+)([kmg])|"
            r"hugetlb\.(\d+)([kmg])B|/huge[a-z]*[-_/]?(\d{1,3})([kmg])B?/",
            re.I,
        ),
        0,
    ),
)
NODE = re.compile(r"\bnode (\d{1,3})\b|\bsocket(?: id)?[ =:]*(\d{1,3})\b|wanted (\d{1,3}),", re.I)
PATH = re.compile(r"['(\" ](/[^\s'\"():;,]*(?: [^\s'\"():;,]+)*?)(?=['\")]|: |:?$|,? failed)")
PREFIX = re.compile(r"--file-prefix[= ]\W?([\w.-]+)|/dpdk/([^/\s']+)/|/([\w.-]+?)map_\d+")
USER = re.compile(r"/run/user/(\d+)|\b(?:uid|user)[= ](\d+)\b")
MODES = re.compile(
    r"--(in-memory|no-shconf|no-huge|legacy-mem|proc-type[= ]secondary|single-file-segments)"
)
AS_VA = re.compile(r"IOVA (?:mode '?|as )'?VA\b", re.I)
COUNT = re.compile(r"\b(\d+) (?:pages? )?(?:huge)?(?:pages|segments)\b.{0,20}|from (\d+) requested")
LACK = re.compile(r"requested: ?(\d+) ?MB, available: ?(\d+) ?MB", re.I)
ARGS = re.compile(r"EAL (?:parameters|(?:init )?args|arguments): ([^\]\n]*)")
RELEASE = re.compile(r"\bDPDK[ _]v?(\d\d\.\d\d)\b")
NOT_KNOWN = "N"
SECONDARY = re.compile(r"process type: SECONDARY|PROC_SECONDARY|\bmp_socket_\d+_[0-9a-f]+")


class Facts:
    """Facts of one line, or of a log. A fact of a log is the last one seen."""

    __slots__ = (
        "args",
        "device_node",
        "lack",
        "modes",
        "node",
        "page_sz",
        "path",
        "prefix",
        "release",
        "uid",
    )

    def __init__(self, *texts: str) -> None:
        self.page_sz: int | None = None
        self.node: int | None = None
        self.device_node: int | None = None
        self.uid: int | None = None
        self.lack = 0  # bytes that a line says are missing
        self.path = self.prefix = self.args = self.release = ""
        self.modes: set[str] = set()
        for text in texts:
            self.add(text)

    def add(self, line: str, sized: bool = True, told: bool = True) -> None:
        """Take what a line shows; its page size only if it is about pages that are used.

        told: whether the line is about a failure, to which its node then belongs.
        """
        if sized:
            self.page_sz = page_size(line) or self.page_sz
        if m := NODE.search(line):
            self.device_node = int(next(filter(None, m.groups())))
            self.node = self.device_node if told else self.node
        if m := PATH.search(line):
            self.path = m[1]
        if m := PREFIX.search(line):
            self.prefix = next(filter(None, m.groups()))
        if m := USER.search(line):
            self.uid = int(next(filter(None, m.groups())))
        if m := LACK.search(line):
            self.lack = max(int(m[1]) - int(m[2]), 0) * MB
        if m := ARGS.search(line):
            self.args = arguments(m[1])
        self.of_release(line)
        if "--" in line and "Fix: " not in line:
            self.modes.update(w.replace("=", " ") for w in MODES.findall(line))
        if AS_VA.search(line):
            self.modes.add("va")
        if "VFIO support not initialized" in line:
            self.modes.add("no vfio")
        if SECONDARY.search(line):
            self.modes.add("proc-type secondary")

    def of_release(self, line: str) -> None:
        """Take the release that a line names."""
        if m := RELEASE.search(line):
            self.release = m[1]

    @property
    def alone(self) -> bool:
        """Whether no other process can attach to this one."""
        return bool(self.modes & {"in-memory", "no-shconf", "no-huge"})

    def fill(self, text: str, line: str) -> str:
        """Return a fix with what the line shows, else the log, else the machine."""
        if self.args:
            text = text.replace(" -- ARGS", f" -- {self.args}")
        if self.release >= OLDEST:
            text = text.replace("--as RELEASE", f"--as {self.release}")
        if "{" not in text:
            return text
        own = Facts(line)
        sz = own.page_sz or self.page_sz or default_size()
        node = own.node if own.node is not None else self.node
        if node is None and "{node}" in text:
            node = self.device_node
        if node is None:
            text = text.replace("of socket {node}", "of its socket")
        path = own.path or self.path
        uid: int | str | None = own.uid if own.uid is not None else self.uid
        user: int | str = uid if uid is not None else os.getuid() or sudo_user()
        word = size(sz)
        huge = os.path.dirname(own.path) if "map_" in own.path else own.path
        if not huge or "/dpdk" in huge:
            huge = "/dev/hugepages"
        place = f"/mnt/huge-{word}"
        runtime = fixes.runtime_dir(path if "dpdk" in path else "", own.uid)
        parent = os.path.dirname(path) or ("/run" if user == 0 else f"/run/user/{user}")
        allowed_cpus = allowed("Cpus_allowed_list")
        return text.format_map(
            {
                "size": word,
                "node": NOT_KNOWN if node is None else node,
                "reserve": fixes.reserve(sz, node, self.lack or own.lack or fixes.LEAST)
                + (BOOT if sz >= GB else ""),
                "mount": fixes.mount(sz),
                "mount_other": fixes.mount(sz, place),
                "mount_own": fixes.mount(sz, place, f",uid={user},mode=0700"),
                "own": fixes.own(shlex.quote(huge), user),
                "runtime": runtime,
                "runtime_at": "/run" if runtime.startswith("export RUN") else "$XDG_RUNTIME_DIR",
                "parent": shlex.quote(parent),
                "prefix": self.prefix or "rte",
                "prefix_of": f" of prefix {self.prefix}" if self.prefix else "",
                "cpus": allowed_cpus,
                "cpu": re.split(r"[-,]", allowed_cpus)[0],
                "maps": max_map_count(),
                "quoted": line,
            }
        )


def arguments(text: str) -> str:
    """Return EAL's arguments of a log for a shell; nothing if they are not what EAL takes."""
    words = text.split(" -- ")[0].split()
    while words and not words[0].startswith("-"):
        del words[0]  # the program's name
    if not all(re.fullmatch(r"[\w./:,@=()+~-]+", w) for w in words):
        return ""
    return shlex.join(words)


def sudo_user() -> str:
    """Return the user who called sudo, if one did."""
    return os.environ.get("SUDO_UID", "USER")


OLDEST = "20.11"
BOOT = " (or hugepagesz= and hugepages= on the kernel's command line, if the kernel has no room)"


def page_size(line: str) -> int | None:
    """Return the page size that a line names, in bytes."""
    for pattern, unit in SIZES:
        if m := pattern.search(line):
            words = [w for w in m.groups() if w]
            n = int(words[0]) * (unit or UNITS[words[1].lower()])
            if n >= 4 * KB and n & (n - 1) == 0:
                return n
    return None


def default_size() -> int:
    """Return the page size to suggest where none is named: that of the machine."""
    try:
        with open("/proc/meminfo") as f:
            words = dict(line.split(":", 1) for line in f)
        return int(words["Hugepagesize"].split()[0]) << 10
    except (OSError, ValueError, KeyError):
        return 2 * MB


def allowed(name: str) -> str:
    """Return a list of /proc/self/status."""
    try:
        with open("/proc/self/status") as f:
            return next(line.split()[1] for line in f if line.startswith(name))
    except (OSError, StopIteration, IndexError):
        return "Cpus_allowed_list of /proc/PID/status"


def max_map_count() -> str:
    """Return a command that raises the number of mappings; it never lowers it."""
    try:
        with open("/proc/sys/vm/max_map_count") as f:
            now = int(f.read())
    except (OSError, ValueError):
        now = 65530
    return f"sysctl -w vm.max_map_count={now * 2}"
