"""What a tool answered on another machine: `pyeal collect` keeps it, `--from ARCHIVE` shows it."""

from __future__ import annotations

import io
import re
from contextlib import contextmanager, redirect_stdout
from errno import EINVAL

from pyeal.errors import EalError
from pyeal.look.sources import Unreadable
from pyeal.tools import commands

TYPE_CHECKING = False
if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from typing import Any

    Dict = dict[str, Any]

FOLDER = "answers"
KEPT = {"ps": ("-a",), "stale": ("-a",), "doctor": ()}  # command: its arguments in an archive
NAMES = r"(?<![a-z])(?:pass(?:word|wd|phrase)?|secret|token|credentials?|auth|(?:\w+[_-])?key)"
SECRET = re.compile(rf"({NAMES}(?:[=:][\s\0]*|[\s\0]+))([^\s,;\0\"'\\]+)", re.I)
IN_URL = re.compile(r"(://)[^/\s:@\0\"]+:[^/\s@\0\"]+@")
HIDDEN = "***"


def without_secrets(text: str) -> str:
    """Return a text without the values of passwords, keys and tokens, as far as they are named."""
    return IN_URL.sub(rf"\1{HIDDEN}@", SECRET.sub(rf"\1{HIDDEN}", text))


def argument(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--from",
        dest="archive",
        metavar="ARCHIVE",
        help="what it said on the machine of which pyeal collect made that archive",
    )


def record(name: str, more: list[str], eal_args: list[str]) -> tuple[int, str]:
    """Run a command here with --json; return its exit code and what it prints. EalError, OSError"""
    args = commands.parser(name).parse_args([*KEPT[name], *more, "--json"])
    args.eal_args = eal_args
    with redirect_stdout(io.StringIO()) as out:
        code = commands.load(name).run(args)
    return code, out.getvalue()


def recorded(path: str, name: str) -> tuple[int, Dict]:
    """Return the exit code and the document of a command in an archive. Raises EalError."""
    import json

    from pyeal.look.archives import members

    try:
        found = members(path)
        end = f"{FOLDER}/{name}.json"
        member = next((n for n in found if n == end or n.endswith(f"/{end}")), "")
        if not member:
            lacks = "none: pyeal inspect and dump read its runtime directories, if it has any"
            raise Unreadable(path, f"an archive of pyeal collect, with {end}", lacks)
        kept = json.loads(found[member]())
        code, document = kept["exit_code"], kept["said"]
        if document["schema"] == f"pyeal.{name}/1" and code in (0, 1, 2):
            return code, document
        raise Unreadable(path, f"schema pyeal.{name}/1", str(document["schema"])[:40])
    except Unreadable as e:
        raise EalError(EINVAL, "from", str(e)) from None
    except (KeyError, TypeError, ValueError, RecursionError):
        raise _broken(path) from None


@contextmanager
def of_others(path: str) -> Iterator[None]:
    """Turn what a changed document makes of the code that prints it into one line of error."""
    try:
        yield
    except (AttributeError, KeyError, IndexError, TypeError, ValueError):
        raise _broken(path) from None


def _broken(path: str) -> EalError:
    return EalError(EINVAL, "from", path, expected="what pyeal collect writes", found="other data")
