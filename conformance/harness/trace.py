"""System calls of a target, seen and falsified by strace."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
from pathlib import Path
from typing import NamedTuple

from conformance import until


class Call(NamedTuple):
    """One system call; `ret` is -1 with `errno` "EINVAL", None when it never returned."""

    pid: int
    name: str
    args: tuple[str, ...]
    ret: int | None
    errno: str | None
    injected: bool
    text: str


# What a process does for itself, whatever its EAL does: waits, threads, memory.
OWN = set(
    (
        "brk clock_nanosleep clone3 futex gettid mprotect munmap nanosleep restart_syscall rseq "
        "rt_sigprocmask set_robust_list"
    ).split()
)


def of_eal(calls):
    """Those that count: without what a process does for itself, its answers, log and CPUs."""
    aside = re.compile(r"write\([12]\D|.*(MAP_PRIVATE\|MAP_ANONYMOUS|/cpu\d+/topology)")
    return [c for c in calls if c.name not in OWN and not aside.match(c.text)]


END = re.compile(r"\s*= (0x[0-9a-f]+|-?\d+|\?)(?:<(.*?)>)?(?: (E[A-Z0-9]+) \(.*?\))?(.*)$")
HEAD = re.compile(r"(\d+)\s+(.*)")
PAIRS = {"(": ")", "[": "]", "{": "}", "<": ">"}


def split(text):
    """Arguments and what follows the closing bracket, commas inside brackets and quotes left."""
    args, start, depth, quoted, i = [], 0, [], False, 0
    while i < len(text):
        c = text[i]
        if quoted:
            i += c == "\\"
            quoted = c != '"'
        elif c == '"':
            quoted = True
        elif c == "<" and not re.match(r"(\d+|AT_FDCWD)<[^<]", text[text.rfind(" ", 0, i) + 1 :]):
            pass  # 30<<MFD_HUGE_SHIFT; descriptors are 5<path>
        elif c in PAIRS:
            depth.append(PAIRS[c])
        elif depth and c == depth[-1]:
            depth.pop()
        elif not depth and c in ",)":
            args.append(text[start:i].strip())
            start = i + 1
            if c == ")":
                return tuple(args if args != [""] else []), text[start:]
        i += 1
    return tuple(args), ""


def parse(text):
    calls, unfinished = [], {}
    for line in text.splitlines():
        if not (m := HEAD.match(line)):
            continue
        pid, rest = int(m[1]), m[2]
        if rest.endswith("<unfinished ...>"):
            unfinished[pid] = rest.removesuffix("<unfinished ...>").rstrip()
            continue
        if r := re.match(r"<\.\.\. (\w+) resumed>(.*)", rest):
            if pid not in unfinished:
                continue  # began before it was looked at
            rest = unfinished.pop(pid) + r[2]
        if not (r := re.match(r"(\w+)\((.*)", rest)):
            continue  # signals, exits
        args, tail = split(r[2])
        e = END.match(tail)
        ret = None if not e or e[1] == "?" else int(e[1], 0)
        calls.append(
            Call(pid, r[1], args, ret, e[3] if e else None, rest.endswith("(INJECTED)"), rest)
        )
    return calls


class Trace:
    """strace, attached to a running child: what counts (`when=`) starts here."""

    def __init__(
        self,
        pid,
        calls,
        out,
        *,
        inject=(),
        path=None,
        raw=False,
        prefix=(),
        follow=True,
        limit=60.0,
    ):
        """follow: trace its other threads as well; `when=` counts from 1 in each."""
        self.out, self._calls, self._of = Path(out), None, "" if follow else f"{pid} "
        argv = [
            *prefix,
            shutil.which("strace"),
            *(["-f"] if follow else []),
            "-y",
            "-s",
            "4096",
            "-o",
            out,
            "-p",
            pid,
            *(["-e", "trace=" + calls] if calls else []),
            *(x for i in inject for x in ("-e", "inject=" + i)),
            *(x for p in ([path] if isinstance(path, str) else path or ()) for x in ("-P", p)),
            *(["-X", "raw"] if raw else []),
        ]
        self.err = self.out.with_suffix(".err")
        with open(self.err, "wb") as err:
            self.popen = subprocess.Popen(
                list(map(str, argv)), stdin=subprocess.DEVNULL, stdout=err, stderr=err
            )
        until(lambda: self._attached(pid) or self.popen.poll() is not None, limit)
        if not self._attached(pid):
            self._end()
            raise RuntimeError("strace did not attach: " + self.err.read_text())

    def _attached(self, pid):
        """Said after PTRACE_INTERRUPT: from here on no call of the child goes unseen."""
        return f"Process {pid} attached" in self.err.read_text()

    def _end(self):
        if self.popen.poll() is None:
            self.popen.send_signal(signal.SIGINT)
        try:
            self.popen.wait(60)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait()

    def stop(self, *names):
        """Detach (once) and answer the calls, all or those of the given names."""
        if self._calls is None:
            self._end()
            lines = self.out.read_text().splitlines()  # without -f none begins with a pid
            self._calls = parse("\n".join(self._of + line for line in lines))
        return [c for c in self._calls if not names or c.name in names]
