"""Write base and instruct in the shapes of SmolLM2-135M, for timber: a full SVD of each takes seconds.

The change of each matrix has singular values that fall like those of a fine-tune's
(decomposition.py, `decaying`); what an SVD costs depends on shapes, not on the weights.

Usage: small_pair.py BASE INSTRUCT LAYERS
"""

import sys
from pathlib import Path

import torch
from decomposition import decaying
from safetensors.torch import save_file
from synthetic import Sizes, specs

SMOLLM2 = Sizes(576, 1536, 192, 49152, tied=True)  # with 30 layers


def write(base: Path, instruct: Path, layers: int) -> None:
    """Write both, in one file each."""
    generator = torch.Generator().manual_seed(0)
    first, second = {}, {}
    for spec in specs(layers, SMOLLM2):
        weights = torch.randn(spec.shape, generator=generator) * 0.02
        first[spec.name] = weights.bfloat16()
        change = decaying(*spec.shape, generator) if len(spec.shape) == 2 else 1e-3
        second[spec.name] = (first[spec.name] + change).bfloat16()
    for directory, tensors in ((base, first), (instruct, second)):
        directory.mkdir(parents=True)
        save_file(tensors, directory / "model.safetensors", {"format": "pt"})
        (directory / "config.json").write_text('{"model_type": "llama"}\n')


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
