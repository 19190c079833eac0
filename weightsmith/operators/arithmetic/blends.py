"""Weighted sums of several tensors, straight or along a great circle, block by block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import acos, sin, sqrt
from typing import Any

import numpy as np
from numpy.typing import NDArray

from weightsmith.dtypes import DTYPES
from weightsmith.errors import WeightsmithError
from weightsmith.kernels import elementwise
from weightsmith.operators.unit import Block, Unit

# Scratch of this many float32 elements stays in the second-level cache.
PIECE = 1 << 16
# Beyond this cosine the angle says little and its sine is small: linear interpolation then.
COLLINEAR = 0.9995
_SMALLEST_NORM = 1e-8


def pieces(blocks: Sequence[Block], size: int = PIECE) -> Iterator[tuple[int, list[Block]]]:
    """Cut blocks of equally many elements into runs: (index of the first element, runs)."""
    widths = [DTYPES[block.dtype].bits // 8 for block in blocks]
    count = len(blocks[0].data) // widths[0]
    for first in range(0, count, size):
        last = min(first + size, count)
        yield (
            first,
            [
                Block(block.dtype, block.data[first * width : last * width], (last - first,))
                for block, width in zip(blocks, widths, strict=True)
            ],
        )


def as_bytes(array: NDArray[Any]) -> memoryview:
    """The bytes of a contiguous array."""
    return array.reshape(-1).view(np.uint8).data


def weighted_sum(unit: Unit, factors: Sequence[float]) -> int:
    """OUT = round(((f1 W1 + f2 W2) + f3 W3) + ...), each operation rounded to float32.

    Returns:
        How many finite sums overflow the output dtype.
    """
    overflows = 0
    scratch = np.empty(PIECE, np.float32)
    for _, (out, *weights) in pieces([unit.out, *unit.inputs]):
        if len(weights) == 1:
            overflows += out.store(weights[0].float32() * np.float32(factors[0]))
            continue
        total = Block("F32", as_bytes(scratch[: out.shape[0]]), out.shape)
        for number in range(1, len(weights)):
            target = out if number == len(weights) - 1 else total
            weight, factor = weights[number], factors[number]
            if number == 1:
                first = weights[0]
                overflows += elementwise.lerp(
                    *(target.data, target.dtype, factors[0], first.data, first.dtype),
                    *(factor, weight.data, weight.dtype),
                )
            else:
                overflows += elementwise.axpy(
                    *(target.data, target.dtype, total.data, total.dtype),
                    *(factor, weight.data, weight.dtype),
                )
    return overflows


def great_circle(unit: Unit, t: float) -> int:
    """OUT = round(p A + q B), p and q from the angle between A and B.

    Returns:
        How many finite sums overflow the output dtype.

    Raises:
        WeightsmithError: an input is not finite, so there is no angle.
    """
    a, b = unit.inputs
    square_a = square_b = product = 0.0
    for _, (x, y) in pieces(unit.inputs):
        sums = elementwise.products(x.data, x.dtype, y.data, y.dtype)
        square_a, product, square_b = square_a + sums[0], product + sums[1], square_b + sums[2]
    norms = [sqrt(square) for square in (square_a, square_b)]
    if not np.isfinite([*norms, product]).all():
        raise WeightsmithError(
            "NaN or infinite elements have no direction",
            tensor=unit.name,
            remedy=f"--exclude {unit.name} copies A's",
        )
    p, q = _coefficients([n if n > _SMALLEST_NORM else 1.0 for n in norms], product, t)
    return elementwise.lerp(unit.out.data, unit.out.dtype, p, a.data, a.dtype, q, b.data, b.dtype)


def _coefficients(norms: Sequence[float], product: float, t: float) -> tuple[float, float]:
    cosine = max(-1.0, min(1.0, product / norms[0] / norms[1]))
    if abs(cosine) > COLLINEAR:
        return float(np.float32(1 - t)), float(np.float32(t))
    angle = acos(cosine)
    weights = (sin((1 - t) * angle) / sin(angle), sin(t * angle) / sin(angle))
    return float(np.float32(weights[0])), float(np.float32(weights[1]))
