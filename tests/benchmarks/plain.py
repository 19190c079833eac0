"""What the plain scripts share: load a checkpoint whole, and write one in the shards of another."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

INDEX = "model.safetensors.index.json"


def load(directory: Path) -> dict[str, torch.Tensor]:
    """Load all tensors of a checkpoint."""
    tensors = {}
    for shard in sorted(directory.glob("*.safetensors")):
        tensors |= load_file(shard)
    return tensors


def save(like: Path, out: Path, made: Callable[[str], Mapping[str, torch.Tensor]]) -> None:
    """Write what is made of each tensor, in the shards of a checkpoint."""
    out.mkdir(parents=True)
    weight_map = {}
    for shard in sorted(like.glob("*.safetensors")):
        with safe_open(shard, "pt") as file:
            names = list(file.keys())
        tensors = {key: tensor for name in names for key, tensor in made(name).items()}
        save_file(tensors, out / shard.name, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, shard.name)
    if (like / INDEX).exists():
        (out / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    shutil.copy(like / "config.json", out / "config.json")
