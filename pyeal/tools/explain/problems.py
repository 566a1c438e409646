"""The 46 problems that stop EAL's memory: how the log shows them, what they mean, what to do.

causes.py has the rows of one problem that need another fix, by more words of the line.

The order is by frequency and damage. `says` are patterns for the log lines of all releases, 20.11
to 26.07. A ~ in front marks a wrapper, which only reports that something before it failed. A ? in
front marks a hint, which counts if a wrapper of the same problem follows. `links` are
those of doctor's chain in which the problem shows before a start; `reach` is why it cannot show.
`fix` may have {names}: facts.py fills in what the log and the machine show.
"""

from __future__ import annotations

import re
from functools import cached_property

from pyeal.tools.explain.table import Table, closest, lowered, words_of

CERTAIN, HINT, WRAPPER = 0, 1, 2


class Problem:
    """One problem; id is None for a line that gives no reason, or is not about EAL's memory."""

    def __init__(
        self, id: int | None, title: str, links: str, says: tuple[str, ...], means: str, fix: str,
        reach: str = "", harmless: bool = False,
    ) -> None:
        self.harmless = harmless
        self.id, self.title, self.means, self.fix, self.reach = id, title, means, fix, reach
        self.links = tuple(filter(None, links.split(", ")))
        self.says = says

    @cached_property
    def patterns(self) -> list[tuple[int, re.Pattern[str]]]:
        """Each pattern as (CERTAIN, HINT or WRAPPER, compiled for a line in lower case)."""
        levels = {"?": HINT, "~": WRAPPER}
        return [
            (levels.get(s[0], CERTAIN), re.compile(lowered(s[s[0] in levels :]))) for s in self.says
        ]


P = Problem
PROBLEMS = (
    P(0, "arguments that EAL does not take", "arguments",
      (r"unrecognized option|invalid option --|requires an argument|unknown argument",
       r"~invalid command line arguments|error parsing command line|invalid 'command line'",
       r"options? (?!.*no-huge).* (cannot be specified|can'?t be used|not compatible)",
       r"EAL: .{0,30}invalid (parameters?|coremask|core ?list|.*char|channel|rank|length"
       r"|process type|iova mode|.{0,30}parameter)|invalid parameters? (for|to) --?\w",
       r"lcore \d+ (unavailable|>=)|no detected lcore|main lcore is not enabled"),
      "EAL stops before it looks at memory.",
      "pyeal plan --as RELEASE -- ARGS says which release takes what"),
    P(1, "no free hugepage", "pool",
      (r"~cannot get hugepage information",),  # causes.POOL has another
      "No mounted page size has a page that is free and not reserved.",
      "{reserve}; if pages are there and taken, pyeal ps shows by what"),
    P(2, "no hugetlbfs mount here", "mount, namespace",
      (r"~cannot get hugepage information",),  # causes.UNMOUNTED has another
      "Pages are reserved, but this mount namespace has no hugetlbfs of their size: a container"
      " does not see its host's mounts.",
      "{mount}; for a container, -v /dev/hugepages:/dev/hugepages; or --in-memory"),
    P(3, "pages held by files of dead processes", "pool, files of others",
      (r"HugePages_Free:\s+0\b",),
      "A process that was killed leaves its page files, and a file keeps its page.",
      "pyeal stale --delete; --huge-unlink or --in-memory leave nothing"),
    P(4, "the hugetlb cgroup's limit", "cgroup",
      (r"SIGBUS: cannot mmap more",),  # causes.SIGNALS has others
      "The limit is enforced when a page is touched, and EAL never reads it; a pod that asks for"
      " no hugepages has a limit of 0.",
      "hugepages-{size}i in the pod's requests and limits, or a larger hugetlb.{size}B.max"),
    P(5, "another primary has this --file-prefix", "files of others",
      (r"cannot create lock on", r"is another primary process running", r"~cannot init config"),
      "A primary keeps its config file locked as long as it lives.",
      "another --file-prefix, --in-memory, or --proc-type=secondary to join it"),
    P(6, "more memory asked for than a node has", "pool",
      (r"not enough memory available",),
      "-m or --socket-mem exceeds what is free, on that node or on all.",
      "{reserve}, or ask for less"),
    P(7, "memory policy calls are forbidden", "policy",
      (r"[gs]et_mempolicy: operation not permitted", r"mempolicy: operation not permitted",
       r"set_mempolicy failed: operation not permitted"),
      "A seccomp profile denies them without CAP_SYS_NICE; EAL then takes no page for good.",
      "docker run --cap-add SYS_NICE"),
    P(8, "the node has no memory for this process", "policy, pool",
      (r"[gs]et_mempolicy( failed)?: invalid argument", r"allocation happened on wrong socket",
       r"(main|master) core has no memory on local socket", r"cannot allocate ethdev shared data"),
      "The page came from another node than asked for: this one has none left, or cpuset.mems"
      " leaves it out.",
      "-l with cores of a node that has pages, or reserve pages there"),
    P(9, "physical addresses cannot be seen", "IOVA",
      (r"cannot use IOVA as 'PA'",
       r"~(can'?t|cannot) get IOVA addr",
       r"cannot open /proc/self/pagemap: (?!per|too|op)"),
      "Without CAP_SYS_ADMIN the kernel shows page frame numbers as 0. With IOVA as VA, which EAL"
      " chooses then by itself, that is no problem.",
      "--iova-mode=va and devices on vfio-pci, or run as root"),
    P(10, "no right to the hugepage directory or its files", "permission",
      (r"map_\w*'? failed: permission denied", r"open failed: permission denied",
       r"failed to lock hugepage directory", r"unable to open hugepage directory",
       r"(map_\w*'?|unlink\w*|remove '\S*)(.* failed)?: (operation not permitted|read-only file)"),
      "The mount belongs to root, or holds another user's files in a sticky directory.",
      "{own} as root, or a mount of its own: {mount_own}, and --huge-dir with it"),
    P(11, "a page's file could not be made", "permission, mount, descriptors",
      (r"~couldn'?t get fd on hugepage file", r"map_\w*'? failed: no space left",
       r"ftruncate\(\) failed: (?!permission)"),
      "EAL's word for any failure to open, lock or size a page's file; the line before says which.",
      "pyeal doctor --touch goes through the same calls and names the one that fails"),
    P(12, "too many open files", "descriptors",
      (r"too many open files", r"setting maximum number of open files failed"),
      "EAL keeps a descriptor for every page, and may only go up to the hard limit.",
      "--single-file-segments, 1G pages, or ulimit -Hn / LimitNOFILE="),
    P(13, "no room in the memseg lists", "address space",
      (r"could not find (suitable )?space for memseg",
       r"(no more|not enough) space in memseg lists",
       r"please increase .{0,4}RTE_MAX_MEMSEG|please increase.*CONFIG_RTE_MAX",
       r"too many memory types|cannot accommodate all memory types"),
      "How many pages of a type EAL can hold is compiled in: 32 GB a list and 64 GB a type before"
      " 26.07. One allocation must fit one list.",
      "1G pages, or from 26.07 on --pagesz-mem 2M:128G"),
    P(14, "a secondary cannot have the primary's addresses", "address space, files of others",
      (r"could not map memory from primary", r"disable ASLR",
       r"please use '--base-virtaddr'", r"cannot mmap memory for rte_config",
       r"could not mmap \d+ bytes in \S+ (to|at)\b",
       r"cannot get a virtual area at requested address",
       r"~cannot attach to primary process memseg lists", r"cannot reserve \d+ bytes at"),
      "Something of the secondary's own lies where the primary has its memory.",
      "pyeal plan --for-peer PID -- ARGS finds a --base-virtaddr that is free in both"),
    P(15, "a secondary that ends takes the primary's device with it", "files of others",
      (),
      "Since 22.11 a secondary's rte_eal_cleanup() also cleans up the bus.",
      "look without attaching: pyeal inspect, or the telemetry socket"),
    P(16, "primary and secondary are not of one release", "files of others",
      (r"DPDK version mismatch", r"refused secondary attachment"),
      "The version words must be equal to the last digit.",
      "run both from one build, or look with pyeal inspect"),
    P(17, "the primary never finished its start", "files of others",
      (r"waiting for primary|mcfg.*not complete",),
      "A secondary waits without a limit, and without a word, for a primary that died or hangs"
      " before it wrote its last word.",
      "rm -r RUNTIME_DIR of a dead one; start it again"),
    P(18, "no primary to join", "files of others",
      (r"cannot open '\S*config' for rte_mem_config",),
      "There is no config where this user looks: no primary, another prefix, or another runtime"
      " directory.",
      "the primary's user, --file-prefix, XDG_RUNTIME_DIR and RUNTIME_DIRECTORY"),
    P(19, "the primary's pages are not to be seen from here", "namespace, files of others",
      (r"sync_existing\(\): cannot open", r"could not open '?/\S*map_\d+", r"cannot lock '/\S*'",
       r"can'?t find relevant hugepage_info entry"),
      "The hugepage directory must be the same, under the same path, in both containers.",
      "share /dev/hugepages and the runtime directory between them"),
    P(20, "primary and secondary link different libraries", "files of others",
      (r"cannot initialize tailq", r"~cannot init tail queues"),
      "A secondary finds each of its tail queues by name in the primary's config.",
      "link both with the same libraries, -d the same drivers"),
    P(21, "two EALs share the files of one prefix", "namespace, files of others",
      (r"couldn'?t lock \S*fbarray_", r"wrong mmap\(\) address",
       r"failed to bind \S*mp_socket|failed to (open|lock) \S*mp_socket"),
      "Two containers with one hugepage directory and the same prefix (a pid of 1 in its name?),"
      " or secondaries that outlived their primary.",
      "a prefix for each (--file-prefix $POD_UID), or --in-memory"),
    P(22, "a start removes other applications' kept pages", "files of others",
      (r"error while clearing hugepage dir",),
      "EAL deletes every *map_* file of the directory that no process holds, whatever its prefix.",
      "a --huge-dir below the mount for each application"),
    P(23, "addresses beyond what the device reaches", "IOVA",
      (r"exceeding limits of current DMA mask", r"memseg iova .*out of range",
       r"wrong dma mask size"),
      "The IOMMU knows fewer address bits than the addresses have.",
      "a lower --base-virtaddr, or --iova-mode=pa"),
    P(24, "VFIO cannot map the memory", "IOVA",
      (r"cannot set up DMA remapping|DMA remapping failed", r"cannot map vaddr for IOMMU",
       r"failed to map DMA|couldn'?t map (new region|user memory) for DMA"),
      "The memory lock limit, or more mappings than vfio_iommu_type1.dma_entry_limit.",
      "ulimit -l unlimited / LimitMEMLOCK=infinity; 1G pages need fewer mappings"),
    P(25, "too many memory regions for vhost-user", "descriptors",
      (r"too many memory regions",),
      "vhost-user passes at most 8 descriptors; EAL has a file for each page.",
      "--single-file-segments"),
    P(26, "memory is too fragmented for more hugepages", "pool",
      (r"only \d+ (hugepages )?could be allocated", r"requested \d+ hugepages but"),
      "The kernel finds no more contiguous blocks.",
      "echo 1 > /proc/sys/vm/compact_memory and try again; for sure: hugepages=N at boot"),
    P(27, "all pages lie on another node", "pool",
      (),  # causes.POOL has one
      "vm.nr_hugepages spreads as it can; EAL takes pages of the node it was asked for alone.",
      "{reserve}"),
    P(28, "a security module denies it", "permission",
      (r"apparmor=.DENIED", r"avc:\s+denied .*(hugetlbfs|hugepage)",
       r"unable to check if memfd is supported",
       r"ftruncate\(?\)? failed: permission denied"),
      "AppArmor, SELinux or a snap's profile.",
      "allow owner rw on hugetlbfs and / in the profile; dmesg | grep DENIED"),
    P(29, "the other page size is used", "pool, mount",
      (),
      "EAL takes the largest size first, and of each size the first mount.",
      "--huge-dir of the size that is meant, or unmount the other"),
    P(30, "two mounts of a page size", "mount",
      (),
      "The first in /proc/mounts is taken; the other is ignored.",
      "--huge-dir"),
    P(31, "a slow start", "pool",
      (),
      "The kernel zeroes each page that is taken.",
      "fewer pages at start (-m), --huge-unlink=never for the next ones, 1G pages"),
    P(32, "Kubernetes: the pod waits, or cannot use its pages", "cgroup, mount",
      (r"insufficient hugepages", r"hugepages?-\w+i.*(invalid|must)"),
      "Requests must equal limits, with cpu or memory beside them, and the volume's medium be"
      " HugePages; kubelet counts pages when it starts.",
      "systemctl restart kubelet after reserving pages",
      reach="the manifest and the node's capacity are the cluster's, not this machine's files"),
    P(33, "gone after a reboot", "pool",
      (),
      "nr_hugepages is forgotten, unless sysctl.d, a kernel argument or a service sets it.",
      "echo vm.nr_hugepages=N > /etc/sysctl.d/90-hugepages.conf"),
    P(34, "how many pages are enough", "",
      (r"(mempool|mbuf ?pool).*(ENOMEM|cannot allocate memory|failed)",
       r"(cannot|failed to|could not|unable to) (create|allocate|init|initiali[sz]e)\b.{0,20}"
       r"(mbuf|packet|pool\b)", r"\bcreate\b.{0,40}\bpools? failed", r"mbuf\w* alloc\w* failed",
       r"\b(LPM6?|HASH|RING|ACL|FIB6?|EFD|TABLE|MEMBER|TIMER): .{0,30}"
       r"(memory allocation failed|cannot (reserve|allocate) memory)",
       r"no appropriate memory area", r"cannot allocate memory for",
       r"~error allocating from heap"),
      "EAL started; the application needs more than there is. An mbuf takes its data room + 256"
      " bytes, a pool 64 bytes more for each.",
      "pyeal plan -- -m MB, with a fifth more than the sum of the pools",
      reach="what an application will ask for is in its own hands"),
    P(35, "harmless: a page size without pages", "pool",
      (),  # causes.POOL has one
      "EAL looks at every size that the kernel knows, and logs each one without a free page.",
      "nothing to do, as long as another size has pages", harmless=True),
    P(36, "primary and secondaries do not answer each other", "files of others",
      (r"request timed out", r"not all secondaries have responded",
       r"secondary process failed to synchronize", r"fail to (recv reply|send request)"),
      "Memory grows in all processes or in none; a stopped or dead process keeps them waiting.",
      "-m takes what is needed at the start; pyeal ps shows the process that does not answer"),
    P(37, "the primary unlinked its pages", "files of others",
      (),  # causes.FIRST, of a secondary
      "With --huge-unlink or --in-memory there are no names by which a secondary could map them.",
      "start the primary without it"),
    P(38, "--no-huge and what does not go with it", "arguments, files of others",
      (r"(could not open|cannot open) \S*hugepage_data", r"failed to open shared memory",
       r"(together with --no-huge|no-huge.* can'?t be used)"),
      "Such memory is a process's own: no secondary can map it, and no hugepage option applies.",
      "a small pool (pyeal lease 2M:64) and no --no-huge"),
    P(39, "core dumps without the packets, or of many GB", "files of others",
      (),
      "Hugepages that are shared are dumped only with bit 6 of coredump_filter.",
      "echo 0x7f > /proc/PID/coredump_filter, or leave it at 0x33"),
    P(40, "page sizes that EAL does not expect", "mount",
      (r"?will be allocated anonymously", r"~cannot get hugepage information"),
      "EAL holds 3 page sizes (4 on Arm), and fails when it finds more.",
      "unmount the sizes that are not meant"),
    P(41, "a kernel without hugepages", "pool",
      (r"cannot open directory \S*hugepages\S* to read system hugepage info",),
      "No /sys/kernel/mm/hugepages: WSL1, or a kernel without CONFIG_HUGETLBFS.",
      "--no-huge"),
    P(42, "a sanitizer lies where the memory is to go", "address space",
      (r"AddressSanitizer|ThreadSanitizer", r"shadow memory range interleaves"),
      "EAL starts at 0x100000000, in the gap of ASAN's shadow.",
      "--base-virtaddr=0x200000000000, or ASAN_OPTIONS=protect_shadow_gap=0"),
    P(43, "jobs take each other's pages", "files of others",
      (),
      "The pool is the machine's; a job that counts on free pages needs them set aside.",
      "pyeal lease 2M:256 -- COMMAND"),
    P(44, "the start waits indefinitely for a lock", "files of others",
      (),
      "EAL locks the hugepage directory while it starts, and waits for the process that has it.",
      "wait for it, or pyeal ps shows its state; end it only if it hangs"),
    P(45, "no address space", "address space",
      (r"cannot get a virtual area(?! at)",
       r"cannot (reserve|allocate|assign|preallocate) VA space",
       r"could not preallocate VA",
       r"can(no|')t mmap memory for|cannot mmap\(0x"),
      "EAL reserves tens to hundreds of GB of addresses, whatever is asked for.",
      "ulimit -v unlimited, vm.overcommit_memory=0 or 1; from 26.07 on --pagesz-mem 2M:1G"),
    P(46, "tools that read all of /sys", "",
      (r"demote: permission denied",),
      "demote may only be written, and node directories may lack files.",
      "read the counters that have a name",
      reach="it is other tools' problem; this one reads named counters alone"),
)
# the last line of many a start, whatever the reason
GAVE_UP = P(
    None, "EAL gave up; this line does not say why", "",  # any link
    (r"cannot init (memory|EAL)\b",),
    "The reason is in a line before it, or in one of the debug level, which is not shown.",
    "pyeal doctor -- ARGS looks at all that a start needs; --log-level=lib.eal:debug has EAL tell",
)
BY_ID = {p.id: p for p in PROBLEMS}


def of_line(line: str) -> list[tuple[Problem, int]]:
    """(problem, CERTAIN, HINT or WRAPPER) for what a log line says, the closest first."""
    words = words_of(line)
    return closest(Table(PROBLEMS).matches(line.lower(), set(words), words))
