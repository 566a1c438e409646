"""IOVA: the addresses that segments carry, and the mask that devices can reach."""

from conformance import ALL, DYNAMIC, HUGE, MB, modes, needs, requirement, sizes
from conformance.harness import host, proc

BAD = (1 << 64) - 1
CONFIG = 0x100000000  # where the first mapping of a clean run lies


@requirement("IOVA-006")
@needs(pages={"2M": 1}, root=True, phys=True)
@modes("dynmem")
def test_physical_address_is_frame_and_offset(start, evidence):
    """Any address of the process, by its pagemap entry; none without a frame: all ones.

    pagemap entry [63 present | ... | 54 .......... frame .......... 0] * 4096 + offset
    """
    eal = start("-m", "2", "--iova-mode=pa")
    huge = eal.segments()[0].addr
    at = [huge + 5, huge + 8195, CONFIG + 0x123]
    eal.peek(CONFIG, 8)
    found = [eal.virt2iova(va) for va in at]
    reserved = eal.lists()[0].base_va + 16 * MB
    beyond = 1 << 47
    evidence(f"{at[1]:#x} is at {found[1]:#x}; reserved addresses at {eal.virt2iova(reserved):#x}")

    assert found == [proc.frame(eal.pid, va) for va in at]
    assert all(f % 4096 == va % 4096 for f, va in zip(found, at, strict=True))
    assert eal.virt2iova(reserved) == BAD
    assert eal.virt2iova(beyond) == BAD


@requirement("IOVA-008")
@needs(root=True, phys=True)
@modes(*HUGE)
@sizes({"2M": 3, "1G": 1})
def test_pa_is_the_frame_of_the_first_byte(start, page, mode, fake_host, evidence):
    """iova of each used segment is what pagemap says of its address, a multiple of the page."""
    n = max(page, 6 * MB) // page
    box = fake_host({host.name(page): n}) if mode == "legacy" else None
    eal = start("-m", str(n * page >> 20), "--iova-mode=pa", box=box)
    segs = eal.segments()
    evidence(" ".join(f"{s.addr:#x}->{s.iova:#x}" for s in segs))

    assert len(segs) == n
    assert [s.iova for s in segs] == [proc.frame(eal.pid, s.addr) for s in segs]
    assert all(s.iova and s.iova % page == 0 for s in segs)
    if mode != "in-memory":
        names = {m.index: m.name for m in eal.lists()}
        kept = [eal.array(names[s.list])[s.seg].iova for s in segs]
        assert kept == [s.iova for s in segs]


@requirement("IOVA-009")
@needs(pages={"2M": 3})
@modes(*ALL)
def test_va_is_the_address_itself(start, mode, evidence):
    """iova == addr for each used segment, of those that come later too, and any other address."""
    eal = start("-m", "4", "--iova-mode=va")
    if mode in DYNAMIC:
        assert eal.malloc(1 * MB).va
    segs = eal.segments()
    evidence(f"{len(segs)} segments: {segs[0].addr:#x}->{segs[0].iova:#x} ...")

    assert [s.iova for s in segs] == [s.addr for s in segs]
    assert eal.virt2iova(segs[0].addr + 5) == segs[0].addr + 5
    assert eal.iova2virt(segs[-1].iova + 5) == segs[-1].addr + 5


@requirement("IOVA-010")
@needs(pages={"2M": 12})
@modes("dynmem")
def test_dma_mask_is_kept_and_holds_for_growth(start, evidence):
    """64 bits: -1; too few for a used segment: 1; otherwise 0, and the smallest is kept.

    8 GB = 1 << 33     | # # # # # # . | . . . .        6 pages below it are used, 1 is free
    """
    eal = start("-m", "12", "--iova-mode=va", "--base-virtaddr=0x1ff000000")
    line = 1 << 33
    wide = [eal.dma_mask(64).ret, eal.config().dma_maskbits]
    free = eal.malloc(11 * MB).va
    high = eal.malloc(5 * MB).va
    over = eal.dma_mask(33).ret
    beyond = [s.addr for s in eal.segments() if s.addr + s.len > line]
    eal.free(high)
    fits = [eal.dma_mask(b).ret for b in (40, 33, 50)]
    count, kept = len(eal.segments()), eal.config().dma_maskbits
    refused = eal.malloc(5 * MB).va
    evidence(
        f"64 bits: {wide}; 33 bits with pages at {[hex(b) for b in beyond]}: {over}; later {kept}"
    )

    assert free and high and beyond
    assert wide == [-1, 0]
    assert over == 1
    assert (fits, kept) == ([0, 0, 0], 33)
    assert refused == 0
    assert (count, len(eal.segments())) == (6, 6)
