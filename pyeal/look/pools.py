"""Every counter of the hugepage pools."""

from __future__ import annotations

import os

from pyeal.host import LOCAL, Host
from pyeal.hugepages import GLOBAL, NODES, counter, sizes


def all_pools(host: Host = LOCAL) -> dict[int, dict[str, int | dict[int, dict[str, int]]]]:
    """Returns every counter of every pool: {page size: {counter: n, "nodes": {node: {...}}}}."""

    def counters(path: str) -> dict[str, int]:
        return {
            name.removesuffix("_hugepages"): n
            for name in sorted(os.listdir(path))
            if name.endswith("_hugepages")  # not demote, which is write-only
            and (n := counter(f"{path}/{name}", lambda level, text: None)) is not None
        }

    found: dict[int, dict[str, int | dict[int, dict[str, int]]]] = {}
    nodes_at = f"{host.sys}/{NODES}"
    nodes = sorted(
        int(n[4:])
        for n in (os.listdir(nodes_at) if os.path.isdir(nodes_at) else ())
        if n.startswith("node") and n[4:].isdecimal()
    )
    for name, sz in sorted(sizes(host), key=lambda s: -s[1]):
        found[sz] = {**counters(f"{host.sys}/{GLOBAL}/{name}")}
        found[sz]["nodes"] = {
            k: counters(path)
            for k in nodes
            if os.path.isdir(path := f"{nodes_at}/node{k}/hugepages/{name}")
        }
    return found
