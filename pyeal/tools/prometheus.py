"""Prometheus' text format, for a scraper or for node exporter's text files."""

from __future__ import annotations

from pyeal.errors import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

Sample = tuple[dict[str, object], "float | None"]  # labels, and a value if it is known


def metric(name: str, words: str, samples: Iterable[Sample]) -> list[str]:
    """Return the lines of one gauge dpdk_eal_NAME: its help, its type, a line for each sample."""
    lines = [f"# HELP dpdk_eal_{name} {words}", f"# TYPE dpdk_eal_{name} gauge"]
    for labels, value in samples:
        if value is not None:
            said = ",".join(f'{k}="{escaped(v)}"' for k, v in labels.items())
            lines.append(f"dpdk_eal_{name}{{{said}}} {value}")
    return lines


def escaped(value: object) -> str:
    """Return the value of a label: names of other users can make no further label or line."""
    return printable(str(value)).replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def machine(eals: list[dict[str, Any]], pools: dict[int, Any], left: list[dict[str, Any]]) -> str:
    """Return all EALs, pools and leftover pages of a machine.

    eals: as `pyeal ps` describes them; pools: of look/pools.py; left: of look/leftovers.py.
    """
    named = [
        ({"file_prefix": e["file_prefix"] or "", "path": e["path"] or "", "pid": e["pid"] or ""}, e)
        for e in eals
    ]
    about = "release", "mode", "health", "command"
    gauges: list[tuple[str, str, Iterable[Sample]]] = [
        (
            "info",
            "1 for each EAL, with its release, mode and health.",
            [(key | {k: e[k] or "" for k in about}, 1) for key, e in named],
        ),
        ("age_seconds", "Since its start, or since its end.", [(k, e["age_s"]) for k, e in named]),
        (
            "secondaries",
            "Processes that have attached to it.",
            [(key, len(e["secondaries"])) for key, e in named],
        ),
        (
            "used_bytes",
            "Memory that it has, by size of page and node.",
            [
                (
                    key | {"page_bytes": p["page_sz"], "node": p["socket_id"]},
                    p["page_sz"] * p["count"],
                )
                for key, e in named
                for p in e["pages"]
            ],
        ),
    ]
    for counter, name in (("nr", "total"), ("free", "free"), ("surplus", "surplus")):
        samples = [
            ({"page_bytes": sz, "node": node}, counters.get(counter))
            for sz, pool in pools.items()
            for node, counters in (pool["nodes"] or {"": pool}).items()
        ]
        gauges.append((f"pool_{name}_pages", f"{counter}_hugepages of a node.", samples))
    words = "resv_hugepages: promised to processes that have not used them."
    resv: list[Sample] = [({"page_bytes": sz}, pool.get("resv")) for sz, pool in pools.items()]
    gauges.append(("pool_reserved_pages", words, resv))
    kept: dict[tuple[str, str, str], int] = {}
    for f in left:
        if f["kind"] == "page" and f["verdict"] != "held":
            at = f["file_prefix"], f["owner"], f["verdict"]
            kept[at] = kept.get(at, 0) + f["bytes"]
    labels = "file_prefix", "owner", "verdict"
    gone: list[Sample] = [(dict(zip(labels, at, strict=True)), n) for at, n in kept.items()]
    gauges.append(("left_bytes", "Page files without a process, by the verdict of stale.", gone))
    total = sum(n for (_, _, verdict), n in kept.items() if verdict == "stale")
    gauges.append(("stale_bytes", "Hugepages that stale --delete would free.", [({}, total)]))
    return "".join(f"{line}\n" for gauge in gauges for line in metric(*gauge))
