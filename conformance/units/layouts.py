"""Hand-made layouts of several shapes, as `Eal.layout()` would give them."""

from __future__ import annotations

K, M, G = 1 << 10, 1 << 20, 1 << 30


def memseg_list(index, base, page, node, n_segs, runs, name=None):
    """runs: (first page, pages, flags, [(iova, pages)])"""
    return {
        "index": index,
        "name": name or f"memseg-{page // K}k-{node}-{index}",
        "base_va": base,
        "len": page * n_segs,
        "page_sz": page,
        "socket_id": node,
        "version": len(runs),
        "external": 0,
        "heap": 1,
        "n_segs": n_segs,
        "count": sum(n for _, n, _, _ in runs),
        "runs": [
            {
                "seg": seg,
                "n": n,
                "va": base + seg * page,
                "len": n * page,
                "flags": flags,
                "iova_runs": [{"iova": i, "n": m} for i, m in iovas],
            }
            for seg, n, flags, iovas in runs
        ],
    }


def layout(mode, lists, **more):
    return {
        "release": "22.11.11",
        "mode": mode,
        "iova_mode": "PA",
        "file_prefix": "demo",
        "runtime_dir": "/var/run/dpdk/demo",
        "pid": 4711,
        "lists": lists,
        "heaps": [{"name": "socket_0", "socket_id": 0, "total_size": 64 * M, "alloc_count": 2}],
        "ignored": [],
    } | more


NO_HUGE = layout(
    "no-huge",
    [
        memseg_list(
            0, 0x100069000, 4 * K, 0, 16384, [(0, 16384, 0, [(0x100069000, 16384)])], "nohugemem"
        )
    ],
    iova_mode="VA",
)

FOUR = layout(
    "dynmem",
    [memseg_list(0, 0x100200000, 2 * M, 0, 8192, [(0, 4, 1, [(0x1_2340_0000, 3), (0x9E00000, 1)])])]
    + [
        memseg_list(i, 0x100200000 + i * 0x400200000, 2 * M, 0, 8192, [], f"memseg-2048k-0-{i}")
        for i in (1, 2, 3)
    ],
)

TWO_NODES = layout(
    "dynmem",
    [
        memseg_list(0, 0x140000000, G, 0, 32, [(0, 2, 1, [(0x100000000, 2)])]),
        memseg_list(1, 0x980000000, G, 1, 32, []),
        memseg_list(
            2,
            0x1180200000,
            2 * M,
            0,
            8192,
            [(0, 32, 1, [(0x7C00000, 9), (0x9000000, 1), (0xB000000, 22)]), (32, 8, 0, [(0, 8)])],
            "memseg-2048k-0-0",
        ),
        memseg_list(3, 0x1580400000, 2 * M, 0, 8192, [], "memseg-2048k-0-1"),
        memseg_list(
            4,
            0x1980600000,
            2 * M,
            1,
            8192,
            [
                (0, 64, 2, [(0x2_0000_0000 + i * 6 * M, 2) for i in range(32)]),
                (100, 28, 0, [(0x3_0000_0000, 28)]),
            ],
            "memseg-2048k-1-0",
        ),
        memseg_list(5, 0x1D80800000, 2 * M, 1, 8192, [], "memseg-2048k-1-1"),
    ],
    file_prefix="ovs",
)

LEGACY = layout(
    "legacy",
    [
        memseg_list(
            0,
            0x100200000,
            2 * M,
            0,
            8192,
            [
                (at, n, 0, [(0x4000_0000 + at * 4 * M, n)])
                for at, n in [(0, 12), (13, 1), (15, 40), (56, 3), (60, 61), (122, 200), (323, 7)]
            ],
            "memseg-2048k-0-0",
        )
    ],
)

FULL = layout(
    "single-file",
    [
        memseg_list(
            0,
            0x100200000,
            2 * M,
            0,
            32768,
            [(0, 32768, 3, [((i * 7 % 1024) << 25, 16) for i in range(2048)])],
            "memseg-2048k-0-0",
        )
    ],
    release="26.07",
)

HOLES = layout(
    "in-memory",
    [
        memseg_list(
            0,
            0x100200000,
            2 * M,
            0,
            8192,
            [(i * 2, 1, i % 4, [((1 << 64) - 1, 1)]) for i in range(300)],
            "memseg-2048k-0-0",
        )
    ],
)

EMPTY = layout("dynmem", [])

ALL = {
    "no-huge": NO_HUGE,
    "four": FOUR,
    "two-nodes": TWO_NODES,
    "legacy": LEGACY,
    "full": FULL,
    "holes": HOLES,
    "empty": EMPTY,
}
