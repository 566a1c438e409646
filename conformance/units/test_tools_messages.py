"""pyeal.tools.explain.messages: which message of EAL a line is, and what it is about."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pyeal.tools.explain import messages

SCRIPT = Path(__file__).resolve().parents[2] / "ci/messages"
REPOSITORY = "DPDK_REPOSITORY"

# (line, level, function, what it is about)
LINES = [
    ("EAL: FATAL: Cannot init memory", "FATAL", "rte_eal_init", "memory"),
    ("EAL: FATAL: Cannot get hugepage information.", "FATAL", "rte_eal_init", "memory"),
    ("EAL: FATAL: Cannot init memzone", "FATAL", "rte_eal_init", "memory"),
    ("EAL: FATAL: Cannot init tail queues for objects", "FATAL", "rte_eal_init", "memory"),
    ("EAL: FATAL: Invalid 'command line' arguments.", "FATAL", "rte_eal_init", "options"),
    ("EAL: FATAL: Cannot init config", "FATAL", "rte_eal_init", "process"),
    (
        "EAL: FATAL: Cannot clear runtime directory",
        "FATAL",
        "rte_eal_init",
        "runtime directory",
    ),
    ("EAL: FATAL: failed to init mp channel", "FATAL", "rte_eal_init", "channel"),
    ("EAL: FATAL: Cannot init VFIO", "FATAL", "rte_eal_init", "devices"),
    ("EAL: FATAL: Cannot probe devices", "FATAL", "rte_eal_init", "devices"),
    ("EAL: FATAL: rte_service_init() failed", "FATAL", "rte_eal_init", "services"),
    ("EAL: FATAL: unsupported cpu type.", "FATAL", "rte_eal_init", "CPUs"),
    ("EAL: FATAL: Cannot set affinity", "FATAL", "rte_eal_init", "CPUs"),
    ("EAL: FATAL: already called initialization.", "FATAL", "rte_eal_init", "process"),
    (
        "EAL: Error creating '/run/user/1001/dpdk': No such file or directory",
        "ERR",
        "eal_create_runtime_dir",
        "runtime directory",
    ),
    (
        "EAL: Cannot create runtime directory",
        "ERR",
        "eal_parse_args",
        "runtime directory",
    ),
    (
        "EAL: rte_mem_virt2phy(): cannot open /proc/self/pagemap: Permission denied",
        "INFO",
        "rte_mem_virt2phy",
        "memory",
    ),
    (
        "EAL: No free 1048576 kB hugepages reported on node 1",
        "WARNING",
        "get_num_hugepages_on_node",
        "memory",
    ),
    (
        "EAL: No available 2048 kB hugepages reported",
        "WARNING",
        "get_num_hugepages",
        "memory",
    ),
    (
        "EAL: alloc_seg(): mmap() failed: Cannot allocate memory",
        "DEBUG",
        "alloc_seg",
        "memory",
    ),
    (
        "EAL: get_seg_fd(): open '/dev/hugepages/rtemap_0' failed: Permission denied",
        "ERR",
        "get_seg_fd",
        "memory",
    ),
    ("EAL: Couldn't get fd on hugepage file", "ERR", "alloc_seg", "memory"),
    (
        "EAL: Not enough memory available! Requested: 64MB, available: 0MB",
        "ERR",
        "eal_dynmem_calc_num_pages_per_socket",
        "memory",
    ),
    (
        "EAL: WARNING! Base virtual address hint (0x1 != 0x7f8a000000) not respected!",
        "WARNING",
        "eal_get_virtual_area",
        "memory",
    ),
    (
        "EAL: Cannot create lock on '/run/dpdk/rte/config'. Is another primary process running?",
        "ERR",
        "rte_eal_config_create",
        "process",
    ),
    (
        "EAL: Primary process refused secondary attachment",
        "ERR",
        "rte_config_init",
        "process",
    ),
    ("EAL: primary process has a DPDK version mismatch", "ERR", "rte_config_init", "process"),
    (
        "EAL: failed to send to (/run/dpdk/rte/mp_socket) due to Connection refused",
        "ERR",
        "send_msg",
        "channel",
    ),
    ("EAL: Cannot send message to primary", "ERR", "request_to_primary", "channel"),
    (
        "EAL: Option --legacy-mem is not compatible with --in-memory",
        "ERR",
        "eal_check_common_options",
        "options",
    ),
    ("EAL: invalid core list syntax", "ERR", "eal_parse_common_option", "options"),
    ("EAL: lcore 512 unavailable", "ERR", "eal_parse_service_coremask", "CPUs"),
    (
        "EAL: /dev/vfio/vfio: cannot open VFIO container, error 2 (No such file)",
        "ERR",
        "vfio_open_container_fd",
        "devices",
    ),
    ("EAL: Error enabling interrupts for fd 12", "ERR", "uio_intr_enable", "interrupts"),
    ("EAL: OOM", "ERR", "rte_devargs_layers_parse", "devices"),
    ("Current CONFIG_RTE_MAX_MEMSEG=256 is not enough", "ERR", "rte_eal_hugepage_init", "memory"),
    ("\x1b[1;31mEAL: FATAL: Cannot init memory\x1b[0m", "FATAL", "rte_eal_init", "memory"),
]


@pytest.mark.parametrize(("line", "level", "function", "about"), LINES)
def test_a_line_is_found_with_its_place(line, level, function, about):
    m = messages.find(line)

    assert m and (m.level, m.function, m.about) == (level, function, about)


def test_of_the_same_words_the_fatal_line_is_the_fatal_message():
    """The words were a panic's until 17.02."""
    fatal, panic = messages.find_all("EAL: FATAL: Cannot init memory")[:2]

    assert (fatal.level, fatal.until) == ("FATAL", "")
    assert (panic.level, panic.until) == ("PANIC", "17.02")


def test_the_function_that_a_line_names_comes_first():
    line = "EAL: {}(): mmap() failed: Cannot allocate memory"

    found = {messages.find(line.format(f)).function for f in ("alloc_seg", "map_all_hugepages")}

    assert found == {"alloc_seg", "map_all_hugepages"}


@pytest.mark.parametrize(
    "line",
    [
        "EAL: Detected CPU lcores: 8",
        "EAL: Selected IOVA mode 'VA'",
        "failed to start the application",
        "Cannot open the door",
        "PANIC in rte_eal_init():",
        "",
    ],
)
def test_a_line_that_is_no_message_of_a_failure_is_not_found(line):
    assert messages.find(line) is None


def test_each_message_is_about_something():
    found = {m.about for ms in messages.table().values() for m in ms}

    assert "EAL" not in found
    assert set(messages.OURS) < found


def test_a_message_says_where_it_is_and_whether_it_is_about_memory():
    texts = [messages.find(line).text() for line, *_ in (LINES[0], LINES[8])]

    assert texts == [
        "FATAL of linux/eal.c: rte_eal_init, since 17.05; about memory",
        "FATAL of linux/eal.c: rte_eal_init, since 17.05; not about memory: devices",
    ]


def test_the_table_keeps_words_not_sentences():
    table = Path(messages.__file__).with_suffix(".txt")

    assert table.stat().st_size < 100_000
    assert max(len(m.words) for ms in messages.table().values() for m in ms) == 5


def test_every_message_of_every_release_is_found():
    """Each format of DPDK's history, filled with sample values, gives its own file and function."""
    repository = os.environ.get(REPOSITORY)
    if not repository or not SCRIPT.exists():
        pytest.skip(
            f"wanted {REPOSITORY}=a clone of DPDK, and a checkout; "
            f"found {REPOSITORY}={repository}, ci/messages {SCRIPT.exists()}"
        )
    done = subprocess.run(
        [sys.executable, SCRIPT, repository, "--check"], capture_output=True, text=True, timeout=300
    )

    assert done.returncode == 0, done.stdout
