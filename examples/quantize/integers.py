"""Integer grids to hold trit planes against: round to nearest, and with error feedback."""

import torch
from torch import Tensor

GROUP = 128


def grid(weights: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Step and zero point [rows, 1] of an asymmetric grid over each row's range, in float16."""
    low, high = (
        weights.amin(1, keepdim=True).clamp(max=0),
        weights.amax(1, keepdim=True).clamp(min=0),
    )
    step = ((high - low) / (2**bits - 1)).half().float().clamp(min=1e-8)
    return step, torch.round(-low / step)


def snap(weights: Tensor, step: Tensor, zero: Tensor, bits: int) -> Tensor:
    """The nearest points of a grid."""
    return step * (torch.clamp(torch.round(weights / step) + zero, 0, 2**bits - 1) - zero)


def round_to_nearest(weights: Tensor, bits: int) -> Tensor:
    """Each group of each row on its own grid."""
    parts = weights.split(GROUP, dim=1)
    return torch.cat([snap(part, *grid(part, bits), bits) for part in parts], dim=1)


def with_feedback(weights: Tensor, hessian: Tensor, bits: int, damping: float = 0.01) -> Tensor:
    """GPTQ with groups fixed before and activation order, as ptqtp does it with trit planes."""
    columns = weights.shape[1]
    raised = hessian.double() + damping * hessian.diagonal().mean() * torch.eye(columns)
    order = raised.diagonal().argsort(descending=True, stable=True)
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(raised[order][:, order]))
    factor = torch.linalg.cholesky(inverse, upper=True).float()
    grids = [grid(part, bits) for part in weights.split(GROUP, dim=1)]
    left, result = weights[:, order].clone(), torch.empty_like(weights)
    for j in range(columns):
        column = int(order[j])
        found = snap(left[:, j : j + 1], *grids[column // GROUP], bits)
        result[:, column] = found[:, 0]
        left[:, j:] -= (left[:, j : j + 1] - found) / factor[j, j] * factor[j, j:]
    return result
