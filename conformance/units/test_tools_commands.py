"""What holds for every command: help, examples, JSON, exit codes, colour, patience, manual."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conformance.harness.child import environment
from conformance.units.recorded import pyeal, unpack
from pyeal.tools import Progress, commands, completion, man

ALL = list(commands.COMMANDS)
EAL = {"init", "attach", "demo"}  # these are an EAL, the others are tools
LOOKS = {  # what each says of a recording or of this machine: as JSON, and in colour
    "doctor": ["--", "--no-huge"],
    "explain": ["EAL: Cannot get hugepage information"],
    "plan": ["--", "--no-huge", "-m", "16"],
    "ps": [],
    "inspect": ["{run}"],
    "map": ["{run}"],
    "stale": [],
    "dump": ["{run}/config"],
    "diff": ["22.11", "24.11"],
    "lease": ["--show"],
    "setup": ["2M:64@0,1G:1"],
}
CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")
NOTHING = {  # what cannot be done: exit code 1, and why
    "inspect": ["/nonexistent"],
    "map": ["/nonexistent"],
    "dump": ["/nonexistent"],
    "diff": ["/nonexistent", "/nonexistent"],
    "init": ["--", "--no-huge", "--huge-dir"],
    "attach": ["nonexistent"],
    "plan": ["--", "-m", "99999999"],
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unpack("22.11", "dynmem", tmp_path_factory.mktemp("recording"))


def seen(argv: list[str], keys: str = "", **env: str) -> str:
    """What a terminal shows of a command, which gets these keys when it waits."""
    pid, fd = pty.fork()
    if not pid:
        os.execvpe(argv[0], argv, environment() | {"TERM": "xterm", "LANG": "C.UTF-8"} | env)
    text, end, sent = "", time.monotonic() + 30, False
    while time.monotonic() < end:
        if not select.select([fd], [], [], 0.3)[0]:
            if keys and not sent and text:  # it waits
                os.write(fd, keys.encode())
                sent = True
            continue
        try:
            data = os.read(fd, 1 << 16)
        except OSError:  # it has ended
            break
        text += data.decode(errors="replace")
    os.close(fd)
    os.waitpid(pid, 0)
    return text


@pytest.mark.parametrize("name", ALL)
def test_help_has_two_examples_that_parse_and_the_exit_codes(name: str) -> None:
    said = pyeal(name, "--help")
    block = said.partition("examples:\n")[2].partition("\n\n")[0]
    examples = [line for line in block.splitlines() if re.match(rf"\S|.*\bpyeal {name}\b", line)]
    words = [
        shlex.split(re.split(r" {2,}|[|>)]", x[x.index(f"pyeal {name}") :])[0]) for x in examples
    ]
    parser = commands.parser(name)

    assert len(examples) >= 2
    for _, _, *args in words:
        cut = args.index("--") if "--" in args else len(args)
        parser.parse_intermixed_args(args[:cut])
        assert cut == len(args) or commands.takes_eal_args(name)
    assert re.search(r"(?i)^exit code: ", said, re.M)


@pytest.mark.parametrize("name", LOOKS)
def test_json_names_its_schema_which_help_names_too(name: str, run: Path) -> None:
    args = [x.format(run=run) for x in LOOKS[name]]
    said = subprocess.run(
        [sys.executable, "-P", "-m", "pyeal", name, "--json", *args],
        capture_output=True,
        text=True,
        env=environment(),
    )
    schema = next(iter(json.loads(said.stdout).items()))

    assert said.returncode in (0, 1) and said.stderr == ""
    assert schema == ("schema", f"pyeal.{name}/1")
    assert schema[1] in re.sub(r"\s+", " ", pyeal(name, "--help"))


def test_each_tool_has_json_or_prints_a_file() -> None:
    without = {name for name in ALL if "--json" not in pyeal(name, "--help")}

    assert without == {"ci", "completion", "man"}
    # these need root, or write a file: test_tools_collect
    assert set(LOOKS) == set(ALL) - EAL - without - {"bench", "warm", "collect"}


@pytest.mark.parametrize("name", NOTHING)
def test_what_cannot_be_done_is_said_in_a_line_and_as_json(name: str, tmp_path: Path) -> None:
    env = {"RUNTIME_DIRECTORY": str(tmp_path)}
    said = pyeal(name, *NOTHING[name], code=1, env=env)
    told, _ = json.JSONDecoder().raw_decode(pyeal(name, "--json", *NOTHING[name], code=1, env=env))

    assert said.strip()
    assert told["error"]["text"] and {"stage", "errno", "text"} <= set(told["error"])


@pytest.mark.parametrize("name", ALL)
def test_wrong_arguments_end_with_2(name: str) -> None:
    said = pyeal(name, "--no-such-thing", code=2)

    assert "usage: " in said


@pytest.mark.parametrize("name", [n for n in LOOKS if n not in ("lease", "stale", "ps")])
def test_colour_is_for_terminals(name: str, run: Path) -> None:
    args = [x.format(run=run) for x in LOOKS[name]]
    argv = [sys.executable, "-P", "-m", "pyeal", name, *args]
    shown, plain = seen(argv), seen(argv, NO_COLOR="1")

    assert "\x1b[" in shown, shown
    assert plain and "\x1b" not in plain


def test_what_takes_long_is_said_on_a_terminal() -> None:
    code = """if True:
        import time
        from pyeal.tools import Progress
        with Progress("looking", after=0.05):
            time.sleep(0.3)
        print("done")"""
    argv = [sys.executable, "-P", "-c", code]
    piped = subprocess.run(argv, capture_output=True, text=True, env=environment())

    assert re.search(r"\rlooking: 0 s \r\x1b\[Kdone", seen(argv))
    assert (piped.stdout, piped.stderr) == ("done\n", "")
    assert Progress("").after == 2


# --- manual, completion


@pytest.mark.parametrize(
    "lint",
    [["mandoc", "-T", "lint", "-W", "warning"], ["man", "--warnings", "-E", "UTF-8", "-l", "-Z"]],
    ids=["mandoc", "man"],
)
def test_the_manual_is_sound(lint: list[str], tmp_path: Path) -> None:
    if not shutil.which(lint[0]):
        pytest.skip(f"wanted {lint[0]}, found none")
    (file := tmp_path / "pyeal.1").write_text(man.page())
    env = os.environ | {"LC_ALL": "C.UTF-8"}
    done = subprocess.run([*lint, str(file)], capture_output=True, text=True, env=env)
    said = (done.stdout if lint[0] == "mandoc" else "") + done.stderr

    # a page has no date where a build is to be the same on any day
    assert [x for x in said.splitlines() if "missing date" not in x] == []


def test_the_manual_has_every_command_and_option() -> None:
    page = man.page().replace(r"\-", "-")

    for name, summary in commands.summaries():
        assert f"\n.SS pyeal {name}\n" in page and summary
    for name in ALL:
        part = page.partition(f"\n.SS pyeal {name}\n")[2].partition("\n.SS ")[0]
        for a in commands.parser(name)._actions:
            assert a.dest == "help" or all(f"\\fB{n}\\fR" in part for n in a.option_strings)


COMPLETED = [  # typed, what is offered
    ("pyeal doc", "pyeal doctor"),
    ("pyeal doctor --to", "pyeal doctor --touch"),
    ("pyeal plan --as 26", "pyeal plan --as 26.07"),
    ("pyeal plan -- --single", "pyeal plan -- --single-file-segments"),
    ("pyeal dump --kind hugepage_d", "pyeal dump --kind hugepage_data"),
    ("pyeal completion fi", "pyeal completion fish"),
    ("pyeal map --html picture.h", "pyeal map --html picture.html"),
]


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_shells_complete(shell: str, tmp_path: Path) -> None:
    """Typed at a terminal, with the key: what the line becomes."""
    if not shutil.which(shell):
        pytest.skip(f"wanted {shell}, found none")
    (script := tmp_path / "_pyeal").write_text(pyeal("completion", shell))
    (tmp_path / "picture.html").touch()
    (tmp_path / "rc").write_text(f"PS1='$ '; . {script}\n")
    if shell == "fish":
        for typed, line in COMPLETED:
            offer = f"cd {tmp_path}; source {script}; complete -C {shlex.quote(typed)}"
            done = subprocess.run(
                [shell, "-N", "-c", offer],
                capture_output=True,
                text=True,
                env=os.environ | {"HOME": str(tmp_path)},
            )
            found = [x.split("\t")[0] for x in done.stdout.splitlines()]
            assert (found, done.stderr) == ([line.split()[-1]], ""), typed
        return
    if shell == "zsh":
        (tmp_path / ".zshrc").write_text(
            f"PS1='$ '; fpath=({tmp_path} $fpath)\nautoload -U compinit; compinit -u -D\n"
        )
        argv = [shell, "-i"]
    else:
        argv = [shell, "--noprofile", "--rcfile", str(tmp_path / "rc"), "-i"]
    # tab, to the line's begin, and have it shown
    keys = "".join(f"{typed}\t\x01echo \x05.\n" for typed, _ in COMPLETED)
    said = seen(
        ["sh", "-c", f"cd {tmp_path}; exec {shlex.join(argv)}"],
        keys + "exit\n",
        HOME=str(tmp_path),
        ZDOTDIR=str(tmp_path),
        HISTFILE="/dev/null",
    )
    shown = {x.strip("\r").replace(" .", ".") for x in CONTROL.sub("", said).split("\n")}

    assert {line for _, line in COMPLETED} - {x.removesuffix(".") for x in shown} == set(), said
