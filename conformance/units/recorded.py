"""Recordings as directories, and tools as they are called."""

from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

from conformance import record
from conformance.child import environment

RELEASES = "20.11", "22.11", "24.11", "25.11"


def unpack(release: str, mode: str, to: Path) -> Path:
    """A recording's runtime directory in a folder; its path."""
    with zipfile.ZipFile(record.FOLDER / f"{release}-{mode}.zip") as z:
        for name in z.namelist():
            if name.startswith("run/"):
                (to / name).parent.mkdir(parents=True, exist_ok=True)
                (to / name).write_bytes(z.read(name))
    return to / "run"


def pyeal(*args: object, code: int = 0, **more: Any) -> str:
    """What `pyeal ARGS` prints; it must end with that code, and never with a traceback."""
    argv = [sys.executable, "-P", "-m", "pyeal", *map(str, args)]
    env = environment() | more.pop("env", {})
    done = subprocess.run(
        argv, capture_output=True, text=True, timeout=60, env=env, **{"input": ""} | more
    )
    assert done.returncode == code, f"{' '.join(argv)}\n{done.stdout}{done.stderr}"
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def facts(*args: object, **more: Any) -> Any:
    return json.loads(pyeal(*args, "--json", **more))
