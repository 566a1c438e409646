/* The smallest target in C:
 *
 *     cc -o smallest smallest.c -L/opt/vendor/lib -lrte_eal
 *
 * A request's strings, in order, are all that these verbs need:
 * {"verb": "init", "args": ["-m", "64"]} -> verb init args -m 64
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>
#include <unistd.h>

int rte_eal_init(int argc, char **argv);
int rte_eal_cleanup(void);
int rte_eal_iova_mode(void);
const char *rte_eal_get_runtime_dir(void);
const char *rte_version(void);
extern __thread int per_lcore__rte_errno;

#define MOST 256

/* Cuts the strings out of a line, in place; answers how many. */
static int strings(char *line, char **found)
{
	int n = 0;

	for (char *p = line; (p = strchr(p, '"')) && n < MOST; p++) {
		char *to = found[n++] = ++p;

		while (*p && *p != '"') {
			p += *p == '\\' && p[1];
			*to++ = *p++;
		}
		if (!*p)
			break;
		*to = 0;
	}
	return n;
}

int main(void)
{
	FILE *out = fdopen(dup(1), "w");
	static char line[65536], keep[65536], *argv[MOST];
	char *words[MOST];
	int up = 0;

	dup2(2, 1); /* EAL prints its usage on stdout */
	setlinebuf(out);
	fprintf(out, "{\"hello\": {\"target\": \"smallest\", \"release\": \"%s\", \"pid\": %d, "
		"\"can\": [\"init\", \"cleanup\"]}}\n", rte_version() + strlen("DPDK "), getpid());
	while (fgets(line, sizeof(line), stdin)) {
		int n = strings(line, words), argc = 0;
		const char *verb = n > 1 ? words[1] : "";

		if (!strcmp(verb, "init")) {
			memcpy(keep, line, sizeof(line)); /* EAL keeps pointers into it */
			argv[argc++] = "smallest";
			argv[argc++] = "--no-pci";
			for (int i = 3; i < n; i++)
				argv[argc++] = keep + (words[i] - line);
			if (rte_eal_init(argc, argv) < 0) {
				fprintf(out, "{\"error\": {\"errno\": %d, \"stage\": \"init\", "
					"\"text\": \"rte_eal_init\"}}\n", per_lcore__rte_errno);
				continue;
			}
			up = 1;
			fprintf(out, "{\"ok\": {\"ret\": 0, \"iova_mode\": \"%s\", \"runtime_dir\": \"%s\"}}\n",
				rte_eal_iova_mode() == 1 ? "PA" : "VA", rte_eal_get_runtime_dir());
		} else if (!strcmp(verb, "cleanup")) {
			up = 0;
			fprintf(out, "{\"ok\": {\"ret\": %d, \"errno\": 0}}\n", rte_eal_cleanup());
		} else {
			fprintf(out, "{\"error\": {\"errno\": 38, \"stage\": \"verb\", "
				"\"text\": \"no such verb\"}}\n");
		}
	}
	if (up)
		rte_eal_cleanup();
	return 0;
}
