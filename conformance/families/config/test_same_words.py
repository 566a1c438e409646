"""CFG: every word that others read is the one that librte_eal 22.11 writes."""

import re

import pytest

from conformance import needs, requirement
from conformance.harness.child import TargetDied
from conformance.harness.eal import Eal
from conformance.harness.fake_host import build

POOL = 6
LONG = 3 << 20  # more than a 2M page: the heap must grow
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
    "never": ["-m", "4", "--huge-unlink=never"],
    "match": ["-m", "4", "--match-allocations"],
}
STRUCTS = {
    "hugepage_info": "hugepage_info",
    "hugepage_data": "hugepage_file",
    "fbarray_memzone": "rte_memzone",
}
OTHERS = re.compile(r"iova|physaddr|tsc_hz")  # of this run: frames and the clock


def word_of(decode, file, at, elements):
    """Name of the word at an offset of a file; elements: bytes of an array before its mask."""
    if elements is not None and at >= elements:
        return f"mask + {at - elements}"
    if file == "config":
        return decode.name_at("rte_mem_config", at)
    struct = STRUCTS.get(file, "rte_memseg")
    i, at = divmod(at, decode.sizeof(struct))
    return f"[{i}].{decode.name_at(struct, at)}"


def differences(decode, mine, theirs):
    """Sentences: names of the words in which two sets of files differ."""
    said = [f"only one has {f}" for f in sorted(set(mine) ^ set(theirs))]
    config = decode.config(theirs["config"])
    ends = {
        a.name: a.len * a.elt_sz for a in (config.memzones, *(m.memseg_arr for m in config.memsegs))
    }
    for file in sorted(set(mine) & set(theirs)):
        a, b = mine[file], theirs[file]
        if len(a) != len(b):
            said.append(f"{file}: {len(a)} bytes, wanted {len(b)}")
        end = ends.get(file.removeprefix("fbarray_"))
        for at in range(0, min(len(a), len(b)), 4):
            if a[at : at + 4] != b[at : at + 4]:
                name = word_of(decode, file, at, end)
                if not OTHERS.search(name):
                    got, want = (int.from_bytes(x[at : at + 4], "little") for x in (a, b))
                    said.append(f"{file} {name}: {got:#x}, wanted {want:#x}")
    return said


def life(eal):
    """The shared files after each step of a life, by step."""

    def files():
        found = [f for f in eal.run_files() if (eal.run / f).is_file()]
        return {f: (eal.run / f).read_bytes() for f in found}

    eal.init()
    seen = {"init": files()}
    areas = [eal.malloc(100).va, eal.malloc(LONG).va, eal.malloc(5000, 4096).va]
    seen["malloc"] = files()
    for va in areas:
        eal.free(va)
    seen["free"] = files()
    eal.close()
    seen["end"] = files()
    return seen


@pytest.fixture
def lives(request, make_box, tmp_path, prefix):
    """lives(args): what the target leaves, and what librte_eal leaves, in equal boxes."""

    counters = build(tmp_path, {"2M": POOL}, {0: "0-7"})  # others use the pool meanwhile

    def run(target, args, release=None):
        box = make_box({} if "--no-huge" in args else {"2M": POOL}, binds=counters)
        args = [*args, "--file-prefix", f"{prefix}_words"]
        eal = Eal(target, args, box, tmp_path, f"{prefix}_words")
        try:
            if release not in (None, eal.release):
                pytest.skip(f"wanted librte_eal {release}, found {eal.release}")
            return life(eal), eal
        finally:
            eal.kill()

    def both(args):
        mine, eal = run(request.config.getoption("target"), args)
        try:
            theirs, _ = run("librte_eal", args, eal.release)
        except TargetDied:
            pytest.skip(f"wanted librte_eal {eal.release}, found none")
        return eal.decode, mine, theirs

    return both


@requirement("CFG-021")
@needs(pages={"2M": POOL})
@pytest.mark.parametrize("args", ARGS.values(), ids=ARGS)
def test_shared_files_are_word_by_word_those_of_librte_eal(lives, args, evidence):
    """Same arguments, same words, from the start over growth and release to the end."""
    decode, mine, theirs = lives(args)
    said = {step: differences(decode, mine[step], theirs[step]) for step in theirs}
    words = sum(len(b) for step in theirs.values() for b in step.values()) // 4
    evidence(f"{words} words of {', '.join(theirs['init'])} in {len(theirs)} steps")

    assert said == {step: [] for step in theirs}
