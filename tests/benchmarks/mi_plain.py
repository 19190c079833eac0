"""The method of MI's script, written plainly: load both models whole, blend them in bfloat16.

Usage: mi_plain.py A B LAMBDA OUT
"""

import json
import shutil
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

INDEX = "model.safetensors.index.json"


def load(directory: Path) -> dict[str, torch.Tensor]:
    """Load all tensors of a checkpoint."""
    tensors = {}
    for shard in sorted(directory.glob("*.safetensors")):
        tensors |= load_file(shard)
    return tensors


def blend(first: Path, second: Path, lam: float, out: Path) -> None:
    """Write (1 - lam) * first + lam * second in the shards of the first."""
    a, b = load(first), load(second)
    out.mkdir(parents=True)
    shards: dict[str, list[str]] = {}
    for name, shard in json.loads((first / INDEX).read_text())["weight_map"].items():
        shards.setdefault(shard, []).append(name)
    for shard, names in shards.items():
        blended = {name: (1 - lam) * a[name] + lam * b[name] for name in names}
        save_file(blended, out / shard, metadata={"format": "pt"})
    for name in (INDEX, "config.json"):
        shutil.copy(first / name, out / name)


if __name__ == "__main__":
    blend(Path(sys.argv[1]), Path(sys.argv[2]), float(sys.argv[3]), Path(sys.argv[4]))
