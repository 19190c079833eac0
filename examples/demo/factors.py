"""A low-rank delta: what fine-tuning did to a model, in a few megabytes.

Every matrix of the delta is cut to its leading singular directions, `left @ right`; vectors are
kept whole. How many directions a matrix gets is decided over the whole model: those that hold most
energy (squared singular value) per stored byte are kept, until the file is full.
"""

from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

Weights = dict[str, Tensor]

LEFT, RIGHT = ".left", ".right"
DTYPE = torch.float16  # 11 bits of precision; the factors are balanced, so its range suffices


def truncate(delta: Weights, max_bytes: int) -> tuple[Weights, float]:
    """The factors of a delta that fit into `max_bytes`, and the share of its energy they hold."""
    factors = {name: value.to(DTYPE) for name, value in delta.items() if value.ndim == 1}
    total = held = sum(float(delta[name].square().sum()) for name in factors)
    room = max_bytes - sum(value.nbytes for value in factors.values())

    # A delta that is zero everywhere (a frozen matrix) has no directions worth storing.
    matrices = {name: value for name, value in delta.items() if value.ndim == 2 and value.any()}
    parts = {name: torch.linalg.svd(m, full_matrices=False) for name, m in matrices.items()}
    candidates = []
    for name, (_, values, _) in parts.items():
        size = sum(matrices[name].shape) * DTYPE.itemsize
        energies = values.square().tolist()
        total += sum(energies)
        candidates += [(energy / size, energy, size, name) for energy in energies]

    ranks = dict.fromkeys(parts, 0)
    for _, energy, size, name in sorted(candidates, reverse=True):
        if size > room:
            break
        ranks[name] += 1
        room -= size
        held += energy
    for name, rank in ranks.items():
        left, values, right = parts[name]
        root = values[:rank].sqrt()
        factors[name + LEFT] = (left[:, :rank] * root).to(DTYPE).contiguous()
        factors[name + RIGHT] = (root[:, None] * right[:rank]).to(DTYPE).contiguous()
    return factors, held / total


def restore(base: Weights, factors: Weights) -> Weights:
    """The weights `base` plus the delta, computed in float32 and rounded to base's dtype."""
    weights = {}
    for name, value in base.items():
        if name in factors:
            delta = factors[name].float()
        elif name + LEFT in factors:
            delta = factors[name + LEFT].float() @ factors[name + RIGHT].float()
        else:
            weights[name] = value
            continue
        weights[name] = (value.float() + delta).to(value.dtype)
    return weights


def load(path: Path) -> tuple[Weights, dict[str, str]]:
    """The tensors and the metadata of a safetensors file."""
    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
