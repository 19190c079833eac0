"""Fit trit planes so that a layer's output changes least, not its weights.

For inputs x with second moments H = mean x x^T, a row w and its approximation v cost
(w - v) H (w - v)^T. GPTQ (arXiv 2210.17323) quantises column by column, the heaviest first,
and moves each column's error onto those still to come; here every column takes the nearest of the
levels that its group's scales span. The scales are fitted before, each column weighted by what an
error in it still costs when the columns after it have made up for it as well as they can:
1 / U_jj^2 with H^-1 = U^T U. Scales that follow the moved weights measured worse (docs/ptqtp.md).
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from weightsmith.kernels import trit_fit
from weightsmith.staging import to_device
from weightsmith.tritplanes.encoding import TritEncoding
from weightsmith.tritplanes.fit import Fit, fit_scales
from weightsmith.tritplanes.rows import Planes, expand

# Added to the diagonal of H, as a share of its mean.
DAMPING = 0.01
# Columns that are quantised before their errors are moved, by one product, to all that follow.
_BLOCK = 128


def damped(hessian: NDArray[np.float32], damping: float) -> NDArray[np.float32]:
    """H with a raised diagonal; inputs that were never seen count as if they were average."""
    raised = hessian.copy()
    diagonal = np.einsum("ii->i", raised)
    mean = float(diagonal.mean(dtype=np.float64))
    diagonal += np.float32(damping * mean if mean > 0 else 1.0)
    return raised


def inverse_factor(hessian: torch.Tensor) -> torch.Tensor:
    """The upper triangular U with H^-1 = U^T U, float32 [in, in], worked out in float64.

    Raises:
        ArithmeticError: H is not positive definite.
    """
    lower, failed = torch.linalg.cholesky_ex(hessian.double())
    if failed:
        raise ArithmeticError
    inverse = torch.cholesky_inverse(lower)
    upper, failed = torch.linalg.cholesky_ex(inverse, upper=True)
    if failed:
        raise ArithmeticError
    factor: torch.Tensor = upper.float()
    return factor


def feedback(
    weights: NDArray[np.float32],
    hessian: NDArray[np.float32],
    encoding: TritEncoding,
    starts: int | None = None,
    device: str = "cpu",
) -> Fit:
    """Fit a whole matrix with error feedback.

    Args:
        weights: finite, [out, in].
        hessian: damped, [in, in].
        encoding: planes, group and ratios.
        starts: see `fit.search`.
        device: where the factor is found and the products are taken; columns are quantised on the
            CPU.

    Returns:
        Planes of the weights; error and norm are those of the layer's output: the sums over rows of
        (w - v) H (w - v)^T and of w H w^T.

    Raises:
        ArithmeticError: H is not positive definite.
        OverflowError: scales are too large for float16.
    """
    rows, columns = weights.shape
    order = np.argsort(-np.diagonal(hessian), kind="stable")
    there = torch.device(device)
    moments = to_device(hessian, there)
    turned = torch.from_numpy(order).to(there)
    factor = inverse_factor(moments[turned][:, turned])
    importance = np.empty(columns, np.float32)
    importance[order] = factor.diagonal().cpu().numpy() ** -2
    scales, choice, iterations = fit_scales(weights, encoding, importance, starts)
    group_of = (order // encoding.group).astype(np.int32)
    left = to_device(weights, there)[:, turned]
    trits = np.empty((rows, encoding.planes, columns), np.int8)
    for start in range(0, columns, _BLOCK):
        stop = min(start + _BLOCK, columns)
        block = np.ascontiguousarray(left[:, start:stop].cpu().numpy())
        taken = np.empty((rows, encoding.planes, stop - start), np.int8)
        lost = np.empty_like(block)
        within = np.ascontiguousarray(factor[start:stop, start:stop].cpu().numpy())
        trit_fit.feedback(taken, lost, block, within, scales, group_of[start:stop].copy())
        trits[:, :, order[start:stop]] = taken
        left[:, stop:] -= to_device(lost, there) @ factor[start:stop, stop:]
    planes = Planes(trits, scales, choice)
    error = output_error(expand(encoding, planes) - weights, moments)
    return Fit(planes, error, output_error(weights, moments), iterations)


def output_error(off: NDArray[np.float32], hessian: torch.Tensor) -> float:
    """The sum over rows of d H d^T, where H is."""
    difference = to_device(off, hessian.device)
    return float((difference @ hessian * difference).sum(dtype=torch.float64))
