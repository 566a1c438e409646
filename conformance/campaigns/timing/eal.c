/* rte_eal_init of a librte_eal in a process of its own, with the times of its stages.
 *
 *	eal LIBRARY EAL-ARGS...
 *
 * The library is opened by a program that defines some of what it calls, so these calls come here
 * first: no rebuilt DPDK, no tracer. Prints one line of JSON after init, then reads a byte:
 * 'c' is rte_eal_cleanup and a second line, end of input is the end without.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>

static struct { const char *name; double wall, cpu; long waits; } marks[64];
static int n_marks, marking;
static void *eal;

static double now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return t.tv_sec + t.tv_nsec / 1e9;
}

static void mark(const char *name)
{
	struct rusage used;

	if (!marking || n_marks == 64)
		return;
	getrusage(RUSAGE_SELF, &used);
	marks[n_marks].name = name;
	marks[n_marks].wall = now(CLOCK_MONOTONIC);
	marks[n_marks].cpu = now(CLOCK_PROCESS_CPUTIME_ID);
	marks[n_marks++].waits = used.ru_nvcsw;
}

static void first(const char *name)
{
	for (int i = 0; i < n_marks; i++)
		if (!strcmp(marks[i].name, name))
			return;
	mark(name);
}

static void opens(const char *path)
{
	static const struct { const char *part, *name; } known[] = {
		{"/hugepage_info", "discovery"}, {"/fbarray_memzone", "lists"}, {"map_", "pages"},
		{"/hugepage_data", "data"},
	};

	for (unsigned int i = 0; marking && i < sizeof(known) / sizeof(*known); i++)
		if (strstr(path, known[i].part))
			first(known[i].name);
}

#define REAL(fn) ({ static __typeof__(fn) *p; if (!p) p = dlsym(RTLD_NEXT, #fn); p; })

int open64(const char *path, int flags, ...)
{
	va_list args;
	int mode;

	va_start(args, flags);
	mode = va_arg(args, int);
	va_end(args);
	opens(path);
	return REAL(open64)(path, flags, mode);
}

int open(const char *path, int flags, ...)
{
	va_list args;
	int mode;

	va_start(args, flags);
	mode = va_arg(args, int);
	va_end(args);
	opens(path);
	return REAL(open)(path, flags, mode);
}

DIR *opendir(const char *path)
{
	if (!strcmp(path, "/sys/kernel/mm/hugepages"))
		first("discovery");
	return REAL(opendir)(path);
}

int memfd_create(const char *name, unsigned int flags)
{
	if (!strncmp(name, "seg_", 4) || !strcmp(name, "nohuge"))
		first("pages");
	return REAL(memfd_create)(name, flags);
}

int flock(int fd, int how)
{
	if (how == LOCK_UN && n_marks > 1)
		first("heaps"); /* eal_hugedirs_unlock: the pages are there */
	return REAL(flock)(fd, how);
}

int nanosleep(const struct timespec *wanted, struct timespec *left)
{
	int rc, clock = wanted->tv_nsec == 100000000; /* get_tsc_freq; others wait for threads */

	if (clock)
		mark("clock");
	rc = REAL(nanosleep)(wanted, left);
	if (clock)
		mark("rest");
	return rc;
}

/* eal_mp_dev_hotplug_init, which every release runs after the heaps */
int rte_mp_action_register(const char *name, void *action)
{
	if (!strcmp(name, "eal_dev_mp_request"))
		mark("rest");
	return ((int (*)(const char *, void *))dlsym(eal, "rte_mp_action_register"))(name, action);
}

static void print(int rc)
{
	printf("{\"rc\": %d, \"marks\": [", rc);
	for (int i = 0; i < n_marks; i++)
		printf("%s[\"%s\", %.9f, %.9f, %ld]", i ? ", " : "", marks[i].name,
		       marks[i].wall, marks[i].cpu, marks[i].waits);
	printf("]}\n");
	fflush(stdout);
	n_marks = 0;
}

int main(int argc, char **argv)
{
	int (*init)(int, char **), (*cleanup)(void), rc;
	char byte;

	if (argc < 2 || !(eal = dlopen(argv[1], RTLD_NOW | RTLD_GLOBAL))) {
		fprintf(stderr, "%s\n", argc < 2 ? "a library wanted" : dlerror());
		return 2;
	}
	init = (int (*)(int, char **))dlsym(eal, "rte_eal_init");
	cleanup = (int (*)(void))dlsym(eal, "rte_eal_cleanup");
	if (!init || !cleanup) {
		fprintf(stderr, "%s\n", dlerror());
		return 2;
	}
	marking = 1;
	mark("begin");
	rc = init(argc - 1, argv + 1);
	mark("end");
	print(rc < 0 ? -1 : 0);
	if (rc < 0)
		return 1;
	if (read(0, &byte, 1) == 1 && byte == 'c') {
		mark("begin");
		rc = cleanup();
		mark("end");
		print(rc);
	}
	fflush(stdout);
	_exit(0);
}
