/* Checks the functions of pyeal/native.c, on any architecture: ci/native run.
 *
 * Linked with the object file and nothing else, so that a cross compiler without a C library is
 * enough. The exit status is 0, or the line of the first check that failed, modulo 256.
 */

long *syscall_batch(long *row, long n, long nr, unsigned long last);
int compare_exchange(int *word, int old_value, int new_value);
void store_sequence(char *at, long n, unsigned long value, unsigned long step, long every,
	long again);
unsigned long counter_hz(void);

#if defined(__x86_64__)
enum { LSEEK = 8, MMAP = 9, PREAD = 17, EXIT = 60, FTRUNCATE = 77, MEMFD_CREATE = 319 };
#elif defined(__aarch64__)
enum { FTRUNCATE = 46, LSEEK = 62, PREAD = 67, EXIT = 93, MMAP = 222, MEMFD_CREATE = 279 };
#endif

#define STOP (-4096UL) /* after the first error */
#define GO_ON (-1UL)
#define CHECK(ok) do { if (!(ok)) leave(__LINE__ & 0xff); } while (0)

static long
call(long nr, long a, long b, long c, long d, long e, long f)
{
	long row[] = {a, b, c, d, e, f};

	syscall_batch(row, 1, nr, STOP);
	return row[0];
}

static void
leave(long status)
{
	call(EXIT, status, 0, 0, 0, 0, 0);
	__builtin_trap();
}

static void
check_batch(void)
{
	static const char name[] = "native";
	long rows[4][6], fd, at, page = 1 << 16; /* of any kernel */
	char seen[3] = "";

	fd = call(MEMFD_CREATE, (long)name, 0, 0, 0, 0, 0);
	CHECK(fd > 2);
	CHECK(call(FTRUNCATE, fd, 2 * page, 0, 0, 0, 0) == 0);
	at = call(MMAP, 0, page, 3, 1, fd, page); /* all six arguments count */
	CHECK(at > 0 && at % page % 4096 == 0);
	((char *)at)[0] = 7;
	((char *)at)[1] = 8;
	for (int i = 0; i < 3; i++) {
		long row[6] = {fd, (long)&seen[i], 1, page + i};

		for (int k = 0; k < 6; k++)
			rows[i][k] = row[k];
	}
	CHECK(syscall_batch(rows[0], 3, PREAD, STOP) == rows[3]);
	CHECK(rows[0][0] == 1 && rows[1][0] == 1 && rows[2][0] == 1 && rows[0][3] == page);
	CHECK(seen[0] == 7 && seen[1] == 8 && seen[2] == 0);

	for (int i = 0; i < 4; i++) {
		rows[i][0] = i == 1 ? -1 : fd;
		rows[i][1] = i;
		rows[i][2] = 0;
	}
	CHECK(syscall_batch(rows[0], 0, LSEEK, STOP) == rows[0] && rows[0][0] == fd);
	CHECK(syscall_batch(rows[0], 4, LSEEK, STOP) == rows[2]);
	CHECK(rows[0][0] == 0 && rows[1][0] == -9 /* EBADF */ && rows[2][0] == fd);
	rows[0][0] = fd;
	rows[1][0] = -1;
	CHECK(syscall_batch(rows[0], 4, LSEEK, GO_ON) == rows[3] + 6);
	CHECK(rows[1][0] == -9 && rows[2][0] == 2 && rows[3][0] == 3);
}

static void
check_exchange(void)
{
	int words[3] = {7, -5, 9};

	CHECK(compare_exchange(&words[1], -5, -2147483647) == 1);
	CHECK(compare_exchange(&words[1], -5, 1) == 0);
	CHECK(compare_exchange(&words[1], -2147483647, 6) == 1);
	CHECK(words[0] == 7 && words[1] == 6 && words[2] == 9);
}

static void
check_sequence(void)
{
	unsigned long words[8];

	for (int again = 0; again < 2; again++) {
		for (int i = 0; i < 8; i++)
			words[i] = 1;
		store_sequence((char *)&words[1], 0, 5, 5, 24, 8);
		CHECK(words[1] == 1);
		store_sequence((char *)&words[1], 2, 1UL << 47, 4096, 24, 8 * again);
		CHECK(words[1] == 1UL << 47 && words[4] == (1UL << 47) + 4096);
		CHECK(words[2] == (again ? words[1] : 1) && words[5] == (again ? words[4] : 1));
		CHECK(words[0] == 1 && words[3] == 1 && words[6] == 1 && words[7] == 1);
	}
	store_sequence((char *)words, 8, 4096, 0, 8, 0); /* the same number */
	CHECK(words[0] == 4096 && words[7] == 4096);
}

static void
check_counter(void)
{
#if defined(__aarch64__)
	CHECK(counter_hz() > 1000000);
#else
	CHECK(counter_hz() == 0);
#endif
}

void
_start(void)
{
#if defined(__x86_64__)
	__asm__ volatile("and $-16, %rsp");
#endif
	check_batch();
	check_exchange();
	check_sequence();
	check_counter();
	leave(0);
}
