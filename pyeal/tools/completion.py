"""`pyeal completion`: scripts that complete these commands, made of their parsers.

The scripts are fixed text, so that no keystroke starts Python. Which words complete a value follows
from the name that its parser gives it.
"""

from __future__ import annotations

import argparse

from pyeal.tools import commands

TEXT = """Print the completion script of bash, zsh or fish: commands, options and values, and
EAL's own after --. A wheel installs all three where the shells find them."""
EXAMPLES = """\
  eval "$(pyeal completion bash)"                                     in ~/.bashrc
  pyeal completion zsh >"${fpath[1]}/_pyeal"                          once
  pyeal completion fish >~/.config/fish/completions/pyeal.fish        once

exit code: 0; 2 for wrong arguments"""
KINDS = {  # the name of a value: what may stand there
    "FILE": "file",
    "ARCHIVE": "file",
    "CORE": "file",
    "A": "file",
    "B": "file",
    "DIR": "dir",
    "DIRECTORY": "dir",
    "PID": "pid",
    "PREFIX": "prefix",
    "RELEASE": "release",
}
COMMANDS_FOLLOW = "lease", "ci"  # after --; to others EAL's arguments


class Word:
    """An option of a command or, without names, something between them."""

    def __init__(self, a: argparse.Action) -> None:
        self.names, self.help = a.option_strings, a.help or ""
        self.values = list(map(str, a.choices or ()))
        self.kinds: list[str] = []
        if a.nargs != 0:
            said = a.metavar if isinstance(a.metavar, str) else a.dest.upper()
            self.kinds = sorted({KINDS[m] for m in said.split("|") if m in KINDS})
        if "release" in self.kinds:
            from pyeal.releases import RELEASES

            self.kinds.remove("release")
            self.values += sorted({r.line for r in RELEASES.values()})
        self.takes = a.nargs not in (0, "?")  # a value must follow


def words_of(name: str) -> list[Word]:
    """Return the words of a command's parser; none of a command that parses for itself."""
    if name not in commands.COMMANDS:
        return []
    return [Word(a) for a in commands.parser(name)._actions]


def all_words() -> list[tuple[str, str, list[Word]]]:
    """Return (name, its line in --help, its words) of each command."""
    return [(name, text, words_of(name)) for name, text in commands.summaries()]


def eal_options() -> list[str]:
    """--in-memory, ...: those that mean something here, of all releases."""
    from pyeal.options import _OPTIONS

    return sorted({f"--{name}" for name, _, _, do, *_ in _OPTIONS if do and len(name) > 1})


def between(found: list[Word]) -> tuple[list[str], list[str]]:
    """(values, kinds) of what is no option."""
    free = [w for w in found if not w.names]
    return [v for w in free for v in w.values], sorted({k for w in free for k in w.kinds})


# --- the shells: %...% is filled in

BASH = """\
# bash completion of pyeal: made by `pyeal completion bash`
_pyeal() {
    local cur=${COMP_WORDS[COMP_CWORD]} word words= kinds=
    local at="${COMP_WORDS[1]} ${COMP_WORDS[COMP_CWORD - 1]}"
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        [[ $word != -- ]] || at="${COMP_WORDS[1]} -- EAL"
    done
    ((COMP_CWORD > 1)) || at=
    case $at in
    '') words="%names% --help --version" ;;
%cases%
    esac
    local IFS=$'\n'
    mapfile -t COMPREPLY < <(
        compgen -W "${words// /$'\n'}" -- "$cur"
        for word in ${kinds// /$'\n'}; do
            case $word in
            file) compgen -f -- "$cur" ;;
            dir) compgen -d -- "$cur" ;;
            command) compgen -c -- "$cur" ;;
            pid) compgen -W "$(cd /proc && printf '%s\n' [0-9]*)" -- "$cur" ;;
            prefix)
                # compgen -W would expand $(...) in a name, and anyone can make a directory in /tmp
                for word in {/var/run,"${XDG_RUNTIME_DIR:-/tmp}"}/dpdk/*/config; do
                    [[ -e $word ]] || continue
                    word=${word%/config} word=${word##*/}
                    [[ $word != "$cur"* || $word == -* ]] && continue
                    [[ $word == *[!A-Za-z0-9_.:-]* ]] || echo "$word"
                done ;;
            esac
        done
    )
    case $kinds in *file* | *dir*) compopt -o filenames ;; esac
}
complete -F _pyeal pyeal"""
ZSH = """\
#compdef pyeal
# zsh completion of pyeal: made by `pyeal completion zsh`
_pyeal() {
    setopt localoptions extendedglob
    local -a found
    local at="$words[2] $words[CURRENT-1]"
    (( ${words[(I)--]} && ${words[(I)--]} < CURRENT )) && at="$words[2] -- EAL"
    (( CURRENT > 2 )) || at=
    case $at in
    '') found=(
%names%
        )
        _describe command found ;;
%cases%
    esac
}
_pyeal_file() { _files }
_pyeal_dir() { _files -/ }
_pyeal_command() { _command_names -e }
_pyeal_pid() { compadd -- /proc/<->(:t) }
_pyeal_prefix() {
    local -a names=( {/var/run,${XDG_RUNTIME_DIR:-/tmp}}/dpdk/*/config(N:h:t) )
    compadd -- ${(M)names:#[A-Za-z0-9_][A-Za-z0-9_.:-]#}
}
_pyeal "$@\""""
FISH = """\
# fish completion of pyeal: made by `pyeal completion fish`
function __pyeal_at
    set -l given (commandline -opc)
    not contains -- -- $given; and test (count $given) -gt 1; and test $given[2] = $argv[1]
end
function __pyeal_prefixes
    for d in /var/run $XDG_RUNTIME_DIR /tmp
        for f in $d/dpdk/*/config
            string match -r '^[A-Za-z0-9_][A-Za-z0-9_.:-]*$' -- (path basename (path dirname $f))
        end
    end
end
complete -c pyeal -f
%cases%"""
FISH_KINDS = {"pid": "(__fish_complete_pids)", "prefix": "(__pyeal_prefixes)"}


def bash() -> str:
    cases = []
    for name, _, found in all_words():
        if name in COMMANDS_FOLLOW:
            cases.append(f"""    "{name} -- EAL") kinds=command ;;""")
        for w in found:
            if w.names and w.takes:
                at = "|".join(f'"{name} {n}"' for n in w.names)
                words, kinds = " ".join(w.values), " ".join(w.kinds)
                cases.append(f'    {at}) words="{words}" kinds="{kinds}" ;;')
    cases.append(f"""    *" -- EAL") words="{" ".join(eal_options())}" ;;""")
    for name, _, found in all_words():
        values, also = between(found)
        words, kinds = " ".join([*values, *(n for w in found for n in w.names)]), " ".join(also)
        cases.append(f'    "{name} "*) words="{words}" kinds="{kinds}" ;;')
    names = " ".join(name for name, _, _ in all_words())
    return BASH.replace("%names%", names).replace("%cases%", "\n".join(cases))


def zsh() -> str:
    def quoted(word: str, text: str) -> str:
        said = word.replace(":", "\\:") + ":" + text
        return "        '" + said.replace("'", r"'\''") + "'"

    def more(values: list[str], kinds: list[str]) -> str:
        return (
            "; ".join(
                [
                    *([f"compadd -- {' '.join(values)}"] if values else []),
                    *(f"_pyeal_{k}" for k in kinds),
                ]
            )
            or ":"
        )

    cases = []
    for name, _, found in all_words():
        if name in COMMANDS_FOLLOW:
            cases.append(f"""    "{name} -- EAL") _pyeal_command ;;""")
        for w in found:
            if w.names and w.takes:
                at = "|".join(f'"{name} {n}"' for n in w.names)
                cases.append(f"    {at}) {more(w.values, w.kinds)} ;;")
    cases.append(f"""    *" -- EAL") compadd -- {" ".join(eal_options())} ;;""")
    for name, _, found in all_words():
        options = "\n".join(quoted(n, w.help) for w in found for n in w.names)
        cases.append(
            f'    "{name} "*) found=(\n{options}\n        )\n'
            f"        _describe -o option found; {more(*between(found))} ;;"
        )
    names = "\n".join(quoted(name, text) for name, text, _ in all_words())
    return ZSH.replace("%names%", names).replace("%cases%", "\n".join(cases))


def fish() -> str:
    def quoted(text: str) -> str:
        return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"

    def values(values: list[str], kinds: list[str]) -> str:
        said = [*values, *(FISH_KINDS[k] for k in kinds if k in FISH_KINDS)]
        if "dir" in kinds and "file" not in kinds:
            said.append("(__fish_complete_directories)")
        return (f' -a "{" ".join(said)}"' if said else "") + " -F" * ("file" in kinds)

    head, cases = "complete -c pyeal", []
    for name, text, _ in all_words():
        cases.append(f"{head} -n __fish_use_subcommand -a {name} -d {quoted(text)}")
    for name, _, found in all_words():
        here = f"{head} -n '__pyeal_at {name}'"
        for w in found:
            if w.names:
                names = " ".join(f"-l {n[2:]}" if n[:2] == "--" else f"-s {n[1:]}" for n in w.names)
                takes = " -r" * w.takes + values(w.values, w.kinds) * w.takes
                cases.append(f"{here} {names} -d {quoted(w.help)}{takes}")
        if said := values(*between(found)):
            cases.append(here + said)
    after = f"{head} -n 'contains -- -- (commandline -opc)'"
    cases.append(f'{after} -a "{" ".join(eal_options())}"')
    return FISH.replace("%cases%", "\n".join(cases))


SHELLS = {"bash": bash, "zsh": zsh, "fish": fish}


def arguments(p: argparse.ArgumentParser) -> None:
    p.add_argument("shell", choices=SHELLS, help="which")


def run(args: argparse.Namespace) -> int:
    print(SHELLS[args.shell]())
    return 0
