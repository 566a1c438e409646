"""Causes that share a problem's number and need a fix of their own, and what is no problem.

CAUSES: looked at before problems.py; the first that matches a line stands for its problem.
NOTES: what EAL also logs of a start that goes on; the end of the log decides what they are.
SIGNALS: how a process ended, for a log that does not say why.
OTHERS: what a log near EAL's shows that is not about EAL's memory.
"""

from __future__ import annotations

import re

from pyeal.tools.explain.problems import BY_ID
from pyeal.tools.explain.problems import Problem as P

FILES = "files of others"
ELSEWHERE = "doctor checks EAL's memory"

CAUSES = (
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
    P(10, "RUNTIME_DIRECTORY has more than one directory in it", "permission",
      (r"error creating '/[^':]*:/[^']*'",),
      "systemd joins several RuntimeDirectory= with a colon, and EAL takes the whole as one path.",
      "one RuntimeDirectory= in the unit, or Environment=RUNTIME_DIRECTORY=/run/NAME"),
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
      "-l within {cpus}, or --lcores 0@CPU with a CPU of them"),
    P(0, "an lcore that this machine does not have", "arguments",
      (r"lcore \d+ (unavailable|>=)|no detected lcore|(main|master) (l?core) is not enabled"
       r"|lcore \d+ is not (detected|available)|(invalid|unavailable).{0,20}(lcore|core ?list|core"
       r" ?mask)",),
      "-l, -c or --lcores name CPUs that are offline, are not there, or are above RTE_MAX_LCORE.",
      "-l within {cpus}"),
    P(0, "an option's old name", "arguments",
      (r"(unrecognized|unknown|invalid|ambiguous) (option|argument):?\s*(--)?\W?-?-?"
       r"(w\b|master-lcore|pci-whitelist|pci-blacklist|socket-mem|vdev-whitelist)",),
      "The option has another name in this release.",
      "-a for -w, -b for --pci-blacklist, --main-lcore for --master-lcore, --numa-mem for"
      " --socket-mem from 25.11 on"),
    P(6, "the pool, or a limit of the mount, ran out half-way", "pool, mount, cgroup",
      (r"alloc_seg\(\)\S*:? mmap\(\) failed: cannot allocate",
       r"attempted to allocate \d+ segments, but only \d+"),
      "The kernel refused a further page: the pool is empty, pages are reserved by others, or the"
      " mount has a size=. No list of EAL is full.",
      "{reserve}; if pages are free: a mount without size=, {mount_other}, and --huge-dir with it"),
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
    P(18, "the primary's socket is there and nobody serves it", FILES,
      (r"failed to send to \(?\S*mp_socket\S* due to (connection refused|no such file)",
       r"~cannot send message to primary", r"(connect|send)\w*.*mp_socket.*refused"),
      "The primary is dead, or has another prefix or runtime directory; its socket stayed.",
      "pyeal stale shows it; start the primary{prefix_of}, then this process"),
    P(36, "the primary does not read its socket", FILES,
      (r"failed to send to \(?\S*mp_socket\S* due to (resource temp|no buffer)",),
      "Its message thread hangs, or the process is stopped.",
      "pyeal ps shows the state of the primary"),
    P(8, "a driver found no memory on its node; EAL itself started", "policy, pool",
      (r"?failed to initialize global MR share cache",
       r"?(alloc|create|init|reserve).*(mempool|ring|queue|hash|table|zone|memory).* on"
       r" (socket|node) \d+.*(fail|cannot)",
       r"?(failed|cannot|unable).{0,60}(memory|memzone|mempool|ring|queue).{0,30}"
       r" (socket|node) [1-9]"),
      "A device takes memory of the node that it is plugged into. EAL's allocations for that socket"
      " fail if its pool is empty.",
      "{reserve}, if memory of socket {node} was asked for; -l with a core of that node"),
)

# "No free 2048 kB hugepages reported on node 0", in the words of all releases.
POOL = re.compile(
    r"no (?:free|available) (?:\d+ kB )?hugepages reported(?: in \S*hugepages-(?P<last>\d+)kB)?",
    re.I,
)
HUGE = 1 << 30  # the size whose line stands in the log of most machines

UNMOUNTED = re.compile(r"reserved, but no mounted hugetlbfs", re.I)
UNMOUNTED_HARMLESS = P(
    29, "harmless: a page size without a mount", "mount", (),
    "EAL uses the sizes that have a mount, and logs the others.",
    "nothing to do, as long as another size has a mount and pages", harmless=True,
)
HINTS = (  # (pattern, problem if the start ended there, what it is otherwise)
    (
        re.compile(r"base virtual address hint .* not resp|cause issues with mapping mem", re.I),
        BY_ID[14],
        P(14, "harmless without secondaries: another base address", "address space", (),
          "EAL took other addresses than asked for. Only a secondary process could find them taken;"
          " with --in-memory or --no-shconf there is none.",
          "nothing to do without secondaries; with them pyeal plan --for-peer PID -- ARGS finds a"
          " --base-virtaddr", harmless=True),
    ),
    (
        re.compile(r"pagemap: (permission|operation not)|physical addresses are unavailable", re.I),
        BY_ID[9],
        P(9, "harmless: no physical addresses, so IOVA as VA", "IOVA", (),
          "Without rights the kernel shows no page frame numbers; EAL goes on with IOVA as VA.",
          "nothing to do with IOVA as VA; a device that needs PA wants root or vfio-pci",
          harmless=True),
    ),
)

ENDED = (
    r"(?:exit(?:ed|s)?|exiting|code|status|rc|returned?|retval)\W{0,3}"
    r"(?:with|code|status|is|value)?"
)
_EXIT = rf"{ENDED}\D{{0,9}}"
SIGNALS = (
    P(4, "killed by SIGBUS: no page was available at the first access", "cgroup, pool",
      (rf"\bSIGBUS\b|\bbus error\b|\bsignal[ =:(]*7\b|=7/BUS|signal=BUS|{_EXIT}135\b",),
      "Either the hugetlb cgroup's limit, or a pool that others emptied: both are enforced when a"
      " page is touched.",
      "hugepages-{size}i in the pod's requests and limits, or a larger hugetlb.{size}B.max"),
    P(None, "killed by SIGBUS: the file system of the runtime directory is full", "permission",
      (rf"\bSIGBUS\b|\bbus error\b|\bsignal[ =:(]*7\b|=7/BUS|signal=BUS|{_EXIT}135\b",),
      "EAL writes about 4 MB of shared files there, without a check; on a full tmpfs the kernel"
      " kills it, and it logs nothing.",
      "df {runtime_at} shows the room; {runtime}, or a larger tmpfs"),
    P(None, "aborted (SIGABRT): a panic, or an assertion", "",
      (rf"\bSIGABRT\b|\baborted\b|\bsignal[ =:(]*6\b|=6/ABRT|signal=ABRT|{_EXIT}134\b",),
      "rte_panic() and assert() end a process so; the line before the end says which.",
      "look at the last lines before it; pyeal doctor -- ARGS looks at all that a start needs"),
    P(None, "killed from outside (SIGKILL): mostly because memory ran out", "",
      (rf"\bSIGKILL\b|\bOOM ?killed\b|out of memory: kill|oom-kill|(^|[\s:])killed\s*$"
       rf"|\bsignal[ =:(]*9\b|=9/KILL|signal=KILL|{_EXIT}137\b",),
      "EAL never ends so by itself. The kernel's OOM killer looks at ordinary memory, not at"
      " hugepages; a health probe or a time limit kills as well.",
      "dmesg | grep -i -e oom -e killed; a larger memory limit, or fewer hugepages reserved",
      reach="it happens while the process runs"),
    P(None, "crashed (SIGSEGV): not because EAL's memory ran out", "",
      (rf"\bSIGSEGV\b|segmentation fault|segfault|\bsignal[ =:(]*11\b|=11/SEGV|signal=SEGV"
       rf"|{_EXIT}139\b",),
      "EAL reports what it lacks; a crash is an error in a program, mostly after a call that"
      " returned NULL and was not looked at.",
      "a core dump and its backtrace; pyeal doctor -- ARGS for what EAL itself needs",
      reach="it happens while the process runs"),
)
GENERAL = re.compile(
    r"\bexit(?:ed|s|ing)?\b\D{0,20}[1-9]\d*\b|\bstatus=[1-9]\d*/|exit.?code\D{0,5}[1-9]"
)

OTHERS = (
    P(None, "not about memory: the CPU lacks instructions that this build needs", "",
      (r"unsupported cpu type|this system does not support|illegal instruction|\bSIGILL\b"
       rf"|built with support for .*cpu|=4/ILL|{_EXIT}132\b",),
      "DPDK was built for another processor type than this machine's.",
      "a build with -Dcpu_instruction_set=generic (-Dplatform=generic)", ELSEWHERE),
    P(None, "Windows: not about the hugepages that pyeal knows", "",
      (r"virt2phys|SeLockMemoryPrivilege|lock pages in memory|VirtualAlloc2|MEM_LARGE_PAGES"
       r"|cannot claim hugepage privilege|huge ?page.*privilege|error 1314|error 1450",),
      "On Windows EAL takes large pages of the process's own privilege, without pools and mounts.",
      "grant 'Lock pages in memory' to the user, log in again, and load virt2phys if PA is needed",
      "doctor looks at Linux"),
    P(None, "not about memory: a device or its driver", "",
      (r"requested device \S+ cannot be used|group is not viable|no (probed|available)? ?ethernet"
       r" (port|dev)|no (ethernet )?ports? (available|found|detected|-)"
       r"|(cannot|failed to|could not) (find|attach|probe|load|open|bind)\b.{0,30}"
       r"\b(driver|device|plugin|pmd|vfio|uio|nic|port)\b"
       r"|/dev/vfio/\S*.*(permission|no such)|driver .{0,40}(not found|cannot|failed|fail to)"
       r"|lib\w+\.so\S*.*(cannot open|undefined symbol)",),
      "EAL's memory comes before devices are probed.",
      "dpdk-devbind.py --status where it is installed, the driver's own page, and rights on"
      " /dev/vfio", ELSEWHERE),
    P(None, "not about memory: telemetry or another service of DPDK", "",
      (r"telemetry.*(fail|error|cannot|could not)",),
      "EAL starts without it.", "--no-telemetry switches it off", ELSEWHERE),
)

# How a log ends, or shows that the start went on; for lines in lower case.
END = re.compile(
    r"(?<!non-)\bfatal\b|\bpanic\b|error - exiting|\bemer(?:g|gency)?\b"
    r"|rte_eal_init\W.*(?:fail|error|return)"
    r"|(?:fail(?:ed|ure)?|unable|could ?n[o']t|cannot|can't|error)(?: to|:| in| while)?"
    r" (?:init(?:iali[sz](?:e|ing|ation))?|start(?:ing)?|with|setup)(?: of)?(?: the)?"
    r" (?:dpdk|eal|spdk|env)\b"
    r"|(?:dpdk|eal|spdk)(?: environment)? init(?:iali[sz]ation)? (?:has )?fail"
    r"|main process exited|core dumped|back-?off|crashloop|terminated with",
)
ON = re.compile(
    r"probe pci driver|probing pci device|interactive-mode|testpmd>|telemetry: no legacy"
    r"|\bports? \d+\b|\bports?:? (?:are |is )?up|listening|\bstarted\b|\bready\b|is up\b"
    r"|\brunning\b|press enter|(?:init\w*|start\w*) (?:done|complete|successful|ok)"
    r"|core mask|forwarding|serving|link (?:is )?up|link status"
    r"|successfully|reactor started|polling",
)
AGAIN = re.compile(r"\beal: detected (?:cpu )?(?:lcores|\d+ lcore)|\beal: detected \d+ lcore")
