"""Round to nearest, 4 bits, groups of 128, with compressed-tensors: its scales, integers, packing.

Usage: int4_plain.py MODEL OUT
"""

import sys
from pathlib import Path

import torch
from compressed_tensors.compressors.pack_quantized import PackedQuantizationCompressor
from compressed_tensors.quantization import preset_name_to_scheme
from compressed_tensors.quantization.utils import compute_dynamic_scales_and_zp
from plain import load, save

SCHEME = preset_name_to_scheme("W4A16", ["Linear"])  # symmetric, groups of 128


def packed(name: str, weights: torch.Tensor) -> dict[str, torch.Tensor]:
    """The tensors that stand for a linear layer's weights [out, in]."""
    # Its minima and maxima by group, in the dtype of the weights; of activations elsewhere.
    scale, _zero = compute_dynamic_scales_and_zp(weights, SCHEME.weights, torch.nn.Module())
    state = {"weight": weights, "weight_scale": scale}
    parts = PackedQuantizationCompressor.compress(state, SCHEME)
    stem = name.removesuffix("weight")
    return {stem + part: tensor for part, tensor in parts.items()}


def quantise(source: Path, out: Path) -> None:
    """Write the checkpoint with its linear layers packed; embeddings, head and norms are copied."""
    weights = load(source)
    save(
        source,
        out,
        lambda name: packed(name, weights[name]) if "_proj." in name else {name: weights[name]},
    )


if __name__ == "__main__":
    quantise(*map(Path, sys.argv[1:3]))
