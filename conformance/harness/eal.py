"""An EAL under test: the verbs of its target as methods, its files and its process."""

from __future__ import annotations

import fnmatch
import os
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from conformance.harness import decode, host, proc
from conformance.harness.box import Cgroup, lifeline, limits, user
from conformance.harness.child import Child, Rec, TargetError, command, environment, machine
from conformance.harness.peers import Unobtainable
from conformance.harness.trace import Trace


class Eal:
    """`args` are those of rte_eal_init; nothing is initialised before `init`.

    forkservers(target): the fork server of this target, or None. Without one, or with other
    rights, limits or preloaded libraries, the target is started as a new process.
    """

    def __init__(
        self,
        target,
        args,
        box,
        tmp,
        prefix,
        *,
        env=None,
        limit=30.0,
        as_user=None,
        drop=(),
        rlimits=None,
        cgroup=None,
        forkservers=None,
    ):
        self.args, self.box, self.prefix, self.tmp = list(args), box, prefix, Path(tmp)
        self.spec = target
        n = len(list(self.tmp.glob("*.log")))
        for path in environment()["PYTHONPATH"].split(os.pathsep) if as_user else ():
            if at := host.closed(path):
                pytest.skip(
                    f"wanted pyeal where {as_user} may read it, found {at} closed to others"
                )
        own = rlimits or as_user or drop or any(k.startswith("LD_") for k in env or ())
        env = {k: v for k, v in (environment() | box.environment() | (env or {})).items() if v}
        try:
            argv = [
                *box.enter,
                *limits(**(rlimits or {})),
                *(user(as_user, drop) or lifeline()),
                *command(target),
            ]
            forkserver = forkservers(target) if forkservers and not own else None
        except Unobtainable as e:
            pytest.skip(f"wanted {target}, found none: {e}")
        begin = partial(forkserver.fork, env=env, box=box) if forkserver else None
        self.child = Child(argv, self.tmp / f"{n}.log", env=env, limit=limit, begin=begin)
        self.pid, self.release, self.target = (
            self.child.pid,
            self.child.release,
            self.child.target,
        )
        build = machine(target)
        self.decode = decode.release(self.release, decode.BUILDS.get(build, build))
        self._traces = []
        if cgroup:
            cgroup.add(self.pid)

    def __repr__(self):
        return f"<Eal {self.child!r} {' '.join(self.args)}>"

    # start and end

    def init(self, *more, within=None, verb="init", **params):
        """Initialise with the arguments given at the start and `more`."""
        __tracebackhide__ = True
        self.args += more
        done = self.ask(verb, args=self.args, within=within, **params)
        self.iova_mode, self.runtime_dir = done["iova_mode"], done["runtime_dir"]
        return self

    def init_with_tailqs(self, *names):
        """Initialise with tail queues: registered as by libraries, or named by the program."""
        if "tailq" not in self.child.can:
            return self.init(tailqs=list(names))
        for name in names:
            self.ask("tailq", name=name)
        return self.init()

    def refused(self, *more, within=None):
        """Initialisation must fail: answers the TargetError, with errno, text and log."""
        __tracebackhide__ = True
        try:
            self.init(*more, within=within)
        except TargetError as e:
            return e
        raise AssertionError(f"rte_eal_init succeeded: {' '.join(self.args)}")

    def cleanup(self):
        return self.ask("cleanup")

    def give_way(self):
        """Others get the CPU first: a librte_eal that waits for what never comes does not sleep."""
        os.setpriority(os.PRIO_PROCESS, self.pid, 10)
        return self

    def kill(self):
        """kill -9: no cleanup."""
        return self.child.kill()

    def close(self):
        """End of input: clean up and exit."""
        try:
            self.child.close()
        finally:
            for t in self._traces:
                t.stop()

    @property
    def log(self):
        return self.child.log

    def logged(self, text):
        """Lines of the log that contain a text."""
        return [line for line in self.log.splitlines() if text in line]

    def ask(self, verb, *, within=None, **params):
        __tracebackhide__ = True
        return self.child.ask(verb, within=within, **params)

    def begin(self, verb, **params):
        """Ask without waiting: `answered` looks, `answer` waits."""
        self.child.tell(verb, **params)

    def answered(self, within=0):
        return self.child.answered(within)

    def answer(self, verb="init", within=None):
        __tracebackhide__ = True
        return self.child.answer(verb, within)

    # verbs

    def lists(self):
        return self.ask("lists")

    def segments(self):
        return self.ask("segments")

    def walk(self, kind, *, unlocked=False, answers=()):
        """kind: list, seg, contig; answers[i] is what the i-th callback returns."""
        return self.ask("walk", kind=kind, unlocked=unlocked, answers=list(answers))

    def malloc(self, size, align=0, socket=-1):
        return self.ask("malloc", size=size, align=align, socket=socket)

    def free(self, va):
        return self.ask("free", va=va)

    def memzone(self, op, name, size=0, socket=-1):
        """op: reserve, lookup, free. addr is 0 when there is no such zone, errno then says why."""
        return self.ask("memzone", op=op, name=name, size=size, socket=socket)

    def alloc(self, page_size, socket, n, exact=True):
        return self.ask("alloc", page_size=page_size, socket=socket, n=n, exact=exact)

    def free_segs(self, segs):
        return self.ask("free_segs", segs=segs)

    def fd(self, addr, *, foreign=False):
        """Descriptor and offset of the segment at addr; 0: a NULL segment; foreign: of no list."""
        return self.ask("fd", addr=addr, foreign=foreign)

    def virt2memseg(self, addr):
        return self.ask("virt2memseg", addr=addr)

    def virt2iova(self, addr):
        return self.ask("virt2iova", addr=addr)

    def iova2virt(self, iova):
        return self.ask("iova2virt", iova=iova)

    def info(self):
        return self.ask("info")

    def dma_mask(self, bits):
        return self.ask("dma_mask", bits=bits)

    def extmem_register(self, len, page_sz):
        return self.ask("extmem_register", len=len, page_sz=page_sz)

    def extmem_unregister(self, va, len):
        return self.ask("extmem_unregister", va=va, len=len)

    def events_register(self):
        return self.ask("events_register")

    def events(self):
        return self.ask("events")

    def limit_register(self, socket, limit):
        return self.ask("limit_register", socket=socket, limit=limit)

    def peek(self, va, n=8):
        return bytes.fromhex(self.ask("peek", va=va, n=n))

    def poke(self, va, data):
        self.ask("poke", va=va, hex=data.hex())

    def block(self, va, len=proc.PAGE):
        """Take addresses before init."""
        return self.ask("block", va=va, len=len)

    def dump(self):
        return self.ask("dump")

    def fbarray(self, length, elt_sz, name="suite", *, null=False):
        return Fbarray(
            self, self.ask("fbarray", op="init", name=name, length=length, elt_sz=elt_sz, null=null)
        )

    # files

    @property
    def run(self):
        """The runtime directory, as this process can open it; 20.11 may have none."""
        return self.box.path(self.runtime_dir or "/nonexistent")

    def run_files(self, pattern="*"):
        if not self.run.is_dir():
            return []
        return sorted(fnmatch.filter(os.listdir(self.run), pattern))

    def hugedir(self, size="2M"):
        """The box's hugetlbfs of a page size, as this process can open it."""
        return self.box.path(self.box.hugedir(size))

    def page_files(self, size="2M"):
        """Names of this prefix's files there."""
        return sorted(
            (f for f in os.listdir(self.hugedir(size)) if f.startswith(self.prefix + "map_")),
            key=lambda f: [int(x) for x in f.rpartition("map_")[2].split("_")],
        )

    def config(self):
        """RUN/config, decoded."""
        return self.decode.config((self.run / "config").read_bytes())

    def patch(self, field, value, size=4):
        """Overwrite a number in RUN/config, as a faulty process would."""
        with open(self.run / "config", "r+b") as f:
            f.seek(self.decode.offsetof("rte_mem_config", field))
            f.write(value.to_bytes(size, "little"))

    def array(self, name, elt_sz=48, length=None):
        """RUN/fbarray_<name>; its length from the config unless given."""
        if length is None:
            length = next(
                m.memseg_arr.len for m in self.config().memsegs if m.memseg_arr.name == name
            )
        return self.decode.fbarray((self.run / f"fbarray_{name}").read_bytes(), elt_sz, length)

    def hugepage_info(self):
        """Records of RUN/hugepage_info with a directory: the others mean nothing."""
        return [
            r
            for r in self.decode.records("hugepage_info", (self.run / "hugepage_info").read_bytes())
            if r.hugedir
        ]

    def hugepage_data(self):
        """All records of RUN/hugepage_data."""
        return self.decode.records("hugepage_file", (self.run / "hugepage_data").read_bytes())

    # process

    def maps(self):
        return proc.maps(self.pid)

    def smaps(self):
        return proc.smaps(self.pid)

    def map_at(self, va):
        """The mapping that covers an address, with what smaps knows; None when none does."""
        return next((m for m in self.smaps() if m.start <= va < m.end), None)

    def fds(self):
        return proc.fds(self.pid)

    def locks(self, path):
        """Return the locks on a file; this process must be able to open the path."""
        return proc.locks(path)

    def trace(self, calls="", *, inject=(), path=None, raw=False):
        """Watch or falsify system calls from here on: usually before `init`."""
        inject = [inject] if isinstance(inject, str) else inject
        t = Trace(
            self.pid,
            calls,
            self.tmp / f"{self.pid}-{len(self._traces)}.strace",
            inject=inject,
            path=path,
            raw=raw,
            prefix=[*self.box.enter, *lifeline()],
        )
        self._traces.append(t)
        return t

    @contextmanager
    def failing(self, call, error, *, when="", path=None):
        """Let a system call fail for the length of a `with` block, and check that it was made.

        when: which of them, as strace counts: "1", "2+". Yields the trace.
        """
        nth = f":when={when}" if when else ""
        trace = self.trace(call, inject=f"{call}:error={error}{nth}", path=path)
        yield trace
        assert any(c.injected for c in trace.stop()), f"{call} was not called"


class Fbarray:
    """A descriptor in the target. Every operation answers what C returns; `errno` is rte_errno
    after it, which success does not clear."""

    def __init__(self, eal, made):
        self._eal, self.made, self.id = eal, made, made["id"]
        self.ret, self.errno = made.get("ret", 0), made.get("errno", 0)

    def op(self, op, **params):
        done = self._eal.ask("fbarray", op=op, id=self.id, **params)
        self.errno = done["errno"]
        return done["ret"]

    @property
    def now(self):
        """The descriptor: name, data, len, elt_sz, count."""
        return Rec(self._eal.ask("fbarray", op="describe", id=self.id))

    @property
    def path(self):
        return self._eal.run / f"fbarray_{self.made['name']}"

    def set_used(self, *idx):
        return [self.op("set_used", idx=i) for i in idx][-1]

    def set_free(self, *idx):
        return [self.op("set_free", idx=i) for i in idx][-1]

    def is_used(self, idx):
        return self.op("is_used", idx=idx)

    def get(self, idx):
        return self.op("get", idx=idx)

    def find_idx(self, addr):
        return self.op("find_idx", addr=addr)

    def attach(self):
        return self.op("attach")

    def detach(self):
        return self.op("detach")

    def destroy(self):
        return self.op("destroy")

    def copy(self):
        """Another descriptor of the same array, as a second process would have."""
        return Fbarray(self._eal, self._eal.ask("fbarray", op="copy", id=self.id))

    def __getattr__(self, name):
        """find_next_free(start), find_next_n_free(start, n), find_biggest_used(start), ..."""
        if not name.startswith("find_"):
            raise AttributeError(name)
        return lambda start, n=0: self.op("find", fn=name, start=start, n=n)


__all__ = ["Cgroup", "Eal", "Fbarray"]
