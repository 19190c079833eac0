"""The few shapes that fits of device constants take, as functions of x = g / g_max."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np

if TYPE_CHECKING:
    from weightsmith.crossbar.device import Float

_LEAST_X = 1e-7  # logarithms are taken of no smaller x


class Curve(Protocol):
    """A quantity that depends on x."""

    def __call__(self, x: Float) -> Float:
        """The value at each x; float32 in, float32 out."""


def polynomial(coefficients: tuple[float, ...], x: Float) -> Float:
    """The sum of c_i x^i, by Horner's rule."""
    *rest, last = coefficients
    if not rest:
        return np.full_like(x, last)
    result = x * np.float32(last)
    for coefficient in reversed(rest[1:]):
        result += coefficient
        result *= x
    result += rest[0]
    return result


@dataclass(frozen=True)
class Logarithmic:
    """clip(slope ln x + offset, low, high)."""

    slope: float
    offset: float
    low: float
    high: float

    def __call__(self, x: Float) -> Float:
        """See Curve."""
        logarithm = np.log(np.maximum(x, _LEAST_X))
        result: Float = np.clip(self.slope * logarithm + self.offset, self.low, self.high)
        return result


@dataclass(frozen=True)
class Branched:
    """One curve below a knee, a polynomial from it on."""

    knee: float
    below: Logarithmic
    above: tuple[float, ...]

    def __call__(self, x: Float) -> Float:
        """See Curve."""
        return np.where(x < np.float32(self.knee), self.below(x), polynomial(self.above, x))


@dataclass(frozen=True)
class InversePower:
    """min(most, scale / max(x^power, 0.001))."""

    scale: float
    power: float
    most: float

    def __call__(self, x: Float) -> Float:
        """See Curve."""
        result: Float = np.minimum(self.scale / np.maximum(x**self.power, 1e-3), self.most)
        return result


@dataclass(frozen=True)
class Constant:
    """The same at every x."""

    value: float

    def __call__(self, x: Float) -> Float:
        """See Curve."""
        return np.full_like(x, self.value)
