"""Float8 weights times their scales, row by row."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from weightsmith.operators.unit import Block, Unit


@cache
def table(dtype: str) -> NDArray[np.float32]:
    """The float32 value of each of the 256 bytes (arXiv 2209.05433; E8M0: OCP MX, 2 ** (b - 127)).

    E4M3 has no infinity: all exponent and mantissa bits set is NaN. E5M2 is as IEEE 754.
    """
    byte = np.arange(256)
    if dtype in ("F8_E8M0", "U8"):
        powers = np.ldexp(np.float64(1), byte - 127)
        return np.where(byte == 255, np.nan, powers).astype(np.float32)
    mantissa_bits, bias = {"F8_E4M3": (3, 7), "F8_E5M2": (2, 15)}[dtype]
    sign = np.where(byte & 128, -1.0, 1.0)
    exponent = (byte & 127) >> mantissa_bits
    fraction = (byte & ((1 << mantissa_bits) - 1)) / (1 << mantissa_bits)
    normal = np.ldexp(1 + fraction, exponent - bias)
    values = sign * np.where(exponent > 0, normal, np.ldexp(fraction, 1 - bias))
    if dtype == "F8_E4M3":
        values[(byte & 127) == 127] = np.nan
    else:
        top = exponent == 31
        values[top] = np.where(fraction[top] == 0, sign[top] * np.inf, np.nan)
    return values.astype(np.float32)


def dequantise(unit: Unit) -> int:
    """float32(weight) * float32(scale), rounded once into the output's dtype.

    The unit has the rows of the weight and all of the scale; its parameters are a Grid.
    """
    weight, scale = unit.inputs
    grid = unit.parameters
    values = _values(weight)
    scales = _values(scale).reshape(-1, *grid.grid)
    columns = values.shape[1]
    first = unit.start // max(1, columns)
    stack, row = np.divmod(np.arange(first, first + len(values)), grid.height)
    block = row // grid.rows
    # Rows of one block share a row of scales; it is widened once for all of them.
    begins = np.flatnonzero(np.diff(block, prepend=-1) | np.diff(stack, prepend=-1))
    for begin, end in zip(begins, [*begins[1:], len(values)], strict=True):
        across = scales[stack[begin], block[begin]]
        values[begin:end] *= np.repeat(across, grid.columns)[:columns]
    return unit.out.store(values)


def _values(block: Block) -> NDArray[np.float32]:
    if block.dtype in ("F32", "F16", "BF16"):
        return block.float32()
    return table(block.dtype)[np.frombuffer(block.data, np.uint8)].reshape(block.shape)
