"""MSL: where memseg lists lie."""

import errno

import pytest

from conformance import ALL, DYNAMIC, GB, HUGE, MB, modes, needs, requirement, sizes
from conformance.harness import host
from conformance.harness.catalogue import holds
from conformance.harness.fake_host import GLOBAL, build
from conformance.harness.proc import PAGE, rounded

CONFIG = 0x100000000
SECOND_ARRAY = 0x500200000
LISTS = [0x100200000, 0x500400000]
HIGH = 0x200000001000  # far from what the kernel maps by itself; + 16 MiB, rounded down


def up(n, to):
    return -(-n // to) * to


def config(eal):
    """Bytes of the mapped config: 28672 with pages of 4 kB."""
    return rounded(eal.decode.sizeof("rte_mem_config"))


def area(length, elt_sz=48):
    """Bytes of an array: elements, 8, the mask; in whole pages."""
    return up(length * elt_sz + 8 + -(-length // 64) * 8, PAGE)


def files(eal):
    """Start of each shared file's mapping, by name."""
    return {m.path.rpartition("/")[2]: m for m in reversed(eal.maps())}


def by_turns(lists, cursor):
    """(array, list) addresses as one rising cursor gives them."""
    for m in lists:
        array, base = cursor, up(cursor + area(m.n_segs), m.page_sz)
        yield array, base
        cursor = base + m.len


@requirement("MSL-009")
@needs(pages={"2M": 2})
@modes(*HUGE)
def test_array_and_list_by_turns(start, mode, evidence):
    """For each list its array comes first, its segments right after it.

    | array 0 | up to a page of the list | list 0 ...... | array 1 | ... | list 1
    """
    eal = start("-m", "2")
    lists, mapped = eal.lists(), files(eal)
    cursor = CONFIG + area(2560, 72) + (0 if mode == "in-memory" else config(eal))
    want = list(by_turns(lists, cursor))
    evidence(" ".join(f"{array:#x} {at:#x}" for array, at in want))

    assert [m.base_va for m in lists] == [at for _, at in want]
    if mode != "in-memory":
        arrays = [mapped[f"fbarray_{m.name}"] for m in lists]
        assert [(a.start, a.len) for a in arrays] == [
            (at, area(m.n_segs)) for m, (at, _) in zip(lists, want, strict=True)
        ]


@requirement("MSL-010")
@needs(pages={"2M": 2})
@modes(*ALL)
@pytest.mark.parametrize(
    ("base", "cursor"),
    [(None, 0x100000000), (0x200000000, 0x200000000), (HIGH, 0x200001000000)],
    ids=["none", "round", "odd"],
)
def test_cursor_starts_at_4_gib_or_the_base_and_rises(start, mode, base, cursor, evidence):
    """Config first (with a base: below it), then memzones, then what the lists need."""
    eal = start("-m", "2", *([f"--base-virtaddr={base:#x}"] if base else []))
    first, mapped = eal.lists()[0], files(eal)
    at = cursor + (config(eal) if base is None and mode != "in-memory" else 0)
    array = at + area(2560, 72)
    if holds(">=26.07", eal.release) and mode not in ("no-huge", "legacy"):
        want = up(array, max(m.page_sz for m in eal.lists()))
    else:
        want = up(array + area(first.n_segs), first.page_sz)
    evidence(f"memzones at {at:#x}, first list at {first.base_va:#x}")

    zone = next(m for m in eal.maps() if m.start <= at < m.end)
    assert zone.perms.startswith("rw")
    if mode != "in-memory":
        assert (mapped["fbarray_memzone"].start, mapped["fbarray_memzone"].len) == (
            at,
            area(2560, 72),
        )
    assert first.base_va == want


@requirement("MSL-011")
@needs(pages={"2M": 2})
@modes("dynmem", "single-file")
def test_clean_run_lays_out_the_same_addresses(start, evidence):
    """Config, memzones, then list array and list by turns, from 4 GiB upwards."""
    eal = start("-m", "2")
    at, lists = files(eal), eal.lists()[:2]
    evidence(" ".join(f"{m.start:#x}:{name}" for name, m in at.items() if "fbarray" in name))

    assert (at["config"].start, at["config"].len) == (CONFIG, config(eal))
    zones = CONFIG + config(eal)  # 0x100007000 with pages of 4 kB
    array = zones + area(2560, 72)  # 0x100035000
    assert (at["fbarray_memzone"].start, at["fbarray_memzone"].len) == (zones, area(2560, 72))
    assert [at[f"fbarray_memseg-2048k-0-{i}"].start for i in (0, 1)] == [array, SECOND_ARRAY]
    assert at["fbarray_memseg-2048k-0-0"].len == area(8192)
    assert [(m.base_va, m.len) for m in lists] == [(va, 0x400000000) for va in LISTS]


@requirement("MSL-012")
@sizes({"2M": 3, "1G": 1})
@modes(*ALL)
def test_segment_lies_at_its_index(start, box, tmp_path, mode, page, evidence):
    """base_va is a multiple of the page size; segment i is mapped at base_va + i pages."""
    if mode == "legacy":  # which counts unreserved pages: fewer than the box has, if others run
        pools = {host.name(page): 1 if page > 2 * MB else 3}
        for at, tree in build(tmp_path, pools, show=[GLOBAL]).items():
            box.sh(f"mount --bind {tree} {at}")
    eal = start("-m", "4" if mode == "no-huge" else str(max(page >> 20, 4)))
    lists, segs = {m.index: m for m in eal.lists()}, eal.segments()
    mapped = [m for m in eal.maps() if m.perms[:2] == "rw"]
    evidence(f"{len(segs)} segments, bases {[hex(m.base_va) for m in lists.values()]}")

    assert segs
    assert [m for m in lists.values() if m.base_va % m.page_sz] == []
    for s in segs:
        m = lists[s.list]
        assert (s.addr, s.len) == (m.base_va + s.seg * m.page_sz, m.page_sz)
        assert any(x.start <= s.addr and s.addr + s.len <= x.end for x in mapped)


@requirement("MSL-013")
@needs(pages={"2M": 6})
@modes(*DYNAMIC)
def test_unused_segments_are_one_reservation(start, evidence):
    """No access, no dump; pages replace it and come back into it.

    init   [rw 0][--- 1 ........................ 8191]
    grown  [rw 0][rw 1 2][--- 3 ................ 8191]
    freed  [rw 0][--- 1 ........................ 8191]
    """
    eal = start("-m", "2")
    m = next(m for m in eal.lists() if m.count)

    def rest(seg):
        x = eal.map_at(m.base_va + seg * m.page_sz)
        return (x.start, x.end, x.perms, "dd" in x.flags, x.path)

    def free_from(seg):
        return (m.base_va + seg * m.page_sz, m.base_va + m.len, "---p", True, "")

    seen = [rest(1)]
    va = eal.malloc(3 * MB).va
    seen += [rest(3)]
    pages = [eal.map_at(s.addr) for s in eal.segments() if s.list == m.index]
    eal.free(va)
    seen += [rest(1)]
    evidence(f"{len(pages)} pages, the rest at {[hex(x[0]) for x in seen]}")

    assert len(pages) == 3
    assert [(p.perms[:2], "dd" in p.flags) for p in pages] == [("rw", False)] * 3
    assert seen == [free_from(1), free_from(3), free_from(1)]


class Cursor:
    """The cursor before the first reservation of segments, and the mappings in its way.

    cursor c     hint: c rounded up     c + PG: the next hint, as it is
    |            | taken                | free
    """

    def __init__(self, eal, mode):
        self.whole = holds(">=26.07", eal.release) and mode != "no-huge"
        self.page = {"no-huge": 4096, "in-memory": max(map(host.size, host.pools()))}.get(
            mode, 2 * MB
        )
        n = {4096: 512, 2 * MB: 8192}.get(self.page, 32)
        self.at = CONFIG + area(2560, 72) + (0 if mode == "in-memory" else config(eal))
        self.at += 0 if self.whole else area(n)
        self.hint = up(self.at, self.page)


@requirement("MSL-014")
@needs(pages={"2M": 2}, strace=True)
@modes("dynmem", "no-huge")
def test_reservation_takes_a_page_more_and_gives_the_slack_back(start, mode, evidence):
    """2M lists: size + 2M at the hint, not fixed, then both ends go; 4k areas: just the size.

    | before | list ........................ | after |   size + 2M
    """
    eal = start("-m", "2", init=False)
    c = Cursor(eal, mode)
    if mode == "dynmem":
        eal.block(c.hint)  # so that the next hint is not a multiple of 2M, and there is a before
    trace = eal.trace("mmap,munmap")
    eal.init()
    calls, lists = trace.stop(), eal.lists()
    base, length = lists[0].base_va, sum(m.len for m in lists) if c.whole else lists[0].len
    extra = c.page if c.page > PAGE else 0
    took = next(
        k
        for k in calls
        if k.name == "mmap"
        and (int(k.args[1]), k.args[2]) == (length + extra, "PROT_NONE")
        and k.ret <= base < k.ret + c.page
    )
    done = [k for k in calls if k.name == "munmap" and k.ret == 0]  # not cut off at the end
    gone = {(int(k.args[0], 16), int(k.args[1])) for k in done}
    before, after = base - took.ret, took.ret + extra - base
    evidence(f"{took.text}; slack {before:#x} before and {after:#x} after")

    assert int(took.args[0], 16) == took.ret == (c.at + c.page if extra else c.at)
    assert "MAP_FIXED" not in took.args[3]
    if extra:
        assert before and after
        assert {(took.ret, before), (base + length, after)} <= gone
    else:
        assert not any(at <= base < at + n or at == base + length for at, n in gone)


@requirement("MSL-015")
@needs(pages={"2M": 2})
@modes("dynmem", "single-file", "in-memory", "no-huge")
@pytest.mark.parametrize("far", [False, True], ids=["one-step", "given-up"])
def test_cursor_steps_over_what_is_taken_at_most_five_times(start, mode, far, evidence):
    """A step is a page of the list; after five the kernel's own choice is good enough.

    The cursor moves with each refusal, and stays there unless the hint was taken as it is.
    """
    eal = start("-m", "2", init=False)
    c = Cursor(eal, mode)
    eal.block(c.hint + (16 * c.page if far else 0))
    eal.init()
    lists = eal.lists()
    after = c.at + (6 if far else 1) * c.page
    if mode == "no-huge":
        after += 0 if far else lists[0].len
        array = eal.fbarray(8, 8).now.data
    else:
        array = next(m.start for m in eal.maps() if m.start <= after < m.end and "w" in m.perms)
    evidence(f"cursor {c.at:#x}, hint {c.hint:#x}: list at {lists[0].base_va:#x}, then {array:#x}")

    if far:
        assert lists[0].base_va > 1 << 44
        assert lists[0].base_va % c.page == 0
    else:
        assert lists[0].base_va == up(c.at + c.page, c.page)
    assert array == after


@requirement("MSL-016")
@needs(pages={"2M": 2})
@modes("dynmem", "single-file", "in-memory", "no-huge")
def test_hint_that_is_not_respected_is_said(start, mode, evidence):
    """A warning where --base-virtaddr was given (up to 21.11 always), else for debugging."""
    heard = []
    for base in ([], [f"--base-virtaddr={CONFIG:#x}"]):
        eal = start("-m", "2", "--log-level=lib.eal:notice", *base, init=False)
        c = Cursor(eal, mode)
        if base and mode != "in-memory":
            c.at -= config(eal)
            c.hint = up(c.at, c.page)
        eal.block(c.hint + 16 * c.page)
        eal.init()
        lines = (
            f"address hint ({c.at + 5 * c.page:#x} != ",
            "issues with mapping memory into secondary processes",
        )
        heard.append(tuple(bool(eal.logged(line)) for line in lines))
        eal.close()
    evidence(f"{heard}")

    assert heard == [(holds("<=21.11", eal.release),) * 2, (True, True)]


@requirement("MSL-017")
@needs(pages={"2M": 2})
@modes(*ALL)
def test_base_is_hexadecimal_and_rounded_up_to_16_mib(start, mode, evidence):
    """With and without 0x; what is no number is refused before anything is made."""
    found = []
    for text in ("0x200000001000", "200001000000"):
        eal = start("-m", "2", f"--base-virtaddr={text}")
        found.append(eal.lists()[0].base_va)
        eal.close()
    refused = start("--base-virtaddr=0x2g", init=False).refused()
    evidence(f"first list at {[hex(va) for va in found]}, garbage: {refused}")

    first = 0x200001000000 + area(2560, 72)
    page = 4096 if mode == "no-huge" else 2 * MB
    if mode == "in-memory":
        page = max(map(host.size, host.pools()))
    assert len(set(found)) == 1
    assert first < found[0] <= up(first + area(8192), page)
    assert refused.errno == errno.EINVAL


@requirement("MSL-018")
@needs(pages={"2M": 2})
@modes(*HUGE)
def test_too_little_address_space_is_the_end(start, mode, evidence):
    """20 GB of address space: nothing smaller is tried."""
    eal = start("-m", "2", init=False, rlimits={"as": 20 * GB})
    e = eal.refused()
    said = e.log + e.text
    evidence(e.text)

    assert e.errno == errno.ENOMEM
    assert "Cannot get a virtual area" in said
    what = "reserve" if holds(">=26.07", eal.release) else "allocate"
    assert f"Cannot {what} VA space for memseg list" in said
