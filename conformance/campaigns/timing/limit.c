/* What the kernel needs at the least for the same result: N pages of M MB, mapped side by side.
 *
 *	limit KIND PAGES M THREADS HEAD
 *
 * files: one file a page in a hugetlbfs, HEAD0 and so on, made, locked and sized. kept: such files
 * that are there already, and nobody's: found in a list of the directory, locked exclusively first,
 * asked for their size; in the end the kernel is asked for each page's frame and node, which is a
 * good part of such a start. joined: those of another process, which are locked. opened: the same,
 * but not populated. file: HEAD0 for all. memfds: one memfd a page. anonymous: no file. Populated by
 * madvise in chunks of 128 MB from threads that are there before. records: no page, but its 512
 * records of 48 bytes in a file.
 * Prints one line of JSON.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define CHUNK (128UL << 20)
#define RECORDS (48 * 512)
#define BATCH 32 /* pages whose records are written at a time */
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

static char *base;
static unsigned long page;
static long pages, next_page;
static pthread_barrier_t go;

static void die(const char *what)
{
	perror(what);
	exit(1);
}

static double now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void *populate(void *helper)
{
	if (helper) {
		free(malloc(1 << 16)); /* its arena, before the address space is locked */
		pthread_barrier_wait(&go);
		pthread_barrier_wait(&go);
	}
	for (;;) {
		long chunk = page < CHUNK ? CHUNK / page : 1;
		long at = __atomic_fetch_add(&next_page, chunk, __ATOMIC_RELAXED);
		long n = pages - at < chunk ? pages - at : chunk;

		if (n <= 0)
			return NULL;
		if (madvise(base + at * page, n * page, MADV_POPULATE_WRITE))
			die("madvise");
	}
}

static int some_file(const char *head, long i, int flags)
{
	char path[4096];
	int fd;

	snprintf(path, sizeof(path), "%s%ld", head, i);
	fd = open(path, O_RDWR | flags, 0600);
	if (fd < 0)
		die(path);
	return fd;
}

static int page_file(const char *head, long i, int flags)
{
	int fd = some_file(head, i, flags);

	if (flock(fd, LOCK_SH | LOCK_NB))
		die("flock");
	return fd;
}

static int sized_file(const char *head, long i)
{
	int fd = page_file(head, i, O_CREAT);

	if (ftruncate(fd, page))
		die("ftruncate");
	return fd;
}

static int kept_file(const char *head, long i)
{
	int fd = some_file(head, i, 0);

	if (flock(fd, LOCK_EX | LOCK_NB) || lseek(fd, 0, SEEK_END) != (off_t)page ||
	    flock(fd, LOCK_SH | LOCK_NB))
		die("a kept file");
	return fd;
}

static void list(const char *head)
{
	char *path = strndup(head, strrchr(head, '/') - head);
	DIR *dir = opendir(path);
	long n = 0;

	while (dir && readdir(dir))
		n++;
	if (n < pages)
		die(path);
	closedir(dir);
	free(path);
}

static void frames_and_nodes(void)
{
	int fd = open("/proc/self/pagemap", O_RDONLY), *node = calloc(pages, sizeof(*node));
	void **at = calloc(pages, sizeof(*at));
	unsigned long entry;

	for (long i = 0; i < pages; i++) {
		at[i] = base + i * page;
		if (pread(fd, &entry, 8, (unsigned long)at[i] / 4096 * 8) != 8)
			die("pagemap");
	}
	if (syscall(SYS_move_pages, 0, pages, at, NULL, node, 0) && errno != ENOSYS)
		die("move_pages");
	close(fd);
}

static int size_flag(void)
{
	return __builtin_ctzl(page) << 26;
}

static void map(long i, long n, int fd)
{
	int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | size_flag() : MAP_SHARED;

	if (mmap(base + i * page, n * page, PROT_READ | PROT_WRITE, flags | MAP_FIXED_NOREPLACE,
		 fd, 0) == MAP_FAILED)
		die("mmap");
}

static void write_records(const char *head)
{
	static char some[BATCH * RECORDS];
	int fd = page_file(head, 0, O_CREAT);

	for (long at = 0; at < pages; at += BATCH)
		if (pwrite(fd, some, sizeof(some), at * RECORDS) != sizeof(some))
			die("pwrite");
}

int main(int argc, char **argv)
{
	const char *kind = argc == 6 ? argv[1] : "", *head = argc == 6 ? argv[5] : "";
	int threads = argc == 6 ? atoi(argv[4]) : 0, opened = !strcmp(kind, "opened");
	int kept = !strcmp(kind, "kept");
	struct rlimit files;
	double wall, cpu;
	pthread_t helper[64];

	pages = argc == 6 ? atol(argv[2]) : 0;
	page = argc == 6 ? strtoul(argv[3], NULL, 10) << 20 : 0;
	if (pages < 1 || !page || threads < 1 || threads > 64) {
		fprintf(stderr, "limit KIND PAGES M THREADS HEAD\n");
		return 2;
	}
	getrlimit(RLIMIT_NOFILE, &files);
	files.rlim_cur = files.rlim_max;
	setrlimit(RLIMIT_NOFILE, &files);
	wall = now(CLOCK_MONOTONIC);
	cpu = now(CLOCK_PROCESS_CPUTIME_ID);
	close(fcntl(0, F_DUPFD, pages + 16)); /* the descriptor table, before a second thread */
	pthread_barrier_init(&go, NULL, threads);
	for (int i = 1; i < threads; i++)
		pthread_create(&helper[i], NULL, populate, &go);
	if (threads > 1)
		pthread_barrier_wait(&go);
	base = mmap(NULL, (pages + 1) * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap(base, (pages + 1) * page); /* a mapping into a hole is the cheaper one */
	base = (char *)(((unsigned long)base + page - 1) & -page);
	if (!strcmp(kind, "files"))
		for (long i = 0; i < pages; i++)
			map(i, 1, sized_file(head, i));
	else if (kept) {
		list(head);
		for (long i = 0; i < pages; i++)
			map(i, 1, kept_file(head, i));
	} else if (!strcmp(kind, "joined") || opened)
		for (long i = 0; i < pages; i++)
			map(i, 1, page_file(head, i, 0));
	else if (!strcmp(kind, "memfds"))
		for (long i = 0; i < pages; i++)
			map(i, 1, memfd_create("limit", MFD_HUGETLB | size_flag()));
	else if (!strcmp(kind, "file"))
		map(0, pages, page_file(head, 0, O_CREAT)); /* its mapping sizes it */
	else if (!strcmp(kind, "records"))
		write_records(head);
	else
		map(0, pages, -1);
	if (opened || !strcmp(kind, "records"))
		next_page = pages; /* nothing is populated */
	if (threads > 1)
		pthread_barrier_wait(&go);
	populate(NULL);
	for (int i = 1; i < threads; i++)
		pthread_join(helper[i], NULL);
	if (kept)
		frames_and_nodes();
	printf("{\"wall\": %.9f, \"cpu\": %.9f}\n", now(CLOCK_MONOTONIC) - wall,
	       now(CLOCK_PROCESS_CPUTIME_ID) - cpu);
	return 0;
}
