"""`pyeal man`: the manual page, made of the commands' own parsers and texts."""

from __future__ import annotations

import re

from pyeal.tools import commands

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

TEXT = """Print the manual as a page for man(1). A wheel installs it in share/man, which man
searches if the programs of the same prefix are in PATH."""
EXAMPLES = """\
  pyeal man | man -l -
  pyeal man >pyeal.1

exit code: 0; 2 for wrong arguments"""

HEAD = r"""
.TH PYEAL 1 "" "pyeal %version%" "User Commands"
.SH NAME
pyeal \- %summary%
.SH SYNOPSIS
.B pyeal
.I COMMAND
[options] [\-\- EAL\-ARGS]
.SH DESCRIPTION
EAL sets up the memory of a DPDK process before anything else runs.
The commands below say why it does not start, show what it made or left behind, and do the same
work themselves.
Commands that inspect are read\-only: they never attach to, lock or modify anything.
.SH COMMANDS
""".lstrip()
TAIL = r"""
.SH EXIT STATUS
0 is good, 1 a finding or a failure, 2 wrong arguments, 130 an interruption; each command says more.
.SH ENVIRONMENT
.TP
.B NO_COLOR
No colour; there is none either where output is no terminal.
.TP
.BR RUNTIME_DIRECTORY ", " XDG_RUNTIME_DIR
Where runtime directories are, as for DPDK; root's are in /var/run/dpdk.
.SH SEE ALSO
.BR dpdk\-hugepages (8),
.BR dpdk\-testpmd (1),
.BR dpdk\-proc\-info (1)
""".strip()


def escaped(text: str) -> str:
    """As troff prints it: hyphens of options stay what they are, no line is a request."""
    text = text.replace("\\", r"\e").replace("-", r"\-")
    return re.sub(r"(?m)^(?=[.'])", r"\\&", text)


def synopsis(p: argparse.ArgumentParser) -> str:
    """What follows the command's name."""
    if p.usage:
        return p.usage.removeprefix(f"{p.prog} ")
    words = []
    for a in p._actions:
        if not a.option_strings:
            word = str(a.metavar or "{" + ",".join(map(str, a.choices or ())) + "}")
            words.append(f"[{word}{' ...' * (a.nargs == '*')}]" if a.nargs in ("?", "*") else word)
    return " ".join(["[options]", *words])


def _option(a: argparse.Action) -> str:
    value = ""
    if a.nargs != 0:
        said = str(
            a.metavar or "{" + ",".join(map(str, a.choices)) + "}"
            if a.choices
            else a.metavar or a.dest.upper()
        )
        value = f" \\fI{escaped(said)}\\fR"
        value = f" [{value.strip()}]" if a.nargs == "?" else value
    return ", ".join(f"\\fB{escaped(n)}\\fR" for n in a.option_strings) + value


def _prose(text: str) -> str:
    """Lines as they come; what begins with "Exit code" is a paragraph of its own."""
    return re.sub(r"\n\n?(?=[Ee]xit code)", "\n.PP\n", escaped(text.strip()))


def section(name: str, summary: str) -> Iterator[str]:
    yield f".SS pyeal {name}"
    if name not in commands.COMMANDS:
        yield escaped(f"{summary[0].upper()}{summary[1:]}: pyeal {name} --help.")
        return
    p = commands.parser(name)
    yield f".B pyeal {name}\n{escaped(synopsis(p))}\n.PP"
    yield _prose(p.description or "")
    for a in p._actions:
        if a.option_strings and a.help and a.dest != "help":
            yield f".TP\n{_option(a)}\n{escaped(a.help)}"
    examples, _, code = (p.epilog or "").removeprefix("examples:\n").partition("\n\n")
    yield f".PP\nExamples:\n.PP\n.EX\n{escaped(examples)}\n.EE"
    if code:
        yield f".PP\n{escaped(code)}"


def page() -> str:
    from pyeal import __version__

    head = HEAD.replace("%version%", __version__)
    head = head.replace("%summary%", escaped(commands.SUMMARY.rstrip(".")))
    sections = (line for s in commands.summaries() for line in section(*s))
    return head + "\n".join(sections) + "\n" + TAIL


def arguments(p: argparse.ArgumentParser) -> None:
    pass


def run(args: argparse.Namespace) -> int:
    print(page())
    return 0
