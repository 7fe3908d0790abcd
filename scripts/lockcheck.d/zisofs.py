# SPDX-License-Identifier: GPL-2.0
# zisofs.py FROM TO: the file as mkzftree compresses it, where that is not packaged
import struct
import sys
import zlib

BLOCK = 32768

data = open(sys.argv[1], 'rb').read()
blocks = [zlib.compress(data[i:i + BLOCK]) for i in range(0, len(data), BLOCK)]
ends = [16 + 4 * (len(blocks) + 1)]
for block in blocks:
    ends.append(ends[-1] + len(block))
with open(sys.argv[2], 'wb') as out:
    out.write(b'\x37\xe4\x53\x96\xc9\xdb\xd6\x07' + struct.pack('<IBBBB', len(data), 4, 15, 0, 0))
    out.write(b''.join(struct.pack('<I', end) for end in ends) + b''.join(blocks))
