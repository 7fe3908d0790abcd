/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Helpers for the longer tests: commands, and what the environment asks for.
 * Include loop_test.h first.
 */
#ifndef LOOP_MORE_H
#define LOOP_MORE_H

/*
 * Run a shell command with its output in LOG; its exit status (127: command not
 * found), or -1 if it was killed.
 */
static __maybe_unused __printf(1, 2)
int run(const char *format, ...)
{
	char command[1024];
	va_list args;
	int n, status;

	n = snprintf(command, sizeof(command),
		     "PATH=$PATH:/usr/sbin:/sbin; exec >" LOG " 2>&1; ");
	va_start(args, format);
	vsnprintf(command + n, sizeof(command) - n, format, args);
	va_end(args);
	status = system(command);
	return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

/* Show what the last run() printed. */
static __maybe_unused void print_log(void)
{
	char line[256];
	FILE *f;

	f = fopen(LOG, "re");
	if (!f)
		return;
	while (fgets(line, sizeof(line), f))
		fprintf(stderr, "#   %s", line);
	fclose(f);
}

/* Is the program @name in the path? */
static __maybe_unused bool have_program(const char *name)
{
	return !run("command -v %s", name);
}

static __maybe_unused
unsigned long env_number(const char *name, unsigned long value)
{
	const char *s = getenv(name);

	return s && *s ? strtoul(s, NULL, 0) : value;
}

/* Fault injection concerns all of the machine: only if asked for */
#define SKIP_NO_FAULTS(statement)					\
	SKIP(statement, "set LOOP_TEST_FAULTS=1 to inject faults")

#endif /* LOOP_MORE_H */
