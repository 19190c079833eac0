"""Ground truth of the trit fit, in numpy: the same operations in the same order as the C++."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from weightsmith.kernels.trit_fit.levels import Doubles, Floats, levels_of, nearest
from weightsmith.kernels.trit_fit.search import STARTS, fit

__all__ = ["STARTS", "algorithm1_step", "assign", "expand", "feedback", "fit", "pack", "unpack"]

Trits = NDArray[np.int8]

# The order in which Algorithm 1 tries the nine pairs.
PAIRS = [(0, 0), (-1, -1), (-1, 0), (-1, 1), (0, -1), (0, 1), (1, -1), (1, 0), (1, 1)]


def assign(trits: Trits, weights: Floats, scales: Floats, group: int) -> tuple[float, float, int]:
    """Trits [rows, planes, columns] of the level next to each weight.

    Returns:
        The squared error, the weights' own square, and how many trits are zero.
    """
    error = norm = 0.0
    for g in range(scales.shape[1]):
        levels = levels_of(np.ascontiguousarray(scales[:, g].T))
        for column in range(g * group, min((g + 1) * group, weights.shape[1])):
            value, trit = nearest(levels, weights[:, column])
            trits[:, :, column] = trit.T
            off = (weights[:, column] - value).astype(np.float64)
            error += float(off @ off)
            norm += float(np.sum(weights[:, column].astype(np.float64) ** 2))
    return error, norm, int((trits == 0).sum())


def _ridge_solve(a11: float, a22: float, a12: float, b1: float, b2: float) -> tuple[float, float]:
    """Eq. 6, the ridge raised tenfold while the condition number is above 1e6 (version 3)."""
    ridge = 1e-8
    while True:
        d1, d2 = a11 + ridge, a22 + ridge
        determinant = d1 * d2 - a12 * a12
        square = d1 * d1 + d2 * d2 + 2.0 * a12 * a12
        if (determinant and square / abs(determinant) <= 1e6) or ridge >= 1.0:
            return (d2 * b1 - a12 * b2) / determinant, (d1 * b2 - a12 * b1) / determinant
        ridge *= 10.0


def algorithm1_step(scales: Doubles, trits: Trits, weights: Floats, group: int) -> float:
    """One iteration of Algorithm 1 of arXiv 2509.16989, in place: scales [.., 2], then trits.

    Returns:
        The largest Euclidean distance that the scales of a group moved.
    """
    farthest = 0.0
    for g in range(scales.shape[1]):
        columns = slice(g * group, (g + 1) * group)
        w = weights[:, columns].astype(np.float64)
        t1, t2 = (trits[:, k, columns].astype(np.float64) for k in range(2))
        sums = ((x * y).sum(axis=1) for x, y in ((t1, t1), (t2, t2), (t1, t2), (t1, w), (t2, w)))
        fitted = np.array([_ridge_solve(*row) for row in zip(*sums, strict=True)])
        farthest = max(farthest, float(np.linalg.norm(fitted - scales[:, g], axis=1).max()))
        scales[:, g] = fitted
        off = np.stack([w - (c1 * fitted[:, :1] + c2 * fitted[:, 1:]) for c1, c2 in PAIRS])
        trits[:, :, columns] = np.moveaxis(np.array(PAIRS)[(off * off).argmin(axis=0)], 2, 1)
    return farthest


def feedback(
    trits: Trits,
    error: Floats,
    weights: Floats,
    factor: Floats,
    scales: Floats,
    group_of: NDArray[np.int32],
) -> None:
    """Quantise columns one by one and move what is lost onto those still to come (GPTQ's order).

    Args:
        trits: out: [rows, planes, columns].
        error: out: [rows, columns], (weight - level) / diagonal of the factor.
        weights: [rows, columns]; afterwards the levels.
        factor: [columns, columns], the upper Cholesky factor of the inverse Hessian.
        scales: [rows, groups, planes].
        group_of: [columns], the group of each column.
    """
    levels = [levels_of(np.ascontiguousarray(scales[:, g].T)) for g in range(scales.shape[1])]
    for j in range(weights.shape[1]):
        value, trit = nearest(levels[group_of[j]], weights[:, j])
        lost = (weights[:, j] - value) / factor[j, j]
        weights[:, j + 1 :] -= lost[:, None] * factor[j, j + 1 :]
        error[:, j], weights[:, j], trits[:, :, j] = lost, value, trit.T


_POWERS = np.array([1, 3, 9, 27, 81], np.int32)


def pack(packed: NDArray[np.uint8], trits: Trits) -> None:
    """Bytes [rows, planes, ceil(columns / 5)] of trits [rows, planes, columns]."""
    digits = np.ones((*packed.shape, 5), np.int32).reshape(*packed.shape[:2], -1)
    digits[:, :, : trits.shape[2]] += trits
    packed[:] = digits.reshape(*packed.shape, 5) @ _POWERS


def unpack(trits: Trits, packed: NDArray[np.uint8]) -> int:
    """The reverse; returns how many bytes are no five trits."""
    digits = packed[..., None].astype(np.int32) // _POWERS % 3 - 1
    trits[:] = digits.reshape(*packed.shape[:2], -1)[:, :, : trits.shape[2]]
    return int((packed > 242).sum())


def expand(out: Floats, trits: Trits, scales: Floats, group: int) -> None:
    """Weights [rows, columns]: the sum over planes, in order, of scales times trits."""
    for g in range(scales.shape[1]):
        columns = slice(g * group, (g + 1) * group)
        total = scales[:, g, :1] * trits[:, 0, columns]
        for k in range(1, scales.shape[2]):
            total = total + scales[:, g, k : k + 1] * trits[:, k, columns]
        out[:, columns] = total
