"""Timing: alone on the machine, so never under xdist; everything else of the suite stays away.

    cd conformance/campaigns/timing && pytest -c pytest.toml . [--pages 256,1024] [--rounds 7]

`pyeal bench` is the command for it.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
from pathlib import Path

import pytest

from conformance.campaigns.timing import rig as rigs
from conformance.campaigns.timing.rows import ROWS, judge, waits_of
from conformance.campaigns.timing.works import MEASURES, WORKS
from conformance.harness import host

OWN_WORKS = {  # of pyeal alone: what they are compared with
    "import": ["bare", "interpreter"],
    "inspect": ["proc-info"],
}
RIG, FOUND, RUNS, LACKING = (pytest.StashKey() for _ in range(4))


def pytest_addoption(parser):
    group = parser.getgroup("timing")
    group.addoption("--target", default="pyeal", help="pyeal or librte_eal[:PATH or RELEASE]")
    group.addoption("--reference", default="librte_eal", help="what it is compared with")
    group.addoption("--base", help="a folder with another pyeal, to compare with")
    group.addoption("--pages", default="256,1024,3072", help="how many 2M pages, of those free")
    group.addoption("--only", help="works, by name: dynmem,attach-legacy")
    group.addoption("--gates", help="a JSON file that is saved with the run")
    group.addoption("--host", help="what this machine is called; default: its own name")
    group.addoption("--rounds", type=int, default=7, help="of which the median counts")


def pytest_configure(config):
    if getattr(config.option, "numprocesses", None) or hasattr(config, "workerinput"):
        raise pytest.UsageError("timing runs by itself: without -n")
    only, pages = config.getoption("only") or "", config.getoption("pages")
    if unknown := [work for work in only.split(",") if only and work not in WORKS]:
        raise pytest.UsageError(f"--only: {', '.join(WORKS)} wanted, {', '.join(unknown)} found")
    if not all(n.isdecimal() and int(n) for n in pages.split(",")):
        raise pytest.UsageError(f"--pages: numbers of pages wanted, as 256,1024; {pages} found")
    config.stash[FOUND], config.stash[RUNS] = {}, {}


def sizes(config):
    """Numbers of pages that this machine has free; 0 pages, if none, let the reasons be seen."""
    free = host.pools().get("2M", host.Pool(0, 0, 0, 0)).available
    asked = sorted({int(n) for n in config.getoption("pages").split(",")})
    return [n for n in asked if n <= free] or asked[:1]


def roles(config):
    """Arm -> label in names of benchmarks."""
    target, reference = (config.getoption(x).partition(":")[0] for x in ("target", "reference"))
    return {
        "target": target if target != reference else "target",
        "reference": reference,
        **({"base": "base"} if config.getoption("base") else {}),
        "kernel": "kernel",
        **{arm: arm for arms in OWN_WORKS.values() for arm in arms},
    }


def arms_of(work, measure, config):
    label = roles(config)
    names = ["target", "base"] if config.getoption("base") else ["target"]
    if work in OWN_WORKS:
        names = [*(["target"] if work == "inspect" else names), *OWN_WORKS[work]]
    else:
        names.append("reference")
        if work in rigs.LIMITS and measure.startswith("memory"):
            names.append("kernel")
    return [(n, label[n]) for n in names]


def pytest_generate_tests(metafunc):
    if "cost" not in metafunc.fixturenames:
        return
    config, most = metafunc.config, sizes(metafunc.config)
    own = config.getoption("target").partition(":")[0] != "pyeal"
    cases, only = {}, config.getoption("only")
    for work, (_, measures, which) in WORKS.items():
        if (own and work in OWN_WORKS) or (only and work not in only.split(",")):
            continue
        for pages in {"all": most, "most": most[-1:]}.get(which, [which]):
            for measure in measures:
                for role, label in arms_of(work, measure, config):
                    at = f"{work}-{pages}" if pages else work
                    cases[f"{at}-{measure}-{label}"] = work, pages, measure, role
    metafunc.parametrize("cost", cases.values(), ids=list(cases), indirect=True)


@pytest.fixture(scope="session")
def rig(tmp_path_factory, pytestconfig):
    option = pytestconfig.getoption
    try:
        made = rigs.Rig(
            tmp_path_factory.mktemp("rig"), option("target"), option("reference"), option("base")
        )
        made.warm(max(sizes(pytestconfig)))
    except (rigs.Missing, rigs.peers.Unobtainable) as e:
        pytestconfig.stash[LACKING] = str(e)
        return e
    pytestconfig.stash[RIG] = made
    return made


def measured(rig, work, pages, n):
    """Once more when it fails: others may have taken pages meanwhile."""
    try:
        return WORKS[work][0](rig, work, pages, n)
    except (rigs.Failed, host.NotEnough):
        return WORKS[work][0](rig, work, pages, n)


@pytest.fixture
def cost(request, rig):
    """(work, pages, measure, role) -> the seconds of each round; all its arms ran side by side."""
    work, pages, measure, role = request.param
    config = request.config
    runs = config.stash[RUNS]
    if isinstance(rig, Exception):
        pytest.skip(str(rig))
    if (work, pages) not in runs:
        try:
            found = measured(rig, work, pages, config.getoption("rounds"))
        except (rigs.Missing, rigs.Failed, rigs.peers.Unobtainable, host.NotEnough) as e:
            found = e
        runs[work, pages] = found
    if isinstance(runs[work, pages], rigs.Failed):
        pytest.fail(str(runs[work, pages]), pytrace=False)
    if isinstance(runs[work, pages], Exception):
        pytest.skip(str(runs[work, pages]))
    which, part, clock = MEASURES[measure]
    mine = runs[work, pages][roles(config)[role], which]
    costs = [getattr(run, part) for run in mine]
    seconds = [getattr(c, clock) for c in costs]
    config.stash[FOUND][work, pages, measure, role] = seconds
    if clock == "wall":
        waits = [max(0.0, c.wall - c.cpu) for c in costs]
        config.stash[FOUND][work, pages, waits_of(measure), role] = waits
    return request.param, mine, seconds


# what is saved


def pytest_benchmark_update_machine_info(config, machine_info):
    """Facts that stay as long as the machine does; a CPU's present clock does not."""
    cpu = machine_info.get("cpu", {})
    for drifts in [k for k in cpu if k.startswith("hz_actual")]:
        del cpu[drifts]
    rig = config.stash.get(RIG, None)
    machine_info |= {
        "host": config.getoption("host") or platform.node(),
        "kernel": platform.release(),
        "cpus": len(os.sched_getaffinity(0)),
        "numa_nodes": len(host.nodes()) or 1,
        "hugepages": {size: pool.total for size, pool in host.pools().items()},
        "target": rig.target.what if rig else config.getoption("target"),
        "reference": rig.reference.what if rig else config.getoption("reference"),
    }


def pytest_benchmark_update_json(config, benchmarks, output_json):
    own = config.getoption("target").partition(":")[0] != "pyeal"
    only = (config.getoption("only") or ",".join(WORKS)).split(",")
    why = {
        work: str(e).strip().splitlines()[-1]
        for (work, _), e in config.stash[RUNS].items()
        if isinstance(e, Exception)
    }
    if lacking := config.stash.get(LACKING, ""):  # nothing could be measured
        why = dict.fromkeys(WORKS, lacking)
    output_json["rows"] = [
        judge(row, config.stash[FOUND], own, why.get(row.work, ""))
        for row in ROWS
        if row.work in only and not (own and (row.work in OWN_WORKS or row.over == "kernel"))
    ]
    if gates := config.getoption("gates"):
        output_json["gates"] = json.loads(Path(gates).read_text())


def stages(runs):
    """Median milliseconds of each stage, wall."""
    names = dict.fromkeys(s for run in runs for s in run.stages)
    return {
        s: 1000 * statistics.median(r.stages.get(s, rigs.Cost(0, 0)).wall for r in runs)
        for s in names
    }
