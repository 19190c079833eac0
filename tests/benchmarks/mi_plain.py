"""The method of MI's script, written plainly: load both models whole, blend them in bfloat16.

Usage: mi_plain.py A B LAMBDA OUT
"""

import sys
from pathlib import Path

from plain import load, save


def blend(first: Path, second: Path, lam: float, out: Path) -> None:
    """Write (1 - lam) * first + lam * second in the shards of the first."""
    a, b = load(first), load(second)
    save(first, out, lambda name: {name: (1 - lam) * a[name] + lam * b[name]})


if __name__ == "__main__":
    blend(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]))
