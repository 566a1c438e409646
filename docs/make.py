"""What the documentation shows of fixtures: pictures, and the layouts of all releases."""

import subprocess
import sys
from pathlib import Path

from conformance import decode

HERE = Path(__file__).parent
FIXTURES = HERE.parent / "fixtures"
SHARED = """rte_mem_config rte_memseg_list rte_fbarray rte_memseg rte_memzone rte_tailq_head
malloc_heap malloc_elem hugepage_info hugepage_file mp_msg_internal malloc_mp_req""".split()


def picture(mode):
    """The map of Debian's 22.11 in that mode."""
    argv = [sys.executable, "-P", "-m", "pyeal", "map", "--svg", "-"]
    argv.append(FIXTURES / f"recordings/22.11-{mode}.zip")
    return subprocess.run(argv, check=True, capture_output=True, text=True, cwd="/").stdout


def members(struct):
    """name -> (offset, size, type), those of unnamed ones included"""
    found = {}
    for m in struct.get("members", ()):
        if m["name"]:
            dims = "".join(f"[{n}]" for n in m.get("dims", ()))
            found[m["name"]] = m["offset"], m["size"], m["type"] + dims
        else:
            for name, (offset, *rest) in members(m).items():
                found[name] = m["offset"] + offset, *rest
    return found


def layouts():
    """Every shared structure: sizes, and members with their offset in each release."""
    releases = decode.layouts()
    yield "# Layouts of all releases\n"
    yield "Of x86-64 Linux, from debug information: `fixtures/abi/layouts.json`. Offsets in bytes."
    yield "One column where all releases agree. `pyeal diff 22.11 24.11` compares two releases.\n"
    yield "| structure | " + " | ".join(releases) + " | where |"
    yield "|---|" + "---|" * (len(releases) + 1)
    for name in SHARED:
        of = [r["structs"].get(name) for r in releases.values()]
        where = next(s["shared"] for s in of if s)
        sizes = " | ".join(str(s["size"]) if s else "-" for s in of)
        yield f"| [`{name}`](#{name}) | {sizes} | {where} |"
    for name in SHARED:
        of = [members(r["structs"].get(name, {})) for r in releases.values()]
        same = all(m == of[0] for m in of)
        heads = ["all"] if same else list(releases)
        of = of[:1] if same else of
        yield f"\n## `{name}` {{#{name}}}\n"
        yield "| member | type | " + " | ".join(heads) + " |"
        yield "|---|---|" + "---|" * len(heads)
        for m in dict.fromkeys(k for one in of for k in one):
            kind = next(one[m][2] for one in of if m in one).replace("|", "\\|")
            cells = " | ".join(f"{one[m][0]} ({one[m][1]})" if m in one else "-" for one in of)
            yield f"| `{m}` | `{kind}` | {cells} |"


def pages():
    """path below docs/ -> text"""
    for mode in ("dynmem", "single-file", "legacy", "no-huge"):
        yield f"pictures/{mode}.svg", picture(mode)
    yield "layouts.md", "\n".join(layouts()) + "\n"


if __name__ == "__main__":
    for path, text in pages():
        (HERE / path).parent.mkdir(exist_ok=True)
        (HERE / path).write_text(text)
        print(f"docs/{path}")
