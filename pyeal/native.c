/* What pyeal needs machine code for: system calls in batches, atomic exchange, rising numbers.
 *
 * ci/native compiles this file for each architecture and writes the object files to
 * pyeal/native_code.py; pyeal/libc.py maps one of them, read-only, and calls the functions by their
 * offsets. The code is therefore freestanding and position independent: it calls nothing, has no
 * data and needs no relocation.
 */

#if defined(__x86_64__)
static inline long
syscall6(long nr, const long *arg)
{
	register long r10 __asm__("r10") = arg[3];
	register long r8 __asm__("r8") = arg[4];
	register long r9 __asm__("r9") = arg[5];
	long result;

	__asm__ volatile("syscall"
		: "=a"(result)
		: "a"(nr), "D"(arg[0]), "S"(arg[1]), "d"(arg[2]), "r"(r10), "r"(r8), "r"(r9)
		: "rcx", "r11", "memory");
	return result;
}
#elif defined(__aarch64__)
static inline long
syscall6(long nr, const long *arg)
{
	register long x8 __asm__("x8") = nr;
	register long x0 __asm__("x0") = arg[0];
	register long x1 __asm__("x1") = arg[1];
	register long x2 __asm__("x2") = arg[2];
	register long x3 __asm__("x3") = arg[3];
	register long x4 __asm__("x4") = arg[4];
	register long x5 __asm__("x5") = arg[5];

	__asm__ volatile("svc #0"
		: "+r"(x0)
		: "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
		: "memory");
	return x0;
}
#else
#error "no syscall6 for this architecture: add it here and in ci/native"
#endif

/* Makes system call nr once for each of n rows of six arguments; the result replaces the row's
 * first argument. Stops after a result above `last`, compared unsigned: an error is one of the 4095
 * highest numbers. Returns the end of the rows whose call was made.
 */
long *
syscall_batch(long *row, long n, long nr, unsigned long last)
{
	long *end = row + 6 * n;

	while (row < end) {
		long result = syscall6(nr, row);

		*row = result;
		row += 6;
		if ((unsigned long)result > last)
			break;
	}
	return row;
}

/* Atomically replaces *word by new_value if it is old_value. Returns whether it did. */
int
compare_exchange(int *word, int old_value, int new_value)
{
	return __atomic_compare_exchange_n(word, &old_value, new_value, 0, __ATOMIC_SEQ_CST,
		__ATOMIC_SEQ_CST);
}

/* Stores value, value + step, value + 2 * step and so on: n words, `every` bytes apart. Stores each
 * of them a second time `again` bytes behind the first place.
 */
void
store_sequence(char *at, long n, unsigned long value, unsigned long step, long every, long again)
{
	for (; n > 0; n--) {
		*(unsigned long *)at = value;
		*(unsigned long *)(at + again) = value;
		at += every;
		value += step;
	}
}

/* Returns how often a second the counter rises that rte_rdtsc reads; 0 if no register has it. */
unsigned long
counter_hz(void)
{
#if defined(__aarch64__)
	unsigned long hz;

	__asm__("mrs %0, cntfrq_el0" : "=r"(hz));
	return hz;
#else
	return 0;
#endif
}
