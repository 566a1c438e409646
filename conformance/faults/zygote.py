"""Forks targets: python zygote.py pyeal [RELEASE] | librte_eal [PATH [RELEASE]]

Each is as fresh as a new process: here code is read, and nothing is initialised. The first request
is a socket on stdin: `fork` with three descriptors (requests, replies, stderr) answers a pid,
`wait PID` its exit code, or nothing while it lives. For Python 3.9 and later, as the targets are.
"""

from __future__ import annotations

import os
import socket
import sys
from importlib.util import find_spec


def maker(kind, args):
    """What makes the target, with all that it will import."""
    if kind == "pyeal":
        import resource  # noqa: F401
        from ctypes import addressof, c_int

        from pyeal.agent import Target
        from pyeal.libc import compare_exchange
        from pyeal.serve import serve

        compare_exchange(addressof(c_int()), 0, 0)  # whichever thread comes first loads libatomic

        return lambda: serve(Target(*args))
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../targets"))
    sys.path += find_spec("pyeal").submodule_search_locations
    from librte_eal import Eal
    from serve import serve

    return lambda: serve(Eal(*args))


def child(fds):
    for at, fd in enumerate(fds):
        os.dup2(fd, at)
    for fd in fds:
        os.close(fd)


def main(kind, *args):
    run = maker(kind, args)
    control = socket.socket(fileno=os.dup(0))
    control.send(b"ready")
    while True:
        text, fds, _, _ = socket.recv_fds(control, 64, 3)
        if not text:
            return
        verb, _, n = text.decode().partition(" ")
        if verb == "fork":
            pid = os.fork()
            if not pid:
                control.close()
                child(fds)
                run()
                return
            for fd in fds:
                os.close(fd)
            answer = str(pid)
        else:
            pid, status = os.waitpid(int(n), os.WNOHANG)
            answer = str(os.waitstatus_to_exitcode(status)) if pid else "alive"
        control.send(answer.encode())


if __name__ == "__main__":
    main(*sys.argv[1:])
