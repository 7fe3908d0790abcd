# SPDX-License-Identifier: GPL-2.0
# memory.py SECONDS: anonymous memory that is merged, swapped out, and written again
import mmap, random, sys, time

SIZE, PAGE = 8 << 20, 4096
MADV_MERGEABLE, MADV_PAGEOUT = 12, 21

maps = [mmap.mmap(-1, SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) for _ in range(3)]
for m in maps:
    m.madvise(MADV_MERGEABLE)
    for i in range(0, SIZE, PAGE):
        m[i:i + 8] = b"%08d" % (i % (PAGE * 16))
end = time.time() + float(sys.argv[1])
while time.time() < end:
    m = random.choice(maps)
    for _ in range(200):
        i = random.randrange(SIZE // PAGE) * PAGE
        m[i:i + 8] = b"%08d" % (i % (PAGE * 16))
    m.madvise(MADV_PAGEOUT)
