"""Runs that `pyeal bench` keeps: where they lie and what they say."""

from __future__ import annotations

import json
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Dict = dict[str, Any]


class Broken(Exception):
    """The run is not possible; the text says why."""


def kept(storage: str) -> list[str]:
    """Files of pytest-benchmark's storage, oldest first."""
    import glob

    found = glob.glob(f"{storage}/*/[0-9]*.json")
    return sorted(found, key=lambda f: os.path.basename(f).partition("_")[0])


def load(path: str) -> Dict:
    try:
        with open(path, encoding="utf-8") as f:
            data: Dict = json.load(f)
        if "rows" not in data:
            raise ValueError("it has no rows")
        return data
    except (OSError, ValueError) as e:
        raise Broken(f"{path} is no run of pyeal bench: {e}") from None


def costs(data: Dict) -> dict[tuple[str, int, str], dict[str, list[float]]]:
    """{(work, pages, measure): {role: seconds of each round}}"""
    found: dict[tuple[str, int, str], dict[str, list[float]]] = {}
    for b in data["benchmarks"]:
        x = b["extra_info"]
        found.setdefault((x["work"], x["pages"], x["measure"]), {})[x["role"]] = b["stats"]["data"]
    return found


def find(what: str, storage: str) -> str:
    if os.path.exists(what):
        return what
    for f in kept(storage):
        if os.path.basename(f).startswith(f"{int(what):04}_"):
            return f
    raise Broken(f"--against {what}: no such run in {storage}")


def number(value: float | None, unit: str) -> str:
    if value is None:
        return ""
    return f"{value:.2f}" if unit == "×" else f"{value:.1f} ms"
