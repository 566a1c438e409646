"""`pyeal dump`: one of EAL's shared files, decoded with offsets."""

from __future__ import annotations

import ctypes
import os
from errno import EINVAL

from pyeal import builds, layout, releases
from pyeal.errors import EalError
from pyeal.fbarray import file_size, n_words
from pyeal.hugepage_data import RECORD
from pyeal.layout import Fbarray, Memseg, Memzone
from pyeal.look import core, snapshot
from pyeal.look.archives import Archive
from pyeal.look.arrays import KERNEL_PAGES, ArrayContent, shape
from pyeal.look.config import config_of
from pyeal.look.sources import Unreadable, read_file
from pyeal.tools import BOLD, DIM, Progress, count, document, ink, printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator
    from typing import Any

    Dict = dict[str, Any]

TEXT = f"""Decode one of EAL's shared files, with offsets: config, hugepage_info, hugepage_data,
fbarray_*; of any release, {releases.SPAN}; config names its release. The file may be in a tar or
zip file, ARCHIVE:PATH, or in the core file of a process, CORE:NAME. An archive, a core or a
directory alone lists the files that can be decoded.
Exit code: 0; 1 if it cannot be read; 2 for wrong arguments."""
EXAMPLES = """  pyeal dump /var/run/dpdk/rte/config                 what is not zero, with offsets
  pyeal dump core.4711:config                         from the core file of a process
  pyeal dump --json sos.tar.xz:var/run/dpdk/rte/fbarray_memzone"""

HEX = (
    "addr",
    "base_va",
    "data",
    "iova",
    "magic",
    "version",
    "mem_cfg_addr",
    "mem_va_addr",
    "first",
    "last",
    "tqh_first",
    "tqh_last",
    "free_head",
    "orig_va",
    "final_va",
    "physaddr",
)
PADS = ("pad", "rest", "tail")  # of layout.py: what the compiler leaves between members
KINDS = ("config", "hugepage_info", "hugepage_data", "fbarray")
ELEMENTS: dict[int, tuple[str, type]] = {48: ("memseg", Memseg), 72: ("memzone", Memzone)}
# a word behind the elements counts the mask's words: what tells an array's length from its bytes
SIZES = (*ELEMENTS, 1, 2, 4, 8, 16, 32, 64, 128)


def arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("file", metavar="FILE", help="file, ARCHIVE:PATH, CORE:NAME, archive, core")
    p.add_argument("--kind", choices=KINDS, help="what it is, where its name does not say")
    p.add_argument("-a", "--all", action="store_true", help="also what is zero or unused")
    p.add_argument("--json", action="store_true", help="as JSON, schema pyeal.dump/1")


def run(args: argparse.Namespace) -> int:
    try:
        with Progress(f"reading {args.file}"):
            found = load(args.file)
        if isinstance(found, list):
            names = "\n".join(map(printable, found))
            print(document("dump", {"files": found}) if args.json else names)
            return 0
        name, data = found
        kind = args.kind or kind_of(name)
        facts, fields = decode(kind, data, name)
    except Unreadable as e:
        raise EalError(EINVAL, "dump", f"{args.file}: {e}") from None
    shown = [f for f in fields if args.all or f[3]]
    if args.json:
        rows = [dict(zip(("offset", "size", "name", "value"), f, strict=True)) for f in shown]
        print(document("dump", {"file": args.file, **facts, "fields": rows}))
        return 0
    said = ", ".join(f"{k} {v}" for k, v in facts.items() if not isinstance(v, (list, dict)))
    print(ink(printable(args.file), BOLD) + f"  {said}")
    if kind == "config" and (note := config_of(data)[1].note):
        print(note)
    for offset, size, name, value in shown:
        print(f"{ink(f'{offset:#8x} {size:5}', DIM)}  {name:<44} {text_of(name, value)}")
    if not args.all and len(fields) > len(shown):
        print(ink(f"{count(len(fields) - len(shown), 'field')} of zeros: --all shows them", DIM))
    return 0


def text_of(name: str, value: object) -> str:
    last = name.rpartition(".")[2].partition("[")[0]
    if isinstance(value, int) and value > 9 and last in HEX:
        return hex(value)
    return repr(value) if isinstance(value, str) else str(value)


# --- reading


def load(path: str) -> tuple[str, bytes] | list[str]:
    """(name, content) of a file, ARCHIVE:PATH or CORE:NAME; of an archive alone, what is in it."""
    if os.path.isfile(path):
        if core.is_core(path):
            return [f"{path}:{n}" for n in core.Core(path).names() if _known(n)]
        if path.endswith((".zip", ".tar", ".tgz", ".txz")) or ".tar." in path:
            archive = Archive(path, "")
            return [f"{path}:{n}" for n in archive.files if _known(n)]
        return os.path.basename(path), read_file(path)
    file, _, inner = path.partition(":")
    if inner and os.path.isfile(file):
        if core.is_core(file):
            return inner, core.Core(file).read(inner)
        folder, _, name = inner.rpartition("/")
        return name, Archive(file, folder).read(name)
    if os.path.isdir(path):
        return [f"{path}/{n}" for n in sorted(os.listdir(path)) if _known(n)]
    raise FileNotFoundError(2, os.strerror(2), path)


def _known(name: str) -> bool:
    name = name.rpartition("/")[2]
    return name in KINDS or name.startswith("fbarray_")


def kind_of(name: str) -> str:
    if name.startswith("fbarray_"):
        return "fbarray"
    if name in KINDS:
        return name
    raise Unreadable(f"its name says nothing: --kind {'|'.join(KINDS)} does")


Field = tuple[int, int, str, object]


def decode(kind: str, data: bytes, name: str = "") -> tuple[Dict, list[Field]]:
    """(facts, (offset, size, name, value) of each member) of a file's content. Unreadable."""
    if kind == "config":
        c, release, abi = config_of(data)
        facts: Dict = {"kind": kind, "release": release.name, "layout": release.family}
        if abi.line != layout.ABI.line:
            facts["for"] = " or ".join(builds.like(abi.line))
        facts["build"] = builds.facts(abi)
        return facts, list(fields(c))
    if kind == "hugepage_info":
        records, nodes = snapshot.shape_of(data)
        info = layout.hugepage_info(nodes)
        facts = {"kind": kind, "nodes": nodes}
        facts["build"] = {"nodes": nodes, "hugepage_sizes": records}
        return facts, list(_records(info, data, "", ctypes.sizeof(info)))
    if kind == "hugepage_data":
        n = len(snapshot.hugepage_data(data))
        return {"kind": kind, "records": n}, list(
            _records(layout.hugepage_file(), data[: n * RECORD], "")
        )
    return _array(data)


def _records(kind: type, data: bytes, head: str, step: int = 0) -> Iterator[Field]:
    step = step or ctypes.sizeof(kind)
    for i, at in enumerate(range(0, len(data) - step + 1, step)):
        yield from fields(kind.from_buffer_copy(data, at), at, f"{head}[{i}].")  # type: ignore[attr-defined]


def _array(data: bytes) -> tuple[Dict, list[Field]]:
    """Decode an array without its descriptor in config: the mask's count tells its shape."""
    try:
        elt_sz, length = shape(data, SIZES)
        content = ArrayContent(data, length, elt_sz)
    except ValueError:
        raise Unreadable(f"{len(data)} bytes are no array of a size that is known") from None
    end = elt_sz * length
    pages = (p for p in KERNEL_PAGES if file_size(length, elt_sz, p) == len(data))
    name, kind = ELEMENTS.get(elt_sz, ("element", None))
    used = content.runs()
    facts: Dict = {
        "kind": "fbarray",
        "elements": name,
        "elt_sz": elt_sz,
        "len": length,
        "count": content.used.bit_count(),
        "mask_offset": end + 8,
        "runs": [list(r) for r in used],
        "build": {"kernel_page": next(pages)},
    }
    found: list[Field] = [(end, 4, "mask.n_masks", int.from_bytes(data[end : end + 4], "little"))]
    for start, n in used:
        for i in range(start, start + n):
            at = i * elt_sz
            if kind:
                found += fields(kind.from_buffer_copy(data, at), at, f"[{i}].")  # type: ignore[attr-defined]
            else:
                found.append((at, elt_sz, f"[{i}]", data[at : at + elt_sz].hex()))
    for i in range(n_words(length)):
        at = end + 8 + 8 * i
        found.append((at, 8, f"mask.data[{i}]", int.from_bytes(data[at : at + 8], "little")))
    return facts, sorted(found)


# --- structures


def fields(c: Any, at: int = 0, head: str = "") -> Iterator[Field]:
    """(offset, size, name, value) of every member of a structure, nested ones spelt out."""
    for name, kind in c._fields_:
        if name in PADS and hasattr(kind, "_length_"):
            continue
        member = getattr(type(c), name)
        yield from _field(getattr(c, name), kind, at + member.offset, f"{head}{name}")


def _field(value: Any, kind: Any, at: int, name: str) -> Iterator[Field]:
    size = ctypes.sizeof(kind)
    if isinstance(value, bytes):
        yield at, size, name, value.decode("utf-8", "replace")
    elif isinstance(value, ctypes.Array):
        step = size // len(value)
        for i, v in enumerate(value):
            yield from _field(v, kind._type_, at + i * step, f"{name}[{i}]")
    elif isinstance(value, ctypes.Structure):
        yield from fields(value, at, name + ".")
    else:
        yield at, size, name, value


def members(kind: Any, at: int = 0, head: str = "") -> dict[str, tuple[int, int]]:
    """{name: (offset, size)} of a structure's members; of an array only its first element."""
    found: dict[str, tuple[int, int]] = {}
    for name, k in kind._fields_:
        if name in PADS and hasattr(k, "_length_"):
            continue
        offset, size, label = at + getattr(kind, name).offset, ctypes.sizeof(k), f"{head}{name}"
        one = k
        if hasattr(k, "_length_") and k._type_ is not ctypes.c_char:
            label, one = f"{label}[{k._length_}]", k._type_
        found[label] = offset, size
        if hasattr(one, "_fields_"):
            found |= members(one, offset, label + ".")
    return found


STRUCTS: dict[str, Callable[..., Any]] = {  # by family, nodes and build
    "rte_mem_config": lambda family, nodes, abi=layout.ABI: layout.config(family, abi),
    "hugepage_info": lambda family, nodes, abi=layout.ABI: layout.hugepage_info(nodes),
    "rte_fbarray": lambda family, nodes, abi=layout.ABI: Fbarray,
    "rte_memseg_list": lambda family, nodes, abi=layout.ABI: layout.MemsegList,
    "rte_memseg": lambda family, nodes, abi=layout.ABI: Memseg,
    "rte_memzone": lambda family, nodes, abi=layout.ABI: Memzone,
    "malloc_heap": lambda family, nodes, abi=layout.ABI: layout.malloc_heap(abi),
    "malloc_elem": lambda family, nodes, abi=layout.ABI: layout.MallocElem,
    "hugepage_file": lambda family, nodes, abi=layout.ABI: layout.hugepage_file(),
}
