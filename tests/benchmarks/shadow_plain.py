"""Shadow-FT's graft, written plainly: load three models whole, add the difference in bfloat16.

The authors' repository has no script for it that could be read; this is the paper's formula.

Usage: shadow_plain.py BASE INSTRUCT TUNED OUT
"""

import sys
from pathlib import Path

from plain import load, save


def graft(base: Path, instruct: Path, tuned: Path, out: Path) -> None:
    """Write instruct + (tuned - base) in the shards of instruct."""
    b, i, t = load(base), load(instruct), load(tuned)
    save(instruct, out, lambda name: {name: i[name] + (t[name] - b[name])})


if __name__ == "__main__":
    graft(*map(Path, sys.argv[1:5]))
