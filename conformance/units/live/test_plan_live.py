"""`pyeal plan` says what then happens: held to `pyeal init`, and to librte_eal."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conformance import ALL, GB, needs
from conformance.harness import decode
from conformance.harness.child import environment

RELEASES = [name[:5] for name in decode.layouts()]
FLAGS = {
    "dynmem": [],
    "single-file": ["--single-file-segments"],
    "in-memory": ["--in-memory"],
    "in-memory-single": ["--in-memory", "--single-file-segments"],
    "legacy": ["--legacy-mem"],
    "no-huge": ["--no-huge"],
    "no-shconf": ["--no-shconf"],
    "match": ["--match-allocations"],
}
PAGES = 8


def run(box, *args, prefix=()):
    """(exit code, answer) of a command in a box; what it says beside is an error's text."""
    # unrandomised, as the heap of an interpreter that is no PIE lies anywhere in the lowest 1 GB
    argv = [*box.enter, *prefix, "setarch", "-R", sys.executable, "-P", "-m", "pyeal", *args]
    env = environment() | box.environment()
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=env, input="")
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, json.loads(done.stdout)


def shape(lists, legacy):
    """Lists as both tell them. Where legacy pages lie depends on their physical addresses."""
    keys = ("name", "page_sz", "socket_id", "n_segs", "count", "base_va", "len")
    return [
        {
            **{k: m[k] for k in keys},
            "runs": [] if legacy else [(u["seg"], u["n"], u["va"]) for u in m["runs"]],
        }
        for m in lists
    ]


@needs(root=True, pages={"2M": PAGES})
def test_plan_is_what_init_does(make_box, evidence):
    """Any mode, release, amount and base: the same lists and addresses, the same files, or the
    same stage that fails."""
    box = make_box({"2M": PAGES})
    outcomes = []

    @settings(max_examples=25, deadline=None, database=None, derandomize=True)
    @given(
        flags=st.sampled_from(sorted(FLAGS)),
        release=st.sampled_from(RELEASES),
        amount=st.one_of(
            st.just([]),
            st.integers(1, 2 * PAGES + 4).map(lambda n: ["-m", str(n)]),
            st.integers(1, 2 * PAGES + 4).map(lambda n: ["--socket-mem", str(n)]),
        ),
        base=st.sampled_from([[], ["--base-virtaddr=0x200000000"], ["--base-virtaddr=0x7000000"]]),
        unlink=st.sampled_from([[], [], ["--huge-unlink"]]),
    )
    def same(flags, release, amount, base, unlink):
        prefix = f"eal_plan{len(outcomes)}"
        args = [*FLAGS[flags], *amount, *base, *unlink, "--file-prefix", prefix]
        said, plan = run(box, "plan", "--as", release, "--json", "--", *args)
        done, found = run(box, "init", "--as", release, "--json", "--no-hold", "--", *args)
        outcomes.append(done)
        if done:
            assert said, (args, plan)
            assert plan["error"]["stage"] == found["error"]["stage"], (plan, found)
            return
        assert said == 0, (args, plan)
        assert (plan["mode"], plan["iova_mode"]) == (found["mode"], found["iova_mode"])
        legacy = flags == "legacy"
        assert shape(plan["lists"], legacy) == shape(found["lists"], legacy), (args, release)
        assert plan["runtime_dir"] == found["runtime_dir"]
        at = box.path(found["runtime_dir"])
        left = {f.name: f.stat().st_size for f in at.iterdir()} if at.is_dir() else {}
        planned = {f["name"]: f["bytes"] for f in plan["runtime"]["files"]} if left else {}
        assert {k: v for k, v in planned.items() if k != "mp_socket"} == left, args

    same()
    evidence(f"{len(outcomes)} starts, {sum(map(bool, outcomes))} of them refused")

    assert 0 < sum(map(bool, outcomes)) < len(outcomes)


@pytest.mark.parametrize("mode", ALL)
@needs(root=True)
def test_plan_is_what_librte_eal_does(mode, make_box, start, evidence):
    """Lists, addresses, page files, descriptors of pages, runtime files."""
    box = make_box(lease={"2M": 4}) if mode == "in-memory" else make_box({"2M": 4})
    eal = start("-m", "6", target="librte_eal", mode=mode, box=box, init=False)
    code, plan = run(box, "plan", "--as", eal.release, "--json", "--", *eal.args)
    before = set(eal.fds())
    eal.init()
    mapped = [m for m in eal.lists() if m.base_va]
    opened = [f for n, f in eal.fds().items() if n not in before]
    of_pages = [f for f in opened if "map_" in f.path or f.path.startswith("/memfd:")]
    evidence(f"{len(mapped)} lists, {len(of_pages)} descriptors of pages")

    assert code == 0, plan
    names = [(m["name"], m["base_va"], m["page_sz"], m["n_segs"]) for m in plan["lists"]]
    assert names == [(m.name, m.base_va, m.page_sz, m.n_segs) for m in mapped]
    assert sum(p["n"] for p in plan["pages"]) == len(eal.segments())
    assert plan["descriptors"]["pages"] == len(of_pages)
    if mode in ("dynmem", "single-file"):  # legacy also leaves the file of a failed mapping
        assert plan["files"]["n"] == len(eal.page_files())
        assert plan["files"]["first"][0].rpartition("/")[2] == eal.page_files()[0]
    sizes = {f["name"]: f["bytes"] for f in plan["runtime"]["files"] if f["bytes"]}
    if mode != "in-memory":
        assert sizes == {name: os.stat(eal.run / name).st_size for name in sizes}
        shared = {n for n in eal.run_files() if not n.startswith(("mp_socket", "dpdk_tele"))}
        assert set(sizes) == shared


@needs(root=True)
def test_a_file_of_the_dead_keeps_its_length(make_box, start):
    """ulimit -f below the length of config, which is there already: EAL starts, pyeal does not."""
    box, args = make_box(), ["--no-huge", "-m", "4"]
    start(*args, target="librte_eal", box=box).kill()
    eal = start(*args, target="librte_eal", box=box, init=False, rlimits={"fsize": 24 << 10})
    limit = ["prlimit", f"--fsize={24 << 10}"]
    plan = run(box, "plan", "--as", eal.release, "--json", "--", *eal.args, prefix=limit)[1]
    eal.init()

    assert plan["error"] is None
    assert plan["pyeal"]["stage"] == "config"
    assert "ulimit -f 24" in plan["pyeal"]["text"]


@pytest.mark.parametrize(
    ("dangling", "args", "stage"),
    [
        (False, ["-m", "2", "--no-shconf", "--file-prefix", "a/b"], "memory"),
        (True, ["--no-huge", "--file-prefix", ".."], "runtime"),
    ],
    ids=["page-files", "above-a-link"],
)
@needs(root=True, pages={"2M": 1})
def test_a_directory_of_the_prefix_that_is_not_there(dangling, args, stage, make_box, start):
    """The real start fails, and plan says where."""
    box = make_box({"2M": 1})
    if dangling:
        box.sh("ln -s nowhere /run/dpdk")
    eal = start(*args, target="librte_eal", box=box, init=False)
    code, plan = run(box, "plan", "--as", eal.release, "--json", "--", *args)
    eal.refused()

    assert (code, plan["error"]["stage"]) == (1, stage)


@needs(root=True, pages={"2M": 4})
def test_plan_of_each_release(kind, start, box):
    """The layouts of Debian's releases: list count, places and what the heap takes by itself."""
    eal = start(target=kind, init=False)
    code, plan = run(box, "plan", "--as", eal.release, "--json", "--", *eal.args)
    eal.init()
    used = [(s.list, s.seg) for s in eal.segments()]

    assert code == 0, plan
    planned = [
        (i, seg)
        for i, m in enumerate(plan["lists"])
        for u in m["runs"]
        for seg in range(u["seg"], u["seg"] + u["n"])
    ]
    assert planned == used
    assert [m["base_va"] for m in plan["lists"]] == [m.base_va for m in eal.lists() if m.base_va]


@needs(root=True, pages={"2M": 2})
def test_a_base_that_is_free_in_both(start, box, tool):
    """A secondary with something at EAL's own base joins a primary at the base that plan names."""
    second = start("--proc-type=secondary", target="librte_eal", init=False)
    second.block(0x100000000, 4 * GB)
    args = ["-m", "2", "--file-prefix", second.prefix]
    prefix = [*box.enter]
    said = json.loads(tool("plan", "--json", "--for-peer", second.pid, "--", *args, prefix=prefix))
    base = said["base_virtaddr"]
    first = start("-m", "2", f"--base-virtaddr={base:#x}", target="librte_eal")
    second.init()

    assert base >= 0x200000000 and base % (1 << 24) == 0
    assert [m.base_va for m in second.lists()] == [m.base_va for m in first.lists()]
