"""One primary, up to three secondaries, and a model of what they must agree on.

A step is plain data, so that a run can be printed and replayed:

    start P -m 2 | attach A librte_eal | close A | kill A | die A size ms | malloc P size align
    free P area | write P area | pages P n | back P n | together [step, ...]

P is the primary, A to C are secondaries, an area is the number of the malloc that made it. A step
that does not fit any more (in a list made shorter by hand) is passed over.
"""

from __future__ import annotations

import errno
import hashlib
import os
import re
import time
from typing import NamedTuple

from conformance import MB
from conformance.campaigns.stress.shared import Inconsistent, Shared, must_be
from conformance.harness.child import TargetError

PAGE = 2 * MB
STAMP = 32  # bytes, half of them on each side of a page boundary
BLOCK = 16
BATCH = 64  # requests that a target is sent before the answers are read
SLOW = 3.5  # seconds: a peer that does not answer is waited for 4 s (pyeal), 5 s (librte_eal)
LOCKED = 15.0  # seconds in which a dead process's lock must be freed: 5, and a busy machine

# What the C library as a primary does not survive, and is not asked to, or does not clear away.
CANNOT = {
    "librte_eal": {
        "die": "a lock word that the dead left taken is waited for for ever, by every process",
        "leave": "a librte_eal that ends while memory changes is waited for, growth fails after "
        "5 s, and the files of freed pages that it had stay",
        "touch": "a librte_eal secondary touches a page of a single file when it lets go of it, "
        "and puts it back",
    },
}
NO, ONCE, ALWAYS = range(3)

# Lines of a log that nothing in a run without a death inside of a malloc may cause.
WRONG = re.compile(
    r"has not responded|failed to synchronize|Could not follow|dropped a datagram|Drop mp reply"
    r"|timed out|Traceback|Could not map memory from primary|may be dead"
)
# Files that a prefix has; a secondary's shadow arrays and sockets carry its pid.
FILES = re.compile(
    r"config|hugepage_info|mp_socket|fbarray_memzone|fbarray_memseg-\d+k-\d+-\d+"
    r"|(?:mp_socket|fbarray_memseg-\d+k-\d+-\d+)_(?P<pid>\d+)(?:_[0-9a-f]+)?"
)


class Area(NamedTuple):
    """Memory that a malloc answered; gen: how often it was written."""

    n: int
    va: int
    size: int
    owner: str
    gen: int = 0

    @property
    def places(self):
        """Where it is stamped: its start and end, and over every page boundary within."""
        inner = range(-(-self.va // PAGE) * PAGE, self.va + self.size, PAGE)
        ends = self.va, self.va + self.size - STAMP & -BLOCK
        found = {*ends, *(b - STAMP // 2 for b in inner)}
        return sorted(p for p in found if self.va <= p <= self.va + self.size - STAMP)

    def stamp(self, at):
        key = f"{self.n} {self.gen} {self.owner} "
        blocks = range(at // BLOCK, at // BLOCK + STAMP // BLOCK)
        return b"".join(hashlib.md5((key + str(b)).encode()).digest() for b in blocks)


class World:
    """start, join: the fixtures; kinds: what secondaries may be, by target's name."""

    def __init__(self, start, join, box, kinds, total):
        self.start, self.join, self.box, self.kinds, self.total = start, join, box, kinds, total
        self.hugedir = box.path(box.hugedir("2M"))
        self.steps, self.counts = [], {}
        self.procs, self.areas, self.pages = {}, {}, {}
        self.n = 0  # mallocs so far
        self.mine = {}  # {process: areas that its init took}
        self.lost = set()  # areas in use that no live process knows: of dead processes
        self.ghosts = set()  # pids of dead processes whose shadow arrays may still be there
        self.versions, self.used = None, 0
        self.lax = NO  # files may hold more pages than are used: ONCE is until the next growth
        self.torn = False  # a process died inside of a malloc
        self.prefix = self.run = self.decode = self.leader = self.single = None

    # looking

    @property
    def free_pages(self):
        return os.statvfs(self.hugedir).f_bfree

    def cannot(self, what):
        """Why the primary of this round is not asked to do that, or None."""
        return CANNOT.get(self.leader, {}).get(what)

    def living(self):
        return sorted(self.procs)

    def secondaries(self):
        return [w for w in self.living() if w != "P"]

    def kind(self, who):
        return self.procs[who].target

    def look(self):
        return Shared(self.decode, self.run, self.hugedir, self.prefix)

    # doing

    def do(self, step):
        """One step, as data; False when it does not fit."""
        verb, *args = step
        fits = getattr(self, f"_fits_{verb}", None)
        if fits and not fits(*args):
            return False
        self.steps.append(step)
        self.counts[verb] = self.counts.get(verb, 0) + 1
        begun = time.monotonic()
        finish = getattr(self, f"_{verb}")(*args)
        if finish:
            finish()
        took = time.monotonic() - begun
        if verb not in ("start", "attach", "die", "together") and took > SLOW:
            raise Inconsistent(f"{step} took {took:.1f} s: somebody was waited for")
        return True

    # Each step begins here and answers what waits for its end, so that several can be under way.

    def _start(self, who, *args):
        eal = self.procs[who] = self.start(*args, box=self.box)
        self.prefix, self.run, self.decode = eal.prefix, eal.run, eal.decode
        self.leader, self.single = eal.target, "--single-file-segments" in eal.args
        self.ghosts.clear()
        self.versions = None

    def _fits_attach(self, who, kind):
        return who not in self.procs and kind in self.kinds and "P" in self.procs

    def _attach(self, who, kind):
        full = not self.free_pages
        eal = self.procs[who] = self.join(box=self.box, target=self.kinds[kind], init=False)
        eal.begin("init", args=eal.args)

        def finish():
            try:
                done = eal.answer("init", 40)
            except TargetError as e:
                if not full or e.errno != errno.ENOMEM:
                    raise
                self._gone(who, eal.kill)  # no page for its tables
                return
            eal.iova_mode, eal.runtime_dir = done["iova_mode"], done["runtime_dir"]
            self.ghosts.clear()  # its last act was to sweep
            if self.single and eal.target == "librte_eal" and self.cannot("touch"):
                self.lax = ALWAYS

        return finish

    def _fits_close(self, who):
        return who in self.procs

    def _close(self, who):
        eal = self.procs[who]
        eal.begin("cleanup")

        def finish():
            must_be(f"cleanup of {who}", eal.answer("cleanup")["ret"], 0)
            if eal.target == "librte_eal" and eal.release.startswith("20.11"):
                self.ghosts.add(eal.pid)  # it has no memory detach, which removes shadow arrays
            self._gone(who, eal.close)
            self.mine.pop(who, None)

        return finish

    def _fits_kill(self, who):
        return who in self.procs

    def _kill(self, who):
        eal = self.procs[who]
        self.ghosts.add(eal.pid)
        self._gone(who, eal.kill)
        self.lost |= self.mine.pop(who, set())

    def _gone(self, who, end):
        eal = self.procs.pop(who)
        end()
        if not self.torn and (wrong := WRONG.search(eal.log)):
            raise Inconsistent(f"{eal!r} logged: {eal.logged(wrong[0])[0]}")
        os.truncate(eal.child.logfile, 0)  # a long run has thousands of them

    def _fits_malloc(self, who, size, align):
        return who in self.procs

    def _malloc(self, who, size, align):
        n, eal = self.n, self.procs[who]
        self.n += 1
        need = -(-((size + max(align, 64) - 1) // max(align, 64) * max(align, 64) + 128) // PAGE)
        room = self.free_pages
        eal.begin("malloc", size=size, align=align, socket=-1)

        def finish(others=0):
            va = eal.answer("malloc")["va"]
            if va:
                self._enter(Area(n, va, size, who), align)
            elif need + others <= room and "P" in self.procs:
                raise Inconsistent(
                    f"malloc of {size} by {who} refused: {need} pages wanted, {room} are free"
                )

        finish.need = need
        return finish

    def _enter(self, area, align):
        """A new area: it overlaps none, is aligned, zero, and gets its stamps."""
        must_be(f"{area} modulo its alignment", area.va % max(align, 64), 0)
        for a in self.areas.values():
            if a.va < area.va + area.size and area.va < a.va + a.size:
                raise Inconsistent(f"{area} overlaps {a}")
        self.areas[area.n] = area
        zeros = dict.fromkeys(area.places, bytes(STAMP))
        self._read(area.owner, zeros, f"new {area}")
        self._stamp(area, area.owner)

    def _stamp(self, area, who):
        for at in area.places:
            self.procs[who].poke(at, area.stamp(at))

    def _fits_write(self, who, n):
        return who in self.procs and n in self.areas

    _fits_free = _fits_write

    def _write(self, who, n):
        a = self.areas[n]
        self.areas[n] = a = a._replace(gen=a.gen + 1, owner=who)
        self._stamp(a, who)

    def _free(self, who, n):
        area, eal = self.areas.pop(n), self.procs[who]
        self._read(who, {p: area.stamp(p) for p in area.places}, area)
        eal.begin("free", va=area.va)
        return lambda: must_be(f"{who} frees {area}", eal.answer("free")["ret"], 0)

    def _fits_pages(self, who, n):
        return who in self.procs and "alloc" in self.procs[who].child.can and n <= self.free_pages

    def _pages(self, who, n):
        segs = self.procs[who].alloc(PAGE, 0, n)
        self.pages[self.n] = segs
        area = Area(self.n, segs[0].addr, n * PAGE, who)
        self.n += 1
        self._enter(area, PAGE)

    def _fits_back(self, who, n):
        return who in self.procs and n in self.pages

    def _back(self, who, n):
        area, segs = self.areas.pop(n), self.pages.pop(n)
        self._read(who, {p: area.stamp(p) for p in area.places}, area)
        must_be("free_segs", self.procs[who].free_segs(segs)["ret"], 0)

    def _together(self, steps):
        """Several at once, each by another process; answered in any order."""
        ends = []
        for verb, *args in steps:
            fits = getattr(self, f"_fits_{verb}", None)
            if not fits or fits(*args):
                ends.append((verb, getattr(self, f"_{verb}")(*args)))
        if any(verb == "close" for verb, _ in ends):
            self.lax = max(self.lax, ONCE)
            self.used = self.total  # a growth among these steps may come before what is left behind
        wanted = sum(getattr(end, "need", 1) for _, end in ends)
        begun = time.monotonic()
        for verb, end in ends:
            if verb == "malloc":
                end(wanted - end.need)
            elif end:
                end()
        if all(verb in ("malloc", "free") for verb, _ in ends):
            took = time.monotonic() - begun
            if took > SLOW:
                raise Inconsistent(f"together they took {took:.1f} s: somebody was waited for")

    # a death inside of a malloc

    def _fits_die(self, who, size, ms):
        return who in self.procs and who != "P" and not self.cannot("die")

    def _die(self, who, size, ms):
        """SIGKILL some time after a malloc was asked for; the primary must continue."""
        self.torn = True
        eal = self.procs[who]
        eal.begin("malloc", size=size, align=0, socket=-1)
        time.sleep(ms / 1000)
        self._kill(who)
        self.versions = None  # those who changed it last may not know yet that it is dead
        with self.look() as now:
            held = now.locks
        if held:
            self._dead_mans_locks(eal, held)
        with self.look() as now:  # what it may have got is unknown
            self.lost |= self._busy(now) - self._known()

    def _dead_mans_locks(self, dead, held):
        """The primary continues if it can ask all that live: pyeal's answer whether they hold it.

        Beside one of the C library an error names the lock, in a bounded time.
        """
        primary = self.procs["P"]
        self._count("locks of the dead")
        self._check_stamps()
        if self.secondaries():
            begun = time.monotonic()
            try:
                primary.malloc(64)
            except TargetError as e:
                text = f"{e.errno} {e.text}"
            else:
                text = "malloc succeeded"
            took = time.monotonic() - begun
            said = rf"{errno.ETIMEDOUT} .*lock word.*may be dead"
            if all(self.kind(who) != "librte_eal" for who in self.secondaries()):
                said = "malloc succeeded"
            if not re.match(said, text) or took > LOCKED:
                raise Inconsistent(f"{dead!r} left {held}: after {took:.1f} s {text}")
        for who in self.secondaries():
            self._kill(who)
        begun = time.monotonic()
        for size in (64, 3 * PAGE):
            area = primary.malloc(size)
            if area.va:
                primary.free(area.va)
        took = time.monotonic() - begun
        if took > 2 * LOCKED:
            raise Inconsistent(f"{dead!r} left {held}: the primary, alone, took {took:.1f} s")

    def _count(self, what):
        self.counts[what] = self.counts.get(what, 0) + 1

    # checking

    def _read(self, who, wanted, what):
        """The bytes that a process sees; requests go in batches."""
        child, places = self.procs[who].child, sorted(wanted)
        for i in range(0, len(places), BATCH):
            for at in places[i : i + BATCH]:
                child.tell("peek", va=at, n=STAMP)
            for at in places[i : i + BATCH]:
                seen = child.answer("peek")
                if seen != wanted[at].hex():
                    raise Inconsistent(
                        f"{who} reads {seen} at {at:#x} of {what}, {wanted[at].hex()} wanted"
                    )

    def _check_stamps(self, some=None):
        areas = self.areas.values() if some is None else some
        wanted = {p: a.stamp(p) for a in areas for p in a.places}
        for who in self.living():
            self._read(who, wanted, "an area")

    def _busy(self, now):
        outside = {(s.list, s.seg) for segs in self.pages.values() for s in segs}
        busy = {}
        for i, heap in now.heaps:
            busy |= now.check_heap(i, heap, outside)
        for a in self.areas.values():
            if a.n not in self.pages and busy.get(a.va, 0) < a.size:
                raise Inconsistent(f"{a} is in no heap")
        return set(busy)

    def _known(self):
        mine = set().union(*self.mine.values())
        return {a.va for a in self.areas.values() if a.n not in self.pages} | mine | self.lost

    def check(self, whole=True):
        """All that must hold between two steps; whole: also in the eyes of each process."""
        with self.look() as now:
            must_be("taken locks", now.locks, {})
            now.check_lists()
            self._check_pages(now)
            self._check_heap(now)
            self._check_files(now)
        self._check_stamps(None if whole else list(self.areas.values())[-2:])
        if whole:
            self._check_views()

    def _check_pages(self, now):
        """The used pages have files, and no other page is taken."""
        used, self.used = self.used, now.n_pages
        if self.lax == ONCE and self.used > used and "P" in self.procs:
            self.lax = NO
        there, wanted = now.files(), now.page_files()
        if not self.lax:
            must_be("page files", sorted(there), sorted(wanted))
        must_be("used pages without a file", sorted(wanted - set(there)), [])
        held = sum(there.values()) if self.lax else now.n_pages
        must_be("free pages of the box", self.free_pages, self.total - held)

    def _check_heap(self, now):
        busy, known = self._busy(now), self._known()
        new = [w for w in self.living() if w not in self.mine]  # init's own areas
        for who in new:
            self.mine[who] = (busy - known) if len(new) == 1 else set()
        known = self._known()
        if len(new) > 1:
            self.lost |= busy - known
            known = self._known()
        must_be("areas in use that nobody has", sorted(map(hex, busy - known)), [])
        gone = known - busy
        if not gone <= self.lost:
            raise Inconsistent(f"areas that are gone: {sorted(map(hex, gone))}")
        self.lost -= gone

    def _check_files(self, now):
        versions = [m.version for _, m in now.lists]
        changed, self.versions = self.versions not in (None, versions), versions
        pids = {who: self.procs[who].pid for who in self.secondaries()}
        sockets, others = set(), []
        for f in os.listdir(self.run):
            if not (m := FILES.fullmatch(f)):
                others.append(f)
            elif f.startswith("mp_socket_"):
                sockets.add(int(m["pid"]))
        must_be("undocumented files", others, [])
        if changed and "P" in self.procs:  # and so everybody was told
            must_be("pids of sockets", sorted(sockets), sorted(pids.values()))
        shadows = now.shadows()
        if not set(shadows) - self.ghosts <= set(pids.values()):
            raise Inconsistent(f"shadow arrays of {sorted(shadows)}; living: {pids}")
        for who, pid in pids.items():
            if pid not in shadows:
                raise Inconsistent(f"{who} ({pid}) has no shadow arrays")
            now.check_shadow(who, shadows[pid])

    def _check_views(self):
        def facts(who):
            eal = self.procs[who]
            lists = [(m.index, m.version, m.count, m.base_va) for m in eal.lists()]
            segs = [(s.list, s.seg, s.addr, s.len, s.iova, s.flags) for s in eal.segments()]
            return lists, segs

        seen = {who: facts(who) for who in self.living()}
        first = next(iter(seen))
        for who, what in seen.items():
            must_be(f"{who}'s lists and segments", what, seen[first])

    # the end of a round

    def empty(self, who):
        """Free everything, also of dead processes; who(): the process that frees next."""
        for n in list(self.pages):
            self.do(["back", "P", n])
        for n in list(self.areas):
            self.do(["free", who(), n])
        for va in sorted(self.lost):
            must_be(f"free of {va:#x}, a dead one's", self.procs[who()].free(va)["ret"], 0)
        self.lost.clear()

    def orphans(self, order):
        """The primary was killed: what was there is read, growth is refused."""
        self._check_stamps()
        for who in order:
            self.procs[who].malloc(64)
            begun = time.monotonic()
            va = self.procs[who].malloc((self.total + 1) * PAGE).va
            must_be("growth without a primary", va, 0)
            if time.monotonic() - begun > SLOW:
                raise Inconsistent(f"{who} waits for a dead primary")

    def check_left(self):
        """Check after an exit, perhaps the primary's: the others keep their areas."""
        if "P" in self.procs:
            self.check()
            return
        for n in list(self.pages):  # those were the primary's own
            del self.pages[n], self.areas[n]
        self._check_stamps()
        with self.look() as now:
            now.check_lists()
            self._check_pages(now)

    def forget(self):
        """After a round: the model of the next."""
        self.areas, self.pages, self.mine, self.lost = {}, {}, {}, set()
        self.versions, self.torn, self.n, self.used, self.lax = None, False, 0, 0, NO

    def check_empty(self):
        """Check after all processes ended with nothing in use: each page is free again."""
        pattern = f"{self.prefix}map_"
        must_be("page files", [f for f in os.listdir(self.hugedir) if f.startswith(pattern)], [])
        must_be("free pages of the box", self.free_pages, self.total)
        left = [f for f in os.listdir(self.run) if "_socket" in f or not FILES.fullmatch(f)]
        must_be("sockets and undocumented files", left, [])

    def status(self):
        with self.look() as now:
            used = now.n_pages
        who = " ".join(f"{w}={self.kind(w)}" for w in self.living())
        return f"{who}  {len(self.areas)} areas  {used}/{self.total} pages"
