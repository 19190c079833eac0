"""Sums over the elements of one tensor, or of two of the same shape, taken block by block.

Everything is added up in float64. A tensor is cut into blocks of BLOCK elements wherever it comes
from, so that the result depends on nothing but its values.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from math import isfinite, sqrt

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
BLOCK = 1 << 16  # elements: in float64, a few such arrays stay in the second-level cache


@dataclass(frozen=True)
class PairSums:
    """Sums over the elements of two tensors A and B; those of two blocks add up with `+`.

    Attributes:
        elements: how many there are.
        unchanged: how many have the same bits in both, widened to float32.
        abs_a, abs_b, abs_delta: sums of |A|, |B|, |A - B|.
        square_a, square_b, square_delta: squared Frobenius norms.
        dot: sum of A B.
    """

    elements: int = 0
    unchanged: int = 0
    abs_a: float = 0.0
    abs_b: float = 0.0
    abs_delta: float = 0.0
    square_a: float = 0.0
    square_b: float = 0.0
    square_delta: float = 0.0
    dot: float = 0.0

    @classmethod
    def of(cls, a: Float, b: Float) -> PairSums:
        """The sums of one block: float32 [n] and [n], contiguous."""
        unchanged = np.count_nonzero(a.view(np.uint32) == b.view(np.uint32))
        wide_a, wide_b = a.astype(np.float64), b.astype(np.float64)
        with np.errstate(invalid="ignore"):  # infinite - infinite; `finite` tells
            delta = wide_a - wide_b
            return cls(
                a.size,
                int(unchanged),
                _total(wide_a),
                _total(wide_b),
                _total(delta),
                _product(wide_a, wide_a),
                _product(wide_b, wide_b),
                _product(delta, delta),
                _product(wide_a, wide_b),
            )

    def __add__(self, other: PairSums) -> PairSums:
        return PairSums(
            *(getattr(self, item.name) + getattr(other, item.name) for item in fields(self))
        )

    @property
    def finite(self) -> bool:
        """Whether neither tensor has a NaN or an infinite element."""
        return isfinite(self.square_a + self.square_b)

    @property
    def sigma(self) -> float:
        """Relative gap sum|A - B| / (sum|A| + sum|B|) of Shadow-FT (arXiv 2505.12716).

        Between 0 and 1; 0 where both tensors are zero.
        """
        total = self.abs_a + self.abs_b
        return self.abs_delta / total if total else 0.0

    @property
    def cosine(self) -> float | None:
        """Cosine of the angle between A and B as vectors; None if one of them is zero."""
        length = sqrt(self.square_a) * sqrt(self.square_b)
        return max(-1.0, min(1.0, self.dot / length)) if length else None


@dataclass(frozen=True)
class Moments:
    """Moments of the finite elements of one tensor; those of two blocks combine with `+`.

    Attributes:
        elements: how many finite ones there are.
        mean: their mean.
        spread: sum of their squared distances from the mean.
        square: sum of their squares.
        largest: the largest absolute value.
        zeros: how many are zero.
        nonfinite: how many elements are NaN or infinite, and left out of all others.
    """

    elements: int = 0
    mean: float = 0.0
    spread: float = 0.0
    square: float = 0.0
    largest: float = 0.0
    zeros: int = 0
    nonfinite: int = 0

    @classmethod
    def of(cls, block: Float) -> Moments:
        """The moments of one block: float32 [n]."""
        finite = np.isfinite(block)
        wide = block[finite].astype(np.float64)
        nonfinite = block.size - wide.size
        if wide.size == 0:
            return cls(nonfinite=nonfinite)
        mean = float(wide.mean())
        distance = wide - mean
        return cls(
            wide.size,
            mean,
            _product(distance, distance),
            _product(wide, wide),
            float(np.abs(wide).max()),
            int(np.count_nonzero(wide == 0)),
            nonfinite,
        )

    def __add__(self, other: Moments) -> Moments:
        elements = self.elements + other.elements
        nonfinite = self.nonfinite + other.nonfinite
        if elements == 0:
            return Moments(nonfinite=nonfinite)
        gap = other.mean - self.mean
        return Moments(
            elements,
            self.mean + gap * other.elements / elements,
            self.spread + other.spread + gap**2 * self.elements * other.elements / elements,
            self.square + other.square,
            max(self.largest, other.largest),
            self.zeros + other.zeros,
            nonfinite,
        )

    @property
    def std(self) -> float:
        """Standard deviation (of the whole population)."""
        return sqrt(self.spread / self.elements) if self.elements else 0.0


def _total(values: NDArray[np.float64]) -> float:
    return float(np.abs(values).sum())


def _product(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    # Not np.dot: a BLAS cuts the sum by its number of threads.
    return float(np.einsum("i,i->", a, b))
