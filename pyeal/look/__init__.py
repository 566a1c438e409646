"""Look at EALs from outside: the processes, files and memory that other programs own.

Nothing here attaches to an EAL, takes a lock, or opens anything for writing. What other users made
is opened through pyeal.files only. The commands in pyeal/tools/ are built on this package.

process       a process: what /proc/PID tells of it
process_view  the machine as a process sees it: its mounts, limits, groups, addresses
locks         /proc/locks, and the process that holds a config
page_files    the files of pages in a hugetlbfs: their names, their holders, their content
runtime_dir   a runtime directory and its config
sources       where the bytes of an EAL come from: a directory, an archive, a process
snapshot      what these bytes say: lists, zones, heaps
foreign       one EAL: its directory, its processes, its snapshot, its health
machine       every EAL of this machine
leftovers     what dead EALs left behind
"""
