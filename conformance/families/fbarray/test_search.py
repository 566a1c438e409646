"""FBA: marking entries of a file-backed array, and searching it."""

import random
from errno import EINVAL, ENOENT, ENOSPC
from itertools import groupby

from conformance import requirement
from conformance.harness.catalogue import holds


@requirement("FBA-015")
def test_marking_twice_counts_once(eal, evidence):
    """set_used and set_free answer 0 each time, count follows real changes alone."""
    a = eal.fbarray(length=100, elt_sz=8)
    marks = [a.set_used, a.set_used, a.set_free, a.set_free, a.set_used]
    seen = [(mark(99), a.now.count, a.is_used(99)) for mark in marks]
    outside = [(mark(i), a.errno) for mark in marks[1:3] for i in (100, 127, 128, (1 << 32) - 1)]
    evidence(f"{[count for _, count, _ in seen]}; outside: {outside[0]}")

    assert seen == [(0, 1, 1), (0, 1, 1), (0, 0, 0), (0, 0, 0), (0, 1, 1)]
    assert outside == [(-1, EINVAL)] * 8
    assert (a.is_used(100), a.errno) == (-1, EINVAL)
    assert a.now.count == 1


@requirement("FBA-016")
def test_searches_say_why_there_is_no_answer(eal, evidence):
    """Nothing: ENOENT of used, ENOSPC of free entries; arguments out of bounds: EINVAL.

    mask 0 [0 # | 1 ..... 62 | 63 #]   mask 1 [64 # | 65 ..... 99 | tail]
    """
    a = eal.fbarray(length=100, elt_sz=8)
    a.set_used(0, 63, 64)
    kinds = {"used": ENOENT, "free": ENOSPC}

    def ask(fn, *args):
        return getattr(a, fn)(*args), a.errno

    found = {  # entry 65 and on are free, 1 to 62 are, 64 and 63 are used
        "find_next_used": (65,),
        "find_next_n_used": (0, 3),
        "find_prev_n_used": (99, 3),
        "find_next_n_free": (90, 11),
        "find_prev_n_free": (9, 11),
        "find_biggest_used": (65,),
        "find_prev_free": (0,),
        "find_rev_biggest_free": (0,),
    }
    nothing = {fn: ask(fn, *args) for fn, args in found.items()}
    evidence("; ".join(f"{fn}{found[fn]} {seen[1]}" for fn, seen in nothing.items()))

    assert nothing == {fn: (-1, kinds[fn[-4:]]) for fn in found}
    for kind in kinds:
        for fn in ("next", "prev", "contig", "rev_contig", "biggest", "rev_biggest"):
            assert ask(f"find_{fn}_{kind}", 100) == (-1, EINVAL)
        for way in ("next", "prev"):
            bad = [(100, 1), (50, 0), (50, 101)]
            assert [ask(f"find_{way}_n_{kind}", *x) for x in bad] == [(-1, EINVAL)] * 3
    assert (a.find_contig_used(1), a.find_rev_contig_used(62)) == (0, 0)
    assert (a.find_contig_free(63), a.find_rev_contig_free(64)) == (0, 0)
    assert (a.find_contig_free(65), a.find_rev_contig_free(62)) == (35, 62)


@requirement("FBA-017")
def test_biggest_run_is_the_lowest_of_equals(eal, evidence):
    """Two free runs of 61 entries: the search answers the lower one and clears rte_errno.

    mask 0 [0 ......... 60 | 61 #]   mask 1 [64 # | 65 ........ 125 | 126 #]
    """
    a = eal.fbarray(length=128, elt_sz=4)
    a.set_used(61, 62, 63, 64, 126, 127)
    assert a.find_next_free(128) == -1 and a.errno

    found = a.find_biggest_free(0)
    evidence(f"two free runs of 61 entries, at 0 and 65: found {found}")

    assert (found, a.errno) == (0, 0)


@requirement("FBA-021")
def test_search_for_n_loses_the_word_after_a_broken_run(eal, evidence):
    """A run that breaks off in word 1 hides the 20 free entries behind it there.

    mask 0 [0 # | 60 ....]   mask 1 [.... 67 | # | 80 ........ 99 | #]   mask 2 [#]
    """
    a = eal.fbarray(length=192, elt_sz=4)
    a.set_used(*range(60), *range(68, 80), *range(100, 192))
    found = a.find_next_n_free(0, 20), a.errno
    evidence(f"20 free entries at 80: found {found}; from 64 on {a.find_next_n_free(64, 20)}")

    assert found == (-1, ENOSPC)
    assert a.find_next_n_free(64, 20) == 80


@requirement("FBA-023")
def test_free_run_may_end_behind_the_last_entry(eal, evidence):
    """90 entries: 44 are wanted where 13 + 26 are free, 11 where 10 are; both are found.

    mask 0 [0 # | 51 ..... 63]   mask 1 [64 ......... 89 | tail: 38 bits that look free]
    """
    a = eal.fbarray(length=90, elt_sz=4)
    a.set_used(50)
    crossing = a.find_next_n_free(45, 44), a.find_next_n_used(45, 44)
    a.set_used(*range(40, 80))
    last = a.find_next_n_free(35, 11)
    evidence(f"51 to 89 free, 44 wanted: {crossing[0]}; 80 to 89 free, 11 wanted: {last}")

    assert crossing == (51, -1)
    assert last == 80
    assert (a.find_next_n_free(64, 11), a.errno) == (-1, ENOSPC)


# The model: entries as a list, each search by its definition.


class Model(list):
    """Answers as the C functions do: (result, rte_errno), the latter of failures alone."""

    def runs(self, used, base=0):
        at, found = base, []
        for value, group in groupby(self[base:]):
            n = len(list(group))
            found += [(at, n)] if value == used else []
            at += n
        return found

    def find(self, fn, start, n):
        words = fn.split("_")[1:]
        used, back = words[-1] == "used", words[0] in ("prev", "rev")
        if start >= len(self) or ("n" in words and not 0 < n <= len(self)):
            return -1, EINVAL
        if "contig" in words:
            way = self[start::-1] if back else self[start:]
            return way.index(not used) if (not used) in way else len(way), 0
        if "biggest" in words:
            runs = Model(self[: start + 1]).runs(used)[::-1] if back else self.runs(used, start)
            at = max(runs, key=lambda run: run[1], default=(-1, 0))[0]
        else:
            n = n if "n" in words else 1
            starts = range(start - n + 1, -1, -1) if back else range(start, len(self) - n + 1)
            at = next((i for i in starts if self[i : i + n] == [used] * n), -1)
        return at, 0 if at >= 0 else ENOENT if used else ENOSPC


FIND = [
    f"find_{way}_{kind}"
    for way in (
        "next",
        "prev",
        "next_n",
        "prev_n",
        "contig",
        "rev_contig",
        "biggest",
        "rev_biggest",
    )
    for kind in ("used", "free")
]


def operations(rnd, model):
    """A random sequence: runs set and freed, which grow long, and searches between them."""
    length = len(model)
    for _ in range(12):
        op = rnd.choice(["set_used", "set_used", "set_free"])
        n = rnd.choice([1, 2, rnd.randint(1, 30), rnd.randint(20, 140)])
        start = rnd.choice([rnd.randint(0, length), 64 * rnd.randint(0, length // 64)])
        for i in range(start, min(start + n, length + 1)):
            yield op, i, 0
        for fn in FIND:
            yield fn, rnd.randint(0, length), rnd.choice([rnd.randint(0, length), n, n + 1])
        yield "is_used", rnd.randint(0, length), 0
        yield "get", rnd.randint(0, length), 0


@requirement("FBA-022")
def test_random_sequences_answer_what_a_list_says(eal, evidence):
    """The same 5,000 operations on every target: results, errnos and counts are a plain list's.

    Not asked: find_next_n_free for what is not there, where a tail of the last word looks free.
    """
    rnd, asked = random.Random(22), 0
    unasked = None if holds(">=25.07", eal.release) else ("find_next_n_free", True)
    for length in (1, 63, 64, 65, 100, 128, 192, 257, 300):
        a, model = (
            eal.fbarray(length=length, elt_sz=4, name=f"of {length}"),
            Model([False] * length),
        )
        for op, i, n in operations(rnd, model):
            if op in FIND:
                want = model.find(op, i, n)
                if want[1] == ENOSPC and (op, bool(length % 64)) == unasked:
                    continue
                got = getattr(a, op)(i, n)
            else:
                want = (-1, EINVAL) if i >= length else (0, 0)
                if op == "is_used" and i < length:
                    want = int(model[i]), 0
                if op == "get":
                    want = (a.made.data + 4 * i, 0) if i < length else (0, EINVAL)
                elif op != "is_used" and i < length:
                    model[i] = op == "set_used"
                got = getattr(a, op)(i)
            asked += 1
            assert (got, a.errno if want[1] else 0) == want, f"{op}({i}, {n}) of {model.runs(True)}"
        assert a.now.count == sum(model)
        idx = [a.find_idx(a.made.data + x) for x in (0, 3, 4 * length - 1)]
        assert idx == [0, 0, length - 1]
        assert (a.find_idx(a.made.data + 4 * length), a.errno) == (-1, EINVAL)
        assert (a.find_idx(0), a.errno) == (-1, EINVAL)
    evidence(f"{asked} operations on 9 arrays of 1 to 300 entries")
