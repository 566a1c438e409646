/* What the kernel needs at the least for the same result: N zeroed 2 MB pages, mapped side by side.
 *
 *	limit KIND PAGES THREADS [DIRECTORY]
 *
 * files: one file a page in a hugetlbfs, made, locked and sized; kept: such files that are there
 * already; file: one for all; memfds: one memfd a page; anonymous: no file. Populated by madvise
 * in chunks of 64 pages from threads that are there before. Prints one line of JSON.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

#define PAGE (2UL << 20)
#define CHUNK 64
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#define MFD_2M (MFD_HUGETLB | 21 << 26)

static char *base;
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
		long at = __atomic_fetch_add(&next_page, CHUNK, __ATOMIC_RELAXED);
		long n = pages - at < CHUNK ? pages - at : CHUNK;

		if (n <= 0)
			return NULL;
		if (madvise(base + at * PAGE, n * PAGE, MADV_POPULATE_WRITE))
			die("madvise");
	}
}

static int page_file(const char *dir, long i, int kept)
{
	char path[4096];
	int fd;

	snprintf(path, sizeof(path), "%s/limitmap_%ld", dir, i);
	fd = open(path, O_RDWR | O_CREAT, 0600);
	if (fd < 0 || flock(fd, LOCK_SH | LOCK_NB) || (!kept && ftruncate(fd, PAGE)))
		die(path);
	return fd;
}

static void map(long i, long n, int fd)
{
	int flags = fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB : MAP_SHARED;

	if (mmap(base + i * PAGE, n * PAGE, PROT_READ | PROT_WRITE, flags | MAP_FIXED_NOREPLACE,
		 fd, 0) == MAP_FAILED)
		die("mmap");
}

int main(int argc, char **argv)
{
	const char *kind = argc > 1 ? argv[1] : "", *dir = argc > 4 ? argv[4] : ".";
	int threads = argc > 3 ? atoi(argv[3]) : 1, kept = !strcmp(kind, "kept");
	struct rlimit files;
	double wall, cpu;
	pthread_t helper[64];

	pages = argc > 2 ? atol(argv[2]) : 0;
	if (pages < 1 || threads > 64) {
		fprintf(stderr, "limit KIND PAGES THREADS [DIRECTORY]\n");
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
	base = mmap(NULL, pages * PAGE + PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	munmap(base, pages * PAGE + PAGE); /* a mapping into a hole is the cheaper one */
	base = (char *)(((unsigned long)base + PAGE - 1) & -PAGE);
	if (!strcmp(kind, "files") || kept)
		for (long i = 0; i < pages; i++)
			map(i, 1, page_file(dir, i, kept));
	else if (!strcmp(kind, "memfds"))
		for (long i = 0; i < pages; i++)
			map(i, 1, memfd_create("limit", MFD_2M));
	else if (!strcmp(kind, "file"))
		map(0, pages, page_file(dir, 0, 1));
	else
		map(0, pages, -1);
	if (threads > 1)
		pthread_barrier_wait(&go);
	populate(NULL);
	for (int i = 1; i < threads; i++)
		pthread_join(helper[i], NULL);
	printf("{\"wall\": %.9f, \"cpu\": %.9f}\n", now(CLOCK_MONOTONIC) - wall,
	       now(CLOCK_PROCESS_CPUTIME_ID) - cpu);
	return 0;
}
