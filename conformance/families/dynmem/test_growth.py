"""DYN: the pages of the start, and those that the heap allocates and frees later."""

import errno
import re

from conformance import ALL, DYNAMIC, MB, modes, needs, requirement
from conformance.harness import catalogue

HEADER = 128  # of every heap element, inside the page
KEPT = 1
PAGE = 2 * MB


def one_page(pages=1):
    """The biggest area that n new pages of 2 MB hold: too big for what the first page has left."""
    return pages * PAGE - HEADER - 64


def at(eal):
    """(list, segment) of each page, from the first list of 2 MB pages on."""
    first = min(m.index for m in eal.lists() if m.page_sz == PAGE)
    return [(s.list - first, s.seg) for s in eal.segments()]


@requirement("DYN-002")
@needs(pages={"2M": 4})
@modes(*DYNAMIC)
def test_the_heap_grows_for_service_tables(start, mode, evidence):
    """Without -m pages are in use all the same, without do-not-free: the heap took them."""
    eal = start()
    segs = eal.segments()
    evidence(f"{len(segs)} page(s), flags {[s.flags for s in segs]}")

    assert segs and not any(s.flags for s in segs)
    if mode != "in-memory":
        array = eal.array("memseg-2048k-0-0")
        assert array.used == [s.seg for s in segs]
        assert [array[i].flags for i in array.used] == [0] * len(segs)


@requirement("DYN-010")
@needs(pages={"2M": 4}, strace=True, release="<26.07")
@modes(*DYNAMIC)
def test_a_list_without_a_page_is_skipped(start, mode, box, evidence):
    """Segment 0 of list 0 cannot be allocated: the next list serves, from its segment 0 on.

    list 0 [ x . . . ... ]   list 1 [ # # . . ... ]
    """
    eal = start("-m", "4", init=False)
    if mode == "in-memory":  # the first memfd is the probe's
        probes = catalogue.holds("<25.11", eal.release)
        trace = eal.trace("memfd_create", inject=f"memfd_create:error=ENOMEM:when={1 + probes}")
    else:
        path = f"{box.hugedir('2M')}/{eal.prefix}map_0"
        trace = eal.trace("flock", inject="flock:error=ENOLCK", path=path)
    eal.init()
    injected = sum(c.injected for c in trace.stop())
    evidence(f"{injected} calls failed; (list, segment) {at(eal)}")

    assert injected
    assert at(eal) == [(1, 0), (1, 1)]


@requirement("DYN-011")
@needs(pages={"2M": 4}, strace=True, release="<26.07")
@modes("dynmem")
def test_a_page_that_fails_again_ends_its_list(start, box, evidence):
    """Segment 1 fails each time: three pages are segment 0 of list 0, then two of list 1.

    list 0 [ # x . . ... ]   list 1 [ # # . . ... ]
    """
    eal = start("-m", "6", init=False)
    path = f"{box.hugedir('2M')}/{eal.prefix}map_1"
    trace = eal.trace("flock", inject="flock:error=ENOLCK", path=path)
    eal.init()
    injected = sum(c.injected for c in trace.stop())
    evidence(f"{injected} calls failed; (list, segment) {at(eal)}")

    assert injected == 2
    assert at(eal) == [(0, 0), (1, 0), (1, 1)]


@requirement("DYN-012")
@needs(pages={"2M": 4})
@modes("dynmem", "single-file")
def test_init_fails_when_no_list_has_a_page(start, evidence):
    """Eight pages are requested, the pool counts eight but has four: ENOMEM."""
    eal = start("-m", "16", init=False)
    refusal = eal.refused()
    evidence(refusal.text)

    assert refusal.errno == errno.ENOMEM
    assert eal.logged("Cannot init memory")


@requirement("DYN-019")
@needs(pages={"2M": 4})
@modes("dynmem")
def test_a_failed_start_leaves_its_page_files(start, evidence):
    """The four pages that were allocated before the failure remain as files."""
    eal = start("-m", "16", init=False)
    eal.refused()
    left = eal.page_files()
    eal.kill()
    evidence(f"left: {left}")

    for name in left:
        (eal.hugedir() / name).unlink()
    assert len(left) == 4


@requirement("DYN-013")
@needs(pages={"2M": 6})
@modes(*DYNAMIC)
def test_preallocated_pages_stay_until_cleanup(start, evidence):
    """Two pages of -m 4 keep flag 1 and their places while the heap grows and shrinks."""
    eal = start("-m", "4")
    before = eal.segments()
    va = eal.malloc(one_page(3)).va
    grown = eal.segments()
    eal.free(va)
    after = eal.segments()
    evidence(f"pages {len(before)}, {len(grown)}, {len(after)}; flags {[s.flags for s in grown]}")

    assert [s.flags for s in before] == [KEPT] * 2
    assert [s.flags for s in grown] == [KEPT] * 2 + [0] * 3
    assert after == before


@requirement("DYN-014")
@needs(pages={"2M": 4})
@modes(*DYNAMIC)
def test_growth_stays_below_the_limit(start, evidence):
    """-m 2: the heap must stay below the limit, reaching it is refused; 0 is no limit.

    limit          4        6        8       0
    +1 page        no       yes      yes     yes
    +2 pages       no       no       yes     yes
    """
    want = {"4": [False, False], "6": [True, False], "8": [True, True], "0": [True, True]}
    found, option = {}, "--socket-limit"
    for limit in want:
        eal = start("-m", "2", option, limit)
        found[limit] = []
        for pages in 1, 2:
            va = eal.malloc(one_page(pages), socket=0).va
            found[limit].append(bool(va))
            if va:
                eal.free(va)
        eal.close()
        if catalogue.holds(">=25.11", eal.release):
            option = "--numa-limit"
    evidence(f"limit: +1, +2 pages: {found}")

    assert found == want


@requirement("DYN-015")
@needs(pages={"2M": 4})
@modes(*DYNAMIC)
def test_the_limit_does_not_bind_the_start(start, evidence):
    """-m 8 --socket-limit 4: 8 MB."""
    eal = start("-m", "8", "--socket-limit", "4")
    size = eal.info().physmem_size
    evidence(f"{size >> 20} MB")

    assert size == 8 * MB


@requirement("DYN-016")
@needs(pages={"2M": 4})
@modes(*ALL)
def test_each_run_of_pages_enters_its_heap(start, mode, evidence):
    """One element for each run of pages that is one in addresses, and total_size their sum."""
    eal = start("-m", "8")
    runs = [v.len >> 20 for v in eal.walk("contig").visits]
    added = re.findall(r"Added (\d+)M to heap on socket (\d+)", eal.log)
    evidence(f"runs {runs} MB; added {added}")

    assert sum(runs) == 8
    assert [(int(n), int(node)) for n, node in added] == [(n, 0) for n in runs]
    if mode != "in-memory":
        heap = eal.config().malloc_heaps[0]
        assert (heap.name, heap.total_size) == ("socket_0", 8 * MB)


@requirement("DYN-017")
@needs(pages={"2M": 7})
@modes(*DYNAMIC)
def test_growth_is_size_and_header_rounded_up_to_pages(start, evidence):
    """What is asked for, aligned, and 128 bytes of header: as many pages, in a row or none.

    7000000 bytes                 4 pages of 2 MB
    2 MB - 128                    1 page: fits with its header
    2 MB - 64                     2 pages
    1 MB aligned to 2 MB          2 pages
    """
    eal = start("-m", "2")
    found = []
    for size, align in (7000000, 0), (PAGE - 128, 0), (PAGE - 64, 0), (MB, PAGE):
        va = eal.malloc(size, align).va
        new = eal.segments()[1:]
        found.append(len(new))
        assert [s.addr for s in new] == [new[0].addr + i * PAGE for i in range(len(new))]
        eal.free(va)
    evidence(f"new pages: {found}")

    assert found == [4, 1, 2, 2]
    assert len(eal.segments()) == 1


@requirement("DYN-018")
@needs(pages={"2M": 4})
@modes(*DYNAMIC)
def test_match_allocations_returns_whole_growths_only(start, evidence):
    """3 MB grew the heap by 4, and 600 kB lie in what is left: pages go when both are free.

    [ 3 MB ............ | 600 kB | ]   2 pages, one growth
    """
    eal = start("-m", "2", "--match-allocations")
    big = eal.malloc(3 * MB).va
    small = eal.malloc(600 << 10).va
    where = [eal.virt2memseg(va).seg for va in (big, small)]
    pages = [len(eal.segments())]
    for va in big, small:
        eal.free(va)
        pages.append(len(eal.segments()))
    evidence(f"in segments {where}; pages: {pages}")

    assert 0 not in where  # neither is in the page of the start
    assert pages == [3, 3, 1]
