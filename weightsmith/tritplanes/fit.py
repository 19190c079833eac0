"""Fit rows of weights by trit planes, without data: the paper's algorithm, and a better search."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from weightsmith.kernels import trit_fit
from weightsmith.tritplanes.encoding import TritEncoding
from weightsmith.tritplanes.rows import Planes

# Algorithm 1 of arXiv 2509.16989: the most iterations, and the movement of scales that ends it.
T_MAX = 50
EPSILON = 1e-4


@dataclass(frozen=True)
class Fit:
    """What a fit gives.

    Attributes:
        planes: trits and scales.
        error, norm: sums of squares of weights minus their approximation, and of weights.
        iterations: summed over groups.
    """

    planes: Planes
    error: float
    norm: float
    iterations: int


def search(
    weights: NDArray[np.float32],
    encoding: TritEncoding,
    importance: NDArray[np.float32] | None = None,
    starts: int | None = None,
) -> Fit:
    """Fit every group from several starts; see kernels/trit_fit/README.md.

    Args:
        weights: finite, [rows, columns].
        encoding: planes, group and ratios.
        importance: weight of each column's squared error, [columns]; None for all the same.
        starts: how many starts are tried; None for all there are.

    Raises:
        OverflowError: scales are too large for float16.
    """
    scales, choice, iterations = fit_scales(weights, encoding, importance, starts)
    trits = np.empty((len(weights), encoding.planes, encoding.columns), np.int8)
    error, norm, _ = trit_fit.assign(trits, weights, scales, encoding.group)
    return Fit(Planes(trits, scales, choice), error, norm, iterations)


def fit_scales(
    weights: NDArray[np.float32],
    encoding: TritEncoding,
    importance: NDArray[np.float32] | None = None,
    starts: int | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.uint8], int]:
    """Scales and ratios of `search`, and its iterations; weights may be some columns of the rows.

    Raises:
        OverflowError: scales are too large for float16.
    """
    rows, columns = weights.shape
    groups = -(-columns // encoding.group)
    scales = np.empty((rows, groups, encoding.planes), np.float32)
    choice = np.empty((rows, groups), np.uint8)
    iterations, overflows = trit_fit.fit(
        scales,
        choice,
        weights,
        np.ones(columns, np.float32) if importance is None else importance,
        encoding.group,
        np.array(encoding.ratios, np.float32).reshape(-1, encoding.planes),
        trit_fit.MOST_STARTS[encoding.planes] if starts is None else starts,
    )
    if overflows:
        raise OverflowError
    return scales, choice, iterations


def algorithm1(weights: NDArray[np.float32], encoding: TritEncoding) -> Fit:
    """Algorithm 1 of arXiv 2509.16989, two planes, on all rows of a tensor at once.

    As written there: both planes start as sign(W), scales at one; the ridge is raised where the
    normal equations are singular; every weight takes the nearest of nine values; the end is when no
    group's scales move by 1e-4, or 50 iterations. The order in which the nine are tried decides
    ties, and the paper gives none: ours has zero first, then both trits from -1 to 1 in turn.
    Scales are rounded to float16 at the end, trits stay as the algorithm left them.

    Raises:
        OverflowError: scales are too large for float16.
    """
    signs = np.where(weights < 0, np.int8(-1), np.int8(1))
    trits = np.ascontiguousarray(np.repeat(signs[:, None], 2, axis=1))
    scales = np.ones((len(weights), encoding.groups, 2))
    for t in range(1, T_MAX + 1):  # noqa: B007 - counted
        if trit_fit.algorithm1_step(scales, trits, weights, encoding.group) < EPSILON:
            break
    with np.errstate(over="ignore"):
        rounded = scales.astype(np.float16).astype(np.float32)
    if not np.isfinite(rounded).all():
        raise OverflowError
    # The file has no negative scales: the signs go into the trits.
    negative = np.repeat(rounded < 0, encoding.group, axis=1)[:, : encoding.columns]
    trits[negative.transpose(0, 2, 1)] *= -1
    planes = Planes(trits, np.abs(rounded), np.zeros(rounded.shape[:2], np.uint8))
    off = np.empty_like(weights)
    trit_fit.expand(off, trits, planes.scales, encoding.group)
    off -= weights
    norm = float(np.vdot(weights, weights))
    return Fit(planes, float(np.vdot(off, off)), norm, t * scales.shape[0] * scales.shape[1])
