"""What there is to say of a tensor on devices, as sums over its weights."""

from __future__ import annotations

from collections.abc import Mapping
from math import log10, sqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from weightsmith.crossbar.device import Float

_KEYS = ("weights", "copies", "square", "square_error", "shrinkage", "nonfinite")


class Tally:
    """Sums over some rows; those of all rows of a tensor are added up by whoever collects them."""

    def __init__(self) -> None:
        self.sums = dict.fromkeys(_KEYS, 0.0)

    def add(self, weights: Float, error: Float, copies: int, shrinkage: float = 0.0) -> None:
        """Take rows into the sums.

        Args:
            weights: as they were.
            error: what is lost of each: NaN or infinite where nothing sensible came back.
            copies: how often each is held.
            shrinkage: sum of sign(W) times the error, in parts of the device's range.
        """
        import numpy as np

        self.sums["weights"] += weights.size
        self.sums["copies"] += weights.size * copies
        self.sums["shrinkage"] += shrinkage
        lost = float(np.vdot(error, error))
        if not np.isfinite(lost):
            # In float64, for what is merely huge; and without what is not a number at all.
            finite = np.isfinite(error)
            self.sums["nonfinite"] += int(error.size - np.count_nonzero(finite))
            lost = float(np.square(error[finite], dtype=np.float64).sum())
        square = float(np.vdot(weights, weights))
        if not np.isfinite(square):
            square = float(np.square(weights[np.isfinite(weights)], dtype=np.float64).sum())
        self.sums["square"] += square
        self.sums["square_error"] += lost


def figures(sums: Mapping[str, float]) -> dict[str, float]:
    """What is shown of a tensor.

    Returns:
        copies: of each weight.
        norm: of the weights.
        error: norm of what was lost, relative to it.
        snr_db: the same as a signal-to-noise ratio; absent where it is not finite.
        shrinkage: by how much of the range weights shrink on average, in size. Averaging copies
            does not remove it.
        nonfinite: weights that are NaN or infinite now; absent if none.
    """
    square, lost = sums["square"], sums["square_error"]
    shown = {
        "copies": sums["copies"] / sums["weights"],
        "norm": sqrt(square),
        "error": sqrt(lost / square) if square else 0.0,
        "shrinkage": sums["shrinkage"] / sums["weights"],
    }
    if lost and square:
        shown["snr_db"] = 10 * log10(square / lost)
    if sums["nonfinite"]:
        shown["nonfinite"] = sums["nonfinite"]
    return shown
