"""The ground truth of sliced Gram products, in numpy; README.md has the arithmetic."""

import numpy as np
from numpy.typing import NDArray

Double = NDArray[np.float64]

# Elements of a vector that share a scale and are summed in integers.
DEPTH = 1024
_SLICES = 4
_BITS = 30


def add(
    gram: Double,
    block: NDArray[np.float32],
    by_rows: bool,
    threads: int = 1,  # noqa: ARG001
    /,
) -> float:
    """Add the inner products of rows or columns to the upper triangle of gram [vectors, vectors].

    Args:
        gram: what stands below the diagonal afterwards is undefined.
        block: [vectors, length] if `by_rows`, else [length, vectors].
        by_rows: whether the vectors are rows.
        threads: how many the native kernel uses; no bit depends on it.

    Returns:
        The greatest share of a piece's squared norm that the slices cut off; NaN where an element
        is not finite.
    """
    vectors = block if by_rows else block.T
    if gram.shape != (len(vectors), len(vectors)):
        raise ValueError("shapes do not fit a Gram product")
    worst = 0.0
    for first in range(0, vectors.shape[1], DEPTH):
        piece = vectors[:, first : first + DEPTH].astype(np.float64)
        if not np.isfinite(piece).all():
            return float("nan")
        _, exponents = np.frexp(abs(piece).max(axis=1, initial=0.0))
        exponents = np.maximum(exponents, -126)[:, None]  # those of normal float32 numbers
        scaled = np.ldexp(piece, _BITS - exponents)
        whole = np.rint(scaled)
        unit = np.ldexp(1.0, exponents - _BITS)
        cut, total = (float(np.square(x * unit).sum()) for x in (scaled - whole, scaled))
        worst = max(worst, cut / total if cut else 0.0)
        gram += _product(_digits(whole)) * unit * unit.T
    return worst


def _digits(whole: Double) -> list[Double]:
    """Balanced digits of base 256, most significant first: whole = sum of d[i] 256^(3 - i)."""
    found: list[Double] = []
    for _ in range(_SLICES):
        digit = (whole + 128) % 256 - 128
        whole = (whole - digit) / 256
        found.insert(0, digit)
    return found


def _product(digits: list[Double]) -> Double:
    """Sums of the same weight are exact; then from the least weight to the largest, in float64."""
    total = np.zeros((len(digits[0]), len(digits[0])))
    for level in range(2 * _SLICES - 2, -1, -1):
        pairs = [
            digits[i] @ digits[level - i].T for i in range(_SLICES) if 0 <= level - i < _SLICES
        ]
        total += sum(pairs) * 256.0 ** (2 * _SLICES - 2 - level)
    return total
