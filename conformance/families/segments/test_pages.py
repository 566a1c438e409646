"""SEG: a page in its place: mapping, size, address, node, record."""

import errno

from conformance import DYNAMIC, MB, modes, needs, requirement, sizes
from conformance.harness import host, proc

KEPT = 1


def all_of(page, box):
    """-m for every page of the box."""
    pages = box.pages or box.lease
    return str(pages[host.name(page)] * (page >> 20))


def of_size(segs, page):
    """In memory the machine's other page sizes are there too."""
    return [s for s in segs if s.hugepage_sz == page]


@requirement("SEG-008")
@sizes({"2M": 3, "1G": 1})
@modes("dynmem", "single-file")
def test_files_are_as_long_as_their_pages(start, page, mode, box, evidence):
    """A page's own file is a page long, a list's file reaches to the end of its last page."""
    eal = start("-m", all_of(page, box))
    segs, size = eal.segments(), host.name(page)
    stats = [(eal.hugedir(size) / f).stat() for f in eal.page_files(size)]
    found = [(st.st_size // page, st.st_blocks * 512 // page) for st in stats]
    evidence(f"{len(segs)} pages; (length, blocks) of the files in pages: {found}")

    assert found == ([(1, 1)] * len(segs) if mode == "dynmem" else [(len(segs), len(segs))])


@requirement("SEG-009")
@sizes({"2M": 3, "1G": 1})
@modes(*DYNAMIC)
def test_pages_are_mapped_in_their_places(start, page, box, evidence):
    """Segment s lies at base_va + s * page size, shared, read-write, all of it in memory;
    what follows stays a reservation without access."""
    eal = start("-m", all_of(page, box))
    msl = next(m for m in eal.lists() if m.page_sz == page)
    segs = of_size(eal.segments(), page)
    spans = sorted({(m.start, m.end): m for s in segs for m in [eal.map_at(s.addr)]}.items())
    rest = eal.map_at(segs[-1].addr + page)
    evidence(f"{[(f'{a:#x}-{b:#x}', m.perms, m.huge >> 20) for (a, b), m in spans]}")

    assert [s.addr for s in segs] == [msl.base_va + s.seg * page for s in segs]
    assert [s.addr for s in segs] == [msl.base_va + i * page for i in range(len(segs))]
    assert {(m.perms, m.page_sz) for _, m in spans} == {("rw-s", page)}
    assert sum(m.huge for _, m in spans) == len(segs) * page == sum(b - a for (a, b), _ in spans)
    assert (rest.start, rest.perms) == (segs[-1].addr + page, "---p")
    assert rest.end >= msl.base_va + msl.len  # 26.07 reserves all lists at once


@requirement("SEG-012")
@needs(phys=True, strace=True)
@sizes({"2M": 3, "1G": 1})
@modes(*DYNAMIC)
def test_iova_is_the_frame_or_the_address(start, page, box, evidence):
    """PA: the frame that pagemap shows. VA: the address. A page without a frame is not used.

    The third start's pagemap works once, when EAL asks whether there are physical addresses.
    """
    for iova_mode in "pa", "va":
        eal = start("-m", all_of(page, box), "--iova-mode", iova_mode)
        segs = of_size(eal.segments(), page)
        want = [proc.frame(eal.pid, s.addr) if iova_mode == "pa" else s.addr for s in segs]
        evidence(f"{iova_mode}: {[f'{s.iova:#x}' for s in segs]}")
        eal.close()

        assert segs and [s.iova for s in segs] == want
    if page == 2 * MB:
        eal = start("-m", all_of(page, box), "--iova-mode", "pa", init=False)
        eal.trace(
            "openat,pread64",
            inject=[f"{call}:error=EIO:when=2+" for call in ("openat", "pread64")],
            path=["/proc/self/pagemap", f"/proc/{eal.pid}/pagemap"],
        )
        refusal = eal.refused()
        evidence(f"no frames: errno {refusal.errno}")

        assert refusal.errno == errno.ENOMEM
        assert eal.logged("can't get IOVA addr")


@requirement("SEG-015")
@sizes({"2M": 3, "1G": 1})
@modes(*DYNAMIC)
def test_records_say_all_of_their_pages(start, page, mode, box, evidence):
    """iova, addr, len, page size, node, -n, -r and flags, in 48 bytes; one used bit for each.

    -n and -r are zero in the pages of the start, and always in memory that is not shared.
    """
    growth = page == 2 * MB
    memory = (int(all_of(page, box)) << 20) - growth * 2 * page
    eal = start("-m", str(memory >> 20), "-n", "3", "-r", "5", "--iova-mode", "va")
    if growth:  # an area that needs two new pages: 128 bytes are its header's
        assert eal.malloc(2 * page - 192).va
    msl = next(m for m in eal.lists() if m.page_sz == page)
    segs = of_size(eal.segments(), page)
    node = proc.node(eal.pid, segs[0].addr)
    if mode == "in-memory":
        found, used = segs, [s.seg for s in segs]
    else:
        array = eal.array(msl.name)
        found, used = [array[i] for i in array.used], array.used
    fields = ["iova", "addr", "len", "hugepage_sz", "socket_id", "nchannel", "nrank", "flags"]
    rows = [tuple(f[k] for k in fields) for f in found]
    evidence(f"{fields}: {rows}")

    end = msl.base_va + memory
    want = [(va, va, page, page, node, 0, 0, KEPT) for va in range(msl.base_va, end, page)]
    if growth:
        told = (0, 0) if mode == "in-memory" else (3, 5)
        want += [(va, va, page, page, node, *told, 0) for va in (end, end + page)]
    assert used == list(range(len(want))) and msl.count == len(want)
    assert rows == want


@requirement("SEG-025")
@needs(pages={"2M": 3})
@modes(*DYNAMIC)
def test_neighbours_have_files_or_offsets_of_their_own(start, mode, evidence):
    """A file a page: each page is a mapping and an inode. One file: one inode, offset by offset."""
    eal = start("-m", "6")
    segs = of_size(eal.segments(), 2 * MB)
    maps = [eal.map_at(s.addr) for s in segs]
    inodes = {m.inode for m in maps}
    offsets = [m.offset + s.addr - m.start for m, s in zip(maps, segs, strict=True)]
    evidence(f"{len({m.start for m in maps})} mappings, {len(inodes)} inodes, offsets {offsets}")

    if mode == "single-file":
        assert (len(inodes), offsets) == (1, [0, 2 * MB, 4 * MB])
    else:
        assert [(m.start, m.end) for m in maps] == [(s.addr, s.addr + 2 * MB) for s in segs]
        assert (len(inodes), offsets) == (3, [0, 0, 0])


@requirement("SEG-026")
@needs(pages={"2M": 3}, strace=True, release=">=22.03")
def test_each_page_costs_its_calls_in_this_order(start, evidence):
    """Look, open, lock, size, SIGBUS handler, map, then in PA mode the frame, and the node."""
    calls = (
        "newfstatat openat flock ftruncate rt_sigaction mmap rt_sigprocmask lseek read "
        "get_mempolicy"
    ).split()
    want = (
        "newfstatat openat flock ftruncate rt_sigaction mmap rt_sigprocmask openat lseek read "
        "get_mempolicy get_mempolicy rt_sigaction"
    ).split()
    found = {}
    for iova_mode in "pa", "va":
        eal = start("-m", "2", "--iova-mode", iova_mode)
        trace = eal.trace(",".join(calls))
        assert eal.malloc(4 * MB - 192).va
        names = [c.name for c in trace.stop()]
        first = names.index("newfstatat")
        found[iova_mode] = names[first : first + 2 * len(want)]
        eal.close()
    evidence(found["pa"])

    va = want[:7] + want[10:]
    assert found["pa"] == want * 2
    assert found["va"][: 2 * len(va)] == va * 2
