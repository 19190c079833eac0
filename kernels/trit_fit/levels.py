"""The magnitudes that sums of scaled trits can take, and the nearest one to a weight, in numpy."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Doubles = NDArray[np.float64]

# Combinations of trits whose first one that is not zero is positive.
COMBINATIONS = [
    *((1, 0, 0), (0, 1, 0), (1, -1, 0), (1, 1, 0), (0, 0, 1), (0, 1, -1), (0, 1, 1)),
    *((1, 0, -1), (1, -1, -1), (1, -1, 1), (1, 0, 1), (1, 1, -1), (1, 1, 1)),
]


@dataclass
class Levels:
    """Magnitudes [M, n] that weights can take, rising; trits [M, K, n]; thresholds [M, n]."""

    value: Floats
    trit: Floats
    threshold: Floats


def levels_of(scales: Floats) -> Levels:
    """The levels of scales [K, n]."""
    planes = len(scales)
    codes = np.array(COMBINATIONS[: (3**planes - 1) // 2], np.float32)[:, :planes]
    value = codes[:, :1] * scales[0]
    for k in range(1, planes):
        value = value + codes[:, k : k + 1] * scales[k]
    sign = np.where(value < 0, np.float32(-1), np.float32(1))
    # Stable, as exchanging neighbours is: of equal magnitudes the earlier combination comes first.
    rank = np.argsort(np.abs(value), axis=0, kind="stable")
    trit = codes[:, :, None] * sign[:, None, :]
    value = np.take_along_axis(np.abs(value), rank, axis=0)
    trit = np.take_along_axis(trit, rank[:, None, :], axis=0)
    below = np.concatenate([np.zeros_like(value[:1]), value[:-1]])
    return Levels(value, trit, (below + value) * np.float32(0.5))


def nearest(levels: Levels, weights: Floats) -> tuple[Floats, Floats]:
    """Level [n] and trits [K, n] next to weights [n]."""
    magnitude = np.abs(weights)
    value, trit = np.zeros_like(weights), np.zeros_like(levels.trit[0])
    for m, threshold in enumerate(levels.threshold):
        above = magnitude > threshold
        value = np.where(above, levels.value[m], value)
        trit = np.where(above, levels.trit[m], trit)
    negative = weights < 0
    return np.where(negative, -value, value), np.where(negative, -trit, trit)
