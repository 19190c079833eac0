"""The ground truth of the low-rank product, in numpy; README.md has the formula."""

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]


def product(out: Float, left: Float, right: Float, scale: float, /) -> None:
    """out [rows, columns] = scale * (left [rows, rank] right [rank, columns])."""
    if left.shape[1] != right.shape[0] or out.shape != (left.shape[0], right.shape[1]):
        raise ValueError("shapes do not fit a product")
    out[:] = 0
    with np.errstate(all="ignore"):
        for column, row in zip(left.T, right, strict=True):
            out += column[:, None] * row
        out *= np.float32(scale)
