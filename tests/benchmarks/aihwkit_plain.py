"""aihwkit's PCM noise on the linear weights of a checkpoint, scaled by row and tile of 512 inputs.

That is the mapping of aihwkit's standard preset, and weightsmith's default. Everything else is
aihwkit's: pairs of devices, programming noise, and the drift exponents that it draws with it.

Usage: aihwkit_plain.py MODEL OUT
"""

import sys
from pathlib import Path

import torch
from aihwkit.inference.noise.pcm import PCMLikeNoiseModel
from plain import load, save

TILE = 512


def noisy(weights: torch.Tensor, model: PCMLikeNoiseModel) -> torch.Tensor:
    """One sample of a matrix [out, in] on devices; `in` is a multiple of TILE."""
    tiles = weights.float().unflatten(1, (-1, TILE))
    scale = tiles.abs().amax(2, keepdim=True).clamp(min=1e-30)
    # Each row of a tile now has the range that aihwkit maps onto its conductances: up to 1.
    sample, _drift = model.apply_programming_noise(tiles / scale)
    return (sample * scale).flatten(1).to(weights.dtype)


def program(source: Path, out: Path) -> None:
    """Write the checkpoint as it lies on devices; embeddings, head and norms are copied."""
    torch.manual_seed(0)
    model = PCMLikeNoiseModel(g_max=25.0)
    weights = load(source)
    save(
        source,
        out,
        lambda name: {
            name: noisy(weights[name], model) if "_proj." in name else weights[name],
        },
    )


if __name__ == "__main__":
    program(*map(Path, sys.argv[1:3]))
