"""The ground truth of the kernels, in numpy; README.md has the formulas."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]
_BINS = 1 << 16


def _magnitude(vector: Array) -> NDArray[np.uint32]:
    return vector.view(np.uint32) & np.uint32(0x7FFF_FFFF)


def count(bins: NDArray[np.int64], vector: Array, upper: int) -> None:
    """Add to the 65536 bins how often each half of |x| comes.

    Args:
        bins: of the upper 16 bits; or of the lower 16 of those whose upper bits are `upper`.
        vector: any number of elements.
        upper: a bin of the upper bits, or -1.
    """
    bits = _magnitude(vector)
    if upper < 0:
        bins += np.bincount(bits >> np.uint32(16), minlength=_BINS)
    else:
        inside = bits[(bits >> np.uint32(16)) == np.uint32(upper)]
        bins += np.bincount(inside & np.uint32(0xFFFF), minlength=_BINS)


def trim(vector: Array, threshold: int, equal: int) -> int:
    """Set to 0, in place, what is below the threshold or comes after `equal` that equal it.

    Args:
        vector: any number of elements.
        threshold: the float32 bits of a magnitude, which order as magnitudes do.
        equal: how many that equal it are kept at most.

    Returns:
        How many that equal it were kept.
    """
    bits = _magnitude(vector)
    ties = np.flatnonzero(bits == np.uint32(threshold))
    vector[bits < np.uint32(threshold)] = 0
    vector[ties[equal:]] = 0
    return min(equal, len(ties))


def combine(out: Array, vectors: Array, weights: Array, elect: bool, normalize: bool) -> int:
    """Write the weighted sum of the vectors, or that of those whose sign is the sum's.

    Args:
        out: [n].
        vectors: [count, n].
        weights: [count].
        elect: whether elements whose sign is not that of the sum are left out; 0 is positive.
        normalize: whether what is elected is divided by the sum of its weights, unless that is 0.

    Returns:
        How many sums are NaN or infinite.
    """
    with np.errstate(all="ignore"):
        weighted = [weight * vector for weight, vector in zip(weights, vectors, strict=True)]
        total = weighted[0].copy()
        for vector in weighted[1:]:
            total += vector
        out[:] = total
        if elect:
            merged, divisor = np.zeros_like(total), np.zeros_like(total)
            for vector, weight in zip(weighted, weights, strict=True):
                agrees = np.where(total >= 0, vector > 0, vector < 0)
                merged += np.where(agrees, vector, np.float32(0))
                divisor += np.where(agrees, weight, np.float32(0))
            out[:] = (
                merged / np.where(divisor == 0, np.float32(1), divisor) if normalize else merged
            )
    return int(np.count_nonzero(~np.isfinite(total)))
