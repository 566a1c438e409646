"""explain: the wordings of all releases, and which of several lines says why."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from pyeal.tools.doctor.chain import LINKS
from pyeal.tools.explain import read
from pyeal.tools.explain.problems import BY_ID, CERTAIN, GAVE_UP, PROBLEMS, of_line

LINES = [  # the problem, a line as some release logs it
    (0, "testpmd: unrecognized option '--foo'"),
    (0, "EAL: Options -m and --socket-mem cannot be specified at the same time"),
    (0, "EAL: Error: lcore 9 unavailable"),
    (0, "ARGPARSE: unknown argument --foo!"),
    (1, "EAL: No free 2048 kB hugepages reported on node 0"),
    (1, "EAL: No free hugepages reported in hugepages-2048kB"),
    (1, "EAL: No available 2048 kB hugepages reported"),
    (3, "HugePages_Free:        0"),
    (4, "EAL: SIGBUS: Cannot mmap more hugepages of size 2MB"),
    (5, "EAL: Cannot create lock on '/run/dpdk/rte/config'. Is another primary process running?"),
    (6, "EAL: Not enough memory available on socket 1! Requested: 1024MB, available: 0MB"),
    (7, "EAL: alloc_seg(): get_mempolicy: Operation not permitted"),
    (7, "set_mempolicy: Operation not permitted"),
    (8, "set_mempolicy: Invalid argument"),
    (8, "EAL: alloc_seg(): allocation happened on wrong socket (wanted 1, got 0)"),
    (9, "EAL: FATAL: Cannot use IOVA as 'PA' since physical addresses are not available"),
    (9, "EAL: Cannot obtain physical addresses: No such file. Only vfio will function."),
    (10, "EAL: get_seg_fd(): open '/dev/hugepages/rtemap_0' failed: Permission denied"),
    (10, "EAL: get_seg_fd(): could not remove '/mnt/rtemap_0': Operation not permitted"),
    (10, "EAL: Failed to lock hugepage directory!"),
    (10, "EAL: Error creating '/run/user/0/dpdk': Permission denied"),
    (11, "EAL: alloc_seg(): ftruncate() failed: File too large"),
    (12, "EAL: Couldn't get fd on hugepage file: open 'rtemap_9' failed: Too many open files"),
    (12, "EAL: get_seg_fd(): open '/dev/hugepages/rtemap_1000' failed: Too many open files"),
    (13, "EAL: Could not find space for memseg. Please increase RTE_MAX_MEMSEG_PER_LIST and"),
    (13, "EAL: Could not find space for memseg. Please increase CONFIG_RTE_MAX_MEMSEG_PER_TYPE"),
    (13, "EAL: Too many memory types detected: 130. Please increase RTE_MAX_MEMSEG_LISTS"),
    (14, "EAL: Could not map memory from primary process"),
    (14, "EAL: Cannot mmap memory for rte_config at [1], got [2] - please use '--base-virtaddr'"),
    (14, "EAL: WARNING! Base virtual address hint (0x100 != 0x7f) not respected!"),
    (16, "EAL: Primary and secondary process DPDK version mismatch"),
    (18, "EAL: Cannot open '/var/run/dpdk/rte/config' for rte_mem_config"),
    (19, "EAL: sync_existing(): Cannot open '/dev/hugepages': No such file or directory"),
    (20, "EAL: Cannot initialize tailq: RTE_DISTRIBUTOR"),
    (21, "EAL: rte_fbarray_init(): couldn't lock /run/dpdk/rte/fbarray_memzone: Resource tempora"),
    (22, "EAL: Error while clearing hugepage dir: Permission denied"),
    (
        23,
        "EAL: alloc_pages_on_heap(): couldn't allocate memory due to IOVA exceeding limits of"
        " current DMA mask",
    ),
    (24, "EAL: Cannot set up DMA remapping, error 12 (Cannot allocate memory)"),
    (24, "EAL:   cannot set up DMA remapping, error 28 (No space left on device)"),
    (25, "vhost_user_set_mem_table: Too many memory regions"),
    (26, "requested 4096 hugepages but only 3738 could be allocated"),
    (27, "EAL: No free 2048 kB hugepages reported on node 1"),
    (28, 'audit: apparmor="DENIED" operation="open" name="/proc/self/pagemap"'),
    (28, "EAL: Unable to check if memfd is supported"),
    (32, "0/3 nodes are available: 3 Insufficient hugepages-2Mi."),
    (34, "EAL: Error: Cannot create mbuf pool: Cannot allocate memory"),
    (35, "EAL: No free hugepages reported in hugepages-1048576kB"),
    (35, "EAL: No free 1048576 kB hugepages reported on node 0"),
    (35, "EAL: No available 1048576 kB hugepages reported"),
    (36, "EAL: Request timed out"),
    (38, "EAL: Could not open /var/run/dpdk/rte/hugepage_data"),
    (38, "EAL: Option --huge-unlink cannot be specified together with --no-huge"),
    (38, "EAL: Options 'no-huge' and 'huge-unlink' can't be used at the same time"),
    (41, "EAL: Cannot open directory /sys/kernel/mm/hugepages to read system hugepage info"),
    (42, "==1==Shadow memory range interleaves with an existing memory mapping."),
    (45, "EAL: Cannot get a virtual area: Cannot allocate memory"),
    (45, "EAL: Cannot reserve VA space for memseg lists"),
    (46, "cat: demote: Permission denied"),
]
SILENT = {15, 17, 29, 30, 31, 33, 39, 43, 44}  # no release has a word for them


@pytest.mark.parametrize(("row", "line"), LINES)
def test_a_line_is_its_problem(row: int, line: str) -> None:
    told = read([line])

    assert told[0][0].id == row
    assert told[0][2], "certain"


def test_every_problem_has_a_line_or_is_silent() -> None:
    tried = {row for row, _ in LINES} | {2, 37, 40}  # those are told by two lines together

    assert tried | SILENT == set(BY_ID) == set(range(47))
    assert not tried & SILENT
    assert [p.id for p in PROBLEMS] == sorted(BY_ID)
    assert all(link in LINKS for p in PROBLEMS for link in p.links)
    assert all(p.means and p.fix and p.title for p in PROBLEMS)


LOG = """\
EAL: Detected NUMA nodes: 1
EAL: No free 1048576 kB hugepages reported on node 0
EAL: 1 hugepages of size 1073741824 reserved, but no mounted hugetlbfs found for that size
\x1b[1;31mEAL: get_seg_fd(): open '/mnt/rtemap_40' failed: Too many open files\x1b[0m
EAL: Couldn't get fd on hugepage file
EAL: eal_memalloc_alloc_seg_bulk(): couldn't find suitable memseg_list
EAL: FATAL: Cannot init memory
"""


def test_the_reason_comes_first_and_wrappers_are_left_out() -> None:
    """A log of 22.11: one reason; the harmless last; what only wraps it is not told."""
    assert [(p.id, sure) for p, _, sure in read(LOG.splitlines())] == [(12, True), (35, True)]


def test_a_hint_counts_with_its_wrapper() -> None:
    """An unmounted size says nothing, unless EAL found no other."""
    hint = "EAL: 8 hugepages of size 2097152 reserved, but no mounted hugetlbfs found for that size"
    wrapper = "EAL: FATAL: Cannot get hugepage information."

    assert [(p.id, sure) for p, _, sure in read([hint])] == [(2, False)]
    assert (2, True) in [(p.id, sure) for p, _, sure in read([hint, wrapper])]
    assert {p.id for p, _, _ in read([wrapper])} == {1, 2, 40}
    assert of_line("EAL: Detected NUMA nodes: 1") == []


def test_who_gave_up_without_a_word_is_told_to_look() -> None:
    """Last lines that say nothing more, after what is harmless; not after a reason."""
    last = "\x1b[31mEAL: FATAL: Cannot init memory\x1b[0m"
    harmless = "EAL: No free 1048576 kB hugepages reported on node 0"

    assert read([last]) == [(GAVE_UP, "EAL: FATAL: Cannot init memory", True)]
    assert [p.id for p, _, _ in read([harmless, last])] == [None, 35]
    assert [p.id for p, _, _ in read(["EAL: SIGBUS: Cannot mmap more hugepages", last])] == [4]
    assert read(["EAL: Detected NUMA nodes: 1"]) == []


def test_patterns_do_not_shout_at_good_logs() -> None:
    good = """EAL: Probing VFIO support...
EAL: Setting maximum number of open files to 20000
EAL: Virtual area found at 0x100000000 (size = 0x7000)
EAL: VA reserved for memseg list at 0x100200000, size 400000000
EAL: Multi-process socket /var/run/dpdk/rte/mp_socket
EAL: Allocating 1 pages of size 2M on socket 0
EAL: Restoring previous memory policy: 0
EAL: request: mp_malloc_sync
EAL: Heap on socket 0 was expanded by 2MB"""

    assert [x for line in good.splitlines() for x in of_line(line) if x[1] == CERTAIN] == []


def run(*args: str, stdin: str = "") -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-P", "-m", "pyeal", "explain", *args],
        capture_output=True,
        text=True,
        input=stdin,
    )
    return done.returncode, done.stdout


def test_the_command() -> None:
    """A line, a log on stdin, JSON, nothing known."""
    code, text = run("EAL: Primary and secondary process DPDK version mismatch")
    assert code == 0 and "16  primary and secondary are not of one release" in text
    code, text = run("--json", stdin=LOG)
    got = json.loads(text)
    assert (code, got["schema"]) == (0, "pyeal.explain/1")
    assert [p["problem"] for p in got["problems"]] == [12, 35]
    assert run("all is well")[0] == 1
    assert run(stdin="")[0] == 2  # there is nothing to explain


def test_what_the_log_shows_comes_before_what_this_machine_lacks() -> None:
    """A certain cause of the log is first, also if this machine shows a possible one."""
    pool = "EAL: No free 1048576 kB hugepages reported on node 0"
    log = f"{pool}\nEAL: FATAL: Cannot get hugepage information."
    rows = json.loads(run("--json", stdin=log)[1])["problems"]

    assert (rows[0]["problem"], rows[0]["certain"]) == (1, True)
    assert [r["certain"] for r in rows if r["verdict"] != "harmless"] == sorted(
        (r["certain"] for r in rows if r["verdict"] != "harmless"), reverse=True
    )
