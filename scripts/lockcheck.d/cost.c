// SPDX-License-Identifier: GPL-2.0
// cost WORKLOAD FILE N: an operation N times; prints the nanoseconds that it took
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096L

int main(int argc, char **argv)
{
	static char buf[PAGE];
	struct timespec a, b;
	char *map;
	long n;
	int fd;

	if (argc != 4)
		return 1;
	n = atol(argv[3]);
	fd = open(argv[2], O_RDWR | O_CREAT | O_TRUNC, 0600);
	if (fd < 0 || pwrite(fd, buf, PAGE, 0) != PAGE)
		return 1;
	clock_gettime(CLOCK_MONOTONIC, &a);
	if (!strcmp(argv[1], "getppid")) {
		for (long i = 0; i < n; i++)
			syscall(SYS_getppid);
	} else if (!strcmp(argv[1], "overwrite")) {
		for (long i = 0; i < n; i++)
			if (pwrite(fd, buf, 1, 0) != 1)
				return 1;
	} else if (!strcmp(argv[1], "append")) {
		for (long i = 0; i < n; i++)
			if (pwrite(fd, buf, PAGE, i * PAGE) != PAGE)
				return 1;
	} else {	/* fault */
		if (ftruncate(fd, n * PAGE))
			return 1;
		map = mmap(NULL, n * PAGE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (map == MAP_FAILED)
			return 1;
		for (long i = 0; i < n; i++)
			map[i * PAGE] = 1;
	}
	clock_gettime(CLOCK_MONOTONIC, &b);
	printf("%ld\n", (b.tv_sec - a.tv_sec) * 1000000000 + b.tv_nsec - a.tv_nsec);
	return 0;
}
