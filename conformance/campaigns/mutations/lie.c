/* Changes one call of librte_eal: preloaded, compiled for each lie with -DCALL=name -DWHEN -DCHANGE.
 *
 * WHEN   a condition on an argument, true if CALL is to change: a[0] == 3, names(a[0], "map_")
 * CHANGE statements that may set arguments or return: a[1] = 0; return 0; return fails(ENOSPC);
 *
 * Only calls whose return address lies in librte_eal are changed, none of Python's or libc's own.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

long readlink(const char *path, char *to, unsigned long size);

#define TEXT(name) #name
#define NAME(name) TEXT(name)

/* Whether an argument, a descriptor or a path, names a file whose path contains a text. */
static inline int names(long arg, const char *part)
{
	char link[32], path[4096] = "";

	if (arg < 0 || arg > 1 << 20)
		return arg > 0 && strstr((const char *)arg, part) != NULL;
	snprintf(link, sizeof(link), "/proc/self/fd/%ld", arg);
	return readlink(link, path, sizeof(path) - 1) > 0 && strstr(path, part) != NULL;
}

static inline long fails(int error)
{
	errno = error;
	return -1;
}

static int by_eal(void *from)
{
	Dl_info of;

	return dladdr(from, &of) && strstr(of.dli_fname, "librte_eal.so");
}

long lie(long a0, long a1, long a2, long a3, long a4, long a5) __asm__(NAME(CALL));
long lie(long a0, long a1, long a2, long a3, long a4, long a5)
{
	static long (*honest)(long, long, long, long, long, long);
	long a[] = {a0, a1, a2, a3, a4, a5};

	if (!honest)
		*(void **)&honest = dlsym(RTLD_NEXT, NAME(CALL));
	if (by_eal(__builtin_return_address(0)) && (WHEN)) {
		CHANGE;
	}
	return honest(a[0], a[1], a[2], a[3], a[4], a[5]);
}
