"""Targets of a run: what each --target, --source and --peer means, and which of them form pairs."""

from __future__ import annotations

import copy
import itertools
from fnmatch import fnmatchcase
from functools import partial

from conformance.harness import catalogue, peers
from conformance.harness.child import NO_LIBRARY, TargetDied, TargetHung, greet
from conformance.harness.console import say
from conformance.runner import builds

PEER = "22.11"  # the release of Debian's librte_eal if none is named
PAIRED = "SEC", "CLEAN", "ERR", "CFG"  # families with processes that meet


class Broken(Exception):
    """The run cannot be, or cannot be judged; exit code 2."""


class Target:
    """One EAL to test: what pytest is told, what it says of itself, what may join it."""

    secondary = ""
    source = None  # of a build of a revision: Build.facts

    def __init__(self, spec, name=None):
        self.spec, self.name = spec, name or spec
        try:
            self.release = greet(spec).release
        except (OSError, TargetDied, TargetHung) as e:
            lines = [x for x in str(e).splitlines() if x.strip()]
            said = next((x.strip() for x in reversed(lines) if "Error" in x), lines[-1])
            raise Broken(f"{spec} does not start: {said}") from None


def targets(args):
    """Return the targets asked for; else pyeal and librte_eal, installed or Debian's."""
    asked = [*args.target, *(builds.PREFIX + source for source in args.source)]
    found = given(asked, partial(built, args))
    for release in fetched(args.peer):
        spec = f"librte_eal:{release}"
        found.append(Target(spec, "librte_eal" if len(args.peer) == 1 and not found else spec))
    if not asked:
        found.insert(0, Target("pyeal"))
        if not args.peer:
            try:
                found.append(installed_or_fetched(args.no_peer))
            except Broken as e:
                say(f"without a second target: {e}")
    return found


def installed_or_fetched(no_peer):
    """Return the librte_eal of this machine, else Debian's of the default release.

    A library that is installed and does not start is not replaced by another.
    """
    try:
        return Target("librte_eal")
    except Broken as e:
        if no_peer or NO_LIBRARY not in str(e):
            raise
    say(f"no librte_eal is installed: fetching Debian's {PEER}; --no-peer leaves it")
    (release,) = fetched([PEER])
    return Target(f"librte_eal:{release}", "librte_eal")


def pairs(found, patterns):
    """Targets of one release and different kinds, each with the other to join it."""
    if patterns and not any(
        fnmatchcase(i, p) and i.startswith(PAIRED) for i in catalogue.rows() for p in patterns
    ):
        return
    for a, b in itertools.permutations(found, 2):
        other = a.spec.partition(":")[0] != b.spec.partition(":")[0]
        if other and catalogue.same_release(a.release, b.release):
            yield pair(a, b)


def pair(primary, secondary):
    both = copy.copy(primary)
    both.name, both.secondary = f"{primary.name} × {secondary.name}", secondary.spec
    return both


def given(specs, make=None):
    """Return the targets of these specs. A build that is one of several is named by its release,
    or by its revision."""
    found = [(make or Target)(spec) for spec in dict.fromkeys(specs)]
    kinds = [t.spec.partition(":")[0] for t in found]
    same = [(kind, t.release) for kind, t in zip(kinds, found, strict=True)]
    for t, kind in zip(found, kinds, strict=True):
        if kind != "cmd" and kinds.count(kind) == 1:
            t.name = kind
        elif kind == "librte_eal" and same.count((kind, t.release)) == 1:
            t.name = f"{kind}:{t.release}"
    return found


def built(args, spec):
    """Return the target of a spec; of a source tree, after it is built."""
    if not spec.startswith(builds.PREFIX):
        return Target(spec)
    if not (args.build and args.library):
        raise Broken(f"{spec}: expected --build COMMAND and --library PATH, which say how")
    return of_revision(builds.Cache(args.cache), *builds.split(spec[len(builds.PREFIX) :]), args)


def of_revision(cache, repository, revision, args):
    """Return a revision of a repository as a target: built by args.build, or found built."""
    build = cache.build(repository, revision, args.build)
    spec = build.target(args.library)
    kind = "librte_eal" if spec.startswith("librte_eal:") else "source"
    target = Target(spec, f"{kind}:{build.commit.short}")
    target.source = build.facts(spec)
    return target


def interop(args):
    """The four pairs of pyeal and librte_eal, of each release of Debian's or build asked for."""
    for both in both_of(args.peer or ([] if args.target else ["all"])):
        yield from itertools.starmap(pair, itertools.product(both, repeat=2))
    for build in given(args.target, partial(built, args)):
        both = Target(f"pyeal:{build.release}"), build
        yield from itertools.starmap(pair, itertools.product(both, repeat=2))


def both_of(names):
    """pyeal and Debian's librte_eal, in each of these releases."""
    for name in fetched(names):
        real = Target(f"librte_eal:{name}")
        yield Target(f"pyeal:{real.release}", f"pyeal:{name}"), real


def fetched(names):
    """Peers of these releases, all of them for "all"."""
    for name in peers.releases() if "all" in names else names:
        try:
            yield peers.fetch(name, lambda text: say(f"peer {text}")).name
        except peers.Unobtainable as e:
            raise Broken(f"no peer {name}: {e}") from None
