"""HPI: the machines described in fixtures/hosts, each with its /sys, /proc and mounts."""

import errno
import os
import signal
import threading

import pytest

from conformance import needs, requirement, until
from conformance.harness import fake_host, host
from conformance.harness.child import TargetDied, TargetError

HANGS = ["nested-mounts", "stacked-mounts"]


@pytest.fixture
def described(make_box, tmp_path):
    """described(name) -> (Host, Box): its trees over /sys and /proc, and real mounts.

    Two pages of 2 MB are really there, and one of 1 GB where it may be the only size. /proc has
    links to the real one for what the description leaves out.
    """

    def make(name):
        h = fake_host.load(name)
        root = h.expand(tmp_path)
        for d in ("", "/self"):
            if (at := root / f"proc{d}").is_dir():
                for entry in os.listdir(f"/proc{d}"):
                    if not entry.isdecimal() and not (at / entry).exists():
                        (at / entry).symlink_to(f"/run/proc{d}/{entry}")
        mounts = [("tmpfs", "/run/proc", ""), ("tmpfs", "/mnt", "")]
        alone = any(set(e.counts) == {fake_host.size("1G")} for e in h.expects)
        for at, sz in real_mounts(h):
            room = fake_host.size(sz) * {"2M": 2, "64K": 16}.get(sz, alone)
            mounts.append((sz, at, f"size={room}"))
        binds = {"/run/proc": "/proc", **h.binds(root)}
        lease = {"2M": 4, "1G": 1} if alone else {"2M": 4}
        if any(sz == "64K" for _, sz in real_mounts(h)):
            lease["64K"] = 16
        box = make_box({}, lease=lease, mounts=mounts, binds=binds)
        for at in h.dirs():
            box.path("/mnt").joinpath(at.removeprefix("/mnt/")).mkdir(parents=True, exist_ok=True)
        return h, box

    return make


def real_mounts(h):
    """(where, "2M") of each mount whose pages this machine can have."""
    found = []
    for at, options in h.mounts:
        named = options.partition("pagesize=")[2].partition(",")[0]
        sz = host.name(fake_host.size(named or h.facts.get("default", "2M")))
        if sz in host.pools() and fake_host.unescaped(at) in h.dirs():
            found.append((fake_host.unescaped(at), sz))
    return found


def other_limits(h, detected, limits):
    """Return why a host is described for another build than one of these limits, or None."""
    nodes, lcores = limits["RTE_MAX_NUMA_NODES"], limits["RTE_MAX_LCORE"]
    if max(detected.nodes) >= nodes:
        return f"wanted a build for {max(detected.nodes) + 1} nodes, found one for {nodes}"
    cpus = [n for on in h.facts["cpus"].values() for n in fake_host.numbers(on)]
    if any(128 <= n < lcores for n in cpus):
        return f"wanted a build for 128 lcores, found one for {lcores}"
    return None


def expected(h, release, most):
    """What this release, built for so many page sizes, can be asked with pages of these sizes.

    Legacy mode maps what it counted, so not more than there are addresses.
    """
    sizes = {fake_host.size(sz) for sz in host.pools()}
    return [
        e
        for e in h.expects
        if fake_host.holds(e.releases, release)
        and not e.hangs
        and e.max_sizes in (None, most)
        and (sizes >= set(e.counts) or "--in-memory" in e.args)
        and ("--legacy-mem" not in e.args or sum(sz * n[1] for sz, n in e.counts.items()) < 1 << 47)
    ]


@requirement("HPI-029")
@needs(pages={"2M": 4, "1G": 1}, root=True)
@pytest.mark.parametrize("name", fake_host.names())
def test_on_every_described_host_the_same_is_found(start, described, name, evidence):
    """Sizes, directories and pages by node, lists, log lines, or a refusal, as the file says."""
    h, box = described(name)
    first = start(init=False, box=box)
    limits = first.decode.constants
    asked = expected(h, first.release, limits["MAX_HUGEPAGE_SIZES"])
    (found,) = [d for d in h.detected if fake_host.holds(d.releases, first.release)]
    if why := other_limits(h, found, limits):
        pytest.skip(why)
    ours = os.sched_getaffinity(0)
    if not (both := sorted(ours & set(found.lcores))):
        pytest.skip(f"wanted one of CPUs {found.lcores}, found {ours}")
    # 25.11 refuses to choose by itself where the affinity has CPUs that are not detected
    new = fake_host.holds(">=25.11", first.release)
    cores = ["-l", ",".join(map(str, both))] if new and ours - set(both) else []
    for e in asked:
        eal = start(*e.args, *cores, init=False, box=box)
        eal.runtime_dir = f"/run/dpdk/{eal.prefix}"  # also where init is refused
        file = eal.run / "hugepage_info"
        file.unlink(missing_ok=True)
        refused, lists, records = None, [], []
        try:
            lists = eal.init().lists()
        except TargetError as error:
            refused = error
        if file.exists():
            records = [[r.hugepage_sz, r.hugedir, *r.num_pages] for r in eal.hugepage_info()]
        evidence(
            f"{' '.join(e.args) or '(no arguments)'}: "
            f"{refused.text if refused else [r[:6] for r in records]}"
        )

        if e.fails or not e.locks:
            assert refused and refused.errno == errno.EACCES
            assert records == []
        elif "--in-memory" not in e.args:  # which writes no file
            nodes = len(records[0]) - 2 if records else 0
            assert records == [
                [sz, d, *n, *[0] * (nodes - len(n))] for sz, (d, *n) in e.counts.items()
            ]
        if lists and "--legacy-mem" not in e.args:  # which keeps no list without a page
            assert [*dict.fromkeys((m.page_sz, m.socket_id) for m in lists)] == [
                (sz, node) for sz in e.counts for node in found.nodes
            ]
        assert [text for text in e.says if text not in eal.log] == []
        eal.close()
    if not asked:
        hangs = any(e.hangs for e in h.expects)
        found = "only HPI-030's waiting" if hangs else f"{sorted(host.pools())}"
        pytest.skip(f"wanted pages of {sorted(h.facts['pools'])}, found {found}")


@requirement("HPI-030")
@needs(pages={"2M": 4, "1G": 1}, root=True)
@pytest.mark.parametrize("name", HANGS)
def test_two_sizes_on_one_directory_wait_for_each_other(start, described, name, evidence):
    """The second size's lock waits indefinitely for the first's, which the same process holds."""
    h, box = described(name)
    probe = start(init=False, box=box)
    asked = [e for e in h.expects if e.hangs and fake_host.holds(e.releases, probe.release)]
    if not asked:
        pytest.skip(f"{probe.release} looks at the directory itself")
    eal = start(*asked[0].args, init=False, box=box)
    at = box.path(" ".join(asked[0].args).partition("--huge-dir=")[2] or "/mnt/huge")
    ended = []

    def init():
        try:
            ended.append(eal.init())
        except (TargetDied, TargetError) as e:
            ended.append(e)

    starting = threading.Thread(target=init)
    starting.start()
    until(lambda: ended or [x for x in eal.locks(at) if x.waits])
    locks = eal.locks(at)
    if not ended:
        os.kill(eal.pid, signal.SIGKILL)
    starting.join(10)
    eal.kill()
    evidence(f"{locks}, {ended}")

    assert not isinstance(ended[0], TargetError), ended[0]
    assert [x.waits for x in locks] == [False, True]
    assert len({x.pid for x in locks}) == 1
