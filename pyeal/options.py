"""EAL's own arguments as Options. common/eal_common_options.c, linux/eal.c: eal_parse_args

Up to 24.11 EAL reads its arguments with getopt_long and handles each as it comes; since 25.11
rte_argparse collects all of them and looks for conflicts first.
"""

from __future__ import annotations

from errno import EINVAL

from . import cparse
from .cparse import MAX_LCORE, U64, size_of, strto, whole
from .errors import EalError, Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from .releases import Release

    Handler = Callable[["Options", str | None], None]
    Row = tuple[str, str, int, Handler | None, str, str]

MB = 1 << 20


class Options:
    """The values of the arguments under EAL's names: sizes in bytes, lists ascending."""

    def __init__(self, release: Release, log: Log | None = None) -> None:
        self.release = release
        self.log: Log = log or (lambda level, text: None)
        self.worker_stack = 0  # bytes of the heap for each worker lcore; 0: none
        self.memory = 0  # -m; what socket_mem asks for is not added to it
        self.socket_mem: dict[int, int] | None = None
        self.socket_limit: dict[int, int] | None = None
        self.pagesz_mem: dict[int, int] = {}
        self.huge_dir: str | None = None
        self.unlink_existing = True  # discovery removes stale files
        self.unlink_before_mapping = False  # a page file is removed as soon as it is open
        self.in_memory = self.no_huge = self.legacy_mem = self.no_shconf = False
        self.single_file_segments = self.match_allocations = False
        self.base_virtaddr = 0
        self.iova_mode: str | None = None
        self.file_prefix, self.proc_type = "rte", "primary"
        self.nchannel = self.nrank = 0
        self.lcores: list[int] | None = None  # None: those of the process's affinity
        self.cpus: list[int] | None = None  # CPUs that the lcores run on; each must exist
        self.remap: int | None = None  # lcore ids count up from here (25.11)
        self.main_lcore: int | None = None
        self.ignored: list[str] = []
        self.cores_by = ""  # which of -c, -l, --lcores


def _refused(what: str, fix: str, reason: str = "argument") -> EalError:
    return EalError(EINVAL, "options", what, fix=fix, reason=reason)


_TEXTS = {  # getopt's releases, argparse's
    "channels": ("invalid channel number", "invalid memory channel parameter"),
    "ranks": ("invalid rank number", "invalid memory rank parameter"),
    "value": ("invalid parameters for --{name}", "invalid {name} parameter: '{value}'"),
    "virtaddr": ("invalid parameter for --base-virtaddr", "invalid base virtaddr '{value}'"),
    "mapping": ("invalid parameter for --lcores", "invalid lcore mapping list: '{value}'"),
    "simd": (
        "invalid parameter for --force-max-simd-bitwidth",
        "invalid SIMD bitwidth parameter '{value}'",
    ),
    "stack": ("invalid parameter for --huge-worker-stack", "invalid huge worker stack parameter"),
    "intr": ("invalid parameters for --vfio-intr", "invalid vfio interrupt parameter: '{value}'"),
    "token": (
        "invalid parameters for --vfio-vf-token",
        "invalid vfio vf token parameter: '{value}'",
    ),
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
    "mask": ("invalid coremask syntax", "invalid coremask syntax"),
    "list": ("invalid core list syntax", "Error parsing lcore list: '{value}'"),
}


def _bad(o: Options, key: str, value: str | None, expected: str, name: str = "") -> EalError:
    what = _TEXTS[key][o.release.arguments == "argparse"].format(name=name, value=value)
    found = repr(value)
    return EalError(EINVAL, "options", what, expected=expected, found=found, reason="argument")


# --- handlers: one option, its value --------------------------------------------------------------


def _flag(*names: str) -> Handler:
    def do(o: Options, value: str | None) -> None:
        for name in names:
            setattr(o, name, True)

    return do


def _memory(o: Options, value: str | None) -> None:
    o.memory = cparse.atoi(value or "") * MB & U64


def _number(attr: str, key: str, most: int, expected: str) -> Handler:
    def do(o: Options, value: str | None) -> None:
        n = cparse.atoi(value or "") & 0xFFFFFFFF
        if not 1 <= n <= most:
            raise _bad(o, key, value, expected)
        setattr(o, attr, n)

    return do


def _per_node(attr: str, name: str) -> Handler:
    def do(o: Options, value: str | None) -> None:
        nodes, text = o.release.numa_nodes_max, value or ""
        mib = [whole(part) for part in text.split(",")]
        if len(text) >= nodes * 10 or len(mib) > nodes or None in mib:
            expected = f"MiB of nodes 0, 1, ... (1024,512), at most {nodes} numbers"
            raise _bad(o, "value", value, expected, name)
        merged = (o.release.arguments == "getopt" and getattr(o, attr)) or {}
        setattr(o, attr, merged | {k: (n or 0) * MB & U64 for k, n in enumerate(mib)})

    return do


def _pagesz_mem(o: Options, value: str | None) -> None:
    size_text, _, limit_text = (value or "").partition(":")
    size, limit = size_of(size_text), size_of(limit_text)
    if not size or limit is None or size & size - 1 or limit % size or "," in limit_text:
        expected = "<page size>:<limit>, the limit a multiple of the page size (2M:32G)"
        raise _bad(o, "value", value, expected, "pagesz-mem")
    if size in o.pagesz_mem:
        text = f"--pagesz-mem specified multiple times for page size '{size_text}'"
        o.log("WARNING", f"{text}; later limit '{limit_text}' will be used")
    elif len(o.pagesz_mem) == 3:
        raise _refused("--pagesz-mem: too many page size entries (max 3)", "name at most 3")
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
        raise _bad(o, "unlink", value, "existing, always or never")


def _base_virtaddr(o: Options, value: str | None) -> None:
    va = whole(value or "", 16)
    if va is None:
        raise _bad(o, "virtaddr", value, "a hexadecimal address")
    o.base_virtaddr = (va + 0xFFFFFF) & ~0xFFFFFF & U64  # 16 MiB: POWER's smallest huge page


def _simd(o: Options, value: str | None) -> None:
    n = whole(value or "", 0)
    if n is None or (n and (not 64 <= n <= 32768 or n & n - 1)):
        raise _bad(o, "simd", value, "0, or a power of two from 64 to 32768")


def _worker_stack(o: Options, value: str | None) -> None:
    kb = strto(value)[0] if value else 0
    if value and not 1 <= kb < U64 // 1024:
        raise _bad(o, "stack", value, "a size in kB")
    if not kb:
        from .libc import thread_stack
    o.worker_stack = kb * 1024 or thread_stack()


def _vf_token(o: Options, value: str | None) -> None:
    parts = (value or "").split("-")
    digits = all(c in "0123456789abcdefABCDEF" for c in "".join(parts))
    if [len(p) for p in parts] != [8, 4, 4, 4, 12] or not digits:
        raise _bad(o, "token", value, "a UUID")


def _one_of(key: str, expected: str, attr: str = "", values: tuple[str, ...] = ()) -> Handler:
    """Return a handler that takes one of the values, and stores it in upper case if attr is set."""

    def do(o: Options, value: str | None) -> None:
        if not value or (values and value not in values):
            raise _bad(o, key, value, expected)
        if attr:
            setattr(o, attr, value.upper())

    return do


_vfio_intr = _one_of("intr", "legacy, msi or msix", "", ("legacy", "msi", "msix"))
_pool_ops = _one_of("pool", "a name")


def _help(o: Options, value: str | None) -> None:
    raise _refused("EAL would print its usage and exit", "leave out -h")


# --- lcores ---------------------------------------------------------------------------------------


def _set_cores(o: Options, by: str, cpus: list[int], lcores: list[int] | None = None) -> None:
    if o.cores_by:
        raise _refused(f"Option {by} is ignored, because ({o.cores_by}) is set!", "give only one")
    if lcores is None:
        lcores = cpus if o.remap is None else [o.remap + i for i in range(len(cpus))]
    if lcores[-1] >= MAX_LCORE:
        fix = ",".join(f"{i}@{cpu}" for i, cpu in enumerate(cpus))
        raise _refused(f"lcore {lcores[-1]} >= RTE_MAX_LCORE ({MAX_LCORE})", f"--lcores {fix}")
    o.cores_by, o.cpus, o.lcores = by, cpus, lcores


def _cores(by: str, parse: Callable[[str], list[int]], key: str = "list") -> Handler:
    def do(o: Options, value: str | None) -> None:
        try:
            cpus = parse(value or "")
        except ValueError:
            raise _bad(o, key, value, "a list (0-3,8) or a mask (0xff) of cores") from None
        _set_cores(o, by, cpus)

    return do


def _argparse_corelist(o: Options, value: str | None) -> None:
    groups = "@" in (value or "") or "(" in (value or "")
    if groups and o.remap is not None:
        text = "cannot use '@' or core groupings '()' in lcore list when remapping lcores"
        raise _refused(text, "leave out --remap-lcore-ids")
    (_lcores if groups else _cores("--lcores", cparse.argparse_core_list))(o, value)


def _lcores(o: Options, value: str | None) -> None:
    try:
        lcores, cpus = cparse.lcore_map(value or "")
    except ValueError:
        raise _bad(o, "mapping", value, f"<lcores>[@<cpus>],... below {MAX_LCORE}") from None
    _set_cores(o, "--lcores", cpus, lcores)


def _main_lcore(o: Options, value: str | None) -> None:
    n = whole(value or "0", 0)
    if n is None or n >= MAX_LCORE:
        raise _refused("invalid parameter for --main-lcore", f"give an lcore id below {MAX_LCORE}")
    o.main_lcore = n


def _remap(o: Options, value: str | None) -> None:
    n = whole(value, 0) if value else 0
    if n is None or (n & 0xFFFF) >= MAX_LCORE:
        raise _refused(f"invalid lcore base id: {value}", f"give a number below {MAX_LCORE}")
    o.remap = n & 0xFFFF


# --- the options ----------------------------------------------------------------------------------

NO, MUST, MAY = 0, 1, 2  # takes a value


def _o(name: str, arg: int = NO, do: Handler | None = None, short: str = "", **when: str) -> Row:
    return name, short, arg, do, when.get("since", ""), when.get("until", "99")


def _renamed(letter: str, name: str, do: Handler | None = None) -> tuple[Row, Row]:
    """Return both rows of an option that was a letter alone until 24.11."""
    return _o(letter, MUST, do, until="25.11"), _o(name, MUST, do, letter, since="25.11")


# since and until (the first line without it) are release lines. pyeal ignores an option that has no
# handler, or whose handler only checks the value (_CHECKED). One letter is all the name.
_OPTIONS: tuple[Row, ...] = (
    # options that decide memory, in the order in which argparse takes their values
    _o("proc-type", MUST, _store("proc_type")),
    _o("remap-lcore-ids", MAY, _remap, "R", since="25.11"),
    *_renamed("c", "coremask", _cores("-c", cparse.core_mask, "mask")),
    _o("l", MUST, _cores("-l", cparse.core_list), until="25.11"),
    _o("lcores", MUST, _lcores, until="25.11"),
    _o("lcores", MUST, _argparse_corelist, "l", since="25.11"),
    _o("main-lcore", MUST, _main_lcore),
    _o("master-lcore", MUST, _main_lcore, until="21.11"),
    *_renamed("m", "memory-size", _memory),
    *_renamed("n", "memory-channels", _number("nchannel", "channels", U64, "1 or more")),
    *_renamed("r", "memory-ranks", _number("nrank", "ranks", 16, "1 to 16")),
    _o("no-huge", NO, _flag("no_huge", "legacy_mem")),
    _o("in-memory", NO, _flag("in_memory", "no_shconf", "unlink_before_mapping")),
    _o("legacy-mem", NO, _flag("legacy_mem")),
    _o("single-file-segments", NO, _flag("single_file_segments")),
    _o("match-allocations", NO, _flag("match_allocations")),
    _o("no-shconf", NO, _flag("no_shconf")),
    _o("huge-dir", MUST, _store("huge_dir")),
    _o("file-prefix", MUST, _store("file_prefix")),
    _o("huge-unlink", NO, _huge_unlink, until="22.03"),
    _o("huge-unlink", MAY, _huge_unlink, since="22.03"),
    _o("socket-mem", MUST, _per_node("socket_mem", "socket-mem"), until="25.11"),
    _o("socket-limit", MUST, _per_node("socket_limit", "socket-limit"), until="25.11"),
    _o("numa-mem", MUST, _per_node("socket_mem", "numa-mem"), since="25.07"),
    _o("numa-limit", MUST, _per_node("socket_limit", "numa-limit"), since="25.07"),
    _o("socket-mem", MUST, _per_node("socket_mem", "numa-mem"), since="25.11"),
    _o("socket-limit", MUST, _per_node("socket_limit", "numa-limit"), since="25.11"),
    _o("pagesz-mem", MUST, _pagesz_mem, since="26.07"),
    _o("iova-mode", MUST, _one_of("iova", "pa or va", "iova_mode", ("pa", "va"))),
    _o("base-virtaddr", MUST, _base_virtaddr),
    _o("help", NO, _help, "h"),
    # other options
    _o("force-max-simd-bitwidth", MUST, _simd),
    _o("mbuf-pool-ops-name", MUST, _pool_ops),
    _o("huge-worker-stack", MAY, _worker_stack, since="22.07"),
    _o("vfio-intr", MUST, _vfio_intr),
    *map(_o, "create-uio-dev no-hpet no-pci telemetry no-telemetry vmware-tsc-map".split()),
    _o("vfio-vf-token", MUST, _vf_token),
    *(_o(n, MUST) for n in "vdev log-level trace trace-dir trace-bufsz trace-mode".split()),
    _o("syslog", MUST, until="24.11"),
    _o("syslog", MAY, since="24.11"),
    _o("log-color", MAY, since="24.11"),
    _o("log-timestamp", MAY, since="24.11"),
    _o("v", until="25.11"),
    _o("version", NO, None, "v", since="25.11"),
    *(_o(name, MUST, until="21.11") for name in "w pci-whitelist pci-blacklist".split()),
    *_renamed("a", "allow"),
    *_renamed("b", "block"),
    *(_o(name, MUST, until="25.11") for name in ("allow", "block")),
    *_renamed("d", "driver-path"),
    *_renamed("s", "service-coremask"),
    *_renamed("S", "service-corelist"),
    _o("auto-probing", since="26.07"),
    _o("no-auto-probing", NO, None, "A", since="26.07"),
)
_CHECKED = (_simd, _pool_ops, _vf_token, _vfio_intr)
_MANY = ("allow", "block", "driver-path", "vdev", "log-level", "trace", "pagesz-mem")

# Pairs that exclude each other, in EAL's order: eal_check_common_options; eal_collate_args.
# "legacy", "always" and "never" are states: --no-huge sets "legacy", --in-memory leaves "always".
_AB = "Options allow (-a) and block (-b) can't be used at the same time"
_NO_HUGE = "Option --{} cannot be specified together with --no-huge"
_NOT_WITH = "Option --{} is not compatible with --{}"
_QUOTED, _PLAIN = "Options '{}' and '{}' {}", "Options {} and {} {}"
_AT_ONCE = "can't be used at the same time"
_GETOPT_CONFLICTS = (
    ("allow", "block", _AB),
    ("m", "numa-mem", "Options -m and --socket-mem cannot be specified at the same time"),
    ("numa-mem", "no-huge", _NO_HUGE.format("socket-mem")),
    ("always", "no-huge", _NO_HUGE.format("huge-unlink")),
    ("huge-worker-stack", "no-huge", _NO_HUGE.format("huge-worker-stack")),
    ("single-file-segments", "always", _NOT_WITH.format("single-file-segments", "huge-unlink")),
    ("in-memory", "never", _NOT_WITH.format("in-memory", "huge-unlink=never")),
    ("legacy", "in-memory", _NOT_WITH.format("legacy-mem", "in-memory")),
    ("legacy", "match-allocations", _NOT_WITH.format("legacy-mem", "match-allocations")),
)
_ARGPARSE_CONFLICTS = (
    ("allow", "block", _AB),
    ("no-auto-probing", "block", _PLAIN.format("no-auto-probing", "block (-b)", _AT_ONCE)),
    ("pagesz-mem", "no-huge", _PLAIN.format("pagesz-mem", "no-huge", _AT_ONCE)),
    ("pagesz-mem", "legacy-mem", _PLAIN.format("pagesz-mem", "legacy-mem", _AT_ONCE)),
    *(
        (*pair.split(), _QUOTED.format(*pair.split(), _AT_ONCE))
        for pair in (
            "no-auto-probing auto-probing|coremask lcores|service-coremask service-corelist|"
            "no-telemetry telemetry|memory-size numa-mem|no-huge numa-mem|"
            "no-huge huge-worker-stack|numa-limit legacy-mem|legacy-mem in-memory|"
            "legacy-mem match-allocations|no-huge match-allocations|no-huge huge-unlink|"
            "single-file-segments huge-unlink|no-huge single-file-segments|in-memory huge-unlink"
        ).split("|")
    ),
)
_SAME = {
    **dict.fromkeys(("a", "w", "pci-whitelist"), "allow"),
    **dict.fromkeys(("b", "pci-blacklist"), "block"),
    "socket-mem": "numa-mem",
    "socket-limit": "numa-limit",
}
_UNKNOWN = "leave it out, or choose a release of EAL that has it"


def _getopt(args: list[str], rows: list[Row]) -> Iterator[tuple[Row, str | None]]:
    """Yield options as getopt_long does: words without a dash are skipped, long names completed."""
    longs = {r[0]: r for r in rows if len(r[0]) > 1}
    shorts = {r[1] or r[0]: r for r in rows if r[1] or len(r[0]) == 1}
    it = iter(args)
    for arg in it:
        if arg == "--":
            return
        if arg[:2] == "--":
            name, eq, value = arg[2:].partition("=")
            hits = [name] if name in longs else [n for n in longs if n.startswith(name)]
            if not hits:
                raise _refused(f"unrecognized option '{arg}'", _UNKNOWN)
            if len(hits) > 1:
                raise _refused(f"option '{arg}' is ambiguous", f"write --{' or --'.join(hits)}")
            row = longs[hits[0]]
            if eq and row[2] == NO:
                raise _refused(f"option '--{row[0]}' doesn't allow an argument", "leave it out")
            missing = f"option '--{row[0]}' requires an argument"
            yield row, value if eq else _next(it, missing) if row[2] == MUST else None
            continue
        while arg[:1] == "-" and len(arg) > 1:  # letters may stand together: -vm64
            if arg[1] not in shorts:
                raise _refused(f"invalid option -- '{arg[1]}'", _UNKNOWN)
            row = shorts[arg[1]]
            if row[2] == MUST:
                yield row, arg[2:] or _next(it, f"option requires an argument -- '{arg[1]}'")
                break
            yield row, None
            arg = "-" + arg[2:]


def _argparse(args: list[str], rows: list[Row]) -> Iterator[tuple[Row, str | None]]:
    """Yield options as rte_argparse does: whole names, each once; `-m=64` and `-m64` are equal."""
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
            raise _refused(f"unknown argument {arg}!", _UNKNOWN)
        if row[0] in seen and row[0] not in _MANY:
            raise _refused(f"argument {name} should not occur multiple times!", "give it once")
        if value is not None and row[2] == NO:
            raise _refused(f"argument {name} should not take value!", "leave it out")
        seen.add(row[0])
        if value is None and row[2] == MUST:
            value = _next(it, f"argument {name} doesn't have value!")
        yield row, value


def _next(it: Iterator[str], missing: str) -> str:
    for value in it:
        return value
    raise _refused(missing, "append a value")


def _check_all(o: Options, names: set[str]) -> None:
    """Check what EAL checks after it has read all arguments. EalError(EINVAL)."""
    o.proc_type = o.proc_type.lower()
    if o.proc_type not in ("primary", "secondary", "auto"):
        raise _bad(o, "proc", o.proc_type, "primary, secondary or auto")
    if not o.file_prefix or "%" in o.file_prefix:
        raise _bad(o, "percent" if o.file_prefix else "prefix", o.file_prefix, "a name without %")
    if o.huge_dir == "":
        raise _bad(o, "dir", "", "a directory in a hugetlbfs mount")
    if o.release.arguments == "getopt":
        states = (
            ("legacy", o.legacy_mem),
            ("always", o.unlink_before_mapping and not o.in_memory),
            ("never", not o.unlink_existing),
        )
        _exclude(_GETOPT_CONFLICTS, names | {state for state, holds in states if holds})
        if o.socket_limit is not None and o.legacy_mem:
            o.log("ERR", "Option --socket-limit is only supported in non-legacy memory mode")
        unsized = o.legacy_mem and not o.memory and not sum((o.socket_mem or {}).values())
    else:
        unsized = "legacy-mem" in names and not names & {"memory-size", "numa-mem"}
    if unsized:
        change = "amount of reserved memory can be adjusted with -m or --socket-mem"
        o.log("NOTICE", f"Static memory layout is selected, {change}")


def _exclude(conflicts: Iterable[tuple[str, ...]], names: set[str]) -> None:
    for a, b, text in conflicts:
        if a in names and b in names:
            implied = a == "legacy" and "legacy-mem" not in names
            fix = "leave out one of them" + " (--no-huge implies --legacy-mem)" * implied
            raise _refused(text, fix, "no-huge" if implied or "no-huge" in (a, b) else "conflict")


def parse(args: list[str], release: Release, log: Log | None = None) -> Options:
    """Return the options as EAL of that release takes them. EalError(EINVAL) with EAL's phrase."""
    o = Options(release, log)
    rows = [r for r in _OPTIONS if r[4] <= release.line < r[5]]
    if release.arguments == "getopt":
        given = _getopt(args, rows)
    else:  # conflicts first, then the values in the table's order
        rank: dict[str, int] = {}
        for r in rows:
            rank.setdefault(_SAME.get(r[0], r[0]), len(rank))
        told = sorted(_argparse(args, rows), key=lambda g: rank[_SAME.get(g[0][0], g[0][0])])
        _exclude(_ARGPARSE_CONFLICTS, {_SAME.get(row[0], row[0]) for row, _ in told})
        given = iter(told)
    names = set()
    for (name, _, _, do, *_), value in given:
        names.add(_SAME.get(name, name))
        if do:
            do(o, value)
        if not do or do in _CHECKED:
            dashed = f"-{name}" if len(name) == 1 else f"--{name}"
            o.ignored.append(dashed if value is None else f"{dashed}={value}")
    _check_all(o, names)
    return o
