"""What a message of EAL means that no pattern explains: by where EAL prints it.

PLACES has a row for each part of EAL that is about memory, options, the runtime directory, the
channel or the start of a process. The first whose pattern matches "FILE FUNCTION LINE" explains the
line; messages.py tells which message the line is.
"""

from __future__ import annotations

import re

from pyeal.tools.explain.problems import Problem as P

ARGUMENTS, LISTS, RUNTIME, FILES = "arguments", "address space", "permission", "files of others"
ARGS = "pyeal plan -- ARGS reads the arguments as EAL does, and names the one that is refused"
DEBUG = "pyeal doctor --touch -- ARGS names what fails; --log-level=lib.eal:debug has EAL tell"
FOLLOWS = "look at the lines before it; " + DEBUG
CALLER = "the application's own code, at the call that the line names"


def place(
    pattern: str,
    id: int | None,
    title: str,
    links: str,
    means: str,
    fix: str,
    harmless: bool = False,
) -> tuple[re.Pattern[str], P]:
    """Return a row: its pattern, and a problem without patterns of its own."""
    title = f"harmless: {title}" if harmless else title
    return re.compile(pattern, re.I), P(id, title, links, (), means, fix, harmless=harmless)


PLACES = (
    place(r"deprecated|rte version|without numa|adverse consequences|recompile with numa"
          r"|trac\w+ .*ignor|create data leaks|already called cleanup|later limit|parameter ignored"
          r"|is ignored, because",
          None, "a remark on options or the build", "",
          "EAL goes on after it.", "nothing to do, if the start went on", harmless=True),
    place(r"fallocate\(\) not supported", None, "pages are kept until the end", "",
          "The kernel cannot give single pages of a file back.", "nothing to do", harmless=True),
    place(r"xen", None, "Xen Dom0: memory of another kind than hugepages", "",
          "Releases up to 17.05 could take memory of a Xen Dom0 driver.",
          "a release from 17.08 on, with hugepages in the guest"),
    place(r"argparse|pagesz.mem|apply hugepage memory|log arguments|eal_parse|option"
          r"|command line|memory (channel|rank)",
          0, "an argument that EAL does not take", ARGUMENTS,
          "EAL stops before it looks at memory.", ARGS),
    place(r"already called initialization", None, "rte_eal_init() was called twice", "",
          "A process has one EAL; a second call is refused, also after a failed one.",
          "call it once, or start a new process"),
    place(r"eal_check_mem_on_local_socket", 8, "the node has no memory for this process",
          "policy, pool", "The node of the main lcore has no page.",
          "-l with cores of a node that has pages, or reserve pages there: {reserve}"),
    place(r"multi.?process actions|mp_channel_init|open_socket_fd|init mp channel|mp callback"
          r"|unlink_sockets|close_socket_fd",
          21, "the multi-process socket could not be made", "files of others, permission",
          "A primary binds mp_socket in its runtime directory: the path may be too long (107"
          " characters), the directory not writable, or another process has it.",
          "a shorter --file-prefix, or --in-memory, which needs no socket; {runtime}"),
    place(r"cannot be null|is too long|than \d+ fds?|fd's is negative|length is|peer is not spec",
          None, "the application passed a message that EAL refuses", "",
          "rte_mp_sendmsg() and rte_mp_request() check what they are given.", CALLER),
    place(r"eal_common_proc|malloc_mp", 36, "primary and secondaries do not answer each other",
          FILES, "Memory grows in all processes or in none; a stopped or dead process, or one of"
          " another release, keeps the others waiting.",
          "pyeal ps shows the process that does not answer; -m takes what is needed at the start"),
    place(r"corrupt|invalid memory|fatal error|unaligned element|not null but memzone_cnt",
          None, "the heap is damaged: the application wrote where it must not", "",
          "Something wrote beyond its allocation, or freed it twice; EAL only notices.",
          "pyeal inspect shows the heap; AddressSanitizer (meson -Db_sanitize=address) the write"),
    place(r"external|heap \S+ (not found|already)|heap is still|heap still|create new heap"
          r"|empty memseg list|backing the memseg|new socket id|extmem|total size not zero"
          r"|max memzone|memzone is not allocated|invalid socket id",
          None, "a call of the application that EAL refuses", "",
          "Heaps, memzones and external memory are the application's to name and to free.", CALLER),
    place(r"(more|enough|for) (space|room) in memseg|space for memory types|memseg_list_create"
          r"|socket id for socket index|RTE_MAX_MEMSEG",
          13, "no room in the memseg lists", LISTS,
          "How many pages of a type EAL can hold is compiled in.",
          "1G pages, -m with less, or from 26.07 on --pagesz-mem 2M:128G"),
    place(r"memseg_list|va_space|reserve memory|reserving memory|preallocate|virtual memory"
          r"|size too big|/dev/zero|virtual_area|mmap holes|memseg list",
          45, "no address space", LISTS,
          "EAL reserves tens to hundreds of GB of addresses, whatever is asked for.",
          "ulimit -v unlimited, vm.overcommit_memory=0 or 1; from 26.07 on --pagesz-mem 2M:1G"),
    place(r"eal_memory_detach|could not (release|unmap|detach)|destroy (local|memseg)",
          None, "EAL could not clean up at its end", "",
          "The process ends, and the kernel releases what is left.", "nothing to do",
          harmless=True),
    place(r"memzone", 21, "the memzones could not be set up", "files of others, permission",
          "Their array is a file in the runtime directory, and locked by each process that has it.",
          "pyeal ps shows the process with the prefix{prefix_of}; df {runtime_at} shows the room"),
    place(r"tailq|tail queues", 20, "the tail queues could not be set up", FILES,
          "A secondary finds each of its tail queues by name in the primary's config.",
          "link both with the same libraries, -d the same drivers"),
    place(r"physical layout|malloc.?heap|services? (array|list)",
          None, "the heap could not be set up", "",
          "EAL turns the pages that it has into heaps, one a node.", FOLLOWS),
    place(r"fbarray|shared memory|hugepage_info\.c .*(parsing|format)|resize_and_map",
          10, "a shared file of the runtime directory could not be made", RUNTIME,
          "EAL keeps its arrays there: no room, no rights, or a lock of another process.",
          "df {runtime_at} shows the room; {runtime}"),
    place(r"runtime|eal_parse_sysfs", 10, "the runtime directory cannot be used", RUNTIME,
          "The base is RUNTIME_DIRECTORY, for root /var/run, else XDG_RUNTIME_DIR, else /tmp.",
          "{runtime}"),
    place(r"hugedir|hugepage director", 10, "the hugepage directory cannot be read", RUNTIME,
          "EAL opens, locks and lists it before it takes a page.",
          "{own} as root, or a mount of its own: {mount_own}, and --huge-dir with it"),
    place(r"get_hugepage_dir|default_hp_size|/proc/", 2, "/proc cannot be read", "mount",
          "EAL reads /proc/mounts and /proc/meminfo to find hugetlbfs and its page size.",
          "mount -t proc proc /proc in that root or container"),
    place(r"hugepage_info", 41, "the kernel's directory of hugepages cannot be read", "pool",
          "EAL reads /sys/kernel/mm/hugepages and, for each node, /sys/devices/system/node.",
          "mount -t sysfs sysfs /sys in that root or container; --no-huge without hugepages"),
    place(r"memfd|anonymous memory|anonymous hugepages|prohibited", 28,
          "--in-memory needs what this kernel or build lacks", "arguments",
          "Memory without files comes from memfd_create() or anonymous hugepages.",
          "no --in-memory, and no --single-file-segments with it"),
    place(r"mempolicy", 7, "the memory policy cannot be set", "policy",
          "A seccomp profile or a kernel without NUMA forbids it.",
          "docker run --cap-add SYS_NICE"),
    place(r"secondary|attach|map (from )?primary|relevant|local memory map", 19,
          "a secondary cannot map the primary's memory", "namespace, files of others",
          "The page files and the runtime directory must be the same, with the same paths, and the"
          " primary's addresses be free.",
          "share /dev/hugepages and the runtime directory; pyeal plan --for-peer PID -- ARGS looks"
          " at the addresses"),
    place(r"hugepage information", 1, "no free hugepage, or no mount", "pool, mount",
          "No mounted page size has a page that is free and not reserved.", "{reserve}; {mount}"),
    place(r"dma mask", 23, "addresses beyond what the device reaches", "IOVA",
          "The IOMMU knows fewer address bits than the addresses have.",
          "a lower --base-virtaddr, or --iova-mode=pa"),
    place(r"disabled during build", 9, "this build has no IOVA as PA", "IOVA",
          "DPDK was built with enable_iova_as_pa=false.",
          "--iova-mode=va and devices on vfio-pci, or a build with IOVA as PA"),
    place(r"pagemap|physical addr|iova", 9, "physical addresses cannot be seen", "IOVA",
          "Without CAP_SYS_ADMIN the kernel shows page frame numbers as 0.",
          "--iova-mode=va and devices on vfio-pci, or run as root"),
    place(r"memalloc|legacy|remap|hugepage_init|dynmem|lock|file descriptors|eal_memory|eal_memory",
          11, "pages could not be opened, mapped or locked", "permission, mount, descriptors, pool",
          "EAL makes a file for each page, locks it, maps it, and touches the page.", FOLLOWS),
    place(r"rte_mem_config|rte_config|eal_config", 10,
          "the config file could not be made or opened", "permission, files of others",
          "A primary makes it in its runtime directory; a secondary opens the primary's.",
          "{runtime}; for a secondary, the primary's user and --file-prefix"),
    place(r"alarm|socket limits|sysconf", None, "a call of EAL itself failed", "", "", FOLLOWS),
)


def at(file: str, function: str, line: str) -> P | None:
    """Return what is known of a line that a function of EAL prints."""
    text = f"{file} {function} {line}"
    return next((p for pattern, p in PLACES if pattern.search(text)), None)
