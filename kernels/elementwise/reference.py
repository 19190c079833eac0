"""The ground truth of the elementwise kernels, in numpy; README.md has the formulas.

Buffers are bytes that need not be aligned; dtypes are the names of the safetensors format. Every
function that computes returns how many finite float32 results became infinite in the output dtype.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

Float = NDArray[np.float32]
_LANES = 16  # of sums
_BLOCK = 1 << 16  # elements at a time: temporary arrays stay small and in the cache
# Width in bytes; without the sign, NaN lies above the second and the third is infinite.
_SPECIALS = {
    "BF16": (2, 0x7F80, 0x7F80),
    "F16": (2, 0x7C00, 0x7C00),
    "F32": (4, 0x7F80_0000, 0x7F80_0000),
    "F64": (8, 0x7FF0_0000_0000_0000, 0x7FF0_0000_0000_0000),
    "F8_E5M2": (1, 0x7C, 0x7C),
    "F8_E4M3": (1, 0x7E, 0xFF),  # no infinity: 0xFF is out of reach
}


def _widths(*dtypes: str) -> list[int]:
    widths = {"BF16": 2, "F16": 2, "F32": 4}
    for dtype in dtypes:
        if dtype not in widths:
            raise ValueError(f"no arithmetic on dtype {dtype}")
    return [widths[dtype] for dtype in dtypes]


def _widen(data: Any, dtype: str) -> Float:
    if dtype == "BF16":
        return (np.frombuffer(data, np.uint16).astype(np.uint32) << np.uint32(16)).view(np.float32)
    stored = np.float16 if dtype == "F16" else np.float32
    return np.frombuffer(data, stored).astype(np.float32)


def _narrow(values: Float, dtype: str) -> tuple[NDArray[Any], int]:
    """Round to nearest even; NaN becomes the one quiet NaN of the dtype."""
    nan = np.isnan(values)
    if dtype == "F32":
        return np.where(nan, np.float32(np.nan), values), 0
    if dtype == "F16":
        with np.errstate(over="ignore"):
            narrow: NDArray[Any] = values.astype(np.float16)
        narrow[nan] = np.float16(np.nan)
        infinite = np.isinf(narrow)
    else:
        bits = values.view(np.uint32)
        rounded = (
            bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
        ) >> np.uint32(16)
        narrow = np.where(nan, np.uint32(0x7FC0), rounded).astype(np.uint16)
        infinite = (narrow & np.uint16(0x7FFF)) == 0x7F80
    return narrow, int(np.count_nonzero(infinite & np.isfinite(values)))


def _compute(out: Any, out_dtype: str, inputs: list[tuple[Any, str]], formula: Any) -> int:
    width, *widths = _widths(out_dtype, *(dtype for _, dtype in inputs))
    target = memoryview(out).cast("B")
    sources = [memoryview(data).cast("B") for data, _ in inputs]
    n = len(target) // width
    if any(
        len(data) != n * w for data, w in zip([target, *sources], [width, *widths], strict=True)
    ):
        raise ValueError("buffers have different numbers of elements")
    overflows = 0
    for first in range(0, n, _BLOCK):
        last = min(first + _BLOCK, n)
        blocks = [
            _widen(data[first * w : last * w], dtype)
            for data, w, (_, dtype) in zip(sources, widths, inputs, strict=True)
        ]
        with np.errstate(all="ignore"):
            values, more = _narrow(formula(*blocks), out_dtype)
        target[first * width : last * width] = values.view(np.uint8).data
        overflows += more
    return overflows


def cast(out: Any, out_dtype: str, a: Any, a_dtype: str) -> int:
    """out = a."""
    return _compute(out, out_dtype, [(a, a_dtype)], lambda a: a)


def difference(out: Any, out_dtype: str, a: Any, a_dtype: str, b: Any, b_dtype: str) -> int:
    """out = a - b."""
    return _compute(out, out_dtype, [(a, a_dtype), (b, b_dtype)], lambda a, b: a - b)


def axpy(out: Any, out_dtype: str, a: Any, a_dtype: str, scale: float, x: Any, x_dtype: str) -> int:
    """out = a + scale * x."""
    s = np.float32(scale)
    return _compute(out, out_dtype, [(a, a_dtype), (x, x_dtype)], lambda a, x: a + s * x)


def graft(
    out: Any,
    out_dtype: str,
    instruct: Any,
    instruct_dtype: str,
    scale: float,
    tuned: Any,
    tuned_dtype: str,
    base: Any,
    base_dtype: str,
) -> int:
    """out = instruct + scale * (tuned - base)."""
    s = np.float32(scale)
    inputs = [(instruct, instruct_dtype), (tuned, tuned_dtype), (base, base_dtype)]
    return _compute(out, out_dtype, inputs, lambda i, t, b: i + s * (t - b))


def lerp(
    out: Any,
    out_dtype: str,
    weight_a: float,
    a: Any,
    a_dtype: str,
    weight_b: float,
    b: Any,
    b_dtype: str,
) -> int:
    """out = weight_a * a + weight_b * b."""
    p, q = np.float32(weight_a), np.float32(weight_b)
    return _compute(out, out_dtype, [(a, a_dtype), (b, b_dtype)], lambda a, b: p * a + q * b)


def products(a: Any, a_dtype: str, b: Any, b_dtype: str) -> list[float]:
    """Sums of a * a, a * b and b * b in float64."""
    _widths(a_dtype, b_dtype)
    left, right = _widen(a, a_dtype), _widen(b, b_dtype)
    if len(left) != len(right):
        raise ValueError("buffers have different numbers of elements")
    with np.errstate(all="ignore"):
        x, y = left.astype(np.float64), right.astype(np.float64)
        return [_in_lanes(values) for values in (x * x, x * y, y * y)]


def _in_lanes(values: NDArray[np.float64]) -> float:
    """The sum of sums in lanes: element i is added to lane i % _LANES."""
    whole = len(values) // _LANES * _LANES
    # Not pairwise, as numpy sums within a row: row is added to row.
    lanes = values[:whole].reshape(-1, _LANES).sum(axis=0)
    lanes[: len(values) - whole] += values[whole:]
    total = 0.0
    for lane in lanes:
        total += float(lane)
    return total


def xor(out: Any, a: Any, b: Any) -> None:
    """out = a ^ b, byte by byte."""
    left, right = np.frombuffer(a, np.uint8), np.frombuffer(b, np.uint8)
    if not len(memoryview(out).cast("B")) == len(left) == len(right):
        raise ValueError("buffers have different sizes")
    memoryview(out).cast("B")[:] = (left ^ right).data


def count_nonfinite(a: Any, dtype: str) -> tuple[int, int]:
    """How many elements are (NaN, infinite)."""
    if dtype not in _SPECIALS:
        raise ValueError(f"no NaN or infinity known of dtype {dtype}")
    width, last_number, infinity = _SPECIALS[dtype]
    data = memoryview(a).cast("B")
    if len(data) % width:
        raise ValueError("buffer does not end on an element")
    nan = infinite = 0
    for first in range(0, len(data), _BLOCK * width):
        bits = np.frombuffer(data[first : first + _BLOCK * width], f"u{width}")
        magnitude = bits & bits.dtype.type(2 ** (8 * width - 1) - 1)
        nan += int(np.count_nonzero(magnitude > last_number))
        infinite += int(np.count_nonzero(magnitude == infinity))
    return nan, infinite
