"""Options, fixtures and checks of the suite: the only machinery that a test's author must know.

start(*args, ...)   an initialised EAL in this test's box; init=False: not yet initialised
join(*args)         a secondary of it, of the kind that --secondary names
eal                 an initialised EAL in the cheapest mode: for tests that need no other
box                 this test's private mounts, with the pages of @needs or @sizes
mode, page          what @modes and @sizes run through
evidence(text)      a line for the report: what was seen
"""

from __future__ import annotations

import errno
import gc
import itertools
import os
import platform
import shlex
import signal
import sys
from contextlib import ExitStack
from fnmatch import fnmatchcase
from pathlib import Path
from typing import NamedTuple

import pytest
from _pytest.runner import runtestprotocol

from conformance import MODES, SUITE
from conformance.harness import catalogue, facts, host, neighbours
from conformance.harness.box import Box, BoxError, Cgroup, Open
from conformance.harness.child import (
    Child,
    TargetDied,
    TargetError,
    TargetHung,
    command,
    installed,
)
from conformance.harness.eal import Eal
from conformance.harness.fake_host import GLOBAL, NODES, build
from conformance.harness.forkserver import ForkServer, forks

REFUSALS = AssertionError, TargetError, TargetDied, TargetHung, pytest.fail.Exception


def pytest_addoption(parser):
    group = parser.getgroup("conformance")
    group.addoption(
        "--target",
        default="pyeal",
        help="the EAL under test: pyeal[:RELEASE] "
        "(default), librte_eal[:RELEASE, PATH or PATH@RELEASE] or 'cmd:PROGRAM ARGS'",
    )
    group.addoption(
        "--secondary",
        metavar="TARGET",
        help="the EAL that joins it, of the same "
        "release: only tests with such a process run (default: the same as --target)",
    )
    group.addoption("--host", default=platform.node(), help="name of this machine in reports")
    group.addoption(
        "--id",
        action="append",
        default=[],
        metavar="ID",
        help="only these requirements: FBA-017, 'MSL-*'",
    )
    group.addoption(
        "--limit",
        type=float,
        default=30,
        metavar="S",
        help="seconds that a target has for one answer (default 30)",
    )
    group.addoption(
        "--suite",
        type=Path,
        default=SUITE,
        help="where requirements/ and deviations.toml lie (tests of the suite itself)",
    )


# The run: one target and the EAL of its secondaries, each greeted once.

HELLO, SECOND, STARTED, TRIES, LEFT = (pytest.StashKey() for _ in range(5))
NUMBERS = itertools.count(1)


class Facts(NamedTuple):
    """What the target said of itself."""

    target: str
    release: str
    can: frozenset
    measured: frozenset = frozenset()  # by harness/facts.py, of the libraries that it has mapped


def greet(config, option):
    """What the target of an option says of itself."""
    spec = config.getoption(option)
    try:
        child = Child(command(spec), Path(os.devnull), limit=config.getoption("limit"))
        measured = facts.of(child.pid)
        child.close()
    except (OSError, TargetDied, TargetHung) as e:
        raise pytest.UsageError(f"--{option} {spec} does not start: {e}") from None
    return Facts(child.target, child.release, frozenset(child.can), measured)


def pytest_configure(config):
    neighbours.begin()
    config.stash[HELLO] = config.stash[SECOND] = None
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # as in a script's background: children
        signal.signal(signal.SIGINT, signal.default_int_handler)  # would never see Ctrl-C
    own = [
        SUITE / "selftest" in (p := config.invocation_params.dir / a, *p.parents)
        for a in config.args
    ]
    if config.option.collectonly or config.option.help or (own and all(own)):
        return  # no target is asked anything
    first = second = config.stash[HELLO] = greet(config, "target")
    if config.getoption("secondary"):
        second = greet(config, "secondary")
    if not catalogue.same_release(first.release, second.release):
        raise pytest.UsageError(
            f"processes of one release wanted: --target is {first.release}, "
            f"--secondary {second.release}"
        )
    config.stash[SECOND] = second


def pytest_report_header(config):
    if hello := config.stash[HELLO]:
        pools = (
            ", ".join(
                f"{p.available} of {p.total} {sz} pages free" for sz, p in host.pools().items()
            )
            or "no hugepages"
        )
        joins = config.getoption("secondary")
        return [
            f"target: {hello.target} {hello.release} ({config.getoption('target')})"
            + "".join(f", {fact}" for fact in sorted(hello.measured)),
            *([f"secondary: {config.stash[SECOND].target} ({joins})"] if joins else []),
            f"host: {config.getoption('host')}, kernel {platform.release()}, "
            f"uid {os.geteuid()}, {len(host.nodes()) or 1} node(s), {pools}",
        ]
    return None


def pytest_xdist_auto_num_workers(config):
    return host.workers()


# Collection: ids are known, single, and complete.


def requirement_of(item):
    m = item.get_closest_marker("requirement")
    return m.args[0] if m else None


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(session, config, items):
    suite = config.getoption("suite")
    try:
        rows = catalogue.rows(suite / "requirements")
        deviations = catalogue.deviations(suite / "deviations.toml")
        untested = catalogue.untested(suite / "untested.toml")
    except catalogue.Broken as e:
        return _broken(session, items, [str(e)])
    whole = _whole(config)
    faults = catalogue.faults(
        [(requirement_of(i), i.nodeid.partition("[")[0]) for i in items], whole, rows, untested
    )
    hello, second, used = config.stash[HELLO], config.stash[SECOND], set()
    for item in items:
        row = rows.get(requirement_of(item))
        if row is None:
            continue
        item.user_properties += [
            ("requirement", row.id),
            ("family", row.family),
            ("level", row.level),
            ("statement", row.statement),
            ("mode", params_of(item).get("mode", "dynmem")),
            ("host", config.getoption("host")),
        ]
        if hello:
            item.user_properties += [
                ("target", hello.target),
                ("release", hello.release),
                ("secondary", second.target),
            ]
        params = item.nodeid.partition("[")[2].rstrip("]")
        for d in deviations:
            if d.id == row.id and fnmatchcase(params, d.params):
                used.add(d)
                if hello and d.covers(hello, second.target):
                    item.user_properties.append(("deviation", d.why))
                    item.add_marker(
                        pytest.mark.xfail(
                            reason=f"deviation: {d.why}", strict=True, raises=REFUSALS
                        )
                    )
    if whole:
        faults += [
            f"deviations.toml: {d.id} ({d.target}) matches no test"
            for d in deviations
            if d not in used
        ]
    if faults:
        return _broken(session, items, faults)
    if wanted := config.getoption("id"):
        keep = [i for i in items if any(fnmatchcase(requirement_of(i) or "", w) for w in wanted)]
        config.hook.pytest_deselected(items=[i for i in items if i not in keep])
        items[:] = keep
    if config.getoption("secondary"):
        keep = [i for i in items if "join" in i.fixturenames]
        config.hook.pytest_deselected(items=[i for i in items if i not in keep])
        items[:] = keep
    begun = [i for i in items if i.get_closest_marker("long")]
    later = [i for i in items if i not in begun]
    items[:] = begun + spread(later, [i for i in later if "1G" in (needs_of(i).get("pages") or ())])


def spread(items, rare):
    """The rare ones evenly among the others: side by side they wait for each other's one page."""
    few, many = list(rare), [i for i in items if i not in rare]
    step, out = len(many) // (len(few) + 1) or 1, []
    for n, item in enumerate(many, 1):
        out.append(item)
        if few and not n % step:
            out.append(few.pop(0))
    return out + few


def pytest_collection_finish(session):
    gc.freeze()  # what is collected stays to the end


def _broken(session, items, faults):
    """The suite contradicts itself: nothing runs. A report, since xdist's workers have no other
    way to say it."""
    items.clear()
    session.ihook.pytest_collectreport(
        report=pytest.CollectReport(
            "requirements", "failed", "the suite contradicts itself:\n" + "\n".join(faults), []
        )
    )


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session):
    """2 and more is a broken run, 1 a verdict."""
    tr = session.config.pluginmanager.get_plugin("terminalreporter")
    if tr and any(getattr(r, "nodeid", "") == "requirements" for r in tr.stats.get("error", [])):
        session.exitstatus = pytest.ExitCode.USAGE_ERROR


def _whole(config):
    """Nothing was left out: the suite's own folder is among the arguments."""
    suite = config.getoption("suite").resolve()
    at = config.invocation_params.dir
    return any("::" not in a and (at / a).resolve() in (suite, *suite.parents) for a in config.args)


# Needs: what cannot run here is skipped with both numbers.


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item):
    row = catalogue.rows(item.config.getoption("suite") / "requirements").get(requirement_of(item))
    hello, want = item.config.stash[HELLO], needs_of(item)
    if hello is None:
        return
    if row and not catalogue.holds(row.releases, hello.release):
        wanted = catalogue.in_words(row.releases)
        pytest.skip(f"not in this release: {wanted}, target is {hello.release}")
    if (releases := want.pop("release", "")) and not catalogue.holds(releases, hello.release):
        wanted = catalogue.in_words(releases)
        pytest.skip(f"not in this release: {wanted}, target is {hello.release}")
    if lacking := sorted(set(want.pop("verbs", ())) - hello.can):
        pytest.skip(f"{hello.target} has no verb {', '.join(lacking)}")
    if why := host.lacks(**want):
        pytest.skip(why)


def params_of(item):
    return item.callspec.params if hasattr(item, "callspec") else {}


def needs_of(item):
    """@needs of a test, its class and module in one; pages and root as its mode has them."""
    want = {}
    for m in reversed(list(item.iter_markers("needs"))):
        want |= m.kwargs
    params = params_of(item)
    if "page" in params:
        size, n = params["page"]
        want["pages"] = {size: n}
    mode = params.get("mode", "dynmem")
    if mode == "no-huge":
        want.pop("pages", None)
    elif want.get("pages") and mode != "in-memory":
        want["root"] = True  # hugetlbfs is mounted in the box
    return want


@pytest.fixture
def mode(request):
    return request.param


@pytest.fixture
def page(request):
    """Bytes of the page size that @sizes runs through."""
    return host.size(request.param[0])


# Neighbours: a test that failed while other users of hugepages were at work is repeated.


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item, nextitem):
    """Run a test, again if a neighbour disturbed it: the last try is reported, and their number."""
    tries = item.stash.setdefault(TRIES, neighbours.Tries(host.pools))
    if not tries.said:
        item.ihook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    said = list(item.user_properties)
    reports = runtestprotocol(item, nextitem=nextitem, log=False)
    failed = [r.when for r in reports if r.failed]
    left = item.stash.get(LEFT, [])
    # the test itself has a verdict then: three tries show whether it is the test that does so
    resized = failed == ["teardown"] and bool(left) and all(" pool changed: " in s for s in left)
    if tries.again(_of_pages(item, failed), 3 if resized else neighbours.TRIES):
        item.user_properties[:], item._report_sections = said, []
        item.ihook.pytest_runtest_protocol(item=item, nextitem=nextitem)  # with its own time limit
        return True
    why = (
        [*item.location[:2], f"Skipped: {neighbours.NOT_JUDGED}, {tries}"]
        if tries.said and not resized
        else None
    )
    for r in reports:
        if tries.said:
            r.user_properties.append(("disturbed", str(tries)))
        if r.failed and not tries.judged:  # of none of its tries is known what the target did
            r.outcome, r.longrepr = ("skipped", tuple(why)) if why else ("passed", None)
            why = None
        item.ihook.pytest_runtest_logreport(report=r)
    item.ihook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    del item.stash[TRIES]
    return True


def _of_pages(item, failed):
    """Whether phases failed in a way that other users of hugepages can be the reason of."""
    left = item.stash.get(LEFT, [])
    if not failed or not all(map(host.of_pools, left)):
        return False
    return bool(needs_of(item).get("pages")) or (failed == ["teardown"] and bool(left))


# Isolation: everything below the snapshot must be gone when it is compared.


@pytest.fixture(autouse=True)
def as_found(request):
    """The host is compared before and after: a difference is an error of the test."""
    before = host.snapshot()
    request.node.stash[LEFT] = []
    yield
    if said := host.settled(before):
        request.node.stash[LEFT] = said
        pytest.fail("the host was not left as found: " + "; ".join(said), pytrace=False)


@pytest.fixture(scope="session")
def prefix():
    """What the file prefixes of this process begin with."""
    return f"eal_{os.environ.get('PYTEST_XDIST_WORKER', 'main')}_{os.getpid()}"


@pytest.fixture
def make_box(request, as_found):
    """make_box({"2M": 8}, binds={"/sys/...": tree}, mounts=[("2M", where, options)], lease={})

    On one node of many, unless the test needs more of them.
    """
    made, one_node = [], not needs_of(request.node).get("nodes")

    def make(pages=None, *, lease=None, **more):
        try:
            if host.is_root():
                box = Box(pages, lease=lease, one_node=one_node, **more)
            elif pages or more:
                pytest.skip(f"wanted root, found uid {os.geteuid()}")
            else:
                box = Open(lease)
        except host.NotEnough as e:
            pytest.skip(str(e))
        made.append(box)
        return box

    yield make
    left = [x for b in reversed(made) for x in b.close()]
    if left:
        pytest.fail(f"processes left in the box: {'; '.join(left)}", pytrace=False)


@pytest.fixture
def fake_host(make_box, tmp_path):
    """fake_host({"2M": 8}, free={"2M": 9}, nodes=[0, 1]): a box of 8 pages where 9 are counted, on
    nodes that share this machine's CPUs. Also for legacy mode and 1 GB pages: the kernel's
    count leaves out what other tests' boxes hold."""

    def make(pages, free=None, nodes=(), **more):
        pools = {
            sz: {"free": n, "nodes": dict.fromkeys(nodes or [0], n)}
            for sz, n in (free or pages).items()
        }
        show = [GLOBAL, *([NODES] if nodes else [])]
        return make_box(pages, binds=build(tmp_path / "fake", pools, show=show), **more)

    return make


@pytest.fixture
def box(request, make_box):
    """This test's box: a hugetlbfs for each page size needed, with exactly these pages."""
    pages = needs_of(request.node).get("pages") or {}
    if params_of(request.node).get("mode") == "in-memory":
        return make_box(lease=pages)
    return make_box(pages)


@pytest.fixture(scope="session")
def forkservers():
    """forkservers(target): what forks targets of that kind; None for other people's programs."""
    made = {}

    def of(target):
        if target not in made:
            made[target] = ForkServer(target) if forks(target) else None
        return made[target]

    yield of
    for z in filter(None, made.values()):
        z.close()


@pytest.fixture
def start(request, tmp_path, prefix, make_box, cgroup, forkservers):
    """start(*args, mode=, box=, init=True, prefix=, target=, env=, as_user=, drop=, rlimits=,
    cgroup=, fresh=False)

    Every EAL of a test has the same file prefix and box unless told otherwise. It is forked from a
    process that has read its code; fresh=True is for tests that are about a new process itself.
    """
    started = request.node.stash[STARTED] = []
    default = f"{prefix}_{next(NUMBERS)}"
    test_mode = params_of(request.node).get("mode", "dynmem")

    def start(
        *args, mode=test_mode, box=None, init=True, prefix=default, target=None, fresh=False, **more
    ):
        box = box or request.getfixturevalue("box")
        args = [*MODES[mode], *args]
        if "--file-prefix" not in args:
            args += ["--file-prefix", prefix]
        prefix = args[args.index("--file-prefix") + 1]
        with installed(target):
            eal = Eal(
                target or request.config.getoption("target"),
                args,
                box,
                tmp_path,
                prefix,
                forkservers=None if fresh else forkservers,
                **{"limit": request.config.getoption("limit")} | more,
            )
        started.append(eal)
        return eal.init() if init else eal

    yield start
    faults = []
    for eal in reversed(started):
        try:
            eal.close()
        except (TargetDied, TargetHung) as e:
            faults.append(str(e))
    if faults:
        pytest.fail("\n".join(faults), pytrace=False)


@pytest.fixture
def join(request, start):
    """join(*args, target=, like start): a secondary in the same box, of --secondary's kind unless
    told; which mode it is in, the primary decides."""
    kind = request.config.getoption("secondary") or request.config.getoption("target")

    def join(*args, mode="dynmem", target=kind, **more):
        return start("--proc-type=secondary", *args, mode=mode, target=target, **more)

    join.kind = kind
    return join


@pytest.fixture
def peer(start):
    """peer(eal): a socket beside it that says what it is told to, as a faulty secondary would."""

    def peer(eal):
        p = start(
            init=False,
            mode="dynmem",
            box=eal.box,
            target=shlex.join(
                ["cmd:" + sys.executable, str(SUITE / "targets/peer.py"), eal.release]
            ),
        )
        p.name = p.ask("open", run=eal.runtime_dir)
        return p

    return peer


@pytest.fixture
def eal(start):
    """An initialised EAL without hugepages: 16 MB of shared files, quick and for any user."""
    return start("-m", "16", mode="no-huge")


@pytest.fixture
def cgroup(request, prefix, as_found):
    """cgroup("2M", limit_bytes, reserve=False, label=""): for start(..., cgroup=); label begins
    its name."""
    with ExitStack() as stack:
        made = []

        def make(size, limit, reserve=False, label=""):
            if not made:  # the last cgroup to be removed takes the controller with it
                stack.enter_context(host.alone("cgroup"))
            made.append(Cgroup(f"{label}{prefix}_{next(NUMBERS)}", size, limit, reserve))
            stack.callback(made[-1].close)
            return made[-1]

        yield make


# Reports

NO_VERDICT = errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOMEM


def of_this_machine(e):
    """Whether this process failed, not the target: a disk is full, a box cannot be made."""
    return isinstance(e, BoxError) or (isinstance(e, OSError) and e.errno in NO_VERDICT)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed and call.excinfo and of_this_machine(call.excinfo.value):
        report.user_properties.append(("broken", f"this machine fails: {call.excinfo.value}"))
    if report.when == "call" and report.outcome != "passed":
        for eal in item.stash.get(STARTED, []):
            report.sections.append((f"log of {eal!r}", eal.log[-6000:]))
    return report


@pytest.fixture
def evidence(request):
    """Note what was seen; printed with -v and for a run of one id, kept in every report."""

    def note(text):
        request.node.user_properties.append(("evidence", str(text)))

    return note


def pytest_terminal_summary(terminalreporter, config):
    tr = terminalreporter
    if config.getoption("verbose") < 1 and not config.getoption("id"):
        return
    last = None
    for r in (
        r for word in ("passed", "failed", "xfailed", "xpassed") for r in tr.stats.get(word, [])
    ):
        seen = [v for k, v in r.user_properties if k == "evidence"]
        if seen and r.when == "call":
            said = dict(r.user_properties)
            if said.get("requirement") != last:
                last = said.get("requirement")
                tr.section(f"{last}: {said.get('statement')}" if last else r.nodeid, "-")
            tr.line(f"{r.outcome:7} {r.nodeid.rpartition('::')[2]}")
            for line in seen:
                tr.line(f"        {line}")
