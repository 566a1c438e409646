"""SEC: observers, who look and leave no trace."""

import os

from conformance import BIG, HUGE_FILES, MB, modes, needs, requirement


def traces(eal):
    """What others could see: files of RUN and of pages with their sizes, locks, the config."""
    places = eal.run, eal.hugedir()
    files = {p: p.stat().st_size for d in places for p in d.iterdir()}
    return files, [eal.locks(p) for p in (*places, *files)], (eal.run / "config").read_bytes()


@requirement("SEC-035")
@needs(pages={"2M": 3})
@modes(*HUGE_FILES)
def test_an_observer_leaves_no_trace(start, join, mode, evidence):
    """It sees every page, cannot write, and nothing about the primary's files changes."""
    eal = start("-m", "4")
    at = eal.malloc(4096).va
    eal.poke(at, b"seen")
    before = traces(eal)
    watcher = join(init=False)
    watcher.init(verb="observe")
    during = traces(eal)
    seen = [(s.list, s.seg, s.addr, s.iova) for s in watcher.segments()]
    data = watcher.peek(at, 4)
    files = [m for m in watcher.maps() if m.path.startswith("/run/")]
    sockets = [fd.path for fd in watcher.fds().values() if fd.path.startswith("socket:")]
    watcher.close()
    evidence(f"{len(files)} mappings: {sorted({m.perms for m in files})}")

    assert seen == [(s.list, s.seg, s.addr, s.iova) for s in eal.segments()]
    assert data == b"seen"
    assert {m.perms for m in files} == {"r--s"}
    assert sockets == []
    assert before == during == traces(eal)
    assert os.listdir(eal.run)


@requirement("SEC-036")
@needs(pages={"2M": 8})
@modes("dynmem", "single-file")
def test_an_observer_follows_when_refreshed(start, join, evidence):
    """New pages with their bytes; none of those that went, beside a secondary that does its own."""
    eal = start("-m", "2")
    other = join()
    watcher = join(init=False)
    watcher.init(verb="observe")
    counts = [len(watcher.segments())]
    va = other.malloc(BIG).va
    eal.poke(va + MB, b"new page")
    watcher.ask("refresh")
    data = watcher.peek(va + MB, 8)
    counts.append(len(watcher.segments()))
    other.free(va)
    watcher.ask("refresh")
    counts.append(len(watcher.segments()))
    gone = watcher.map_at(va + MB)
    evidence(f"pages: {counts}")

    assert counts[1] >= counts[0] + 2
    assert counts[2] == len(eal.segments()) == counts[0]
    assert data == b"new page"
    assert "/hugepages/" not in gone.path
