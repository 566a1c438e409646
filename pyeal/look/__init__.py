"""Look at EALs from outside: the processes, files and memory that other programs own.

Nothing here attaches to an EAL, takes a lock, or opens anything for writing. What other users made
is opened through pyeal.files only. The commands in pyeal/tools/ are built on this package.

locks         /proc/locks, and the process that holds a config
sources       where the bytes of an EAL come from: a directory, an archive, a process
archives      zip and tar files: a source of bytes, within limits
packed        large files that may be compressed
core          the core file of a process: its memory, and the EAL in it
config        a config: its release, its primary, its address in a process
process       a process: what /proc/PID contains about it
hugedir       the files of pages in a hugetlbfs: their names, their holders, their content
runtime_dir   the places of runtime directories, and the names of their files
process_view  the machine as a process sees it: its mounts, limits, groups, addresses
snapshot      the shared memory of one EAL: lists, zones, heaps
foreign       one EAL: its directory, its processes, its snapshot, its health
machine       every EAL of this machine
find          the EAL that a user names
leftovers     what dead EALs left behind
"""
