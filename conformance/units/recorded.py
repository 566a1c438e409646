"""Recordings as directories, and tools as they are called."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import zipfile
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from conformance.harness import recordings
from conformance.harness.child import environment
from pyeal import cli

RELEASES = "20.11", "22.11", "24.11", "25.11"


def unpack(release: str, mode: str, to: Path) -> Path:
    """A recording's runtime directory in a folder; its path."""
    with zipfile.ZipFile(recordings.FOLDER / f"{release}-{mode}.zip") as z:
        for name in z.namelist():
            if name.startswith("run/"):
                (to / name).parent.mkdir(parents=True, exist_ok=True)
                (to / name).write_bytes(z.read(name))
    return to / "run"


def pyeal(
    *args: object,
    code: int = 0,
    env: dict[str, str] | None = None,
    input: str = "",
    apart: bool = False,
) -> str:
    """What `pyeal ARGS` prints; it must end with that code.

    apart: in a process of its own, for what this one holds itself.
    """
    words = list(map(str, args))
    if apart:
        argv = [sys.executable, "-P", "-m", "pyeal", *words]
        done = subprocess.run(
            argv, capture_output=True, text=True, timeout=60, env=environment() | (env or {})
        )
        got, said = done.returncode, done.stdout + done.stderr
    else:
        out = io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(out):
            for name, value in (env or {}).items():
                patch.setenv(name, value)
            patch.setattr(sys, "stdin", io.StringIO(input))
            got = cli.main(words)
        said = out.getvalue()
    assert (got, "Traceback" in said) == (code, False), f"{' '.join(words)}\n{said}"
    return said


def facts(*args: object, **more: Any) -> Any:
    return json.loads(pyeal(*args, "--json", **more))
