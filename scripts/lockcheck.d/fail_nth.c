// SPDX-License-Identifier: GPL-2.0
// fail_nth FILE: fault in pages of FILE, with the Nth allocation failing, for N = 1, 2, ...
#define _GNU_SOURCE
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdio.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define SIZE (1 << 20)
#define BLOCK (128 << 10)

static sigjmp_buf env;

static void on_sigbus(int sig)
{
	siglongjmp(env, sig);
}

static void fault(const char *path, int n)
{
	char text[16];
	int fd = open(path, O_RDONLY), nth, len;
	volatile char *map, byte;

	signal(SIGBUS, on_sigbus);
	posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
	posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM);
	map = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, fd, 0);
	if (map == MAP_FAILED)
		_exit(1);
	madvise((void *)map, SIZE, MADV_RANDOM);
	nth = open("/proc/self/fail-nth", O_WRONLY);
	len = sprintf(text, "%d", n);
	if (write(nth, text, len) != len)
		_exit(1);
	if (!sigsetjmp(env, 1))
		byte = map[n * BLOCK % SIZE + 20000];
	(void)byte;
	_exit(0);
}

int main(int argc, char **argv)
{
	if (argc != 2)
		return 1;
	for (int n = 1; n < 40; n++) {
		pid_t pid = fork();
		int i;

		if (!pid)
			fault(argv[1], n);
		for (i = 0; i < 30 && waitpid(pid, NULL, WNOHANG) != pid; i++)
			usleep(100000);
		if (i == 30) {
			printf("hangs when allocation %d fails\n", n);
			break;
		}
	}
	return 0;
}
