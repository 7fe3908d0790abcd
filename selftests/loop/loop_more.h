/* SPDX-License-Identifier: GPL-2.0-only */
/*
 * Helpers for the longer tests: commands, random numbers, the environment.
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

/* splitmix64 */
static __maybe_unused __u64 rnd(__u64 *rng)
{
	__u64 z = *rng += 0x9e3779b97f4a7c15;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
	z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
	return z ^ (z >> 31);
}

/* Bind a device to @path. Non-zero if that has marked the test as skipped. */
static __maybe_unused int loop_attach_path(struct __test_metadata *_metadata,
					   struct loop *lo, const char *path,
					   int mode, __u32 flags)
{
	struct loop_args args = { .mode = mode, .flags = flags };
	struct loop_info64 info;
	int err;

	args.file = open(path, O_RDWR | O_CLOEXEC);
	ASSERT_GE(args.file, 0);
	err = loop_attach(lo, &args);
	close(args.file);
	if (err == -EINVAL && no_user_window())
		SKIP_NO_USER_WINDOW(return -1);
	ASSERT_EQ(err, 0);
	ASSERT_EQ(loop_status(lo, &info), 0);
	ASSERT_EQ(info.lo_flags & LO_FLAGS_DIRECT_IO,
		  flags & LO_FLAGS_DIRECT_IO);
	return 0;
}

/*
 * Settings of the machine, such as those of fault injection, and what they were
 * before: save_setting(), undo_later(restore_settings), and then change them.
 */
static __maybe_unused struct setting {
	char path[128], old[32];
} settings[8];
static __maybe_unused unsigned int nr_settings;

static __maybe_unused int save_setting(const char *path)
{
	struct setting *s = &settings[nr_settings];
	int err;

	if (nr_settings == ARRAY_SIZE(settings))
		return -ENOSPC;
	snprintf(s->path, sizeof(s->path), "%s", path);
	err = read_text(path, s->old, sizeof(s->old));
	if (!err)
		nr_settings++;
	return err;
}

/* A fault may be injected here, too. */
static __maybe_unused void restore_settings(const void *unused)
{
	for (unsigned int i = 0; i < nr_settings; i++)
		wait_for(!write_text(settings[i].path, settings[i].old), SOON);
}

/* Fault injection concerns all of the machine: only if asked for */
#define SKIP_NO_FAULTS(statement)					\
	SKIP(statement, "set LOOP_TEST_FAULTS=1 to inject faults")

#endif /* LOOP_MORE_H */
