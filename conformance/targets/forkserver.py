"""Forks targets: python forkserver.py pyeal [RELEASE] | librte_eal [PATH [RELEASE]]

Each is as fresh as a new process: here code is read, and nothing is initialised. Stdin is a socket
of JSON requests. {"fork": {"env": {...} or null, "cwd": DIR, "cgroup": DIR or null}} comes with
descriptors of its requests, replies and stderr, and of a mount namespace to enter; it answers a
pid. {"wait": PID} answers its exit code, or null while it lives. A request has a number "n"; the
answer is [n, answer], so that a late one is not taken for another's. For Python 3.9 and later, as
the targets are.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import socket
import sys
import threading

PR_SET_PDEATHSIG, CLONE_NEWNS = 1, 0x20000
LIBC = ctypes.CDLL(None, use_errno=True)


def maker(kind, args):
    """What makes the target, with all that it will import."""
    if kind == "pyeal":
        import resource  # noqa: F401

        from pyeal import (  # noqa: F401
            attached,
            builds,
            describe,
            dynmem,
            heap_repair,
            hugepage_data,
            hugepages,
            inotify,
            legacy,
            malloc_mp,
            memzone,
            mp,
            native_code,
            observer,
            secondary,
        )
        from pyeal.agent import Target
        from pyeal.backing import legacy as _  # noqa: F401
        from pyeal.backing import memory, pagefiles  # noqa: F401
        from pyeal.libc import load_native
        from pyeal.serve import serve

        load_native()  # before there is more than one thread

        return lambda: serve(Target(*args))
    from conformance.targets.librte_eal import Eal
    from pyeal.serve import serve

    return lambda: serve(Eal(*args))


def child(fds, env, cwd, cgroup):
    """Goes where it was sent."""
    for at, fd in enumerate(fds[:3]):
        os.dup2(fd, at)
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if cgroup:
        with open(f"{cgroup}/cgroup.procs", "w") as f:
            f.write("0")
    if fds[3:]:
        if LIBC.setns(fds[3], CLONE_NEWNS):
            raise OSError(ctypes.get_errno(), "setns")
        os.chdir(cwd)
    for fd in fds:
        os.close(fd)
    if env is not None:
        os.environ.clear()
        os.environ.update(env)


def end():
    """End as a process does, but without taking apart an interpreter that is not used again.

    With threads left Python ends as usual, and waits for threads that are not daemons.
    """
    if threading.active_count() == 1:
        sys.stderr.flush()
        LIBC.exit(0)


def main(kind, *args):
    run = maker(kind, args)
    control = socket.socket(fileno=os.dup(0))
    gc.freeze()  # what is here already is not garbage
    control.send(b"null")
    ended = {}  # exit codes, which the kernel tells once
    while True:
        text, fds, _, _ = socket.recv_fds(control, 1 << 20, 4)
        if not text:
            return
        request = json.loads(text)
        if "fork" in request:
            answer = os.fork()
            ended.pop(answer, None)  # an earlier process had this pid
            if not answer:
                control.close()
                child(fds, **request["fork"])
                run()
                end()
                return
            for fd in fds:
                os.close(fd)
        else:
            of = request["wait"]
            pid, status = (0, 0) if of in ended else os.waitpid(of, os.WNOHANG)
            if pid:
                ended[of] = os.waitstatus_to_exitcode(status)
            answer = ended.get(of)
        control.send(json.dumps([request["n"], answer]).encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
