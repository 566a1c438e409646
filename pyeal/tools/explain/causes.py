"""Causes that share a problem's number and need a fix of their own, and what is no problem.

CAUSES: looked at before problems.py; the first that matches a line stands for its problem.
NOTES: what EAL also logs of a start that goes on; the end of the log decides what they are.
SIGNALS: how a process ended, for a log that does not say why.
OTHERS: what a log near EAL's shows that is not about EAL's memory.
"""

from __future__ import annotations

import re

from pyeal.tools.explain.problems import BY_ID, UNABLE
from pyeal.tools.explain.problems import Problem as P

FILES = "files of others"
ELSEWHERE = "doctor checks EAL's memory"

FIRST = P(
    None, "the first allocation of EAL failed, and its lines do not say why", "",
    (r"~rte_service_init\(\) failed", r"~error allocating rte services"),
    "rte_service_init() is the first that allocates memory: no page could be mapped, although the"
    " pool had free ones.",
    "pyeal doctor --touch -- ARGS maps a page by the same calls and names the one that fails",
)
COMPLAINT = P(
    None, "no line of EAL tells of a failure; this is the last that does", "", (),
    "EAL's own lines show a start without an error.",
    "look at the application's or driver's documentation; pyeal doctor -- ARGS looks at what EAL"
    " needs",
)
ENDED_SO = P(
    None, "the application ended, and no line of EAL says why", "", (),
    "EAL's lines show no failure; what ended it is the application's own, or not in this log.",
    "look at the application's lines before it; pyeal doctor -- ARGS looks at what EAL needs",
)

ZONE_EXISTS = P(
    None, "harmless: a memory zone of this name exists", "",
    (r"memzone <.*already exists", r"^\S*>? ?already exists",),
    "The name was reserved before, by this process or by another of the prefix; no memory is"
    " lacking. A pool or ring that could not be made for this reason says so afterwards.",
    "nothing to do if the program goes on; otherwise another name, or look it up instead",
    harmless=True,
)

CAUSES = (
    P(10, "RUNTIME_DIRECTORY has more than one directory in it", "permission",
      (r"error creating '/[^':]*:/[^']*'",),
      "systemd joins several RuntimeDirectory= with a colon, and EAL takes the whole as one path.",
      "one RuntimeDirectory= in the unit, or Environment=RUNTIME_DIRECTORY=/run/{prefix}"),
    P(10, "the runtime directory's parent does not exist", "permission",
      (r"error creating '[^']*'?: no such file",),
      "EAL creates <base>/dpdk/<prefix>, and not <base>. /run/user/UID exists only while that user"
      " is logged in, which is never the case in a container or under a service.",
      "{runtime}, or mkdir -p {parent}"),
    P(10, "the runtime directory lies on a read-only file system", "permission",
      (r"error creating '[^']*'?: read-only", r"(runtime dir|/dpdk/)[^:]*: read-only"),
      "EAL keeps its files there, and root's EAL ignores XDG_RUNTIME_DIR.",
      "{runtime}"),
    P(10, "the path of the runtime directory is too long", "permission",
      (r"(error creating|runtime dir|mp_socket|bind).*(name too long|truncated)",
       r"(error creating|creating) .*(path|name) .*long", r"runtime dir.*(too long|truncated)"),
      "A socket's path has 107 characters at most, and a runtime directory's less than that.",
      "a shorter --file-prefix, or {runtime}"),
    P(10, "no room where the runtime directory lies", "permission",
      (r"(runtime dir|error creating|/dpdk/|fbarray).*no space left",
       r"(fbarray_init|resize_and_map)\(\).*(no space|file too large)",
       r"cannot resize '\S*' for rte_mem"),
      "EAL needs about 4 MB there; a tmpfs that is full ends it with SIGBUS.",
      "{runtime}"),
    P(10, "this user may not write where the runtime directory lies", "permission",
      (r"error creating '[^']*'?: (permission|operation not)",
       r"(unable to open|cannot (create|open)) runtime dir\S*:? .*(permission|operation not)"),
      "EAL creates <base>/dpdk/<prefix>; the base is RUNTIME_DIRECTORY, for root /var/run, else"
      " XDG_RUNTIME_DIR, else /tmp.",
      "{runtime}"),
    P(10, "the runtime directory cannot be used", "permission",
      (r"~cannot create runtime directory", r"no DPDK runtime directory",
       r"unable to open runtime directory", r"error while clearing runtime dir",
       r"~cannot clear runtime directory", r"error creating '[^']*'"),
      "It was never created, or the place is not what this EAL looks at: RUNTIME_DIRECTORY, for"
      " root /var/run, else XDG_RUNTIME_DIR, else /tmp.",
      "{runtime}, or create the directory that the line names"),
    P(0, "an lcore outside the CPUs that this process may use", "arguments",
      (r"cannot set affinity|failed to set (thread )?affinity|pthread_setaffinity\w* failed",),
      "A cpuset, a static CPU manager or taskset leaves this process fewer CPUs than the machine"
      " has; EAL counts those of the machine.",
      "-l within {cpus}, or --lcores 0@{cpu}"),
    P(0, "an lcore id that this build cannot have", "arguments",
      (r"lcore \d+ >= rte_max_lcore",),
      "An id is below RTE_MAX_LCORE, compiled in; without --lcores it is the CPU's number.",
      "--lcores 0@128,1@129 makes CPUs 128 and 129 lcores 0 and 1; or a build with -Dmax_lcores"),
    P(0, "an lcore that this machine does not have", "arguments",
      (r"lcore \d+ (unavailable|>=)|no detected lcore|(main|master) (l?core) is not enabled"
       r"|lcore \d+ is not (detected|available)|(invalid|unavailable).{0,20}(\blcore|core ?list"
       r"|core ?mask)",),
      "-l, -c or --lcores name CPUs that are offline, are not there, or are above RTE_MAX_LCORE.",
      "-l within {cpus}"),
    P(0, "an option's old name", "arguments",
      (r"(unrecognized|unknown|invalid|ambiguous) (option|argument):?\s*(--)?\s?\W?-?-?"
       r"'?(w\b|master-lcore|pci-whitelist|pci-blacklist|socket-mem|vdev-whitelist)",),
      "The option has another name in this release.",
      "-a for -w, -b for --pci-blacklist, --main-lcore for --master-lcore, --numa-mem for"
      " --socket-mem from 25.11 on"),
    P(0, "arguments: memory for each node is a list of MB", "arguments",
      (r"invalid parameters? for --(socket|numa)-(mem|limit)|invalid (socket|numa)-(mem|limit)"
       r"|--(socket|numa)-(mem|limit) (parameter )?is too long",),
      "--socket-mem, --numa-mem and the limits take a number of MB for each node, with commas.",
      "--socket-mem 1024 for node 0, --socket-mem 1024,512 for node 0 and 1 (MB, without a unit)"),
    P(6, "the pool, or a limit of the mount, ran out half-way", "pool, mount, cgroup",
      (r"alloc_seg\(\)\S*:? mmap\(\) failed: cannot allocate",
       r"attempted to allocate \d+ segments, but only \d+"),
      "The kernel refused a further page: the pool is empty, pages are reserved by others, or the"
      " mount has a size=. No list of EAL is full.",
      "{reserve}; if pages are free: a mount without size=, {mount_other}, and --huge-dir with it"),
    P(None, "pages could not be allocated: an empty pool, a limit, or full lists", "",
      (r"~couldn'?t find suitable memseg_list",),
      "EAL found no list in which it could allocate all pages at once. Without a debug log the line"
      " does not tell a pool that ran out from the limits on open files (one a page), on the mount,"
      " or from lists that are full (16 GB of 2 MB pages, before 26.07).",
      "pyeal doctor --touch -- ARGS finds the call that fails; --log-level=lib.eal:debug has EAL"
      " tell"),
    FIRST,
    ZONE_EXISTS,
    P(11, "the mount allows no further file", "mount",
      (r"map_\w*'? failed: no space left",),
      "The hugetlbfs has nr_inodes=, or size=, and files of others count.",
      "a mount without them, {mount_other}, and --huge-dir with it"),
    P(45, "a mapping was refused: vm.max_map_count, or the pool", "address space, pool",
      (r"(map_all_hugepages|remap_all_hugepages)\(\)\S*:? mmap failed: cannot allocate",
       r"~failed to mmap \d+ [mgk]b hugepages"),
      "A release before 18.05 maps every page of the pool twice before it chooses: with more than"
      " 32,000 pages the number of mappings is the likely limit, with fewer the pool.",
      "{maps}; with fewer pages {reserve}"),
    P(13, "a compiled limit on pieces of contiguous memory", "address space",
      (r"CONFIG_RTE_MAX_MEMSEG\b ?=? ?\d* is not enough|can only reserve \d+ pages from \d+"
       r"|increase (CONFIG_)?RTE_MAX_MEMSEG\b(?!_)",),
      "A release before 18.05 wants physically contiguous pages, and has room for RTE_MAX_MEMSEG"
      " pieces. Pages that are reserved late are scattered.",
      "hugepages=N on the kernel's command line, larger pages (hugepagesz=1G), or a newer release"),
    P(13, "legacy memory: more pages than the memseg lists hold", "address space",
      (r"could not find space for memseg",),
      "--legacy-mem takes every page of the pools; the lists hold 64 GB of a page size, or"
      " RTE_MAX_MEM_MB_PER_TYPE.",
      "-m MB, at most 65536 (limit_memory of TRex passes it); or start without --legacy-mem"),
    P(4, "killed by SIGBUS when EAL touched a page: the cgroup's limit, or the pool",
      "cgroup, pool",
      (r"\bin (alloc_seg|map_all_hugepages|resize_hugefile\w*) \(",),
      "The kernel promised the page at mmap() and had none at the first access; in a pod the limit"
      " is 0 without a request.",
      "hugepages-{size}i in the pod's requests and limits, or a larger hugetlb.{size}B.max;"
      " {reserve}"),
    P(10, "killed by SIGBUS in a file of the runtime directory: its file system is full",
      "permission",
      (r"\bin (rte_fbarray_\w+|resize_and_map|rte_eal_config_create|eal_mcfg_\w+) \(",),
      "EAL writes about 4 MB there; a full tmpfs ends it at the first access.",
      "df {runtime_at} shows the room; {runtime}"),
    P(9, "a device's driver needs another IOVA mode than EAL chose", "IOVA",
      (r"expecting ?'pa' iova mode but current mode is 'va'",),
      "igb_uio and vfio-pci without an IOMMU reach physical addresses only; EAL chose IOVA as VA.",
      "--iova-mode=pa as root; or vfio-pci with the IOMMU switched on"),
    P(9, "a device's driver needs another IOVA mode than was asked for", "IOVA",
      (r"expecting ?'va' iova mode but current mode is 'pa'",),
      "The driver takes virtual addresses only, and EAL was told, or chose, IOVA as PA.",
      "--iova-mode=va"),
    P(10, "the file system of the runtime directory cannot be mapped", "permission",
      (r"rte_eal_config_create\(?\)?\W.*cannot mmap memory for rte_config",
       r"^((?!reattach|attach).)*cannot mmap memory for rte_config\W*$"),
      "A primary maps its config as shared memory, which 9p and some overlays of containers do"
      " not allow.",
      "a tmpfs for it: mount -t tmpfs tmpfs /var/run; or {runtime}"),
    P(18, "no primary to join where an ordinary user's EAL looks", FILES,
      (r"cannot open '(/run/user/\d+|/tmp)/\S*config' for rte_mem_config",),
      "An ordinary user's EAL looks in XDG_RUNTIME_DIR or /tmp, root's in /var/run/dpdk.",
      "start it as the primary's user (as root, if root started the primary), with its"
      " --file-prefix; or the same RUNTIME_DIRECTORY for both"),
    P(20, "a library of DPDK is in the process twice", FILES,
      (r"tailq is already registered",),
      "The program links a driver statically, or another build of it, and -d or the plugin"
      " directory loads it once more.",
      "no -d for what is linked; one DPDK installation in LD_LIBRARY_PATH"),
    P(21, "the files of one prefix are locked by another process, or cannot be made", FILES,
      (r"~cannot allocate memzone list", r"~cannot init memzone"),
      "fbarray_memzone is the first array: a secondary that outlived its primary holds its lock,"
      " or the runtime directory has no room.",
      "pyeal ps shows the process with the prefix{prefix_of}; another --file-prefix;"
      " df {runtime_at}"),
    P(18, "the primary's socket is there and nobody serves it", FILES,
      (r"failed to send to \(?\S*mp_socket\S* due to (connection refused|no such file)",
       r"~cannot send message to primary", r"(connect|send)\w*.*mp_socket.*refused"),
      "The primary is dead, or has another prefix or runtime directory; its socket stayed.",
      "pyeal stale shows it; start the primary{prefix_of}, then this process"),
    P(36, "the primary does not read its socket", FILES,
      (r"failed to send to \(?\S*mp_socket\S* due to (resource temp|no buffer)",),
      "Its message thread hangs, or the process is stopped.",
      "pyeal ps shows the state of the primary"),
    P(8, "a device or a pool found no memory on its node; EAL itself started", "policy, pool",
      (rf"{UNABLE} \w+ .{{0,20}}pools? (on|for) (socket|node) [1-9]",
       r"?failed to (initialize global MR share cache|allocate private data)",
       r"?(alloc|create|init|reserve).*(mempool|ring|queue|hash|table|zone|memory).* on"
       r" (socket|node) \d+.*(fail|cannot)",
       r"?(failed|cannot|unable).{0,60}(memory|memzone|mempool|ring|queue).{0,30}"
       r" (socket|node) [1-9]"),
      "A device takes memory of the node that it is plugged into. EAL's allocations for that socket"
      " fail if its pool is empty.",
      "{reserve}, if memory of socket {node} was asked for; -l with a core of that node"),
    P(1, "no free hugepage in what the application looked at", "pool, mount",
      (r"?not enough (free )?huge ?pages", r"?insufficient (free )?(huge ?)?pages",
       r"?huge ?pages? .{0,30}(insufficient|not enough)"),
      "An application counts the pages itself before it starts EAL.",
      "{reserve}; if pages are there and taken, pyeal ps shows by what"),
    *(P(id, f"{title}: rte_eal_init() gave {name}", links,
        (rf"?rte_eal_init(\(\))?\W{{1,4}}((failed|error|returned|errno|code|rte_errno)\W{{1,4}}){{0,2}}"
         rf"-?({n}\b|{name}\b)|rte_eal_init\b.{{0,60}}{words}",),
        f"EAL's own lines are not in this log; rte_errno tells the stage: {means}.", fix)
      for id, n, name, words, title, links, means, fix in (
          (1, 13, "EACCES", "permission denied", "no free hugepage, or no mount", "pool, mount",
           "no page size has a free page and a mount", "{reserve}; {mount}"),
          (6, 12, "ENOMEM", "cannot allocate memory", "no memory", "pool, cgroup, address space",
           "memory could not be set up", "pyeal doctor --touch -- ARGS names what lacks"),
          (0, 22, "EINVAL", "invalid argument", "arguments that EAL does not take", "arguments",
           "arguments, plugins, IOVA as PA, or an lcore outside the cpuset",
           "pyeal plan -- ARGS reads the arguments as EAL does"),
      )),
)

# "No free 2048 kB hugepages reported on node 0", in the words of all releases.
POOL = re.compile(
    r"no (?:free|available) (?:\d+ kb )?hugepages reported(?: in \S*hugepages-(?P<last>\d+)kb)?"
)
HUGE = 1 << 30  # the size whose line stands in the log of most machines

UNMOUNTED = re.compile(r"reserved, but no mounted hugetlbfs")
UNMOUNTED_HARMLESS = P(
    29, "harmless: a page size without a mount", "mount", (),
    "EAL uses the sizes that have a mount, and logs the others.",
    "nothing to do, as long as another size has a mount and pages", harmless=True,
)
HINTS = (  # (pattern, problem if the start ended there, what it is otherwise)
    (
        re.compile(r"base virtual address hint .* not resp|cause issues with mapping mem"
                   r"|\(aslr\) is enabled"),
        BY_ID[14],
        P(14, "harmless without secondaries: another base address", "address space", (),
          "EAL took other addresses than asked for. Only a secondary process could find them taken;"
          " with --in-memory or --no-shconf there is none.",
          "nothing to do without secondaries; with them pyeal plan --for-peer PID -- ARGS finds a"
          " --base-virtaddr", harmless=True),
    ),
    (
        re.compile(r"pagemap: (permission|operation not)|physical addresses are unavailable"
                   r"|cannot obtain physical addresses"),
        BY_ID[9],
        P(9, "harmless: no physical addresses, so IOVA as VA", "IOVA", (),
          "Without rights the kernel shows no page frame numbers; EAL goes on with IOVA as VA.",
          "nothing to do with IOVA as VA; a device that needs PA wants root or vfio-pci",
          harmless=True),
    ),
)

NO_DEVICE = P(
    24, "harmless: no device uses VFIO", "IOVA", (),
    "The application maps memory for VFIO, and no device of it is bound to vfio-pci.",
    "nothing to do, unless a device was to be used: dpdk-devbind.py --status", harmless=True,
)

ENDED = (
    r"(?:exited|exits|exit|exiting|code|status|rc|returned?|retval)\W{0,3}"
    r"(?:with|code|status|is|value)?"
)
_EXIT = rf"{ENDED}\D{{0,9}}"


def _minus(signal: int) -> str:
    """Return a pattern for how Python and Go write that a signal ended a process."""
    return rf"exit status -{signal}\b|returned -{signal}\b|returncode\W{{1,3}}-{signal}\b"


_SIGBUS = (
    r"\bSIGBUS\b(?! (?:for|handler)|!)|\bbus error\b|\bsignal[ =:(]*7\b|=7/BUS|signal=BUS"
    rf"|{_EXIT}135\b|{_minus(7)}"
)
SIGNALS = (
    P(4, "killed by SIGBUS: no page was available at the first access", "cgroup, pool",
      (_SIGBUS,),
      "Either the hugetlb cgroup's limit, or a pool that others emptied: both are enforced when a"
      " page is touched.",
      "hugepages-{size}i in the pod's requests and limits, or a larger hugetlb.{size}B.max"),
    P(None, "killed by SIGBUS: the file system of the runtime directory is full", "permission",
      (_SIGBUS,),
      "EAL writes about 4 MB of shared files there, without a check; on a full tmpfs the kernel"
      " kills it, and it logs nothing.",
      "df {runtime_at} shows the room; {runtime}, or a larger tmpfs"),
    P(None, "aborted (SIGABRT): a panic, or an assertion", "",
      (rf"\bSIGABRT\b|\baborted\b|\bsignal[ =:(]*6\b|=6/ABRT|signal=ABRT|{_EXIT}134\b"
       rf"|{_minus(6)}",),
      "rte_panic() and assert() end a process so; the line before the end says which.",
      "look at the last lines before it; pyeal doctor -- ARGS looks at all that a start needs"),
    P(None, "killed from outside (SIGKILL): mostly because memory ran out", "",
      (rf"\bSIGKILL\b|\bOOMkilled\b|\bOOM killed\b|out of memory: kill|oom-kill"
       rf"|(^|[\s:])\bkilled\s*$|\bsignal[ =:(]*9\b|=9/KILL|signal=KILL|{_EXIT}137\b|{_minus(9)}",),
      "EAL never ends so by itself. The kernel's OOM killer looks at ordinary memory, not at"
      " hugepages; a health probe or a time limit kills as well.",
      "dmesg | grep -i -e oom -e killed; a larger memory limit, or fewer hugepages reserved",
      reach="it happens while the process runs"),
    P(None, "crashed (SIGSEGV): not because EAL's memory ran out", "",
      (rf"\bSIGSEGV\b|segmentation fault|segfault|\bsignal[ =:(]*11\b|=11/SEGV|signal=SEGV"
       rf"|{_EXIT}139\b|{_minus(11)}",),
      "EAL reports what it lacks; a crash is an error in a program, mostly after a call that"
      " returned NULL and was not looked at.",
      "a core dump and its backtrace; pyeal doctor -- ARGS for what EAL itself needs",
      reach="it happens while the process runs"),
)
OTHERS = (
    P(None, "not about memory: the CPU lacks instructions that this build needs", "",
      (r"unsupported cpu type|this system does not support|illegal instruction|\bSIGILL\b"
       rf"|built with support for .*cpu|=4/ILL|{_EXIT}132\b",),
      "DPDK was built for another processor type than this machine's.",
      "a build with -Dcpu_instruction_set=generic (-Dplatform=generic)", ELSEWHERE),
    P(None, "Windows: not about the hugepages that pyeal knows", "",
      (r"virt2phys|SeLockMemoryPrivilege|lock pages in memory|VirtualAlloc2|MEM_LARGE_PAGES"
       r"|cannot claim hugepage privilege|huge ?page.*\b(privilege|privileges)\b|error 1314"
       r"|error 1450",),
      "On Windows EAL takes large pages of the process's own privilege, without pools and mounts.",
      "grant 'Lock pages in memory' to the user, log in again, and load virt2phys if PA is needed",
      "doctor looks at Linux"),
    P(None, "not about memory: a device or its driver", "",
      (r"requested device \S+ cannot be used", r"group is not viable",
       r"\bno .{0,12}\bethernet (port|dev)",
       r"\bno (ethernet )?(ports|port)( (available|found|detected|-)|\W*$)",
       rf"{UNABLE} (initiali[sz]e|init|start|configure|set ?up|set)"
       r" (the )?(port|device|nic|interface|ethernet)\b",
       rf"{UNABLE} (find|attach|probe|load|open|bind)\b.{{0,30}}"
       r"\b(driver|device|plugin|pmd|vfio|uio|nic|port)\b",
       r"cannot attach the device", r"unable to bind\b.{0,30}\b(driver|device)",
       r"/dev/vfio/\S*.*(permission|no such|busy)",
       r"driver .{0,40}(not found|cannot|failed|fail to)",
       r"\.so\b.*(cannot open|undefined symbol)"),
      "EAL's memory comes before devices are probed.",
      "dpdk-devbind.py --status where it is installed, the driver's own page, and rights on"
      " /dev/vfio", ELSEWHERE),
    P(None, "FreeBSD: EAL's memory is that of the contigmem driver", "",
      (r"?contigmem driver has", r"(cannot|could ?n[o']t|failed|error).{0,40}\bcontigmem"),
      "FreeBSD has no hugetlbfs: contigmem sets aside num_buffers blocks of buffer_size at boot.",
      "hw.contigmem.num_buffers and hw.contigmem.buffer_size in /boot/loader.conf, then a reboot",
      "doctor looks at Linux"),
    P(None, "not about memory: telemetry or another service of DPDK", "",
      (r"\btelemetry\b.*(fail|error|cannot|could not)",),
      "EAL starts without it.", "--no-telemetry switches it off", ELSEWHERE),
)

# How a log ends, or shows that the start went on; for lines in lower case.
STARTING = (
    r"(?:initialise|initialize|initialising|initializing|initialisation|initialization|init"
    r"|starting|start|with|setup)\b(?: of)?(?: the)?"
    r" (?:dpdk|eal|spdk|env)\b"
)
END = P(
    None, "the start ended", "",
    (r"(?<!non-)\bfatal\b", r"\bpanic\b", r"error - exiting\b", r"\b(emer|emerg|emergency)\b",
     r"rte_eal_init\W.*(fail|error|return)",
     r"(fail(?:ed|ure)?|unable|could ?n[o']t|cannot|can't|error)(?: to|:| in| while)? " + STARTING,
     r"\b(dpdk|eal|spdk) (?:environment )?init\w* (?:has )?(fails|failed|fail)\b",
     r"main process exited", r"core dumped\b", r"\bback-off\b|\bbackoff\b",
     r"\b(crashloop|crashloopbackoff)\b",
     r"terminated with", r"(exited|exits|exiting|exit)\b\D{0,20}[1-9]\d*\b",
     r"status=[1-9]\d*/", r"\b(exitcode|code)\b\D{0,5}[1-9]"),
    "", "",
)
ON = re.compile(
    r"probe (?:pci )?driver|probing pci device|interactive-mode|testpmd>|telemetry: no legacy"
    r"|\bports? \d+\b|\bports?:? (?:are |is )?up|listening|\bstarted\b|\bready\b|is up\b"
    r"|\brunning\b|press enter|(?:init\w*|start\w*) (?:done|complete|successful|ok)"
    r"|core mask|forwarding|serving|link (?:is )?up|link status"
    r"|successfully|reactor started|polling",
)
AGAIN = re.compile(r"eal: detected (?:cpu )?(?:lcores|\d+ lcore)")
