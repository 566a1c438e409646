"""CLEAN: what an exit leaves, and what is left by those who were killed."""

import errno

import pytest

from conformance import ALL, BIG, SHARED, modes, needs, requirement

MEMORY = dict.fromkeys(ALL, "4") | {"no-huge": "16"}


def shadows(eal, pid=""):
    """Arrays that are no list's own: those of secondaries."""
    own = {f"fbarray_{m.memseg_arr.name}" for m in eal.config().memsegs}
    return [f for f in eal.run_files("fbarray_memseg*") if f not in own and f"_{pid}" in f]


@requirement("CLEAN-001")
@needs(pages={"2M": 3})
@modes(*ALL)
def test_cleanup_works_once(start, mode, evidence):
    """0, then -1 with EALREADY."""
    eal = start("-m", MEMORY[mode])
    first, second = eal.cleanup(), eal.cleanup()
    evidence(f"{first.ret}, then {second.ret} with errno {second.errno}")

    assert first.ret == 0
    assert (second.ret, second.errno) == (-1, errno.EALREADY)


@requirement("CLEAN-002")
@needs(pages={"2M": 8})
@modes("dynmem", "single-file")
def test_no_page_file_remains(start, evidence):
    """Memory was allocated, the heap grew, all was freed: the directory is empty."""
    eal = start("-m", "4")
    areas = [eal.malloc(size).va for size in (100, 3000, BIG)]
    most = eal.page_files()
    for va in areas:
        eal.free(va)
    eal.close()
    evidence(f"{len(most)} file(s), then {eal.page_files()}")

    assert all(areas)
    assert most
    assert eal.page_files() == []


@requirement("CLEAN-003")
@needs(pages={"2M": 4})
def test_a_leak_keeps_the_pages_of_its_run(start, evidence):
    """100 bytes that were never freed: page files remain, with these bytes."""
    eal = start("-m", "8")
    va = eal.malloc(100).va
    page = next(i for i, s in enumerate(eal.segments()) if s.addr <= va < s.addr + s.len)
    name = eal.page_files()[page]
    before = eal.page_files()
    eal.close()
    evidence(f"{len(eal.page_files())} of {len(before)} files")

    assert name in eal.page_files()


@requirement("CLEAN-004")
@needs(pages={"2M": 3}, release=">=22.03")
@pytest.mark.parametrize(
    ("args", "stays"),
    [
        (["--legacy-mem"], True),
        (["--huge-unlink=never"], True),
        (["--huge-unlink=always"], False),
        (["--in-memory"], False),
    ],
    ids=["legacy", "never", "always", "in-memory"],
)
def test_some_modes_leave_their_page_files(start, args, stays, evidence):
    """Legacy mode and `never` do; `always` and in-memory mode have none to leave."""
    eal = start("-m", "4", *args)
    assert len(eal.segments()) >= 2
    eal.close()
    evidence(f"{eal.page_files()}")

    assert bool(eal.page_files()) == stays


@requirement("CLEAN-005")
@needs(pages={"2M": 3})
@modes(*SHARED)
def test_run_keeps_its_files(start, mode, evidence):
    """config, hugepage_info, hugepage_data and the arrays."""
    eal = start("-m", MEMORY[mode])
    files = [f for f in eal.run_files() if not f.startswith("mp_socket")]
    eal.close()
    evidence(" ".join(files))

    assert {"config", "fbarray_memzone"} < set(files)
    assert ("hugepage_info" in files) == (mode != "no-huge")
    assert ("hugepage_data" in files) == (mode == "legacy")
    assert set(files) <= set(eal.run_files())


@requirement("CLEAN-006")
@needs(pages={"2M": 3})
@modes(*SHARED)
def test_sockets_are_removed(start, mode, evidence):
    """mp_socket is there while the process is."""
    eal = start("-m", MEMORY[mode])
    before = eal.run_files("*socket*")
    eal.close()
    evidence(f"{before}, then {eal.run_files('*socket*')}")

    assert before == ["mp_socket"]
    assert eal.run_files("*socket*") == []


@requirement("CLEAN-007")
@needs(pages={"2M": 4}, release=">=22.03")
def test_what_is_left_can_be_joined(start, join, evidence):
    """The magic stays; where page files do too, a secondary finds the bytes in them."""
    eal = start("-m", "4", "--huge-unlink=never")
    at = eal.malloc(64).va
    eal.poke(at, b"corpse")
    eal.close()
    other = join()
    evidence(f"{other.peek(at, 6)}")

    assert eal.config().magic == 19820526
    assert other.peek(at, 6) == b"corpse"
    assert other.malloc(100).va


@requirement("CLEAN-008")
@needs(pages={"2M": 8})
@modes(*SHARED)
def test_the_next_start_clears_what_a_killed_one_left(start, join, mode, prefix, evidence):
    """All files stay, all locks go; another prefix removes the pages, the same one old arrays."""
    eal = start("-m", MEMORY[mode])
    files, pages = eal.run_files(), eal.page_files() if mode != "no-huge" else []
    (eal.run / "fbarray_stale").write_bytes(bytes(4096))
    eal.kill()
    kept = eal.run_files(), eal.page_files() if mode != "no-huge" else []
    places = [eal.run] if mode == "no-huge" else [eal.run, eal.hugedir()]
    locks = [x for d in places for p in d.iterdir() for x in eal.locks(p)]
    other = start("-m", MEMORY[mode], prefix=f"{prefix}_other", target=join.kind)
    left = eal.page_files() if mode != "no-huge" else []
    other.close()
    again = start("-m", MEMORY[mode])
    evidence(f"{len(kept[0])} files and {len(kept[1])} pages were left, {len(left)} pages later")

    assert set(files) < set(kept[0])
    assert kept[1] == pages
    assert locks == []
    assert left == []
    assert "fbarray_stale" in kept[0]
    assert "fbarray_stale" not in again.run_files()


@requirement("CLEAN-009")
@needs(pages={"2M": 8})
def test_a_dead_ones_socket_goes_when_it_is_spoken_to(start, join, evidence):
    """Not by the sweep of the next start, but by the next thing that the primary says to all."""
    eal = start("-m", "2")
    dead = join()
    dead.kill()
    (name,) = eal.run_files("mp_socket_*")
    other = join()
    swept = eal.run_files("mp_socket_*")
    va = eal.malloc(BIG).va
    left = eal.run_files("mp_socket_*")
    evidence(f"{swept}, then {left}")

    assert name.startswith(f"mp_socket_{dead.pid}_")
    assert va
    assert (name in swept, name in left) == (True, False)
    assert len(left) == 1
    assert other.peek(va)


@requirement("CLEAN-010")
@needs(pages={"2M": 4})
def test_a_dead_ones_shadows_are_swept(start, join, evidence):
    """By whichever process starts next in that directory."""
    eal = start("-m", "2")
    dead = join()
    dead.kill()
    before = shadows(eal, dead.pid)
    other = join()
    evidence(f"{len(before)} shadows, then {len(shadows(eal, dead.pid))}")

    assert before
    assert shadows(eal, dead.pid) == []
    assert len(shadows(eal, other.pid)) == len(before)


@requirement("CLEAN-011")
@needs(pages={"2M": 3})
@modes("in-memory")
def test_in_memory_pages_stay_mapped_until_the_end(start, evidence):
    """After cleanup the pages of unfreed memory remain; after the process nothing."""
    eal = start("-m", "4")
    at = eal.malloc(64).va
    eal.cleanup()
    m = eal.map_at(at)
    huge = m.huge if m else 0
    eal.close()
    evidence(f"{huge} bytes of hugepages mapped after cleanup")

    assert huge
    assert eal.run_files() == []


@requirement("CLEAN-012")
@needs(pages={"2M": 4})
@modes("dynmem", "single-file")
def test_a_secondary_outlives_its_primary(start, join, evidence):
    """Arrays are let go of, not destroyed: lists, bytes and free heap are still there."""
    eal = start("-m", "4")
    at = eal.malloc(64).va
    eal.poke(at, b"shared")
    other = join()
    before = [(m.index, m.base_va) for m in other.lists()]
    eal.close()
    small = other.malloc(100).va
    evidence(f"{len(other.segments())} pages left, malloc {small:#x}")

    assert [(m.index, m.base_va) for m in other.lists()] == before
    assert other.peek(at, 6) == b"shared"
    assert small


@requirement("CLEAN-013")
@needs(pages={"2M": 8})
def test_each_shrinkage_is_told(start, peer, evidence):
    """At cleanup a secondary hears of every run of pages that goes: one sync each."""
    eal = start("-m", "2")
    p = peer(eal)
    eal.begin("cleanup")
    told = []
    while not eal.answered(0.05):
        m = p.ask("receive", wait=0.2)
        if m and m.kind == "REQ":
            told.append(m.name)
            p.ask("send", to=m.sender, kind="REP", name=m.name, param=m.param)
    done = eal.answer("cleanup")
    evidence(f"{told}")

    assert done.ret == 0
    assert told
    assert set(told) == {"mp_malloc_sync"}


@requirement("CLEAN-014")
@needs(pages={"2M": 3})
@modes("dynmem", "single-file")
def test_lists_stay_reserved_and_shadows_on_disk(start, join, evidence):
    """Nothing is unmapped before the process ends, and a secondary's arrays are not removed."""
    eal = start("-m", "4")
    other = join()
    base = eal.lists()[0].base_va
    before = shadows(eal, other.pid)
    other.close()
    eal.cleanup()
    evidence(f"{eal.map_at(base)}; {len(before)} shadows")

    assert eal.map_at(base)
    assert shadows(eal, other.pid) == before
