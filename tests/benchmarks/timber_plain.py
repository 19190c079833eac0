"""The method of Timber's script, written plainly: load both models whole, a full SVD each matrix.

Usage: timber_plain.py BASE INSTRUCT OUT
"""

import sys
from pathlib import Path

import torch
from decomposition import script
from plain import load, save


def refine(base: Path, instruct: Path, out: Path) -> None:
    """Write base + what instruct changed, cut to its effective rank, in the shards of instruct."""
    b, i = load(base), load(instruct)

    def refined(name: str) -> dict[str, torch.Tensor]:
        return {name: i[name] if i[name].ndim < 2 else script(b[name], i[name], [])[0]}

    save(instruct, out, refined)


if __name__ == "__main__":
    refine(*map(Path, sys.argv[1:4]))
