// SPDX-License-Identifier: GPL-2.0
// readahead FILE: readahead(2) of its first 256 KiB
#define _GNU_SOURCE
#include <fcntl.h>

int main(int argc, char **argv)
{
	return argc != 2 || readahead(open(argv[1], O_RDONLY), 0, 256 << 10);
}
