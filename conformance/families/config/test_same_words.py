"""CFG: pyeal and librte_eal of a release write the same words, each of which others read."""

import re

import pytest

from conformance import MB, needs, requirement
from conformance.harness import catalogue, fake_host

POOL = 6
ARGS = {
    "dynmem": ["-m", "4"],
    "nothing": [],
    "single-file": ["-m", "4", "--single-file-segments"],
    "legacy": ["-m", "4", "--legacy-mem", "--iova-mode=va"],  # PA would sort pages by frame
    "no-huge": ["-m", "8", "--no-huge"],
    "no-huge-va": ["-m", "8", "--no-huge", "--iova-mode=va"],
    "socket-mem": ["--socket-mem", "6"],
    "channels-ranks": ["-m", "4", "-n", "4", "-r", "2"],
    "base-virtaddr": ["-m", "4", "--base-virtaddr=0x200000001000"],
    "match": ["-m", "4", "--match-allocations"],
}
STACK = ["-m", "4", "--lcores=0@0,1@0", "--huge-worker-stack=3000"]
NEVER = ["-m", "4", "--huge-unlink=never"]
STRUCTS = {  # what a file is an array of; all others hold memsegs
    "hugepage_info": "hugepage_info",
    "hugepage_data": "hugepage_file",
    "fbarray_memzone": "rte_memzone",
}
OF_THIS_RUN = re.compile(r"iova|physaddr")  # frames
DRIFT = 0.0005  # of two measurements of the clock


@requirement("CFG-021")
@needs(pages={"2M": POOL})
@pytest.mark.parametrize(
    "args",
    [
        *(pytest.param(args, id=name) for name, args in ARGS.items()),
        pytest.param(STACK, id="worker-stack", marks=needs(release=">=22.07")),
        pytest.param(NEVER, id="never", marks=needs(release="keeps_old_files")),
    ],
)
def test_shared_files_are_word_by_word_those_of_librte_eal(
    start, make_box, tmp_path, args, evidence
):
    """Same arguments, same words, from the start over growth and release to the end.

    The other EAL is of the same release: pyeal beside a librte_eal, else the librte_eal of this
    machine or Debian's, if it is fetched. The clocks are measured, and rounded in the same way.
    Each has a box of its own, in which the counters show the same pool: others use the machine's.
    """
    pages = {} if "--no-huge" in args else {"2M": POOL}
    pool = fake_host.build(tmp_path / "host", {"2M": POOL})

    def begun(**more):
        box = make_box(pages, binds=pool)
        return start(*args, init=False, fresh=True, box=box, **more)

    eal = begun()
    other = begun(target="librte_eal" if eal.target == "pyeal" else f"pyeal:{eal.release}")
    if eal.target == "pyeal" and other.release != eal.release:
        other = begun(target=f"librte_eal:{eal.release[:5]}")
    if not catalogue.same_release(other.release, eal.release):
        pytest.skip(f"wanted librte_eal {eal.release}, found {other.release}")
    mine, theirs = life(eal), life(other)
    n = sum(len(data) for files in theirs.values() for data in files.values()) // 4
    evidence(f"{n} words of {', '.join(theirs['init'])} in {len(theirs)} steps")

    said = {step: differences(eal.decode, mine[step], theirs[step]) for step in theirs}
    assert said == {"init": [], "malloc": [], "free": [], "end": []}


def life(eal):
    """Run an EAL from its start to its end; return the shared files after each step.

    init --> malloc: in a page, of more than one (the heap grows), aligned --> free --> end
    """

    def files():
        found = [f for f in eal.run_files() if (eal.run / f).is_file()]
        return {f: (eal.run / f).read_bytes() for f in found}

    eal.init()
    seen = {"init": files()}
    areas = [eal.malloc(100).va, eal.malloc(3 * MB).va, eal.malloc(5000, align=4096).va]
    seen["malloc"] = files()
    for va in areas:
        eal.free(va)
    seen["free"] = files()
    eal.close()
    seen["end"] = files()
    return seen


# The comparison: a word that differs is told by its name in C, not by its offset.


def differences(decode, mine, theirs):
    """Return a sentence for each file, length and word in which two sets of files differ."""
    said = [f"only one has {f}" for f in sorted(mine.keys() ^ theirs.keys())]
    ends = ends_of_arrays(decode.config(theirs["config"]))
    for file in sorted(mine.keys() & theirs.keys()):
        got, want = mine[file], theirs[file]
        if len(got) != len(want):
            said.append(f"{file}: {len(got)} bytes, wanted {len(want)}")
        for at in unlike_words(got, want):
            name = name_of_word(decode, file, at, ends.get(file))
            if name == "tsc_hz":
                said += of_clocks(decode, got[at : at + 8], want[at : at + 8])
            elif not OF_THIS_RUN.search(name):
                said.append(f"{file} {name}: {word(got, at):#x}, wanted {word(want, at):#x}")
    return said


def of_clocks(decode, *words):
    """Return a sentence if two measurements of the clock are not near, or not rounded alike."""
    mine, theirs = (int.from_bytes(w, "little") for w in words)
    step = catalogue.fact("clock_step", decode.name)
    near = abs(mine - theirs) <= max(step, DRIFT * theirs)
    return (
        [] if near and not mine % step else [f"config tsc_hz: {mine}, wanted {theirs}, by {step}"]
    )


def ends_of_arrays(config):
    """{file: bytes of the elements}, after which an array's file has its mask."""
    arrays = config.memzones, *(m.memseg_arr for m in config.memsegs)
    return {f"fbarray_{a.name}": a.len * a.elt_sz for a in arrays}


def word(data, at):
    return int.from_bytes(data[at : at + 4], "little")


def unlike_words(a, b):
    """Offsets of the words in which two files differ, as far as both reach."""
    return [at for at in range(0, min(len(a), len(b)), 4) if a[at : at + 4] != b[at : at + 4]]


def name_of_word(decode, file, at, end):
    """config: a field of rte_mem_config; an array: [element].field, or a word of its mask."""
    if file == "config":
        return decode.name_at("rte_mem_config", at)
    if end is not None and at >= end:
        return f"mask + {at - end}"
    struct = STRUCTS.get(file, "rte_memseg")
    i, at = divmod(at, decode.sizeof(struct))
    return f"[{i}].{decode.name_at(struct, at)}"
