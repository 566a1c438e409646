"""EAL's own arguments -> Options. common/eal_common_options.c, linux/eal.c: eal_parse_args

Up to 24.11 EAL reads its arguments with getopt_long and handles each as it comes; since 25.11
rte_argparse collects them all and conflicts are looked for first.
"""

from __future__ import annotations

from errno import EINVAL

from .errors import EalError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .releases import Release

    Log = Callable[[str, str], object]
    Handler = Callable[["Options", str | None], None]
    Row = tuple[str, str, int, Handler | None, str, str]

MAX_LCORE, CPU_SETSIZE = 128, 1024  # RTE_MAX_LCORE, glibc's
U64 = (1 << 64) - 1
MB = 1 << 20


class Options:
    """What the arguments say, under EAL's names. Bytes, not MiB; lists are in ascending order."""

    def __init__(self, release: Release, log: Log | None = None) -> None:
        self.release = release
        self.log: Log = log or (lambda level, text: None)
        self.memory = 0  # -m; what socket_mem asks for is not added to it
        self.socket_mem: dict[int, int] | None = None
        self.socket_limit: dict[int, int] | None = None
        self.pagesz_mem: dict[int, int] = {}
        self.huge_dir: str | None = None
        self.file_prefix = "rte"
        self.unlink_existing = True  # stale files go at discovery
        self.unlink_before_mapping = False  # own files go as soon as they are open
        self.in_memory = self.no_huge = self.legacy_mem = self.no_shconf = False
        self.single_file_segments = self.match_allocations = False
        self.base_virtaddr = 0
        self.iova_mode: str | None = None
        self.proc_type = "primary"
        self.nchannel = self.nrank = 0
        self.lcores: list[int] | None = None  # None: the process's affinity decides
        self.cpus: list[int] | None = None  # CPUs that lcores run on; each must exist
        self.remap: int | None = None  # lcore ids count up from here (25.11)
        self.main_lcore: int | None = None
        self.ignored: list[str] = []
        self.cores_by = ""  # which of -c, -l, --lcores

    @property
    def huge_unlink(self) -> str:
        if not self.unlink_existing:
            return "never"
        return "always" if self.unlink_before_mapping else "existing"


def _no(text: str, todo: str) -> EalError:
    return EalError(EINVAL, "options", f"{text}: {todo}")


_TEXTS = {  # as getopt's releases put it, as argparse's do
    "channels": ("invalid channel number", "invalid memory channel parameter"),
    "ranks": ("invalid rank number", "invalid memory rank parameter"),
    "value": ("invalid parameters for --{name}", "invalid {name} parameter: '{value}'"),
    "virtaddr": ("invalid parameter for --base-virtaddr", "invalid base virtaddr '{value}'"),
    "mapping": ("invalid parameter for --lcores", "invalid lcore mapping list: '{value}'"),
    "simd": (
        "invalid parameter for --force-max-simd-bitwidth",
        "invalid SIMD bitwidth parameter '{value}'",
    ),
    "stack": (
        "invalid parameter for --huge-worker-stack",
        "invalid huge worker stack parameter",
    ),
    "intr": ("invalid parameters for --vfio-intr", "invalid vfio interrupt parameter: '{value}'"),
    "pool": (
        "Invalid length of --mbuf-pool-ops-name option",
        "Invalid mbuf pool ops name parameter",
    ),
    "dir": ("Invalid length of --huge-dir option", "Invalid hugepage dir parameter"),
    "prefix": ("Invalid length of --file-prefix option", "Invalid file prefix parameter"),
    "percent": (
        "Invalid char, '%', in --file-prefix option",
        "Invalid char, '%', in file_prefix parameter",
    ),
    "unlink": ("invalid --huge-unlink option", "invalid huge-unlink parameter"),
    "iova": ("invalid parameters for --iova-mode", "invalid iova mode parameter '{value}'"),
    "proc": ("Invalid process type specified", "invalid process type: {value}"),
    "list": ("invalid core list syntax", "Error parsing lcore list: '{value}'"),
}


def _bad(o: Options, key: str, value: str | None, todo: str, name: str = "") -> EalError:
    text = _TEXTS[key][o.release.arguments == "argparse"].format(name=name, value=value)
    return _no(text, f"{todo}, found {value!r}")


# --- C's way with numbers -------------------------------------------------------------------------

_DIGITS = "0123456789abcdef"
_BLANK = " \t"


def strto(text: str, base: int = 10) -> tuple[int, str]:
    """strtol: the number at the start of text (0 if there is none), and the rest."""
    s = text.lstrip(" \t\n\v\f\r")
    sign = -1 if s[:1] == "-" else 1
    s = s[1:] if s[:1] in ("-", "+") and s else s
    hexed = s[:2] in ("0x", "0X") and s[2:3] != "" and s[2].lower() in _DIGITS
    if base == 0:
        base = 16 if hexed else 8 if s[:1] == "0" else 10
    if base == 16 and hexed:
        s = s[2:]
    digits, n = _DIGITS[:base], 0
    while n < len(s) and s[n].lower() in digits:
        n += 1
    return (sign * int(s[: min(n, 999)], base), s[n:]) if n else (0, text)


def atoi(text: str) -> int:
    """atoi of glibc: strtol, clamped to 64 bits, cut to 32."""
    n = max(-(1 << 63), min(strto(text)[0], (1 << 63) - 1)) & 0xFFFFFFFF
    return n - (1 << 32) if n >> 31 else n


def whole(text: str, base: int = 10) -> int | None:
    """strtoull of the whole text, negative numbers wrapped; None when something else is in it."""
    n, rest = strto(text, base)
    return None if not text or rest or abs(n) > U64 else n & U64


def size_of(text: str) -> int | None:
    """Bytes of "2M", "1 G", "2048kB"; None without a number. rte_str_to_size"""
    s = text.lstrip()
    n, rest = strto(s, 0)
    if rest == s or s[:1] == "-" or n > U64:
        return None
    rest = rest[1:] if rest[:1] == " " else rest
    return n << 10 * (1 + "kmgtpe".find((rest[:1] or "?").lower())) & U64


# --- handlers: one option, its value --------------------------------------------------------------


def _flag(*names: str) -> Handler:
    def do(o: Options, value: str | None) -> None:
        for name in names:
            setattr(o, name, True)

    return do


def _memory(o: Options, value: str | None) -> None:
    o.memory = atoi(value or "") * MB & U64


def _channels(o: Options, value: str | None) -> None:
    o.nchannel = atoi(value or "") & 0xFFFFFFFF
    if not o.nchannel:
        raise _bad(o, "channels", value, "-n takes 1 or more")


def _ranks(o: Options, value: str | None) -> None:
    o.nrank = atoi(value or "") & 0xFFFFFFFF
    if not 1 <= o.nrank <= 16:
        raise _bad(o, "ranks", value, "-r takes 1 to 16")


def _per_node(attr: str, name: str) -> Handler:
    def do(o: Options, value: str | None) -> None:
        nodes, text = o.release.numa_nodes_max, value or ""
        mib = [whole(part) for part in text.split(",")]
        if len(text) >= nodes * 10 or len(mib) > nodes or None in mib:
            todo = f"MiB of nodes 0, 1, ... are wanted (1024,512), at most {nodes} numbers"
            raise _bad(o, "value", value, todo, name)
        merged = (o.release.arguments == "getopt" and getattr(o, attr)) or {}
        setattr(o, attr, merged | {k: (n or 0) * MB & U64 for k, n in enumerate(mib)})

    return do


def _pagesz_mem(o: Options, value: str | None) -> None:
    size_text, _, limit_text = (value or "").partition(":")
    size, limit = size_of(size_text), size_of(limit_text)
    if not size or limit is None or size & size - 1 or limit % size or "," in limit_text:
        todo = "<page size>:<limit> is wanted, the limit a multiple of the page size (2M:32G)"
        raise _bad(o, "value", value, todo, "pagesz-mem")
    if size in o.pagesz_mem:
        text = f"--pagesz-mem specified multiple times for page size '{size_text}'"
        o.log("WARNING", f"{text}; later limit '{limit_text}' will be used")
    elif len(o.pagesz_mem) == 3:
        raise _no("--pagesz-mem: too many page size entries (max 3)", "name fewer page sizes")
    o.pagesz_mem[size] = limit


def _store(attr: str) -> Handler:
    return lambda o, value: setattr(o, attr, value)


def _huge_unlink(o: Options, value: str | None) -> None:
    if value is None or value == "always":
        o.unlink_before_mapping = True
    elif value == "never":
        o.log("WARNING", "Using --huge-unlink=never may create data leaks.")
        o.unlink_existing = False
    elif value != "existing":
        raise _bad(o, "unlink", value, "existing, always or never is wanted")


def _base_virtaddr(o: Options, value: str | None) -> None:
    va = whole(value or "", 16)
    if va is None:
        raise _bad(o, "virtaddr", value, "a hexadecimal address is wanted")
    o.base_virtaddr = (va + 0xFFFFFF) & ~0xFFFFFF & U64  # 16 MiB: POWER's smallest huge page


def _iova_mode(o: Options, value: str | None) -> None:
    if value not in ("pa", "va"):
        raise _bad(o, "iova", value, "pa or va is wanted")
    o.iova_mode = value.upper()


def _simd(o: Options, value: str | None) -> None:
    n = whole(value or "", 0)
    if n is None or (n and (not 64 <= n <= 32768 or n & n - 1)):
        raise _bad(o, "simd", value, "0 or a power of two is wanted")


def _worker_stack(o: Options, value: str | None) -> None:
    if value and not 1 <= strto(value)[0] < U64 // 1024:
        raise _bad(o, "stack", value, "a size in kB is wanted")


def _vfio_intr(o: Options, value: str | None) -> None:
    if value not in ("legacy", "msi", "msix"):
        raise _bad(o, "intr", value, "legacy, msi or msix is wanted")


def _pool_ops(o: Options, value: str | None) -> None:
    if not value:
        raise _bad(o, "pool", value, "a name is wanted")


def _help(o: Options, value: str | None) -> None:
    raise _no("EAL would print its usage and exit", "leave -h out")


# --- lcores ---------------------------------------------------------------------------------------


_CORES = "a list (0-3,8) or a mask (0xff) of cores is wanted"


def _take_cores(o: Options, by: str, cpus: list[int], lcores: list[int] | None = None) -> None:
    if o.cores_by:
        raise _no(f"Option {by} is ignored, because ({o.cores_by}) is set!", "say it once")
    if lcores is None:
        lcores = cpus if o.remap is None else [o.remap + i for i in range(len(cpus))]
    if lcores[-1] >= MAX_LCORE:
        todo = ",".join(f"{i}@{cpu}" for i, cpu in enumerate(cpus))
        raise _no(f"lcore {lcores[-1]} >= RTE_MAX_LCORE ({MAX_LCORE})", f"--lcores {todo}")
    o.cores_by, o.cpus, o.lcores = by, cpus, lcores


def _coremask(o: Options, value: str | None) -> None:
    text = (value or "").strip(_BLANK)
    text = text[2:] if text[:2] in ("0x", "0X") else text
    mask = 0 if any(c.lower() not in _DIGITS for c in text) else int(text or "0", 16)
    if not mask:
        raise _no("invalid coremask syntax", f"{_CORES}, found {value!r}")
    _take_cores(o, "-c", [i for i in range(mask.bit_length()) if mask >> i & 1])


def _corelist(o: Options, value: str | None) -> None:
    """-l of getopt: a missing number is 0, a falling range is empty, as EAL has it."""
    cpus: set[int] = set()
    low, s, more = None, value or "", True
    while more:
        n, rest = strto(s)
        rest = rest.lstrip(_BLANK)
        more = rest != ""
        if not s.strip(_BLANK) or not 0 <= n <= 0xFFFF or (more and rest[0] not in "-,"):
            raise _bad(o, "list", value, _CORES)
        if rest[:1] == "-":
            low = n
        else:
            cpus.update(range(n if low is None else low, n + 1))
            low = None
        s = rest[1:]
    if not cpus:
        raise _bad(o, "list", value, _CORES)
    _take_cores(o, "-l", sorted(cpus))


def _argparse_corelist(o: Options, value: str | None) -> None:
    """-l of argparse: a falling range is turned round. rte_argparse.c: parse_arg_corelist"""
    if "@" in (value or "") or "(" in (value or ""):
        if o.remap is not None:
            text = "cannot use '@' or core groupings '()' in lcore list when remapping lcores"
            raise _no(text, "leave --remap-lcore-ids out")
        return _lcores(o, value)
    cpus: set[int] = set()
    for part in (value or "").split(","):
        ends = [e.lstrip(_BLANK) for e in part.split("-")]
        if len(ends) > 2 or not all(e.isdecimal() and int(e) <= 0xFFFF for e in ends):
            raise _bad(o, "list", value, _CORES)
        low, high = sorted((int(ends[0]), int(ends[-1])))
        cpus.update(range(low, min(high + 1, CPU_SETSIZE)))
    if not cpus:
        raise _bad(o, "list", value, _CORES)
    return _take_cores(o, "--lcores", sorted(cpus))


def _cpu(s: str) -> tuple[int, str]:
    s = s.lstrip(_BLANK)
    n, rest = strto(s)
    if not s[:1].isdecimal() or n >= CPU_SETSIZE:
        raise ValueError(s)
    return n, rest.lstrip(_BLANK)


def _core_set(text: str) -> tuple[set[int], str]:
    """The cores of "3", "2-6" or "(0,2-4)" and the rest. ValueError. eal_parse_set"""
    ids: set[int] = set()
    s = text.lstrip(_BLANK)
    group = s[:1] == "("
    s = s if group else "(" + s
    while s[:1] == "(" or (group and s[:1] == ","):
        low, s = _cpu(s[1:])
        dash = s[:1] == "-"
        high, s = _cpu(s[1:]) if dash else (low, s)
        if s[:1] not in ((",", ")") if group else ("", ",") if dash else ("", ",", "@")):
            raise ValueError(s)
        ids.update(range(min(low, high), max(low, high) + 1))
    return ids, s[1:].lstrip(_BLANK) if group else s


def _lcores(o: Options, value: str | None) -> None:
    """--lcores: <lcores>[@<cpus>],... with ( ) round a group. eal_parse_lcores"""
    lcores: set[int] = set()
    cpus: set[int] = set()
    s = "," + (value or "")
    try:
        while s:
            ids, s = _core_set(s[1:])
            on, s = _core_set(s[1:]) if s[:1] == "@" else (ids, s)
            if s[:1] not in ("", ",") or max(ids) >= MAX_LCORE:
                raise ValueError(s)
            lcores, cpus = lcores | ids, cpus | on
    except ValueError:
        todo = f"<lcores>[@<cpus>],... below {MAX_LCORE} is wanted"
        raise _bad(o, "mapping", value, todo) from None
    _take_cores(o, "--lcores", sorted(cpus), sorted(lcores))


def _main_lcore(o: Options, value: str | None) -> None:
    n = whole(value or "0", 0)
    if n is None or n >= MAX_LCORE:
        raise _no("invalid parameter for --main-lcore", f"an lcore id below {MAX_LCORE} is wanted")
    o.main_lcore = n


def _remap(o: Options, value: str | None) -> None:
    n = whole(value, 0) if value else 0
    if n is None or (n & 0xFFFF) >= MAX_LCORE:
        raise _no(f"invalid lcore base id: {value}", f"a number below {MAX_LCORE} is wanted")
    o.remap = n & 0xFFFF


# --- the options ----------------------------------------------------------------------------------

NO, MUST, MAY = 0, 1, 2  # takes a value


def _o(
    name: str, arg: int = NO, do: Handler | None = None,
    short: str = "", since: str = "", until: str = "99",
) -> Row:  # fmt: skip
    return name, short, arg, do, since, until


# since and until (the first without it) are release lines. Without a handler, or with one that
# only looks at the value (_CHECKED), an option means nothing here. One letter is all the name.
# fmt: off
_OPTIONS: tuple[Row, ...] = (
    # what decides memory; the order is the order in which argparse's values are taken
    _o("proc-type", MUST, _store("proc_type")),
    _o("remap-lcore-ids", MAY, _remap, "R", since="25"),
    _o("c", MUST, _coremask, until="25"), _o("coremask", MUST, _coremask, "c", since="25"),
    _o("l", MUST, _corelist, until="25"), _o("lcores", MUST, _lcores, until="25"),
    _o("lcores", MUST, _argparse_corelist, "l", since="25"),
    _o("main-lcore", MUST, _main_lcore), _o("master-lcore", MUST, _main_lcore, until="21"),
    _o("m", MUST, _memory, until="25"), _o("memory-size", MUST, _memory, "m", since="25"),
    _o("n", MUST, _channels, until="25"), _o("memory-channels", MUST, _channels, "n", since="25"),
    _o("r", MUST, _ranks, until="25"), _o("memory-ranks", MUST, _ranks, "r", since="25"),
    _o("no-huge", NO, _flag("no_huge", "legacy_mem")),
    _o("in-memory", NO, _flag("in_memory", "no_shconf", "unlink_before_mapping")),
    _o("legacy-mem", NO, _flag("legacy_mem")),
    _o("single-file-segments", NO, _flag("single_file_segments")),
    _o("match-allocations", NO, _flag("match_allocations")),
    _o("no-shconf", NO, _flag("no_shconf")),
    _o("huge-dir", MUST, _store("huge_dir")),
    _o("file-prefix", MUST, _store("file_prefix")),
    _o("huge-unlink", NO, _huge_unlink, until="22"),
    _o("huge-unlink", MAY, _huge_unlink, since="22"),
    _o("socket-mem", MUST, _per_node("socket_mem", "socket-mem"), until="25"),
    _o("socket-limit", MUST, _per_node("socket_limit", "socket-limit"), until="25"),
    _o("numa-mem", MUST, _per_node("socket_mem", "numa-mem"), since="25"),
    _o("numa-limit", MUST, _per_node("socket_limit", "numa-limit"), since="25"),
    _o("socket-mem", MUST, _per_node("socket_mem", "numa-mem"), since="25"),
    _o("socket-limit", MUST, _per_node("socket_limit", "numa-limit"), since="25"),
    _o("pagesz-mem", MUST, _pagesz_mem, since="26"),
    _o("iova-mode", MUST, _iova_mode),
    _o("base-virtaddr", MUST, _base_virtaddr),
    _o("help", NO, _help, "h"),
    # what does not
    _o("force-max-simd-bitwidth", MUST, _simd), _o("mbuf-pool-ops-name", MUST, _pool_ops),
    _o("huge-worker-stack", MAY, _worker_stack, since="22"), _o("vfio-intr", MUST, _vfio_intr),
    *(_o(name) for name in ("create-uio-dev", "no-hpet", "no-pci", "telemetry", "no-telemetry",
                            "vmware-tsc-map")),
    *(_o(name, MUST) for name in ("vdev", "vfio-vf-token", "log-level", "trace", "trace-dir",
                                  "trace-bufsz", "trace-mode")),
    _o("syslog", MUST, until="24"), _o("syslog", MAY, since="24"),
    _o("log-color", MAY, since="24"), _o("log-timestamp", MAY, since="24"),
    _o("v", until="25"), _o("version", NO, None, "v", since="25"),
    *(_o(name, MUST, until="21") for name in ("w", "pci-whitelist", "pci-blacklist")),
    *(_o(name, MUST, until="25") for name in ("a", "allow", "b", "block", "d", "s", "S")),
    _o("allow", MUST, None, "a", since="25"), _o("block", MUST, None, "b", since="25"),
    _o("driver-path", MUST, None, "d", since="25"),
    _o("service-coremask", MUST, None, "s", since="25"),
    _o("service-corelist", MUST, None, "S", since="25"),
    _o("auto-probing", since="26"), _o("no-auto-probing", NO, None, "A", since="26"),
)
_CHECKED = (_simd, _worker_stack, _pool_ops, _vfio_intr)
_MANY = ("allow", "block", "driver-path", "vdev", "log-level", "trace", "pagesz-mem")

# Pairs that exclude each other, in EAL's order: eal_check_common_options; eal_collate_args.
# Words without a dash are states: "legacy" comes with --no-huge too, "always" not by --in-memory.
_AB = "Options allow (-a) and block (-b) can't be used at the same time"
_CONFLICTS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "getopt": (
        ("allow", "block", _AB),
        ("m", "numa-mem", "Options -m and --socket-mem cannot be specified at the same time"),
        ("numa-mem", "no-huge",
         "Option --socket-mem cannot be specified together with --no-huge"),
        ("always", "no-huge",
         "Option --huge-unlink cannot be specified together with --no-huge"),
        ("huge-worker-stack", "no-huge",
         "Option --huge-worker-stack cannot be specified together with --no-huge"),
        ("single-file-segments", "always",
         "Option --single-file-segments is not compatible with --huge-unlink"),
        ("in-memory", "never", "Option --in-memory is not compatible with --huge-unlink=never"),
        ("legacy", "in-memory", "Option --legacy-mem is not compatible with --in-memory"),
        ("legacy", "match-allocations",
         "Option --legacy-mem is not compatible with --match-allocations"),
    ),
    "argparse": (
        ("allow", "block", _AB),
        ("no-auto-probing", "block",
         "Options no-auto-probing and block (-b) can't be used at the same time"),
        ("pagesz-mem", "no-huge", "Options pagesz-mem and no-huge can't be used at the same time"),
        ("pagesz-mem", "legacy-mem",
         "Options pagesz-mem and legacy-mem can't be used at the same time"),
        *((a, b, f"Options '{a}' and '{b}' can't be used at the same time") for a, b in (
            ("no-auto-probing", "auto-probing"), ("coremask", "lcores"),
            ("service-coremask", "service-corelist"), ("no-telemetry", "telemetry"),
            ("memory-size", "numa-mem"), ("no-huge", "numa-mem"), ("no-huge", "huge-worker-stack"),
            ("numa-limit", "legacy-mem"), ("legacy-mem", "in-memory"),
            ("legacy-mem", "match-allocations"), ("no-huge", "match-allocations"),
            ("no-huge", "huge-unlink"), ("single-file-segments", "huge-unlink"),
            ("no-huge", "single-file-segments"), ("in-memory", "huge-unlink"),
        )),
    ),
}
_SAME = {"a": "allow", "b": "block", "w": "allow", "pci-whitelist": "allow",
         "pci-blacklist": "block", "socket-mem": "numa-mem", "socket-limit": "numa-limit"}
# fmt: on


def _getopt(args: list[str], rows: list[Row]) -> Iterator[tuple[Row, str | None]]:
    """getopt_long: words without a dash are passed over, long names may be cut short."""
    longs = {r[0]: r for r in rows if len(r[0]) > 1}
    shorts = {r[1] or r[0]: r for r in rows if r[1] or len(r[0]) == 1}
    unknown = "this release of EAL has none such"
    it = iter(args)
    for arg in it:
        if arg == "--":
            return
        if arg[:2] == "--":
            name, eq, value = arg[2:].partition("=")
            hits = [name] if name in longs else [n for n in longs if n.startswith(name)]
            if not hits:
                raise _no(f"unrecognized option '{arg}'", unknown)
            if len(hits) > 1:
                raise _no(f"option '{arg}' is ambiguous", "could be --" + ", --".join(hits))
            row = longs[hits[0]]
            if eq and row[2] == NO:
                raise _no(f"option '--{row[0]}' doesn't allow an argument", "leave it out")
            missing = f"option '--{row[0]}' requires an argument"
            yield row, value if eq else _next(it, missing) if row[2] == MUST else None
            continue
        while arg[:1] == "-" and len(arg) > 1:  # letters may stand together: -vm64
            if arg[1] not in shorts:
                raise _no(f"invalid option -- '{arg[1]}'", unknown)
            row = shorts[arg[1]]
            if row[2] == MUST:
                yield row, arg[2:] or _next(it, f"option requires an argument -- '{arg[1]}'")
                break
            yield row, None
            arg = "-" + arg[2:]


def _argparse(args: list[str], rows: list[Row]) -> Iterator[tuple[Row, str | None]]:
    """rte_argparse: names are whole, each at most once, `-m=64` and `-m64` are the same."""
    names = {"--" + r[0]: r for r in rows} | {"-" + r[1]: r for r in rows if r[1]}
    seen: set[str] = set()
    it = iter(args)
    for arg in it:
        if arg == "--":
            return
        if arg[:1] != "-":
            continue
        name, eq, rest = arg.partition("=")
        value = rest if eq else None
        if not eq and arg[1:2] != "-" and len(arg) > 2:
            name, value = arg[:2], arg[2:]
        row = names.get(name)
        if row is None:
            raise _no(f"unknown argument {arg}!", "this release of EAL has none such")
        if row[0] in seen and row[0] not in _MANY:
            raise _no(f"argument {name} should not occur multiple times!", "say it once")
        if value is not None and row[2] == NO:
            raise _no(f"argument {name} should not take value!", "leave it out")
        seen.add(row[0])
        if value is None and row[2] == MUST:
            value = _next(it, f"argument {name} doesn't have value!")
        yield row, value


def _next(it: Iterator[str], missing: str) -> str:
    for value in it:
        return value
    raise _no(missing, "a value has to follow")


def _last_words(o: Options, names: set[str]) -> None:
    """What EAL looks at when all arguments are read."""
    getopt = o.release.arguments == "getopt"
    o.proc_type = o.proc_type.lower()
    if o.proc_type not in ("primary", "secondary", "auto"):
        raise _bad(o, "proc", o.proc_type, "primary, secondary or auto is wanted")
    if not o.file_prefix or "%" in o.file_prefix:
        key = "percent" if o.file_prefix else "prefix"
        raise _bad(o, key, o.file_prefix, "a name without % is wanted")
    if o.huge_dir == "":
        raise _bad(o, "dir", "", "a directory in a hugetlbfs mount is wanted")
    if getopt:
        states = (
            ("legacy", o.legacy_mem),
            ("always", o.unlink_before_mapping and not o.in_memory),
            ("never", not o.unlink_existing),
        )
        _exclude(o, names | {state for state, holds in states if holds})
        if o.socket_limit is not None and o.legacy_mem:
            o.log("ERR", "Option --socket-limit is only supported in non-legacy memory mode")
        unsized = o.legacy_mem and not o.memory and not sum((o.socket_mem or {}).values())
    else:
        unsized = "legacy-mem" in names and not names & {"memory-size", "numa-mem"}
    if unsized:
        o.log("NOTICE", "Static memory layout is selected, amount of reserved memory can be"
                        " adjusted with -m or --socket-mem")  # fmt: skip


def _exclude(o: Options, names: set[str]) -> None:
    for a, b, text in _CONFLICTS[o.release.arguments]:
        if a in names and b in names:
            implied = a == "legacy" and "legacy-mem" not in names
            raise _no(text, "leave one of them out" + (" (--no-huge implies it)" * implied))


def parse(args: list[str], release: Release, log: Log | None = None) -> Options:
    """The options as EAL of that release takes them. EalError(EINVAL) with EAL's own phrase."""
    o = Options(release, log)
    rows = [r for r in _OPTIONS if r[4] <= release.line < r[5]]
    if release.arguments == "getopt":
        given = _getopt(args, rows)
    else:  # conflicts first, then the values in the table's order
        rank: dict[str, int] = {}
        for r in rows:
            rank.setdefault(_SAME.get(r[0], r[0]), len(rank))
        told = sorted(_argparse(args, rows), key=lambda g: rank[_SAME.get(g[0][0], g[0][0])])
        _exclude(o, {_SAME.get(row[0], row[0]) for row, _ in told})
        given = iter(told)
    names = set()
    for (name, _, _, do, *_), value in given:
        names.add(_SAME.get(name, name))
        if do:
            do(o, value)
        if not do or do in _CHECKED:
            dashed = f"-{name}" if len(name) == 1 else f"--{name}"
            o.ignored.append(dashed if value is None else f"{dashed}={value}")
    _last_words(o, names)
    return o
