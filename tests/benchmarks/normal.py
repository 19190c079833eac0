"""What memristor's draws are held against: torch's normal_ on so many float32 values.

Usage: normal.py VALUES. A block that fits the cache is filled again and again.
"""

import sys

import torch

BLOCK = 1 << 20

torch.set_num_threads(1)
values = torch.empty(BLOCK)
left = int(sys.argv[1])
while left > 0:
    values[: min(left, BLOCK)].normal_()
    left -= BLOCK
